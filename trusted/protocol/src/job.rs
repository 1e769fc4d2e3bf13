//! Between enclave, supervisor and connector: postcard, one version, never stored.
//!
//! Between enclave and supervisor it travels on the attested channel (trusted/tls) and on nothing
//! else.

use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::{
    ids::{ExecutionId, Hash},
    record::Connection,
};

/// Enclave to supervisor, one message of the channel: a job, and what its outcome has to repeat.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct JobMessage {
    pub execution: ExecutionId,
    /// Hash of the token's id.
    pub jti: Hash,
    /// The root file system that the job's container has to run.
    pub root_file_system: Hash,
    pub job: Job,
}

/// Supervisor to enclave, one message of the channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutcomeMessage {
    pub execution: ExecutionId,
    pub jti: Hash,
    pub outcome: JobOutcome,
}

/// One job: a plan, and the credential it needs.
#[derive(PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The canonical plan.
    pub plan: Vec<u8>,
    /// The credential's plaintext; empty if the plan injects none.
    pub credential: Vec<u8>,
}

impl Drop for Job {
    fn drop(&mut self) {
        self.credential.zeroize();
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("plan_bytes", &self.plan.len()).finish_non_exhaustive()
    }
}

/// What came of a job, after scrubbing. The connector says `end`; the supervisor says the rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobOutcome {
    /// Every connection that the door opened. First: how many there are can be read before they are.
    pub connections: Vec<Connection>,
    pub end: JobEnd,
    /// The secret was in what came back, in some encoding; the bytes were dropped.
    pub secret_seen: bool,
}

impl JobOutcome {
    /// Whether the upstream may have been spoken to.
    pub fn connected(&self) -> bool {
        !self.connections.is_empty()
    }
}

/// How the connector ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum JobEnd {
    /// The upstream answered.
    Response { status: u16, body: Vec<u8> },
    /// The upstream redirected; redirects are not followed.
    Redirected { status: u16 },
    /// The answer was larger than the class allows.
    TooLarge,
    /// The answer was not HTTP.
    Malformed,
    /// The upstream's certificate is not what the policy trusts.
    TlsRefused,
    /// No address of the host may be connected to.
    AddressRefused,
    /// No connection came about.
    Unreachable,
    /// The time was up.
    TimedOut,
    /// The connector died, overstepped its limits or spoke garbage.
    ConnectorFailed,
}

/// Supervisor to connector: one frame, then nothing more.
pub type ConnectorFrame = Job;

/// Connector to supervisor: one frame, then it exits.
pub type ConnectorReply = JobEnd;

/// Length of a frame's prefix: a 32-bit little-endian count of the bytes that follow.
pub const FRAME_PREFIX_BYTES: usize = 4;

/// Connector to supervisor, before anything else: system calls are filtered, and a job may come.
pub const CONNECTOR_WAITS: u8 = 1;

/// The same place: the filter is not in force. The connector then ends without a job.
pub const CONNECTOR_UNCONFINED: u8 = 0;
