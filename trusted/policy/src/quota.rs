//! Budgets over time, in bounded memory.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};
use toani_protocol::{
    Hash, PolicyId, QuotaId, TenantId, Time,
    policy::{Quota, QuotaWindow},
};

/// A rolling window is kept in this many slots. The oldest counts in full, so that a budget is
/// never overdrawn; up to a sixteenth of it may come back late.
const SLOTS: u64 = 16;

/// Names one counter: a hash over tenant, policy, quota, its window and whose use it counts.
pub type QuotaKey = Hash;

/// What one execution takes from one counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaUse {
    pub key: QuotaKey,
    pub window: QuotaWindow,
    pub amount: u64,
    pub limit: u64,
}

/// The counter of one quota for one agent, action or policy. A changed window is a new counter.
pub(crate) fn key(
    tenant: &TenantId,
    policy: &PolicyId,
    id: &QuotaId,
    quota: &Quota,
    whose: &str,
) -> QuotaKey {
    let (kind, seconds) = match quota.window {
        QuotaWindow::FixedS(seconds) => (b"f", seconds),
        QuotaWindow::RollingS(seconds) => (b"r", seconds),
    };
    // Ids hold no zero byte, and neither does an agent or a `service.action`.
    let parts: [&[u8]; 9] = [
        tenant.as_str().as_bytes(),
        &[0],
        policy.as_str().as_bytes(),
        &[0],
        id.as_str().as_bytes(),
        &[0],
        kind,
        &seconds.to_le_bytes(),
        whose.as_bytes(),
    ];
    Hash::of_parts("toani/v1/quota", &parts)
}

/// The use within one window.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Window {
    /// Slot number and amount, oldest first; at most `SLOTS + 1` of them.
    slots: Vec<(u64, u64)>,
}

impl Window {
    /// What counts at `now`.
    pub fn used(&self, window: QuotaWindow, now: Time) -> u64 {
        let oldest = oldest_slot(window, now);
        let counted = self.slots.iter().filter(|(slot, _)| *slot >= oldest);
        counted.fold(0, |sum, (_, amount)| sum.saturating_add(*amount))
    }

    /// Adds use at `now` and forgets what no longer counts.
    pub fn add(&mut self, window: QuotaWindow, now: Time, amount: u64) {
        let (slot, oldest) = (slot_of(window, now), oldest_slot(window, now));
        self.slots.retain(|(old, _)| *old >= oldest);
        match self.slots.iter_mut().find(|(there, _)| *there == slot) {
            Some((_, sum)) => *sum = sum.saturating_add(amount),
            None => self.slots.push((slot, amount)),
        }
    }

    /// Takes back what was added at `then`.
    pub fn give_back(&mut self, window: QuotaWindow, then: Time, amount: u64) {
        let slot = slot_of(window, then);
        if let Some((_, sum)) = self.slots.iter_mut().find(|(there, _)| *there == slot) {
            *sum = sum.saturating_sub(amount);
        }
    }

    /// Whether nothing counts any more.
    pub fn is_over(&self, window: QuotaWindow, now: Time) -> bool {
        self.used(window, now) == 0
    }
}

fn width_ms(window: QuotaWindow) -> u64 {
    match window {
        QuotaWindow::FixedS(seconds) => u64::from(seconds).saturating_mul(1000).max(1),
        QuotaWindow::RollingS(seconds) => {
            u64::from(seconds).saturating_mul(1000).div_ceil(SLOTS).max(1)
        }
    }
}

fn slot_of(window: QuotaWindow, now: Time) -> u64 {
    now.ms().checked_div(width_ms(window)).unwrap_or(0)
}

fn oldest_slot(window: QuotaWindow, now: Time) -> u64 {
    match window {
        QuotaWindow::FixedS(_) => slot_of(window, now),
        QuotaWindow::RollingS(_) => slot_of(window, now).saturating_sub(SLOTS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_fixed_window_begins_anew() {
        let day = QuotaWindow::FixedS(86_400);
        let mut window = Window::default();
        let noon = Time::from_ms(86_400_000 * 100 + 43_200_000);
        window.add(day, noon, 5);
        assert_eq!(window.used(day, noon.plus_ms(43_199_999)), 5);
        assert_eq!(window.used(day, noon.plus_ms(43_200_000)), 0);
        window.give_back(day, noon, 2);
        assert_eq!(window.used(day, noon), 3);
    }

    proptest! {
        /// Whatever happens, the true use of the last so many seconds is never undercounted.
        #[test]
        fn a_rolling_window_never_undercounts(
            seconds in 1u32..5000,
            steps in prop::collection::vec((0u64..2_000_000, 0u64..100), 1..200),
        ) {
            let rolling = QuotaWindow::RollingS(seconds);
            let mut window = Window::default();
            let mut all: Vec<(u64, u64)> = Vec::new();
            let mut now = 0u64;
            for (step, amount) in steps {
                now += step;
                window.add(rolling, Time::from_ms(now), amount);
                all.push((now, amount));
                let span = u64::from(seconds) * 1000;
                let true_use: u64 =
                    all.iter().filter(|(at, _)| at + span > now).map(|(_, amount)| amount).sum();
                prop_assert!(window.used(rolling, Time::from_ms(now)) >= true_use);
                prop_assert!(window.slots.len() <= 17);
            }
        }
    }
}
