//! Action Tokens: PASETO v4.local, for this boot of this measurement alone.

use alloc::{format, string::String, vec::Vec};

use pasetors::{
    Local,
    keys::SymmetricKey,
    paserk::{FormatAsPaserk, Id},
    token::UntrustedToken,
    version4::{LocalToken, V4},
};
use rand_core::CryptoRng;
use serde::Serialize;
use toani_protocol::{
    AgentId, Hash, Reason, TenantId, canonical,
    limits::TOKEN_BYTES_MAX,
    request::ActionRequest,
    token::{Claims, ISSUER},
};

use crate::{
    keys::{self, Keys},
    ready::Ready,
};

/// Not sent with the token: the same token under another instance or tenant is none.
#[derive(Serialize)]
struct Assertion<'a> {
    audience: &'static str,
    instance: Hash,
    tenant: &'a TenantId,
    agent: &'a AgentId,
}

#[derive(Serialize)]
struct Footer {
    kid: String,
}

fn key(keys: &Keys) -> Result<SymmetricKey<V4>, Reason> {
    SymmetricKey::from(keys.token.bytes()).map_err(|_| Reason::Internal)
}

/// The key's PASERK id, k4.lid.
fn footer(key: &SymmetricKey<V4>) -> Result<Vec<u8>, Reason> {
    let mut kid = String::new();
    Id::from(key).fmt(&mut kid).map_err(|_| Reason::Internal)?;
    canonical::encode(&Footer { kid }).map_err(|_| Reason::Internal)
}

fn assertion(ready: &Ready, request: &ActionRequest) -> Result<Vec<u8>, Reason> {
    let (tenant, agent) = (&request.tenant, &request.agent);
    let assertion = Assertion { audience: ISSUER, instance: ready.instance, tenant, agent };
    canonical::encode(&assertion).map_err(|_| Reason::Internal)
}

/// Encrypts claims.
pub(crate) fn seal(
    ready: &Ready,
    claims: &Claims,
    request: &ActionRequest,
) -> Result<String, Reason> {
    let message = canonical::encode(claims).map_err(|_| Reason::Internal)?;
    let key = key(&ready.keys)?;
    let (footer, assertion) = (footer(&key)?, assertion(ready, request)?);
    LocalToken::encrypt(&key, &message, Some(&footer), Some(&assertion))
        .map_err(|_| Reason::Internal)
}

/// Decrypts a token that this tenant's agent brings.
pub(crate) fn open(ready: &Ready, token: &str, request: &ActionRequest) -> Result<Claims, Reason> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Reason::TokenInvalid);
    }
    let untrusted =
        UntrustedToken::<Local, V4>::try_from(token).map_err(|_| Reason::TokenInvalid)?;
    let key = key(&ready.keys)?;
    let (footer, assertion) = (footer(&key)?, assertion(ready, request)?);
    let trusted = LocalToken::decrypt(&key, &untrusted, Some(&footer), Some(&assertion))
        .map_err(|_| Reason::TokenInvalid)?;
    canonical::decode(trusted.payload().as_bytes(), TOKEN_BYTES_MAX)
        .map_err(|_| Reason::TokenInvalid)
}

/// A random UUID, version 4 (RFC 9562, section 5.4).
pub(crate) fn new_jti(rng: &mut dyn CryptoRng) -> String {
    let random = u128::from_be_bytes(keys::random(rng));
    let (time_low, time_mid) = (random >> 96, (random >> 80) & 0xffff);
    let version = 0x4000 | ((random >> 64) & 0x0fff);
    let variant = 0x8000 | ((random >> 48) & 0x3fff);
    let node = random & 0xffff_ffff_ffff;
    format!("{time_low:08x}-{time_mid:04x}-{version:04x}-{variant:04x}-{node:012x}")
}
