//! The enclave's end of the channel, in this process: real TLS, evidence of a simulated processor.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock},
};

use ed25519_dalek::SigningKey;
use getrandom::{SysRng, rand_core::UnwrapErr};
use toani_attestation::{Evidence, snp};
use toani_protocol::{
    assurance::SandboxLevel,
    canonical,
    evidence::{BootKeys, ReportData, Role, report_data, sandbox_report_data},
    ids::{BootId, ExecutionId, Hash, Time},
    instance::{
        AdmissionFormat, AdmissionList, AdmittedSandbox, LaunchDigest, Manifest, ManifestFormat,
        RootFileSystems, SgxPolicy, SnpPolicy, TcbVersion,
    },
    job::{Job, JobMessage, JobOutcome, OutcomeMessage},
    plan::Plan,
    sign::{Bytes, Label, PublicKey, Signed},
    wire,
};
use toani_sandbox::{
    SupervisorClient,
    messages::{Connect, EnclaveBoot, FromSupervisor, ToSupervisor},
};
use toani_simulator::{Authority, Identity, Platform, Processor};
use toani_tls::{
    Binding, Channel, ChannelKey, Endpoint, Failure, Handshake, Next, PeerCertificate, PeerCheck,
    Refused, Step,
};
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) const MRENCLAVE: [u8; 32] = [0xe5; 32];

/// The folder of the simulated machine of all tests.
pub(crate) fn machine() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("simulated-machine");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

pub(crate) fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| Authority::open_or_create(&machine()).unwrap())
}

pub(crate) fn operator() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

fn now() -> Time {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Time::from_ms(since.as_millis().try_into().unwrap())
}

pub(crate) fn manifest() -> Vec<u8> {
    let manifest = Manifest {
        format: ManifestFormat::V1,
        sgx_roots: vec![authority().sgx_root()],
        sgx_policy: SgxPolicy::up_to_date(),
        snp_roots: vec![authority().snp_root().unwrap()],
        operators: vec![PublicKey::of(&operator())],
        quorum: 1,
        log_origin: "log.example/test".into(),
        nonce: Hash::of(b"nonce"),
    };
    canonical::encode(&manifest).unwrap()
}

/// Of a list that nobody runs anything under.
const ROOT_FILE_SYSTEM: Hash = Hash::new([0x5f; 32]);

/// An admission list under which a bench works.
pub(crate) fn list(version: u64) -> AdmissionList {
    AdmissionList {
        format: AdmissionFormat::V1,
        instance: Manifest::id_of(&manifest()),
        version,
        enclaves: vec![Hash::new(MRENCLAVE)],
        sandboxes: vec![AdmittedSandbox {
            launch_digest: Bytes(vec![0; 48]),
            level: SandboxLevel::Native,
            root_file_systems: RootFileSystems { connector: ROOT_FILE_SYSTEM, browser: None },
        }],
        chips: vec![],
        min_tcb: TcbVersion::default(),
        refused_products: vec![],
        min_crl_number: None,
    }
}

pub(crate) fn signed(list: AdmissionList, key: &SigningKey) -> Vec<u8> {
    canonical::encode(&Signed::by(key, Label::Admission, list).unwrap()).unwrap()
}

/// What an enclave is, and what of it is a lie.
#[derive(Clone)]
pub(crate) struct Enclave {
    pub(crate) mrenclave: [u8; 32],
    pub(crate) debug: bool,
    pub(crate) platform: Platform,
    pub(crate) manifest: Vec<u8>,
    pub(crate) admission: Vec<u8>,
    /// The evidence in its certificate is for this role and key, if not for its own.
    pub(crate) stage_1: Option<(Role, Hash)>,
    /// What its jobs are to run, by the names of their classes.
    pub(crate) root_file_systems: RootFileSystems,
    /// Its evidence for the channel is for other report data.
    pub(crate) stage_2: fn(ReportData) -> ReportData,
}

impl Enclave {
    pub(crate) fn honest() -> Self {
        Self {
            mrenclave: MRENCLAVE,
            debug: false,
            platform: Platform::number(1),
            manifest: manifest(),
            admission: signed(list(1), &operator()),
            stage_1: None,
            stage_2: |data| data,
            root_file_systems: RootFileSystems { connector: ROOT_FILE_SYSTEM, browser: None },
        }
    }

    fn quote(&self, data: &ReportData) -> Vec<u8> {
        let identity = Identity {
            mrenclave: self.mrenclave,
            mrsigner: [2; 32],
            attributes: [
                5 | u8::from(self.debug) << 1,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                7,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
            ],
            misc_select: 0,
            isv_prod_id: 1,
            isv_svn: 1,
        };
        let report = Processor::of_secret([7; 32]).ereport(&identity, &[0; 512], data);
        let body = report.first_chunk().unwrap();
        let evidence = authority().sgx_evidence(&self.platform, body, now()).unwrap();
        Evidence::Sgx(evidence).encode().unwrap()
    }
}

/// What the enclave asks of the supervisor.
struct SandboxCheck {
    instance: Hash,
    launch_digest: LaunchDigest,
}

impl SandboxCheck {
    fn verify(&self, evidence: &[u8], data: &ReportData) -> Result<(), Refused> {
        let Ok(Evidence::Snp(evidence)) = Evidence::decode(evidence) else { return Err(Refused) };
        let policy = SnpPolicy {
            chips: vec![Bytes(authority().chip().id.to_vec())],
            launch_digests: vec![Bytes(self.launch_digest.to_vec())],
            min_tcb: TcbVersion::default(),
            refused_products: vec![],
            min_crl_number: None,
        };
        let roots = [authority().snp_root().unwrap()];
        let verdict = snp::verify(&evidence, &roots, &policy, now()).map_err(|_| Refused)?;
        if verdict.report_data == *data { Ok(()) } else { Err(Refused) }
    }
}

impl PeerCheck for SandboxCheck {
    type Peer = ();

    fn certificate(&self, _: Role, certificate: &PeerCertificate<'_>) -> Result<(), Refused> {
        let data = sandbox_report_data(&self.instance, &Hash::of(certificate.spki));
        self.verify(certificate.evidence, &data)
    }

    fn channel(
        &self,
        _: Role,
        _: &PeerCertificate<'_>,
        data: &ReportData,
        evidence: &[u8],
    ) -> Result<(), Refused> {
        self.verify(evidence, data)
    }
}

enum State {
    Handshake(Handshake<SandboxCheck>),
    Binding(Binding<SandboxCheck>),
    Open(Channel<SandboxCheck>),
    Ended,
}

/// How far the channel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Binding,
    Open,
    Ended,
}

/// A supervisor that is gone, or will not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost;

/// One connection to a supervisor.
pub(crate) struct Link {
    enclave: Enclave,
    connection: u64,
    client: SupervisorClient,
    state: Mutex<State>,
    stage: watch::Sender<Stage>,
    /// Evidence that was asked for, for the first binding and the ones after it.
    pub(crate) bindings: watch::Sender<u32>,
    waiting: Mutex<HashMap<ExecutionId, oneshot::Sender<JobOutcome>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

impl Link {
    pub(crate) fn begin(
        enclave: Enclave,
        connection: u64,
        client: SupervisorClient,
        launch_digest: LaunchDigest,
    ) -> Arc<Self> {
        let key = ChannelKey::generate(&mut UnwrapErr(SysRng));
        let instance = Manifest::id_of(&enclave.manifest);
        let boot = EnclaveBoot {
            boot: BootId::from_random([1; 16]),
            chain_key: PublicKey::of(&operator()),
            intake_key: [3; 32],
        };
        let (role, channel) = enclave.stage_1.unwrap_or((Role::Enclave, key.spki_hash()));
        let keys = BootKeys { chain: boot.chain_key, intake: boot.intake_key, channel };
        let data = report_data(role, &instance, boot.boot.as_str(), &keys.hash());
        let certificate = key.certificate(&enclave.quote(&data)).unwrap();
        let check = Arc::new(SandboxCheck { instance, launch_digest });
        let endpoint = Endpoint::new(Role::Enclave, instance, &certificate, check).unwrap();
        let (manifest, admission) = (enclave.manifest.clone(), enclave.admission.clone());
        let connect = Connect { connection, manifest, admission, boot };
        client.send(ToSupervisor::Connect(Box::new(connect))).unwrap();
        let link = Self {
            enclave,
            connection,
            client,
            state: Mutex::new(State::Ended),
            stage: watch::Sender::new(Stage::Binding),
            bindings: watch::Sender::new(0),
            waiting: Mutex::default(),
        };
        link.take(&mut lock(&link.state), endpoint.start());
        Arc::new(link)
    }

    /// Takes what the supervisor says, until it is gone.
    pub(crate) async fn listen(self: Arc<Self>, mut messages: mpsc::Receiver<FromSupervisor>) {
        self.take_all(&mut messages).await;
    }

    pub(crate) async fn take_all(self: Arc<Self>, messages: &mut mpsc::Receiver<FromSupervisor>) {
        while let Some(message) = messages.recv().await {
            match message {
                FromSupervisor::Bytes { connection, bytes } if connection == self.connection => {
                    self.receive(&bytes);
                }
                FromSupervisor::Ended { connection, .. } if connection == self.connection => {
                    self.over();
                }
                _ => {}
            }
        }
        self.over();
    }

    fn over(&self) {
        *lock(&self.state) = State::Ended;
        self.stage.send_replace(Stage::Ended);
        lock(&self.waiting).clear();
    }

    fn receive(&self, bytes: &[u8]) {
        let state = &mut *lock(&self.state);
        let step = match std::mem::replace(state, State::Ended) {
            State::Handshake(open) => open.receive(bytes),
            State::Binding(open) => open.receive(bytes),
            State::Open(open) => open.receive(bytes),
            State::Ended => return,
        };
        self.take(state, step);
    }

    fn take(&self, state: &mut State, step: Result<Step<SandboxCheck>, Failure>) {
        let Ok(step) = step else {
            self.stage.send_replace(Stage::Ended);
            return;
        };
        self.send_bytes(step.output);
        for message in step.messages {
            let OutcomeMessage { execution, outcome, jti } =
                wire::decode(&message, usize::MAX).unwrap();
            assert_eq!(jti, Hash::of(execution.as_str().as_bytes()));
            let waiting = lock(&self.waiting).remove(&execution);
            // Whoever waited may have given up.
            let _ = waiting.unwrap().send(outcome);
        }
        let (next, stage) = match step.next {
            Next::Handshake(next) => (State::Handshake(next), Stage::Binding),
            Next::Binding(next) => (State::Binding(next), Stage::Binding),
            Next::Open(next) => (State::Open(next), Stage::Open),
            Next::Closed => (State::Ended, Stage::Ended),
            Next::NeedEvidence { report_data, binding } => {
                self.bindings.send_modify(|count| *count += 1);
                let evidence = self.enclave.quote(&(self.enclave.stage_2)(report_data));
                return self.take(state, binding.evidence(&evidence));
            }
        };
        *state = next;
        self.stage.send_replace(stage);
    }

    fn send_bytes(&self, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            let connection = self.connection;
            // One that is gone is noticed when its messages end.
            let _ = self.client.send(ToSupervisor::Bytes { connection, bytes });
        }
    }

    pub(crate) fn stages(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    /// Waits until both sides have verified each other, or one of them will not.
    pub(crate) async fn settled(&self) -> Stage {
        let mut stage = self.stage.subscribe();
        *stage.wait_for(|stage| *stage != Stage::Binding).await.unwrap()
    }

    /// Any message.
    pub(crate) async fn send(&self, message: &[u8]) -> Result<(), Lost> {
        if self.settled().await != Stage::Open {
            return Err(Lost);
        }
        match &mut *lock(&self.state) {
            State::Open(channel) => self.send_bytes(channel.seal(message).unwrap()),
            _ => return Err(Lost),
        }
        Ok(())
    }

    pub(crate) async fn run(&self, plan: &Plan, credential: &[u8]) -> Result<JobOutcome, Lost> {
        let execution =
            ExecutionId::from_random(u128::from(getrandom::u64().unwrap()).to_le_bytes());
        let jti = Hash::of(execution.as_str().as_bytes());
        let job = Job { plan: plan.seal().unwrap().0, credential: credential.to_vec() };
        let named = self.enclave.root_file_systems.get(plan.class.root_file_system);
        let root_file_system = named.unwrap_or(ROOT_FILE_SYSTEM);
        let message = JobMessage { execution: execution.clone(), jti, root_file_system, job };
        let (sender, outcome) = oneshot::channel();
        lock(&self.waiting).insert(execution, sender);
        self.send(&wire::encode(&message).unwrap()).await?;
        outcome.await.map_err(|_| Lost)
    }
}
