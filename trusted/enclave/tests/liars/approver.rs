//! The approver, or who would like to be one.

use p256::ecdsa::{Signature, signature::Signer};
use serde_json::json;
use sha2::{Digest, Sha256};
use toani_protocol::{
    ActionId, Reason,
    approval::{ApprovalProof, Evidence, Statement, Verdict},
    assurance::ApprovalLevel,
    canonical,
    policy::ApproverKey,
    request::ActionRequest,
    sign::{self, Bytes, Label, PublicKey},
    wire::{ApprovalStatus, Command},
};

use crate::world::*;

const REFUSED: Result<ApprovalStatus, Reason> = Err(Reason::ApprovalEvidence);

fn waiting(world: &mut World, action: &str, params: serde_json::Value) -> Statement {
    let request = world.request(action, params, "k1");
    let id = world.decide(&request).unwrap().action;
    world.statement(&id)
}

fn tier_2(world: &mut World) -> Statement {
    waiting(world, "buy_stock", json!({"symbol": "ACME", "quantity": 1}))
}

fn tier_1(world: &mut World) -> Statement {
    waiting(world, "move", json!({"amount": 5}))
}

#[test]
fn an_assertion_must_be_of_this_ceremony() {
    let mut world = World::new();
    let statement = tier_2(&mut world);
    let good = || Gesture::new(40, true);
    for (what, gesture) in [
        ("a registration", Gesture { kind: "webauthn.create", ..good() }),
        ("no type", Gesture { kind: "", ..good() }),
        ("another origin", Gesture { origin: "https://evil.example", ..good() }),
        ("a sub-domain", Gesture { origin: "https://x.approve.example", ..good() }),
        ("plain http", Gesture { origin: "http://approve.example", ..good() }),
        ("another port", Gesture { origin: "https://approve.example:8443", ..good() }),
        ("another rpId", Gesture { rp_id: "evil.example", ..good() }),
        ("cross-origin", Gesture { extra: ",\"crossOrigin\":true", ..good() }),
        ("cross-origin as text", Gesture { extra: ",\"crossOrigin\":\"false\"", ..good() }),
        ("framed", Gesture { extra: ",\"topOrigin\":\"https://evil.example\"", ..good() }),
        (
            "framed by itself",
            Gesture { extra: ",\"topOrigin\":\"https://approve.example\"", ..good() },
        ),
        (
            "the origin twice",
            Gesture { extra: ",\"origin\":\"https://approve.example\"", ..good() },
        ),
        ("the type twice", Gesture { extra: ",\"type\":\"webauthn.get\"", ..good() }),
        ("nobody present", Gesture { flags: 0x04, ..good() }),
        ("nobody verified", Gesture { flags: 0x01, ..good() }),
        ("no flag at all", Gesture { flags: 0x00, ..good() }),
        ("another key", Gesture { seed: 41, ..good() }),
        ("a key that calls itself hardware", Gesture { software: false, ..good() }),
    ] {
        let evidence = gesture.evidence("anna", &statement, Verdict::Approve);
        assert_eq!(world.approve(&evidence), REFUSED, "{what}");
    }
    let evidence = good().evidence("anna", &statement, Verdict::Approve);
    assert!(world.approve(&evidence).is_ok());
}

/// An assertion whose parts are put together by hand, well signed by anna's key.
fn assembled(statement: &Statement, client_data: String, data: Vec<u8>) -> Evidence {
    let message = [data.as_slice(), &Sha256::digest(client_data.as_bytes())].concat();
    let signature: Signature = passkey(40).sign(&message);
    let mut evidence = Gesture::new(40, true).evidence("anna", statement, Verdict::Approve);
    if let ApprovalProof::Webauthn(assertion) = &mut evidence.proof {
        assertion.client_data_json = Bytes(client_data.into_bytes());
        assertion.authenticator_data = Bytes(data);
        assertion.signature = Bytes(signature.to_der().as_bytes().to_vec());
    }
    evidence
}

fn client_data(challenge: &str) -> String {
    format!(
        "{{\"type\":\"webauthn.get\",\"challenge\":\"{challenge}\",\
         \"origin\":\"https://approve.example\"}}"
    )
}

fn authenticator_data(flags: u8, more: &[u8]) -> Vec<u8> {
    [&Sha256::digest(b"approve.example")[..], &[flags, 0, 0, 0, 1], more].concat()
}

fn challenge(statement: &Statement, verdict: Verdict) -> String {
    let hash = Statement::hash_of(&canonical::encode(statement).unwrap());
    data_encoding::BASE64URL_NOPAD.encode(verdict.challenge(&hash).as_bytes())
}

#[test]
fn an_assertion_must_be_over_this_statement() {
    let mut world = World::new();
    let statement = tier_2(&mut world);
    let own = challenge(&statement, Verdict::Approve);
    let other = Statement { threshold: 1, ..statement.clone() };
    let hash = Statement::hash_of(&canonical::encode(&statement).unwrap());
    for (what, text) in [
        ("another statement", challenge(&other, Verdict::Approve)),
        ("a denial", challenge(&statement, Verdict::Deny)),
        ("the bare hash", data_encoding::BASE64URL_NOPAD.encode(hash.as_bytes())),
        ("nothing", String::new()),
        ("padded", format!("{own}=")),
        ("another alphabet", own.to_ascii_uppercase()),
        ("cut short", own[..42].to_owned()),
    ] {
        let evidence = assembled(&statement, client_data(&text), authenticator_data(5, &[]));
        assert_eq!(world.approve(&evidence), REFUSED, "{what}");
    }
    let good = client_data(&own);
    for (what, text) in [
        ("no JSON", "x".to_owned()),
        ("a list", "[]".to_owned()),
        ("a byte order mark", format!("\u{feff}{good}")),
        ("something behind", format!("{good} x")),
        (
            "deep",
            format!("{},\"x\":{}1{}}}", &good[..good.len() - 1], "[".repeat(99), "]".repeat(99)),
        ),
    ] {
        let evidence = assembled(&statement, text, authenticator_data(5, &[]));
        assert_eq!(world.approve(&evidence), REFUSED, "{what}");
    }
    for (what, data) in [
        ("too short", authenticator_data(5, &[])[..36].to_vec()),
        ("empty", vec![]),
        ("something behind without a flag", authenticator_data(5, b"x")),
    ] {
        let evidence = assembled(&statement, good.clone(), data);
        assert_eq!(world.approve(&evidence), REFUSED, "{what}");
    }
    // Unknown members are allowed (Web Authentication, section 5.8.1), and extensions are signed.
    let more = format!("{},\"other_keys\":\"x\"}}", &good[..good.len() - 1]);
    let evidence = assembled(&statement, more, authenticator_data(0x85, b"\xa0"));
    assert!(world.approve(&evidence).is_ok());
}

#[test]
fn a_signature_is_der_and_whole() {
    let mut world = World::new();
    let statement = tier_2(&mut world);
    let good = Gesture::new(40, true).evidence("anna", &statement, Verdict::Approve);
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut evidence = good.clone();
        let ApprovalProof::Webauthn(assertion) = &mut evidence.proof else { panic!() };
        change(&mut assertion.signature.0);
        evidence
    };
    let raw = |der: &mut Vec<u8>| *der = Signature::from_der(der).unwrap().to_bytes().to_vec();
    for evidence in [
        changed(&raw),
        changed(&|der| der.push(0)),
        changed(&|der| der.insert(0, 0)),
        changed(&|der| der.clear()),
        changed(&|der| *der.last_mut().unwrap() ^= 1),
        // A length in the long form, which BER allows and DER does not.
        changed(&|der| der.insert(1, 0x81)),
        // A leading zero that r does not need.
        changed(&|der| {
            let (length, r) = (der[1], der[3]);
            der[1] = length + 1;
            der[3] = r + 1;
            der.insert(4, 0);
        }),
    ] {
        assert_eq!(world.approve(&evidence), REFUSED);
    }
    for at in 0..37 {
        let mut evidence = good.clone();
        let ApprovalProof::Webauthn(assertion) = &mut evidence.proof else { panic!() };
        assertion.authenticator_data.0[at] ^= 0x80;
        assert_eq!(world.approve(&evidence), REFUSED, "authenticator data, byte {at}");
    }
}

#[test]
fn an_ed25519_key_is_not_enough_for_tier_2() {
    let mut world = World::new();
    let mut document = policy_document(2);
    document["services"]["broker"]["actions"]["buy_stock"]["approval"]["approvers"] =
        json!(["anna", "ben", "clara"]);
    world.activate(document).unwrap();
    let statement = tier_2(&mut world);
    assert_eq!(statement.approvers.len(), 2, "clara is not even asked");
    let clara = key_evidence("clara", &clerk(), &statement, Verdict::Approve);
    assert_eq!(world.approve(&clara), REFUSED);
}

#[test]
fn user_verification_is_asked_for_at_tier_2_alone() {
    let mut world = World::new();
    let statement = tier_1(&mut world);
    let present = Gesture { flags: 0x01, ..Gesture::new(40, true) };
    let anna = present.evidence("anna", &statement, Verdict::Approve);
    assert_eq!(world.approve(&anna), Ok(ApprovalStatus::Approved));
}

#[test]
fn a_raised_tier_is_approved_as_such() {
    let mut world = World::new();
    let statement = waiting(&mut world, "move", json!({"amount": 500}));
    let clara = key_evidence("clara", &clerk(), &statement, Verdict::Approve);
    assert_eq!(world.approve(&clara), REFUSED);
    let present = Gesture { flags: 0x01, ..Gesture::new(40, true) };
    assert_eq!(world.approve(&present.evidence("anna", &statement, Verdict::Approve)), REFUSED);
}

#[test]
fn a_software_key_is_not_enough_where_a_passkey_is_asked_for() {
    let mut world = World::new();
    let mut document = policy_document(2);
    let buy = &mut document["services"]["broker"]["actions"]["buy_stock"];
    buy["least"] = json!({"approval": "passkey"});
    buy["approval"]["threshold"] = json!(1);
    world.activate(document).unwrap();
    let statement = tier_2(&mut world);
    let anna = Gesture::new(40, true).evidence("anna", &statement, Verdict::Approve);
    assert_eq!(world.approve(&anna), REFUSED);
    // Nor does it help to call the same key hardware.
    let anna = Gesture::new(40, false).evidence("anna", &statement, Verdict::Approve);
    assert_eq!(world.approve(&anna), REFUSED);
    let ben = Gesture::new(41, false).evidence("ben", &statement, Verdict::Approve);
    assert_eq!(world.approve(&ben), Ok(ApprovalStatus::Approved));
    assert_eq!(world.last_record().about.tier, Some(toani_protocol::policy::Tier::Two));
}

#[test]
fn only_those_who_are_asked_answer() {
    let mut world = World::new();
    let statement = tier_2(&mut world);
    // `dev` stands behind the agent, `clara` is not named for this action, `zoe` nowhere.
    for (seed, person) in [(43, "dev"), (41, "clara"), (41, "zoe"), (41, "anna")] {
        for verdict in [Verdict::Approve, Verdict::Deny] {
            let evidence = Gesture::new(seed, false).evidence(person, &statement, verdict);
            assert_eq!(world.approve(&evidence), REFUSED, "{person} {verdict:?}");
        }
    }
}

#[test]
fn the_claimed_user_does_not_approve_for_himself() {
    let mut world = World::new();
    let request = ActionRequest {
        user: "anna".parse().unwrap(),
        ..world.request("move", json!({"amount": 5}), "k1")
    };
    let action = world.decide(&request).unwrap().action;
    let statement = world.statement(&action);
    assert!(statement.approvers.iter().all(|person| person.as_str() != "anna"));
    let anna = Gesture::new(40, true).evidence("anna", &statement, Verdict::Approve);
    assert_eq!(world.approve(&anna), REFUSED);
    let buy = ActionRequest {
        user: "anna".parse().unwrap(),
        ..world.request("buy_stock", json!({"symbol": "ACME", "quantity": 1}), "k2")
    };
    assert_eq!(world.decide(&buy).unwrap_err(), Reason::ApproversInsufficient);
}

#[test]
fn one_person_with_two_keys_counts_once() {
    let mut world = World::new();
    let mut document = policy_document(2);
    document["persons"]["anna"]["keys"] = json!([passkey_entry(40, true), passkey_entry(44, true)]);
    world.activate(document).unwrap();
    let statement = tier_2(&mut world);
    let counted = Ok(ApprovalStatus::Counted { approved: 1, threshold: 2 });
    let first = Gesture::new(40, true).evidence("anna", &statement, Verdict::Approve);
    assert_eq!(world.approve(&first), counted);
    let second = Gesture::new(44, true).evidence("anna", &statement, Verdict::Approve);
    assert_eq!(world.approve(&second), Err(Reason::ApprovalTwice));
}

#[test]
fn two_persons_with_one_key_are_no_policy() {
    let mut world = World::new();
    // The same passkey, although one entry calls it software and the other does not.
    for key in [passkey_entry(40, true), passkey_entry(40, false)] {
        let mut document = policy_document(2);
        document["persons"]["ben"]["keys"] = json!([key]);
        assert_eq!(world.activate(document), Err(Reason::PolicyInvalid));
    }
    assert!(world.activate(policy_document(2)).is_ok());
}

#[test]
fn a_denial_is_never_an_approval() {
    let mut world = World::new();
    let statement = tier_1(&mut world);
    let no = key_evidence("clara", &clerk(), &statement, Verdict::Deny);
    let turned = Evidence { verdict: Verdict::Approve, ..no.clone() };
    assert_eq!(world.approve(&turned), REFUSED);
    let no_passkey = Gesture::new(40, true).evidence("anna", &statement, Verdict::Deny);
    let turned = Evidence { verdict: Verdict::Approve, ..no_passkey };
    assert_eq!(world.approve(&turned), REFUSED);
    // Nor the other way round, and no other kind of signature over the same hash is one.
    let yes = key_evidence("clara", &clerk(), &statement, Verdict::Approve);
    assert_eq!(world.approve(&Evidence { verdict: Verdict::Deny, ..yes.clone() }), REFUSED);
    let hash = Statement::hash_of(&canonical::encode(&statement).unwrap());
    for label in crate::labels::ALL.into_iter().filter(|label| *label != Label::Approve) {
        let proof = ApprovalProof::Ed25519(sign::sign(&clerk(), label, hash.as_bytes()));
        assert_eq!(world.approve(&Evidence { proof, ..yes.clone() }), REFUSED, "{label:?}");
    }
    assert_eq!(world.approve(&yes), Ok(ApprovalStatus::Approved));
}

#[test]
fn an_approval_of_one_action_is_none_of_another() {
    let mut world = World::new();
    let first = tier_1(&mut world);
    let request = world.request("move", json!({"amount": 6}), "k2");
    let second: ActionId = world.decide(&request).unwrap().action;
    let yes = key_evidence("clara", &clerk(), &first, Verdict::Approve);
    assert_eq!(world.approve(&Evidence { action_id: second, ..yes }), REFUSED);
}

#[test]
fn a_proof_goes_with_its_kind_of_key() {
    let mut world = World::new();
    let statement = tier_1(&mut world);
    let passkey = Gesture::new(40, true).evidence("anna", &statement, Verdict::Approve);
    let plain = key_evidence("clara", &clerk(), &statement, Verdict::Approve);
    let mixed = Evidence { proof: plain.proof.clone(), ..passkey.clone() };
    assert_eq!(world.approve(&mixed), REFUSED);
    let mixed = Evidence { proof: passkey.proof, ..plain.clone() };
    assert_eq!(world.approve(&mixed), REFUSED);
    let own = signing_key(66);
    let key = ApproverKey::Ed25519(PublicKey::of(&own));
    let strange = Evidence { key, ..key_evidence("clara", &own, &statement, Verdict::Approve) };
    assert_eq!(world.approve(&strange), REFUSED);
}

#[test]
fn the_weakest_approval_is_what_the_record_claims() {
    let mut world = World::new();
    let (request, token) = world.approved(1, "k1").unwrap();
    world.redeem(Some(&token), &request).unwrap();
    let claimed = world.last_record().about.assurance.unwrap().approval;
    assert_eq!(claimed, ApprovalLevel::Software, "anna's, although ben's is a passkey");
}

#[test]
fn an_approval_without_a_record_does_not_count() {
    let mut world = World::new();
    let statement = tier_2(&mut world);
    // The host makes nothing durable until the log has no room left.
    crate::floods::fill_log(&mut world);
    let anna = Gesture::new(40, true).evidence("anna", &statement, Verdict::Approve);
    assert_eq!(world.approve(&anna), Err(Reason::LogUnavailable));
    world.durable();
    let counted = ApprovalStatus::Counted { approved: 1, threshold: 2 };
    assert_eq!(world.approve(&anna), Ok(counted), "and not twice");
    world.ok(Command::Tick);
}
