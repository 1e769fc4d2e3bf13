//! A connection from its first byte to its last, as types: [`Handshake`], [`Binding`], [`Channel`].
//!
//! Every call takes the state by value and gives back the next one. An error gives back none.

use alloc::{sync::Arc, vec::Vec};
use core::fmt;

use toani_protocol::{Hash, evidence::ReportData};
use zeroize::Zeroizing;

use crate::{
    binding::{Binding, Core},
    error::{ChannelError, Failure},
    frame::Kind,
    verifier::PeerCheck,
};

/// A message from the peer. It may carry a credential and zeroes itself.
pub type Message = Zeroizing<Vec<u8>>;

/// What came of a call.
#[must_use]
pub struct Step<C: PeerCheck> {
    /// Bytes for the peer, often none. They must reach it in the order of the calls.
    pub output: Vec<u8>,
    /// Messages from the peer, which has been verified.
    pub messages: Vec<Message>,
    pub next: Next<C>,
}

/// How a connection goes on.
pub enum Next<C: PeerCheck> {
    /// TLS is not done: more bytes are needed.
    Handshake(Handshake<C>),
    /// The peer's part of the binding is not all there: more bytes are needed.
    Binding(Binding<C>),
    /// As before, and [`Binding::evidence`] wants evidence for this report data. Said once in each
    /// binding; bytes from the peer may be given to `binding` meanwhile.
    NeedEvidence { report_data: ReportData, binding: Binding<C> },
    /// Both sides have verified each other, for this connection.
    Open(Channel<C>),
    /// The peer has closed the open channel.
    Closed,
}

/// TLS itself. What of the peer's certificate can be checked without the caller, TLS checks.
pub struct Handshake<C>(pub(crate) Core<C>);

impl<C: PeerCheck> Handshake<C> {
    pub fn receive(self, bytes: &[u8]) -> Result<Step<C>, Failure> {
        let Self(mut core) = self;
        if let Err(error) = core.pump.receive(bytes) {
            return Err(core.fail(error));
        }
        if core.pump.closed {
            return Err(core.fail(ChannelError::Closed));
        }
        if core.pump.is_handshaking() {
            let output = core.take_output();
            return Ok(Step { output, messages: Vec::new(), next: Next::Handshake(Self(core)) });
        }
        match check_certificate(&core) {
            Ok(peer_key) => Binding::begin(core, peer_key, false)?.advance(Vec::new()),
            Err(error) => Err(core.fail(error)),
        }
    }
}

/// The first stage: the evidence in the peer's certificate vouches for the key that it has proved
/// to have. Answers with the key's hash.
fn check_certificate<C: PeerCheck>(core: &Core<C>) -> Result<Hash, ChannelError> {
    let certificate = core.pump.peer_certificate()?;
    let checked = core.check.certificate(core.role.peer(), &certificate);
    checked.map_err(|_| ChannelError::CertificateRefused)?;
    Ok(Hash::of(certificate.spki))
}

/// An open channel: both sides have verified each other on this connection, and both know it.
pub struct Channel<C: PeerCheck> {
    core: Core<C>,
    peer_key: Hash,
    peer: C::Peer,
}

impl<C: PeerCheck> Channel<C> {
    /// Only a binding that is complete makes one.
    pub(crate) fn new(core: Core<C>, peer_key: Hash, peer: C::Peer) -> Self {
        Self { core, peer_key, peer }
    }

    /// Who the peer has been shown to be, by the last binding.
    pub fn peer(&self) -> &C::Peer {
        &self.peer
    }

    /// The TLS records of one message of at most `MESSAGE_BYTES_MAX` bytes. Nothing has been sent
    /// if it is larger; after any other error the channel is closed.
    pub fn seal(&mut self, message: &[u8]) -> Result<Vec<u8>, ChannelError> {
        if self.core.pump.closed {
            return Err(ChannelError::Closed);
        }
        match self.core.pump.send(Kind::Message, message) {
            Ok(()) => Ok(self.core.take_output()),
            Err(ChannelError::TooLarge) => Err(ChannelError::TooLarge),
            Err(error) => {
                self.core.pump.closed = true;
                Err(error)
            }
        }
    }

    /// Takes bytes from the peer, which may also ask for a new binding.
    pub fn receive(mut self, bytes: &[u8]) -> Result<Step<C>, Failure> {
        match self.core.pump.receive(bytes) {
            Ok(()) => self.advance(Vec::new()),
            Err(error) => Err(self.core.fail(error)),
        }
    }

    /// Binds this connection again, with new nonces and new evidence from both sides. Either side
    /// may begin, also both at once. Until it is done no message can be sent; those that the peer
    /// sent before it heard of it still arrive.
    pub fn reattest(self) -> Result<Step<C>, Failure> {
        Binding::begin(self.core, self.peer_key, true)?.advance(Vec::new())
    }

    /// Ends the channel. The bytes are the last for the peer.
    pub fn close(self) -> Vec<u8> {
        self.core.pump.close()
    }

    pub(crate) fn advance(mut self, mut messages: Vec<Message>) -> Result<Step<C>, Failure> {
        while let Some(frame) = self.core.pump.frames.take() {
            match frame.kind {
                Kind::Message => messages.push(frame.body),
                Kind::Nonce => {
                    self.core.pump.frames.put_back(frame);
                    return Binding::begin(self.core, self.peer_key, true)?.advance(messages);
                }
                Kind::Evidence | Kind::Bound => {
                    return Err(self.core.fail(ChannelError::PeerMisbehaved));
                }
            }
        }
        let between_frames = self.core.pump.frames.is_empty();
        match (self.core.pump.closed, between_frames) {
            (true, false) => Err(self.core.fail(ChannelError::PeerMisbehaved)),
            (true, true) => {
                let output = self.close();
                Ok(Step { output, messages, next: Next::Closed })
            }
            (false, _) => {
                let output = self.core.take_output();
                Ok(Step { output, messages, next: Next::Open(self) })
            }
        }
    }
}

/// What a check needs to decide changes while a connection lives: time passes, and lists replace
/// each other.
macro_rules! judged_by {
    ($($name:ident $(. $core:tt)+),*) => {$(
        impl<C: PeerCheck> $name<C> {
            /// From now on this check judges what the peer shows.
            pub fn judged_by(mut self, check: Arc<C>) -> Self {
                self $(. $core)+ .check = check;
                self
            }
        }
    )*};
}

judged_by!(Handshake.0, Binding.core, Channel.core);

macro_rules! debug_as_name {
    ($($name:ident),*) => {$(
        impl<C: PeerCheck> fmt::Debug for $name<C> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    )*};
}

debug_as_name!(Handshake, Binding, Channel);

impl<C: PeerCheck> fmt::Debug for Next<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Handshake(_) => "Handshake",
            Self::Binding(_) => "Binding",
            Self::NeedEvidence { .. } => "NeedEvidence",
            Self::Open(_) => "Open",
            Self::Closed => "Closed",
        })
    }
}

impl<C: PeerCheck> fmt::Debug for Step<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step")
            .field("output_bytes", &self.output.len())
            .field("messages", &self.messages.len())
            .field("next", &self.next)
            .finish()
    }
}
