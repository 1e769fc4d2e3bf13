//! Clients and supervisors that go away in the middle. A program of its own, because it ends
//! supervisors by name.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use common::{Instance, Running, policy, request, with_key};
use rustix::process::Signal;
use serde_json::json;
use toani_gateway::{Config, Exit};

#[tokio::test(flavor = "multi_thread")]
async fn whoever_goes_away_the_execution_ends() {
    // It takes connections and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let instance = Instance::born().await;
    let plane = Running::start(instance.config()).await;
    plane.set_up(&instance, &policy(1, port)).await;
    let headers = with_key("gone");
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));

    // The client goes away.
    let stream = plane.begin("POST", "/v1/executions", &headers, &request("look")).await;
    plane.until_execution("state", "started").await;
    let running = plane.ask("POST", "/v1/executions", &headers, Some(&request("look"))).await;
    assert_eq!(running.code(), "idempotency_in_progress", "{running:?}");
    drop(stream);
    plane.until_execution("outcome", "timed_out").await;

    // The supervisor goes away: what it did is not known, and nothing is done twice.
    let headers = [headers[0], ("Idempotency-Key", "lost")];
    let stream = plane.begin("POST", "/v1/executions", &headers, &request("look")).await;
    plane.until_execution("state", "started").await;
    // Not before it has the job: without one it would be known that nothing was done.
    let reached = move || ([silent.accept().unwrap(), silent.accept().unwrap()], silent);
    let _held = tokio::task::spawn_blocking(reached).await.unwrap();
    common::kill_child("toani-sandbox", "supervise");
    plane.until_execution("outcome", "unknown").await;
    plane.until("/readyz", 200).await;
    let again = plane.ask("POST", "/v1/executions", &headers, Some(&request("look"))).await;
    assert_eq!(again.json()["outcome"], json!("unknown"), "{again:?}");
    drop(stream);

    // Stopping waits for what runs.
    let headers = [headers[0], ("Idempotency-Key", "last")];
    let stream = plane.begin("POST", "/v1/executions", &headers, &request("look")).await;
    plane.until_execution("state", "started").await;
    assert_eq!(plane.stop().await, Exit::Stopped);
    drop(stream);
    let plane = Running::start(instance.config()).await;
    plane.until_execution("outcome", "timed_out").await;
    assert_eq!(plane.stop().await, Exit::Stopped);

    // The supervisor is there and says nothing: the wait for an outcome ends by itself.
    let patient = instance.config();
    let plane = Running::start(Config { outcome_ms_max: 500, ..patient }).await;
    plane.until("/readyz", 200).await;
    common::signal_child("toani-sandbox", "supervise", Signal::STOP);
    let headers = [headers[0], ("Idempotency-Key", "silent")];
    let answer = plane.ask("POST", "/v1/executions", &headers, Some(&request("look"))).await;
    assert_eq!(answer.json()["outcome"], json!("unknown"), "{answer:?}");
    plane.until_execution("state", "finished").await;
    plane.until_execution("outcome", "unknown").await;
    common::signal_child("toani-sandbox", "supervise", Signal::CONT);
    assert_eq!(plane.stop().await, Exit::Stopped);
}
