//! The model: what was sent, what came back, and what should never have happened.

use std::collections::{BTreeMap, BTreeSet};

use toani_protocol::{
    ActionId, AgentId, BootId, ExecutionId, Hash, PersonId, TenantId, Time,
    policy::Policy,
    record::{Outcome, Record, RecordKind},
    request::ActionRequest,
    sign::PublicKey,
    wire::{Call, Command, Effect, Reply, WIRE_VERSION},
};

use super::{
    Kind, Watched, breach,
    documents::Documents,
    ensure,
    fold::{Fold, Line},
    people,
    secrets::{Root, Watch},
};
use crate::world::*;

/// An action that was asked for, and how far it is.
pub(super) struct Asked {
    pub(super) request: ActionRequest,
    pub(super) approved: BTreeSet<PersonId>,
    /// When its wait ends, or its token.
    pub(super) expires: Time,
    /// A person said no, or the token was revoked, or nobody answered in time.
    pub(super) void: bool,
    /// Plan and params, as every record of it has to say.
    pub(super) hashes: (Option<Hash>, Option<Hash>),
}

#[derive(Default)]
pub(super) struct Model {
    pub(super) documents: Documents,
    pub(super) watch: Watch,
    pub(super) fold: Fold,
    manifest: Vec<u8>,
    sealed_root: Vec<u8>,
    pub(super) root: Option<Root>,
    /// Every record that the instance has signed, of whatever branch.
    signed: BTreeMap<Hash, Line>,
    /// What the enclave was told of the log in this boot.
    replayed: Vec<Line>,
    /// The log has ended, and the enclave hears no more of it.
    replay_ended: bool,
    boot: Option<BootId>,
    boots: BTreeSet<BootId>,
    pub(super) durable: u64,
    /// Tokens that were redeemed, in whatever branch: none outlives its boot.
    pub(super) jtis: BTreeSet<Hash>,
    pub(super) asked: BTreeMap<ActionId, Asked>,
    /// Whose each execution is, in whatever branch.
    pub(super) agents: BTreeMap<ExecutionId, (TenantId, AgentId)>,
    pub(super) released: BTreeSet<ExecutionId>,
    pub(super) jobs: BTreeSet<ExecutionId>,
    /// Executions of which the supervisor says that nothing was connected.
    pub(super) unconnected: BTreeSet<ExecutionId>,
}

impl Model {
    pub(super) fn new(manifest: Vec<u8>) -> Self {
        Self { manifest, ..Self::default() }
    }

    pub(super) fn log(&self) -> Vec<Vec<u8>> {
        self.fold.lines.iter().map(|line| line.leaf.clone()).collect()
    }

    /// One call has taken effect. `call` is what the enclave was sent, if it is a call at all.
    pub(super) fn reply(&mut self, call: Option<&Call>, bytes: &[u8], reply: &Reply) -> Watched {
        let silent = reply.answer.is_err() && reply.effects.is_empty();
        let Some(call) = call.filter(|call| call.version == WIRE_VERSION) else {
            self.watch.search(bytes)?;
            return ensure(silent, Kind::Forgery, "what is no call was heard");
        };
        let forged = self.forged(&call.command);
        let begins = matches!(call.command, Command::Start { .. }) && !reply.effects.is_empty();
        if begins {
            self.begin();
        }
        for effect in &reply.effects {
            self.effect(call, effect)?;
        }
        // Some secrets are known by what came with them only.
        self.watch.search(bytes)?;
        if let (Ok(answer), Some(kind)) = (&reply.answer, forged) {
            return breach(kind, format!("{} was answered: {answer:?}", name(&call.command)));
        }
        match &call.command {
            Command::Replay { leaves } if !self.replay_ended => self.replay(leaves),
            Command::ReplayEnd => self.replay_ended |= reply.answer.is_ok(),
            _ => {}
        }
        match &reply.answer {
            Ok(answer) => self.answered(call, answer),
            Err(_) => Ok(()),
        }
    }

    /// The kind of breach that it is to answer this: nobody with a right to it has signed it.
    fn forged(&self, command: &Command) -> Option<Kind> {
        let documents = &self.documents;
        let (genuine, kind) = match command {
            Command::Boot { manifest, sealed_root, .. } => {
                ((manifest, sealed_root) == (&self.manifest, &self.sealed_root), Kind::Forgery)
            }
            Command::Admit { admission } => {
                (documents.lists.contains_key(&Hash::of(admission)), Kind::Authority)
            }
            Command::ActivatePolicy { policy } => {
                (documents.policies.contains_key(&Hash::of(policy)), Kind::Policy)
            }
            Command::ChangePolicyKey { change } => {
                (documents.changes.contains_key(change), Kind::Policy)
            }
            Command::PutCredential { credential } => {
                (documents.credentials.contains(credential), Kind::Authority)
            }
            Command::Approve { evidence } => {
                (documents.answers.contains_key(evidence), Kind::Approval)
            }
            Command::Decide { request, proof } => {
                (documents.is_request(request, proof), Kind::Forgery)
            }
            Command::Execute { token, request, proof } => {
                let known = |token: &String| documents.tokens.contains_key(token);
                let genuine = token.as_ref().is_none_or(known);
                // A token that is none may come with a request that has its answer already.
                let earlier = self.request(command).is_some_and(|it| self.is_used(&it));
                (documents.is_request(request, proof) && (genuine || earlier), Kind::Forgery)
            }
            Command::Poll { read, .. } | Command::Open { read, .. } => {
                (documents.is_read(read), Kind::Forgery)
            }
            _ => return None,
        };
        (!genuine).then_some(kind)
    }

    pub(super) fn is_used(&self, request: &ActionRequest) -> bool {
        self.fold.is_used(request, self.fold.time)
    }

    pub(super) fn request(&self, command: &Command) -> Option<ActionRequest> {
        match command {
            Command::Decide { request, .. } | Command::Execute { request, .. } => {
                ActionRequest::decode(request).ok()
            }
            _ => None,
        }
    }

    /// The instance is born, or another is.
    pub(super) fn born(&mut self, sealed_root: &[u8], instance: Hash) -> Watched {
        let machine = Machine::new([7; 32], MEASUREMENT);
        let Some(root) = Root::open(&machine, instance, sealed_root) else {
            return breach(Kind::Key, "the root is not sealed under the processor's key");
        };
        root.watch(&mut self.watch);
        (self.root, self.sealed_root) = (Some(root), sealed_root.to_vec());
        Ok(())
    }

    /// A new life of the enclave begins.
    pub(super) fn cold(&mut self) {
        self.replayed.clear();
        self.replay_ended = false;
    }

    /// Takes what continues the log that was told so far; the rest should lead nowhere.
    fn replay(&mut self, leaves: &[Vec<u8>]) {
        for leaf in leaves {
            let head = self.replayed.last().map_or(Hash::ZERO, |line| Record::hash_of(&line.leaf));
            match self.signed.get(&Record::hash_of(leaf)) {
                Some(line) if line.record.previous == head => self.replayed.push(line.clone()),
                _ => return,
            }
        }
    }

    /// The log is what was replayed.
    fn begin(&mut self) {
        self.fold = Fold::default();
        for line in std::mem::take(&mut self.replayed) {
            let version = self.list_version(&line.record);
            self.fold.push(line, version);
        }
        self.durable = self.fold.size();
        self.boot = None;
    }

    fn list_version(&self, record: &Record) -> u64 {
        let list = record.about.blob.and_then(|hash| self.documents.lists.get(&hash));
        list.map_or(0, |(version, _)| *version)
    }

    fn effect(&mut self, call: &Call, effect: &Effect) -> Watched {
        match effect {
            Effect::Append { index, leaf } => self.append(call, *index, leaf),
            Effect::PutBlob { bytes, .. } => {
                if let (Command::PutCredential { .. }, Some(root)) = (&call.command, &self.root) {
                    root.watch_credential(bytes, &mut self.watch);
                }
                Ok(())
            }
            Effect::PutSalt { tenant, wrapped, .. } => {
                let root = self.root.as_ref().unwrap();
                root.watch_salt(tenant, wrapped, &mut self.watch)
            }
            Effect::Sandbox(_) => Ok(()),
        }
    }

    fn append(&mut self, call: &Call, index: u64, leaf: &[u8]) -> Watched {
        let Ok(record) = Record::decode(leaf) else {
            return breach(Kind::Log, "a leaf that is no record");
        };
        self.linked(call, index, &record)?;
        self.meaning(call, &record)?;
        let harmless = record.kind == RecordKind::Finished
            && record.about.execution_id.as_ref().is_some_and(|execution| {
                !self.released.contains(execution) || self.unconnected.contains(execution)
            });
        let request =
            (record.kind == RecordKind::Started).then(|| self.request(&call.command)).flatten();
        let line = Line { leaf: leaf.to_vec(), record, request, harmless };
        self.signed.insert(Record::hash_of(leaf), line.clone());
        let version = self.list_version(&line.record);
        self.fold.push(line, version);
        Ok(())
    }

    /// The chain: index, hash, time, boot, tenant and signature.
    fn linked(&mut self, call: &Call, index: u64, record: &Record) -> Watched {
        let fold = &self.fold;
        let log = |holds, what| ensure(holds, Kind::Log, what);
        log(index == fold.size() && record.index == index, "an index that does not follow")?;
        log(record.previous == fold.head(), "a record that does not name the one before")?;
        log(record.time == call.now.max(fold.time), "a record's time is not now")?;
        log(record.origin == ORIGIN && record.tee_mrenclave == MEASUREMENT, "another's record")?;
        let list = fold.list.map_or(Hash::ZERO, |(hash, _)| hash);
        let new_list = record.kind == RecordKind::Admission;
        log(record.admission == list || new_list, "a record under another list")?;
        let about = &record.about;
        let tip = about.tenant.as_ref().map(|tenant| fold.tip(tenant));
        log(about.tenant_sequence.zip(about.tenant_previous) == tip, "a tenant's link is wrong")?;
        let key: PublicKey = self.root.as_ref().unwrap().chain_key();
        log(record.verify(&key).is_ok(), "a record's signature does not hold")?;
        if self.boot.is_none() {
            log(self.boots.insert(record.boot.clone()), "a boot that was before")?;
            self.root.as_ref().unwrap().watch_boot(&record.boot, &mut self.watch);
            self.boot = Some(record.boot.clone());
        }
        log(self.boot.as_ref() == Some(&record.boot), "a record of another boot")
    }

    fn meaning(&mut self, call: &Call, record: &Record) -> Watched {
        match record.kind {
            RecordKind::PolicyActivated => self.policy_activated(call, record),
            RecordKind::PolicyKeyChanged => self.key_changed(record),
            RecordKind::Admission => {
                let list = record.about.blob.and_then(|hash| self.documents.lists.get(&hash));
                // The list itself comes back where the host has lost it.
                let lost = self.fold.list.map(|(hash, _)| hash) == record.about.blob;
                let old = self.fold.list.map_or(0, |(_, old)| old);
                let holds = list.is_some_and(|(version, _)| *version > old || lost);
                ensure(holds, Kind::Authority, "a list that is not the operators' next")
            }
            RecordKind::CredentialSealed => self.credential_sealed(record),
            RecordKind::Allowed | RecordKind::Waiting => self.allowed(call, record),
            RecordKind::Endorsed | RecordKind::Approved => self.approved(call, record),
            RecordKind::Denied | RecordKind::TokenRevoked => {
                let id = record.about.action_id.as_ref();
                if let Some(asked) = id.and_then(|id| self.asked.get_mut(id)) {
                    asked.void = true;
                }
                Ok(())
            }
            RecordKind::Started => self.started(call, record),
            RecordKind::Finished | RecordKind::Ended => match &record.about.execution_id {
                Some(execution) => self.ended(execution, record),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn ended(&self, execution: &ExecutionId, record: &Record) -> Watched {
        let open = self.fold.open.contains(execution);
        ensure(open, Kind::Log, "an execution ends twice, or never began")?;
        let aborted = record.about.outcome == Some(Outcome::Aborted);
        let left = self.released.contains(execution);
        ensure(!(aborted && left), Kind::Log, "an execution is called aborted whose job has left")?;
        let mut opened = record.about.connections.iter().flatten();
        let there = opened.all(|it| (&it.host, it.port) == (&connection().host, 443));
        ensure(there, Kind::Log, "a connection that no plan allows is believed")
    }

    fn policy_activated(&self, call: &Call, record: &Record) -> Watched {
        let named = record.about.policy.as_ref().unwrap();
        let Some((policy, signer)) = self.documents.policies.get(&named.hash) else {
            return breach(Kind::Policy, "a policy is activated that its author did not sign");
        };
        let policy_is = |holds, what| ensure(holds, Kind::Policy, what);
        let same = (&policy.id, policy.version) == (&named.id, named.version)
            && record.about.tenant.as_ref() == Some(&policy.tenant);
        policy_is(same, "a policy is activated under another name")?;
        let key = self.fold.keys.get(&policy.tenant).map_or(*signer, |(key, _)| *key);
        let signed = key == *signer && record.about.key == Some(key);
        let born = self.fold.keys.contains_key(&policy.tenant)
            || TenantId::of_first_key(signer) == policy.tenant;
        policy_is(born, "a tenant is born under a key that is not its own")?;
        policy_is(signed, "a policy is activated under a key that is not the tenant's")?;
        let name = (policy.tenant.clone(), policy.id.clone());
        let newer =
            self.fold.policies.get(&name).is_none_or(|(old, _)| old.version < named.version);
        policy_is(newer, "an older policy comes back")?;
        let here = matches!(&call.command, Command::ActivatePolicy { policy } if Hash::of(policy) == named.hash);
        policy_is(here && record.time < policy.expires, "a policy is activated that is over")
    }

    fn key_changed(&self, record: &Record) -> Watched {
        let (tenant, key) = (record.about.tenant.as_ref().unwrap(), record.about.key.unwrap());
        let now = self.fold.keys.get(tenant);
        let signed = self.documents.changes.values().any(|(change, signer)| {
            (&change.tenant, change.key) == (tenant, key)
                && now.is_some_and(|(now, times)| signer == now && change.sequence == times + 1)
        });
        ensure(signed, Kind::Policy, "a policy key that the one before did not sign")
    }

    fn credential_sealed(&self, record: &Record) -> Watched {
        let named = record.about.credential.clone().unwrap();
        let known = self.documents.values.contains_key(&(named.owner, named.version));
        let name = (record.about.tenant.clone().unwrap(), named.owner, named.id);
        let old = self.fold.credentials.get(&name);
        let newer = old.is_none_or(|(old, _)| *old < named.version);
        ensure(known && newer, Kind::Authority, "a credential that is not its owner's next")
    }

    /// The policy that a record names, if it is in force.
    fn in_force(&self, record: &Record) -> Watched<&Policy> {
        let named = record.about.policy.as_ref().unwrap();
        let tenant = record.about.tenant.clone().unwrap();
        let newest = self.fold.policies.get(&(tenant, named.id.clone()));
        ensure(newest.is_some_and(|(newest, _)| newest == named), Kind::Policy, "not the policy")?;
        let revoked = newest.is_none_or(|(_, revoked)| *revoked);
        ensure(!revoked, Kind::Policy, "a revoked policy decides")?;
        let Some((policy, _)) = self.documents.policies.get(&named.hash) else {
            return breach(Kind::Policy, "a policy decides that its author did not sign");
        };
        let valid = policy.not_before <= record.time && record.time < policy.expires;
        ensure(valid, Kind::Policy, "a policy decides outside of its time")?;
        Ok(policy)
    }

    /// What every record of an action has to say of its request, and what must be in force for it.
    pub(super) fn as_asked(&self, request: &ActionRequest, record: &Record) -> Watched {
        self.in_force(record)?;
        let about = &record.about;
        let same = about.tenant.as_ref() == Some(&request.tenant)
            && about.agent.as_ref() == Some(&request.agent)
            && about.service.as_ref() == Some(&request.service)
            && about.action.as_ref() == Some(&request.action);
        ensure(same, Kind::Forgery, "a record tells of another request")?;
        let tier = about.tier == Some(people::tier(request));
        ensure(tier, Kind::Approval, "an action's tier is not the policy's")?;
        let fresh = record.time < request.expires_at && record.boot == request.boot;
        ensure(fresh, Kind::Forgery, "a request of another time counts")?;
        let Some(named) = about.credential.clone() else { return Ok(()) };
        let name = (request.tenant.clone(), named.owner, named.id);
        let holds = self.fold.credentials.get(&name) == Some(&(named.version, false));
        ensure(holds, Kind::Authority, "a credential is promised that is over")
    }
}

/// A command's name.
fn name(command: &Command) -> String {
    let text = format!("{command:?}");
    text.split_whitespace().next().unwrap_or_default().to_owned()
}
