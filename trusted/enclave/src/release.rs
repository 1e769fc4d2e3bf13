//! Step 8: derive L3, open the credential, and seal one job to the supervisor.

use alloc::{string::ToString, vec::Vec};

use hpke::{
    Deserializable, OpModeS, Serializable, aead::AesGcm256, inout::InOutBuf, kdf::HkdfSha256,
    kem::X25519HkdfSha256, setup_sender_with_rng,
};
use rand_core::CryptoRng;
use serde::Serialize;
use toani_protocol::{
    ExecutionId, Reason,
    job::{JOB_INFO, JobHeader, OUTCOME_EXPORT, SealedJob},
    limits::CREDENTIAL_BYTES_MAX,
    wire::{self, Answer},
};

use crate::{
    chain::DurableStart,
    keys::CryptoError,
    life::{Channel, InFlight, ReleasedJob},
    ready::{Ready, Turn},
    secret::Secret,
    state::{CredentialSlot, CredentialVersion},
    vault,
};

/// A plan that fits the small buffer with a credential of full size; larger ones take the large.
const SMALL_JOB_BYTES: usize = 2 * CREDENTIAL_BYTES_MAX;
const LARGE_JOB_BYTES: usize = 128 * 1024;

/// A sealed job, which may leave once.
#[derive(Debug)]
pub(crate) struct CheckedRelease {
    execution: ExecutionId,
    /// Key of the supervisor that can open it.
    sealed_to: [u8; 32],
    job: SealedJob,
    outcome_key: Secret<32>,
}

/// The job as postcard writes it, without a copy of the credential.
#[derive(Serialize)]
struct JobRef<'a> {
    plan: &'a [u8],
    credential: &'a [u8],
}

pub(crate) fn check(
    ready: &Ready,
    execution: ExecutionId,
    rng: &mut dyn CryptoRng,
) -> Result<CheckedRelease, Reason> {
    let flight = ready.life.flight(&execution)?;
    let durable = ready.chain.durable_start(flight.started).ok_or(Reason::LogUnavailable)?;
    if flight.job.is_some() {
        return Err(Reason::TokenUsed);
    }
    let channel = channel_for(ready, flight)?;
    let (job, outcome_key) = seal(ready, &durable, channel, &execution, flight, rng)?;
    Ok(CheckedRelease { execution, sealed_to: channel.key, job, outcome_key })
}

/// The supervisor that was promised in `started`, and no other.
fn channel_for<'a>(ready: &'a Ready, flight: &InFlight) -> Result<&'a Channel, Reason> {
    let channel = ready.life.sandbox.as_ref().filter(|channel| {
        channel.measurement == flight.sandbox && channel.level == flight.assurance.sandbox
    });
    channel.ok_or(Reason::SandboxUnavailable)
}

/// Takes a [`DurableStart`]: no credential is derived before its record is durable.
fn seal(
    ready: &Ready,
    _: &DurableStart,
    channel: &Channel,
    execution: &ExecutionId,
    flight: &InFlight,
    rng: &mut dyn CryptoRng,
) -> Result<(SealedJob, Secret<32>), Reason> {
    let header = JobHeader {
        instance: ready.instance,
        boot: ready.boot().clone(),
        execution: execution.clone(),
        jti: flight.jti,
    };
    let taken = flight.credential.as_ref();
    let credential = taken.map(|taken| credential(ready, flight, taken)).transpose()?;
    let job = JobRef {
        plan: &flight.rendered.plan_bytes,
        credential: credential.as_ref().map_or(&[], |plaintext| plaintext.bytes()),
    };
    let sealed = if flight.rendered.plan_bytes.len()
        < SMALL_JOB_BYTES.saturating_sub(CREDENTIAL_BYTES_MAX).saturating_sub(16)
    {
        seal_to::<SMALL_JOB_BYTES>(channel, &header, &job, rng)
    } else {
        seal_to::<LARGE_JOB_BYTES>(channel, &header, &job, rng)
    };
    Ok(sealed?)
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

fn seal_to<const N: usize>(
    channel: &Channel,
    header: &JobHeader,
    job: &JobRef<'_>,
    mut rng: &mut dyn CryptoRng,
) -> Result<(SealedJob, Secret<32>), CryptoError> {
    let key = <X25519HkdfSha256 as hpke::Kem>::PublicKey::from_bytes(&channel.key)?;
    let boot = header.boot.to_string();
    let info = [JOB_INFO, header.instance.as_bytes(), boot.as_bytes()].concat();
    let (encapsulated, mut context) = setup_sender_with_rng::<
        AesGcm256,
        HkdfSha256,
        X25519HkdfSha256,
    >(&OpModeS::Base, &key, &info, &mut rng)?;
    let mut buffer = Secret::<N>::zeroed();
    let plaintext = postcard::to_slice(job, buffer.bytes_mut())?;
    let mut ciphertext: Vec<u8> = alloc::vec![0; plaintext.len()];
    let aad = wire::encode(header)?;
    let inout = InOutBuf::new(plaintext, &mut ciphertext).map_err(|_| CryptoError)?;
    let tag = context.seal_inout_detached(inout, &aad)?;
    ciphertext.extend_from_slice(&tag.to_bytes());
    let mut outcome_key = Secret::zeroed();
    context.export(OUTCOME_EXPORT, outcome_key.bytes_mut())?;
    let encapsulated = encapsulated.to_bytes().to_vec();
    Ok((SealedJob { header: header.clone(), encapsulated, ciphertext }, outcome_key))
}

/// Lets the job out, once.
pub(crate) fn apply(turn: &mut Turn<'_>, checked: CheckedRelease) -> Result<Answer, Reason> {
    let CheckedRelease { execution, sealed_to, job, outcome_key } = checked;
    let flight = turn.ready.life.flight(&execution)?;
    if flight.job.is_some() {
        return Err(Reason::TokenUsed);
    }
    // Others may have changed these since the check.
    if channel_for(turn.ready, flight)?.key != sealed_to {
        return Err(Reason::SandboxUnavailable);
    }
    if let Some(taken) = &flight.credential {
        credential_slot(turn.ready, flight, taken)?;
    }
    let flight = turn.ready.life.in_flight.get_mut(&execution).ok_or(Reason::ExecutionNotFound)?;
    flight.job = Some(ReleasedJob { header: job.header.clone(), outcome_key });
    Ok(Answer::Job(job))
}
