//! An exporter may put any files under an index that the enclave signs: each disclosure is held
//! against what the records commit to, and each answer against policy and statement.

use ed25519_dalek::SigningKey;
use serde_json::{Value, json};
use toani_protocol::{
    BootId, Time,
    approval::ApprovalProof,
    disclosure::{DisclosureFormat, Kept},
    instance::SgxPolicy,
    plan::Plan,
    policy::ApproverKey,
    record::{About, PolicyRef},
    sign::{self, Bytes, PublicKey, Signature},
    trust::{IntakeKey, LogTrust, TrustFormat},
};

use super::*;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn tenant() -> TenantId {
    TenantId::of_first_key(&PublicKey::of(&key(2)))
}

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn policy() -> Policy {
    let person = |seed| json!({"keys": [{"ed25519": PublicKey::of(&key(seed))}]});
    from(json!({
        "format": "toani-policy/1", "tenant": tenant(), "id": "main", "version": 1,
        "not_before": "2026-01-01T00:00:00Z", "expires": "2027-01-01T00:00:00Z", "namespace": "main",
        "persons": {"anna": person(10), "ben": person(11), "clara": person(12)},
        "agents": {}, "credentials": {}, "services": {}, "quotas": {}
    }))
}

fn trust() -> TrustFile {
    TrustFile {
        format: TrustFormat::V1,
        instance: Hash::of(b"instance"),
        tenant: None,
        mrenclaves: Vec::new(),
        log: LogTrust { origin: "log".into(), key: PublicKey::of(&key(1)) },
        intake_key: IntakeKey(Bytes(vec![0; 32])),
        sgx_roots: Vec::new(),
        sgx_policy: SgxPolicy::up_to_date(),
        snp_roots: Vec::new(),
        witnesses: Vec::new(),
        witness_quorum: 0,
    }
}

fn statement() -> Statement {
    let plan: Plan = from(json!({
        "connector": "direct_api", "method": "POST",
        "endpoint": {"host": "api.example", "port": 443, "private": false},
        "path": "/orders", "query": [], "headers": {}, "body": {"n": 3}, "injection": null,
        "tls": "public", "success": null, "nonce": Hash::of(b"plan"),
        "class": {"memory_mib": 64, "processes": 4, "tmp_mib": 1, "timeout_ms": 1000,
                  "response_bytes_max": 1024}
    }));
    Statement {
        instance: trust().instance,
        boot: BootId::new("boot_1").unwrap(),
        action_id: ActionId::new("act_1").unwrap(),
        tenant: tenant(),
        agent: "agent".parse().unwrap(),
        user: "user".parse().unwrap(),
        service: "shop".parse().unwrap(),
        action: "buy".parse().unwrap(),
        params: Json(json!({"n": 3})),
        plan,
        policy: PolicyRef { id: "main".parse().unwrap(), version: 1, hash: Hash::of(b"policy") },
        tier: from(json!(1)),
        approvers: vec!["anna".parse().unwrap(), "ben".parse().unwrap()],
        threshold: 2,
        issued_at: Time::from_ms(1_000),
        expires_at: Time::from_ms(2_000),
    }
}

fn answer(person: &str, seed: u8, verdict: Verdict, statement: &Statement) -> Evidence {
    let hash = Statement::hash_of(&canonical::encode(statement).unwrap());
    let signature = sign::sign(&key(seed), verdict.label(), hash.as_bytes());
    Evidence {
        action_id: ActionId::new("act_1").unwrap(),
        person: person.parse().unwrap(),
        verdict,
        key: ApproverKey::Ed25519(PublicKey::of(&key(seed))),
        proof: ApprovalProof::Ed25519(signature),
    }
}

fn record(kind: RecordKind, disclosure: &Disclosure) -> Record {
    let statement = statement();
    let kept = &disclosure.kept;
    let evidence = disclosure.evidence.as_ref().filter(|_| kind != RecordKind::Waiting);
    Record {
        index: 7,
        origin: "log".into(),
        previous: Hash::ZERO,
        time: Time::from_ms(1_000),
        boot: statement.boot,
        kind,
        tee_mrenclave: Hash::ZERO,
        evidence: Hash::ZERO,
        admission: Hash::ZERO,
        about: About {
            tenant: Some(tenant()),
            action_id: Some(statement.action_id),
            agent: Some(statement.agent),
            service: Some(statement.service),
            action: Some(statement.action),
            policy: Some(statement.policy),
            tier: Some(statement.tier),
            params: Some(params_commitment(&kept.params_nonce, kept.params()).unwrap()),
            plan: Some(kept.plan().seal().unwrap().1),
            hitl_proof: evidence.map(|some| hitl_proof(&canonical::encode(some).unwrap())),
            ..About::default()
        },
        chain_signature: Signature([0; 64]),
    }
}

fn disclosure(signed: Signed<Statement>, evidence: Option<Vec<Evidence>>) -> Disclosure {
    let asked = Asked::Statement(Box::new(signed));
    Disclosure {
        format: DisclosureFormat::V1,
        action_id: ActionId::new("act_1").unwrap(),
        kept: Kept { params_nonce: Hash::of(b"nonce"), asked },
        evidence,
    }
}

fn signed(statement: Statement) -> Signed<Statement> {
    Signed::by(&key(1), Label::Statement, statement).unwrap()
}

fn approved() -> Disclosure {
    let (statement, yes) = (statement(), Verdict::Approve);
    let evidence = vec![answer("anna", 10, yes, &statement), answer("ben", 11, yes, &statement)];
    disclosure(signed(statement), Some(evidence))
}

fn held(disclosure: &Disclosure, records: &[Record]) -> Result<Disclosed, Problem> {
    let policy = |hash: &Hash| (*hash == Hash::of(b"policy")).then(policy);
    let (trust, tenant) = (trust(), tenant());
    let held =
        Held { trust: &trust, tenant: &tenant, records: records.iter().collect(), policy: &policy };
    verify(disclosure, &held)
}

/// The records of a disclosure that is what happened.
fn honest(disclosure: &Disclosure, end: RecordKind) -> Vec<Record> {
    vec![record(RecordKind::Waiting, disclosure), record(end, disclosure)]
}

#[test]
fn it_shows_what_was_asked_and_who_approved() {
    let approved = approved();
    let shown = held(&approved, &honest(&approved, RecordKind::Approved)).unwrap();
    assert_eq!(shown.params.0, json!({"n": 3}));
    assert_eq!(shown.target, "POST https://api.example:443/orders");
    let persons: Vec<_> = shown.answers.iter().map(|answer| answer.person.as_str()).collect();
    assert_eq!(persons, ["anna", "ben"]);
    let no = vec![answer("ben", 11, Verdict::Deny, &statement())];
    let denied = disclosure(signed(statement()), Some(no));
    let shown = held(&denied, &honest(&denied, RecordKind::Denied)).unwrap();
    assert_eq!(shown.answers[0].verdict, Verdict::Deny);
    // Nobody answered, and a later boot ended it.
    let waited = disclosure(signed(statement()), None);
    let mut ended = record(RecordKind::Ended, &waited);
    ended.boot = BootId::new("boot_2").unwrap();
    (ended.about.params, ended.about.plan) = (None, None);
    let shown = held(&waited, &[record(RecordKind::Waiting, &waited), ended]).unwrap();
    assert!(shown.answers.is_empty());
}

#[test]
fn what_the_records_do_not_commit_to_is_refused() {
    let honest_one = approved();
    let records = honest(&honest_one, RecordKind::Approved);
    assert!(held(&honest_one, &records).is_ok());
    let changed = |change: &dyn Fn(&mut Disclosure)| {
        let mut lie = honest_one.clone();
        change(&mut lie);
        held(&lie, &records).unwrap_err()
    };
    let refused = Problem::DisclosureRecord;
    assert_eq!(changed(&|lie| lie.kept.params_nonce = Hash::ZERO), refused);
    assert_eq!(changed(&|lie| lie.evidence = None), refused, "who approved is left out");
    assert_eq!(changed(&|lie| lie.evidence.as_mut().unwrap().truncate(1)), refused);
    assert_eq!(changed(&|lie| lie.evidence.as_mut().unwrap().reverse()), refused);
    let directly = |lie: &mut Disclosure| {
        let (params, plan) = (lie.kept.params().clone(), Box::new(lie.kept.plan().clone()));
        lie.kept.asked = Asked::Directly { params, plan };
    };
    assert_eq!(changed(&directly), refused, "people were asked");
    let restated = |change: &dyn Fn(&mut Statement)| {
        changed(&|lie| {
            let mut other = statement();
            change(&mut other);
            lie.kept.asked = Asked::Statement(Box::new(signed(other)));
        })
    };
    assert_eq!(restated(&|s| s.params = Json(json!({"n": 4}))), refused);
    assert_eq!(restated(&|s| s.plan.path = "/other".into()), refused);
    assert_eq!(restated(&|s| s.boot = BootId::new("boot_2").unwrap()), refused);
    assert_eq!(restated(&|s| s.agent = "other".parse().unwrap()), refused);
    assert_eq!(restated(&|s| s.tier = from(json!(2))), refused);
    assert_eq!(restated(&|s| s.policy.version = 2), refused);
    assert_eq!(restated(&|s| s.instance = Hash::ZERO), refused);
    // What the records do not say is bound by the answers' signatures.
    let unsigned = Problem::DisclosureApproval;
    assert_eq!(restated(&|s| s.user = "other".parse().unwrap()), unsigned);
    assert_eq!(restated(&|s| s.threshold = 1), unsigned);
    // Another hand than the log's key.
    let forged = Signed::by(&key(9), Label::Statement, statement()).unwrap();
    let forge = |lie: &mut Disclosure| {
        lie.kept.asked = Asked::Statement(Box::new(forged.clone()));
    };
    assert_eq!(changed(&forge), refused);
    // No record of it, or none that commits to anything.
    assert_eq!(held(&honest_one, &[]).unwrap_err(), refused);
    let mut silent = record(RecordKind::Ended, &honest_one);
    (silent.about.params, silent.about.plan) = (None, None);
    assert_eq!(held(&honest_one, &[silent]).unwrap_err(), refused);
}

/// Records whose hash was made of answers that do not count: what a wrong enclave would sign.
#[test]
fn answers_that_do_not_count_are_refused() {
    let yes = Verdict::Approve;
    let with = |evidence: Vec<Evidence>, end: RecordKind| {
        let lie = disclosure(signed(statement()), Some(evidence));
        held(&lie, &honest(&lie, end)).map(|_| ())
    };
    let (anna, ben) = (answer("anna", 10, yes, &statement()), answer("ben", 11, yes, &statement()));
    assert_eq!(with(vec![anna.clone(), ben.clone()], RecordKind::Approved), Ok(()));
    let refused = Err(Problem::DisclosureApproval);
    let approved = |evidence: Vec<Evidence>| with(evidence, RecordKind::Approved);
    assert_eq!(approved(vec![anna.clone()]), refused, "too few");
    assert_eq!(approved(vec![anna.clone(), anna.clone()]), refused, "one person twice");
    let clara = answer("clara", 12, yes, &statement());
    assert_eq!(approved(vec![anna.clone(), clara]), refused, "nobody asked her");
    let other_key = answer("ben", 10, yes, &statement());
    assert_eq!(approved(vec![anna.clone(), other_key]), refused, "not his key");
    let no = answer("ben", 11, Verdict::Deny, &statement());
    assert_eq!(approved(vec![anna.clone(), no.clone()]), refused, "a no");
    let turned = Evidence { verdict: yes, ..no.clone() };
    assert_eq!(approved(vec![anna.clone(), turned]), refused, "a no that is called a yes");
    let elsewhere = Evidence { action_id: ActionId::new("act_2").unwrap(), ..ben.clone() };
    assert_eq!(approved(vec![anna.clone(), elsewhere]), refused, "for another action");
    assert_eq!(with(vec![no], RecordKind::Denied), Ok(()));
    assert_eq!(with(vec![anna, ben], RecordKind::Denied), refused, "yes is no denial");
}

#[test]
fn a_file_is_of_the_action_that_its_name_says() {
    let bytes = canonical::encode(&approved()).unwrap();
    let named = |id| FileKind::Disclosure(ActionId::new(id).unwrap());
    assert!(read(&bytes, &named("act_1")).is_ok());
    assert_eq!(read(&bytes, &named("act_2")).unwrap_err(), Problem::Disclosure);
    assert_eq!(read(b"{}", &named("act_1")).unwrap_err(), Problem::Disclosure);
}
