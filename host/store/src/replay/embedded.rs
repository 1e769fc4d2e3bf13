//! In memory, for a gateway by itself.

use std::{
    collections::{BTreeSet, HashSet},
    future,
    sync::{Mutex, PoisonError},
};

use toani_protocol::{Hash, Time};

use super::{ReplayError, ReplayFuture, ReplayStore, system_time};

/// Tokens that are remembered at once: fifteen minutes of a thousand a second.
const TOKENS_MAX: usize = 1_000_000;

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

impl EmbeddedReplay {
    pub fn new() -> Self {
        Self::with_room_for(TOKENS_MAX)
    }

    /// Remembers at most so many tokens at once.
    pub fn with_room_for(tokens_max: usize) -> Self {
        Self::with(tokens_max, system_time)
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
}
