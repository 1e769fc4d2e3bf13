//! A software passkey: a P-256 key in a file that answers as an authenticator would. It says of
//! itself that it is software, and so must the policy: its approvals never count as `passkey`.

use data_encoding::BASE64URL_NOPAD;
use p256::ecdsa::{Signature, SigningKey, signature::Signer};
use sha2::{Digest, Sha256};
use toani_protocol::{
    Hash,
    approval::{Assertion, Verdict},
    policy::{Es256Key, Passkey},
    sign::Bytes,
};

/// Relying party and origin of software passkeys: no web page can claim them.
pub(crate) const RP_ID: &str = "software.toani.invalid";
pub(crate) const ORIGIN: &str = "https://software.toani.invalid";

/// User present, user verified. Software verifies its user by being able to read the key file.
const FLAGS: u8 = 0x05;

/// The policy's entry for this key.
pub(crate) fn entry(key: &SigningKey) -> anyhow::Result<Passkey> {
    let point = key.verifying_key().to_sec1_point(false);
    Ok(Passkey {
        key: Es256Key(point.as_bytes().try_into()?),
        rp_id: RP_ID.to_owned(),
        origins: vec![ORIGIN.to_owned()],
        software: true,
    })
}

/// The assertion for a verdict on a statement.
pub(crate) fn assert(key: &SigningKey, verdict: Verdict, statement: &Hash) -> Assertion {
    let challenge = BASE64URL_NOPAD.encode(verdict.challenge(statement).as_bytes());
    let client_data = serde_json::json!({
        "type": "webauthn.get",
        "challenge": challenge,
        "origin": ORIGIN,
        "crossOrigin": false,
    })
    .to_string();
    let mut data = Sha256::digest(RP_ID.as_bytes()).to_vec();
    data.push(FLAGS);
    data.extend_from_slice(&[0; 4]);
    let message = [data.as_slice(), &Sha256::digest(client_data.as_bytes())].concat();
    let signature: Signature = key.sign(&message);
    Assertion {
        authenticator_data: Bytes(data),
        client_data_json: Bytes(client_data.into_bytes()),
        signature: Bytes(signature.to_der().as_bytes().to_vec()),
    }
}
