//! What works now and what is replayed agree: after any history, a reboot from the log answers as
//! the enclave that lived it.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};
use toani_protocol::{
    ActionId, Reason, Time,
    approval::Verdict,
    canonical,
    job::JobEnd,
    limits::TOKEN_LIFE_MS_MAX,
    policy::PolicyKeyChange,
    record::{Outcome, Record, RecordKind},
    request::{ActionRequest, AgentProof},
    sign::{Label, PublicKey, Signed},
    wire::{ActionState, Answer, Command},
};

use crate::world::*;

#[derive(Debug, Clone)]
enum Step {
    Read {
        key: u8,
        account: u8,
        simple: bool,
    },
    Move {
        key: u8,
        amount: u64,
    },
    /// Ends the oldest execution: aborted, unknown, refused, succeeded.
    End(u8),
    Wait(u64),
    Policy {
        drop_simple: bool,
        limit: u64,
    },
    RevokePolicy,
    RevokeAgent {
        simple: bool,
    },
    PutCredential,
    RevokeCredential,
    PolicyKey,
    Admit {
        with_sandbox: bool,
    },
    Forget {
        days_ago: u64,
    },
    /// Asks for an action that waits, or one that gets its token at once.
    Ask {
        waits: bool,
    },
    /// What happens to the oldest that was asked for: revoked, denied, approved, redeemed.
    Meet(u8),
    Reboot,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0u8..6, 0u8..2, any::<bool>())
            .prop_map(|(key, account, simple)| Step::Read { key, account, simple }),
        6 => (6u8..12, 1u64..60).prop_map(|(key, amount)| Step::Move { key, amount }),
        6 => (0u8..4).prop_map(Step::End),
        3 => prop_oneof![0u64..100_000, 0u64..200_000_000].prop_map(Step::Wait),
        2 => (any::<bool>(), 50u64..150)
            .prop_map(|(drop_simple, limit)| Step::Policy { drop_simple, limit }),
        1 => Just(Step::RevokePolicy),
        1 => any::<bool>().prop_map(|simple| Step::RevokeAgent { simple }),
        1 => Just(Step::PutCredential),
        1 => Just(Step::RevokeCredential),
        1 => Just(Step::PolicyKey),
        1 => prop::bool::weighted(0.8).prop_map(|with_sandbox| Step::Admit { with_sandbox }),
        1 => (0u64..3).prop_map(|days_ago| Step::Forget { days_ago }),
        4 => any::<bool>().prop_map(|waits| Step::Ask { waits }),
        4 => (0u8..4).prop_map(Step::Meet),
        1 => Just(Step::Reboot),
    ];
    prop::collection::vec(step, 1..40)
}

struct History {
    world: World,
    policy: u64,
    policy_key: u8,
    key_changes: u8,
    credential: u64,
    admission: u64,
    open: Vec<toani_protocol::wire::Redeemed>,
    asked: Vec<ActionRequest>,
    keys: u64,
}

fn document(version: u64, drop_simple: bool, limit: u64) -> Value {
    let mut document = policy_document(version);
    let action = &mut document["services"]["broker"]["actions"]["move"];
    action["tier"] = json!(0);
    action["raise"] = json!([]);
    document["expires"] = json!("2027-06-01T00:00:00Z");
    document["quotas"]["moved"] = json!({
        "measure": {"sum": "amount"}, "per": "policy", "limit": limit,
        "window": {"rolling_s": 3600}, "actions": ["broker.move"],
    });
    if drop_simple {
        document["agents"].as_object_mut().unwrap().remove("simple");
    }
    document
}

fn command(request: &ActionRequest) -> Command {
    if request.agent.as_str() != "simple" {
        let (request, proof) = prove(request);
        return Command::Execute { token: None, request, proof };
    }
    let proof = AgentProof::ApiKey("tk_simple".into());
    Command::Execute { token: None, request: canonical::encode(request).unwrap(), proof }
}

impl History {
    fn new() -> Self {
        let mut world = World::new();
        world.activate(document(2, false, 100)).unwrap();
        Self {
            world,
            policy: 2,
            policy_key: 2,
            key_changes: 0,
            credential: 1,
            admission: 1,
            open: vec![],
            asked: vec![],
            keys: 0,
        }
    }

    fn execute(&mut self, request: &ActionRequest) {
        if let Ok(Answer::Redeemed(redeemed)) = self.world.call(command(request)) {
            self.open.push(redeemed);
        }
        self.world.durable();
    }

    fn read(&self, key: u8, account: u8, simple: bool) -> ActionRequest {
        let params = json!({ "account": format!("a{account}") });
        let mut request = self.world.request("read_balance", params, &format!("k{key}"));
        if simple {
            request.agent = "simple".parse().unwrap();
        }
        request
    }

    fn step(&mut self, step: Step) {
        let tenant = tenant();
        match step {
            Step::Read { key, account, simple } => {
                let request = self.read(key, account, simple);
                self.execute(&request);
            }
            Step::Move { key, amount } => {
                let params = json!({ "amount": amount });
                let request = self.world.request("move", params, &format!("k{key}"));
                self.execute(&request);
            }
            Step::End(how) => self.end(how),
            Step::Wait(ms) => {
                self.world.now = self.world.now.plus_ms(ms);
                self.world.ok(Command::Tick);
            }
            Step::Policy { drop_simple, limit } => {
                self.policy += 1;
                let document = document(self.policy, drop_simple, limit);
                let policy = sign_policy(document, &signing_key(self.policy_key));
                // The oldest histories end after its expiry.
                let _ = self.world.call(Command::ActivatePolicy { policy });
            }
            Step::RevokePolicy => {
                let policy = "brokerage".parse().unwrap();
                self.world.ok(Command::RevokePolicy { tenant, policy });
            }
            Step::RevokeAgent { simple } => {
                let agent = if simple { "simple" } else { "trader" }.parse().unwrap();
                let _ = self.world.call(Command::RevokeAgent { tenant, agent });
            }
            Step::PutCredential => {
                self.credential += 1;
                self.world.ok(self.world.credential(self.credential, SECRET));
            }
            Step::RevokeCredential => {
                let header = self.world.credential_header(1);
                let (namespace, owner, id) = (header.namespace, header.owner, header.id);
                self.world.ok(Command::RevokeCredential { tenant, namespace, owner, id });
            }
            Step::PolicyKey => self.change_key(),
            Step::Admit { with_sandbox } => {
                self.admission += 1;
                let admitted = if with_sandbox { vec![DIGEST] } else { vec![] };
                self.world.ok(self.world.admission(self.admission, admitted));
                self.connect();
            }
            Step::Forget { days_ago } => {
                let through = self.world.now.day() - days_ago;
                self.world.ok(Command::Forget { tenant, through });
            }
            Step::Ask { waits } => {
                self.keys += 1;
                let key = format!("asked{}", self.keys);
                let buy = ("buy_stock", json!({"symbol": "ACME", "quantity": 1}));
                let read = ("read_balance", json!({"account": "a0"}));
                let (action, params) = if waits { buy } else { read };
                let request = self.world.request(action, params, &key);
                if self.world.decide(&request).is_ok() {
                    self.asked.push(request);
                }
            }
            Step::Meet(how) => self.meet(how),
            Step::Reboot => {
                self.world.try_reboot().unwrap();
                self.connect();
                self.open.clear();
                self.asked.clear();
            }
        }
    }

    /// Asking again shows what it is now. What time or a revocation has ended stays as it is.
    fn meet(&mut self, how: u8) {
        if self.asked.is_empty() {
            return;
        }
        let mut request = self.asked.remove(0);
        request.issued_at = self.world.now;
        request.expires_at = self.world.now.plus_ms(60_000);
        let Ok(status) = self.world.decide(&request) else { return };
        let action = status.action;
        match (how, status.state) {
            (0, _) => {
                let revoke = Command::RevokeToken { tenant: tenant(), action };
                let _ = self.world.call(revoke);
            }
            (1, ActionState::Pending { .. }) => {
                let statement = self.world.statement(&action);
                let no = Gesture::new(40, true).evidence("anna", &statement, Verdict::Deny);
                let _ = self.world.approve(&no);
            }
            (_, ActionState::Pending { .. }) => {
                let statement = self.world.statement(&action);
                for (seed, person, software) in [(40, "anna", true), (41, "ben", false)] {
                    let gesture = Gesture::new(seed, software);
                    let yes = gesture.evidence(person, &statement, Verdict::Approve);
                    let _ = self.world.approve(&yes);
                }
                self.asked.push(request);
            }
            (_, ActionState::Token { token, .. }) => {
                if let Ok(redeemed) = self.world.redeem(Some(&token), &request) {
                    self.open.push(redeemed);
                }
                self.world.durable();
            }
            _ => {}
        }
    }

    fn connect(&mut self) {
        let _ = self.world.try_connect();
    }

    fn change_key(&mut self) {
        self.key_changes += 1;
        let next = 100 + self.key_changes;
        let key = PublicKey::of(&signing_key(next));
        let sequence = u64::from(self.key_changes);
        let change = PolicyKeyChange { tenant: tenant(), sequence, key };
        let signed = Signed::by(&signing_key(self.policy_key), Label::PolicyKey, change).unwrap();
        self.world.ok(Command::ChangePolicyKey { change: canonical::encode(&signed).unwrap() });
        self.policy_key = next;
    }

    fn end(&mut self, how: u8) {
        if self.open.is_empty() {
            return;
        }
        let execution = self.open.remove(0).execution;
        let job = if how == 0 { None } else { self.world.release(&execution).ok() };
        let outcome = job.filter(|_| how > 1).map(|job| {
            let outcome = match how {
                2 => ended(JobEnd::TlsRefused, false),
                _ => answered(200, json!({"balance": 7})),
            };
            outcome_of(&job, &outcome)
        });
        self.world.finish(&execution, outcome).unwrap();
    }
}

/// What a log leaves to its next boot, by rules of the test's own: all that waits, and each token
/// that may still be good at this time.
fn left_pending(world: &World) -> BTreeSet<ActionId> {
    let mut pending = BTreeMap::new();
    let mut left = BTreeSet::new();
    for record in world.records() {
        let Record { kind, time, about, .. } = record;
        let action = about.action_id;
        match kind {
            RecordKind::Waiting => pending.extend(action.map(|id| (id, Time::MAX))),
            RecordKind::Allowed | RecordKind::Approved => {
                pending.extend(action.map(|id| (id, time.plus_ms(TOKEN_LIFE_MS_MAX))));
            }
            RecordKind::Denied | RecordKind::TokenRevoked | RecordKind::Started => {
                action.and_then(|id| pending.remove(&id));
            }
            RecordKind::Ended => {
                action.map(|id| left.remove(&id));
            }
            RecordKind::Boot => {
                left.extend(
                    core::mem::take(&mut pending)
                        .into_iter()
                        .filter_map(|(id, end)| (time < end).then_some(id)),
                );
            }
            _ => {}
        }
    }
    left
}

/// What can be seen of the state from outside. The same questions in the same order.
fn observe(world: &mut World, history: &Probe) -> Vec<String> {
    let mut seen = vec![];
    let Answer::Facts(facts) = world.ok(Command::Status) else { panic!() };
    seen.push(format!("admission {} {}", facts.admission, facts.admission_version));
    for days_ago in 0..6 {
        let (day, user) = (world.now.day() - days_ago, "customer".parse().unwrap());
        let look = Command::UserHash { tenant: tenant(), day, user, wrapped: vec![] };
        seen.push(format!("{:?}", world.call(look)));
    }
    for key in 0..12u8 {
        for (agent, account) in [("trader", 0), ("trader", 1), ("simple", 0)] {
            let params = json!({ "account": format!("a{account}") });
            let mut request = world.request("read_balance", params, &format!("k{key}"));
            request.agent = agent.parse().unwrap();
            seen.push(shown(world.call(command(&request))));
            pause(world);
        }
    }
    for amount in [1u64, 10, 25, 50, 75, 100, 125, 150] {
        let request = world.request("move", json!({ "amount": amount }), &format!("m{amount}"));
        let (request, proof) = prove(&request);
        seen.push(shown(world.call(Command::Decide { request, proof })));
        pause(world);
    }
    for version in [history.policy, history.policy + 1] {
        for key in [2, history.policy_key] {
            let policy = sign_policy(document(version, false, 100), &signing_key(key));
            seen.push(format!("{:?}", world.call(Command::ActivatePolicy { policy })));
        }
    }
    for version in [history.credential, history.credential + 1] {
        seen.push(format!("{:?}", world.call(world.credential(version, SECRET))));
    }
    for version in [history.admission, history.admission + 1] {
        seen.push(format!("{:?}", world.call(world.admission(version, vec![]))));
    }
    seen
}

struct Probe {
    policy: u64,
    policy_key: u8,
    credential: u64,
    admission: u64,
}

/// So that the budget of refusals, which dies with a boot, plays no part.
fn pause(world: &mut World) {
    world.now = world.now.plus_ms(60_000 / 15);
    if world.now.ms() % 60_000 < 4_000 {
        world.now = world.now.plus_ms(60_000);
    }
    world.ok(Command::Tick);
}

/// An answer without what is new in each life. What was open is unknown after a restart.
fn shown(answer: Result<Answer, Reason>) -> String {
    match answer {
        Ok(Answer::Earlier(earlier)) => {
            let outcome = earlier.outcome.unwrap_or(Outcome::Unknown);
            let blob = earlier.blob;
            format!("earlier {} {} {outcome:?} {blob:?}", earlier.action, earlier.execution)
        }
        Ok(Answer::Redeemed(_)) => "redeemed".into(),
        Ok(Answer::Action(_)) => "allowed".into(),
        other => format!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_reboot_answers_as_the_life_before(steps in steps()) {
        let mut history = History::new();
        for step in steps {
            history.step(step);
        }
        let world = &mut history.world;
        world.now = world.now.plus_ms(60_000);
        world.ok(Command::Tick);
        world.durable();
        let mut copy = World::with_log(world, world.log.clone());
        copy.try_reboot().unwrap();
        let left = left_pending(&copy);
        let from = copy.log.len();
        copy.ok(Command::Tick);
        copy.durable();
        let ended = copy.records().split_off(from).into_iter();
        let ended: Vec<_> = ended.filter_map(|record| record.about.action_id).collect();
        prop_assert_eq!(ended, left.into_iter().collect::<Vec<_>>());
        for world in [&mut *world, &mut copy] {
            let _ = world.try_connect();
        }
        let probe = Probe {
            policy: history.policy,
            policy_key: history.policy_key,
            credential: history.credential,
            admission: history.admission,
        };
        prop_assert_eq!(observe(&mut history.world, &probe), observe(&mut copy, &probe));
    }
}
