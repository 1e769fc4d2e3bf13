//! WebAuthn assertions, ES256 (Web Authentication Level 2, section 7.2).

use data_encoding::BASE64URL_NOPAD;
use p256::ecdsa::{Signature, VerifyingKey, signature::Verifier};
use serde_json::Value;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use toani_protocol::{
    Hash,
    approval::Assertion,
    canonical,
    limits::EVIDENCE_BYTES_MAX,
    policy::{Passkey, Tier},
};

const USER_PRESENT: u8 = 0x01;
const USER_VERIFIED: u8 = 0x04;
const ATTESTED_CREDENTIAL: u8 = 0x40;
const EXTENSIONS: u8 = 0x80;
/// rpIdHash, flags, counter.
const HEADER_BYTES: usize = 37;

/// An assertion that does not approve. Says nothing about why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the assertion is not one of this passkey over this statement")]
pub(crate) struct AssertionError;

/// Verifies an assertion over `challenge` by `passkey`. Tier 2 asks for user verification.
///
/// The signature counter is not used: a challenge stands for one statement of one boot and counts
/// once per person, so that a cloned authenticator gains nothing by replay.
pub(crate) fn verify(
    assertion: &Assertion,
    passkey: &Passkey,
    challenge: &Hash,
    tier: Tier,
) -> Result<(), AssertionError> {
    let client_data = &assertion.client_data_json.0;
    check_client_data(client_data, passkey, challenge).ok_or(AssertionError)?;
    let data = &assertion.authenticator_data.0;
    check_authenticator_data(data, passkey, tier).ok_or(AssertionError)?;
    let mut message = data.clone();
    message.extend_from_slice(&Sha256::digest(client_data));
    let key = VerifyingKey::from_sec1_bytes(&passkey.key.0).map_err(|_| AssertionError)?;
    let signature = Signature::from_der(&assertion.signature.0).map_err(|_| AssertionError)?;
    key.verify(&message, &signature).map_err(|_| AssertionError)
}

fn check_client_data(bytes: &[u8], passkey: &Passkey, challenge: &Hash) -> Option<()> {
    let data = canonical::parse(bytes, EVIDENCE_BYTES_MAX).ok()?;
    let text = |name: &str| data.get(name).and_then(Value::as_str);
    let expected = BASE64URL_NOPAD.encode(challenge.as_bytes());
    let challenge_holds = text("challenge")?.as_bytes().ct_eq(expected.as_bytes());
    let holds = text("type")? == "webauthn.get"
        && bool::from(challenge_holds)
        && passkey.origins.iter().any(|origin| text("origin") == Some(origin))
        && data.get("crossOrigin").is_none_or(|cross| *cross == Value::Bool(false))
        && data.get("topOrigin").is_none();
    holds.then_some(())
}

fn check_authenticator_data(data: &[u8], passkey: &Passkey, tier: Tier) -> Option<()> {
    let header = data.first_chunk::<HEADER_BYTES>()?;
    let (rp_id_hash, rest) = header.split_first_chunk::<32>()?;
    let flags = *rest.first()?;
    let has = |flag: u8| flags & flag != 0;
    let length_fits = data.len() == HEADER_BYTES || has(ATTESTED_CREDENTIAL) || has(EXTENSIONS);
    let same_rp = rp_id_hash.as_slice() == Sha256::digest(passkey.rp_id.as_bytes()).as_slice();
    let verified = tier < Tier::Two || has(USER_VERIFIED);
    (same_rp && has(USER_PRESENT) && verified && length_fits).then_some(())
}
