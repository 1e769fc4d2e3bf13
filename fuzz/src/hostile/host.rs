//! The host: it owns everything but the keys, and does what the steps say.

use std::panic::{AssertUnwindSafe, catch_unwind};

use chacha20::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};
use toani_enclave::Checked;
use toani_protocol::{
    ActionId, BootId, ExecutionId, Hash, Reason, Time,
    approval::Statement,
    wire::{self, Answer, Call, Command, Effect, LinkState, Reply, WIRE_VERSION},
};

use super::{
    Kind, Watched, breach, channel,
    documents::{self, Versions, pick},
    model::Model,
    people::Sent,
    steps::{Op, Step},
};
use crate::world::*;

/// Calls that are remembered, to be sent again.
const CALLS_MAX: usize = 64;
/// Of each kind, so many outlive their boot.
const KEPT: usize = 8;
/// A clock that is further ahead ends everything, and with it what can be tried.
const AHEAD_MS_MAX: u64 = 4 * 86_400_000;

/// What is checked first and applied last in a race, and what comes between.
const RACERS: &[Op] = &[Op::Release, Op::Release, Op::Finish, Op::Redeem, Op::DirectAgain];
const RIVALS: &[Op] = &[
    Op::Release,
    Op::Finish,
    Op::Abort,
    Op::RevokeCredential,
    Op::Credential,
    Op::Policy,
    Op::RevokePolicy,
    Op::RevokeToken,
    Op::Redeem,
    Op::DirectAgain,
    Op::AnswerAgain,
    Op::Clock,
];

/// What a host hears, if no oracle objects.
type Heard = Watched<Result<Answer, Reason>>;

/// What happened, so that nobody takes an idle fuzzer for a calm one.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    pub calls: u64,
    pub started: u64,
    pub jobs: u64,
    pub finished: u64,
    pub boots: u64,
}

impl Tally {
    pub(super) fn with(self, other: &Self) -> Self {
        Self {
            calls: self.calls + other.calls,
            started: self.started + other.started,
            jobs: self.jobs + other.jobs,
            finished: self.finished + other.finished,
            boots: self.boots + other.boots,
        }
    }
}

/// A call that was checked and waits.
struct Held {
    call: Option<Call>,
    checked: Checked,
}

pub(super) struct Host {
    /// Of the world only the parts: the honest host's methods are not used.
    pub(super) world: World,
    pub(super) model: Model,
    pub(super) versions: Versions,
    pub(super) tally: Tally,
    rng: ChaCha8Rng,
    hold: bool,
    held: Vec<Held>,
    calls: Vec<Vec<u8>>,
    pub(super) requests: Vec<Sent>,
    pub(super) actions: Vec<(ActionId, Sent)>,
    /// Tokens, each with the request of its action.
    pub(super) tokens: Vec<(String, Sent)>,
    pub(super) statements: Vec<Statement>,
    pub(super) answers: Vec<Vec<u8>>,
    pub(super) executions: Vec<ExecutionId>,
    /// Jobs at the supervisor, with their credentials.
    pub(super) jobs: Vec<(ExecutionId, Hash, Vec<u8>)>,
    pub(super) blobs: Vec<Vec<u8>>,
    pub(super) policies: Vec<Vec<u8>>,
    pub(super) lists: Vec<Vec<u8>>,
    pub(super) credentials: Vec<Vec<u8>>,
    pub(super) logs: Vec<Vec<Vec<u8>>>,
    pub(super) old_boots: Vec<BootId>,
}

impl Host {
    /// An instance that works, and a host that begins to lie.
    pub(super) fn new(seed: u64) -> Watched<Self> {
        let manifest = documents::hostile_manifest();
        let world = World {
            enclave: cold([7; 32], MEASUREMENT),
            measurement: MEASUREMENT,
            now: Time::from_ms(START_MS),
            log: vec![],
            blobs: Default::default(),
            salts: vec![],
            manifest: manifest.clone(),
            sealed_root: vec![],
            facts: None,
            supervisor: channel::supervisor(),
            link: LinkState::Ended,
            transcript: vec![],
        };
        let mut host = Self {
            world,
            model: Model::new(manifest.clone()),
            versions: Versions::default(),
            tally: Tally::default(),
            rng: ChaCha8Rng::seed_from_u64(!seed),
            hold: false,
            held: vec![],
            calls: vec![],
            requests: vec![],
            actions: vec![],
            tokens: vec![],
            statements: vec![],
            answers: vec![],
            executions: vec![],
            jobs: vec![],
            blobs: vec![],
            policies: vec![],
            lists: vec![],
            credentials: vec![],
            logs: vec![],
            old_boots: vec![],
        };
        let sealed_root = host.birth()?;
        host.model.born(&sealed_root, toani_protocol::instance::Manifest::id_of(&manifest))?;
        host.world.sealed_root = sealed_root;
        host.finish_boot(7)?;
        host.set_up()?;
        Ok(host)
    }

    /// The time of everybody who is honest: the log's, if the host's clock is behind it.
    pub(super) fn now(&self) -> Time {
        self.world.now.max(self.model.fold.time)
    }

    pub(super) fn send(&mut self, command: Command) -> Heard {
        let call = Call { version: WIRE_VERSION, now: self.world.now, command };
        self.send_bytes(wire::encode(&call).unwrap())
    }

    /// A call, whatever the answer is.
    pub(super) fn tell(&mut self, command: Command) -> Watched {
        self.send(command).map(drop)
    }

    /// A call that nobody has a reason to refuse.
    pub(super) fn honest(&mut self, command: Command) -> Watched<Answer> {
        match self.send(command)? {
            Ok(answer) => Ok(answer),
            Err(reason) => breach(Kind::Log, format!("an honest call is refused: {reason}")),
        }
    }

    fn send_bytes(&mut self, bytes: Vec<u8>) -> Heard {
        let call = wire::decode::<Call>(&bytes, usize::MAX).ok();
        let (enclave, rng) = (&self.world.enclave, &mut self.rng);
        let checked = guarded(|| enclave.check(&bytes, rng))?;
        if self.calls.len() == CALLS_MAX {
            self.calls.remove(0);
        }
        self.calls.push(bytes);
        let held = Held { call, checked };
        if std::mem::take(&mut self.hold) {
            self.held.push(held);
            return Ok(Err(Reason::Busy));
        }
        self.apply(held)
    }

    fn apply(&mut self, Held { call, checked }: Held) -> Heard {
        self.tally.calls += 1;
        let (enclave, rng) = (&mut self.world.enclave, &mut self.rng);
        let bytes = guarded(|| enclave.apply(checked, rng))?;
        let Ok(reply) = wire::decode::<Reply>(&bytes, usize::MAX) else {
            return breach(Kind::Panic, "a reply that cannot be read");
        };
        self.model.reply(call.as_ref(), &bytes, &reply)?;
        for effect in reply.effects {
            match effect {
                Effect::Append { .. } => {}
                Effect::PutBlob { bytes, .. } => {
                    self.world.blobs.insert(Hash::of(&bytes), bytes.clone());
                    self.blobs.push(bytes);
                }
                Effect::PutSalt { tenant, wrapped, .. } => {
                    self.world.salts.push((tenant, wrapped));
                }
                Effect::Sandbox(step) => self.world.link_step(step),
            }
        }
        if let Ok(Answer::Redeemed(redeemed)) = &reply.answer {
            self.tally.started += 1;
            self.executions.push(redeemed.execution.clone());
        }
        Ok(reply.answer)
    }

    /// What died with a boot. Some of its tokens, statements and answers are tried again.
    pub(super) fn forget_boot(&mut self) {
        self.held.clear();
        keep_some(&mut self.requests);
        keep_some(&mut self.actions);
        keep_some(&mut self.tokens);
        keep_some(&mut self.statements);
        keep_some(&mut self.answers);
        self.world.link = LinkState::Ended;
        self.world.supervisor.jobs.clear();
    }

    pub(super) fn step(&mut self, step: &Step) -> Watched {
        self.hold = step.hold && step.op != Op::Restart;
        let done = self.act(step);
        self.hold = false;
        done
    }

    fn act(&mut self, step: &Step) -> Watched {
        match step.op {
            Op::Mend => self.mend(),
            Op::Ask => self.ask(step),
            Op::AskAgain => self.ask_again(step),
            Op::Direct => self.direct(step),
            Op::DirectAgain => self.direct_again(step),
            Op::Redeem => self.redeem(step),
            Op::Poll => self.poll(step),
            Op::Answer => self.answer(step),
            Op::AnswerAgain => self.answer_again(step),
            Op::Approved => self.approve_one(step),
            Op::RevokeToken => self.revoke_token(step),
            Op::Run => self.run(step),
            Op::Durable => self.durable(step),
            Op::Release => self.release(step),
            Op::Finish => self.finish(step),
            Op::Abort => self.abort(step),
            Op::Outcome => self.outcome(step),
            Op::Carry => self.carry(),
            Op::CarryBadly => self.carry_badly(step),
            Op::Connect => self.connect(),
            Op::Disconnect => self.send(Command::DisconnectSandbox).map(drop),
            Op::Open => self.open(step),
            Op::Disclose => self.disclose(step),
            Op::Policy => self.policy(step),
            Op::OldPolicy => self.old_policy(step),
            Op::PolicyKey => self.policy_key(step),
            Op::RevokePolicy => self.revoke_policy(),
            Op::RevokeAgent => self.revoke_agent(step),
            Op::Credential => self.credential(step),
            Op::OldCredential => self.old_credential(step),
            Op::RevokeCredential => self.revoke_credential(),
            Op::Admit => self.admit(step),
            Op::Forget => {
                let through = self.now().day().saturating_sub(u64::from(step.a % 3));
                self.send(Command::Forget { tenant: tenant(), through }).map(drop)
            }
            Op::Export => {
                self.tell(Command::Cover { tenant: tenant() })?;
                self.send(Command::Status).map(drop)
            }
            Op::Tick => self.send(Command::Tick).map(drop),
            Op::Clock => self.clock(step),
            Op::Apply => self.apply_held(step),
            Op::Race => self.race(step),
            Op::Again => match pick(&self.calls, step.a) {
                Some(bytes) => self.send_bytes(bytes).map(drop),
                None => Ok(()),
            },
            Op::Mutated => self.mutated(step),
            Op::Restart => self.restart(step),
        }
    }

    fn clock(&mut self, step: &Step) -> Watched {
        let by = u64::from(step.b);
        self.world.now = match step.a % 16 {
            0 => Time::from_ms(self.world.now.ms().saturating_sub(by % 300_000)),
            1 => Time::from_ms(self.world.now.ms().saturating_sub(by % 90_000_000)),
            2 => self.now().plus_ms(by % 90_000_000),
            3 => self.now().plus_ms(by % 900_000),
            _ => self.now().plus_ms(by % 60_000),
        };
        Ok(())
    }

    fn apply_held(&mut self, step: &Step) -> Watched {
        if self.held.is_empty() {
            return Ok(());
        }
        let which = step.a as usize % self.held.len();
        let held = self.held.remove(which);
        self.apply(held).map(drop)
    }

    /// Something starts and is durable; then two calls that were checked at once take effect.
    fn race(&mut self, step: &Step) -> Watched {
        self.start_one(step)?;
        let size = self.model.fold.size();
        self.tell(Command::Durable { size })?;
        self.carry()?;
        // Of both, what concerns executions concerns the newest.
        let step = Step { a: 3, ..*step };
        self.hold = true;
        self.act(&Step { op: RACERS[step.b as usize % RACERS.len()], ..step })?;
        let waits = !std::mem::take(&mut self.hold);
        self.act(&Step { op: RIVALS[(step.b >> 8) as usize % RIVALS.len()], ..step })?;
        if let Some(held) = self.held.pop().filter(|_| waits) {
            self.apply(held).map(drop)?;
        }
        self.mend()
    }

    fn mutated(&mut self, step: &Step) -> Watched {
        let Some(mut bytes) = pick(&self.calls, step.a) else { return Ok(()) };
        let mut rng = ChaCha8Rng::seed_from_u64(step.b.into());
        for _ in 0..=rng.next_u32() % 3 {
            let at = rng.next_u32() as usize % bytes.len().max(1);
            match rng.next_u32() % 6 {
                0 => bytes.truncate(at),
                1 => bytes.insert(at.min(bytes.len()), rng.next_u32().to_le_bytes()[0]),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                _ => bytes = documents::flipped(bytes, rng.next_u32()),
            }
        }
        let latest = self.now().plus_ms(AHEAD_MS_MAX);
        let call = wire::decode::<Call>(&bytes, usize::MAX);
        if call.is_ok_and(|call| call.now > latest) {
            return Ok(());
        }
        self.send_bytes(bytes).map(drop)
    }

    /// All is over: what the enclave says of itself, to whoever debugs it, is no secret either.
    pub(super) fn end(&mut self) -> Watched {
        self.model.watch.search(format!("{:?}", self.world.enclave).as_bytes())
    }
}

fn keep_some<T>(all: &mut Vec<T>) {
    all.drain(..all.len().saturating_sub(KEPT));
}

fn guarded<T>(call: impl FnOnce() -> T) -> Watched<T> {
    catch_unwind(AssertUnwindSafe(call)).or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        breach(Kind::Panic, text.unwrap_or_else(|| "the enclave panicked".to_owned()))
    })
}
