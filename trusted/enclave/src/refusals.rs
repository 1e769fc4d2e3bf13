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
};

use crate::{
    asked::{self, Asked},
    ready::Turn,
};

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

/// Hears an agent when its request takes effect: it has budget left, and what was checked holds.
pub(crate) fn hear(turn: &mut Turn<'_>, asked: &Asked) -> Result<(), Reason> {
    let request = &asked.request;
    let key = (Some((request.tenant.clone(), request.agent.clone())), true);
    let exhausted = turn.ready.life.budgets.0.get(&key).is_some_and(|budget| {
        let open = turn.now.ms_since(budget.since) < REFUSAL_WINDOW_MS;
        open && budget.count >= REFUSALS_PER_AGENT_MAX
    });
    if exhausted {
        return Err(Reason::RefusalBudget);
    }
    asked::check_again(turn.ready, asked, turn.now)
        .map_err(|reason| refuse_of(turn, request, reason))
}

/// Refuses the request of an agent that proved itself.
pub(crate) fn refuse_of(turn: &mut Turn<'_>, request: &ActionRequest, reason: Reason) -> Reason {
    refuse(turn, Refusal::of(request, reason, true))
}

/// Writes or counts a refusal, and gives its reason back, or why it could not be written.
pub(crate) fn refuse(turn: &mut Turn<'_>, refusal: Refusal) -> Reason {
    let reason = refusal.reason;
    record(turn, refusal).err().unwrap_or(reason)
}

fn record(turn: &mut Turn<'_>, refusal: Refusal) -> Result<(), Reason> {
    // A record names a tenant only if it exists: nobody makes up log entries of others.
    let known = refusal.who.filter(|(tenant, _)| turn.ready.state.tenants.contains_key(tenant));
    let listed = known.filter(|(tenant, agent)| {
        let tenant = turn.ready.state.tenants.get(tenant);
        tenant.is_some_and(|tenant| tenant.agents.contains_key(agent))
    });
    let key = (listed.clone(), refusal.authentic);
    // A window that is over ends here as well: the host may send no tick.
    let now = turn.now;
    let over = |budget: &Budget| now.ms_since(budget.since) >= REFUSAL_WINDOW_MS;
    if turn.ready.life.budgets.0.get(&key).is_some_and(over) {
        flush(turn)?;
    }
    let budgets = &mut turn.ready.life.budgets.0;
    let shared = budgets.len() >= BUDGETS_MAX && !budgets.contains_key(&key);
    let key = if shared { (None, false) } else { key };
    let budget = budgets.entry(key).or_insert(Budget { since: turn.now, count: 0, unwritten: 0 });
    budget.count = budget.count.saturating_add(1);
    if budget.count > REFUSALS_PER_AGENT_MAX || turn.ready.chain.room(RecordKind::Refused).is_err()
    {
        budget.unwritten = budget.unwritten.saturating_add(1);
        return Ok(());
    }
    let (tenant, agent) = listed.unzip();
    let (service, action) = refusal.what.filter(|_| refusal.authentic).unzip();
    let reason = Some(refusal.reason);
    let about = About { tenant, agent, service, action, reason, ..About::default() };
    turn.write(RecordKind::Refused, about, None).map(|_| ())
}

/// Ends the windows that are over; what was only counted becomes one record each.
pub(crate) fn flush(turn: &mut Turn<'_>) -> Result<(), Reason> {
    let budgets = turn.ready.life.budgets.0.iter();
    let over = budgets.filter(|(_, budget)| turn.now.ms_since(budget.since) >= REFUSAL_WINDOW_MS);
    let over: Vec<BudgetKey> = over.map(|(key, _)| key.clone()).collect();
    for key in over {
        // What cannot be written stays counted.
        if turn.ready.chain.room(RecordKind::Refusals).is_err() {
            break;
        }
        let Some(budget) = turn.ready.life.budgets.0.remove(&key) else { continue };
        if budget.unwritten == 0 {
            continue;
        }
        let (tenant, agent) = key.0.unzip();
        let about = About { tenant, agent, count: Some(budget.unwritten), ..About::default() };
        turn.write(RecordKind::Refusals, about, None)?;
    }
    Ok(())
}
