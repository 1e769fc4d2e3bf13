//! The enclave's state: the fold of its own records, and the documents that they name by hash.
//!
//! [`State::fold`] is the only thing that changes what outlives a boot. While the enclave works it
//! folds each record that it has just signed; after a restart it folds the log. Both give the same
//! state, or there is a bug.

use alloc::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    vec::Vec,
};

use serde::{Deserialize, Serialize};
use toani_attestation::SgxVerdict;
use toani_policy::{QuotaKey, QuotaUse, Usage, VerifiedPolicy, Window};
use toani_protocol::{
    ActionId, AgentId, CredentialId, ExecutionId, Hash, Namespace, PolicyId, Reason, TenantId,
    Time,
    credential::CredentialHeader,
    instance::VerifiedAdmission,
    limits::{
        IDEMPOTENCY_KEYS_MAX, IDEMPOTENCY_LIFE_MS, PENDING_ACTIONS_MAX, QUOTA_WINDOWS_MAX,
        TOKEN_LIFE_MS_MAX,
    },
    policy::QuotaWindow,
    record::{About, CredentialRef, Outcome, PolicyRef, Record, RecordKind},
    sign::PublicKey,
};

use crate::vault::StoredCredential;

/// What a record's sealed field holds: what the enclave alone must read again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum SealedField {
    /// Of `credential_sealed` and `credential_revoked`.
    Credential { namespace: Namespace },
    /// Of `started`.
    Started { idempotency: Hash, intent: Hash, uses: Vec<QuotaUse> },
    /// Of `finished` and `ended`.
    Finished { give_back: bool },
    /// Of `boot`.
    Boot(CollateralNumbers),
}

/// How new the collateral was that a boot was proven by. The host's clock says whether it has
/// expired; these grow whatever the clock says, so that what was revoked once stays revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct CollateralNumbers {
    pub(crate) tcb_evaluation: u32,
    pub(crate) root_crl: u32,
    pub(crate) pck_crl: u32,
}

impl CollateralNumbers {
    pub(crate) fn of(verdict: &SgxVerdict) -> Self {
        Self {
            tcb_evaluation: verdict.tcb_eval_data_number,
            root_crl: verdict.root_crl_number,
            pck_crl: verdict.pck_crl_number,
        }
    }

    fn max(self, other: Self) -> Self {
        Self {
            tcb_evaluation: self.tcb_evaluation.max(other.tcb_evaluation),
            root_crl: self.root_crl.max(other.root_crl),
            pck_crl: self.pck_crl.max(other.pck_crl),
        }
    }

    /// Whether nothing here is older.
    pub(crate) fn reaches(self, least: Self) -> bool {
        self.max(least) == self
    }
}

/// How often a crowded table is searched for what is over.
const SWEEP_MS: u64 = 1000;

/// A record that does not continue the state that the records before it made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record does not fit the records before it")]
pub(crate) struct FoldError;

type Folded = Result<(), FoldError>;

#[derive(Debug, Default)]
pub(crate) struct State {
    /// The active admission list by its hash. The list itself may be missing, like any document that
    /// a record names, which disables what needs it.
    pub(crate) admission_hash: Option<Hash>,
    pub(crate) admission: Option<Arc<VerifiedAdmission>>,
    pub(crate) tenants: BTreeMap<TenantId, Tenant>,
    pub(crate) open: BTreeMap<ExecutionId, Open>,
    /// Actions of this boot that wait for people or have a token.
    pending: BTreeMap<ActionId, Pending>,
    /// What boots before left pending, until a record ends it.
    pub(crate) left: BTreeMap<ActionId, Pending>,
    idempotency: BTreeMap<Hash, Used>,
    /// Idempotency keys by age.
    used_order: VecDeque<(Time, Hash)>,
    quotas: BTreeMap<QuotaKey, (QuotaWindow, Window)>,
    swept_at: Time,
    /// Counter of the last hand-over.
    pub(crate) hand_overs: u64,
    /// The newest that any boot was proven by.
    pub(crate) collateral: CollateralNumbers,
}

#[derive(Debug)]
pub(crate) struct Tenant {
    pub(crate) policy_key: PublicKey,
    pub(crate) key_sequence: u64,
    pub(crate) policies: BTreeMap<PolicyId, PolicySlot>,
    /// In which active policy an agent stands.
    pub(crate) agents: BTreeMap<AgentId, PolicyId>,
    /// Hash of the agent's key that was revoked: a new key lifts the revocation.
    pub(crate) revoked_agents: BTreeMap<AgentId, Hash>,
    pub(crate) credentials: BTreeMap<CredentialName, CredentialSlot>,
    /// The last day whose salt is forgotten, and all before.
    forgotten: Option<u64>,
}

/// A slot of the vault. The owner's key is in it: nobody fills another owner's slot.
pub(crate) type CredentialName = (Namespace, PublicKey, CredentialId);

/// A slot, and the version in it that was promised.
pub(crate) type CredentialVersion = (CredentialName, u64);

/// What records and receipts say of a credential: not its namespace.
pub(crate) fn credential_ref(credential: &CredentialVersion) -> CredentialRef {
    let ((_, owner, id), version) = credential;
    CredentialRef { owner: *owner, id: id.clone(), version: *version }
}

#[derive(Debug)]
pub(crate) struct PolicySlot {
    pub(crate) reference: PolicyRef,
    pub(crate) revoked: bool,
    pub(crate) body: Option<Arc<VerifiedPolicy>>,
}

#[derive(Debug)]
pub(crate) struct CredentialSlot {
    pub(crate) version: u64,
    pub(crate) revoked: bool,
    pub(crate) blob: Hash,
    pub(crate) body: Option<Arc<(StoredCredential, CredentialHeader)>>,
}

/// An execution that has started and not ended.
#[derive(Debug, Clone)]
pub(crate) struct Open {
    pub(crate) tenant: TenantId,
    pub(crate) agent: AgentId,
    pub(crate) action: ActionId,
    started_at: Time,
    idempotency: Hash,
    uses: Vec<QuotaUse>,
}

/// An action that waits or has a token, neither redeemed nor ended.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    pub(crate) tenant: TenantId,
    pub(crate) agent: AgentId,
    /// When its token is void by itself. A wait ends in a record, however long it takes.
    expires: Option<Time>,
}

impl Pending {
    fn is_over(&self, now: Time) -> bool {
        self.expires.is_some_and(|expires| now >= expires)
    }
}

/// What an idempotency key was used for.
#[derive(Debug, Clone)]
pub(crate) struct Used {
    started_at: Time,
    pub(crate) intent: Hash,
    pub(crate) action: ActionId,
    pub(crate) execution: ExecutionId,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) blob: Option<Hash>,
}

impl Usage for State {
    fn used(&self, key: &QuotaKey, window: QuotaWindow, now: Time) -> u64 {
        self.quotas.get(key).map_or(0, |(_, use_)| use_.used(window, now))
    }
}

impl State {
    pub(crate) fn tenant(&self, id: &TenantId) -> Result<&Tenant, Reason> {
        self.tenants.get(id).ok_or(Reason::TenantUnknown)
    }

    pub(crate) fn has_forgotten(&self, tenant: &TenantId, day: u64) -> bool {
        self.tenants.get(tenant).is_some_and(|tenant| tenant.forgotten >= Some(day))
    }

    /// Applies one record. `sealed` is its opened sealed field.
    pub(crate) fn fold(&mut self, record: &Record, sealed: Option<SealedField>) -> Folded {
        let about = &record.about;
        // With every record, not with `started` alone: a full table must not keep itself full.
        self.forget_old(record.time);
        match record.kind {
            RecordKind::Admission => {
                self.admission_hash = Some(about.blob.ok_or(FoldError)?);
                self.admission = None;
            }
            RecordKind::PolicyActivated => self.fold_policy(record)?,
            RecordKind::PolicyRevoked => {
                let id = &about.policy.as_ref().ok_or(FoldError)?.id;
                let tenant = self.tenant_of(record)?;
                tenant.policies.get_mut(id).ok_or(FoldError)?.revoked = true;
            }
            RecordKind::PolicyKeyChanged => {
                let key = about.key.ok_or(FoldError)?;
                let tenant = self.tenant_of(record)?;
                tenant.policy_key = key;
                tenant.key_sequence = tenant.key_sequence.saturating_add(1);
            }
            RecordKind::CredentialSealed | RecordKind::CredentialRevoked => {
                self.fold_credential(record, sealed)?;
            }
            RecordKind::AgentRevoked => {
                let agent = about.agent.clone().ok_or(FoldError)?;
                let key = about.blob.ok_or(FoldError)?;
                self.tenant_of(record)?.revoked_agents.insert(agent, key);
            }
            RecordKind::Forgotten => {
                let day = about.day.ok_or(FoldError)?;
                self.tenant_of(record)?.forgotten = Some(day);
            }
            RecordKind::Started => self.fold_started(record, sealed)?,
            RecordKind::Finished => self.fold_ended(record, sealed)?,
            RecordKind::Ended if about.execution_id.is_some() => self.fold_ended(record, sealed)?,
            RecordKind::Ended => {
                let action = about.action_id.as_ref().ok_or(FoldError)?;
                self.left.remove(action).ok_or(FoldError)?;
            }
            RecordKind::Allowed | RecordKind::Waiting | RecordKind::Approved => {
                self.fold_pending(record)?;
            }
            RecordKind::Denied | RecordKind::TokenRevoked => {
                self.pending.remove(about.action_id.as_ref().ok_or(FoldError)?);
            }
            RecordKind::Boot => {
                if let Some(SealedField::Boot(numbers)) = sealed {
                    self.collateral = self.collateral.max(numbers);
                }
                self.left.append(&mut self.pending);
                self.left.retain(|_, left| !left.is_over(record.time));
            }
            RecordKind::HandedOver => {
                let next = self.hand_overs.checked_add(1);
                self.hand_overs =
                    next.filter(|next| about.count == Some(*next)).ok_or(FoldError)?;
            }
            // These tell of what a boot does; nothing of it outlives the boot.
            RecordKind::Birth
            | RecordKind::Sandbox
            | RecordKind::Endorsed
            | RecordKind::Refused
            | RecordKind::Refusals => {}
        }
        Ok(())
    }

    fn tenant_of(&mut self, record: &Record) -> Result<&mut Tenant, FoldError> {
        let tenant = record.about.tenant.as_ref().ok_or(FoldError)?;
        self.tenants.get_mut(tenant).ok_or(FoldError)
    }

    fn fold_policy(&mut self, record: &Record) -> Folded {
        let about = &record.about;
        let id = about.tenant.clone().ok_or(FoldError)?;
        let reference = about.policy.clone().ok_or(FoldError)?;
        if !self.tenants.contains_key(&id) {
            let first_key = about.key.ok_or(FoldError)?;
            self.tenants.insert(id.clone(), Tenant::new(first_key));
        }
        let tenant = self.tenants.get_mut(&id).ok_or(FoldError)?;
        tenant.agents.retain(|_, policy| *policy != reference.id);
        let slot = PolicySlot { reference: reference.clone(), revoked: false, body: None };
        tenant.policies.insert(reference.id, slot);
        Ok(())
    }

    fn fold_credential(&mut self, record: &Record, sealed: Option<SealedField>) -> Folded {
        let Some(SealedField::Credential { namespace }) = sealed else { return Err(FoldError) };
        let credential = record.about.credential.clone().ok_or(FoldError)?;
        let name = (namespace, credential.owner, credential.id);
        let blob = record.about.blob;
        let credentials = &mut self.tenant_of(record)?.credentials;
        if record.kind == RecordKind::CredentialRevoked {
            let slot = credentials.get_mut(&name).ok_or(FoldError)?;
            // Its ciphertext is of no more use, and after a restart it is not asked for.
            (slot.revoked, slot.body) = (true, None);
            return Ok(());
        }
        let blob = blob.ok_or(FoldError)?;
        let slot = CredentialSlot { version: credential.version, revoked: false, blob, body: None };
        credentials.insert(name, slot);
        Ok(())
    }

    fn fold_pending(&mut self, record: &Record) -> Folded {
        let About { action_id, tenant, agent, .. } = record.about.clone();
        let waits = record.kind == RecordKind::Waiting;
        let pending = Pending {
            tenant: tenant.ok_or(FoldError)?,
            agent: agent.ok_or(FoldError)?,
            expires: (!waits).then(|| record.time.plus_ms(TOKEN_LIFE_MS_MAX)),
        };
        self.pending.insert(action_id.ok_or(FoldError)?, pending);
        Ok(())
    }

    fn fold_started(&mut self, record: &Record, sealed: Option<SealedField>) -> Folded {
        let Some(SealedField::Started { idempotency, intent, uses }) = sealed else {
            return Err(FoldError);
        };
        let about = &record.about;
        let execution = about.execution_id.clone().ok_or(FoldError)?;
        let action = about.action_id.clone().ok_or(FoldError)?;
        self.pending.remove(&action);
        for taken in &uses {
            let (_, window) =
                self.quotas.entry(taken.key).or_insert_with(|| (taken.window, Window::default()));
            window.add(taken.window, record.time, taken.amount);
        }
        let used = Used {
            started_at: record.time,
            intent,
            action: action.clone(),
            execution: execution.clone(),
            outcome: None,
            blob: None,
        };
        self.idempotency.insert(idempotency, used);
        self.used_order.push_back((record.time, idempotency));
        let open = Open {
            tenant: about.tenant.clone().ok_or(FoldError)?,
            agent: about.agent.clone().ok_or(FoldError)?,
            action,
            started_at: record.time,
            idempotency,
            uses,
        };
        self.open.insert(execution, open);
        Ok(())
    }

    fn fold_ended(&mut self, record: &Record, sealed: Option<SealedField>) -> Folded {
        let Some(SealedField::Finished { give_back }) = sealed else { return Err(FoldError) };
        let about = &record.about;
        let execution = about.execution_id.as_ref().ok_or(FoldError)?;
        let open = self.open.remove(execution).ok_or(FoldError)?;
        if give_back {
            for taken in &open.uses {
                if let Some((_, window)) = self.quotas.get_mut(&taken.key) {
                    window.give_back(taken.window, open.started_at, taken.amount);
                }
            }
        }
        // A key that outlived its day may stand for a later execution by now.
        let used = self.idempotency.get_mut(&open.idempotency);
        if let Some(used) = used.filter(|used| used.execution == *execution) {
            used.outcome = about.outcome;
            used.blob = about.blob;
        }
        Ok(())
    }

    /// What an idempotency key was used for within its life.
    pub(crate) fn used_key(&self, key: &Hash, now: Time) -> Option<&Used> {
        self.idempotency
            .get(key)
            .filter(|used| now.ms_since(used.started_at) <= IDEMPOTENCY_LIFE_MS)
    }

    /// Whether another execution could be remembered.
    pub(crate) fn has_room(&self) -> bool {
        self.idempotency.len() < IDEMPOTENCY_KEYS_MAX && self.quotas.len() < QUOTA_WINDOWS_MAX
    }

    /// Whether another action could be pending.
    pub(crate) fn has_room_to_wait(&self) -> bool {
        self.pending.len().saturating_add(self.left.len()) < PENDING_ACTIONS_MAX
    }

    /// Drops what no longer counts. Depends on the records' times alone, so that a replay forgets
    /// the same.
    pub(crate) fn forget_old(&mut self, now: Time) {
        while let Some((time, key)) = self.used_order.front().copied() {
            if now.ms_since(time) <= IDEMPOTENCY_LIFE_MS {
                break;
            }
            self.used_order.pop_front();
            // A key that was used again since is younger than this entry of the order.
            if self.idempotency.get(&key).is_some_and(|used| used.started_at == time) {
                self.idempotency.remove(&key);
            }
        }
        let crowded = self.quotas.len() > QUOTA_WINDOWS_MAX / 2
            || self.pending.len() > PENDING_ACTIONS_MAX / 2;
        if crowded && now.ms_since(self.swept_at) >= SWEEP_MS {
            self.swept_at = now;
            self.quotas.retain(|_, (window, use_)| !use_.is_over(*window, now));
            self.pending.retain(|_, pending| !pending.is_over(now));
        }
    }

    /// Gives a policy's slot its document, if the slot is there and names this one.
    pub(crate) fn attach_policy(&mut self, verified: VerifiedPolicy) {
        if let Some(tenant) = self.tenants.get_mut(&verified.policy().tenant) {
            tenant.attach_policy(Arc::new(verified));
        }
    }

    /// The documents that the state names and does not hold.
    pub(crate) fn missing(&self) -> Vec<Hash> {
        let admission = self.admission_hash.filter(|_| self.admission.is_none());
        let mut missing: Vec<Hash> = admission.into_iter().collect();
        for tenant in self.tenants.values() {
            let policies = tenant.policies.values().filter(|slot| slot.body.is_none());
            missing.extend(policies.map(|slot| slot.reference.hash));
            let credentials =
                tenant.credentials.values().filter(|slot| slot.body.is_none() && !slot.revoked);
            missing.extend(credentials.map(|slot| slot.blob));
        }
        missing
    }
}

impl Tenant {
    fn new(policy_key: PublicKey) -> Self {
        Self {
            policy_key,
            key_sequence: 0,
            policies: BTreeMap::new(),
            agents: BTreeMap::new(),
            revoked_agents: BTreeMap::new(),
            credentials: BTreeMap::new(),
            forgotten: None,
        }
    }

    fn attach_policy(&mut self, verified: Arc<VerifiedPolicy>) {
        let reference = verified.reference();
        let Some(slot) = self.policies.get_mut(&reference.id) else { return };
        if slot.reference != reference {
            return;
        }
        for agent in verified.policy().agents.keys() {
            self.agents.insert(agent.clone(), reference.id.clone());
        }
        slot.body = Some(verified);
    }

    /// The active policy of an agent.
    pub(crate) fn policy_of(&self, agent: &AgentId) -> Option<&PolicySlot> {
        self.agents.get(agent).and_then(|id| self.policies.get(id))
    }
}

#[cfg(test)]
mod tests {
    use toani_protocol::{BootId, sign::Signature};

    use super::*;

    fn record(kind: RecordKind, ms: u64, n: u64) -> Record {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&n.to_be_bytes());
        let about = About {
            tenant: Some(TenantId::of_first_key(&PublicKey::new([1; 32]))),
            agent: Some("agent".parse().unwrap()),
            action_id: Some(ActionId::from_random(id)),
            ..About::default()
        };
        Record {
            index: 0,
            origin: "log".into(),
            previous: Hash::ZERO,
            time: Time::from_ms(ms),
            boot: BootId::from_random([0; 16]),
            kind,
            tee_mrenclave: Hash::ZERO,
            evidence: Hash::ZERO,
            admission: Hash::ZERO,
            about,
            chain_signature: Signature([0; 64]),
        }
    }

    #[test]
    fn pending_actions_are_bounded_and_tokens_leave_by_record_time() {
        let mut state = State::default();
        let waits = 100;
        for n in 0..PENDING_ACTIONS_MAX as u64 {
            assert!(state.has_room_to_wait());
            let kind = if n < waits { RecordKind::Waiting } else { RecordKind::Allowed };
            state.fold(&record(kind, n, n), None).unwrap();
        }
        assert!(!state.has_room_to_wait());
        // Any record passes the time on, a refusal too.
        let end = PENDING_ACTIONS_MAX as u64 + TOKEN_LIFE_MS_MAX;
        state.fold(&record(RecordKind::Refused, waits + TOKEN_LIFE_MS_MAX, 0), None).unwrap();
        assert_eq!(state.pending.len(), PENDING_ACTIONS_MAX - 1, "one is over by then");
        state.fold(&record(RecordKind::Refused, end, 0), None).unwrap();
        assert_eq!(state.pending.len() as u64, waits, "a wait ends in a record alone");
        // A boot leaves them behind, and what is left takes its place until it ends.
        state.fold(&record(RecordKind::Boot, end, 0), None).unwrap();
        assert_eq!((state.pending.len(), state.left.len() as u64), (0, waits));
        for n in waits..PENDING_ACTIONS_MAX as u64 {
            state.fold(&record(RecordKind::Waiting, end, n), None).unwrap();
        }
        assert!(!state.has_room_to_wait());
        state.fold(&record(RecordKind::Ended, end, 0), None).unwrap();
        assert!(state.has_room_to_wait());
        let again = state.fold(&record(RecordKind::Ended, end, 0), None);
        assert_eq!(again, Err(FoldError), "it has ended");
    }
}
