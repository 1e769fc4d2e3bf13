//! Mutations of real bodies and headers: each ends in an answer, and what is accepted is canonical.

use axum::http::{HeaderMap, HeaderValue, header};
use toani_protocol::{
    BootId, Hash, Time,
    request::{ActionRequest, AgentProof},
};

use crate::ask::{Here, read_action, read_execution, read_read};

/// Executions where the environment says nothing.
const EXECUTIONS: u64 = 20_000;

const BODIES: &[&str] = &[
    r#"{"tenant":"t1","agent":"a1","service":"s","action":"x","params":{"amount":12.5,"to":["a","b"]}}"#,
    r#"{"token":"v4.local.AAAA","request":{"tenant":"t1","agent":"a1","service":"s","action":"x","params":{}}}"#,
    r#"{"request":{"action":"x","agent":"a1","boot":"boot_a","expires_at":"2026-01-01T00:00:00Z","idempotency_key":"k","instance":"sha256:0000000000000000000000000000000000000000000000000000000000000000","issued_at":"2026-01-01T00:00:00Z","params":{},"service":"s","tenant":"t1","user":"u"},"signature":"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBw"}"#,
];

const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\u0000",
    "null",
    "9007199254740993",
    "1e400",
    "-0.0",
    "NaN",
    "\"token\":",
    "\"password\":1,",
    "\"request\":",
    ",",
    ":",
    "\u{202e}",
    "[[[[[[[[",
];

/// xorshift64*: the same mutations in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let rolled = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(rolled).unwrap() % sides.max(1)
    }

    fn mutate(&mut self, sample: &[u8]) -> Vec<u8> {
        let mut bytes = sample.to_vec();
        for _ in 0..=self.roll(4) {
            let at = self.roll(bytes.len() + 1);
            match self.roll(5) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.roll(8),
                1 => bytes.truncate(at),
                2 => {
                    let piece = PIECES[self.roll(PIECES.len())];
                    bytes.splice(at..at, piece.bytes());
                }
                3 => {
                    let to = (at + self.roll(16)).min(bytes.len());
                    bytes.drain(at..to);
                }
                _ => {
                    let from = self.roll(bytes.len() + 1).min(at);
                    let copy = bytes[from..at].to_vec();
                    bytes.splice(at..at, copy);
                }
            }
        }
        bytes
    }
}

fn executions() -> u64 {
    let said = std::env::var("TOANI_FUZZ_EXECUTIONS").ok();
    said.and_then(|said| said.parse().ok()).unwrap_or(EXECUTIONS)
}

#[test]
fn fuzz_bodies() {
    let here = Here { instance: Hash::ZERO, boot: BootId::from_random([1; 16]) };
    let key = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static("Bearer k"))]);
    let (mut dice, mut accepted) = (Dice(0x0074_6f61_6e69), 0u64);
    for _ in 0..executions() {
        let sample = BODIES[dice.roll(BODIES.len())];
        let body = dice.mutate(sample.as_bytes());
        let now = Time::from_ms(1_000_000);
        let asked = read_action(&body, &key, &here, now);
        let executed = read_execution(&body, &key, &here, now);
        for asked in asked.into_iter().chain(executed.map(|(_, asked)| asked)) {
            assert!(ActionRequest::decode(&asked.request).is_ok());
            if let AgentProof::ApiKey(key) = asked.proof {
                assert_eq!(key, "k");
            }
            accepted += 1;
        }
    }
    assert!(accepted > 0, "some mutations are harmless");
}

#[test]
fn fuzz_authorization() {
    let sample =
        b"Toani eyJhZ2VudCI6ImExIn0.BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBw";
    let mut dice = Dice(0x7265_6164);
    for _ in 0..executions() {
        if let Ok(value) = HeaderValue::from_bytes(&dice.mutate(sample)) {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
            let _ = read_read(&headers, Some("t1"), Some("a1"));
        }
    }
}
