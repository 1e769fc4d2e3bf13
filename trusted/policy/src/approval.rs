//! Whether one person's answer counts: for the enclave, and for whoever verifies it afterwards.

use toani_protocol::{
    Hash,
    approval::{ApprovalProof, Evidence},
    assurance::ApprovalLevel,
    policy::{ApproverKey, Policy, Tier},
};

use crate::{decide::key_level, webauthn};

/// The level of an answer to the statement with this hash, if its signature holds under a key that
/// the policy lists for the person, and the key is enough for the tier.
pub fn answer_level(
    policy: &Policy,
    evidence: &Evidence,
    statement: &Hash,
    tier: Tier,
) -> Option<ApprovalLevel> {
    let person = policy.persons.get(&evidence.person)?;
    let key = person.keys.iter().find(|key| **key == evidence.key)?;
    let verdict = evidence.verdict;
    match (key, &evidence.proof) {
        (ApproverKey::Ed25519(key), ApprovalProof::Ed25519(signature)) => {
            key.verify(verdict.label(), statement.as_bytes(), signature).ok()?;
        }
        (ApproverKey::Passkey(passkey), ApprovalProof::Webauthn(assertion)) => {
            let challenge = verdict.challenge(statement);
            webauthn::verify(assertion, passkey, &challenge, tier).ok()?;
        }
        _ => return None,
    }
    key_level(key, tier)
}
