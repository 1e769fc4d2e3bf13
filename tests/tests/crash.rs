//! Kill -9 of each process at many moments of an order. The brokerage's own count is the oracle:
//! no order twice, nothing acknowledged lost, every execution ends definitely.

#![allow(clippy::unwrap_used, reason = "a failing test says where")]

use std::time::Duration;

use serde_json::{Value, json};
use toani_tests::{
    Brokerage, Plane,
    plane::{descendants, finished, programs, signal, until},
};

const TOKEN: &str = "broker-token-of-the-crash-tests";
const ORDER: &str = r#"{"symbol": "ACME", "quantity": 1}"#;
/// Moments after the agent has begun, in steps that cover an execution from end to end.
const MOMENTS: u64 = 12;
const STEP: Duration = Duration::from_millis(4);

/// The supervisor's single-threaded part, which forks; the kernel names it after /proc/self/exe.
const LAUNCHER: &str = "exe";

struct World {
    plane: Plane,
    upstream: Brokerage,
    _home: tempfile::TempDir,
}

impl World {
    fn new(order_ms: u64) -> Self {
        let home = tempfile::tempdir().unwrap();
        let programs = programs().unwrap();
        let upstream = Brokerage::start(&programs, TOKEN, order_ms).unwrap();
        let mut plane = Plane::init(&programs, &home.path().join("home")).unwrap();
        plane.serve().unwrap();
        plane.furnish(&upstream, TOKEN).unwrap();
        Self { plane, upstream, _home: home }
    }

    /// Kills a process of the plane, if it is there.
    fn kill(&mut self, victim: &str) -> bool {
        if victim == "toani" {
            self.plane.kill().unwrap();
            return true;
        }
        let pid = self.plane.pid().unwrap();
        // The kernel cuts names to 15 characters, and names what runs from memory as it likes.
        let name = &victim[..victim.len().min(15)];
        let found = descendants(pid).unwrap().into_iter().find(|(_, found)| match victim {
            "toani-connector" => !found.starts_with("toani") && found != LAUNCHER,
            _ => found == name,
        });
        if let Some((pid, _)) = &found {
            // It may have ended by itself meanwhile.
            let _ = signal(*pid, "KILL");
        }
        found.is_some()
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
    fn settle(&mut self, key: &str) -> String {
        let mut outcome = String::new();
        until("the execution has ended", || {
            let said = self.plane.run("broker.order_direct", ORDER, &["--idempotency-key", key])?;
            match said.value.get("outcome").and_then(Value::as_str) {
                Some(ended) => outcome = ended.to_owned(),
                // Not now: the plane comes back, or the execution still runs.
                None => assert!(said.exit != 2, "{}", said.error),
            }
            Ok(!outcome.is_empty())
        })
        .unwrap();
        outcome
    }
}

fn killed_at_many_moments(victim: &str) {
    let mut world = World::new(6);
    for moment in 0..MOMENTS {
        let before = world.upstream.orders();
        let key = format!("{victim}-{moment}");
        let arguments =
            ["run", "broker.order_direct", "--params", ORDER, "--idempotency-key", &key];
        let agent = world.plane.begin(&arguments).unwrap();
        // A moment, not a wait: any is as good as any other.
        std::thread::sleep(STEP * u32::try_from(moment).unwrap());
        world.kill(victim);
        let first = finished(agent).unwrap();
        world.recover();
        let outcome = world.settle(&key);
        let orders = world.upstream.orders() - before;
        assert!(orders <= 1, "{key}: placed {orders} times");
        match outcome.as_str() {
            "succeeded" => assert_eq!(orders, 1, "{key}"),
            // Nothing was connected, and the quota came back.
            "aborted" | "unreachable" | "connector_failed" => assert_eq!(orders, 0, "{key}"),
            // The upstream may have acted, and nobody claims to know.
            "unknown" => {}
            other => panic!("{key}: {other}"),
        }
        if first.exit == 0 {
            assert_eq!(outcome, "succeeded", "{key}: what was acknowledged is not lost");
        }
        assert_eq!(world.settle(&key), outcome, "{key}: the same answer again");
        assert_eq!(world.upstream.orders() - before, orders, "{key}: nothing was retried");
    }
    ends_are_definite_and_proven(&world);
}

fn ends_are_definite_and_proven(world: &World) {
    let list = world.plane.toani(&["executions", "list", "--limit", "100"]).unwrap().ok().unwrap();
    for row in list["executions"].as_array().unwrap() {
        assert_ne!(row["outcome"], json!(null), "{row}");
    }
    let bundle = world.plane.home().join("bundle.tar");
    let out = bundle.to_str().unwrap();
    world.plane.toani(&["audit", "export", "--out", out]).unwrap().ok().unwrap();
    world.plane.verify(&bundle).unwrap().ok().unwrap();
}

#[test]
fn the_gateway_is_killed() {
    killed_at_many_moments("toani");
}

#[test]
fn the_enclave_is_killed() {
    killed_at_many_moments("toani-enclave");
}

#[test]
fn the_supervisor_is_killed() {
    killed_at_many_moments("toani-sandbox");
}

#[test]
fn the_connector_is_killed() {
    killed_at_many_moments("toani-connector");
}

/// The order is placed and its answer is on the way: whoever dies then, the outcome is unknown, and
/// nothing is retried.
#[test]
fn killed_while_the_upstream_acts() {
    let mut world = World::new(1500);
    for (i, victim) in ["toani", "toani-enclave", "toani-sandbox", LAUNCHER, "toani-connector"]
        .into_iter()
        .enumerate()
    {
        let orders = u64::try_from(i).unwrap() + 1;
        let key = format!("act-{victim}");
        let arguments =
            ["run", "broker.order_direct", "--params", ORDER, "--idempotency-key", &key];
        let agent = world.plane.begin(&arguments).unwrap();
        world.upstream.wait_for_orders(orders).unwrap();
        assert!(world.kill(victim), "{victim}");
        assert_ne!(finished(agent).unwrap().exit, 0, "{victim}");
        world.recover();
        assert_eq!(world.settle(&key), "unknown", "{victim}");
        assert_eq!(world.upstream.orders(), orders, "{victim}: never retried by itself");
    }
    ends_are_definite_and_proven(&world);
}

#[test]
fn approvals_and_tokens_end_with_their_boot() {
    let mut world = World::new(0);
    let arguments = ["run", "broker.buy_stock", "--params", ORDER, "--idempotency-key", "k1"];
    let agent = world.plane.begin(&arguments).unwrap();
    let action = world.plane.wait_for_approval().unwrap();
    world.kill("toani");
    drop(finished(agent).unwrap());
    world.recover();
    let said = world.plane.approve(&action).unwrap();
    assert_eq!((said.exit, said.code()), (1, "boot_ended"));

    let arguments = [&arguments[..], &["--token-only"]].concat();
    let agent = world.plane.begin(&arguments).unwrap();
    let action = world.plane.wait_for_approval().unwrap();
    world.plane.approve(&action).unwrap().ok().unwrap();
    let said = finished(agent).unwrap().ok().unwrap();
    let token = said["token"].as_str().unwrap().to_owned();
    world.kill("toani");
    world.recover();
    let redeeming = ["--token", &token, "--idempotency-key", "k1"];
    let said = world.plane.run("broker.buy_stock", ORDER, &redeeming).unwrap();
    assert_eq!(said.code(), "token_invalid");
    assert_eq!(world.upstream.orders(), 0);
}
