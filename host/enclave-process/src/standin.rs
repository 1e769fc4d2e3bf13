//! Stands in for toani-enclave until that exists: the same interface, and it knows nothing.

use rand_core::CryptoRng;
use toani_protocol::{
    Reason,
    ids::Hash,
    limits::MESSAGE_BYTES_MAX,
    wire::{self, Answer, Call, Command, Reply},
};

pub(crate) struct Enclave {}

pub(crate) struct Checked(Result<Answer, Reason>);

impl Enclave {
    pub(crate) fn new(_sealing_key: [u8; 32], _measurement: Hash) -> Self {
        Self {}
    }

    pub(crate) fn check(&self, call: &[u8], _rng: &mut impl CryptoRng) -> Checked {
        Checked(match wire::decode::<Call>(call, MESSAGE_BYTES_MAX) {
            Ok(call) if call.command == Command::Tick => Ok(Answer::Done),
            Ok(_) => Err(Reason::NotReady),
            Err(_) => Err(Reason::RequestMalformed),
        })
    }

    pub(crate) fn apply(&mut self, checked: Checked, _rng: &mut impl CryptoRng) -> Vec<u8> {
        let reply = Reply {
            effects: Vec::new(),
            answer: checked.0,
        };
        wire::encode(&reply).unwrap_or_default()
    }
}
