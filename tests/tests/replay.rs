//! `toani serve --replay`: a real Redis, and what executions become without it.

#![allow(clippy::unwrap_used, reason = "a failing test says where")]

use toani_tests::{Brokerage, Plane, Redis, plane::programs};

const TOKEN: &str = "token-of-the-replay-tests";
const ORDER: &str = r#"{"symbol": "ACME", "quantity": 1}"#;

#[test]
fn executions_go_through_redis_and_end_without_it() {
    let home = tempfile::tempdir().unwrap();
    let programs = programs().unwrap();
    let mut upstream = Brokerage::start(&programs, TOKEN, 0).unwrap();
    let mut plane = Plane::init(&programs, &home.path().join("home")).unwrap();
    let mut redis = Redis::start(&[]).unwrap();
    plane.serve_with(&["--replay", &redis.url()]).unwrap();
    plane.furnish(&upstream, TOKEN).unwrap();

    plane.run("broker.order_direct", ORDER, &[]).unwrap().ok().unwrap();
    upstream.wait_for_orders(1).unwrap();
    assert_eq!(redis.says("DBSIZE").unwrap(), ":1");

    redis.kill().unwrap();
    for _ in 0..2 {
        let refused = plane.run("broker.order_direct", ORDER, &[]).unwrap();
        assert_eq!((refused.exit, refused.code()), (1, "replay_unavailable"), "{}", refused.error);
        let list = plane.toani(&["executions", "list", "--limit", "1"]).unwrap().ok().unwrap();
        let last = &list["executions"][0];
        assert_eq!((&last["state"], &last["outcome"]), (&"finished".into(), &"aborted".into()));
    }

    let redis = Redis::start_on(redis.port(), &[]).unwrap().unwrap();
    plane.run("broker.order_direct", ORDER, &[]).unwrap().ok().unwrap();
    upstream.wait_for_orders(2).unwrap();
    assert_eq!(redis.says("DBSIZE").unwrap(), ":1");
    assert_eq!(plane.stop().unwrap(), 0);
    assert_eq!(upstream.orders().unwrap(), 2, "what was refused reached nobody");
}

#[test]
fn a_redis_that_is_no_replay_store_is_refused_at_start_with_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let programs = programs().unwrap();
    let plane = Plane::init(&programs, &home.path().join("home")).unwrap();
    let folder = programs.to_str().unwrap();
    let refused = |url: &str| {
        let serve = ["serve", "--listen", "127.0.0.1:0", "--programs", folder, "--replay", url];
        let said = plane.toani(&serve).unwrap();
        (said.exit, said.error)
    };
    let (exit, error) = refused("redis://192.0.2.1:6379/0");
    assert!(exit == 2 && error.contains("use rediss://"), "{error}");
    let (exit, error) = refused("redis://:secret@127.0.0.1");
    assert!(exit == 2 && error.contains("--replay-password-file"), "{error}");

    let mut redis = Redis::start(&["--maxmemory-policy", "allkeys-lfu"]).unwrap();
    let (exit, error) = refused(&redis.url());
    assert!(exit == 5 && error.contains("maxmemory-policy noeviction"), "{error}");
    redis.kill().unwrap();
    let (exit, error) = refused(&redis.url());
    assert!(exit == 5 && error.contains("cannot be reached"), "{error}");
}
