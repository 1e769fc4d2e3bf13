//! Refusals: each is a record, until there are too many of them.
//!
//! An agent that proves itself has a budget; beyond it, it is refused without being heard until the
//! minute is over. Those who prove nothing share the budget of whom they claim to be, which can run
//! out without harm to the real one: their refusals are counted and written as one record.

use alloc::{collections::BTreeMap, vec::Vec};

use toani_protocol::{
    ActionName, AgentId, Reason, ServiceId, TenantId, Time,
    limits::{REFUSAL_WINDOW_MS, REFUSALS_PER_AGENT_MAX},
    record::{About, RecordKind},
    request::ActionRequest,
    wire::Effect,
};

use crate::ready::Ready;

/// Budgets that are kept at once; beyond them, all share one.
const BUDGETS_MAX: usize = 20_000;

/// A request that was refused, and by whom it was made as far as is known.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) reason: Reason,
    who: Option<(TenantId, AgentId)>,
    what: Option<(ServiceId, ActionName)>,
    /// The agent proved itself.
    authentic: bool,
}

impl Refusal {
    pub(crate) fn anonymous(reason: Reason) -> Self {
        Self { reason, who: None, what: None, authentic: false }
    }

    pub(crate) fn of(request: &ActionRequest, reason: Reason, authentic: bool) -> Self {
        Self {
            reason,
            who: Some((request.tenant.clone(), request.agent.clone())),
            what: Some((request.service.clone(), request.action.clone())),
            authentic,
        }
    }
}

type BudgetKey = (Option<(TenantId, AgentId)>, bool);

#[derive(Debug, Default)]
pub(crate) struct Budgets(BTreeMap<BudgetKey, Budget>);

#[derive(Debug)]
struct Budget {
    since: Time,
    count: u32,
    /// Refused and not written.
    unwritten: u64,
}

/// Whether an agent that proved itself has used up its budget of refusals.
pub(crate) fn exhausted(ready: &Ready, request: &ActionRequest, now: Time) -> bool {
    let key = (Some((request.tenant.clone(), request.agent.clone())), true);
    ready.life.budgets.0.get(&key).is_some_and(|budget| {
        now.ms_since(budget.since) < REFUSAL_WINDOW_MS && budget.count >= REFUSALS_PER_AGENT_MAX
    })
}

/// Writes or counts a refusal, and gives its reason back.
pub(crate) fn refuse(
    ready: &mut Ready,
    refusal: Refusal,
    now: Time,
    out: &mut Vec<Effect>,
) -> Result<Reason, Reason> {
    // A record names a tenant only if it exists: nobody makes up log entries of others.
    let known = refusal.who.filter(|(tenant, _)| ready.state.tenants.contains_key(tenant));
    let listed = known.filter(|(tenant, agent)| {
        let tenant = ready.state.tenants.get(tenant);
        tenant.is_some_and(|tenant| tenant.agents.contains_key(agent))
    });
    let key = (listed.clone(), refusal.authentic);
    // A window that is over ends here as well: the host may send no tick.
    let over = |budget: &Budget| now.ms_since(budget.since) >= REFUSAL_WINDOW_MS;
    if ready.life.budgets.0.get(&key).is_some_and(over) {
        flush(ready, now, out)?;
    }
    let budgets = &mut ready.life.budgets.0;
    let shared = budgets.len() >= BUDGETS_MAX && !budgets.contains_key(&key);
    let key = if shared { (None, false) } else { key };
    let budget = budgets.entry(key).or_insert(Budget { since: now, count: 0, unwritten: 0 });
    budget.count = budget.count.saturating_add(1);
    if budget.count > REFUSALS_PER_AGENT_MAX || ready.chain.room(RecordKind::Refused).is_err() {
        budget.unwritten = budget.unwritten.saturating_add(1);
        return Ok(refusal.reason);
    }
    let (tenant, agent) = listed.unzip();
    let (service, action) = refusal.what.filter(|_| refusal.authentic).unzip();
    let reason = Some(refusal.reason);
    let about = About { tenant, agent, service, action, reason, ..About::default() };
    ready.write(now, RecordKind::Refused, about, None, out)?;
    Ok(refusal.reason)
}

/// Ends the windows that are over; what was only counted becomes one record each.
pub(crate) fn flush(ready: &mut Ready, now: Time, out: &mut Vec<Effect>) -> Result<(), Reason> {
    let over: Vec<BudgetKey> = ready
        .life
        .budgets
        .0
        .iter()
        .filter(|(_, budget)| now.ms_since(budget.since) >= REFUSAL_WINDOW_MS)
        .map(|(key, _)| key.clone())
        .collect();
    for key in over {
        // What cannot be written stays counted.
        if ready.chain.room(RecordKind::Refusals).is_err() {
            break;
        }
        let Some(budget) = ready.life.budgets.0.remove(&key) else { continue };
        if budget.unwritten == 0 {
            continue;
        }
        let (tenant, agent) = key.0.unzip();
        let about = About { tenant, agent, count: Some(budget.unwritten), ..About::default() };
        ready.write(now, RecordKind::Refusals, about, None, out)?;
    }
    Ok(())
}
