//! A host, an agent, approvers, an owner and a supervisor around the real state machine.
//!
//! The host here is the honest one; tests make it lie.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each test file uses its part of the world"
)]

mod machine;
mod people;
mod policy;
mod supervisor;

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;
use getrandom::SysRng;
use hpke::{
    Deserializable, Kem, OpModeS, Serializable, aead::AesGcm256, kdf::HkdfSha256,
    kem::X25519HkdfSha256, setup_sender_with_rng,
};
use p256::ecdsa::{Signature as EcdsaSignature, SigningKey as PasskeyKey, signature::Signer};
use rand_core::UnwrapErr;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use toani_enclave::{Checked, Enclave, Platform, Secret};
use toani_protocol::{
    ActionId, ExecutionId, Hash, Reason, TenantId, Time,
    approval::{ApprovalProof, Assertion, Evidence, Statement, Verdict},
    assurance::SandboxLevel,
    canonical,
    credential::{CredentialHeader, INTAKE_INFO, SealedCredential},
    instance::{
        AdmissionFormat, AdmissionList, AdmittedSandbox, LaunchDigest, Manifest, ManifestFormat,
        RootFileSystems, TcbVersion,
    },
    job::{JobEnd, JobOutcome},
    policy::{ApproverKey, Endpoint, Es256Key, Injection, Passkey, Policy, TlsTrust},
    record::{ExecutionResult, Record},
    request::{ActionRequest, AgentProof, ReadRequest},
    sign::{self, Bytes, Label, PublicKey, Signed},
    wire::{
        self, ActionState, ActionStatus, Answer, Call, Command, Effect, Facts, Finished, LinkState,
        Read, Redeemed, Reply, WIRE_VERSION,
    },
};

pub use self::{machine::*, people::*, policy::*, supervisor::*};

pub const SECRET: &str = "canary-5up3r-s3cret-value";
pub const MEASUREMENT: Hash = Hash::new([0x5a; 32]);
/// The image that follows.
pub const NEXT: Hash = Hash::new([0x5c; 32]);
pub const ORIGIN: &str = "log.example/test";
pub const START_MS: u64 = 1_790_000_000_000;
/// Records that a host replays with one call.
pub const REPLAY_COUNT_MAX: usize = 4_096;

pub fn rng() -> UnwrapErr<SysRng> {
    UnwrapErr(SysRng)
}

/// What answers a call: bytes in, bytes out.
pub trait Answers {
    fn answer(&mut self, call: &[u8]) -> Vec<u8>;
}

/// The enclave as a library.
impl Answers for Enclave {
    fn answer(&mut self, call: &[u8]) -> Vec<u8> {
        let checked = self.check(call, &mut rng());
        self.apply(checked, &mut rng())
    }
}

pub struct World<E = Enclave> {
    pub enclave: E,
    /// What the enclave is measured as.
    pub measurement: Hash,
    pub now: Time,
    pub log: Vec<Vec<u8>>,
    pub blobs: BTreeMap<Hash, Vec<u8>>,
    pub salts: Vec<(TenantId, Vec<u8>)>,
    pub manifest: Vec<u8>,
    pub sealed_root: Vec<u8>,
    pub facts: Option<Facts>,
    pub supervisor: Supervisor,
    /// As the host was told last.
    pub link: LinkState,
    /// Every reply, as it crossed the boundary.
    pub transcript: Vec<u8>,
}

impl World {
    /// An instance with a policy, a credential and a sandbox.
    pub fn new() -> Self {
        let mut world = Self::born();
        world.furnish();
        world
    }

    /// An instance and nothing more.
    pub fn born() -> Self {
        Self::born_in(cold([7; 32], MEASUREMENT), MEASUREMENT)
    }

    /// The same host, with another log.
    pub fn with_log(other: &Self, log: Vec<Vec<u8>>) -> Self {
        Self {
            enclave: cold([7; 32], MEASUREMENT),
            measurement: MEASUREMENT,
            now: other.now,
            log,
            blobs: other.blobs.clone(),
            salts: other.salts.clone(),
            manifest: other.manifest.clone(),
            sealed_root: other.sealed_root.clone(),
            facts: other.facts.clone(),
            supervisor: Supervisor::new(),
            link: LinkState::Ended,
            transcript: vec![],
        }
    }

    /// Restarts the enclave from what the host kept.
    pub fn reboot(&mut self) {
        self.try_reboot().unwrap();
        self.connect();
    }

    pub fn try_reboot(&mut self) -> Result<(), Reason> {
        self.enclave = cold([7; 32], MEASUREMENT);
        self.restart()
    }

    /// The first half of a call; time may pass before [`Self::apply`].
    pub fn check(&self, command: Command) -> Checked {
        let call = Call { version: WIRE_VERSION, now: self.now, command };
        self.enclave.check(&wire::encode(&call).unwrap(), &mut rng())
    }

    /// The second half of a call.
    pub fn apply(&mut self, checked: Checked) -> Result<Answer, Reason> {
        let reply = self.enclave.apply(checked, &mut rng());
        let reply: Reply = wire::decode(&reply, usize::MAX).unwrap();
        self.carry_out(reply.effects);
        reply.answer
    }
}

impl<E: Answers> World<E> {
    /// An instance that is born in this enclave, and nothing more.
    pub fn born_in(enclave: E, measurement: Hash) -> Self {
        let manifest = canonical::encode(&manifest()).unwrap();
        let mut world = Self {
            enclave,
            measurement,
            now: Time::from_ms(START_MS),
            log: vec![],
            blobs: BTreeMap::new(),
            salts: vec![],
            manifest: manifest.clone(),
            sealed_root: vec![],
            facts: None,
            supervisor: Supervisor { measurement, ..Supervisor::new() },
            link: LinkState::Ended,
            transcript: vec![],
        };
        match world.birth(manifest).unwrap() {
            Answer::Born { sealed_root } => world.sealed_root = sealed_root,
            other => panic!("{other:?}"),
        }
        world.finish_boot();
        world
    }

    /// A policy, a credential and a sandbox.
    pub fn furnish(&mut self) {
        self.ok(self.admission(1, vec![DIGEST]));
        self.connect();
        self.ok(Command::ActivatePolicy { policy: sign_policy(policy_document(1), &policy_key()) });
        self.ok(self.credential(1, SECRET));
        self.carry().unwrap();
    }

    /// The same host around another enclave, which is still cold.
    pub fn moved_to<F: Answers>(self, enclave: F) -> World<F> {
        let Self { measurement, now, log, blobs, salts, manifest, sealed_root, .. } = self;
        let Self { facts, supervisor, link, transcript, .. } = self;
        World {
            enclave,
            measurement,
            now,
            log,
            blobs,
            salts,
            manifest,
            sealed_root,
            facts,
            supervisor,
            link,
            transcript,
        }
    }

    /// Boots a cold enclave from what the host kept.
    pub fn restart(&mut self) -> Result<(), Reason> {
        self.boot()?;
        let log = self.log.clone();
        for leaves in log.chunks(REPLAY_COUNT_MAX) {
            self.call(Command::Replay { leaves: leaves.to_vec() })?;
        }
        self.try_finish_boot()
    }

    fn finish_boot(&mut self) {
        self.try_finish_boot().unwrap();
    }

    pub fn try_finish_boot(&mut self) -> Result<(), Reason> {
        let Answer::Needs { blobs } = self.call(Command::ReplayEnd)? else { panic!() };
        let blobs = blobs.iter().filter_map(|hash| self.blobs.get(hash).cloned()).collect();
        self.call(Command::Blobs { blobs })?;
        match self.call(Command::Start { salts: self.salts.clone() })? {
            Answer::Started(facts) => self.facts = Some(facts),
            other => panic!("{other:?}"),
        }
        self.durable();
        Ok(())
    }

    /// One raw call.
    pub fn raw(&mut self, bytes: &[u8]) -> Reply {
        let reply = self.enclave.answer(bytes);
        self.transcript.extend_from_slice(&reply);
        wire::decode(&reply, usize::MAX).unwrap()
    }

    /// One call, its effects carried out as an honest host does.
    pub fn call(&mut self, command: Command) -> Result<Answer, Reason> {
        let call = Call { version: WIRE_VERSION, now: self.now, command };
        let reply = self.raw(&wire::encode(&call).unwrap());
        self.carry_out(reply.effects);
        reply.answer
    }

    pub fn activate(&mut self, document: Value) -> Result<Answer, Reason> {
        self.call(Command::ActivatePolicy { policy: sign_policy(document, &policy_key()) })
    }

    /// A read that has started and is durable.
    pub fn started(&mut self, key: &str) -> Redeemed {
        let request = self.request("read_balance", json!({"account": "x"}), key);
        let redeemed = self.redeem(None, &request).unwrap();
        self.durable();
        redeemed
    }

    /// Why nothing starts.
    pub fn refusal(&mut self, key: &str) -> Reason {
        let request = self.request("read_balance", json!({"account": "x"}), key);
        self.execute(None, &request).unwrap_err()
    }

    /// A purchase that both approvers approved, with its token.
    pub fn approved(
        &mut self,
        quantity: u64,
        key: &str,
    ) -> Result<(ActionRequest, String), Reason> {
        let params = json!({"symbol": "ACME", "quantity": quantity});
        let request = self.request("buy_stock", params, key);
        let action = self.decide(&request)?.action;
        let statement = self.statement(&action);
        for (seed, person, software) in [(40, "anna", true), (41, "ben", false)] {
            let yes = Gesture::new(seed, software).evidence(person, &statement, Verdict::Approve);
            self.approve(&yes)?;
        }
        match self.poll(&action)? {
            ActionState::Token { token, .. } => Ok((request, token)),
            other => panic!("{other:?}"),
        }
    }

    pub fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Append { index, leaf } => {
                    assert_eq!(index, self.log.len() as u64);
                    self.log.push(leaf);
                }
                Effect::PutBlob { bytes, .. } => {
                    self.blobs.insert(Hash::of(&bytes), bytes);
                }
                Effect::PutSalt { tenant, wrapped, .. } => self.salts.push((tenant, wrapped)),
                Effect::Sandbox(step) => self.link_step(step),
            }
        }
    }

    pub fn ok(&mut self, command: Command) -> Answer {
        self.call(command).unwrap()
    }

    pub fn durable(&mut self) -> String {
        match self.ok(Command::Durable { size: self.log.len() as u64 }) {
            Answer::Checkpoint { note, .. } => note,
            other => panic!("{other:?}"),
        }
    }

    pub fn facts(&self) -> &Facts {
        self.facts.as_ref().unwrap()
    }

    /// Any record: it moves the enclave's time.
    pub fn record(&mut self) -> Result<Answer, Reason> {
        self.call(Command::RevokeAgent { tenant: tenant(), agent: "simple".parse().unwrap() })
    }

    pub fn records(&self) -> Vec<Record> {
        self.log.iter().map(|leaf| Record::decode(leaf).unwrap()).collect()
    }

    pub fn last_record(&self) -> Record {
        Record::decode(self.log.last().unwrap()).unwrap()
    }

    pub fn admission(&self, version: u64, digests: Vec<LaunchDigest>) -> Command {
        let admitted = |digest| admitted(digest, SandboxLevel::Native);
        let sandboxes = digests.into_iter().map(admitted).collect();
        admit(AdmissionList { sandboxes, ..self.admission_list(version) })
    }

    /// Admits this world's enclave, chip and sandbox.
    pub fn admission_list(&self, version: u64) -> AdmissionList {
        AdmissionList {
            format: AdmissionFormat::V1,
            instance: self.facts().instance,
            version,
            enclaves: vec![self.measurement],
            sandboxes: vec![admitted(DIGEST, SandboxLevel::Native)],
            chips: vec![Bytes(chip().id.to_vec())],
            min_tcb: TcbVersion::default(),
            refused_products: vec![],
            min_crl_number: None,
        }
    }

    pub fn credential_header(&self, version: u64) -> CredentialHeader {
        CredentialHeader {
            instance: self.facts().instance,
            tenant: tenant(),
            namespace: "main".parse().unwrap(),
            owner: PublicKey::of(&owner()),
            id: "broker".parse().unwrap(),
            version,
            endpoints: vec![Endpoint {
                host: "api.broker.example".into(),
                port: 443,
                private: false,
            }],
            tls: TlsTrust::Public,
            injection: Injection::Bearer,
            rotate: false,
        }
    }

    pub fn credential(&self, version: u64, value: &str) -> Command {
        let header = self.credential_header(version);
        let sealed = self.seal_credential(header, value, &owner());
        Command::PutCredential { credential: canonical::encode(&sealed).unwrap() }
    }

    pub fn seal_credential(
        &self,
        header: CredentialHeader,
        value: &str,
        signer: &SigningKey,
    ) -> SealedCredential {
        let key =
            <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&self.facts().intake_key).unwrap();
        let (encapsulated, mut context) = setup_sender_with_rng::<
            AesGcm256,
            HkdfSha256,
            X25519HkdfSha256,
        >(&OpModeS::Base, &key, INTAKE_INFO, &mut rng())
        .unwrap();
        let aad = canonical::encode(&header).unwrap();
        let ciphertext = Bytes(context.seal(value.as_bytes(), &aad).unwrap());
        let encapsulated = Bytes(encapsulated.to_bytes().to_vec());
        let bytes = SealedCredential::signed_bytes(&header, &encapsulated, &ciphertext).unwrap();
        let signature = sign::sign(signer, Label::Credential, &bytes);
        SealedCredential { header, encapsulated, ciphertext, signature }
    }

    pub fn request(&self, action: &str, params: Value, key: &str) -> ActionRequest {
        ActionRequest {
            instance: self.facts().instance,
            boot: self.facts().boot.clone(),
            tenant: tenant(),
            agent: "trader".parse().unwrap(),
            user: "customer".parse().unwrap(),
            service: "broker".parse().unwrap(),
            action: action.parse().unwrap(),
            params: canonical::Json(params),
            idempotency_key: key.into(),
            issued_at: self.now,
            expires_at: self.now.plus_ms(60_000),
        }
    }

    pub fn decide(&mut self, request: &ActionRequest) -> Result<ActionStatus, Reason> {
        let (request, proof) = prove(request);
        match self.call(Command::Decide { request, proof })? {
            Answer::Action(status) => Ok(status),
            other => panic!("{other:?}"),
        }
    }

    pub fn poll(&mut self, action: &ActionId) -> Result<ActionState, Reason> {
        let read = self.read(action.as_str());
        match self.call(Command::Poll { action: action.clone(), read })? {
            Answer::Action(status) => Ok(status.state),
            other => panic!("{other:?}"),
        }
    }

    pub fn read(&self, id: &str) -> Read {
        let request = ReadRequest {
            instance: self.facts().instance,
            boot: self.facts().boot.clone(),
            tenant: tenant(),
            agent: "trader".parse().unwrap(),
            id: id.into(),
            issued_at: self.now,
            expires_at: self.now.plus_ms(60_000),
        };
        let request = canonical::encode(&request).unwrap();
        let signature = sign::sign(&agent(), Label::Read, &request);
        Read::Signed { request, proof: AgentProof::Signature(signature) }
    }

    pub fn statement(&mut self, action: &ActionId) -> Statement {
        match self.ok(Command::Statement { action: action.clone() }) {
            Answer::Statement { statement } => {
                let signed: Signed<Statement> = canonical::decode(&statement, usize::MAX).unwrap();
                signed.verify(Label::Statement, &[self.facts().chain_key], 1).unwrap();
                signed.payload
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn approve(&mut self, evidence: &Evidence) -> Result<wire::ApprovalStatus, Reason> {
        let evidence = canonical::encode(evidence).unwrap();
        match self.call(Command::Approve { evidence })? {
            Answer::Approval { status } => Ok(status),
            other => panic!("{other:?}"),
        }
    }

    pub fn execute(
        &mut self,
        token: Option<&str>,
        request: &ActionRequest,
    ) -> Result<Answer, Reason> {
        let (request, proof) = prove(request);
        self.call(Command::Execute { token: token.map(String::from), request, proof })
    }

    pub fn redeem(
        &mut self,
        token: Option<&str>,
        request: &ActionRequest,
    ) -> Result<Redeemed, Reason> {
        match self.execute(token, request)? {
            Answer::Redeemed(redeemed) => Ok(redeemed),
            other => panic!("{other:?}"),
        }
    }
}

pub fn admit(list: AdmissionList) -> Command {
    let signed = Signed::by(&operator(), Label::Admission, list).unwrap();
    Command::Admit { admission: canonical::encode(&signed).unwrap() }
}

pub fn cold(l0: [u8; 32], measurement: Hash) -> Enclave {
    Enclave::new(Box::new(Machine::new(l0, measurement)))
}

pub fn prove(request: &ActionRequest) -> (Vec<u8>, AgentProof) {
    let bytes = canonical::encode(request).unwrap();
    let signature = sign::sign(&agent(), Label::Request, &bytes);
    (bytes, AgentProof::Signature(signature))
}
