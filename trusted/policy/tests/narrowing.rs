//! Narrowing a policy never widens a decision.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod world;

use proptest::prelude::*;
use serde_json::{Value, json};
use toani_policy::{Decision, Granted};
use toani_protocol::policy::Policy;
use world::*;

/// One way to make a policy narrower.
#[derive(Debug, Clone)]
enum Narrowing {
    RemoveAgent,
    RemoveAction,
    RemoveService,
    RaiseTier(u8),
    AddRaise { from: i64, tier: u8 },
    LowerQuota { sum: u64, count: u64 },
    AddQuota(u64),
    ShortenWindows(u64),
    ShortenValidity { later: u64, sooner: u64 },
    RaiseThreshold,
    RemoveApprover(usize),
    PutBehind,
    RaiseLeast(&'static str, &'static str),
    TightenBounds { up: i64, down: i64 },
    ShortenText(u64),
    RequireParam,
    RaiseLeastVersion(u64),
    Expect(&'static str),
}

fn narrowings() -> impl Strategy<Value = Narrowing> {
    prop_oneof![
        Just(Narrowing::RemoveAgent),
        Just(Narrowing::RemoveAction),
        Just(Narrowing::RemoveService),
        (1u8..3).prop_map(Narrowing::RaiseTier),
        (0i64..100, 1u8..3).prop_map(|(from, tier)| Narrowing::AddRaise { from, tier }),
        (0u64..200, 0u64..10).prop_map(|(sum, count)| Narrowing::LowerQuota { sum, count }),
        (0u64..50).prop_map(Narrowing::AddQuota),
        (0u64..2000).prop_map(Narrowing::ShortenWindows),
        (0u64..1000, 0u64..1000)
            .prop_map(|(later, sooner)| Narrowing::ShortenValidity { later, sooner }),
        Just(Narrowing::RaiseThreshold),
        (0usize..4).prop_map(Narrowing::RemoveApprover),
        Just(Narrowing::PutBehind),
        prop::sample::select(vec![
            ("tee", "simulator"),
            ("tee", "sgx"),
            ("sandbox", "gvisor"),
            ("sandbox", "snp"),
            ("agent", "signed"),
            ("approval", "passkey"),
            ("durability", "witnessed"),
            ("freshness", "witnessed"),
            ("time", "witnessed"),
        ])
        .prop_map(|(aspect, level)| Narrowing::RaiseLeast(aspect, level)),
        (0i64..40, 0i64..40).prop_map(|(up, down)| Narrowing::TightenBounds { up, down }),
        (0u64..8).prop_map(Narrowing::ShortenText),
        Just(Narrowing::RequireParam),
        (1u64..6).prop_map(Narrowing::RaiseLeastVersion),
        prop::sample::select(vec!["x", "y"]).prop_map(Narrowing::Expect),
    ]
}

fn raise_number(value: &mut Value, to: u64) {
    *value = json!(value.as_u64().unwrap_or(0).max(to));
}

fn lower_number(value: &mut Value, to: u64) {
    *value = json!(value.as_u64().unwrap_or(u64::MAX).min(to));
}

fn shift(value: &mut Value, ms: i64) {
    let time: toani_protocol::Time = serde_json::from_value(value.clone()).unwrap();
    let shifted = time.ms().saturating_add_signed(ms);
    *value = json!(toani_protocol::Time::from_ms(shifted));
}

/// Levels in their order, for `RaiseLeast`: a level is never lowered.
fn rank(level: &str) -> usize {
    let order = ["none", "key", "software", "passkey", "native", "gvisor", "vm", "snp"];
    let more = ["gateway", "signed", "host", "witnessed", "simulator", "sgx"];
    order.iter().chain(&more).position(|name| *name == level).unwrap()
}

fn narrow(document: &Value, how: &Narrowing) -> Value {
    let mut narrow = document.clone();
    // Behind a removal nothing is left to narrow.
    if narrow.pointer("/services/s/actions/a").is_none() || narrow["agents"].get("one").is_none() {
        return narrow;
    }
    let action = &mut narrow["services"]["s"]["actions"]["a"];
    match how {
        Narrowing::RemoveAgent => drop(narrow["agents"].as_object_mut().unwrap().remove("one")),
        Narrowing::RemoveAction => {
            narrow["services"]["s"]["actions"].as_object_mut().unwrap().remove("a");
            narrow["quotas"].as_object_mut().unwrap().remove("count");
        }
        Narrowing::RemoveService => {
            let service = narrow["services"].as_object_mut().unwrap().remove("s").unwrap();
            narrow["services"]["other"] = service;
            narrow["quotas"].as_object_mut().unwrap().remove("count");
        }
        Narrowing::RaiseTier(tier) => raise_number(&mut action["tier"], u64::from(*tier)),
        Narrowing::AddRaise { from, tier } => {
            let when = json!({"param": "n", "is": "at_least", "value": from});
            let raise = json!({"when": when, "tier": tier});
            action["raise"].as_array_mut().unwrap().push(raise);
        }
        Narrowing::LowerQuota { sum, count } => {
            lower_number(&mut narrow["quotas"]["sum"]["limit"], *sum);
            lower_number(&mut narrow["quotas"]["count"]["limit"], *count);
        }
        Narrowing::AddQuota(limit) => {
            narrow["quotas"]["more"] = json!({
                "measure": {"sum": "n"}, "per": "action", "limit": limit,
                "window": {"rolling_s": 10},
            });
        }
        Narrowing::ShortenWindows(until) => {
            let until = json!(toani_protocol::Time::from_ms(NOW_MS - 1000 + until + 1));
            let from = json!(toani_protocol::Time::from_ms(0));
            match action["windows"].as_array_mut() {
                None => action["windows"] = json!([{"from": from, "until": until}]),
                Some(windows) => windows.clear(),
            }
        }
        Narrowing::ShortenValidity { later, sooner } => {
            shift(&mut narrow["not_before"], i64::try_from(*later).unwrap());
            shift(&mut narrow["expires"], -i64::try_from(*sooner).unwrap());
        }
        Narrowing::RaiseThreshold => {
            let threshold = action["approval"]["threshold"].as_u64().unwrap();
            action["approval"]["threshold"] = json!(threshold + 1);
        }
        Narrowing::RemoveApprover(i) => {
            let approvers = action["approval"]["approvers"].as_array_mut().unwrap();
            if *i < approvers.len() {
                approvers.remove(*i);
            }
        }
        Narrowing::PutBehind => narrow["agents"]["one"]["behind"] = json!(["p0", "p1", "p2"]),
        Narrowing::RaiseLeast(aspect, level) => {
            let now = action["least"][*aspect].as_str();
            if now.is_none_or(|now| rank(now) < rank(level)) {
                action["least"][*aspect] = json!(level);
            }
        }
        Narrowing::TightenBounds { up, down } => {
            let n = &mut action["params"]["properties"]["n"];
            n["minimum"] = json!(n["minimum"].as_i64().unwrap() + up);
            n["maximum"] = json!(n["maximum"].as_i64().unwrap() - down);
        }
        Narrowing::ShortenText(length) => {
            lower_number(&mut action["params"]["properties"]["s"]["maxLength"], *length);
        }
        Narrowing::RequireParam => action["params"]["required"] = json!(["n", "s"]),
        Narrowing::RaiseLeastVersion(version) => {
            raise_number(&mut narrow["credentials"]["c"]["least_version"], *version);
        }
        Narrowing::Expect(text) => action["params"]["properties"]["s"]["enum"] = json!([text]),
    }
    narrow
}

/// Whether `after` gives nothing that `before` does not give.
fn no_wider(before: &Granted, after: &Granted) -> bool {
    let fewer = after.approvers.iter().all(|person| {
        // At tier 0 nobody is asked, which is the most that there is.
        before.approvers.contains(person) || u8::from(before.tier) == 0
    });
    let budgets = before.uses.iter().all(|old| {
        after
            .uses
            .iter()
            .any(|new| (new.key, new.amount) == (old.key, old.amount) && new.limit <= old.limit)
    });
    fewer
        && budgets
        && after.tier >= before.tier
        && after.threshold >= before.threshold
        && after.least_approval >= before.least_approval
        && after.credential == before.credential
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1500, failure_persistence: None, max_global_rejects: 100_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn narrowing_never_widens(
        document in documents(), how in prop::collection::vec(narrowings(), 1..4),
        request in requests(), around in arounds(),
    ) {
        let tier = &document["services"]["s"]["actions"]["a"]["tier"];
        let approval = &document["services"]["s"]["actions"]["a"]["least"]["approval"];
        // An action that asks for an approval at tier 0, where nobody is asked, can never run; a
        // higher tier mends it. That is the one way in which raising a tier allows more.
        let never_runs = *tier == json!(0) && approval.is_string();
        prop_assume!(!never_runs || how.iter().all(|how| {
            !matches!(how, Narrowing::RaiseTier(_) | Narrowing::AddRaise { .. })
        }));
        let mut narrowed = document.clone();
        for how in &how {
            narrowed = narrow(&narrowed, how);
        }
        let policy: Policy = serde_json::from_value(narrowed.clone()).unwrap();
        prop_assume!(toani_policy::VerifiedPolicy::check_draft(&policy).is_ok());
        let (before, after) = (verified(document), verified(narrowed));
        match (decision(&before, &request, &around), decision(&after, &request, &around)) {
            (_, Decision::Deny(_)) => {}
            (Decision::Deny(reason), Decision::Allow(granted)) => {
                prop_assert!(false, "denied as {reason}, now {granted:?}");
            }
            (Decision::Allow(before), Decision::Allow(after)) => {
                prop_assert!(no_wider(&before, &after), "{before:?} became {after:?}");
            }
        }
    }

    #[test]
    fn deciding_is_total_and_says_the_same_twice(
        document in documents(), request in requests(), around in arounds(),
    ) {
        let policy = verified(document);
        let first = decision(&policy, &request, &around);
        prop_assert_eq!(&first, &decision(&policy, &request, &around));
        prop_assert_eq!(first, decision(&policy.clone(), &request, &around));
    }
}

/// The random policies are not all denials: else the property above would say nothing.
#[test]
fn some_of_them_allow() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let all = (documents(), requests(), arounds());
    let allowed = (0..500).filter(|_| {
        let (document, request, around) = all.new_tree(&mut runner).unwrap().current();
        matches!(decision(&verified(document), &request, &around), Decision::Allow(_))
    });
    let allowed = allowed.count();
    assert!(allowed > 30, "{allowed} of 500");
}
