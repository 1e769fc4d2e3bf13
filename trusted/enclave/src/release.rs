//! Step 8: derive L3, open the credential, and let one job out on the channel.

use core::fmt;

use serde::Serialize;
use toani_protocol::{ExecutionId, Hash, Reason, Time, limits::CREDENTIAL_BYTES_MAX, wire::Answer};

use crate::{
    chain::DurableStart,
    channel::{self, Link},
    keys::CryptoError,
    life::{InFlight, ReleasedJob},
    ready::{Ready, Turn},
    secret::Secret,
    state::{CredentialSlot, CredentialVersion},
    vault,
};

/// A plan that fits the small buffer with a credential of full size; larger ones take the large.
const SMALL_JOB_BYTES: usize = 2 * CREDENTIAL_BYTES_MAX;
const LARGE_JOB_BYTES: usize = 128 * 1024;
/// What a job's message holds beside plan and credential is less.
const JOB_HEAD_BYTES: usize = 256;

/// A job that may leave once.
#[derive(Debug)]
pub(crate) struct CheckedRelease {
    execution: ExecutionId,
    /// The channel to whom it was promised.
    link: u64,
    message: Sealable,
}

/// A `JobMessage` in memory that wipes itself.
enum Sealable {
    Small(Secret<SMALL_JOB_BYTES>, usize),
    Large(Secret<LARGE_JOB_BYTES>, usize),
}

impl Sealable {
    fn new(message: &JobMessageRef<'_>) -> Result<Self, CryptoError> {
        let plan_bytes_max =
            SMALL_JOB_BYTES.saturating_sub(CREDENTIAL_BYTES_MAX).saturating_sub(JOB_HEAD_BYTES);
        if message.job.plan.len() <= plan_bytes_max {
            let (buffer, length) = written(message)?;
            Ok(Self::Small(buffer, length))
        } else {
            let (buffer, length) = written(message)?;
            Ok(Self::Large(buffer, length))
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Small(buffer, length) => buffer.bytes().get(..*length),
            Self::Large(buffer, length) => buffer.bytes().get(..*length),
        }
        .unwrap_or_default()
    }
}

impl fmt::Debug for Sealable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealable")
    }
}

/// A message as postcard writes it, without another copy of the credential.
fn written<const N: usize>(message: &JobMessageRef<'_>) -> Result<(Secret<N>, usize), CryptoError> {
    let mut buffer = Secret::<N>::zeroed();
    let length = postcard::to_slice(message, buffer.bytes_mut())?.len();
    Ok((buffer, length))
}

/// `JobMessage`, borrowed.
#[derive(Serialize)]
struct JobMessageRef<'a> {
    execution: &'a ExecutionId,
    jti: Hash,
    root_file_system: Hash,
    job: JobRef<'a>,
}

#[derive(Serialize)]
struct JobRef<'a> {
    plan: &'a [u8],
    credential: &'a [u8],
}

pub(crate) fn check(
    ready: &Ready,
    execution: ExecutionId,
    now: Time,
) -> Result<CheckedRelease, Reason> {
    let flight = ready.life.flight(&execution)?;
    let durable = ready.chain.durable_start(flight.started).ok_or(Reason::LogUnavailable)?;
    if flight.job.is_some() {
        return Err(Reason::TokenUsed);
    }
    let link = link_for(ready, flight, now)?.number();
    let message = message(ready, &durable, &execution, flight)?;
    Ok(CheckedRelease { execution, link, message })
}

/// The channel to the supervisor that was promised in `started`, with the root file system that was
/// promised, and to no other.
fn link_for<'a>(ready: &'a Ready, flight: &InFlight, now: Time) -> Result<&'a Link, Reason> {
    let named = flight.rendered.plan.class.root_file_system;
    let promised = |link: &&Link| {
        link.open_peer(now).is_some_and(|peer| {
            peer.measurement() == flight.sandbox
                && peer.root_file_system(named) == Some(flight.root_file_system)
                && peer.level() == flight.assurance.sandbox
        })
    };
    ready.life.sandbox.as_ref().filter(promised).ok_or(Reason::SandboxUnavailable)
}

/// Takes a [`DurableStart`]: no credential is derived before its record is durable.
fn message(
    ready: &Ready,
    _: &DurableStart,
    execution: &ExecutionId,
    flight: &InFlight,
) -> Result<Sealable, Reason> {
    let taken = flight.credential.as_ref();
    let credential = taken.map(|taken| credential(ready, flight, taken)).transpose()?;
    let job = JobRef {
        plan: &flight.rendered.plan_bytes,
        credential: credential.as_ref().map_or(&[], |plaintext| plaintext.bytes()),
    };
    let InFlight { jti, root_file_system, .. } = *flight;
    Ok(Sealable::new(&JobMessageRef { execution, jti, root_file_system, job })?)
}

/// The version that was promised in `started`, unless it was revoked or replaced since.
fn credential_slot<'a>(
    ready: &'a Ready,
    flight: &InFlight,
    (name, version): &CredentialVersion,
) -> Result<&'a CredentialSlot, Reason> {
    let tenant = ready.state.tenants.get(&flight.asked.request.tenant);
    let slot = tenant.and_then(|tenant| tenant.credentials.get(name));
    let slot = slot.ok_or(Reason::CredentialMissing)?;
    if slot.revoked {
        return Err(Reason::CredentialRevoked);
    }
    if slot.version == *version { Ok(slot) } else { Err(Reason::CredentialChanged) }
}

fn credential(
    ready: &Ready,
    flight: &InFlight,
    taken: &CredentialVersion,
) -> Result<vault::Plaintext, Reason> {
    let slot = credential_slot(ready, flight, taken)?;
    let (stored, header) = &**slot.body.as_ref().ok_or(Reason::CredentialMissing)?;
    vault::open(&ready.keys, stored, header).map_err(|_| Reason::CredentialEnvelope)
}

/// Lets the job out, once: it is sealed from the buffer that holds it into the channel's records.
pub(crate) fn apply(turn: &mut Turn<'_>, checked: CheckedRelease) -> Result<Answer, Reason> {
    let CheckedRelease { execution, link, message } = checked;
    let flight = turn.ready.life.flight(&execution)?;
    if flight.job.is_some() {
        return Err(Reason::TokenUsed);
    }
    // Others may have changed these since the check.
    if link_for(turn.ready, flight, turn.now)?.number() != link {
        return Err(Reason::SandboxUnavailable);
    }
    if let Some(taken) = &flight.credential {
        credential_slot(turn.ready, flight, taken)?;
    }
    channel::send(turn, message.bytes())?;
    let flight = turn.ready.life.in_flight.get_mut(&execution).ok_or(Reason::ExecutionNotFound)?;
    flight.job = Some(ReleasedJob { link, outcome: None });
    channel::renew(turn);
    Ok(Answer::Done)
}
