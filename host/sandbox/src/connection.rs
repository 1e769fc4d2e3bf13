//! One connection of the supervisor to an enclave, as bytes in and bytes out.

use std::{collections::VecDeque, sync::Arc};

use toani_protocol::{
    evidence::{ReportData, Role, sandbox_report_data},
    job::{JobMessage, OutcomeMessage},
    limits::{MESSAGE_BYTES_MAX, OPEN_EXECUTIONS_MAX},
    wire,
};
use toani_tls::{
    Binding, Channel, ChannelError, ChannelKey, Endpoint, Failure, Handshake, Next, Step,
};

use crate::{
    evidence::{EvidenceError, now},
    peer::{EnclaveCheck, Terms},
};

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Ended {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    #[error("the certificate cannot be made: {0}")]
    Certificate(#[from] toani_tls::CertificateError),
    #[error("the enclave closed the channel")]
    Closed,
    #[error("the enclave sent what is no job")]
    NoJob,
    #[error("more outcomes wait than executions can be open")]
    TooMany,
}

enum State {
    Handshake(Handshake<EnclaveCheck>),
    Binding(Binding<EnclaveCheck>),
    Open(Channel<EnclaveCheck>),
    Ended,
}

/// What a step brought.
#[derive(Debug, Default)]
pub(crate) struct Brought {
    /// For the enclave, also when the connection has ended.
    pub(crate) bytes: Vec<u8>,
    pub(crate) jobs: Vec<JobMessage>,
    /// Evidence over this is needed for [`Connection::evidence`].
    pub(crate) needed: Option<ReportData>,
    pub(crate) ended: Option<Ended>,
}

/// A connection and the outcomes that wait for it to be open.
pub(crate) struct Connection {
    state: State,
    terms: Terms,
    waiting: VecDeque<OutcomeMessage>,
}

impl Connection {
    /// Waits for an enclave's first bytes. `evidence` vouches for `key`, see [`vouched`].
    pub(crate) fn new(key: &ChannelKey, terms: Terms, evidence: &[u8]) -> Result<Self, Ended> {
        let certificate = key.certificate(evidence)?;
        let check = Arc::new(EnclaveCheck { terms: terms.clone(), now: now() });
        let endpoint = Endpoint::new(Role::Sandbox, terms.instance, &certificate, check)?;
        let state = match endpoint.start().map_err(|failure| failure.error)?.next {
            Next::Handshake(handshake) => State::Handshake(handshake),
            _ => return Err(ChannelError::Internal.into()),
        };
        Ok(Self { state, terms, waiting: VecDeque::new() })
    }

    pub(crate) fn terms(&self) -> &Terms {
        &self.terms
    }

    fn check(&self) -> Arc<EnclaveCheck> {
        Arc::new(EnclaveCheck { terms: self.terms.clone(), now: now() })
    }

    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Brought {
        let check = self.check();
        let step = match std::mem::replace(&mut self.state, State::Ended) {
            State::Handshake(state) => state.judged_by(check).receive(bytes),
            State::Binding(state) => state.judged_by(check).receive(bytes),
            State::Open(state) => state.judged_by(check).receive(bytes),
            // Bytes that were under way when it ended.
            State::Ended => return Brought::default(),
        };
        self.take(step)
    }

    pub(crate) fn evidence(&mut self, evidence: &[u8]) -> Brought {
        let check = self.check();
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Binding(state) => self.take(state.judged_by(check).evidence(evidence)),
            state => {
                self.state = state;
                Brought::default()
            }
        }
    }

    /// From now on under these terms. An enclave that is there proves itself again.
    pub(crate) fn under(&mut self, terms: Terms) -> Brought {
        self.terms = terms;
        let check = self.check();
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Open(state) => self.take(state.judged_by(check).reattest()),
            state => {
                self.state = state;
                Brought::default()
            }
        }
    }

    /// Sends an outcome, once the channel is open.
    pub(crate) fn send(&mut self, outcome: OutcomeMessage) -> Brought {
        let mut brought = Brought::default();
        if self.waiting.len() >= OPEN_EXECUTIONS_MAX {
            self.end(&mut brought, Ended::TooMany);
            return brought;
        }
        self.waiting.push_back(outcome);
        self.flush(&mut brought);
        brought
    }

    fn take(&mut self, step: Result<Step<EnclaveCheck>, Failure>) -> Brought {
        let mut brought = Brought::default();
        let step = match step {
            Ok(step) => step,
            Err(failure) => {
                brought.bytes = failure.output;
                brought.ended = Some(failure.error.into());
                return brought;
            }
        };
        brought.bytes = step.output;
        self.state = match step.next {
            Next::Handshake(state) => State::Handshake(state),
            Next::Binding(state) => State::Binding(state),
            Next::Open(state) => State::Open(state),
            Next::NeedEvidence { report_data, binding } => {
                brought.needed = Some(report_data);
                State::Binding(binding)
            }
            Next::Closed => State::Ended,
        };
        if matches!(self.state, State::Ended) {
            brought.ended = Some(Ended::Closed);
        }
        for message in step.messages {
            match wire::decode::<JobMessage>(&message, MESSAGE_BYTES_MAX) {
                Ok(job) => brought.jobs.push(job),
                Err(_) => self.end(&mut brought, Ended::NoJob),
            }
        }
        self.flush(&mut brought);
        brought
    }

    fn flush(&mut self, brought: &mut Brought) {
        while let (State::Open(channel), Some(outcome)) = (&mut self.state, self.waiting.front()) {
            let sealed = wire::encode(outcome).map_err(|_| ChannelError::Internal);
            match sealed.and_then(|message| channel.seal(&zeroize::Zeroizing::new(message))) {
                Ok(bytes) => {
                    brought.bytes.extend(bytes);
                    self.waiting.pop_front();
                }
                Err(error) => self.end(brought, error.into()),
            }
        }
    }

    fn end(&mut self, brought: &mut Brought, why: Ended) {
        if let State::Open(channel) = std::mem::replace(&mut self.state, State::Ended) {
            brought.bytes.extend(channel.close());
        }
        brought.ended = Some(why);
    }
}

/// What the evidence in a certificate has to vouch for.
pub(crate) fn vouched(key: &ChannelKey, terms: &Terms) -> ReportData {
    sandbox_report_data(&terms.instance, &key.spki_hash())
}
