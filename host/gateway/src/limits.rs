//! What one caller may take: rates by token buckets. Sizes and times stand where they are read.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// Callers that are remembered; beyond that the ones whose buckets are full are forgotten.
const BUCKETS_MAX: usize = 20_000;

/// How fast, and how much at once.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    pub per_second: u32,
    pub burst: u32,
}

/// One bucket for each caller.
#[derive(Debug)]
pub(crate) struct Buckets<K> {
    rate: Rate,
    buckets: Mutex<HashMap<K, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

/// The bucket is empty; there is a token again after this many seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Empty {
    pub(crate) retry_after_s: u64,
}

impl<K: Hash + Eq> Buckets<K> {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rate, buckets: Mutex::new(HashMap::new()) }
    }

    /// Takes one token of a caller's bucket.
    pub(crate) fn take(&self, caller: K, now: Instant) -> Result<(), Empty> {
        let rate = self.rate;
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= BUCKETS_MAX && !buckets.contains_key(&caller) {
            buckets.retain(|_, bucket| bucket.filled(rate, now) < f64::from(rate.burst));
            if buckets.len() >= BUCKETS_MAX {
                return Err(Empty { retry_after_s: 1 });
            }
        }
        let full = Bucket { tokens: f64::from(rate.burst), at: now };
        let bucket = buckets.entry(caller).or_insert(full);
        bucket.tokens = bucket.filled(rate, now);
        bucket.at = now;
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return Ok(());
        }
        // At least one per second, so that one second is always enough.
        Err(Empty { retry_after_s: 1 })
    }

    /// Puts back a token that was taken for what turned out not to be the caller's.
    pub(crate) fn give_back(&self, caller: &K) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get_mut(caller) {
            bucket.tokens = (bucket.tokens + 1.0).min(f64::from(self.rate.burst));
        }
    }
}

impl Bucket {
    fn filled(&self, rate: Rate, now: Instant) -> f64 {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        let gained = seconds * f64::from(rate.per_second.max(1));
        (self.tokens + gained).min(f64::from(rate.burst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const RATE: Rate = Rate { per_second: 10, burst: 3 };

    #[test]
    fn a_burst_passes_then_the_rate() {
        let buckets = Buckets::new(RATE);
        let start = Instant::now();
        for _ in 0..3 {
            assert_eq!(buckets.take("a", start), Ok(()));
        }
        assert_eq!(buckets.take("a", start), Err(Empty { retry_after_s: 1 }));
        assert_eq!(buckets.take("b", start), Ok(()), "another caller has its own");
        let later = start + Duration::from_millis(110);
        assert_eq!(buckets.take("a", later), Ok(()));
        assert!(buckets.take("a", later).is_err());
    }

    #[test]
    fn what_is_given_back_can_be_taken_again_and_no_more() {
        let buckets = Buckets::new(RATE);
        let start = Instant::now();
        for _ in 0..100 {
            assert_eq!(buckets.take("a", start), Ok(()));
            buckets.give_back(&"a");
            buckets.give_back(&"a");
        }
        for _ in 0..3 {
            assert_eq!(buckets.take("a", start), Ok(()));
        }
        assert!(buckets.take("a", start).is_err());
    }

    #[test]
    fn callers_are_forgotten_before_there_are_too_many() {
        let buckets = Buckets::new(RATE);
        let start = Instant::now();
        for caller in 0..BUCKETS_MAX {
            assert_eq!(buckets.take(caller, start), Ok(()));
        }
        assert!(buckets.take(BUCKETS_MAX, start).is_err(), "all of them are busy");
        let later = start + Duration::from_secs(10);
        assert_eq!(buckets.take(BUCKETS_MAX, later), Ok(()));
    }
}
