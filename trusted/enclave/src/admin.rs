//! What operators, tenants and owners sign: verified first, then recorded, then in force.

use alloc::{sync::Arc, vec::Vec};

use rand_core::CryptoRng;
use toani_policy::VerifiedPolicy;
use toani_protocol::{
    AgentId, PolicyId, Reason, TenantId, canonical,
    credential::{CredentialHeader, SealedCredential},
    instance::VerifiedAdmission,
    limits::{CREDENTIALS_MAX, DOCUMENT_BYTES_MAX, POLICIES_MAX, REVOKED_MAX, TENANTS_MAX},
    policy::{Policy, PolicyKeyChange},
    record::{About, CredentialRef, RecordKind},
    sign::{Label, PublicKey, Signed},
    wire::{Answer, Command},
};

use crate::{
    asked, channel,
    ready::{Ready, Turn},
    state::{CredentialName, PolicySlot, SealedField},
    vault::{self, StoredCredential},
};

/// A document whose signatures hold.
#[derive(Debug)]
pub(crate) enum CheckedAdmin {
    Admission { verified: VerifiedAdmission, bytes: Vec<u8> },
    Policy { verified: VerifiedPolicy, key: PublicKey, bytes: Vec<u8> },
    PolicyKey { change: PolicyKeyChange, key: PublicKey },
    Credential { header: CredentialHeader, stored: StoredCredential },
}

pub(crate) fn check(
    ready: &Ready,
    command: Command,
    rng: &mut dyn CryptoRng,
) -> Result<CheckedAdmin, Reason> {
    match command {
        Command::Admit { admission } => {
            let verified = VerifiedAdmission::verify(&admission, &ready.manifest, ready.instance)
                .map_err(|_| Reason::DocumentSignature)?;
            Ok(CheckedAdmin::Admission { verified, bytes: admission })
        }
        Command::ActivatePolicy { policy } => check_policy(ready, policy),
        Command::ChangePolicyKey { change } => check_policy_key(ready, &change),
        Command::PutCredential { credential } => check_credential(ready, &credential, rng),
        _ => Err(Reason::Internal),
    }
}

fn check_policy(ready: &Ready, bytes: Vec<u8>) -> Result<CheckedAdmin, Reason> {
    let signed: Signed<Policy> =
        canonical::decode(&bytes, DOCUMENT_BYTES_MAX).map_err(|_| Reason::DocumentMalformed)?;
    let tenant = &signed.payload.tenant;
    let key = match ready.state.tenants.get(tenant) {
        Some(tenant) => tenant.policy_key,
        // A tenant is born with its first policy, and its name is the hash of the key.
        None => {
            let first = signed.signatures.first().ok_or(Reason::DocumentSignature)?;
            if TenantId::of_first_key(&first.key) != *tenant {
                return Err(Reason::DocumentSignature);
            }
            first.key
        }
    };
    let verified = VerifiedPolicy::verify(&bytes, &key).map_err(|error| match error {
        toani_policy::PolicyError::Canonical(_) => Reason::DocumentMalformed,
        toani_policy::PolicyError::Signature(_) => Reason::DocumentSignature,
        toani_policy::PolicyError::Invalid { .. } => Reason::PolicyInvalid,
    })?;
    Ok(CheckedAdmin::Policy { verified, key, bytes })
}

fn check_policy_key(ready: &Ready, bytes: &[u8]) -> Result<CheckedAdmin, Reason> {
    let signed: Signed<PolicyKeyChange> =
        canonical::decode(bytes, DOCUMENT_BYTES_MAX).map_err(|_| Reason::DocumentMalformed)?;
    let tenant = ready.state.tenant(&signed.payload.tenant)?;
    let key = tenant.policy_key;
    signed.verify(Label::PolicyKey, &[key], 1).map_err(|_| Reason::DocumentSignature)?;
    Ok(CheckedAdmin::PolicyKey { change: signed.payload, key })
}

fn check_credential(
    ready: &Ready,
    bytes: &[u8],
    rng: &mut dyn CryptoRng,
) -> Result<CheckedAdmin, Reason> {
    let sealed = SealedCredential::decode(bytes).map_err(|_| Reason::DocumentMalformed)?;
    sealed.verify().map_err(|_| Reason::DocumentSignature)?;
    if sealed.header.instance != ready.instance {
        return Err(Reason::CredentialEnvelope);
    }
    let stored = vault::take_in(&ready.keys, &sealed, rng)?;
    Ok(CheckedAdmin::Credential { header: sealed.header, stored })
}

pub(crate) fn apply(turn: &mut Turn<'_>, checked: CheckedAdmin) -> Result<Answer, Reason> {
    match checked {
        CheckedAdmin::Admission { verified, bytes } => admit(turn, verified, bytes)?,
        CheckedAdmin::Policy { verified, key, bytes } => activate(turn, verified, key, bytes)?,
        CheckedAdmin::PolicyKey { change, key } => change_key(turn, change, key)?,
        CheckedAdmin::Credential { header, stored } => put_credential(turn, header, stored)?,
    }
    Ok(Answer::Done)
}

fn admit(turn: &mut Turn<'_>, verified: VerifiedAdmission, bytes: Vec<u8>) -> Result<(), Reason> {
    let hash = verified.hash();
    let state = &turn.ready.state;
    match (&state.admission, state.admission_hash) {
        (Some(list), _) if verified.version() <= list.version() => {
            return Err(Reason::DocumentVersion);
        }
        // The host lost the active list, or says so: its version is not known, so that nothing but
        // the list itself may take its place.
        (None, Some(lost)) if hash != lost => return Err(Reason::DocumentVersion),
        _ => {}
    }
    turn.keep(bytes, None);
    // From its own record on, the list stands in every record.
    turn.ready.standing.admission = hash;
    let about = About { blob: Some(hash), ..About::default() };
    turn.write(RecordKind::Admission, about, None)?;
    turn.ready.state.admission = Some(Arc::new(verified));
    // A sandbox that is no longer admitted gets no further job.
    channel::changed(turn);
    Ok(())
}

fn activate(
    turn: &mut Turn<'_>,
    verified: VerifiedPolicy,
    key: PublicKey,
    bytes: Vec<u8>,
) -> Result<(), Reason> {
    let (tenant_id, reference) = (verified.policy().tenant.clone(), verified.reference());
    if turn.now >= verified.policy().expires {
        return Err(Reason::PolicyExpired);
    }
    match turn.ready.state.tenants.get(&tenant_id) {
        Some(tenant) => {
            if tenant.policy_key != key {
                return Err(Reason::DocumentSignature);
            }
            let active = tenant.policies.get(&reference.id);
            if active.is_some_and(|slot| slot.body.is_none() && slot.reference == reference) {
                // The document that the host lost comes back; its record stands.
                turn.keep(bytes, None);
                turn.ready.state.attach_policy(verified);
                return Ok(());
            }
            if active.is_some_and(|slot| slot.reference.version >= reference.version) {
                return Err(Reason::DocumentVersion);
            }
            // Whose agents a lost document lists is not known, and each stands in one policy.
            let lost = |slot: &PolicySlot| slot.body.is_none() && slot.reference.id != reference.id;
            if tenant.policies.values().any(lost) {
                return Err(Reason::PolicyUnavailable);
            }
            let taken = |agent| tenant.agents.get(agent).is_some_and(|id| *id != reference.id);
            if verified.policy().agents.keys().any(taken) {
                return Err(Reason::PolicyAgentTaken);
            }
        }
        None if turn.ready.state.tenants.len() >= TENANTS_MAX => return Err(Reason::Busy),
        None => {}
    }
    let policies: usize =
        turn.ready.state.tenants.values().map(|tenant| tenant.policies.len()).sum();
    if policies >= POLICIES_MAX {
        return Err(Reason::Busy);
    }
    turn.keep(bytes, None);
    let about = About {
        tenant: Some(tenant_id),
        blob: Some(reference.hash),
        policy: Some(reference),
        key: Some(key),
        ..About::default()
    };
    turn.write(RecordKind::PolicyActivated, about, None)?;
    turn.ready.state.attach_policy(verified);
    channel::changed(turn);
    Ok(())
}

fn change_key(turn: &mut Turn<'_>, change: PolicyKeyChange, key: PublicKey) -> Result<(), Reason> {
    let tenant = turn.ready.state.tenant(&change.tenant)?;
    // Another change may have come since the check: then an older key signed this one.
    if tenant.policy_key != key {
        return Err(Reason::DocumentSignature);
    }
    if change.sequence != tenant.key_sequence.saturating_add(1) {
        return Err(Reason::DocumentVersion);
    }
    let about = About { tenant: Some(change.tenant), key: Some(change.key), ..About::default() };
    turn.write(RecordKind::PolicyKeyChanged, about, None).map(|_| ())
}

fn put_credential(
    turn: &mut Turn<'_>,
    header: CredentialHeader,
    stored: StoredCredential,
) -> Result<(), Reason> {
    let tenant = turn.ready.state.tenant(&header.tenant)?;
    let name = (header.namespace.clone(), header.owner, header.id.clone());
    let newer = |slot: &crate::state::CredentialSlot| slot.version < header.version;
    if !tenant.credentials.get(&name).is_none_or(newer) {
        return Err(Reason::DocumentVersion);
    }
    let held: usize =
        turn.ready.state.tenants.values().map(|tenant| tenant.credentials.len()).sum();
    if held >= CREDENTIALS_MAX {
        return Err(Reason::Busy);
    }
    let blob = Some(turn.keep(stored.encode()?, None));
    let (owner, id) = (header.owner, header.id.clone());
    let credential = Some(CredentialRef { owner, id, version: header.version });
    let tenant = Some(header.tenant.clone());
    let about = About { tenant, credential, blob, ..About::default() };
    let field = SealedField::Credential { namespace: header.namespace.clone() };
    turn.write(RecordKind::CredentialSealed, about, Some(field))?;
    let tenant = turn.ready.state.tenants.get_mut(&header.tenant).ok_or(Reason::Internal)?;
    if let Some(slot) = tenant.credentials.get_mut(&name) {
        slot.body = Some(Arc::new((stored, header)));
    }
    Ok(())
}

// Revocations are not signed: they can only take away, and who may send them is who can stop the
// whole plane anyway.

pub(crate) fn revoke_policy(
    turn: &mut Turn<'_>,
    tenant: TenantId,
    id: &PolicyId,
) -> Result<Answer, Reason> {
    let there = turn.ready.state.tenant(&tenant)?;
    let slot = there.policies.get(id).ok_or(Reason::PolicyUnavailable)?;
    let policy = Some(slot.reference.clone());
    let about = About { tenant: Some(tenant), policy, ..About::default() };
    turn.write(RecordKind::PolicyRevoked, about, None).map(|_| Answer::Done)
}

pub(crate) fn revoke_credential(
    turn: &mut Turn<'_>,
    tenant: TenantId,
    name: CredentialName,
) -> Result<Answer, Reason> {
    let there = turn.ready.state.tenant(&tenant)?;
    let slot = there.credentials.get(&name).ok_or(Reason::CredentialMissing)?;
    let (namespace, owner, id) = name;
    let credential = Some(CredentialRef { owner, id, version: slot.version });
    let about = About { tenant: Some(tenant), credential, ..About::default() };
    let field = SealedField::Credential { namespace };
    turn.write(RecordKind::CredentialRevoked, about, Some(field)).map(|_| Answer::Done)
}

pub(crate) fn revoke_agent(
    turn: &mut Turn<'_>,
    tenant: TenantId,
    agent: AgentId,
) -> Result<Answer, Reason> {
    let there = turn.ready.state.tenant(&tenant)?;
    let slot = there.policy_of(&agent).ok_or(Reason::AgentUnknown)?;
    let policy = slot.body.as_ref().ok_or(Reason::PolicyUnavailable)?;
    let listed = policy.policy().agents.get(&agent).ok_or(Reason::AgentUnknown)?;
    if there.revoked_agents.len() >= REVOKED_MAX {
        return Err(Reason::Busy);
    }
    let blob = Some(asked::key_hash(&listed.key)?);
    let about = About { tenant: Some(tenant), agent: Some(agent), blob, ..About::default() };
    turn.write(RecordKind::AgentRevoked, about, None).map(|_| Answer::Done)
}
