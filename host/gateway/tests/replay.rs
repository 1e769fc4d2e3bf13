//! What a replay store that lies can do to a plane: refuse, and nothing more.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use common::{Answer, Instance, Running, policy, request, with_key};
use serde_json::{Value, json};
use toani_gateway::{Config, Exit, RedisConfig, Replay};
use toani_tests::Liar;
use tokio::net::TcpListener;

async fn post(plane: &Running, path: &str, key: &str, body: &Value) -> Answer {
    let headers = with_key(key);
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    plane.ask("POST", path, &headers, Some(body)).await
}

/// An upstream that counts who comes, and hangs up.
async fn upstream() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("localhost:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    (port, count)
}

async fn plane_with(liar: &Liar, port: u16) -> (Instance, Running) {
    let instance = Instance::born().await;
    let address = liar.url().parse().unwrap();
    let replay = Replay::Redis(RedisConfig { address, ca: None, password_file: None });
    let plane = Running::start(Config { replay, ..instance.config() }).await;
    plane.set_up(&instance, &policy(1, port)).await;
    (instance, plane)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_yes_to_everything_redeems_nothing_twice() {
    let liar = Liar::start("+OK\r\n").unwrap();
    let (port, reached) = upstream().await;
    let (_instance, plane) = plane_with(&liar, port).await;
    let decided = post(&plane, "/v1/actions", "k1", &request("look")).await.json();
    let redeem = json!({"token": decided["token"], "request": request("look")});
    let first = post(&plane, "/v1/executions", "k1", &redeem).await;
    assert_eq!(first.status, 200, "{first:?}");
    assert_eq!((liar.sets(), reached.load(Ordering::SeqCst)), (1, 1));

    let again = post(&plane, "/v1/executions", "k1", &redeem).await;
    assert_eq!(again.json()["execution_id"], first.json()["execution_id"], "the same answer");
    let other = post(&plane, "/v1/executions", "k2", &redeem).await;
    assert_eq!(other.status, 403, "{other:?}");
    assert_eq!((liar.sets(), reached.load(Ordering::SeqCst)), (1, 1), "it was not even asked");
    assert_eq!(plane.stop().await, Exit::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_no_or_nonsense_ends_executions_before_they_begin() {
    for (answer, code) in [("$-1\r\n", "token_used"), (":1\r\n", "replay_unavailable")] {
        let liar = Liar::start(answer).unwrap();
        let (port, reached) = upstream().await;
        let (_instance, plane) = plane_with(&liar, port).await;
        let decided = post(&plane, "/v1/actions", "k1", &request("look")).await.json();
        let redeem = json!({"token": decided["token"], "request": request("look")});
        let refused = post(&plane, "/v1/executions", "k1", &redeem).await;
        assert_eq!(refused.code(), code, "{refused:?}");
        plane.until_execution("outcome", "aborted").await;
        // The token is spent, and the idempotency key says what became of it.
        let again = post(&plane, "/v1/executions", "k1", &redeem).await;
        assert_eq!(again.json()["outcome"], "aborted", "{again:?}");
        let other = post(&plane, "/v1/executions", "k2", &redeem).await;
        assert_eq!(other.status, 403, "{other:?}");
        assert_eq!((liar.sets(), reached.load(Ordering::SeqCst)), (1, 0));
        assert_eq!(plane.stop().await, Exit::Stopped);
    }
}
