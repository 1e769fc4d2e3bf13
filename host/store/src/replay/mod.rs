//! The replay store: which Action Tokens were redeemed.
//!
//! The enclave consumes a token's jti itself before the host sees it here; this is the second
//! look, and with Redis the one that several gateways share. The embedded store is in memory: a
//! token is of one boot of the enclave, and a gateway that starts again boots the enclave again,
//! so that no token outlives this memory.

use std::{
    collections::{BTreeSet, HashSet},
    future::{self, Future},
    pin::Pin,
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use toani_protocol::{Hash, Time};

/// Tokens that are remembered at once: fifteen minutes of a thousand a second.
const TOKENS_MAX: usize = 1_000_000;

/// Why it is not known whether a token was redeemed. The execution must not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    #[error("the replay store is full; it takes tokens again when others expire")]
    Full,
    #[error("the token has expired")]
    Expired,
    #[error("the replay store cannot be reached: {0}")]
    Unreachable(String),
}

/// The answer of a replay store: whether this was the first time.
pub type ReplayFuture<'a> = Pin<Box<dyn Future<Output = Result<bool, ReplayError>> + Send + 'a>>;

/// `SET jti NX` with an expiry.
pub trait ReplayStore: Send + Sync {
    /// Remembers `jti` until `expires`, and says whether it was not there before. Of concurrent
    /// calls with one jti exactly one is the first.
    fn consume(&self, jti: Hash, expires: Time) -> ReplayFuture<'_>;
}

#[derive(Debug, Default)]
struct Tokens {
    known: HashSet<Hash>,
    by_expiry: BTreeSet<(Time, Hash)>,
}

/// In memory, bounded. A token is never forgotten before it expires.
#[derive(Debug)]
pub struct EmbeddedReplay {
    tokens: Mutex<Tokens>,
    tokens_max: usize,
    clock: fn() -> Time,
}

impl Default for EmbeddedReplay {
    fn default() -> Self {
        Self::new()
    }
}

fn system_time() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let ms = since.map_or(0, |since| since.as_millis());
    Time::from_ms(u64::try_from(ms).unwrap_or(u64::MAX))
}

impl EmbeddedReplay {
    pub fn new() -> Self {
        Self::with(TOKENS_MAX, system_time)
    }

    fn with(tokens_max: usize, clock: fn() -> Time) -> Self {
        Self { tokens: Mutex::default(), tokens_max, clock }
    }

    fn consume_at(&self, jti: Hash, expires: Time, now: Time) -> Result<bool, ReplayError> {
        if expires <= now {
            return Err(ReplayError::Expired);
        }
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let over = |first: &&(Time, Hash)| first.0 <= now;
        while let Some(first) = tokens.by_expiry.first().filter(over).copied() {
            tokens.by_expiry.remove(&first);
            tokens.known.remove(&first.1);
        }
        if tokens.known.contains(&jti) {
            return Ok(false);
        }
        if tokens.known.len() >= self.tokens_max {
            return Err(ReplayError::Full);
        }
        tokens.known.insert(jti);
        tokens.by_expiry.insert((expires, jti));
        Ok(true)
    }
}

impl ReplayStore for EmbeddedReplay {
    fn consume(&self, jti: Hash, expires: Time) -> ReplayFuture<'_> {
        let result = self.consume_at(jti, expires, (self.clock)());
        Box::pin(future::ready(result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_consumed_once_until_it_expires() {
        let store = EmbeddedReplay::with(2, || Time::from_ms(0));
        let at = Time::from_ms;
        let (a, b, c) = (Hash::of(b"a"), Hash::of(b"b"), Hash::of(b"c"));
        assert_eq!(store.consume_at(a, at(10), at(0)), Ok(true));
        assert_eq!(store.consume_at(a, at(10), at(9)), Ok(false));
        assert_eq!(store.consume_at(a, at(10), at(10)), Err(ReplayError::Expired));
        assert_eq!(store.consume_at(b, at(20), at(5)), Ok(true));
        assert_eq!(store.consume_at(c, at(20), at(5)), Err(ReplayError::Full));
        assert_eq!(store.consume_at(b, at(20), at(5)), Ok(false));
        assert_eq!(store.consume_at(c, at(30), at(10)), Ok(true));
        assert_eq!(store.consume_at(b, at(20), at(15)), Ok(false));
    }

    #[tokio::test]
    async fn of_many_at_once_one_is_first() {
        let store = std::sync::Arc::new(EmbeddedReplay::new());
        let expires = system_time().plus_ms(60_000);
        let mut tasks = Vec::new();
        for _ in 0..32 {
            let store = store.clone();
            let task = async move { store.consume(Hash::of(b"x"), expires).await };
            tasks.push(tokio::spawn(task));
        }
        let mut firsts = 0;
        for task in tasks {
            firsts += u32::from(task.await.unwrap().unwrap());
        }
        assert_eq!(firsts, 1);
    }
}
