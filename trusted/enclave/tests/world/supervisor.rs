//! A supervisor in this process: the other end of the channel, with a simulated chip's evidence.

use std::{collections::VecDeque, sync::Arc};

use toani_attestation::{Evidence as AttestationEvidence, sgx};
use toani_protocol::{
    evidence::{BootKeys, ReportData, Role, report_data, sandbox_report_data},
    instance::{LaunchDigest, Product},
    job::{JobMessage, OutcomeMessage},
    record::Connection,
    wire::{LinkState, LinkStep},
};
use toani_simulator::{Chip, Guest, Platform as Silicon, SnpRevocations};
use toani_tls::{
    Binding, Channel, ChannelError, ChannelKey, Endpoint, Failure, Handshake, Next,
    PeerCertificate, PeerCheck, Refused, Step,
};

use super::*;

/// What runs in the sandbox of these worlds.
pub const DIGEST: LaunchDigest = [0x5b; 48];

/// What its containers run.
pub const ROOT_FILE_SYSTEM: Hash = Hash::new([0x5f; 32]);

/// One entry of an admission list.
pub fn admitted(launch_digest: LaunchDigest, level: SandboxLevel) -> AdmittedSandbox {
    let launch_digest = Bytes(launch_digest.to_vec());
    let root_file_systems = RootFileSystems { connector: ROOT_FILE_SYSTEM, browser: None };
    AdmittedSandbox { launch_digest, level, root_file_systems }
}

/// Of something else.
pub fn digest(what: &[u8]) -> LaunchDigest {
    let mut digest = [0; 48];
    digest[..32].copy_from_slice(Hash::of(what).as_bytes());
    digest
}

pub fn chip() -> Chip {
    Chip::number(Product::Milan, 1)
}

/// A chip's word for a guest, as it crosses the channel.
pub fn shown(chip: &Chip, guest: &Guest, now: Time) -> Vec<u8> {
    shown_with(chip, guest, &SnpRevocations::none(now))
}

pub fn shown_with(chip: &Chip, guest: &Guest, revocations: &SnpRevocations) -> Vec<u8> {
    let evidence = authority().snp_evidence(chip, guest, revocations).unwrap();
    AttestationEvidence::Snp(evidence).encode().unwrap()
}

/// In a certificate, or for one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Certificate,
    Channel,
}

/// What a supervisor shows for report data at a time.
pub type Show = Arc<dyn Fn(Stage, ReportData, Time) -> Vec<u8> + Send + Sync>;

/// What a supervisor asks of an enclave: roots and policy of the manifest, a MRENCLAVE, and that
/// the boot's evidence vouches for the key.
pub struct EnclaveCheck {
    pub measurement: Hash,
    pub facts: Facts,
    pub now: Time,
}

impl EnclaveCheck {
    fn verify(&self, evidence: &[u8], report_data: &ReportData) -> Result<(), Refused> {
        let Ok(AttestationEvidence::Sgx(evidence)) = AttestationEvidence::decode(evidence) else {
            return Err(Refused);
        };
        let manifest = manifest();
        let verdict = sgx::verify(&evidence, &manifest.sgx_roots, &manifest.sgx_policy, self.now);
        let verdict = verdict.map_err(|_| Refused)?;
        let admitted = [self.measurement, NEXT].contains(&verdict.mrenclave);
        if admitted && verdict.report_data == *report_data { Ok(()) } else { Err(Refused) }
    }
}

impl PeerCheck for EnclaveCheck {
    type Peer = ();

    fn certificate(&self, role: Role, certificate: &PeerCertificate<'_>) -> Result<(), Refused> {
        let Facts { instance, boot, chain_key, intake_key, .. } = &self.facts;
        let channel = Hash::of(certificate.spki);
        let keys = BootKeys { chain: *chain_key, intake: *intake_key, channel };
        let report_data = report_data(role, instance, boot.as_str(), &keys.hash());
        self.verify(certificate.evidence, &report_data)
    }

    fn channel(
        &self,
        _: Role,
        _: &PeerCertificate<'_>,
        report_data: &ReportData,
        evidence: &[u8],
    ) -> Result<(), Refused> {
        self.verify(evidence, report_data)
    }
}

pub enum End {
    Handshake(Handshake<EnclaveCheck>),
    Binding(Binding<EnclaveCheck>),
    Open(Channel<EnclaveCheck>),
    Closed,
    Failed(ChannelError),
}

/// One life of a supervisor.
pub struct Supervisor {
    /// The enclave that it takes jobs from.
    pub measurement: Hash,
    pub key: ChannelKey,
    pub show: Show,
    /// What the host has told it of the enclave.
    pub facts: Option<Facts>,
    pub end: End,
    /// Bytes from the enclave that the host has not brought yet.
    pub inbox: Vec<u8>,
    /// Bytes for the enclave that the host has not taken yet.
    pub outbox: Vec<u8>,
    pub jobs: VecDeque<JobMessage>,
    /// Every report data that it showed evidence for on a channel.
    pub asked: Vec<ReportData>,
}

impl Supervisor {
    pub fn new() -> Self {
        Self::showing(|_, report_data, now| shown(&chip(), &Guest::new(DIGEST, report_data), now))
    }

    pub fn showing(
        show: impl Fn(Stage, ReportData, Time) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        Self {
            measurement: MEASUREMENT,
            key: ChannelKey::generate(&mut rng()),
            show: Arc::new(show),
            facts: None,
            end: End::Closed,
            inbox: Vec::new(),
            outbox: Vec::new(),
            jobs: VecDeque::new(),
            asked: Vec::new(),
        }
    }

    /// Waits for a new connection.
    pub fn listen(&mut self, facts: &Facts, now: Time) {
        let instance = facts.instance;
        self.facts = Some(facts.clone());
        let report_data = sandbox_report_data(&instance, &self.key.spki_hash());
        let shown = (self.show)(Stage::Certificate, report_data, now);
        let certificate = self.key.certificate(&shown).unwrap();
        let check = self.check(now);
        let endpoint = Endpoint::new(Role::Sandbox, instance, &certificate, check).unwrap();
        self.inbox.clear();
        self.outbox.clear();
        self.take(endpoint.start(), now);
    }

    fn check(&self, now: Time) -> Arc<EnclaveCheck> {
        let facts = self.facts.clone().unwrap();
        Arc::new(EnclaveCheck { measurement: self.measurement, facts, now })
    }

    pub fn take(&mut self, step: Result<Step<EnclaveCheck>, Failure>, now: Time) {
        let step = match step {
            Ok(step) => step,
            Err(failure) => {
                self.outbox.extend(failure.output);
                self.end = End::Failed(failure.error);
                return;
            }
        };
        self.outbox.extend(step.output);
        for message in step.messages {
            self.jobs.push_back(wire::decode(&message, usize::MAX).unwrap());
        }
        self.end = match step.next {
            Next::Handshake(state) => End::Handshake(state),
            Next::Binding(state) => End::Binding(state),
            Next::Open(state) => End::Open(state),
            Next::Closed => End::Closed,
            Next::NeedEvidence { report_data, binding } => {
                self.asked.push(report_data);
                let evidence = (self.show)(Stage::Channel, report_data, now);
                return self.take(binding.evidence(&evidence), now);
            }
        };
    }

    pub fn receive(&mut self, bytes: &[u8], now: Time) {
        let end = std::mem::replace(&mut self.end, End::Closed);
        if let End::Closed | End::Failed(_) = end {
            self.end = end;
            return;
        }
        let check = self.check(now);
        let step = match end {
            End::Handshake(state) => state.judged_by(check).receive(bytes),
            End::Binding(state) => state.judged_by(check).receive(bytes),
            End::Open(state) => state.judged_by(check).receive(bytes),
            End::Closed | End::Failed(_) => return,
        };
        self.take(step, now);
    }

    pub fn reattest(&mut self, now: Time) {
        match std::mem::replace(&mut self.end, End::Closed) {
            End::Open(state) => self.take(state.reattest(), now),
            _ => panic!("the channel is not open"),
        }
    }

    pub fn send(&mut self, message: &[u8]) {
        match &mut self.end {
            End::Open(channel) => self.outbox.extend(channel.seal(message).unwrap()),
            _ => panic!("the channel is not open"),
        }
    }

    pub fn is_open(&self) -> bool {
        matches!(self.end, End::Open(_))
    }
}

impl<E: Answers> World<E> {
    /// A new connection to the supervisor, by an honest host.
    pub fn connect(&mut self) {
        self.try_connect().unwrap();
    }

    pub fn try_connect(&mut self) -> Result<(), Reason> {
        let facts = self.facts().clone();
        self.supervisor.listen(&facts, self.now);
        self.call(Command::ConnectSandbox { target: quoting_target() })?;
        self.carry()?;
        if self.link == LinkState::Open { Ok(()) } else { Err(Reason::SandboxUnavailable) }
    }

    /// Carries bytes between enclave and supervisor until neither has any.
    pub fn carry(&mut self) -> Result<(), Reason> {
        loop {
            let bytes = std::mem::take(&mut self.supervisor.inbox);
            if !bytes.is_empty() {
                self.supervisor.receive(&bytes, self.now);
            }
            let bytes = std::mem::take(&mut self.supervisor.outbox);
            if bytes.is_empty() {
                return Ok(());
            }
            let answer = self.call(Command::SandboxBytes { bytes })?;
            if let Answer::Link { report: Some(report), .. } = answer {
                let evidence = encoded(quoted(&Silicon::number(1), &report, self.now));
                self.call(Command::SandboxEvidence { evidence })?;
            }
            if self.link == LinkState::Ended {
                return Ok(());
            }
        }
    }

    pub fn link_step(&mut self, step: LinkStep) {
        self.link = step.state;
        self.supervisor.inbox.extend(step.bytes);
    }

    /// Releases a job; the supervisor gets it.
    pub fn release(&mut self, execution: &ExecutionId) -> Result<JobMessage, Reason> {
        self.carry()?;
        self.ok_or(Command::Release { execution: execution.clone() })?;
        self.carry()?;
        Ok(self.supervisor.jobs.pop_back().unwrap())
    }

    fn ok_or(&mut self, command: Command) -> Result<(), Reason> {
        match self.call(command)? {
            Answer::Done => Ok(()),
            other => panic!("{other:?}"),
        }
    }

    /// The supervisor answers, if it does, and the host ends the execution.
    pub fn finish(
        &mut self,
        execution: &ExecutionId,
        outcome: Option<OutcomeMessage>,
    ) -> Result<(Finished, ExecutionResult), Reason> {
        if let Some(outcome) = outcome {
            self.carry()?;
            self.supervisor.send(&wire::encode(&outcome).unwrap());
            self.carry()?;
        }
        match self.call(Command::Finish { execution: execution.clone() })? {
            Answer::Finished(finished) => {
                let result = canonical::decode(&finished.result, usize::MAX).unwrap();
                Ok((finished, result))
            }
            other => panic!("{other:?}"),
        }
    }

    /// From a redeemed token to the end, with this upstream answer.
    pub fn run(&mut self, redeemed: &Redeemed, outcome: &JobOutcome) -> ExecutionResult {
        self.durable();
        let job = self.release(&redeemed.execution).unwrap();
        self.finish(&redeemed.execution, Some(outcome_of(&job, outcome))).unwrap().1
    }
}

pub fn outcome_of(job: &JobMessage, outcome: &JobOutcome) -> OutcomeMessage {
    let (execution, jti) = (job.execution.clone(), job.jti);
    OutcomeMessage { execution, jti, outcome: outcome.clone() }
}

/// A connection to the broker.
pub fn connection() -> Connection {
    Connection { host: "api.broker.example".into(), port: 443, bytes_out: 100, bytes_in: 200 }
}

pub fn answered(status: u16, body: Value) -> JobOutcome {
    ended(JobEnd::Response { status, body: body.to_string().into_bytes() }, true)
}

pub fn ended(end: JobEnd, connected: bool) -> JobOutcome {
    let connections = connected.then(connection).into_iter().collect();
    JobOutcome { end, secret_seen: false, connections }
}
