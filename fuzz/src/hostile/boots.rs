//! Restarts: from the true log and from what a host makes of it.

use std::sync::OnceLock;

use toani_protocol::{
    Hash,
    record::{About, PolicyRef, Record, RecordKind},
    sign::{Bytes, PublicKey, Signature},
    wire::{Answer, Command},
};
use toani_simulator::Platform as Silicon;

use super::{
    Kind, Watched,
    documents::{flipped, pick},
    ensure,
    host::Host,
    steps::Step,
};
use crate::world::*;

type Log = Vec<Vec<u8>>;

/// The log of another instance.
fn foreign() -> &'static Log {
    static FOREIGN: OnceLock<Log> = OnceLock::new();
    FOREIGN.get_or_init(|| World::born().log)
}

impl Host {
    pub(super) fn restart(&mut self, step: &Step) -> Watched {
        let log = self.model.log();
        self.logs.push(log.clone());
        self.old_boots.push(self.world.facts().boot.clone());
        // Near the end more often than anywhere.
        let cut = |log: &Log| {
            let most = if step.b.is_multiple_of(4) { log.len() } else { log.len().min(20) };
            log[..log.len() - (step.b >> 2) as usize % (most + 1)].to_vec()
        };
        let leaves = match step.a % 12 {
            0..3 => log.clone(),
            3 => cut(&log),
            4 => pick(&self.logs, step.b).unwrap(),
            5 => cut(&pick(&self.logs, step.b >> 8).unwrap()),
            6 => {
                self.born_again(&log)?;
                log.clone()
            }
            _ => self.falsified(log.clone(), step.b),
        };
        let how = step.a / 12;
        if !self.boot(&leaves, how)? {
            let booted = self.boot(&log, 7)?;
            ensure(booted, Kind::Log, "the true log does not boot")?;
        }
        self.tally.boots += 1;
        if how.is_multiple_of(2) { Ok(()) } else { self.connect() }
    }

    fn cold(&mut self) {
        self.world.enclave = cold([7; 32], MEASUREMENT);
        self.model.cold();
        self.forget_boot();
    }

    /// Birth, up to the sealed root.
    pub(super) fn birth(&mut self) -> Watched<Vec<u8>> {
        let manifest = self.world.manifest.clone();
        let birth = Command::Birth { manifest, target: quoting_target() };
        let Answer::Report { report } = self.honest(birth)? else { unreachable!() };
        let Answer::Born { sealed_root } = self.prove(&report)? else { unreachable!() };
        Ok(sealed_root)
    }

    fn prove(&mut self, report: &[u8]) -> Watched<Answer> {
        let evidence = encoded(quoted(&Silicon::number(1), report, self.world.now));
        self.honest(Command::Prove { evidence })
    }

    /// The log under a root that did not sign it: it must not begin.
    fn born_again(&mut self, log: &Log) -> Watched {
        self.cold();
        self.birth()?;
        self.tell(Command::Replay { leaves: log.clone() })?;
        let ended = self.send(Command::ReplayEnd)?;
        ensure(ended.is_err(), Kind::Log, "the log of another root is believed")
    }

    /// From the sealed root to the end of the boot. Says whether the enclave went along.
    fn boot(&mut self, leaves: &Log, how: u32) -> Watched<bool> {
        self.cold();
        let (manifest, sealed_root) = (self.world.manifest.clone(), self.world.sealed_root.clone());
        let boot = |manifest, sealed_root| Command::Boot {
            manifest,
            sealed_root,
            target: quoting_target(),
        };
        if how.is_multiple_of(8) {
            self.tell(boot(manifest.clone(), flipped(sealed_root.clone(), how >> 3)))?;
            self.tell(boot(flipped(manifest.clone(), how >> 3), sealed_root.clone()))?;
            self.tell(Command::Tick)?;
        }
        let Answer::Report { report } = self.honest(boot(manifest, sealed_root))? else {
            unreachable!()
        };
        if how % 8 == 1 {
            let evidence = encoded(quoted(&Silicon::number(1), &report, self.world.now));
            let evidence = flipped(evidence, how >> 3);
            self.tell(Command::Prove { evidence })?;
        } else {
            self.prove(&report)?;
        }
        if how % 8 == 2 {
            self.tell(Command::ReplayEnd)?;
        }
        // What is refused is refused, and the host goes on.
        for leaves in leaves.chunks(1 + (how >> 3) as usize % 64) {
            self.tell(Command::Replay { leaves: leaves.to_vec() })?;
        }
        self.finish_boot(how)
    }

    /// From the end of the log. Some documents may be kept back.
    pub(super) fn finish_boot(&mut self, how: u32) -> Watched<bool> {
        let Ok(Answer::Needs { blobs }) = self.send(Command::ReplayEnd)? else { return Ok(false) };
        let kept_back = how % 16 == 3;
        let given = blobs.iter().enumerate().filter(|(i, _)| !kept_back || *i != how as usize % 3);
        let given = given.filter_map(|(_, hash)| self.world.blobs.get(hash).cloned()).collect();
        self.tell(Command::Blobs { blobs: given })?;
        let salts = self.world.salts.clone();
        let Ok(Answer::Started(facts)) = self.send(Command::Start { salts })? else {
            return Ok(false);
        };
        self.world.facts = Some(facts);
        let size = self.model.fold.size();
        self.honest(Command::Durable { size })?;
        Ok(true)
    }

    /// A log that this instance has not written.
    fn falsified(&self, mut log: Log, how: u32) -> Log {
        let at = (how >> 4) as usize % log.len();
        match how % 10 {
            0 => log.insert(at, log[at].clone()),
            1 => drop(log.remove(at)),
            2 => {
                let next = (at + 1) % log.len();
                log.swap(at, next);
            }
            3 => log[at] = flipped(log[at].clone(), how >> 3),
            4 => log = [log, foreign().clone()].concat(),
            _ => {
                for which in 0..=(how >> 5) % 2 {
                    let forged = self.forged_record(&log, (how >> 7) + which);
                    log.push(forged);
                }
                // The true one goes on behind it.
                if (how >> 6).is_multiple_of(2) {
                    log.extend(self.model.log().into_iter().skip(at));
                }
            }
        }
        log
    }

    /// A record by the host's own hand, with everything in it that anybody can know.
    fn forged_record(&self, log: &Log, which: u32) -> Vec<u8> {
        let last = Record::decode(log.last().unwrap()).unwrap();
        let fold = &self.model.fold;
        let (sequence, previous) = fold.tip(&tenant());
        let stranger = signing_key(60);
        let (kind, about) = match which % 6 {
            0 => (RecordKind::PolicyRevoked, About::default()),
            1 => (
                RecordKind::CredentialRevoked,
                About { sealed: Some(Bytes(vec![1; 60])), ..About::default() },
            ),
            2 => (
                RecordKind::PolicyActivated,
                About {
                    key: Some(PublicKey::of(&stranger)),
                    policy: Some(PolicyRef {
                        id: "brokerage".parse().unwrap(),
                        version: 1000,
                        hash: Hash::of(b"a policy of the host"),
                    }),
                    ..About::default()
                },
            ),
            3 => (RecordKind::Refused, About::default()),
            4 => (RecordKind::Ended, About::default()),
            _ => (
                RecordKind::Finished,
                About {
                    execution_id: fold.open.first().cloned(),
                    sealed: Some(Bytes(vec![1; 60])),
                    ..About::default()
                },
            ),
        };
        let about = About {
            tenant: Some(tenant()),
            tenant_sequence: Some(sequence),
            tenant_previous: Some(previous),
            ..about
        };
        let record = Record {
            index: u64::try_from(log.len()).unwrap(),
            previous: Record::hash_of(log.last().unwrap()),
            kind,
            about,
            chain_signature: Signature([0; 64]),
            ..last
        };
        toani_protocol::canonical::encode(&record).unwrap()
    }
}
