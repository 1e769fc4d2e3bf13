//! Test support: a small whole instance with two tenants. host/audit-log makes bundles of it.

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;
use toani_audit::chain::{ChainError, Links, verify_record};
use toani_protocol::{
    ActionId, ActionName, AgentId, BootId, ExecutionId, Hash, Namespace, PolicyId, ServiceId,
    TenantId, Time, UserId,
    assurance::Assurance,
    canonical,
    instance::{AdmissionFormat, AdmissionList, Manifest, ManifestFormat, SgxPolicy, TcbVersion},
    policy::{Policy, PolicyFormat, Tier},
    record::{About, Connection, Outcome, PolicyRef, Receipt, ReceiptFormat, Record, RecordKind},
    sign::{Label, PublicKey, Signature, Signed, sign},
};

pub(crate) const ORIGIN: &str = "log.example/1";

/// The hash of every boot's channel key.
pub(crate) const CHANNEL: Hash = Hash::new([7; 32]);

/// What the sandbox's containers run.
pub(crate) const ROOT_FILE_SYSTEM: Hash = Hash::new([8; 32]);

/// Time of the first record.
pub(crate) const START_MS: u64 = 1_773_224_100_000;

/// What the execution opened.
pub(crate) fn connection() -> Connection {
    Connection { host: "api.example".into(), port: 443, bytes_out: 100, bytes_in: 200 }
}

pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub(crate) fn tenant(seed: u8) -> TenantId {
    TenantId::of_first_key(&PublicKey::of(&key(seed)))
}

pub(crate) fn measurement() -> Hash {
    Hash::of(b"enclave")
}

pub(crate) fn manifest() -> Vec<u8> {
    canonical::encode(&Manifest {
        format: ManifestFormat::V1,
        sgx_roots: vec![Hash::of(b"a root")],
        sgx_policy: SgxPolicy::up_to_date(),
        snp_roots: vec![Hash::of(b"another root")],
        operators: vec![PublicKey::of(&key(2))],
        quorum: 1,
        log_origin: ORIGIN.into(),
        nonce: Hash::of(b"nonce"),
    })
    .unwrap()
}

/// An instance whose log key, operator and tenants come from small seeds.
pub(crate) struct World {
    pub(crate) log: SigningKey,
    pub(crate) manifest: Vec<u8>,
    pub(crate) admission: Vec<u8>,
    pub(crate) policy: Vec<u8>,
    pub(crate) boot: BootId,
    /// The boot's evidence.
    pub(crate) evidence: Vec<u8>,
    pub(crate) chain: ChainVerifier,
    pub(crate) leaves: Vec<Vec<u8>>,
    pub(crate) receipt: Vec<u8>,
}

impl World {
    /// One boot, which shows this evidence.
    pub(crate) fn new(evidence: &[u8]) -> Self {
        let manifest = manifest();
        let admission = AdmissionList {
            format: AdmissionFormat::V1,
            instance: Manifest::id_of(&manifest),
            version: 1,
            enclaves: Vec::new(),
            sandboxes: Vec::new(),
            chips: Vec::new(),
            min_tcb: TcbVersion::default(),
            refused_products: Vec::new(),
            min_crl_number: None,
        };
        let policy = Policy {
            format: PolicyFormat::V1,
            tenant: tenant(3),
            id: PolicyId::new("p").unwrap(),
            version: 1,
            not_before: Time::from_ms(0),
            expires: Time::from_ms(1_000_000),
            namespace: Namespace::new("n").unwrap(),
            persons: BTreeMap::new(),
            agents: BTreeMap::new(),
            credentials: BTreeMap::new(),
            services: BTreeMap::new(),
            quotas: BTreeMap::new(),
        };
        let signed = Signed::by(&key(2), Label::Admission, admission).unwrap();
        let policy = Signed::by(&key(3), Label::Policy, policy).unwrap();
        let mut world = Self {
            log: key(1),
            manifest,
            admission: canonical::encode(&signed).unwrap(),
            policy: canonical::encode(&policy).unwrap(),
            boot: BootId::new("boot_1").unwrap(),
            evidence: evidence.to_vec(),
            chain: ChainVerifier::new(ORIGIN, PublicKey::of(&key(1))),
            leaves: Vec::new(),
            receipt: Vec::new(),
        };
        world.append(RecordKind::Birth, About::default());
        world.append(RecordKind::Boot, About { blob: Some(CHANNEL), ..About::default() });
        world.tenant_record(3, RecordKind::PolicyActivated, world.about());
        world.tenant_record(4, RecordKind::Refused, About::default());
        world.tenant_record(3, RecordKind::Allowed, world.about());
        let started = world.tenant_record(3, RecordKind::Started, world.about());
        world.tenant_record(4, RecordKind::Refused, About::default());
        world.receipt = world.make_receipt(started);
        world.tenant_record(3, RecordKind::Finished, world.finished());
        world
    }

    /// What a record says of an execution that ended with the receipt.
    pub(crate) fn finished(&self) -> About {
        About {
            outcome: Some(Outcome::Succeeded),
            assurance: Some(Assurance::LOWEST),
            execution_receipt: Some(Receipt::hash_of(&self.receipt)),
            connections: Some(vec![connection()]),
            ..self.about()
        }
    }

    pub(crate) fn policy_ref(&self) -> PolicyRef {
        PolicyRef { id: PolicyId::new("p").unwrap(), version: 1, hash: Hash::of(&self.policy) }
    }

    pub(crate) fn about(&self) -> About {
        About {
            policy: Some(self.policy_ref()),
            execution_id: Some(ExecutionId::new("exe_1").unwrap()),
            root_file_system: Some(ROOT_FILE_SYSTEM),
            ..About::default()
        }
    }

    pub(crate) fn make_receipt(&self, started: u64) -> Vec<u8> {
        let hash = Hash::of(b"any");
        let receipt = Receipt {
            format: ReceiptFormat::V1,
            instance: Manifest::id_of(&self.manifest),
            boot: self.boot.clone(),
            action_id: ActionId::new("act_1").unwrap(),
            execution_id: ExecutionId::new("exe_1").unwrap(),
            tenant: tenant(3),
            agent: AgentId::new("a").unwrap(),
            user: UserId::new("u").unwrap(),
            service: ServiceId::new("s").unwrap(),
            action: ActionName::new("act").unwrap(),
            params_hash: hash,
            params_nonce: hash,
            plan_hash: hash,
            policy: self.policy_ref(),
            credential: None,
            tier: Tier::Zero,
            hitl_proof: None,
            jti_hash: hash,
            outcome: Outcome::Succeeded,
            upstream_status: Some(200),
            result_hash: None,
            assurance: Assurance::LOWEST,
            admission: Hash::of(&self.admission),
            tee_mrenclave: measurement(),
            evidence: Hash::of(&self.evidence),
            sandbox: hash,
            root_file_system: ROOT_FILE_SYSTEM,
            connections: vec![connection()],
            started,
            started_at: Time::from_ms(1),
            finished_at: Time::from_ms(2),
        };
        let signed = Signed::by(&self.log, Label::Receipt, receipt).unwrap();
        canonical::encode(&signed).unwrap()
    }

    pub(crate) fn tenant_record(&mut self, seed: u8, kind: RecordKind, about: About) -> u64 {
        let tip = self.chain.links().tenant(&tenant(seed));
        let about = About {
            tenant: Some(tenant(seed)),
            tenant_sequence: Some(tip.sequence),
            tenant_previous: Some(tip.previous),
            ..about
        };
        self.append(kind, about)
    }

    pub(crate) fn append(&mut self, kind: RecordKind, about: About) -> u64 {
        let links = self.chain.links();
        let index = links.size();
        let mut record = Record {
            index,
            origin: ORIGIN.into(),
            previous: links.head(),
            time: Time::from_ms(START_MS + index),
            boot: self.boot.clone(),
            kind,
            tee_mrenclave: measurement(),
            evidence: Hash::of(&self.evidence),
            admission: Hash::of(&self.admission),
            about,
            chain_signature: Signature([0; 64]),
        };
        let bytes = record.unsigned_bytes().unwrap();
        record.chain_signature = sign(&self.log, Label::Record, &bytes);
        let leaf = canonical::encode(&record).unwrap();
        self.chain.push(&leaf).unwrap();
        self.leaves.push(leaf);
        index
    }
}

/// Walks a whole log from its first leaf.
#[derive(Debug, Clone)]
pub(crate) struct ChainVerifier {
    origin: String,
    key: PublicKey,
    links: Links,
}

impl ChainVerifier {
    /// Before the first leaf of the log with this origin and key.
    pub(crate) fn new(origin: &str, key: PublicKey) -> Self {
        Self { origin: String::from(origin), key, links: Links::new() }
    }

    /// Verifies the next leaf whole and moves past it. Nothing changes on an error.
    pub(crate) fn push(&mut self, leaf: &[u8]) -> Result<Record, ChainError> {
        let record = verify_record(leaf, &self.origin, &self.key)?;
        self.links.advance(&record, Record::hash_of(leaf))?;
        Ok(record)
    }

    /// The chain as far as it was walked.
    pub(crate) fn links(&self) -> &Links {
        &self.links
    }
}
