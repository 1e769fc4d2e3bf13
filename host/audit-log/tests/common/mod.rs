//! Signed records that follow each other.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test uses a part, and says so by panicking"
)]

use ed25519_dalek::SigningKey;
use toani_audit::chain::Links;
use toani_protocol::{
    BootId, Hash, TenantId, Time, canonical,
    record::{About, Record, RecordKind},
    sign::{Bytes, Label, PublicKey, Signature, sign},
};

pub(crate) const ORIGIN: &str = "log.example/1";

pub(crate) fn key() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

pub(crate) fn signer() -> (String, PublicKey) {
    (ORIGIN.into(), PublicKey::of(&key()))
}

pub(crate) fn tenant(seed: u8) -> TenantId {
    TenantId::of_first_key(&PublicKey::new([seed; 32]))
}

/// Makes the leaves of one log; two tenants take turns.
#[derive(Debug)]
pub(crate) struct Maker {
    pub(crate) links: Links,
    key: SigningKey,
}

impl Maker {
    pub(crate) fn new() -> Self {
        Self { links: Links::new(), key: key() }
    }

    /// Goes on behind leaves that are there.
    pub(crate) fn after(leaves: &[Vec<u8>]) -> Self {
        let mut maker = Self::new();
        for leaf in leaves {
            let record = Record::decode(leaf).unwrap();
            maker.links.advance(&record, Record::hash_of(leaf)).unwrap();
        }
        maker
    }

    pub(crate) fn leaf(&mut self) -> Vec<u8> {
        let index = self.links.size();
        let tenant = tenant(u8::try_from(index % 2).unwrap());
        let tip = self.links.tenant(&tenant);
        let mut record = Record {
            index,
            origin: ORIGIN.into(),
            previous: self.links.head(),
            time: Time::from_ms(1_773_224_100_000 + index),
            boot: BootId::new("boot_1").unwrap(),
            kind: RecordKind::Started,
            tee_mrenclave: Hash::of(b"enclave"),
            evidence: Hash::of(b""),
            admission: Hash::ZERO,
            about: About {
                tenant: Some(tenant),
                tenant_sequence: Some(tip.sequence),
                tenant_previous: Some(tip.previous),
                params: Some(Hash::of(b"params")),
                plan: Some(Hash::of(b"plan")),
                jti: Some(Hash::of(b"jti")),
                sealed: Some(Bytes(vec![7; usize::try_from(index % 97).unwrap()])),
                ..About::default()
            },
            chain_signature: Signature([0; 64]),
        };
        let unsigned = record.unsigned_bytes().unwrap();
        record.chain_signature = sign(&self.key, Label::Record, &unsigned);
        let leaf = canonical::encode(&record).unwrap();
        self.links.advance(&record, Record::hash_of(&leaf)).unwrap();
        leaf
    }

    /// The next leaves with their indices.
    pub(crate) fn leaves(&mut self, count: u64) -> Vec<(u64, Vec<u8>)> {
        (0..count).map(|_| (self.links.size(), self.leaf())).collect()
    }
}
