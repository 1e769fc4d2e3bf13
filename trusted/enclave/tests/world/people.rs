//! Whoever holds a key: operator, owner, policy author, agent, approvers.

use super::*;

pub fn signing_key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub fn operator() -> SigningKey {
    signing_key(1)
}
pub fn policy_key() -> SigningKey {
    signing_key(2)
}
pub fn owner() -> SigningKey {
    signing_key(3)
}
pub fn agent() -> SigningKey {
    signing_key(4)
}
pub fn clerk() -> SigningKey {
    signing_key(5)
}
pub fn passkey(seed: u8) -> PasskeyKey {
    PasskeyKey::from_slice(&[seed; 32]).unwrap()
}
pub fn tenant() -> TenantId {
    TenantId::of_first_key(&PublicKey::of(&policy_key()))
}

pub fn passkey_entry(seed: u8, software: bool) -> ApproverKey {
    let point = passkey(seed).verifying_key().to_sec1_point(false);
    ApproverKey::Passkey(Passkey {
        key: Es256Key(point.as_bytes().try_into().unwrap()),
        rp_id: "approve.example".into(),
        origins: vec!["https://approve.example".into()],
        software,
    })
}

/// A passkey's answer, made by software.
pub struct Gesture {
    pub seed: u8,
    pub software: bool,
    pub flags: u8,
    pub origin: &'static str,
    pub rp_id: &'static str,
    pub kind: &'static str,
    pub extra: &'static str,
}

impl Gesture {
    pub const fn new(seed: u8, software: bool) -> Self {
        Self {
            seed,
            software,
            flags: 0x05,
            origin: "https://approve.example",
            rp_id: "approve.example",
            kind: "webauthn.get",
            extra: ",\"crossOrigin\":false",
        }
    }

    pub fn evidence(&self, person: &str, statement: &Statement, verdict: Verdict) -> Evidence {
        let hash = Statement::hash_of(&canonical::encode(statement).unwrap());
        let challenge = data_encoding::BASE64URL_NOPAD.encode(verdict.challenge(&hash).as_bytes());
        let client_data = format!(
            "{{\"type\":\"{}\",\"challenge\":\"{challenge}\",\"origin\":\"{}\"{}}}",
            self.kind, self.origin, self.extra
        );
        let mut data = Sha256::digest(self.rp_id.as_bytes()).to_vec();
        data.push(self.flags);
        data.extend_from_slice(&[0, 0, 0, 1]);
        let message = [data.as_slice(), &Sha256::digest(client_data.as_bytes())].concat();
        let signature: EcdsaSignature = passkey(self.seed).sign(&message);
        Evidence {
            action_id: statement.action_id.clone(),
            person: person.parse().unwrap(),
            verdict,
            key: passkey_entry(self.seed, self.software),
            proof: ApprovalProof::Webauthn(Assertion {
                authenticator_data: Bytes(data),
                client_data_json: Bytes(client_data.into_bytes()),
                signature: Bytes(signature.to_der().as_bytes().to_vec()),
            }),
        }
    }
}

/// An approval by an Ed25519 key.
pub fn key_evidence(
    person: &str,
    key: &SigningKey,
    statement: &Statement,
    verdict: Verdict,
) -> Evidence {
    let hash = Statement::hash_of(&canonical::encode(statement).unwrap());
    Evidence {
        action_id: statement.action_id.clone(),
        person: person.parse().unwrap(),
        verdict,
        key: ApproverKey::Ed25519(PublicKey::of(key)),
        proof: ApprovalProof::Ed25519(sign::sign(key, verdict.label(), hash.as_bytes())),
    }
}
