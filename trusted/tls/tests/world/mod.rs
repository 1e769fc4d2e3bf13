//! Two sides and what is between them.
//!
//! Evidence here is not a quote: it is a boot's name and a keyed hash over name and report data,
//! by an authority whose key no side has. It stands for a quote in all that this crate looks at:
//! it proves 64 bytes, it cannot be made for others, and it can be copied. Real quotes are verified
//! where attestation and this crate meet.

#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "each test file uses its part of the world"
)]

use std::sync::Arc;

use getrandom::{SysRng, rand_core::UnwrapErr};
use toani_protocol::{
    Hash,
    evidence::{ReportData, Role, report_data},
};
use toani_tls::{
    Binding, Certificate, Channel, ChannelError, ChannelKey, Endpoint, Failure, Handshake, Message,
    Next, PeerCertificate, PeerCheck, Refused, Step,
};

pub const MANIFEST: Hash = Hash::new([0x11; 32]);

pub fn rng() -> UnwrapErr<SysRng> {
    UnwrapErr(SysRng)
}

/// Proves report data, as a TEE would.
#[derive(Debug, Clone, Copy)]
pub struct Authority(pub [u8; 32]);

pub const AUTHORITY: Authority = Authority([0x22; 32]);

impl Authority {
    pub fn prove(&self, boot: &str, data: &ReportData) -> Vec<u8> {
        let mac = Hash::of_parts("test/evidence", &[&self.0, boot.as_bytes(), data]);
        [mac.as_bytes().as_slice(), boot.as_bytes()].concat()
    }

    /// The boot that proved this report data.
    fn verify(&self, data: &ReportData, evidence: &[u8]) -> Result<String, Refused> {
        let boot = evidence.get(32..).ok_or(Refused)?;
        let boot = std::str::from_utf8(boot).map_err(|_| Refused)?;
        if self.prove(boot, data) == evidence { Ok(boot.to_owned()) } else { Err(Refused) }
    }

    pub fn boot_of(
        &self,
        role: Role,
        certificate: &PeerCertificate<'_>,
    ) -> Result<String, Refused> {
        let boot = certificate.evidence.get(32..).ok_or(Refused)?;
        let boot = std::str::from_utf8(boot).map_err(|_| Refused)?;
        let data = report_data(role, &MANIFEST, boot, &Hash::of(certificate.spki));
        self.verify(&data, certificate.evidence)
    }
}

/// What both sides check; the peer is the name of its boot.
impl PeerCheck for Authority {
    type Peer = String;

    fn certificate(&self, role: Role, certificate: &PeerCertificate<'_>) -> Result<(), Refused> {
        self.boot_of(role, certificate).map(|_| ())
    }

    fn channel(
        &self,
        role: Role,
        certificate: &PeerCertificate<'_>,
        report_data: &ReportData,
        evidence: &[u8],
    ) -> Result<String, Refused> {
        let boot = self.verify(report_data, evidence)?;
        if boot == self.boot_of(role, certificate)? { Ok(boot) } else { Err(Refused) }
    }
}

/// One boot of one side.
pub struct Boot {
    pub role: Role,
    pub name: &'static str,
    pub certificate: Certificate,
    pub endpoint: Endpoint<Authority>,
}

impl Boot {
    pub fn new(role: Role, name: &'static str) -> Self {
        Self::of_key(role, name, &ChannelKey::generate(&mut rng()))
    }

    pub fn of_key(role: Role, name: &'static str, key: &ChannelKey) -> Self {
        let data = report_data(role, &MANIFEST, name, &key.spki_hash());
        Self::showing(role, name, key, &AUTHORITY.prove(name, &data))
    }

    /// Shows evidence of whatever kind.
    pub fn showing(role: Role, name: &'static str, key: &ChannelKey, evidence: &[u8]) -> Self {
        let certificate = key.certificate(evidence).unwrap();
        let endpoint = Endpoint::new(role, MANIFEST, &certificate, Arc::new(AUTHORITY)).unwrap();
        Self { role, name, certificate, endpoint }
    }

    pub fn side(&self) -> Side {
        let mut side = Side::new(self.name);
        side.take(self.endpoint.start());
        side
    }
}

pub fn enclave() -> Boot {
    Boot::new(Role::Enclave, "boot_enclave")
}

pub fn sandbox() -> Boot {
    Boot::new(Role::Sandbox, "boot_sandbox")
}

pub enum State {
    Handshake(Handshake<Authority>),
    Binding(Binding<Authority>),
    Open(Channel<Authority>),
    Closed,
    Failed(ChannelError),
}

/// One end of one connection, with its caller.
pub struct Side {
    pub boot: &'static str,
    pub state: State,
    /// Bytes that the peer has not got yet.
    pub output: Vec<u8>,
    pub messages: Vec<Message>,
    /// Every report data that evidence was asked for.
    pub asked: Vec<ReportData>,
    /// What evidence is made of each; None leaves the binding waiting.
    pub prove: fn(&str, &ReportData) -> Option<Vec<u8>>,
}

impl Side {
    fn new(boot: &'static str) -> Self {
        Self {
            boot,
            state: State::Closed,
            output: Vec::new(),
            messages: Vec::new(),
            asked: Vec::new(),
            prove: |boot, data| Some(AUTHORITY.prove(boot, data)),
        }
    }

    pub fn take(&mut self, step: Result<Step<Authority>, Failure>) {
        let step = match step {
            Ok(step) => step,
            Err(failure) => {
                self.output.extend(failure.output);
                self.state = State::Failed(failure.error);
                return;
            }
        };
        self.output.extend(step.output);
        self.messages.extend(step.messages);
        self.state = match step.next {
            Next::Handshake(handshake) => State::Handshake(handshake),
            Next::Binding(binding) => State::Binding(binding),
            Next::Open(channel) => State::Open(channel),
            Next::Closed => State::Closed,
            Next::NeedEvidence { report_data, binding } => {
                self.asked.push(report_data);
                match (self.prove)(self.boot, &report_data) {
                    Some(evidence) => return self.take(binding.evidence(&evidence)),
                    None => State::Binding(binding),
                }
            }
        };
    }

    pub fn receive(&mut self, bytes: &[u8]) {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Handshake(state) => self.take(state.receive(bytes)),
            State::Binding(state) => self.take(state.receive(bytes)),
            State::Open(state) => self.take(state.receive(bytes)),
            ended => self.state = ended,
        }
    }

    pub fn channel(&mut self) -> &mut Channel<Authority> {
        let error = self.error();
        match &mut self.state {
            State::Open(channel) => channel,
            _ => panic!("the channel is not open: {error:?}"),
        }
    }

    pub fn send(&mut self, message: &[u8]) {
        let sealed = self.channel().seal(message).unwrap();
        self.output.extend(sealed);
    }

    pub fn reattest(&mut self) {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Open(channel) => self.take(channel.reattest()),
            _ => panic!("the channel is not open"),
        }
    }

    pub fn evidence(&mut self, evidence: &[u8]) {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Binding(binding) => self.take(binding.evidence(evidence)),
            _ => panic!("no binding"),
        }
    }

    pub fn error(&self) -> Option<ChannelError> {
        match self.state {
            State::Failed(error) => Some(error),
            _ => None,
        }
    }

    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    pub fn is_binding(&self) -> bool {
        matches!(self.state, State::Binding(_))
    }

    pub fn taken(&mut self) -> Vec<Vec<u8>> {
        self.messages.drain(..).map(|message| message.to_vec()).collect()
    }
}

/// Carries bytes until neither side has any; in pieces of `piece` bytes.
pub fn carry_in(a: &mut Side, b: &mut Side, piece: usize) {
    while !a.output.is_empty() || !b.output.is_empty() {
        for bytes in std::mem::take(&mut a.output).chunks(piece) {
            b.receive(bytes);
        }
        for bytes in std::mem::take(&mut b.output).chunks(piece) {
            a.receive(bytes);
        }
    }
}

pub fn carry(a: &mut Side, b: &mut Side) {
    carry_in(a, b, usize::MAX);
}

/// Two sides with an open channel.
pub fn open() -> (Side, Side) {
    let (mut a, mut b) = (enclave().side(), sandbox().side());
    carry(&mut a, &mut b);
    assert!(a.is_open() && b.is_open(), "{:?} {:?}", a.error(), b.error());
    (a, b)
}
