//! The replay store: which Action Tokens were redeemed.
//!
//! The enclave consumes a token's jti itself before the host sees it here: it forgets the action
//! that the token was for, and no other boot can open the token. This store is the second look,
//! outside of the enclave's memory. What it adds is against a memory that was put back (a machine
//! restored from its image while it ran): that enclave would redeem again, and a Redis on another
//! machine remembers.
//!
//! * [`EmbeddedReplay`] is in memory. A gateway that starts again boots the enclave again, so no
//!   token outlives this memory.
//! * [`RedisReplay`] is `SET jti NX` with an expiry.

mod address;
mod bounded;
mod embedded;
mod redis;
mod server;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    time::{SystemTime, UNIX_EPOCH},
};

use toani_protocol::{Hash, Time};

pub use self::{
    address::{AddressError, RedisAddress},
    embedded::EmbeddedReplay,
    redis::{REPLAY_MS_MAX, RedisConfig, RedisReplay},
};

/// Why it is not known whether a token was redeemed. The execution must not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    #[error("the replay store is full; it takes tokens again when others expire")]
    Full,
    #[error("the token has expired")]
    Expired,
    #[error("the replay store cannot be reached: {0}")]
    Unreachable(String),
    /// Not a store that remembers until a token expires.
    #[error("the replay store cannot be relied on: {0}")]
    Unfit(String),
    /// Neither yes nor no: it may have consumed the token or not.
    #[error("the replay store gave no definite answer: {0}")]
    Unclear(String),
}

/// The answer of a replay store: whether this was the first time.
pub type ReplayFuture<'a> = Pin<Box<dyn Future<Output = Result<bool, ReplayError>> + Send + 'a>>;

/// `SET jti NX` with an expiry.
pub trait ReplayStore: fmt::Debug + Send + Sync {
    /// Remembers `jti` until `expires`, and says whether it was not there before. Of concurrent
    /// calls with one jti exactly one is the first. After an error nobody knows whether the jti is
    /// remembered, and the call must not be repeated as if it were the first.
    fn consume(&self, jti: Hash, expires: Time) -> ReplayFuture<'_>;
}

fn system_time() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let ms = since.map_or(0, |since| since.as_millis());
    Time::from_ms(u64::try_from(ms).unwrap_or(u64::MAX))
}
