//! The agent tries to get more than the policy gives it.

use serde_json::{Value, json};
use toani_protocol::{
    Reason, TenantId, canonical,
    policy::api_key_hash,
    request::{ActionRequest, AgentProof},
    sign::{self, Label, PublicKey},
    wire::{ActionState, Answer, Command},
};

use crate::world::*;

/// Sends bytes that the agent itself signed.
fn send(world: &mut World, request: Vec<u8>) -> Result<Answer, Reason> {
    let proof = AgentProof::Signature(sign::sign(&agent(), Label::Request, &request));
    world.call(Command::Execute { token: None, request, proof })
}

fn read(world: &World, params: Value) -> ActionRequest {
    world.request("read_balance", params, "k1")
}

#[test]
fn a_path_stays_where_the_template_puts_it() {
    let mut world = World::new();
    for (i, (account, path)) in [
        ("../../transfers", "/v1/accounts/..%2F..%2Ftransfers/balance"),
        ("..%2f..%2ftransfers", "/v1/accounts/..%252f..%252ftransfers/balance"),
        ("x?to=y", "/v1/accounts/x%3Fto%3Dy/balance"),
        ("x#", "/v1/accounts/x%23/balance"),
        ("x;y=z", "/v1/accounts/x%3By%3Dz/balance"),
        ("x\\..\\y", "/v1/accounts/x%5C..%5Cy/balance"),
        ("https://evil.example/", "/v1/accounts/https%3A%2F%2Fevil.example%2F/balance"),
        ("@evil.example", "/v1/accounts/%40evil.example/balance"),
        ("...", "/v1/accounts/.../balance"),
        ("\u{ff0e}\u{ff0e}", "/v1/accounts/%EF%BC%8E%EF%BC%8E/balance"),
    ]
    .into_iter()
    .enumerate()
    {
        let request = world.request("read_balance", json!({"account": account}), &format!("k{i}"));
        let redeemed = world.redeem(None, &request).unwrap();
        world.durable();
        let job = world.release(&redeemed.execution).unwrap();
        let plan: Value = serde_json::from_slice(&job.job.plan).unwrap();
        assert_eq!(plan["path"], path);
        assert_eq!(plan["endpoint"]["host"], "api.broker.example");
    }
}

#[test]
fn what_cannot_stand_in_a_path_is_refused() {
    let mut world = World::new();
    for bad in ["", ".", "..", "a\r\nHost: evil", "a\nb", "a\0b", "\u{7f}", "\u{85}"] {
        let request = read(&world, json!({ "account": bad }));
        assert_eq!(world.execute(None, &request), Err(Reason::ParamsUnrenderable), "{bad:?}");
    }
}

#[test]
fn params_are_closed_and_typed() {
    let mut world = World::new();
    for bad in [
        json!({}),
        json!({"account": "x", "extra": 1}),
        json!({"account": 1}),
        json!({"account": null}),
        json!({"account": ["x"]}),
        json!({"account": {"$param": "account"}}),
        json!({"account": "x".repeat(1025)}),
        json!({"Account": "x"}),
    ] {
        let request = read(&world, bad.clone());
        assert_eq!(world.execute(None, &request), Err(Reason::ParamsInvalid), "{bad}");
    }
    for bad in [json!(-1), json!(1.5), json!("1"), json!(1001), json!(true)] {
        let request = world.request("move", json!({ "amount": bad }), "k1");
        assert_eq!(world.decide(&request).unwrap_err(), Reason::ParamsInvalid, "{bad}");
    }
}

#[test]
fn only_one_reading_of_a_request_is_read() {
    let mut world = World::new();
    let honest = canonical::encode(&read(&world, json!({"account": "x"}))).unwrap();
    let text = String::from_utf8(honest.clone()).unwrap();
    let edit = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1).into_bytes()
    };
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    for (what, bytes) in [
        ("an unsafe integer", edit("\"x\"", "9007199254740993")),
        ("a key twice", edit("{\"account\":\"x\"}", "{\"account\":\"x\",\"account\":\"y\"}")),
        (
            "a field twice",
            edit("\"agent\":\"trader\"", "\"agent\":\"trader\",\"agent\":\"simple\""),
        ),
        ("a field more", edit("\"agent\":\"trader\"", "\"admin\":true,\"agent\":\"trader\"")),
        ("white space", edit(",\"agent\"", ", \"agent\"")),
        ("an escape", edit("\"x\"", "\"\\u0078\"")),
        ("another order", edit("\"agent\":\"trader\",", "").into_iter().collect()),
        ("deep nesting", edit("\"x\"", &deep)),
        ("not a number", edit("\"x\"", "NaN")),
        ("a huge number", edit("\"x\"", "1e400")),
        ("a wrong time", edit("2026-", "2026x")),
        ("something behind", [honest.as_slice(), b" "].concat()),
        ("a byte order mark", [b"\xef\xbb\xbf", honest.as_slice()].concat()),
        ("no UTF-8", [honest.as_slice(), b"\xff"].concat()),
        ("nothing", vec![]),
        ("too much", vec![b' '; 70_000]),
    ] {
        assert_eq!(send(&mut world, bytes), Err(Reason::RequestMalformed), "{what}");
    }
    assert!(send(&mut world, honest).is_ok());
}

#[test]
fn a_request_is_for_one_place_and_time() {
    let mut world = World::new();
    let good = read(&world, json!({"account": "x"}));
    let hour = 60 * 60 * 1000;
    let now = world.now;
    for (bad, reason) in [
        (
            ActionRequest { instance: toani_protocol::Hash::ZERO, ..good.clone() },
            Reason::RequestInstance,
        ),
        (ActionRequest { boot: "boot_x".parse().unwrap(), ..good.clone() }, Reason::RequestBoot),
        (ActionRequest { expires_at: now.plus_ms(hour + 1), ..good.clone() }, Reason::RequestLife),
        (ActionRequest { expires_at: now, ..good.clone() }, Reason::RequestLife),
        (
            ActionRequest {
                issued_at: now.plus_ms(31_000),
                expires_at: now.plus_ms(90_000),
                ..good.clone()
            },
            Reason::RequestNotYetValid,
        ),
    ] {
        assert_eq!(world.execute(None, &bad), Err(reason));
    }
    world.now = now.plus_ms(60_000);
    assert_eq!(world.execute(None, &good), Err(Reason::RequestExpired));
}

#[test]
fn nobody_asks_for_what_the_policy_does_not_list() {
    let mut world = World::new();
    let good = read(&world, json!({"account": "x"}));
    let stranger = TenantId::of_first_key(&PublicKey::of(&agent()));
    for (bad, reason) in [
        (
            ActionRequest { service: "bank".parse().unwrap(), ..good.clone() },
            Reason::ServiceUnknown,
        ),
        (ActionRequest { action: "sell".parse().unwrap(), ..good.clone() }, Reason::ActionUnknown),
        (ActionRequest { agent: "other".parse().unwrap(), ..good.clone() }, Reason::AgentUnknown),
        (ActionRequest { agent: "simple".parse().unwrap(), ..good.clone() }, Reason::AgentProof),
        (ActionRequest { tenant: stranger, ..good.clone() }, Reason::TenantUnknown),
    ] {
        assert_eq!(world.execute(None, &bad), Err(reason));
    }
    assert!(matches!(world.execute(None, &good), Ok(Answer::Redeemed(_))));
}

#[test]
fn a_tier_above_0_needs_its_token() {
    let mut world = World::new();
    let request = world.request("move", json!({"amount": 1}), "k1");
    assert_eq!(world.execute(None, &request), Err(Reason::TokenRequired));
    let action = world.decide(&request).unwrap().action;
    assert_eq!(world.execute(None, &request), Err(Reason::TokenRequired), "while it waits");
    assert_eq!(world.execute(Some(action.as_str()), &request), Err(Reason::TokenInvalid));
}

#[test]
fn a_token_is_for_one_request() {
    let mut world = World::new();
    let (request, token) = world.approved(3, "k1").unwrap();
    let params = |symbol: &str, quantity: u64| json!({"symbol": symbol, "quantity": quantity});
    for other in [
        world.request("buy_stock", params("ACME", 4), "k1"),
        world.request("buy_stock", params("INIT", 3), "k1"),
        world.request("buy_stock", params("ACME", 3), "k2"),
        world.request("read_balance", json!({"account": "x"}), "k3"),
        ActionRequest {
            user: "someone".parse().unwrap(),
            ..world.request("buy_stock", params("ACME", 3), "k1")
        },
    ] {
        assert_eq!(world.execute(Some(&token), &other), Err(Reason::TokenMismatch));
    }
    assert!(matches!(world.execute(Some(&token), &request), Ok(Answer::Redeemed(_))));
    let again = world.request("buy_stock", params("ACME", 3), "k9");
    assert_eq!(world.execute(Some(&token), &again), Err(Reason::TokenUsed));
}

#[test]
fn another_agents_token_does_not_open() {
    let mut world = World::new();
    let mut document = policy_document(2);
    document["agents"]["second"] =
        json!({"key": {"api_key": api_key_hash(b"tk_second")}, "behind": []});
    world.activate(document).unwrap();
    let (request, token) = world.approved(3, "k1").unwrap();
    for (name, key) in [("second", "tk_second"), ("simple", "tk_simple")] {
        let stolen = ActionRequest { agent: name.parse().unwrap(), ..request.clone() };
        let execute = Command::Execute {
            token: Some(token.clone()),
            request: canonical::encode(&stolen).unwrap(),
            proof: AgentProof::ApiKey(key.into()),
        };
        assert_eq!(world.call(execute), Err(Reason::TokenInvalid));
    }
}

#[test]
fn an_altered_token_does_not_open() {
    let mut world = World::new();
    // Each refusal counts against the agent's budget, so that a minute passes between some.
    let (request, token) = world.approved(3, "k1").unwrap();
    let places: Vec<usize> = (0..token.len()).step_by(token.len() / 60).collect();
    for (i, at) in places.into_iter().enumerate() {
        if i % 15 == 14 {
            world.now = world.now.plus_ms(61_000);
            world.ok(Command::Tick);
        }
        let mut altered = token.clone().into_bytes();
        altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
        let altered = String::from_utf8(altered).unwrap();
        let fresh = world.request("buy_stock", request.params.0.clone(), "k1");
        assert_eq!(world.execute(Some(&altered), &fresh), Err(Reason::TokenInvalid), "byte {at}");
    }
    let fresh = world.request("buy_stock", request.params.0.clone(), "k1");
    let public = token.replacen("v4.local.", "v4.public.", 1);
    let bare = token.rsplit_once('.').unwrap().0.to_owned();
    for bad in ["", "v4.local.", public.as_str(), bare.as_str(), &"v4.local.A".repeat(2000)] {
        assert_eq!(world.execute(Some(bad), &fresh), Err(Reason::TokenInvalid));
    }
    assert!(matches!(world.execute(Some(&token), &fresh), Ok(Answer::Redeemed(_))));
}

/// What happens between a token's issue and its use.
fn meanwhile(change: impl Fn(&mut World)) -> Reason {
    let mut world = World::new();
    let (request, token) = world.approved(3, "k1").unwrap();
    change(&mut world);
    let fresh = world.request("buy_stock", request.params.0, "k1");
    world.execute(Some(&token), &fresh).unwrap_err()
}

#[test]
fn everything_is_checked_again_when_a_token_is_redeemed() {
    let credential = |world: &World| {
        let header = world.credential_header(1);
        (header.namespace, header.owner, header.id)
    };
    let expires = |world: &mut World| world.now = world.now.plus_ms(15 * 60_000);
    assert_eq!(meanwhile(expires), Reason::TokenExpired);
    let changed = |world: &mut World| drop(world.activate(policy_document(2)).unwrap());
    assert_eq!(meanwhile(changed), Reason::PolicyChanged);
    let revoked = |world: &mut World| {
        let policy = "brokerage".parse().unwrap();
        world.ok(Command::RevokePolicy { tenant: tenant(), policy });
    };
    assert_eq!(meanwhile(revoked), Reason::PolicyRevoked);
    let rotated = |world: &mut World| drop(world.ok(world.credential(2, "another")));
    assert_eq!(meanwhile(rotated), Reason::CredentialChanged);
    let withdrawn = |world: &mut World| {
        let (namespace, owner, id) = credential(world);
        world.ok(Command::RevokeCredential { tenant: tenant(), namespace, owner, id });
    };
    assert_eq!(meanwhile(withdrawn), Reason::CredentialRevoked);
    let dismissed = |world: &mut World| {
        world.ok(Command::RevokeAgent { tenant: tenant(), agent: "trader".parse().unwrap() });
    };
    assert_eq!(meanwhile(dismissed), Reason::AgentRevoked);
    let raised = |world: &mut World| {
        let mut document = policy_document(2);
        document["services"]["broker"]["actions"]["buy_stock"]["approval"]["threshold"] = json!(2);
        document["services"]["broker"]["actions"]["read_balance"]["tier"] = json!(0);
        world.activate(document).unwrap();
    };
    assert_eq!(meanwhile(raised), Reason::PolicyChanged);
    let token_revoked = |world: &mut World| {
        let action = world.records().into_iter().rev().find_map(|record| record.about.action_id);
        world.ok(Command::RevokeToken { tenant: tenant(), action: action.unwrap() });
    };
    assert_eq!(meanwhile(token_revoked), Reason::TokenRevoked);
    let used_up = |world: &mut World| {
        for key in ["a", "b"] {
            let (request, token) = world.approved(74, key).unwrap();
            world.redeem(Some(&token), &request).unwrap();
        }
    };
    assert_eq!(meanwhile(used_up), Reason::QuotaExceeded);
    let unplugged = |world: &mut World| drop(world.ok(Command::DisconnectSandbox));
    assert_eq!(meanwhile(unplugged), Reason::SandboxUnavailable);
}

#[test]
fn a_token_ends_with_its_policy() {
    let mut world = World::new();
    let mut document = policy_document(2);
    document["expires"] = json!(world.now.plus_ms(120_000));
    world.activate(document).unwrap();
    let (request, token) = world.approved(3, "k1").unwrap();
    world.now = world.now.plus_ms(120_000);
    let fresh = world.request("buy_stock", request.params.0, "k1");
    assert_eq!(world.execute(Some(&token), &fresh), Err(Reason::TokenExpired));
    assert_eq!(world.refusal("k2"), Reason::PolicyExpired);
}

#[test]
fn a_revoked_agent_comes_back_with_a_new_key_only() {
    let mut world = World::new();
    world.ok(Command::RevokeAgent { tenant: tenant(), agent: "trader".parse().unwrap() });
    assert_eq!(world.refusal("k1"), Reason::AgentRevoked);
    world.activate(policy_document(2)).unwrap();
    assert_eq!(world.refusal("k2"), Reason::AgentRevoked, "the same key in a new version");
    world.reboot();
    assert_eq!(world.refusal("k3"), Reason::AgentRevoked, "after a restart");
    let mut document = policy_document(3);
    document["agents"]["trader"]["key"] = json!({"ed25519": PublicKey::of(&signing_key(77))});
    world.activate(document).unwrap();
    assert_eq!(world.refusal("k4"), Reason::AgentProof, "the old key is nobody's");
    let request = world.request("read_balance", json!({"account": "x"}), "k5");
    let bytes = canonical::encode(&request).unwrap();
    let signature = sign::sign(&signing_key(77), Label::Request, &bytes);
    let proof = AgentProof::Signature(signature);
    let execute = Command::Execute { token: None, request: bytes, proof };
    assert!(matches!(world.call(execute), Ok(Answer::Redeemed(_))));
}

#[test]
fn one_key_is_one_intent() {
    let mut world = World::new();
    let params = |quantity: u64| json!({"symbol": "ACME", "quantity": quantity});
    let first = world.request("buy_stock", params(1), "k1");
    let action = world.decide(&first).unwrap().action;
    let other = world.request("buy_stock", params(2), "k1");
    assert_eq!(world.decide(&other).unwrap_err(), Reason::IdempotencyMismatch);
    assert_eq!(world.decide(&first).unwrap().action, action, "and the same again is the same");
    let pending = world.decide(&first).unwrap().state;
    assert!(matches!(pending, ActionState::Pending { approved: 0, .. }));
}

/// An execution that the host leaves open for a day does not end as the next one of its key.
#[test]
fn an_old_execution_does_not_answer_for_a_new_one() {
    let mut world = World::new();
    let old = world.started("k1");
    world.now = world.now.plus_ms(24 * 60 * 60 * 1000 + 1);
    let new = world.started("k1");
    assert_ne!(old.execution, new.execution);
    world.finish(&old.execution, None).unwrap();
    let request = world.request("read_balance", json!({"account": "x"}), "k1");
    let Ok(Answer::Earlier(earlier)) = world.execute(None, &request) else { panic!() };
    assert_eq!((earlier.execution, earlier.outcome), (new.execution, None), "it still runs");
}
