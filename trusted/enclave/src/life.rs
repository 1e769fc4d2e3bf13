//! What dies with the boot: pending actions, tokens, executions in flight, the channel.

use alloc::{
    boxed::Box,
    collections::{BTreeMap, BTreeSet, VecDeque},
    vec::Vec,
};

use toani_policy::Granted;
use toani_protocol::{
    ActionId, AgentId, ExecutionId, Hash, Reason, TenantId, Time,
    approval::Evidence,
    assurance::{ApprovalLevel, Assurance},
    limits::{PENDING_ACTIONS_MAX, PENDING_ACTIONS_PER_AGENT_MAX, SPENT_ACTIONS_MAX},
    policy::Tier,
    token::Claims,
};
use toani_tls::Message;

use crate::{
    asked::{Asked, Rendered},
    channel::Link,
    refusals::Budgets,
    salts::Salt,
    state::CredentialVersion,
};

#[derive(Debug, Default)]
pub(crate) struct Life {
    pub(crate) actions: BTreeMap<ActionId, Action>,
    /// Which action an idempotency key asked for.
    pub(crate) by_key: BTreeMap<Hash, ActionId>,
    /// Actions by the time at which they can be forgotten or end.
    pub(crate) ends: BTreeSet<(Time, ActionId)>,
    per_agent: BTreeMap<(TenantId, AgentId), usize>,
    spent: BTreeMap<ActionId, Spent>,
    /// Spent actions by age.
    spent_order: VecDeque<ActionId>,
    pub(crate) in_flight: BTreeMap<ExecutionId, InFlight>,
    /// Bytes of the outcomes among these that have arrived.
    pub(crate) arrived_bytes: usize,
    pub(crate) sandbox: Option<Link>,
    /// Channels that were begun in this boot.
    pub(crate) links: u64,
    pub(crate) salts: BTreeMap<TenantId, Salt>,
    pub(crate) budgets: Budgets,
}

/// An action that was allowed or waits.
#[derive(Debug)]
pub(crate) struct Action {
    pub(crate) asked: Asked,
    pub(crate) granted: Granted,
    pub(crate) credential: Option<CredentialVersion>,
    pub(crate) plan_hash: Hash,
    pub(crate) plan_nonce: Hash,
    pub(crate) params_hash: Hash,
    pub(crate) params_nonce: Hash,
    /// Canonical `Signed<Statement>` and the statement's hash, where people are asked.
    pub(crate) statement: Option<(Vec<u8>, Hash)>,
    pub(crate) endorsements: Vec<Endorsement>,
    pub(crate) stage: Stage,
    pub(crate) ends_at: Time,
}

/// One person's answer whose signature holds for the action's statement.
#[derive(Debug)]
pub(crate) struct Endorsement {
    pub(crate) level: ApprovalLevel,
    pub(crate) evidence: Evidence,
}

#[derive(Debug)]
pub(crate) enum Stage {
    Waiting,
    Granted(Box<Claims>),
    Denied(Reason),
}

/// What is remembered of an action whose token was redeemed: enough to say so, for as long as there
/// is room. Forgotten, its token is as void as before.
#[derive(Debug)]
pub(crate) struct Spent {
    pub(crate) tenant: TenantId,
    pub(crate) agent: AgentId,
    pub(crate) execution: ExecutionId,
}

/// An execution that has started in this boot.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) action: ActionId,
    pub(crate) asked: Asked,
    pub(crate) user: Hash,
    pub(crate) rendered: Rendered,
    pub(crate) credential: Option<CredentialVersion>,
    pub(crate) tier: Tier,
    pub(crate) hitl_proof: Option<Hash>,
    pub(crate) jti: Hash,
    pub(crate) assurance: Assurance,
    pub(crate) sandbox: Hash,
    pub(crate) root_file_system: Hash,
    pub(crate) started: u64,
    pub(crate) started_at: Time,
    pub(crate) job: Option<ReleasedJob>,
}

/// A job that left the enclave.
#[derive(Debug)]
pub(crate) struct ReleasedJob {
    /// The channel on which it left, and on which its outcome has to come.
    pub(crate) link: u64,
    /// An `OutcomeMessage` that is this job's.
    pub(crate) outcome: Option<Message>,
}

impl Life {
    pub(crate) fn action(&self, id: &ActionId) -> Result<&Action, Reason> {
        self.actions.get(id).ok_or(Reason::ActionNotFound)
    }

    pub(crate) fn flight(&self, id: &ExecutionId) -> Result<&InFlight, Reason> {
        self.in_flight.get(id).ok_or(Reason::ExecutionNotFound)
    }

    /// An execution ends: its outcome, if there is one, is no longer kept.
    pub(crate) fn land(&mut self, id: &ExecutionId) -> Result<InFlight, Reason> {
        let flight = self.in_flight.remove(id).ok_or(Reason::ExecutionNotFound)?;
        let outcome = flight.job.as_ref().and_then(|job| job.outcome.as_ref());
        let bytes = outcome.map_or(0, |outcome| outcome.len());
        self.arrived_bytes = self.arrived_bytes.saturating_sub(bytes);
        Ok(flight)
    }

    /// Remembers an action until `ends_at`.
    pub(crate) fn insert(&mut self, id: ActionId, action: Action) -> Result<(), Reason> {
        let request = &action.asked.request;
        let agent = (request.tenant.clone(), request.agent.clone());
        let count = self.per_agent.entry(agent).or_default();
        let full = self.actions.len() >= PENDING_ACTIONS_MAX;
        if full || *count >= PENDING_ACTIONS_PER_AGENT_MAX {
            return Err(Reason::Busy);
        }
        *count = count.saturating_add(1);
        self.by_key.insert(action.asked.idempotency, id.clone());
        self.ends.insert((action.ends_at, id.clone()));
        self.actions.insert(id, action);
        Ok(())
    }

    /// Moves the time at which an action ends.
    pub(crate) fn move_end(&mut self, id: &ActionId, ends_at: Time) {
        if let Some(action) = self.actions.get_mut(id) {
            self.ends.remove(&(action.ends_at, id.clone()));
            self.ends.insert((ends_at, id.clone()));
            action.ends_at = ends_at;
        }
    }

    /// An action's token was redeemed: it no longer counts among its agent's pending ones.
    pub(crate) fn spend(&mut self, id: &ActionId, execution: &ExecutionId) {
        let Some(action) = self.remove(id) else { return };
        if self.spent.len() >= SPENT_ACTIONS_MAX {
            let oldest = self.spent_order.pop_front();
            oldest.and_then(|oldest| self.spent.remove(&oldest));
        }
        let request = action.asked.request;
        let (tenant, agent, execution) = (request.tenant, request.agent, execution.clone());
        self.spent.insert(id.clone(), Spent { tenant, agent, execution });
        self.spent_order.push_back(id.clone());
    }

    /// What an action's token became.
    pub(crate) fn spent(&self, id: &ActionId) -> Option<&Spent> {
        self.spent.get(id)
    }

    /// Forgets an action.
    pub(crate) fn remove(&mut self, id: &ActionId) -> Option<Action> {
        let action = self.actions.remove(id)?;
        self.ends.remove(&(action.ends_at, id.clone()));
        if self.by_key.get(&action.asked.idempotency) == Some(id) {
            self.by_key.remove(&action.asked.idempotency);
        }
        let request = &action.asked.request;
        let agent = (request.tenant.clone(), request.agent.clone());
        if let Some(count) = self.per_agent.get_mut(&agent) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.per_agent.remove(&agent);
            }
        }
        Some(action)
    }
}
