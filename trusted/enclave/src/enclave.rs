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
    boot::{self, Proving, Replaying},
    channel, finish, hand_over,
    life::Endorsement,
    platform::Platform,
    ready::{Ready, Turn},
    redeem,
    refusals::{self, Refusal},
    release, salts,
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
    Proving(Box<Proving>),
    Replaying(Box<Replaying>),
    Ready(Box<Ready>),
    /// The root was given away: nothing is left but to hear that the record is durable.
    Given(Box<Ready>),
}

impl Phase {
    /// Takes what replays, to go on from it; a call that fails then ends this life.
    fn take_replaying(&mut self) -> Result<Box<Replaying>, Reason> {
        match core::mem::replace(self, Self::Cold) {
            Self::Replaying(replaying) => Ok(replaying),
            other => {
                *self = other;
                Err(Reason::NotReady)
            }
        }
    }
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
    Approve(Box<Endorsement>),
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
            let checked = self.check_command(call.now, call.command, rng);
            checked.unwrap_or_else(Work::Refused)
        } else {
            Work::Refused(Reason::RequestMalformed)
        };
        Checked { now: call.now, work }
    }

    fn check_command(
        &self,
        now: Time,
        command: Command,
        rng: &mut dyn CryptoRng,
    ) -> Result<Work, Reason> {
        // What a phase has no use for is refused when it would take effect.
        let Phase::Ready(ready) = &self.phase else { return Ok(Work::Boot(command)) };
        let now = ready.chain.time(now);
        Ok(match command {
            Command::Admit { .. }
            | Command::ActivatePolicy { .. }
            | Command::ChangePolicyKey { .. }
            | Command::PutCredential { .. } => {
                Work::Admin(Box::new(admin::check(ready, command, rng)?))
            }
            Command::Decide { request, proof } => {
                Work::Decide(Box::new(asked::check(ready, &request, &proof, now)))
            }
            Command::Poll { action, read } => {
                Work::Poll(actions::check_poll(ready, action, &read, now)?)
            }
            Command::Statement { action } => Work::Answered(actions::statement(ready, &action)?),
            Command::Approve { evidence } => {
                Work::Approve(Box::new(approvals::check(ready, &evidence, now)?))
            }
            Command::Execute { token, request, proof } => {
                let checked = redeem::check(ready, token.as_deref(), &request, &proof, now);
                Work::Execute(Box::new(checked))
            }
            Command::Release { execution } => {
                Work::Release(Box::new(release::check(ready, execution, now)?))
            }
            Command::Finish { execution } => {
                Work::Finish(Box::new(finish::check(ready, execution)?))
            }
            Command::Open { execution, blob, read } => {
                Work::Answered(finish::open(ready, &execution, &blob, &read, now)?)
            }
            Command::Disclose { action, kept, evidence } => {
                Work::Answered(actions::disclose(ready, &action, &kept, evidence.as_deref())?)
            }
            Command::UserHash { tenant, day, user, wrapped } => {
                Work::Answered(salts::of_day(ready, &tenant, day, &user, &wrapped)?)
            }
            Command::Status => Work::Answered(Answer::Facts(ready.facts())),
            Command::ConnectSandbox { .. }
            | Command::SandboxBytes { .. }
            | Command::SandboxEvidence { .. }
            | Command::DisconnectSandbox
            | Command::RevokePolicy { .. }
            | Command::RevokeCredential { .. }
            | Command::RevokeAgent { .. }
            | Command::RevokeToken { .. }
            | Command::Forget { .. }
            | Command::Abort { .. }
            | Command::Durable { .. }
            | Command::Tick
            | Command::Cover { .. }
            | Command::SignIndex { .. } => Work::Plain(command),
            Command::Birth { .. }
            | Command::Boot { .. }
            | Command::Prove { .. }
            | Command::Replay { .. }
            | Command::ReplayEnd
            | Command::Blobs { .. }
            | Command::Start { .. }
            | Command::AskRoot { .. }
            | Command::GiveRoot { .. }
            | Command::TakeRoot { .. } => Work::Boot(command),
        })
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
        rng: &mut dyn CryptoRng,
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
        let turn = &mut Turn { ready, now, rng, out };
        match command {
            Work::Admin(checked) => admin::apply(turn, *checked),
            Work::Decide(asked) => actions::decide(turn, *asked),
            Work::Poll(checked) => actions::poll(turn, &checked),
            Work::Approve(checked) => approvals::apply(turn, *checked),
            Work::Execute(checked) => redeem::apply(turn, *checked),
            Work::Release(checked) => release::apply(turn, *checked),
            Work::Finish(checked) => finish::apply(turn, *checked),
            Work::Plain(command) => plain(turn, &*self.platform.0, command),
            Work::Refused(_) | Work::Answered(_) | Work::Boot(_) => Err(Reason::Internal),
        }
    }

    fn boot(
        &mut self,
        command: Command,
        now: Time,
        rng: &mut dyn CryptoRng,
        out: &mut Vec<Effect>,
    ) -> Result<Answer, Reason> {
        let platform = &*self.platform.0;
        match (&mut self.phase, command) {
            (Phase::Cold, Command::Birth { manifest, target }) => {
                let (proving, report) = boot::birth(platform, &manifest, &target, rng)?;
                self.phase = Phase::Proving(Box::new(proving));
                Ok(Answer::Report { report })
            }
            (Phase::Cold, Command::Boot { manifest, sealed_root, target }) => {
                let opened = boot::begin(platform, &manifest, &sealed_root, &target, rng)?;
                let (proving, report) = opened;
                self.phase = Phase::Proving(Box::new(proving));
                Ok(Answer::Report { report })
            }
            // Other evidence may be tried: collateral can be old, and the host can get new.
            (Phase::Proving(proving), Command::Prove { evidence }) => {
                let proof = proving.verify(&evidence, now)?;
                let Phase::Proving(proving) = core::mem::replace(&mut self.phase, Phase::Cold)
                else {
                    return Err(Reason::NotReady);
                };
                let (replaying, newborn) = proving.proven(evidence, proof);
                self.phase = Phase::Replaying(Box::new(replaying));
                Ok(newborn.map_or(Answer::Done, |sealed_root| Answer::Born { sealed_root }))
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
            (Phase::Replaying(replaying), Command::GiveRoot { statement, request }) => {
                let allowed = replaying.allows(&statement, &request, now)?;
                let replaying = self.phase.take_replaying()?;
                let (ready, answer) = replaying.give(allowed, now, rng, out)?;
                self.phase = Phase::Given(Box::new(ready));
                Ok(answer)
            }
            (Phase::Given(ready), Command::Durable { size }) => ready.durable(size),
            (Phase::Cold, Command::AskRoot { manifest, target }) => {
                hand_over::ask(platform, &manifest, &target, rng)
            }
            (Phase::Cold, Command::TakeRoot { manifest, sealed_key, package }) => {
                hand_over::take(platform, &manifest, &sealed_key, &package, now, rng)
            }
            (Phase::Replaying(_), Command::Start { salts }) => {
                let ready = self.phase.take_replaying()?.start(&salts, now, rng, out)?;
                let facts = ready.facts();
                self.phase = Phase::Ready(Box::new(ready));
                Ok(Answer::Started(facts))
            }
            _ => Err(Reason::NotReady),
        }
    }
}

/// Commands that need no check but the state's own.
fn plain(turn: &mut Turn<'_>, platform: &dyn Platform, command: Command) -> Result<Answer, Reason> {
    match command {
        Command::ConnectSandbox { target } => channel::connect(turn, &target),
        Command::SandboxBytes { bytes } => channel::receive(turn, platform, &bytes),
        Command::SandboxEvidence { evidence } => channel::evidence(turn, platform, &evidence),
        Command::DisconnectSandbox => {
            turn.ready.life.sandbox = None;
            Ok(Answer::Done)
        }
        Command::RevokePolicy { tenant, policy } => admin::revoke_policy(turn, tenant, &policy),
        Command::RevokeCredential { tenant, namespace, owner, id } => {
            admin::revoke_credential(turn, tenant, (namespace, owner, id))
        }
        Command::RevokeAgent { tenant, agent } => admin::revoke_agent(turn, tenant, agent),
        Command::RevokeToken { tenant, action } => actions::revoke_token(turn, tenant, &action),
        Command::Forget { tenant, through } => salts::forget(turn, tenant, through),
        Command::Abort { execution, reason } => finish::abort(turn, &execution, reason),
        Command::Durable { size } => turn.ready.durable(size),
        Command::Tick => {
            boot::end_left_pending(turn)?;
            actions::expire(turn)?;
            refusals::flush(turn)?;
            channel::renew(turn);
            Ok(Answer::Done)
        }
        Command::Cover { tenant } => turn.ready.cover(&tenant),
        Command::SignIndex { index } => turn.ready.sign_index(&index),
        _ => Err(Reason::Internal),
    }
}
