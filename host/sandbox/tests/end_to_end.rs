//! Whole executions: a real supervisor, the native driver, the real connector, a real upstream.
#![cfg(test)]

mod common;

use std::sync::{Arc, atomic::Ordering};

use common::{
    Bench, children_of, connector, drivers,
    enclave::Lost,
    image, kill, probe, root_of, until,
    upstream::{Identity, Upstream},
    waiting, with_browser,
};
use toani_protocol::{
    canonical::{self, Json},
    job::{JobEnd, JobOutcome},
    policy::{Injection, Method, TlsTrust},
    record::Connection,
};
use toani_sandbox::root::Roots;

const SECRET: &[u8] = b"tok_live_Zm9v/+?42";

fn ok() -> JobEnd {
    JobEnd::Response { status: 200, body: b"{\"ok\":true}".to_vec() }
}

#[tokio::test]
async fn the_credential_arrives_where_the_plan_says() {
    for driver in drivers() {
        arrives_where_the_plan_says(Bench::under(&driver, connector()).await).await;
    }
}

async fn arrives_where_the_plan_says(bench: Bench) {
    let upstream = Upstream::start().await;
    for (injection, credential, expected) in [
        (Injection::Bearer, SECRET, "\r\nauthorization: Bearer tok_live_Zm9v/+?42\r\n"),
        (Injection::Basic, b"user:pass", "\r\nauthorization: Basic dXNlcjpwYXNz\r\n"),
        (Injection::Header("X-Api-Key".into()), SECRET, "\r\nx-api-key: tok_live_Zm9v/+?42\r\n"),
        (Injection::Query("key".into()), SECRET, "GET /ok?key=tok_live_Zm9v%2F%2B%3F42 HTTP/1.1"),
    ] {
        let plan = upstream.plan("/ok", Some(injection));
        let outcome = bench.run(&plan, credential).await;
        assert_eq!(outcome.end, ok());
        assert!(!outcome.secret_seen);
        let [Connection { host, port, bytes_out, bytes_in }] = &*outcome.connections else {
            panic!("{:?}", outcome.connections)
        };
        assert_eq!((host.as_str(), *port), ("localhost", upstream.port));
        assert!(*bytes_out > 100 && *bytes_in > 100);
        assert!(upstream.last_request().contains(expected));
    }
    assert_eq!(upstream.count(), 4);
}

#[tokio::test]
async fn the_request_is_the_plan() {
    let upstream = Upstream::start().await;
    let bench = Bench::connector().await;
    let mut plan = upstream.plan("/ok", None);
    plan.method = Method::Post;
    plan.query = vec![("a".into(), "1%202".into())];
    plan.headers.insert("x-trace".into(), "7".into());
    plan.body = Some(Json(canonical::parse(b"{\"n\":1,\"a\":[]}", 64).unwrap()));
    let outcome = bench.run(&plan, b"").await;
    assert_eq!(outcome.end, ok());
    let request = upstream.last_request();
    let expected = format!(
        "POST /ok?a=1%202 HTTP/1.1\r\nhost: localhost:{}\r\nx-trace: 7\r\n\
         content-type: application/json\r\ncontent-length: 14\r\n\r\n{{\"a\":[],\"n\":1}}",
        upstream.port
    );
    assert_eq!(request, expected);
}

#[tokio::test]
async fn tls_is_refused_unless_pin_name_and_time_are_right() {
    let bench = Bench::connector().await;
    let all = rustls::DEFAULT_VERSIONS;
    let bearer = || Some(Injection::Bearer);
    let wrong = Upstream::start().await;
    let right = Upstream::start().await;
    let name = Identity { name: "example.org", ..Identity::default() };
    let name = Upstream::with(name, all).await;
    let expired = Identity { expired: true, ..Identity::default() };
    let expired = Upstream::with(expired, all).await;

    let mut other_pin = wrong.plan("/ok", bearer());
    other_pin.tls = TlsTrust::SpkiSha256(vec![right.pin]);
    let mut public = wrong.plan("/ok", bearer());
    public.tls = TlsTrust::Public;
    for (what, plan) in [
        ("wrong pin", other_pin),
        ("wrong name", name.plan("/ok", bearer())),
        ("expired", expired.plan("/ok", bearer())),
        ("not a public root's", public),
    ] {
        let outcome = bench.run(&plan, SECRET).await;
        assert_eq!(outcome.end, JobEnd::TlsRefused, "{what}");
        assert!(outcome.connected(), "{what}");
    }
    let mut no_pin = wrong.plan("/ok", bearer());
    no_pin.tls = TlsTrust::SpkiSha256(Vec::new());
    assert_eq!(bench.run(&no_pin, SECRET).await.end, JobEnd::ConnectorFailed);
    for upstream in [wrong, right, name, expired] {
        assert_eq!(upstream.count(), 0, "no request, so no credential, went out");
    }
}

#[tokio::test]
async fn a_pinned_certificate_without_its_key_is_refused() {
    let bench = Bench::connector().await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let identity = Identity { stolen: true, ..Identity::default() };
        let upstream = Upstream::with(identity, &[version]).await;
        let plan = upstream.plan("/ok", Some(Injection::Bearer));
        assert_eq!(bench.run(&plan, SECRET).await.end, JobEnd::TlsRefused);
        assert_eq!(upstream.count(), 0);
    }
}

#[tokio::test]
async fn what_does_not_speak_tls_gets_no_credential() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let bench = Bench::connector().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let plain = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        stream.write_all(plain).await.unwrap();
        let mut all = Vec::new();
        // The other side may close while bytes are on their way.
        let _ = stream.read_to_end(&mut all).await;
        all
    });
    let pin = toani_protocol::ids::Hash::of(b"");
    let plan = common::plan(port, pin, "/ok", Some(Injection::Bearer));
    assert_eq!(bench.run(&plan, SECRET).await.end, JobEnd::TlsRefused);
    let seen = server.await.unwrap();
    assert!(!seen.windows(SECRET.len()).any(|part| part == SECRET));
}

#[tokio::test]
async fn a_killed_launcher_ends_the_supervisor() {
    let bench = Bench::connector().await;
    kill(bench.launcher());
    bench.client.gone().await;
    let upstream = Upstream::start().await;
    let end = bench.try_run(&upstream.plan("/ok", None), b"").await;
    assert_eq!(end.unwrap_err(), Lost);
}

#[tokio::test]
async fn pinned_keys_work_in_both_versions_and_for_issued_certificates() {
    let bench = Bench::connector().await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for issued in [false, true] {
            let identity = Identity { issued, ..Identity::default() };
            let upstream = Upstream::with(identity, &[version]).await;
            let outcome = bench.run(&upstream.plan("/ok", None), b"").await;
            assert_eq!(outcome.end, ok(), "{version:?}, issued: {issued}");
        }
    }
}

#[tokio::test]
async fn each_bad_answer_is_a_definite_end() {
    let upstream = Upstream::start().await;
    let bench = Bench::connector().await;
    for (path, end) in [
        ("/redirect", JobEnd::Redirected { status: 302 }),
        ("/garbage", JobEnd::Malformed),
        ("/short", JobEnd::Malformed),
        ("/nothing", JobEnd::Malformed),
        ("/head", JobEnd::Malformed),
        ("/endless", JobEnd::TooLarge),
        ("/announced", JobEnd::TooLarge),
        ("/missing", JobEnd::Response { status: 404, body: b"{}".to_vec() }),
    ] {
        let outcome = bench.run(&upstream.plan(path, Some(Injection::Bearer)), SECRET).await;
        assert_eq!(outcome.end, end, "{path}");
        assert!(outcome.connected() && !outcome.secret_seen, "{path}");
    }
    assert_eq!(upstream.count(), 8);
    bench.containers(waiting(1)).await;
}

#[tokio::test]
async fn too_slow_is_timed_out() {
    let upstream = Upstream::start().await;
    let bench = Bench::connector().await;
    let mut plan = upstream.plan("/slow", None);
    plan.class.timeout_ms = 300;
    let waited = bench.isolated(waiting(1)).await;
    let outcome = bench.run(&plan, b"").await;
    assert_eq!(outcome.end, JobEnd::TimedOut);
    assert!(outcome.connected());
    bench.one_has_ended(&waited).await;
    bench.containers(waiting(1)).await;
}

#[tokio::test]
async fn addresses_are_refused_or_unreachable() {
    let upstream = Upstream::start().await;
    let bench = Bench::connector().await;
    let mut private = upstream.plan("/ok", None);
    private.endpoint.private = false;
    let mut nobody = upstream.plan("/ok", None);
    nobody.endpoint.port = 1;
    let mut nowhere = upstream.plan("/ok", None);
    nowhere.endpoint.host = "0.0.0.0".into();
    for (plan, end) in [
        (private, JobEnd::AddressRefused),
        (nowhere, JobEnd::AddressRefused),
        (nobody, JobEnd::Unreachable),
    ] {
        let outcome = bench.run(&plan, b"").await;
        let expected = JobOutcome { end, secret_seen: false, connections: vec![] };
        assert_eq!(outcome, expected);
    }
    assert_eq!(upstream.accepted.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_answer_that_holds_the_secret_is_dropped() {
    let upstream = Upstream::start().await;
    let bench = Bench::connector().await;
    for how in ["plain", "base64", "base64url", "hex", "url", "json", "chunks"] {
        let plan = upstream.plan(&format!("/echo/{how}"), Some(Injection::Bearer));
        let outcome = bench.run(&plan, SECRET).await;
        assert!(outcome.secret_seen, "{how}");
        let end = JobEnd::Response { status: 200, body: Vec::new() };
        assert_eq!(outcome.end, end, "{how}");
    }
}

#[tokio::test]
async fn a_killed_connector_is_a_definite_end() {
    let upstream = Upstream::start().await;
    let bench = Bench::connector().await;
    let plan = upstream.plan("/slow", Some(Injection::Bearer));
    let killed = async {
        until("the request arrives", || upstream.count() == 1).await;
        // The one that runs is among them, however many wait or are about to.
        let launcher = bench.launcher();
        let all = children_of(launcher);
        all.iter().copied().for_each(kill);
        let left = || children_of(launcher).iter().any(|child| all.contains(child));
        until("all have ended", || !left()).await;
    };
    let (outcome, ()) = tokio::join!(bench.run(&plan, SECRET), killed);
    assert_eq!(outcome.end, JobEnd::ConnectorFailed);
    assert!(outcome.connected(), "the upstream may have acted");
    // The next ones are not touched by it, though those that waited have died too.
    for _ in 0..waiting(1) {
        assert_eq!(bench.run(&upstream.plan("/ok", None), b"").await.end, ok());
    }
    bench.containers(waiting(1)).await;
}

#[tokio::test]
async fn a_killed_supervisor_is_lost_with_all_it_started() {
    let upstream = Upstream::start().await;
    let bench = Bench::connector().await;
    let launcher = bench.launcher();
    let plan = upstream.plan("/slow", None);
    let killed = async {
        until("the request arrives", || upstream.count() == 1).await;
        let containers = children_of(launcher);
        kill(bench.client.pid());
        containers
    };
    let (end, containers) = tokio::join!(bench.try_run(&plan, b""), killed);
    assert_eq!(end.unwrap_err(), Lost);
    bench.client.gone().await;
    assert_eq!(bench.try_run(&plan, b"").await.unwrap_err(), Lost);
    until("launcher and container end", || {
        containers.iter().chain([&launcher]).all(|pid| common::status(*pid, "State:").is_none())
    })
    .await;
    until("the connection ends", || upstream.closed.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_dropped_client_ends_its_supervisor() {
    let bench = Bench::connector().await;
    let (pid, launcher) = (bench.client.pid(), bench.launcher());
    drop(bench);
    until("supervisor and launcher end", || {
        [pid, launcher].iter().all(|pid| common::status(*pid, "State:").is_none())
    })
    .await;
}

#[tokio::test]
async fn many_run_at_once() {
    let upstream = Upstream::start().await;
    let bench = Bench::connector().await;
    let plan = upstream.plan("/ok", Some(Injection::Bearer));
    let runs: Vec<_> = (0..64)
        .map(|_| {
            let (link, plan) = (Arc::clone(&bench.link), plan.clone());
            tokio::spawn(async move { link.run(&plan, SECRET).await.unwrap() })
        })
        .collect();
    for run in runs {
        assert_eq!(run.await.unwrap().end, ok());
    }
    assert_eq!(upstream.count(), 64);
    bench.containers(waiting(1)).await;
}

#[tokio::test]
async fn the_launch_digest_is_of_what_runs() {
    let supervisor = env!("CARGO_BIN_EXE_toani-sandbox").as_ref();
    let browser = with_browser(&image(&probe()));
    for driver in drivers().into_iter().chain([browser]) {
        let roots = Roots::open(&root_of(&driver, &connector()), &driver).unwrap().digests();
        // The enclave has verified evidence of this digest: the bench is connected.
        let bench = Bench::under(&driver, connector()).await;
        let measured = toani_sandbox::launch_digest(supervisor, &driver, roots).unwrap();
        assert_eq!(bench.launch_digest, measured);
    }
}
