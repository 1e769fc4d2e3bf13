//! What operators, tenants and owners sign: verified first, then recorded, then in force.

use alloc::{sync::Arc, vec::Vec};

use rand_core::CryptoRng;
use toani_policy::VerifiedPolicy;
use toani_protocol::{
    AgentId, Hash, PolicyId, Reason, TenantId, Time,
    assurance::SandboxLevel,
    canonical,
    credential::{CredentialHeader, SealedCredential},
    instance::VerifiedAdmission,
    job::SandboxHello,
    limits::{CREDENTIALS_MAX, DOCUMENT_BYTES_MAX, POLICIES_MAX, REVOKED_MAX, TENANTS_MAX},
    policy::{Policy, PolicyKeyChange},
    record::{About, CredentialRef, RecordKind},
    sign::{Label, PublicKey, Signed},
    wire::{Answer, Command, Effect},
};

use crate::{
    asked,
    life::Channel,
    ready::Ready,
    state::{CredentialName, Document, PolicySlot, SealedField},
    vault::{self, StoredCredential},
};

/// A document whose signatures hold.
#[derive(Debug)]
pub(crate) enum CheckedAdmin {
    Admission { verified: VerifiedAdmission, bytes: Vec<u8> },
    Sandbox { hello: SandboxHello },
    Policy { verified: VerifiedPolicy, key: PublicKey, bytes: Vec<u8> },
    PolicyKey { change: PolicyKeyChange, key: PublicKey },
    Credential { header: CredentialHeader, stored: StoredCredential },
}

pub(crate) fn check(
    ready: &Ready,
    command: Command,
    rng: &mut impl CryptoRng,
) -> Result<CheckedAdmin, Reason> {
    match command {
        Command::Admit { admission } => {
            let verified = VerifiedAdmission::verify(&admission, &ready.manifest, ready.instance)
                .map_err(|_| Reason::DocumentSignature)?;
            Ok(CheckedAdmin::Admission { verified, bytes: admission })
        }
        Command::ConnectSandbox { hello } => Ok(CheckedAdmin::Sandbox { hello }),
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
    let tenant = ready.state.tenants.get(&signed.payload.tenant).ok_or(Reason::TenantUnknown)?;
    let key = tenant.policy_key;
    signed.verify(Label::PolicyKey, &[key], 1).map_err(|_| Reason::DocumentSignature)?;
    Ok(CheckedAdmin::PolicyKey { change: signed.payload, key })
}

fn check_credential(
    ready: &Ready,
    bytes: &[u8],
    rng: &mut impl CryptoRng,
) -> Result<CheckedAdmin, Reason> {
    let sealed = SealedCredential::decode(bytes).map_err(|_| Reason::DocumentMalformed)?;
    sealed.verify().map_err(|_| Reason::DocumentSignature)?;
    if sealed.header.instance != ready.instance {
        return Err(Reason::CredentialEnvelope);
    }
    let stored = vault::take_in(&ready.keys, &sealed, rng)?;
    Ok(CheckedAdmin::Credential { header: sealed.header, stored })
}

pub(crate) fn apply(
    ready: &mut Ready,
    checked: CheckedAdmin,
    now: Time,
    out: &mut Vec<Effect>,
) -> Result<Answer, Reason> {
    match checked {
        CheckedAdmin::Admission { verified, bytes } => admit(ready, verified, bytes, now, out)?,
        CheckedAdmin::Sandbox { hello } => connect(ready, &hello, now, out)?,
        CheckedAdmin::Policy { verified, key, bytes } => {
            activate(ready, verified, key, bytes, now, out)?;
        }
        CheckedAdmin::PolicyKey { change, key } => change_key(ready, change, key, now, out)?,
        CheckedAdmin::Credential { header, stored } => {
            put_credential(ready, header, stored, now, out)?;
        }
    }
    Ok(Answer::Done)
}

fn admit(
    ready: &mut Ready,
    verified: VerifiedAdmission,
    bytes: Vec<u8>,
    now: Time,
    out: &mut Vec<Effect>,
) -> Result<(), Reason> {
    let hash = verified.hash();
    let active = &ready.state.admission;
    match (&active.body, active.hash) {
        (Some(list), _) if verified.version() <= list.version() => {
            return Err(Reason::DocumentVersion);
        }
        // The host lost the active list, or says so: its version is not known, so that nothing but
        // the list itself may take its place.
        (None, Some(lost)) if hash != lost => return Err(Reason::DocumentVersion),
        _ => {}
    }
    out.push(Effect::PutBlob { bytes, delete_after: None });
    // From its own record on, the list stands in every record.
    ready.standing.admission = hash;
    let about = About { blob: Some(hash), ..About::default() };
    ready.write(now, RecordKind::Admission, about, None, out)?;
    // A sandbox that is no longer admitted gets no further job.
    let still = |channel: &Channel| verified.level_of(channel.measurement) == Some(channel.level);
    ready.life.sandbox = ready.life.sandbox.take().filter(still);
    ready.state.admission = Document { hash: Some(hash), body: Some(Arc::new(verified)) };
    Ok(())
}

fn connect(
    ready: &mut Ready,
    hello: &SandboxHello,
    now: Time,
    out: &mut Vec<Effect>,
) -> Result<(), Reason> {
    let measurement = hello.measurement;
    let list = ready.state.admission.body.as_ref();
    let level = list.and_then(|list| list.level_of(measurement));
    // Levels above `native` are admitted by evidence, which there is none of yet.
    let level = level.filter(|level| *level == SandboxLevel::Native);
    let level = level.ok_or(Reason::SandboxNotAdmitted)?;
    let blob = Some(Hash::of_labelled("toani/v1/sandbox-key", &hello.key));
    let about = About { sandbox: Some(measurement), blob, ..About::default() };
    ready.write(now, RecordKind::Sandbox, about, None, out)?;
    ready.life.sandbox = Some(Channel { measurement, level, key: hello.key });
    Ok(())
}

fn activate(
    ready: &mut Ready,
    verified: VerifiedPolicy,
    key: PublicKey,
    bytes: Vec<u8>,
    now: Time,
    out: &mut Vec<Effect>,
) -> Result<(), Reason> {
    let (tenant_id, reference) = (verified.policy().tenant.clone(), verified.reference());
    if now >= verified.policy().expires {
        return Err(Reason::PolicyExpired);
    }
    match ready.state.tenants.get(&tenant_id) {
        Some(tenant) => {
            if tenant.policy_key != key {
                return Err(Reason::DocumentSignature);
            }
            let active = tenant.policies.get(&reference.id);
            if active.is_some_and(|slot| slot.body.is_none() && slot.reference == reference) {
                return restore(ready, verified, bytes, out);
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
        None if ready.state.tenants.len() >= TENANTS_MAX => return Err(Reason::Busy),
        None => {}
    }
    let policies: usize = ready.state.tenants.values().map(|tenant| tenant.policies.len()).sum();
    if policies >= POLICIES_MAX {
        return Err(Reason::Busy);
    }
    out.push(Effect::PutBlob { bytes, delete_after: None });
    let about = About {
        tenant: Some(tenant_id.clone()),
        policy: Some(reference.clone()),
        key: Some(key),
        blob: Some(reference.hash),
        ..About::default()
    };
    ready.write(now, RecordKind::PolicyActivated, about, None, out)?;
    let tenant = ready.state.tenants.get_mut(&tenant_id).ok_or(Reason::Internal)?;
    tenant.attach_policy(Arc::new(verified));
    Ok(())
}

/// Gives an active policy the document that the host lost. Its record stands.
fn restore(
    ready: &mut Ready,
    verified: VerifiedPolicy,
    bytes: Vec<u8>,
    out: &mut Vec<Effect>,
) -> Result<(), Reason> {
    let tenant = ready.state.tenants.get_mut(&verified.policy().tenant).ok_or(Reason::Internal)?;
    out.push(Effect::PutBlob { bytes, delete_after: None });
    tenant.attach_policy(Arc::new(verified));
    Ok(())
}

fn change_key(
    ready: &mut Ready,
    change: PolicyKeyChange,
    key: PublicKey,
    now: Time,
    out: &mut Vec<Effect>,
) -> Result<(), Reason> {
    let tenant = ready.state.tenants.get(&change.tenant).ok_or(Reason::TenantUnknown)?;
    // Another change may have come since the check: then an older key signed this one.
    if tenant.policy_key != key {
        return Err(Reason::DocumentSignature);
    }
    if change.sequence != tenant.key_sequence.saturating_add(1) {
        return Err(Reason::DocumentVersion);
    }
    let about = About { tenant: Some(change.tenant), key: Some(change.key), ..About::default() };
    ready.write(now, RecordKind::PolicyKeyChanged, about, None, out)?;
    Ok(())
}

fn put_credential(
    ready: &mut Ready,
    header: CredentialHeader,
    stored: StoredCredential,
    now: Time,
    out: &mut Vec<Effect>,
) -> Result<(), Reason> {
    let tenant = ready.state.tenants.get(&header.tenant).ok_or(Reason::TenantUnknown)?;
    let name = (header.namespace.clone(), header.owner, header.id.clone());
    let newer = |slot: &crate::state::CredentialSlot| slot.version < header.version;
    if !tenant.credentials.get(&name).is_none_or(newer) {
        return Err(Reason::DocumentVersion);
    }
    let held: usize = ready.state.tenants.values().map(|tenant| tenant.credentials.len()).sum();
    if held >= CREDENTIALS_MAX {
        return Err(Reason::Busy);
    }
    let bytes = stored.encode().map_err(|_| Reason::Internal)?;
    let blob = Hash::of(&bytes);
    out.push(Effect::PutBlob { bytes, delete_after: None });
    let about = About {
        tenant: Some(header.tenant.clone()),
        credential: Some(CredentialRef {
            owner: header.owner,
            id: header.id.clone(),
            version: header.version,
        }),
        blob: Some(blob),
        ..About::default()
    };
    let field = SealedField::Credential { namespace: header.namespace.clone() };
    ready.write(now, RecordKind::CredentialSealed, about, Some(field), out)?;
    let tenant = ready.state.tenants.get_mut(&header.tenant).ok_or(Reason::Internal)?;
    if let Some(slot) = tenant.credentials.get_mut(&name) {
        slot.body = Some(Arc::new((stored, header)));
    }
    Ok(())
}

// Revocations are not signed: they can only take away, and who may send them is who can stop the
// whole plane anyway.

pub(crate) fn revoke_policy(
    ready: &mut Ready,
    tenant: TenantId,
    id: &PolicyId,
    now: Time,
    out: &mut Vec<Effect>,
) -> Result<Answer, Reason> {
    let there = ready.state.tenants.get(&tenant).ok_or(Reason::TenantUnknown)?;
    let slot = there.policies.get(id).ok_or(Reason::PolicyUnavailable)?;
    let policy = Some(slot.reference.clone());
    let about = About { tenant: Some(tenant), policy, ..About::default() };
    ready.write(now, RecordKind::PolicyRevoked, about, None, out)?;
    Ok(Answer::Done)
}

pub(crate) fn revoke_credential(
    ready: &mut Ready,
    tenant: TenantId,
    name: CredentialName,
    now: Time,
    out: &mut Vec<Effect>,
) -> Result<Answer, Reason> {
    let there = ready.state.tenants.get(&tenant).ok_or(Reason::TenantUnknown)?;
    let slot = there.credentials.get(&name).ok_or(Reason::CredentialMissing)?;
    let (namespace, owner, id) = name;
    let credential = Some(CredentialRef { owner, id, version: slot.version });
    let about = About { tenant: Some(tenant), credential, ..About::default() };
    let field = SealedField::Credential { namespace };
    ready.write(now, RecordKind::CredentialRevoked, about, Some(field), out)?;
    Ok(Answer::Done)
}

pub(crate) fn revoke_agent(
    ready: &mut Ready,
    tenant: TenantId,
    agent: AgentId,
    now: Time,
    out: &mut Vec<Effect>,
) -> Result<Answer, Reason> {
    let there = ready.state.tenants.get(&tenant).ok_or(Reason::TenantUnknown)?;
    let slot = there.policy_of(&agent).ok_or(Reason::AgentUnknown)?;
    let policy = slot.body.as_ref().ok_or(Reason::PolicyUnavailable)?;
    let listed = policy.policy().agents.get(&agent).ok_or(Reason::AgentUnknown)?;
    if there.revoked_agents.len() >= REVOKED_MAX {
        return Err(Reason::Busy);
    }
    let blob = Some(asked::key_hash(&listed.key)?);
    let about = About { tenant: Some(tenant), agent: Some(agent), blob, ..About::default() };
    ready.write(now, RecordKind::AgentRevoked, about, None, out)?;
    Ok(Answer::Done)
}
