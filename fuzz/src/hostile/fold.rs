//! What follows from a log, by arithmetic of its own: no code of the enclave is used here.

use std::collections::{BTreeMap, BTreeSet};

use toani_protocol::{
    ActionId, CredentialId, ExecutionId, Hash, PolicyId, TenantId, Time,
    limits::IDEMPOTENCY_LIFE_MS,
    policy::{Measure, Policy, Quota, QuotaScope, QuotaWindow},
    record::{PolicyRef, Record, RecordKind},
    request::ActionRequest,
    sign::PublicKey,
};

/// A record of the instance, with what the model knows beyond it.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) leaf: Vec<u8>,
    pub(super) record: Record,
    /// Of `started`: what was asked for.
    pub(super) request: Option<ActionRequest>,
    /// Of `finished`: nothing can have happened upstream.
    pub(super) harmless: bool,
}

/// One execution.
#[derive(Clone)]
pub(super) struct Use {
    pub(super) request: ActionRequest,
    pub(super) policy: PolicyRef,
    pub(super) time: Time,
    given_back: bool,
}

/// What is so after some records.
#[derive(Default)]
pub(super) struct Fold {
    pub(super) lines: Vec<Line>,
    pub(super) hashes: Vec<Hash>,
    pub(super) time: Time,
    tips: BTreeMap<TenantId, (u64, Hash)>,
    /// Policy keys, and how often each was changed.
    pub(super) keys: BTreeMap<TenantId, (PublicKey, u64)>,
    /// Newest versions, and whether they are revoked.
    pub(super) policies: BTreeMap<(TenantId, PolicyId), (PolicyRef, bool)>,
    pub(super) list: Option<(Hash, u64)>,
    /// Newest versions, and whether they are revoked.
    pub(super) credentials: BTreeMap<(TenantId, PublicKey, CredentialId), (u64, bool)>,
    pub(super) uses: BTreeMap<ExecutionId, Use>,
    pub(super) open: BTreeSet<ExecutionId>,
    pub(super) started: BTreeSet<ActionId>,
}

impl Fold {
    pub(super) fn size(&self) -> u64 {
        u64::try_from(self.lines.len()).unwrap()
    }

    pub(super) fn head(&self) -> Hash {
        self.hashes.last().copied().unwrap_or(Hash::ZERO)
    }

    pub(super) fn tip(&self, tenant: &TenantId) -> (u64, Hash) {
        self.tips.get(tenant).copied().unwrap_or((0, Hash::ZERO))
    }

    /// Moves past a record. `list_version` is the version of the list that it may name.
    pub(super) fn push(&mut self, line: Line, list_version: u64) {
        let about = &line.record.about;
        let hash = Record::hash_of(&line.leaf);
        self.time = line.record.time;
        self.hashes.push(hash);
        if let Some(tenant) = about.tenant.clone() {
            let (sequence, _) = self.tip(&tenant);
            self.tips.insert(tenant, (sequence + 1, hash));
        }
        self.change(&line, list_version);
        self.lines.push(line);
    }

    fn change(&mut self, line: &Line, list_version: u64) {
        let about = line.record.about.clone();
        match line.record.kind {
            RecordKind::Admission => self.list = about.blob.map(|hash| (hash, list_version)),
            RecordKind::PolicyActivated => {
                let (tenant, policy) = (about.tenant.unwrap(), about.policy.unwrap());
                self.keys.entry(tenant.clone()).or_insert((about.key.unwrap(), 0));
                self.policies.insert((tenant, policy.id.clone()), (policy, false));
            }
            RecordKind::PolicyRevoked => {
                let name = (about.tenant.unwrap(), about.policy.unwrap().id);
                self.policies.get_mut(&name).unwrap().1 = true;
            }
            RecordKind::PolicyKeyChanged => {
                let slot = self.keys.get_mut(&about.tenant.unwrap()).unwrap();
                *slot = (about.key.unwrap(), slot.1 + 1);
            }
            RecordKind::CredentialSealed | RecordKind::CredentialRevoked => {
                let (tenant, named) = (about.tenant.unwrap(), about.credential.unwrap());
                let revoked = line.record.kind == RecordKind::CredentialRevoked;
                let slot = (named.version, revoked);
                self.credentials.insert((tenant, named.owner, named.id), slot);
            }
            RecordKind::Started => {
                let (execution, action) = (about.execution_id.unwrap(), about.action_id.unwrap());
                let (request, policy) = (line.request.clone().unwrap(), about.policy.unwrap());
                let time = line.record.time;
                let begun = Use { request, policy, time, given_back: false };
                self.uses.insert(execution.clone(), begun);
                self.open.insert(execution);
                self.started.insert(action);
            }
            RecordKind::Finished | RecordKind::Ended => {
                let Some(execution) = about.execution_id else { return };
                self.open.remove(&execution);
                if line.harmless {
                    self.uses.get_mut(&execution).unwrap().given_back = true;
                }
            }
            _ => {}
        }
    }

    /// Whether the request's idempotency key has been used within its life.
    pub(super) fn is_used(&self, request: &ActionRequest, now: Time) -> bool {
        self.uses.values().any(|use_| {
            let there = &use_.request;
            (&there.tenant, &there.agent, &there.idempotency_key)
                == (&request.tenant, &request.agent, &request.idempotency_key)
                && now.ms_since(use_.time) <= IDEMPOTENCY_LIFE_MS
        })
    }

    /// The first quota of the policy that another execution of the request overdraws.
    pub(super) fn overdrawn<'a>(
        &self,
        policy: &'a Policy,
        request: &ActionRequest,
        now: Time,
        document: impl Fn(&Hash) -> Option<&'a Policy>,
    ) -> Option<&'a str> {
        policy.quotas.iter().find_map(|(id, quota)| {
            let taken = amount(quota, request)?;
            let before = self
                .uses
                .values()
                .filter(|use_| !use_.given_back && same_counter(quota, policy, request, use_, now));
            let before: u64 = before
                .filter_map(|use_| {
                    let then = document(&use_.policy.hash)?.quotas.get(id)?;
                    (then.window == quota.window && then.per == quota.per).then_some(())?;
                    amount(then, &use_.request)
                })
                .sum();
            (before + taken > quota.limit).then_some(id.as_str())
        })
    }
}

/// What a request takes from a quota, if it counts there.
fn amount(quota: &Quota, request: &ActionRequest) -> Option<u64> {
    let name = format!("{}.{}", request.service, request.action);
    if quota.actions.as_ref().is_some_and(|actions| !actions.contains(&name)) {
        return None;
    }
    match &quota.measure {
        Measure::Count => Some(1),
        Measure::Sum(param) => request.params.0.get(param)?.as_u64(),
    }
}

fn same_counter(
    quota: &Quota,
    policy: &Policy,
    request: &ActionRequest,
    use_: &Use,
    now: Time,
) -> bool {
    let there = &use_.request;
    let whose = match quota.per {
        QuotaScope::Agent => there.agent == request.agent,
        QuotaScope::Action => {
            (&there.service, &there.action) == (&request.service, &request.action)
        }
        QuotaScope::Policy => true,
    };
    let counts = match quota.window {
        QuotaWindow::FixedS(seconds) => {
            let width = u64::from(seconds) * 1000;
            use_.time.ms() / width == now.ms() / width
        }
        QuotaWindow::RollingS(seconds) => now.ms_since(use_.time) < u64::from(seconds) * 1000,
    };
    there.tenant == policy.tenant && use_.policy.id == policy.id && whose && counts
}
