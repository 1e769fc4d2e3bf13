//! The second stage: both sides prove, for this very connection, that they are still who their
//! certificates say.
//!
//! ```text
//!     each side                          the other
//!     Nonce      32 random bytes     ->
//!                <-                      Nonce
//!     Evidence   over both nonces    ->  verifies it
//!                <-                      Bound
//! ```
//!
//! Both do all of it at once, and wait for each other only where an arrow comes in. A side's
//! evidence is made by its caller, who has to ask its host for a quote meanwhile.

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::mem;

use toani_protocol::{
    Hash,
    evidence::{ChannelTranscript, ReportData, Role, channel_report_data},
};

use crate::{
    channel::{Channel, Message, Next, Step},
    error::{ChannelError, Failure},
    frame::{Frame, Kind},
    provider,
    pump::Pump,
    verifier::PeerCheck,
};

/// Label of the exporter (RFC 8446, 7.5).
const EXPORTER_LABEL: &[u8] = b"EXPORTER-toani-ra-tls-v1";

/// What every state of a channel has.
pub(crate) struct Core<C> {
    pub(crate) role: Role,
    pub(crate) manifest: Hash,
    pub(crate) own_key: Hash,
    pub(crate) check: Arc<C>,
    pub(crate) pump: Box<Pump>,
}

impl<C> Core<C> {
    pub(crate) fn take_output(&mut self) -> Vec<u8> {
        mem::take(&mut self.pump.output)
    }

    pub(crate) fn fail(self, error: ChannelError) -> Failure {
        self.pump.fail(error)
    }
}

/// A connection that is being bound, for the first time or again. It cannot carry a message.
pub struct Binding<C: PeerCheck> {
    pub(crate) core: Core<C>,
    peer_key: Hash,
    /// The channel was open before. What the peer sent before it knew of this binding still counts.
    again: bool,
    nonce: [u8; 32],
    peer_nonce: Option<[u8; 32]>,
    own_evidence: OwnEvidence,
    peer: Option<C::Peer>,
    /// The peer has verified this side.
    peer_has_bound: bool,
}

/// How far this side's proof is.
#[derive(PartialEq)]
enum OwnEvidence {
    /// The peer's nonce is not here yet.
    NotNeeded,
    /// The caller has been asked.
    Asked,
    Sent,
}

impl<C: PeerCheck> Binding<C> {
    /// Sends this side's nonce.
    pub(crate) fn begin(mut core: Core<C>, peer_key: Hash, again: bool) -> Result<Self, Failure> {
        let nonce = provider::random().map_err(|_| ChannelError::NoRandomness);
        let nonce = nonce.and_then(|nonce| {
            core.pump.send(Kind::Nonce, &nonce)?;
            Ok(nonce)
        });
        match nonce {
            Ok(nonce) => Ok(Self {
                core,
                peer_key,
                again,
                nonce,
                peer_nonce: None,
                own_evidence: OwnEvidence::NotNeeded,
                peer: None,
                peer_has_bound: false,
            }),
            Err(error) => Err(core.fail(error)),
        }
    }

    /// Takes bytes from the peer, also while evidence is being made.
    pub fn receive(mut self, bytes: &[u8]) -> Result<Step<C>, Failure> {
        match self.core.pump.receive(bytes) {
            Ok(()) => self.advance(Vec::new()),
            Err(error) => Err(self.core.fail(error)),
        }
    }

    /// Takes the evidence that [`Next::NeedEvidence`] asked for.
    pub fn evidence(mut self, evidence: &[u8]) -> Result<Step<C>, Failure> {
        if self.own_evidence != OwnEvidence::Asked {
            return Err(self.core.fail(ChannelError::UnexpectedEvidence));
        }
        self.own_evidence = OwnEvidence::Sent;
        match self.core.pump.send(Kind::Evidence, evidence) {
            Ok(()) => self.advance(Vec::new()),
            Err(error) => Err(self.core.fail(error)),
        }
    }

    /// Goes as far as what the peer has sent allows.
    pub(crate) fn advance(mut self, mut messages: Vec<Message>) -> Result<Step<C>, Failure> {
        let mut needed = None;
        while self.peer.is_none() || !self.peer_has_bound {
            let Some(frame) = self.core.pump.frames.take() else {
                return self.wait(messages, needed);
            };
            match self.take(frame, &mut messages) {
                Ok(report_data) => needed = needed.or(report_data),
                Err(error) => return Err(self.core.fail(error)),
            }
        }
        match self.peer {
            Some(peer) => Channel::new(self.core, self.peer_key, peer).advance(messages),
            None => Err(self.core.fail(ChannelError::Internal)),
        }
    }

    fn wait(
        mut self,
        messages: Vec<Message>,
        needed: Option<ReportData>,
    ) -> Result<Step<C>, Failure> {
        if self.core.pump.closed {
            return Err(self.core.fail(ChannelError::Closed));
        }
        let output = self.core.take_output();
        let next = match needed {
            Some(report_data) => Next::NeedEvidence { report_data, binding: self },
            None => Next::Binding(self),
        };
        Ok(Step { output, messages, next })
    }

    /// One frame, at its one place. Answers with the report data that evidence is needed for.
    fn take(
        &mut self,
        frame: Frame,
        messages: &mut Vec<Message>,
    ) -> Result<Option<ReportData>, ChannelError> {
        match (frame.kind, self.peer_nonce) {
            (Kind::Nonce, None) => {
                let nonce: Result<[u8; 32], _> = frame.body.as_slice().try_into();
                let nonce = nonce.map_err(|_| ChannelError::PeerMisbehaved)?;
                self.peer_nonce = Some(nonce);
                self.own_evidence = OwnEvidence::Asked;
                self.report_data(self.core.role, &nonce).map(Some)
            }
            (Kind::Evidence, Some(nonce)) if self.peer.is_none() => {
                let role = self.core.role.peer();
                let report_data = self.report_data(role, &nonce)?;
                let certificate = self.core.pump.peer_certificate()?;
                let check = &self.core.check;
                let peer = check.channel(role, &certificate, &report_data, &frame.body);
                self.peer = Some(peer.map_err(|_| ChannelError::ChannelRefused)?);
                self.core.pump.send(Kind::Bound, &[])?;
                Ok(None)
            }
            (Kind::Bound, Some(_))
                if self.own_evidence == OwnEvidence::Sent && !self.peer_has_bound =>
            {
                self.peer_has_bound = true;
                Ok(None)
            }
            (Kind::Message, None) if self.again => {
                messages.push(frame.body);
                Ok(None)
            }
            (Kind::Message, _) => Err(ChannelError::UnexpectedMessage),
            _ => Err(ChannelError::PeerMisbehaved),
        }
    }

    fn report_data(&self, role: Role, peer_nonce: &[u8; 32]) -> Result<ReportData, ChannelError> {
        let own = (self.core.own_key, self.nonce);
        let peer = (self.peer_key, *peer_nonce);
        let (enclave, sandbox) = match self.core.role {
            Role::Enclave => (own, peer),
            Role::Sandbox => (peer, own),
        };
        let channel = ChannelTranscript {
            manifest: self.core.manifest,
            enclave_key: enclave.0,
            sandbox_key: sandbox.0,
            enclave_nonce: enclave.1,
            sandbox_nonce: sandbox.1,
            exporter: self.core.pump.export(EXPORTER_LABEL)?,
        };
        Ok(channel_report_data(role, &channel))
    }
}
