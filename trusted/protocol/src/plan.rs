//! The plan: exactly what will be done.

use alloc::{collections::BTreeMap, string::String, vec::Vec};

use serde::{Deserialize, Serialize};

use crate::{
    canonical::{self, CanonicalError, Json},
    ids::Hash,
    policy::{Class, Connector, Endpoint, Injection, Method, TlsTrust},
};

/// What a human approves, what is hashed and what a connector runs. Only the enclave renders one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub connector: Connector,
    pub method: Method,
    pub endpoint: Endpoint,
    /// Absolute, percent-encoded, without query.
    pub path: String,
    /// Names and values as they stand in the URL, encoded, in this order.
    pub query: Vec<(String, String)>,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// A JSON body.
    pub body: Option<Json>,
    /// Where the credential goes; its value is nowhere in the plan.
    pub injection: Option<Injection>,
    pub tls: TlsTrust,
    /// Statuses that count as success; `null` is 200 to 299.
    pub success: Option<Vec<u16>>,
    pub class: Class,
    /// 32 random bytes: the plan's hash tells nothing about its content.
    pub nonce: Hash,
}

impl Plan {
    /// The canonical bytes and their labelled hash.
    pub fn seal(&self) -> Result<(Vec<u8>, Hash), CanonicalError> {
        let bytes = canonical::encode(self)?;
        let hash = Self::hash_of(&bytes);
        Ok((bytes, hash))
    }

    /// The hash of a plan's canonical bytes.
    pub fn hash_of(bytes: &[u8]) -> Hash {
        Hash::of_labelled("toani/v1/plan", bytes)
    }

    /// The path with its query, as it stands in the request line.
    pub fn target(&self) -> String {
        let mut target = self.path.clone();
        for (i, (name, value)) in self.query.iter().enumerate() {
            target.push(if i == 0 { '?' } else { '&' });
            target.push_str(name);
            target.push('=');
            target.push_str(value);
        }
        target
    }
}

/// A commitment to params: a hash over a random nonce and the canonical params. Whoever is told
/// the nonce can check the params against the record.
pub fn params_commitment(nonce: &Hash, params: &Json) -> Result<Hash, CanonicalError> {
    let bytes = canonical::encode(params)?;
    Ok(Hash::of_parts("toani/v1/params", &[nonce.as_bytes(), &bytes]))
}
