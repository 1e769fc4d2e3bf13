//! One call: a single exhaustive match on the way in, and one on the way out.

use alloc::{boxed::Box, vec::Vec};

use rand_core::CryptoRng;
use toani_protocol::{
    Reason, Time,
    limits::MESSAGE_BYTES_MAX,
    wire::{self, Answer, Call, Command, Effect, Reply, WIRE_VERSION},
};

use crate::{
    actions, admin, approvals, asked,
    boot::{self, Replaying},
    finish,
    keys::Platform,
    ready::Ready,
    redeem,
    refusals::Refusal,
    release,
};

/// The state machine.
#[derive(Debug)]
pub struct Enclave {
    platform: PlatformBox,
    phase: Phase,
}

struct PlatformBox(Box<dyn Platform>);

impl core::fmt::Debug for PlatformBox {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Platform")
    }
}

#[derive(Debug)]
enum Phase {
    Cold,
    Replaying(Box<Replaying>),
    Ready(Box<Ready>),
}

/// A call whose checks are done. Only [`Enclave::apply`] can do something with it.
#[derive(Debug)]
pub struct Checked {
    now: Time,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Refused(Reason),
    Boot(Command),
    Admin(Box<admin::CheckedAdmin>),
    Decide(Box<Result<asked::Asked, Refusal>>),
    Poll(actions::CheckedPoll),
    Approve(Box<approvals::CheckedApproval>),
    Execute(Box<Result<redeem::CheckedExecute, Refusal>>),
    Release(Box<release::CheckedRelease>),
    Finish(Box<finish::CheckedFinish>),
    Plain(Command),
    /// Answered by the check alone.
    Answered(Answer),
}

impl Enclave {
    /// A cold enclave: it waits to be born or booted.
    pub fn new(platform: Box<dyn Platform>) -> Self {
        Self { platform: PlatformBox(platform), phase: Phase::Cold }
    }

    /// Reads and verifies one encoded [`Call`]. Changes nothing and may run in parallel.
    pub fn check(&self, call: &[u8], rng: &mut impl CryptoRng) -> Checked {
        let Ok(call) = wire::decode::<Call>(call, MESSAGE_BYTES_MAX) else {
            return Checked { now: Time::default(), work: Work::Refused(Reason::RequestMalformed) };
        };
        let work = if call.version == WIRE_VERSION {
            self.check_command(call.now, call.command, rng)
        } else {
            Work::Refused(Reason::RequestMalformed)
        };
        Checked { now: call.now, work }
    }

    fn check_command(&self, now: Time, command: Command, rng: &mut impl CryptoRng) -> Work {
        let ready = match (&self.phase, &command) {
            (_, Command::Birth { .. } | Command::Boot { .. }) => return Work::Boot(command),
            (
                Phase::Replaying(_),
                Command::Replay { .. }
                | Command::ReplayEnd
                | Command::Blobs { .. }
                | Command::Start { .. },
            ) => return Work::Boot(command),
            (Phase::Ready(ready), _) => ready,
            _ => return Work::Refused(Reason::NotReady),
        };
        let now = ready.chain.time(now);
        match command {
            Command::Admit { .. }
            | Command::ConnectSandbox { .. }
            | Command::ActivatePolicy { .. }
            | Command::ChangePolicyKey { .. }
            | Command::PutCredential { .. } => match admin::check(ready, command, rng) {
                Ok(checked) => Work::Admin(Box::new(checked)),
                Err(reason) => Work::Refused(reason),
            },
            Command::Decide { request, proof } => {
                Work::Decide(Box::new(asked::check(ready, &request, &proof, now)))
            }
            Command::Poll { action, read } => {
                match actions::check_poll(ready, action, &read, now) {
                    Ok(checked) => Work::Poll(checked),
                    Err(reason) => Work::Refused(reason),
                }
            }
            Command::Statement { action } => answered(actions::statement(ready, &action)),
            Command::Approve { evidence } => match approvals::check(ready, &evidence, now) {
                Ok(checked) => Work::Approve(Box::new(checked)),
                Err(reason) => Work::Refused(reason),
            },
            Command::Execute { token, request, proof } => {
                let checked = redeem::check(ready, token.as_deref(), &request, &proof, now);
                Work::Execute(Box::new(checked))
            }
            Command::Release { execution } => match release::check(ready, execution, rng) {
                Ok(checked) => Work::Release(Box::new(checked)),
                Err(reason) => Work::Refused(reason),
            },
            Command::Finish { execution, outcome } => {
                match finish::check(ready, execution, outcome) {
                    Ok(checked) => Work::Finish(Box::new(checked)),
                    Err(reason) => Work::Refused(reason),
                }
            }
            Command::Open { execution, blob, read } => {
                answered(finish::open(ready, &execution, &blob, &read, now))
            }
            Command::Status => Work::Answered(Answer::Facts(ready.facts())),
            command @ (Command::DisconnectSandbox
            | Command::RevokePolicy { .. }
            | Command::RevokeCredential { .. }
            | Command::RevokeAgent { .. }
            | Command::RevokeToken { .. }
            | Command::Abort { .. }
            | Command::Durable { .. }
            | Command::Tick
            | Command::Cover { .. }
            | Command::SignIndex { .. }) => Work::Plain(command),
            Command::Birth { .. }
            | Command::Boot { .. }
            | Command::Replay { .. }
            | Command::ReplayEnd
            | Command::Blobs { .. }
            | Command::Start { .. } => Work::Refused(Reason::NotReady),
        }
    }

    /// Carries out what was checked and returns an encoded [`Reply`].
    pub fn apply(&mut self, checked: Checked, rng: &mut impl CryptoRng) -> Vec<u8> {
        let mut effects = Vec::new();
        let answer = self.work(checked, rng, &mut effects);
        let reply = Reply { effects, answer };
        wire::encode(&reply).unwrap_or_default()
    }

    fn work(
        &mut self,
        checked: Checked,
        rng: &mut impl CryptoRng,
        out: &mut Vec<Effect>,
    ) -> Result<Answer, Reason> {
        let command = match checked.work {
            Work::Refused(reason) => return Err(reason),
            Work::Answered(answer) => return Ok(answer),
            Work::Boot(command) => return self.boot(command, checked.now, rng, out),
            work => work,
        };
        let Phase::Ready(ready) = &mut self.phase else { return Err(Reason::NotReady) };
        let now = ready.chain.time(checked.now);
        match command {
            Work::Admin(checked) => admin::apply(ready, *checked, now, out),
            Work::Decide(asked) => actions::decide(ready, *asked, now, rng, out),
            Work::Poll(checked) => actions::poll(ready, &checked, now, out),
            Work::Approve(checked) => approvals::apply(ready, *checked, now, rng, out),
            Work::Execute(checked) => redeem::apply(ready, *checked, now, rng, out),
            Work::Release(checked) => release::apply(ready, *checked),
            Work::Finish(checked) => finish::apply(ready, *checked, now, out),
            Work::Plain(command) => plain(ready, command, now, out),
            Work::Refused(_) | Work::Answered(_) | Work::Boot(_) => Err(Reason::Internal),
        }
    }

    fn boot(
        &mut self,
        command: Command,
        now: Time,
        rng: &mut impl CryptoRng,
        out: &mut Vec<Effect>,
    ) -> Result<Answer, Reason> {
        let platform = &*self.platform.0;
        match (&mut self.phase, command) {
            (Phase::Cold, Command::Birth { manifest }) => {
                let (replaying, sealed_root) = boot::birth(platform, manifest, rng)?;
                self.phase = Phase::Replaying(Box::new(replaying));
                Ok(Answer::Born { sealed_root })
            }
            (Phase::Cold, Command::Boot { manifest, sealed_root }) => {
                let replaying = boot::begin(platform, manifest, &sealed_root, rng)?;
                self.phase = Phase::Replaying(Box::new(replaying));
                Ok(Answer::Done)
            }
            (Phase::Replaying(replaying), Command::Replay { leaves }) => {
                replaying.replay(&leaves).map(|()| Answer::Done)
            }
            (Phase::Replaying(replaying), Command::ReplayEnd) => {
                replaying.end().map(|blobs| Answer::Needs { blobs })
            }
            (Phase::Replaying(replaying), Command::Blobs { blobs }) => {
                replaying.attach(&blobs).map(|()| Answer::Done)
            }
            (Phase::Replaying(_), Command::Start { salts }) => {
                let Phase::Replaying(replaying) = core::mem::replace(&mut self.phase, Phase::Cold)
                else {
                    return Err(Reason::NotReady);
                };
                let ready = replaying.start(&salts, now, out)?;
                let facts = ready.facts();
                self.phase = Phase::Ready(Box::new(ready));
                Ok(Answer::Started(facts))
            }
            _ => Err(Reason::NotReady),
        }
    }
}

fn answered(result: Result<Answer, Reason>) -> Work {
    match result {
        Ok(answer) => Work::Answered(answer),
        Err(reason) => Work::Refused(reason),
    }
}

/// Commands that need no check but the state's own.
fn plain(
    ready: &mut Ready,
    command: Command,
    now: Time,
    out: &mut Vec<Effect>,
) -> Result<Answer, Reason> {
    match command {
        Command::DisconnectSandbox => {
            ready.life.sandbox = None;
            Ok(Answer::Done)
        }
        Command::RevokePolicy { tenant, policy } => {
            admin::revoke_policy(ready, tenant, &policy, now, out)
        }
        Command::RevokeCredential { tenant, namespace, owner, id } => {
            admin::revoke_credential(ready, tenant, (namespace, owner, id), now, out)
        }
        Command::RevokeAgent { tenant, agent } => {
            admin::revoke_agent(ready, tenant, agent, now, out)
        }
        Command::RevokeToken { tenant, action } => {
            actions::revoke_token(ready, tenant, &action, now, out)
        }
        Command::Abort { execution, reason } => finish::abort(ready, &execution, reason, now, out),
        Command::Durable { size } => ready.durable(size),
        Command::Tick => {
            actions::expire(ready, now, out)?;
            crate::refusals::flush(ready, now, out)?;
            Ok(Answer::Done)
        }
        Command::Cover { tenant } => ready.cover(&tenant),
        Command::SignIndex { index } => ready.sign_index(&index),
        _ => Err(Reason::Internal),
    }
}
