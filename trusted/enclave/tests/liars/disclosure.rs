//! What is kept sealed opens the records' commitments, for its own action and as what it is.

use serde_json::json;
use toani_protocol::{
    ActionId, Hash, Reason,
    approval::{Evidence, Verdict},
    canonical,
    disclosure::{Asked, Kept, KeptEvidence, hitl_proof},
    plan::{Plan, params_commitment},
    record::{Record, RecordKind},
    wire::{Answer, Command},
};

use crate::world::*;

fn disclose(
    world: &mut World,
    action: &ActionId,
    kept: Hash,
    evidence: Option<Hash>,
) -> Result<(Kept, Option<KeptEvidence>), Reason> {
    let kept = world.blobs[&kept].clone();
    let evidence = evidence.map(|hash| world.blobs[&hash].clone());
    match world.call(Command::Disclose { action: action.clone(), kept, evidence })? {
        Answer::Disclosed { kept, evidence } => Ok((
            canonical::decode(&kept, usize::MAX).unwrap(),
            evidence.map(|bytes| canonical::decode(&bytes, usize::MAX).unwrap()),
        )),
        other => panic!("{other:?}"),
    }
}

fn of_kind(world: &World, kind: RecordKind) -> Record {
    world.records().into_iter().rfind(|record| record.kind == kind).unwrap()
}

fn opens(kept: &Kept, record: &Record) {
    let commitment = params_commitment(&kept.params_nonce, kept.params()).unwrap();
    assert_eq!(record.about.params, Some(commitment));
    let plan = Plan::hash_of(&canonical::encode(kept.plan()).unwrap());
    assert_eq!(record.about.plan, Some(plan));
}

#[test]
fn what_is_kept_opens_the_commitments_also_in_a_later_boot() {
    let mut world = World::new();
    world.started("direct");
    let direct = of_kind(&world, RecordKind::Started);
    let request = world.request("read_balance", json!({"account": "x"}), "allowed");
    world.decide(&request).unwrap();
    let allowed = of_kind(&world, RecordKind::Allowed);
    world.approved(3, "approved").unwrap();
    let (waiting, approved) =
        (of_kind(&world, RecordKind::Waiting), of_kind(&world, RecordKind::Approved));
    world.reboot();
    for record in [&direct, &allowed] {
        let action = record.about.action_id.as_ref().unwrap();
        let (kept, _) = disclose(&mut world, action, record.about.blob.unwrap(), None).unwrap();
        opens(&kept, record);
        assert_eq!(kept.params().0, json!({"account": "x"}));
    }
    let action = waiting.about.action_id.as_ref().unwrap();
    let (kept, evidence) =
        disclose(&mut world, action, waiting.about.blob.unwrap(), approved.about.blob).unwrap();
    opens(&kept, &waiting);
    opens(&kept, &approved);
    assert!(matches!(&kept.asked, Asked::Statement(signed) if signed.payload.action_id == *action));
    let evidence = evidence.unwrap();
    let proof = hitl_proof(&canonical::encode(&evidence).unwrap());
    assert_eq!(approved.about.hitl_proof, Some(proof));
    let said = |evidence: &Evidence| (evidence.person.to_string(), evidence.verdict);
    let expected = [("anna".to_owned(), Verdict::Approve), ("ben".to_owned(), Verdict::Approve)];
    assert_eq!(evidence.iter().map(said).collect::<Vec<_>>(), expected);

    // Each opens as what it is, for its own action, and whole.
    let (own, other) = (waiting.about.blob.unwrap(), allowed.about.action_id.as_ref().unwrap());
    let proof = approved.about.blob.unwrap();
    let refused = Err(Reason::ActionNotFound);
    assert_eq!(disclose(&mut world, other, own, None), refused, "another action's");
    assert_eq!(disclose(&mut world, action, proof, None), refused, "evidence as params");
    assert_eq!(disclose(&mut world, action, own, Some(own)), refused, "params as evidence");
    let at = world.blobs[&own].len() / 2;
    world.blobs.get_mut(&own).unwrap()[at] ^= 1;
    assert_eq!(disclose(&mut world, action, own, None), refused, "altered");
}

/// A result belongs to its agent alone, and a credential to nobody.
#[test]
fn nothing_else_that_is_kept_is_disclosed() {
    let mut world = World::new();
    let redeemed = world.started("k1");
    world.run(&redeemed, &answered(200, json!({"balance": 7})));
    let kept = of_kind(&world, RecordKind::Started).about.blob.unwrap();
    for hash in world.blobs.keys().copied().collect::<Vec<_>>() {
        let opened = disclose(&mut world, &redeemed.action, hash, None);
        assert_eq!(opened.is_ok(), hash == kept);
    }
}
