//! Both replay stores under one suite, and Redis when it is down, slow, full, a replica, or lies.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use toani_protocol::{Hash, Time};
use toani_store::{EmbeddedReplay, RedisConfig, RedisReplay, ReplayError, ReplayStore};
use toani_tests::{Liar, Redis, plane::until};

fn soon() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Time::from_ms(u64::try_from(since.as_millis()).unwrap()).plus_ms(600_000)
}

fn jti(name: &str) -> Hash {
    Hash::of(name.as_bytes())
}

fn at(url: &str) -> RedisConfig {
    RedisConfig { address: url.parse().unwrap(), ca: None, password_file: None }
}

async fn open(url: &str) -> Result<RedisReplay, ReplayError> {
    RedisReplay::open(at(url)).await
}

/// What every replay store does.
async fn suite<S: ReplayStore + 'static>(store: S) {
    let expires = soon();
    assert_eq!(store.consume(jti("a"), expires).await, Ok(true));
    assert_eq!(store.consume(jti("a"), expires).await, Ok(false));
    assert_eq!(store.consume(jti("a"), expires.plus_ms(1)).await, Ok(false));
    assert_eq!(store.consume(jti("b"), expires).await, Ok(true));
    let past = Time::from_ms(1);
    assert_eq!(store.consume(jti("c"), past).await, Err(ReplayError::Expired));
    assert_eq!(store.consume(jti("c"), expires).await, Ok(true), "it was not consumed");

    let store = Arc::new(store);
    for round in 0..16 {
        let jti = jti(&format!("round {round}"));
        let tasks = (0..64).map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.consume(jti, expires).await })
        });
        let mut firsts = 0;
        for task in tasks.collect::<Vec<_>>() {
            firsts += u32::from(task.await.unwrap().unwrap());
        }
        assert_eq!(firsts, 1);
    }
}

/// A store whose room is used up refuses what is new and knows what it has.
async fn full<S: ReplayStore>(store: S) {
    let expires = soon();
    let mut taken = 0_u32;
    let name = |i: u32| jti(&format!("token {i}"));
    while store.consume(name(taken), expires).await == Ok(true) {
        taken += 1;
        assert!(taken < 1_000_000, "it is never full");
    }
    assert_eq!(store.consume(name(taken), expires).await, Err(ReplayError::Full));
    // Redis refuses any SET without memory, also one that would only say no.
    let again = store.consume(name(0), expires).await;
    assert!(matches!(again, Ok(false) | Err(ReplayError::Full)), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_store_passes_the_suite() {
    suite(EmbeddedReplay::new()).await;
    full(EmbeddedReplay::with_room_for(100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_passes_the_suite() {
    let redis = Redis::start(&[]).unwrap();
    suite(open(&redis.url()).await.unwrap()).await;
    redis.says("FLUSHALL").unwrap();
    suite(open(&format!("unix://{}", redis.socket().display())).await.unwrap()).await;
    let small = Redis::start(&["--maxmemory", "2mb", "--maxmemory-policy", "noeviction"]).unwrap();
    full(open(&small.url()).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_gateways_share_one_redis() {
    let redis = Redis::start(&[]).unwrap();
    let (one, two) = (open(&redis.url()).await.unwrap(), open(&redis.url()).await.unwrap());
    let expires = soon();
    let both = tokio::join!(one.consume(jti("a"), expires), two.consume(jti("a"), expires));
    assert!(matches!(both, (Ok(true), Ok(false)) | (Ok(false), Ok(true))), "{both:?}");
    // Remembered for as long as the token lives, and no longer.
    let left = redis.says(&format!("PTTL toani:jti:{}", jti("a"))).unwrap();
    let left: u64 = left.strip_prefix(':').unwrap().parse().unwrap();
    assert!((1..=600_000).contains(&left), "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_down_refuses_until_it_is_back() {
    let mut redis = Redis::start(&[]).unwrap();
    let store = open(&redis.url()).await.unwrap();
    assert_eq!(store.consume(jti("a"), soon()).await, Ok(true));
    redis.kill().unwrap();
    let down = store.consume(jti("b"), soon()).await;
    assert!(matches!(down, Err(ReplayError::Unclear(_) | ReplayError::Unreachable(_))), "{down:?}");
    let down = store.consume(jti("b"), soon()).await;
    assert!(matches!(down, Err(ReplayError::Unreachable(_))), "{down:?}");
    assert!(matches!(open(&redis.url()).await, Err(ReplayError::Unreachable(_))));

    let redis = Redis::start_on(redis.port(), &[]).unwrap().unwrap();
    assert_eq!(store.consume(jti("c"), soon()).await, Ok(true));
    drop(redis);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_hangs_is_an_error_and_its_late_answer_is_nobodys() {
    let redis = Redis::start(&[]).unwrap();
    let store = open(&redis.url()).await.unwrap();
    redis.signal("STOP").unwrap();
    // The system takes what is sent; the server acts on it when it goes on.
    let slow = store.consume(jti("a"), soon()).await;
    assert!(matches!(slow, Err(ReplayError::Unclear(_))), "{slow:?}");
    redis.signal("CONT").unwrap();
    until("the command that nobody waits for is done", || Ok(redis.says("DBSIZE")? == ":1"))
        .unwrap();
    assert_eq!(store.consume(jti("a"), soon()).await, Ok(false), "it was consumed");
    assert_eq!(store.consume(jti("b"), soon()).await, Ok(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_becomes_a_replica_refuses() {
    let primary = Redis::start(&[]).unwrap();
    let redis = Redis::start(&[]).unwrap();
    let store = open(&redis.url()).await.unwrap();
    assert_eq!(store.consume(jti("a"), soon()).await, Ok(true));
    redis.says(&format!("REPLICAOF 127.0.0.1 {}", primary.port())).unwrap();
    let refused = store.consume(jti("b"), soon()).await;
    assert!(matches!(refused, Err(ReplayError::Unclear(_))), "{refused:?}");
    let refused = store.consume(jti("b"), soon()).await;
    assert!(matches!(refused, Err(ReplayError::Unfit(_))), "{refused:?}");
    let refused = open(&redis.url()).await.unwrap_err();
    assert!(refused.to_string().contains("replica"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_would_forget_is_refused_also_when_it_changes_its_mind() {
    let forgetful = Redis::start(&["--maxmemory-policy", "allkeys-lru"]).unwrap();
    let refused = open(&forgetful.url()).await.unwrap_err();
    assert!(refused.to_string().contains("maxmemory-policy noeviction"), "{refused}");
    forgetful.says("CONFIG SET maxmemory-policy noeviction").unwrap();
    assert!(open(&forgetful.url()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_comes_from_a_file_of_its_owner() {
    let redis = Redis::start(&["--requirepass", "of the test"]).unwrap();
    let file = redis.folder().join("password");
    std::fs::write(&file, "of the test\n").unwrap();
    let config = RedisConfig { password_file: Some(file.clone()), ..at(&redis.url()) };
    let exposed = RedisReplay::open(config.clone()).await.unwrap_err();
    assert!(exposed.to_string().contains("chmod 600"), "{exposed}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let store = RedisReplay::open(config.clone()).await.unwrap();
    assert_eq!(store.consume(jti("a"), soon()).await, Ok(true));
    std::fs::write(&file, "another").unwrap();
    assert!(matches!(RedisReplay::open(config).await, Err(ReplayError::Unfit(_))));
    assert!(matches!(open(&redis.url()).await, Err(ReplayError::Unfit(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_two_commands_is_enough() {
    let redis = Redis::start(&[]).unwrap();
    let file = redis.folder().join("password");
    std::fs::write(&file, "narrow").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    redis.says("ACL SETUSER toani on >narrow ~toani:jti:* +set +info").unwrap();
    let url = format!("redis://toani@127.0.0.1:{}", redis.port());
    let config = RedisConfig { password_file: Some(file), ..at(&url) };
    suite(RedisReplay::open(config.clone()).await.unwrap()).await;
    redis.says("ACL SETUSER toani -info").unwrap();
    let refused = RedisReplay::open(config.clone()).await.unwrap_err();
    assert!(refused.to_string().contains("INFO"), "{refused}");
    redis.says("ACL SETUSER toani +info -set").unwrap();
    let store = RedisReplay::open(config).await.unwrap();
    let refused = store.consume(jti("z"), soon()).await;
    assert!(matches!(refused, Err(ReplayError::Unclear(_))), "{refused:?}");
}

/// A CA and a certificate for localhost by it: their files, and that of the key.
fn certificates(folder: &std::path::Path) -> [PathBuf; 3] {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let files = [("ca", ca.pem()), ("cert", certificate.pem()), ("key", key.serialize_pem())];
    files.map(|(name, pem)| {
        let path = folder.join(name);
        std::fs::write(&path, pem).unwrap();
        path
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_over_tls_is_believed_by_its_ca_alone() {
    let folder = tempfile::tempdir().unwrap();
    let [ca, certificate, key] = certificates(folder.path());
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let port = free.to_string();
    let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let (certificate, key) = (text(&certificate), text(&key));
    let tls = |protocols| {
        let files = ["--tls-cert-file", &certificate, "--tls-key-file", &key];
        let more = ["--tls-port", &port, "--tls-auth-clients", "no", "--tls-protocols", protocols];
        Redis::start(&[files.as_slice(), &more].concat()).unwrap()
    };
    let redis = tls("TLSv1.3");
    let config = |name: &str, ca: Option<&PathBuf>| {
        let url = format!("rediss://{name}:{port}");
        RedisConfig { ca: ca.cloned(), ..at(&url) }
    };
    suite(RedisReplay::open(config("localhost", Some(&ca))).await.unwrap()).await;
    let refused = RedisReplay::open(config("localhost", None)).await.unwrap_err();
    assert!(refused.to_string().contains("--replay-ca"), "{refused}");
    let refused = RedisReplay::open(config("127.0.0.1", Some(&ca))).await;
    assert!(matches!(refused, Err(ReplayError::Unreachable(_))), "another name: {refused:?}");
    let strangers = tempfile::tempdir().unwrap();
    let [other, ..] = certificates(strangers.path());
    let refused = RedisReplay::open(config("localhost", Some(&other))).await;
    assert!(matches!(refused, Err(ReplayError::Unreachable(_))), "another CA: {refused:?}");
    drop(redis);
    let _old = tls("TLSv1.2");
    let refused = RedisReplay::open(config("localhost", Some(&ca))).await;
    assert!(matches!(refused, Err(ReplayError::Unreachable(_))), "TLS 1.2: {refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_neither_ok_nor_nil_is_an_error() {
    for answer in [
        "-OOM command not allowed when used memory > 'maxmemory'.\r\n",
        "-READONLY You can't write against a read only replica.\r\n",
        "-MOVED 3999 127.0.0.1:6381\r\n",
        "-LOADING Redis is loading the dataset in memory\r\n",
        "-WRONGTYPE\r\n",
        "+QUEUED\r\n",
        "+ok\r\n",
        ":1\r\n",
        ":0\r\n",
        "$2\r\nOK\r\n",
        "$0\r\n\r\n",
        "*1\r\n+OK\r\n",
        "*0\r\n",
        "#t\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
        "",
        "\u{0}\u{1b}[2J\r\n",
        "$99999999999\r\n",
    ] {
        let liar = Liar::start(answer).unwrap();
        let store = open(&liar.url()).await.unwrap();
        let refused = store.consume(jti("a"), soon()).await;
        let refused = refused.expect_err(answer).to_string();
        assert!(!refused.contains('\u{1b}'), "{refused:?}");
        assert_eq!(liar.sets(), 1, "{answer:?} was sent for once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_end_is_cut_off() {
    let liar = Liar::start(&format!("${}\r\n{}", 100_000_000, "x".repeat(1_000_000))).unwrap();
    let store = open(&liar.url()).await.unwrap();
    let refused = store.consume(jti("a"), soon()).await.unwrap_err();
    assert!(refused.to_string().contains("more than it was asked for"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_says_yes_to_everything_is_believed_here_and_by_nobody_else() {
    let liar = Liar::start("+OK\r\n").unwrap();
    let store = open(&liar.url()).await.unwrap();
    assert_eq!(store.consume(jti("a"), soon()).await, Ok(true));
    // So the enclave consumes the token first: host/gateway/tests/replay.rs sees it refuse the second.
    assert_eq!(store.consume(jti("a"), soon()).await, Ok(true));
}
