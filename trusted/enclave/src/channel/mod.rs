//! The attested channel to the supervisor: who is at its other end, and how jobs and outcomes
//! cross it. The host carries its bytes and holds none of its keys.
//!
//! A channel is bound anew after so many jobs, after a change of the admission list or of a policy,
//! and when what proved the supervisor has expired. Until that is done no job leaves.

mod peer;

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::mem;

use serde::Deserialize;
use toani_protocol::{
    ExecutionId, Hash, Reason, Time,
    evidence::{ReportData, Role},
    limits::{ARRIVED_BYTES_MAX, JOBS_PER_ATTESTATION_MAX},
    record::{About, RecordKind},
    wire::{Answer, Effect, LinkState, LinkStep},
};
use toani_tls::{
    Binding, Channel, ChannelError, Endpoint, Failure, Handshake, Message, Next, Step,
};

pub(crate) use self::peer::AttestedPeer;
use self::peer::SandboxCheck;
use crate::{
    life::{Life, ReleasedJob},
    platform::{Platform, TARGETINFO_BYTES},
    ready::{Ready, Turn},
};

/// One connection to a supervisor, from its first byte on.
#[derive(Debug)]
pub(crate) struct Link {
    number: u64,
    /// Steps that the host was told of.
    steps: u64,
    told: LinkState,
    target: Box<[u8; TARGETINFO_BYTES]>,
    state: State,
    /// Who was there by the last binding.
    peer: Option<AttestedPeer>,
    /// Jobs since the last binding.
    jobs: u32,
    /// What the last binding was judged by has changed since it began.
    stale: bool,
}

#[derive(Debug)]
enum State {
    Handshake(Handshake<SandboxCheck>),
    Binding(Binding<SandboxCheck>),
    Open(Channel<SandboxCheck>),
    Ended,
}

/// What moves a connection.
enum Input<'a> {
    Bytes(&'a [u8]),
    Evidence(&'a [u8]),
    /// Both sides are to prove anew who they are.
    Renewal,
}

type Stepped = Result<Step<SandboxCheck>, Failure>;

impl State {
    /// Gives the state back if it has no use for the input.
    fn take(self, input: &Input<'_>, check: Arc<SandboxCheck>) -> Result<Stepped, Box<Self>> {
        Ok(match (self, input) {
            (Self::Handshake(state), Input::Bytes(bytes)) => state.judged_by(check).receive(bytes),
            (Self::Binding(state), Input::Bytes(bytes)) => state.judged_by(check).receive(bytes),
            (Self::Open(state), Input::Bytes(bytes)) => state.judged_by(check).receive(bytes),
            (Self::Binding(state), Input::Evidence(bytes)) => {
                state.judged_by(check).evidence(bytes)
            }
            (Self::Open(state), Input::Renewal) => state.judged_by(check).reattest(),
            (state, _) => return Err(Box::new(state)),
        })
    }

    fn told(&self) -> LinkState {
        match self {
            Self::Handshake(_) | Self::Binding(_) => LinkState::Binding,
            Self::Open(_) => LinkState::Open,
            Self::Ended => LinkState::Ended,
        }
    }
}

impl Link {
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Who was there by the last binding, though a new one may be under way.
    pub(crate) fn peer(&self) -> Option<&AttestedPeer> {
        self.peer.as_ref()
    }

    /// Who is there, if a job may leave now.
    pub(crate) fn open_peer(&self, now: Time) -> Option<&AttestedPeer> {
        let open = matches!(self.state, State::Open(_)) && !self.is_due(now);
        self.peer.as_ref().filter(|_| open)
    }

    fn is_due(&self, now: Time) -> bool {
        let expired = self.peer.as_ref().is_some_and(|peer| peer.is_expired(now));
        self.stale || expired || self.jobs >= JOBS_PER_ATTESTATION_MAX
    }

    /// Tells the host of a step, if there is something to tell.
    fn tell(&mut self, bytes: Vec<u8>, out: &mut Vec<Effect>) {
        let state = self.state.told();
        if bytes.is_empty() && state == self.told {
            return;
        }
        out.push(Effect::Sandbox(LinkStep { link: self.number, step: self.steps, bytes, state }));
        self.told = state;
        self.steps = self.steps.saturating_add(1);
    }
}

/// Begins a connection. The one before is forgotten.
pub(crate) fn connect(turn: &mut Turn<'_>, target: &[u8]) -> Result<Answer, Reason> {
    let target: [u8; TARGETINFO_BYTES] = target.try_into().map_err(|_| Reason::RequestMalformed)?;
    let ready = &mut *turn.ready;
    ready.life.sandbox = None;
    let number = ready.life.links.saturating_add(1);
    ready.life.links = number;
    let own = ready.keys.channel.certificate(&ready.evidence).map_err(|_| Reason::Internal)?;
    let check = SandboxCheck::new(ready, turn.now);
    let endpoint = Endpoint::new(Role::Enclave, ready.instance, &own, check);
    let begun = endpoint.map_err(|_| Reason::Internal)?.start();
    let link = Link {
        number,
        steps: 0,
        told: LinkState::Ended,
        target: Box::new(target),
        state: State::Ended,
        peer: None,
        jobs: 0,
        stale: false,
    };
    settle(turn, link, begun)?;
    Ok(Answer::Link { report: None, arrived: Vec::new() })
}

/// Takes bytes from the supervisor.
pub(crate) fn receive(
    turn: &mut Turn<'_>,
    platform: &dyn Platform,
    bytes: &[u8],
) -> Result<Answer, Reason> {
    go_on(turn, &Input::Bytes(bytes)).map(|taken| taken.answer(turn.ready, platform))
}

/// Takes the quote that a binding waits for.
pub(crate) fn evidence(
    turn: &mut Turn<'_>,
    platform: &dyn Platform,
    evidence: &[u8],
) -> Result<Answer, Reason> {
    go_on(turn, &Input::Evidence(evidence)).map(|taken| taken.answer(turn.ready, platform))
}

/// What a binding was judged by has changed: a policy, or the admission list.
pub(crate) fn changed(turn: &mut Turn<'_>) {
    let ready = &mut *turn.ready;
    let list = ready.state.admission.as_ref();
    if let Some(link) = &mut ready.life.sandbox {
        link.stale = true;
        let gone = |peer: &AttestedPeer| list.is_none_or(|list| !peer.is_admitted(list));
        if link.peer.as_ref().is_some_and(gone) {
            end(turn);
        }
    }
    renew(turn);
}

/// Ends the connection: the supervisor at its other end gets no further job.
fn end(turn: &mut Turn<'_>) {
    let Some(mut link) = turn.ready.life.sandbox.take() else { return };
    let last = match mem::replace(&mut link.state, State::Ended) {
        State::Open(channel) => channel.close(),
        _ => Vec::new(),
    };
    link.tell(last, turn.out);
}

/// Binds an open channel anew where that is due.
pub(crate) fn renew(turn: &mut Turn<'_>) {
    let link = turn.ready.life.sandbox.as_ref();
    if link.is_some_and(|link| matches!(link.state, State::Open(_)) && link.is_due(turn.now)) {
        // A channel that cannot be bound has ended, and the host was told.
        let _ = go_on(turn, &Input::Renewal);
    }
}

/// Sends one message to whom [`Link::open_peer`] names.
pub(crate) fn send(turn: &mut Turn<'_>, message: &[u8]) -> Result<(), Reason> {
    let link = turn.ready.life.sandbox.as_mut().ok_or(Reason::SandboxUnavailable)?;
    let State::Open(channel) = &mut link.state else { return Err(Reason::SandboxUnavailable) };
    match channel.seal(message) {
        Ok(bytes) => {
            link.jobs = link.jobs.saturating_add(1);
            link.tell(bytes, turn.out);
            Ok(())
        }
        Err(_) => {
            end(turn);
            Err(Reason::SandboxUnavailable)
        }
    }
}

/// What a step of the connection brought.
#[derive(Default)]
struct Taken {
    report_data: Option<ReportData>,
    arrived: Vec<ExecutionId>,
}

impl Taken {
    fn answer(self, ready: &Ready, platform: &dyn Platform) -> Answer {
        let link = ready.life.sandbox.as_ref().zip(self.report_data);
        let report =
            link.map(|(link, report_data)| platform.ereport(&link.target, &report_data).to_vec());
        Answer::Link { report, arrived: self.arrived }
    }
}

fn go_on(turn: &mut Turn<'_>, input: &Input<'_>) -> Result<Taken, Reason> {
    let check = SandboxCheck::new(turn.ready, turn.now);
    let mut link = turn.ready.life.sandbox.take().ok_or(Reason::SandboxUnavailable)?;
    let state = mem::replace(&mut link.state, State::Ended);
    let was_binding = matches!(state, State::Binding(_));
    match state.take(input, check) {
        Ok(stepped) => {
            let taken = settle(turn, link, stepped)?;
            if was_binding {
                opened(turn)?;
            }
            renew(turn);
            Ok(taken)
        }
        // Evidence that comes late, for a binding that is over.
        Err(state) => {
            link.state = *state;
            turn.ready.life.sandbox = Some(link);
            Err(Reason::RequestMalformed)
        }
    }
}

/// Takes what a step brought, and tells the host of it.
fn settle(turn: &mut Turn<'_>, mut link: Link, stepped: Stepped) -> Result<Taken, Reason> {
    let step = match stepped {
        Ok(step) => step,
        Err(failure) => {
            link.tell(failure.output, turn.out);
            return Err(reason_of(failure.error));
        }
    };
    let mut taken = Taken::default();
    link.state = match step.next {
        Next::Handshake(state) => State::Handshake(state),
        Next::Binding(state) => State::Binding(state),
        Next::NeedEvidence { report_data, binding } => {
            taken.report_data = Some(report_data);
            State::Binding(binding)
        }
        Next::Open(state) => State::Open(state),
        Next::Closed => State::Ended,
    };
    // A binding that begins is judged by what is in force now.
    if link.told != LinkState::Binding && matches!(link.state, State::Binding(_)) {
        link.stale = false;
    }
    let number = link.number;
    link.tell(step.output, turn.out);
    if !matches!(link.state, State::Ended) {
        turn.ready.life.sandbox = Some(link);
    }
    for message in step.messages {
        match turn.ready.life.arrive(number, message) {
            Ok(execution) => taken.arrived.extend(execution),
            Err(Misbehaved) => {
                end(turn);
                break;
            }
        }
    }
    Ok(taken)
}

/// A binding is complete, if the channel is open: the supervisor is who its evidence says.
fn opened(turn: &mut Turn<'_>) -> Result<(), Reason> {
    let Some(link) = &mut turn.ready.life.sandbox else { return Ok(()) };
    let State::Open(channel) = &link.state else { return Ok(()) };
    let peer = channel.peer().clone();
    link.jobs = 0;
    let first = link.peer.replace(peer.clone()).is_none();
    if !first {
        return Ok(());
    }
    let (sandbox, blob) = (Some(peer.measurement()), Some(peer.key()));
    let about = About { sandbox, blob, ..About::default() };
    let written = turn.write(RecordKind::Sandbox, about, None);
    if written.is_err() {
        end(turn);
    }
    written.map(|_| ())
}

fn reason_of(error: ChannelError) -> Reason {
    match error {
        ChannelError::CertificateRefused | ChannelError::ChannelRefused => {
            Reason::SandboxNotAdmitted
        }
        _ => Reason::SandboxUnavailable,
    }
}

/// The supervisor answered what it was not asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Misbehaved;

/// The beginning of an outcome's message.
#[derive(Deserialize)]
struct OutcomeHead {
    execution: ExecutionId,
    jti: Hash,
}

impl Life {
    /// Keeps an outcome with its execution until the host asks for it. Nothing is to be done for an
    /// execution that has ended meanwhile.
    fn arrive(&mut self, link: u64, message: Message) -> Result<Option<ExecutionId>, Misbehaved> {
        let head = postcard::take_from_bytes::<OutcomeHead>(&message);
        let (OutcomeHead { execution, jti }, _) = head.map_err(|_| Misbehaved)?;
        let Some(flight) = self.in_flight.get_mut(&execution) else { return Ok(None) };
        let asked = |job: &&mut ReleasedJob| job.link == link && job.outcome.is_none();
        let job = flight.job.as_mut().filter(asked).ok_or(Misbehaved)?;
        if jti != flight.jti {
            return Err(Misbehaved);
        }
        // Without room the execution ends as unknown: the host has left too many unasked for.
        let kept = self.arrived_bytes.saturating_add(message.len());
        if kept <= ARRIVED_BYTES_MAX {
            self.arrived_bytes = kept;
            job.outcome = Some(message);
        }
        Ok(Some(execution))
    }
}
