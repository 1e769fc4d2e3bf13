//! The channel and executions: what host and supervisor do after a token was redeemed.

use std::{collections::BTreeMap, sync::Mutex};

use serde_json::json;
use toani_protocol::{
    ExecutionId, Reason,
    job::{JobEnd, JobOutcome, OutcomeMessage},
    record::Connection,
    wire::{self, Answer, Command, LinkState},
};
use toani_simulator::{Guest, Platform as Silicon};

use super::{
    Watched,
    documents::{flipped, pick},
    host::Host,
    steps::Step,
};
use crate::world::*;

/// Rounds after which a channel that is not done is left alone.
const ROUNDS_MAX: usize = 12;

/// What a host does to the bytes of a channel.
#[derive(Debug, Clone, Copy)]
enum Harm {
    None,
    Lose(u32),
    Double,
    Flip(u32),
    /// The first and the second half change places.
    Exchange,
}

impl Harm {
    fn to(self, mut bytes: Vec<u8>) -> Vec<u8> {
        match self {
            Self::None => {}
            Self::Lose(which) => bytes.truncate(which as usize % bytes.len().max(1)),
            Self::Double => bytes.extend_from_within(..),
            Self::Flip(which) => bytes = flipped(bytes, which),
            Self::Exchange => {
                let half = bytes.len() / 2;
                bytes.rotate_left(half);
            }
        }
        bytes
    }
}

/// A supervisor that shows its certificate's evidence of the day again: making it is what costs.
pub(super) fn supervisor() -> Supervisor {
    let known = Mutex::new(BTreeMap::new());
    Supervisor::showing(move |stage, report_data, now| {
        let show = || shown(&chip(), &Guest::new(DIGEST, report_data), now);
        match stage {
            Stage::Channel => show(),
            Stage::Certificate => {
                let mut known = known.lock().unwrap();
                known.entry((now.day(), report_data)).or_insert_with(show).clone()
            }
        }
    })
}

impl Host {
    pub(super) fn connect(&mut self) -> Watched {
        let facts = self.world.facts().clone();
        self.world.supervisor.listen(&facts, self.world.now);
        self.tell(Command::ConnectSandbox { target: quoting_target() })?;
        self.carry()
    }

    pub(super) fn carry(&mut self) -> Watched {
        self.carried(Harm::None)
    }

    pub(super) fn carry_badly(&mut self, step: &Step) -> Watched {
        let harms = [Harm::Lose(step.b), Harm::Double, Harm::Flip(step.b), Harm::Exchange];
        self.carried(harms[step.a as usize % harms.len()])
    }

    /// Carries bytes between enclave and supervisor until neither has any; the first are harmed.
    fn carried(&mut self, mut harm: Harm) -> Watched {
        for _ in 0..ROUNDS_MAX {
            let supervisor = &mut self.world.supervisor;
            let bytes = std::mem::take(&mut supervisor.inbox);
            if !bytes.is_empty() {
                let bytes = std::mem::replace(&mut harm, Harm::None).to(bytes);
                supervisor.receive(&bytes, self.world.now);
                self.jobs_arrived()?;
            }
            let bytes = std::mem::take(&mut self.world.supervisor.outbox);
            if bytes.is_empty() {
                return Ok(());
            }
            let bytes = std::mem::replace(&mut harm, Harm::None).to(bytes);
            let answer = self.send(Command::SandboxBytes { bytes })?;
            if let Ok(Answer::Link { report: Some(report), .. }) = answer {
                let now = self.now();
                let evidence = encoded(quoted(&Silicon::number(1), &report, now));
                self.tell(Command::SandboxEvidence { evidence })?;
            }
            if self.world.link == LinkState::Ended {
                return Ok(());
            }
        }
        Ok(())
    }

    fn jobs_arrived(&mut self) -> Watched {
        while let Some(job) = self.world.supervisor.jobs.pop_front() {
            self.model.job(&job)?;
            self.tally.jobs += 1;
            self.jobs.push((job.execution.clone(), job.jti, job.job.credential.clone()));
        }
        Ok(())
    }

    pub(super) fn durable(&mut self, step: &Step) -> Watched {
        let size = self.model.fold.size();
        let size = match step.a % 8 {
            0 => size + 1,
            1 => size.saturating_sub(u64::from(step.b % 5)),
            2 => u64::from(step.b),
            _ => size,
        };
        self.tell(Command::Durable { size })
    }

    pub(super) fn release(&mut self, step: &Step) -> Watched {
        let Some(execution) = self.recent(step) else { return Ok(()) };
        self.tell(Command::Release { execution })?;
        if step.b.is_multiple_of(2) { self.carry() } else { Ok(()) }
    }

    /// An execution to its end, as an honest host does it, or until its job has left.
    pub(super) fn run(&mut self, step: &Step) -> Watched {
        let size = self.model.fold.size();
        self.tell(Command::Durable { size })?;
        self.carry()?;
        let Some(execution) = self.open_executions().last().cloned() else { return Ok(()) };
        self.tell(Command::Release { execution: execution.clone() })?;
        self.carry()?;
        if step.a.is_multiple_of(3) {
            return Ok(());
        }
        if self.jobs.last().is_some_and(|(there, ..)| *there == execution) {
            self.outcome(&Step { a: 1, ..*step })?;
        }
        self.finish(&Step { a: 3, ..*step })
    }

    /// The newest execution, or another that is open, or any.
    fn recent(&self, step: &Step) -> Option<ExecutionId> {
        let open = self.open_executions();
        match step.a % 6 {
            0 => pick(&self.executions, step.a / 6),
            1 | 2 => pick(&open, step.a / 6),
            _ => open.last().cloned(),
        }
    }

    fn open_executions(&self) -> Vec<ExecutionId> {
        let open = |execution: &&ExecutionId| self.model.fold.open.contains(*execution);
        self.executions.iter().filter(open).cloned().collect()
    }

    pub(super) fn finish(&mut self, step: &Step) -> Watched {
        let Some(execution) = self.recent(step) else { return Ok(()) };
        let answer = self.send(Command::Finish { execution })?;
        self.tally.finished += u64::from(answer.is_ok());
        Ok(())
    }

    pub(super) fn abort(&mut self, step: &Step) -> Watched {
        let Some(execution) = self.recent(step) else { return Ok(()) };
        self.tell(Command::Abort { execution, reason: Reason::LogUnavailable })
    }

    /// The supervisor answers a job, as it was or otherwise.
    pub(super) fn outcome(&mut self, step: &Step) -> Watched {
        let newest = self.jobs.last().filter(|_| !step.a.is_multiple_of(4)).cloned();
        let Some((execution, jti, credential)) = newest.or_else(|| pick(&self.jobs, step.a / 4))
        else {
            return Ok(());
        };
        if !self.world.supervisor.is_open() {
            return Ok(());
        }
        let leaked = String::from_utf8(credential).unwrap();
        let mut outcome = match step.b % 8 {
            0 => ended(JobEnd::Unreachable, false),
            1 => ended(JobEnd::TimedOut, true),
            2 => ended(JobEnd::TlsRefused, false),
            3 => JobOutcome {
                secret_seen: true,
                ..answered(200, json!({"balance": 1, "id": leaked}))
            },
            4 => answered(500, json!({"error": 1})),
            5 => ended(JobEnd::ConnectorFailed, true),
            _ => answered(200, json!({"balance": 1, "id": "o-1"})),
        };
        if (step.b >> 3) % 16 == 1 {
            outcome.connections.push(Connection { port: 444, ..connection() });
        }
        let mut message = wire::encode(&OutcomeMessage { execution, jti, outcome }).unwrap();
        if (step.b >> 3).is_multiple_of(16) {
            message = flipped(message, step.b >> 7);
        }
        // Whatever it says is the supervisor's word.
        if let Ok(said) = wire::decode::<OutcomeMessage>(&message, usize::MAX) {
            self.model.outcome(&said.execution, said.outcome.connected());
        }
        self.world.supervisor.send(&message);
        self.carry()
    }

    /// Somebody opens a result.
    pub(super) fn open(&mut self, step: &Step) -> Watched {
        let Some(execution) = pick(&self.executions, step.a) else { return Ok(()) };
        let Some(blob) = pick(&self.blobs, step.b) else { return Ok(()) };
        let Some(sent) = pick(&self.requests, step.b) else { return Ok(()) };
        let read = self.read(execution.as_str(), sent, step.a >> 4);
        self.tell(Command::Open { execution, blob, read })
    }

    pub(super) fn disclose(&mut self, step: &Step) -> Watched {
        let Some((action, _)) = pick(&self.actions, step.a) else { return Ok(()) };
        let Some(kept) = pick(&self.blobs, step.b) else { return Ok(()) };
        self.tell(Command::Disclose { action, kept, evidence: None })
    }
}
