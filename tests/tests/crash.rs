//! Kill -9 of each process at each step of an action, by name. The brokerage's own count is the
//! oracle: no order twice, nothing acknowledged lost, every execution ends definitely.
//!
//! Taps hold the message that the step begins or ends with while the process is killed; see
//! [`toani_tests::borders`].

#![allow(clippy::unwrap_used, reason = "a failing test says where")]

use std::{io::Write, net::TcpStream, process::Child};

use serde_json::{Value, json};
use toani_tests::{
    Borders, Brokerage, Plane,
    borders::{Border, Side},
    plane::{descendants, finished, programs, signal, until},
};

const TOKEN: &str = "broker-token-of-the-crash-tests";
const ORDER: &str = r#"{"symbol": "ACME", "quantity": 1}"#;

const DIRECT: &str = "broker.order_direct";
const APPROVED: &str = "broker.buy_stock";

const GATEWAY: &str = "toani";
const ENCLAVE: &str = "toani-simulator";
const SUPERVISOR: &str = "toani-sandbox";
const CONNECTOR: &str = "toani-connector";
/// The supervisor's single-threaded part, which forks; the kernel names it after /proc/self/exe.
const LAUNCHER: &str = "exe";

/// What may have become of an order, with how often the brokerage placed it.
type Ends = &'static [(&'static str, u64)];

/// Nothing was there to be lost: the agent asks again, and it is placed.
const AGAIN: Ends = &[("succeeded", 1)];
/// It had started for good, and no job had left the enclave, or none had arrived.
const NOT_PLACED: Ends = &[("aborted", 0), ("unknown", 0)];
/// Either: who died may have made the record `started` durable or not; or no supervisor was there
/// when the job came.
const NOT_PLACED_OR_AGAIN: Ends = &[("aborted", 0), ("unknown", 0), ("succeeded", 1)];
/// The supervisor had it, and nobody learned how it ended.
const LOST: Ends = &[("unknown", 0)];
/// It was placed, and who knew that is dead.
const PLACED_UNKNOWN: Ends = &[("unknown", 1)];
/// It was placed, and the record that says so was signed, durable or not.
const PLACED_PERHAPS: Ends = &[("unknown", 1), ("succeeded", 1)];
/// It was placed, and that is durable.
const PLACED: Ends = &[("succeeded", 1)];

/// A step's border, and what may follow where gateway or enclave die there, and where the
/// supervisor does.
type Step = (u8, Border, Ends, Ends);

const fn before(name: &'static str) -> Border {
    Border { once_past: None, name, side: Side::Before }
}

const fn after(name: &'static str) -> Border {
    Border { once_past: None, name, side: Side::After }
}

/// The durability of what the command before it signed.
const fn durable(once_past: &'static str, side: Side) -> Border {
    Border { once_past: Some(once_past), name: "Durable", side }
}

/// The outcome on its way from the supervisor into the enclave.
const fn outcome(side: Side) -> Border {
    Border { once_past: Some("Release"), name: "SandboxBytes", side }
}

/// Steps 2 to 12 of an action that no person has to approve; see docs/ARCHITECTURE.md.
const STEPS: &[Step] = &[
    (2, before("Decide"), AGAIN, NOT_PLACED_OR_AGAIN),
    (3, after("Decide"), AGAIN, NOT_PLACED_OR_AGAIN),
    (5, before("Execute"), AGAIN, NOT_PLACED_OR_AGAIN),
    (6, after("Execute"), NOT_PLACED_OR_AGAIN, NOT_PLACED_OR_AGAIN),
    (7, durable("Execute", Side::Before), NOT_PLACED, NOT_PLACED_OR_AGAIN),
    (7, durable("Execute", Side::After), NOT_PLACED, NOT_PLACED_OR_AGAIN),
    (8, before("Release"), NOT_PLACED, NOT_PLACED_OR_AGAIN),
    (8, after("Release"), LOST, LOST),
    (10, outcome(Side::Before), PLACED_UNKNOWN, PLACED),
    (10, outcome(Side::After), PLACED_UNKNOWN, PLACED),
    (11, before("Finish"), PLACED_UNKNOWN, PLACED),
    (11, after("Finish"), PLACED_PERHAPS, PLACED),
    (12, durable("Finish", Side::Before), PLACED, PLACED),
    (12, durable("Finish", Side::After), PLACED, PLACED),
];

/// Steps 4 and 5 of an action that a person has to approve.
const STEPS_OF_APPROVAL: &[(u8, Border)] = &[
    (4, before("Statement")),
    (4, after("Statement")),
    (4, before("Approve")),
    (4, after("Approve")),
    (5, Border { once_past: Some("Approve"), name: "Poll", side: Side::Before }),
    (5, Border { once_past: Some("Approve"), name: "Poll", side: Side::After }),
];

struct World {
    plane: Plane,
    borders: Borders,
    upstream: Brokerage,
    _home: tempfile::TempDir,
}

impl World {
    fn new(order_ms: u64) -> Self {
        let home = tempfile::tempdir().unwrap();
        let programs = programs().unwrap();
        let upstream = Brokerage::start(&programs, TOKEN, order_ms).unwrap();
        let mut plane = Plane::init(&programs, &home.path().join("home")).unwrap();
        let borders = Borders::new(&programs, &home.path().join("borders")).unwrap();
        plane.tap(&borders);
        plane.serve().unwrap();
        plane.furnish(&upstream, TOKEN).unwrap();
        Self { plane, borders, upstream, _home: home }
    }

    fn order(&self, action: &str, key: &str) -> Child {
        let arguments = ["run", action, "--params", ORDER, "--idempotency-key", key];
        self.plane.begin(&arguments).unwrap()
    }

    /// Kills a process of the plane, if it is there. Taps have the names of what they stand for,
    /// and are its parents.
    fn kill(&mut self, victim: &str) -> bool {
        if victim == GATEWAY {
            self.plane.kill().unwrap();
            return true;
        }
        let pid = self.plane.pid().unwrap();
        let mut found = descendants(pid).unwrap();
        found.retain(|(_, found)| match victim {
            // The kernel names what runs from memory as it likes.
            CONNECTOR => !found.starts_with(GATEWAY) && found != LAUNCHER,
            _ => found == victim,
        });
        // A tap stands before what it taps. Of connectors, all: one of them runs, and others wait.
        let last = found.len().saturating_sub(1);
        let found = match victim {
            CONNECTOR => found.as_slice(),
            // A child of its own is named like it until it is another program.
            LAUNCHER => &found[..found.len().min(1)],
            _ => &found[last..],
        };
        for (pid, _) in found {
            // It may have ended by itself meanwhile.
            let _ = signal(*pid, "KILL");
        }
        !found.is_empty()
    }

    /// Brings the plane back, whatever is gone.
    fn recover(&mut self) {
        until("the plane is back", || {
            let ready =
                self.plane.toani(&["status"])?.value.get("ready") == Some(&Value::Bool(true));
            if !ready && !self.plane.runs()? {
                self.plane.serve()?;
            }
            Ok(ready)
        })
        .unwrap();
    }

    /// Asks with this key until there is a definite answer.
    fn settle(&mut self, action: &str, key: &str) -> String {
        let (mut outcome, mut last) = (String::new(), None);
        let ended = until("the execution has ended", || {
            let said = self.plane.run(action, ORDER, &["--idempotency-key", key])?;
            match said.value.get("outcome").and_then(Value::as_str) {
                Some(ended) => {
                    let receipt = said.value.get("receipt").is_some();
                    assert!(receipt || ended != "succeeded", "{key}: its result is lost");
                    outcome = ended.to_owned();
                }
                // Not now: the plane comes back, or the execution still runs.
                None => assert!(said.exit != 2, "{}", said.error),
            }
            last = Some(said);
            Ok(!outcome.is_empty())
        });
        assert!(ended.is_ok(), "{key}: {last:?}; {}", self.plane.serve_log());
        outcome
    }

    fn executions(&self) -> Vec<Value> {
        let list = self.plane.toani(&["executions", "list", "--limit", "200"]).unwrap();
        list.ok().unwrap()["executions"].as_array().unwrap().clone()
    }

    /// The order of this key, of which there were so many before, has one of these ends, also when
    /// the agent asks again.
    fn ends(&mut self, action: &str, key: &str, before: u64, acknowledged: bool, ends: Ends) {
        let outcome = self.settle(action, key);
        let orders = self.upstream.orders().unwrap() - before;
        assert!(ends.contains(&(&outcome, orders)), "{key}: {outcome}, placed {orders} times");
        if acknowledged {
            assert_eq!(outcome, "succeeded", "{key}: what was acknowledged is not lost");
        }
        assert_eq!(self.settle(action, key), outcome, "{key}: the same again");
        assert_eq!(self.upstream.orders().unwrap() - before, orders, "{key}: nothing was retried");
    }

    /// Every execution ended, and a stranger verifies that.
    fn is_proven(&self) {
        for row in self.executions() {
            assert_ne!(row["outcome"], json!(null), "{row}");
        }
        let bundle = self.plane.home().join("bundle.tar");
        let out = bundle.to_str().unwrap();
        self.plane.toani(&["audit", "export", "--out", out]).unwrap().ok().unwrap();
        self.plane.verify(&bundle).unwrap().ok().unwrap();
    }
}

fn killed_at_each_step(victim: &str) {
    let mut world = World::new(0);
    for (step, border, of_others, of_supervisor) in STEPS {
        let key = format!("{victim}-{step}-{}-{:?}", border.name, border.side);
        let orders = world.upstream.orders().unwrap();
        let stop = world.borders.stop_at(*border);
        let mut agent = world.order(DIRECT, &key);
        let held = stop.wait(&mut agent).unwrap();
        assert!(world.kill(victim), "{key}");
        // What a dead process had on its way is lost with it.
        if victim == SUPERVISOR {
            held.release();
        } else {
            drop(held);
        }
        let acknowledged = finished(agent).unwrap().exit == 0;
        world.recover();
        let ends = if victim == SUPERVISOR { of_supervisor } else { of_others };
        world.ends(DIRECT, &key, orders, acknowledged, ends);
    }
    world.is_proven();
}

#[test]
fn the_gateway_is_killed_at_each_step() {
    killed_at_each_step(GATEWAY);
}

#[test]
fn the_enclave_is_killed_at_each_step() {
    killed_at_each_step(ENCLAVE);
}

#[test]
fn the_supervisor_is_killed_at_each_step() {
    killed_at_each_step(SUPERVISOR);
}

/// Step 1: half a request is none.
#[test]
fn killed_while_a_request_arrives() {
    let mut world = World::new(0);
    for victim in [GATEWAY, ENCLAVE, SUPERVISOR] {
        let url = std::fs::read_to_string(world.plane.data().join("address")).unwrap();
        let address = url.trim().strip_prefix("http://").unwrap();
        let mut agent = TcpStream::connect(address).unwrap();
        let half = format!(
            "POST /v1/executions HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
             content-length: 1000\r\n\r\n{{\"request\": ",
            address
        );
        agent.write_all(half.as_bytes()).unwrap();
        assert!(world.kill(victim), "{victim}");
        world.recover();
        assert_eq!(world.executions(), Vec::<Value>::new(), "{victim}");
    }
    world.ends(DIRECT, "after-halves", 0, false, AGAIN);
    world.is_proven();
}

/// Steps 4 and 5: what people were asked, answered, and what was issued, ends with its boot.
#[test]
fn killed_at_each_step_of_an_approval() {
    let mut world = World::new(0);
    for (step, border) in STEPS_OF_APPROVAL {
        for victim in [GATEWAY, ENCLAVE, SUPERVISOR] {
            let key = format!("{victim}-{step}-{}-{:?}", border.name, border.side);
            let (orders, executions) = (world.upstream.orders().unwrap(), world.executions().len());
            let mut agent = world.order(APPROVED, &key);
            let action = world.plane.wait_for_approval().unwrap();
            let stop = world.borders.stop_at(*border);
            let person = world.plane.begin(&["approve", &action, "--as", "anna", "--yes"]).unwrap();
            let held = stop.wait(&mut agent).unwrap();
            assert!(world.kill(victim), "{key}");
            if victim == SUPERVISOR {
                held.release();
                finished(person).unwrap().ok().unwrap();
                let acknowledged = finished(agent).unwrap().exit == 0;
                world.recover();
                world.ends(APPROVED, &key, orders, acknowledged, NOT_PLACED_OR_AGAIN);
                continue;
            }
            drop(held);
            drop(finished(person).unwrap());
            world.recover();
            assert_ne!(finished(agent).unwrap().exit, 0, "{key}");
            let said = world.plane.approve(&action).unwrap();
            assert_eq!((said.exit, said.code()), (1, "boot_ended"), "{key}");
            assert_eq!(world.executions().len(), executions, "{key}");
            assert_eq!(world.upstream.orders().unwrap(), orders, "{key}");
        }
    }
    world.is_proven();
}

/// Step 10: the order is placed and its answer is on the way. Whoever dies then, the outcome is
/// unknown, and nothing is retried.
#[test]
fn killed_while_the_upstream_acts() {
    let mut world = World::new(1500);
    for victim in [GATEWAY, ENCLAVE, SUPERVISOR, LAUNCHER, CONNECTOR] {
        let orders = world.upstream.orders().unwrap();
        let key = format!("act-{victim}");
        let agent = world.order(DIRECT, &key);
        world.upstream.wait_for_orders(orders + 1).unwrap();
        assert!(world.kill(victim), "{victim}");
        assert_ne!(finished(agent).unwrap().exit, 0, "{victim}");
        world.recover();
        world.ends(DIRECT, &key, orders, false, PLACED_UNKNOWN);
    }
    world.is_proven();
}

/// A token that was issued in a boot that ended is worth nothing.
#[test]
fn tokens_end_with_their_boot() {
    let mut world = World::new(0);
    let arguments = ["run", APPROVED, "--params", ORDER, "--idempotency-key", "k1"];
    let agent = world.plane.begin(&[&arguments[..], &["--token-only"]].concat()).unwrap();
    let action = world.plane.wait_for_approval().unwrap();
    world.plane.approve(&action).unwrap().ok().unwrap();
    let said = finished(agent).unwrap().ok().unwrap();
    let token = said["token"].as_str().unwrap().to_owned();
    world.kill(GATEWAY);
    world.recover();
    let said =
        world.plane.run(APPROVED, ORDER, &["--token", &token, "--idempotency-key", "k1"]).unwrap();
    assert_eq!(said.code(), "token_invalid");
    assert_eq!(world.upstream.orders().unwrap(), 0);
}
