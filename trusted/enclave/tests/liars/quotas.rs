//! Concurrent executions cannot overdraw a quota, in whatever order things happen.

use proptest::prelude::*;
use serde_json::json;
use toani_protocol::{
    Reason, Time,
    job::JobEnd,
    request::ActionRequest,
    wire::{ActionState, Answer, Command},
};

use crate::world::*;

const LIMIT: u64 = 100;
const WINDOW_S: u64 = 3600;

#[derive(Debug, Clone)]
enum Step {
    /// Asks for so much and gets a token.
    Decide(u64),
    /// Redeems one of the tokens.
    Redeem(usize),
    /// Asks for so much and runs at once.
    Execute(u64),
    Release(usize),
    /// The supervisor says whether something was connected; without an outcome it is unknown.
    Finish(usize, Option<bool>),
    Abort(usize),
    Restart,
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1u64..60).prop_map(Step::Decide),
        4 => any::<usize>().prop_map(Step::Redeem),
        4 => (1u64..60).prop_map(Step::Execute),
        3 => any::<usize>().prop_map(Step::Release),
        3 => (any::<usize>(), any::<Option<bool>>()).prop_map(|(i, how)| Step::Finish(i, how)),
        1 => any::<usize>().prop_map(Step::Abort),
        1 => Just(Step::Restart),
        2 => (0u64..2_000_000).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..40)
}

/// An execution as the test sees it.
struct Running {
    redeemed: toani_protocol::wire::Redeemed,
    taken: usize,
    job: Option<toani_protocol::job::JobMessage>,
}

struct Model {
    world: World,
    tokens: Vec<(ActionRequest, String, u64)>,
    running: Vec<Running>,
    /// When how much was taken and not given back.
    taken: Vec<(Time, u64)>,
    keys: usize,
}

fn policy() -> serde_json::Value {
    let mut document = policy_document(2);
    let action = &mut document["services"]["broker"]["actions"]["move"];
    action["tier"] = json!(0);
    action["raise"] = json!([]);
    document["quotas"] = json!({
        "moved": {"measure": {"sum": "amount"}, "per": "policy", "limit": LIMIT,
                  "window": {"fixed_s": WINDOW_S}, "actions": ["broker.move"]},
    });
    document
}

impl Model {
    fn new() -> Self {
        let mut world = World::new();
        world.activate(policy()).unwrap();
        Self { world, tokens: vec![], running: vec![], taken: vec![], keys: 0 }
    }

    fn request(&mut self, amount: u64) -> ActionRequest {
        self.keys += 1;
        let mut request =
            self.world.request("move", json!({ "amount": amount }), &format!("k{}", self.keys));
        request.expires_at = self.world.now.plus_ms(3_600_000);
        request
    }

    /// What counts in the window of now.
    fn used(&self) -> u64 {
        let window = |time: Time| time.ms() / (WINDOW_S * 1000);
        let now = window(self.world.now);
        self.taken.iter().filter(|(time, _)| window(*time) == now).map(|(_, amount)| amount).sum()
    }

    fn redeem(&mut self, token: Option<&str>, request: &ActionRequest, amount: u64) {
        let fits = self.used() + amount <= LIMIT;
        match self.world.execute(token, request) {
            Ok(Answer::Redeemed(redeemed)) => {
                assert!(fits, "overdrawn: {} + {amount}", self.used());
                let taken = self.taken.len();
                self.taken.push((self.world.now, amount));
                self.running.push(Running { redeemed, taken, job: None });
            }
            Ok(other) => panic!("{other:?}"),
            Err(Reason::QuotaExceeded) => assert!(!fits, "{} + {amount} fits", self.used()),
            // Of this boot or this hour no more, or the budget of refusals is used up.
            Err(Reason::TokenExpired | Reason::RequestExpired | Reason::RequestBoot) => {}
            Err(Reason::RefusalBudget) => {}
            Err(other) => panic!("{other:?}"),
        }
        self.world.durable();
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Decide(amount) => {
                let request = self.request(amount);
                if let Ok(status) = self.world.decide(&request) {
                    let ActionState::Token { token, .. } = status.state else { panic!() };
                    self.tokens.push((request, token, amount));
                }
            }
            Step::Redeem(i) if !self.tokens.is_empty() => {
                let (request, token, amount) = self.tokens.remove(i % self.tokens.len());
                self.redeem(Some(&token), &request, amount);
            }
            Step::Execute(amount) => {
                let request = self.request(amount);
                self.redeem(None, &request, amount);
            }
            Step::Release(i) if !self.running.is_empty() => {
                let i = i % self.running.len();
                let running = &mut self.running[i];
                if let Ok(job) = self.world.release(&running.redeemed.execution) {
                    running.job = Some(job);
                }
            }
            Step::Finish(i, how) if !self.running.is_empty() => {
                let running = self.running.remove(i % self.running.len());
                self.finish(running, how);
            }
            Step::Abort(i) if !self.running.is_empty() => {
                let i = i % self.running.len();
                let execution = self.running[i].redeemed.execution.clone();
                let abort = Command::Abort { execution, reason: Reason::Busy };
                let aborted = self.world.call(abort).is_ok();
                assert_eq!(aborted, self.running[i].job.is_none());
                if aborted {
                    let running = self.running.remove(i);
                    self.taken[running.taken].1 = 0;
                }
            }
            Step::Restart => {
                self.world.reboot();
                self.running.clear();
                self.tokens.clear();
            }
            Step::Wait(ms) => self.world.now = self.world.now.plus_ms(ms),
            Step::Redeem(_) | Step::Release(_) | Step::Finish(..) | Step::Abort(_) => {}
        }
    }

    fn finish(&mut self, running: Running, how: Option<bool>) {
        let outcome =
            running.job.as_ref().zip(how).map(|(job, connected)| {
                outcome_of(job, &ended(JobEnd::ConnectorFailed, connected))
            });
        self.world.finish(&running.redeemed.execution, outcome).unwrap();
        let nothing_happened = running.job.is_none() || how == Some(false);
        if nothing_happened {
            self.taken[running.taken].1 = 0;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_interleaving_overdraws(steps in steps()) {
        let mut model = Model::new();
        for step in steps {
            model.step(step);
            prop_assert!(model.used() <= LIMIT);
        }
    }
}

/// Many tokens may be out for the same budget; only so many are redeemed.
#[test]
fn tokens_do_not_reserve_and_redeeming_does() {
    let mut model = Model::new();
    for _ in 0..10 {
        model.step(Step::Decide(30));
    }
    let tokens = std::mem::take(&mut model.tokens);
    assert_eq!(tokens.len(), 10);
    let redeemed = tokens
        .iter()
        .filter(|(request, token, _)| model.world.redeem(Some(token), request).is_ok());
    assert_eq!(redeemed.count(), 3);
}
