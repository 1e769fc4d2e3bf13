//! The host lies about where the root is to go, and where it comes from.

use ed25519_dalek::SigningKey;
use serde_json::json;
use toani_enclave::Enclave;
use toani_protocol::{
    Hash, Reason, canonical,
    hand_over::{HandOver, HandOverFormat, RootPackage, RootRequest, RootRequestFormat},
    instance::{AdmissionList, Manifest},
    record::RecordKind,
    sign::{Bytes, Label, PublicKey, Signed},
    wire::{Answer, Command},
};
use toani_simulator::{Level, Platform, Publication};

use crate::world::*;

const ELSEWHERE: [u8; 32] = [8; 32];
const HOUR_MS: u64 = 3_600_000;

/// A second host, with a copy of the first one's data and another enclave.
fn other_host(world: &World, enclave: Enclave) -> World {
    World { enclave, sealed_root: vec![], ..World::with_log(world, world.log.clone()) }
}

/// An enclave that has asked: its host, the request, and its sealed key.
struct Asking {
    host: World,
    request: RootRequest,
    sealed_key: Vec<u8>,
}

fn asks(world: &World, machine: Machine) -> Asking {
    asks_shown(world, machine, &Platform::number(2))
}

fn asks_shown(world: &World, machine: Machine, platform: &Platform) -> Asking {
    let mut host = other_host(world, Enclave::new(Box::new(machine)));
    let ask = Command::AskRoot { manifest: host.manifest.clone(), target: quoting_target() };
    let Answer::RootAsked { key, report, sealed_key } = host.ok(ask) else { panic!() };
    let evidence = Bytes(encoded(quoted(platform, &report, host.now)));
    let (format, key) = (RootRequestFormat::V1, Bytes(key.to_vec()));
    let instance = Manifest::id_of(&host.manifest);
    Asking { request: RootRequest { format, instance, key, evidence }, host, sealed_key }
}

/// The next image, on another machine.
fn successor(world: &World) -> Asking {
    asks(world, Machine::new(ELSEWHERE, NEXT))
}

impl Asking {
    fn statement(&self, counter: u64) -> HandOver {
        HandOver {
            format: HandOverFormat::V1,
            instance: self.request.instance,
            counter,
            from: MEASUREMENT,
            to: NEXT,
            min_isv_svn: 1,
            key: self.request.key.clone(),
            expires_at: self.host.now.plus_ms(HOUR_MS),
        }
    }

    /// Takes a package, and what the giver's log has become.
    fn take(&mut self, world: &World, package: &[u8]) -> Result<(), Reason> {
        let manifest = self.host.manifest.clone();
        let (sealed_key, package) = (self.sealed_key.clone(), package.to_vec());
        match self.host.call(Command::TakeRoot { manifest, sealed_key, package })? {
            Answer::Born { sealed_root } => self.host.sealed_root = sealed_root,
            other => panic!("{other:?}"),
        }
        self.host.log.clone_from(&world.log);
        self.host.blobs.clone_from(&world.blobs);
        self.host.salts.clone_from(&world.salts);
        Ok(())
    }
}

fn signed_by(keys: &[SigningKey], statement: &HandOver) -> Vec<u8> {
    let signed = keys.iter().map(|key| Signed::by(key, Label::HandOver, statement.clone()));
    let all = signed.map(Result::unwrap).reduce(|mut all, one| {
        all.signatures.extend(one.signatures);
        all
    });
    canonical::encode(&all.unwrap()).unwrap()
}

fn signed(statement: &HandOver) -> Vec<u8> {
    signed_by(&[operator()], statement)
}

/// A new life of the giver, whose log has been replayed.
fn replayed(world: &World) -> World {
    let mut host = World::with_log(world, world.log.clone());
    host.boot().unwrap();
    let leaves = host.log.clone();
    host.ok(Command::Replay { leaves });
    host.ok(Command::ReplayEnd);
    host
}

fn give(host: &mut World, statement: Vec<u8>, request: &RootRequest) -> Result<Vec<u8>, Reason> {
    let request = canonical::encode(request).unwrap();
    match host.call(Command::GiveRoot { statement, request })? {
        Answer::RootGiven { package } => Ok(package),
        other => panic!("{other:?}"),
    }
}

/// An honest hand-over up to the package: the giver's host, who asked, and the package.
fn given(world: &World) -> (World, Asking, Vec<u8>) {
    let asking = successor(world);
    let mut giver = replayed(world);
    let package = give(&mut giver, signed(&asking.statement(1)), &asking.request).unwrap();
    giver.durable();
    (giver, asking, package)
}

/// A statement that is signed under this label.
pub(crate) fn given_under(label: Label) -> Result<(), Reason> {
    let world = World::born();
    let asking = successor(&world);
    let statement = Signed::by(&operator(), label, asking.statement(1)).unwrap();
    let statement = canonical::encode(&statement).unwrap();
    give(&mut replayed(&world), statement, &asking.request).map(drop)
}

/// Boots a host's enclave from what it keeps.
fn boots(host: &mut World, enclave: Enclave) -> Result<(), Reason> {
    host.enclave = enclave;
    host.boot()?;
    let leaves = host.log.clone();
    host.call(Command::Replay { leaves })?;
    host.try_finish_boot()
}

#[test]
fn an_instance_goes_on_in_another_image_on_another_machine() {
    let mut world = World::new();
    let redeemed = world.started("before");
    world.run(&redeemed, &answered(200, json!({"balance": 1})));
    let (request, token) = world.approved(1, "never-redeemed").unwrap();
    let (giver, mut asking, package) = given(&world);
    let last = giver.last_record();
    assert_eq!((last.kind, last.about.count), (RecordKind::HandedOver, Some(1)));
    assert_eq!(last.about.blob, Some(Hash::of(&package)), "the record names the package");
    assert_eq!(giver.blobs.get(&Hash::of(&package)), Some(&package), "and the store has it");

    asking.take(&giver, &package).unwrap();
    let mut next = asking.host;
    boots(&mut next, cold(ELSEWHERE, NEXT)).unwrap();
    let (facts, before) = (next.facts().clone(), world.facts().clone());
    assert_eq!((facts.mrenclave, facts.hand_overs), (NEXT, 1));
    assert_eq!((facts.chain_key, facts.intake_key), (before.chain_key, before.intake_key));
    next.ok(admit(AdmissionList { enclaves: vec![NEXT], ..next.admission_list(2) }));
    next.connect();
    assert!(next.execute(Some(&token), &request).is_err(), "a token is of its boot");
    let redeemed = next.started("after");
    next.run(&redeemed, &answered(200, json!({"balance": 2})));
    assert!(next.transcript.windows(SECRET.len()).all(|part| part != SECRET.as_bytes()));
    boots(&mut next, cold(ELSEWHERE, NEXT)).unwrap();

    // And on to a third, from the second.
    let third = asks(&next, Machine::new([9; 32], NEXT));
    let mut second = other_host(&next, cold(ELSEWHERE, NEXT));
    second.sealed_root.clone_from(&next.sealed_root);
    second.boot().unwrap();
    second.ok(Command::Replay { leaves: next.log.clone() });
    second.ok(Command::ReplayEnd);
    let statement = HandOver { from: NEXT, ..third.statement(2) };
    give(&mut second, signed(&statement), &third.request).unwrap();
}

#[test]
fn who_has_given_its_root_away_does_nothing_more() {
    let (mut giver, asking, _) = given(&World::new());
    let statement = signed(&asking.statement(2));
    assert_eq!(give(&mut giver, statement, &asking.request), Err(Reason::NotReady));
    assert_eq!(giver.refusal("k"), Reason::NotReady);
    assert_eq!(giver.call(Command::Tick), Err(Reason::NotReady));
    assert_eq!(giver.try_reboot(), Err(Reason::HandedOver));
    assert_eq!(giver.call(Command::Tick), Err(Reason::NotReady));
}

#[test]
fn a_statement_is_good_once_and_in_its_order() {
    let world = World::new();
    let (giver, asking, _) = given(&world);
    let again = |counter| {
        let mut giver = replayed(&giver);
        give(&mut giver, signed(&asking.statement(counter)), &asking.request)
    };
    for counter in [0, 1, 3, 1 << 52] {
        assert_eq!(again(counter), Err(Reason::HandOverRefused), "{counter}");
    }
    // Who was to take the root is lost: the operators allow another hand-over.
    assert!(again(2).is_ok());
    let mut first = replayed(&world);
    let early = give(&mut first, signed(&asking.statement(2)), &asking.request);
    assert_eq!(early, Err(Reason::HandOverRefused), "the second before the first");
    assert!(give(&mut first, signed(&asking.statement(1)), &asking.request).is_ok());
}

#[test]
fn no_root_leaves_but_by_the_operators_word() {
    let world = World::new();
    let asking = successor(&world);
    let honest = asking.statement(1);
    let mut giver = replayed(&world);
    let mut refused = |statement: Vec<u8>, reason| {
        assert_eq!(give(&mut giver, statement, &asking.request), Err(reason));
    };
    refused(signed_by(&[signing_key(99)], &honest), Reason::DocumentSignature);
    refused(signed_by(&[operator(), signing_key(99)], &honest), Reason::DocumentSignature);
    let mut altered: Signed<HandOver> = canonical::decode(&signed(&honest), 4096).unwrap();
    altered.payload.min_isv_svn = 0;
    refused(canonical::encode(&altered).unwrap(), Reason::DocumentSignature);
    refused(b"{}".to_vec(), Reason::DocumentMalformed);
    let other = Hash::of(b"other");
    for lie in [
        HandOver { instance: other, ..honest.clone() },
        HandOver { from: NEXT, ..honest.clone() },
        HandOver { to: MEASUREMENT, ..honest.clone() },
        HandOver { min_isv_svn: 2, ..honest.clone() },
        HandOver { key: Bytes(vec![7; 32]), ..honest.clone() },
        HandOver { expires_at: world.now, ..honest.clone() },
    ] {
        refused(signed(&lie), Reason::HandOverRefused);
    }
    assert!(give(&mut giver, signed(&honest), &asking.request).is_ok());
}

/// The host's clock does not make an old statement young: the log has a time of its own.
#[test]
fn a_stale_statement_stays_stale() {
    let mut world = World::new();
    let asking = successor(&world);
    world.now = world.now.plus_ms(2 * HOUR_MS);
    world.record().unwrap();
    world.now = asking.host.now;
    let stale = give(&mut replayed(&world), signed(&asking.statement(1)), &asking.request);
    assert_eq!(stale, Err(Reason::HandOverRefused));
}

#[test]
fn fewer_operators_than_the_quorum_allow_nothing() {
    let keys = [operator(), signing_key(90), signing_key(91)];
    let operators = keys.iter().map(PublicKey::of).collect();
    let manifest = Manifest { operators, quorum: 2, ..manifest() };
    let manifest = canonical::encode(&manifest).unwrap();
    let enclave = cold([7; 32], MEASUREMENT);
    let mut world = World { enclave, log: vec![], manifest, ..World::born() };
    let Ok(Answer::Born { sealed_root }) = world.birth(world.manifest.clone()) else { panic!() };
    world.sealed_root = sealed_root;
    world.try_finish_boot().unwrap();
    let (asking, mut giver) = (successor(&world), replayed(&world));
    let honest = asking.statement(1);
    for few in [&keys[..1], &[keys[1].clone(), keys[1].clone()]] {
        let refused = give(&mut giver, signed_by(few, &honest), &asking.request);
        assert_eq!(refused, Err(Reason::DocumentSignature));
    }
    assert!(give(&mut giver, signed_by(&keys[1..], &honest), &asking.request).is_ok());
}

/// The operators have signed; what asks is something else, or shows something else.
#[test]
fn a_root_goes_to_an_attested_enclave_alone() {
    let world = World::new();
    let sound = Platform::number(2);
    let outdated = Platform { level: Level::Outdated, ..sound.clone() };
    for asking in [
        asks(&world, Machine::new(ELSEWHERE, NEXT).debugged()),
        asks_shown(&world, Machine::new(ELSEWHERE, NEXT), &outdated),
    ] {
        let statement = signed(&asking.statement(1));
        let refused = give(&mut replayed(&world), statement, &asking.request);
        assert_eq!(refused, Err(Reason::EvidenceRefused));
    }
    let (asking, mut giver) = (successor(&world), replayed(&world));
    let statement = signed(&asking.statement(1));
    // Somebody's own key, under a quote for another one; the statement names it, signed unseen.
    let own = Bytes(vec![9; 32]);
    let for_own = signed(&HandOver { key: own.clone(), ..asking.statement(1) });
    let substituted = RootRequest { key: own, ..asking.request.clone() };
    assert_eq!(give(&mut giver, for_own, &substituted), Err(Reason::EvidenceRefused));
    let boot = Bytes(world.facts().evidence.clone());
    for (request, reason) in [
        (RootRequest { evidence: boot, ..asking.request.clone() }, Reason::EvidenceRefused),
        (
            RootRequest { evidence: Bytes(vec![]), ..asking.request.clone() },
            Reason::EvidenceRefused,
        ),
        (RootRequest { instance: Hash::ZERO, ..asking.request.clone() }, Reason::HandOverRefused),
    ] {
        assert_eq!(give(&mut giver, statement.clone(), &request), Err(reason));
    }
    giver.now = giver.now.plus_ms(40 * 24 * HOUR_MS);
    let later = HandOver { expires_at: giver.now.plus_ms(1), ..asking.statement(1) };
    let refused = give(&mut giver, signed(&later), &asking.request);
    assert_eq!(refused, Err(Reason::EvidenceRefused), "collateral has its time");
}

/// What was revoked by collateral that the giver has seen is not un-revoked for who asks.
#[test]
fn older_collateral_vouches_for_no_successor() {
    let mut world = World::born();
    let numbered = |report: &[u8], now, platform: &Platform, number| {
        let mut evidence = quoted(platform, report, now);
        let about = Publication::about(platform, now);
        let published = Publication { tcb_eval_data_number: number, ..about };
        evidence.collateral = authority().collateral(&published).unwrap();
        encoded(evidence)
    };
    let mut next = World::with_log(&world, world.log.clone());
    let (manifest, sealed_root) = (next.manifest.clone(), next.sealed_root.clone());
    let boot = Command::Boot { manifest, sealed_root, target: quoting_target() };
    let report = next.report(boot).unwrap();
    let evidence = numbered(&report, next.now, &Platform::number(1), 30);
    next.ok(Command::Prove { evidence });
    next.ok(Command::Replay { leaves: world.log.clone() });
    next.try_finish_boot().unwrap();
    world.log.clone_from(&next.log);
    let asking = successor(&world);
    let mut giver = World::with_log(&world, world.log.clone());
    let (manifest, sealed_root) = (giver.manifest.clone(), giver.sealed_root.clone());
    let boot = Command::Boot { manifest, sealed_root, target: quoting_target() };
    let report = giver.report(boot).unwrap();
    let evidence = numbered(&report, giver.now, &Platform::number(1), 30);
    giver.ok(Command::Prove { evidence });
    giver.ok(Command::Replay { leaves: world.log.clone() });
    giver.ok(Command::ReplayEnd);
    let refused = give(&mut giver, signed(&asking.statement(1)), &asking.request);
    assert_eq!(refused, Err(Reason::EvidenceRefused));
}

#[test]
fn a_root_comes_from_the_instance_alone() {
    let world = World::new();
    let (giver, mut asking, honest) = given(&world);
    let mut taken = |change: &dyn Fn(&mut RootPackage)| {
        let mut package = RootPackage::decode(&honest).unwrap();
        change(&mut package);
        asking.take(&giver, &canonical::encode(&package).unwrap())
    };
    assert_eq!(taken(&|_| {}), Ok(()), "the honest one is taken");
    // A root of the host's own making, well sealed to the key that stands in the open.
    let forged = |package: &mut RootPackage| {
        let aad = package.statement.payload.aad().unwrap();
        let (encapsulated, ciphertext) = seal_root(&package.statement.payload.key, &aad, &[6; 32]);
        (package.encapsulated, package.ciphertext) = (encapsulated, ciphertext);
    };
    assert_eq!(taken(&forged), Err(Reason::HandOverRefused));
    // The same, with the chain key that would fit: no evidence vouches for that.
    let fitting = |package: &mut RootPackage| {
        forged(package);
        package.chain_key = PublicKey::of(&signing_key(6));
    };
    assert_eq!(taken(&fitting), Err(Reason::EvidenceRefused));
    let flipped = |bytes: &mut Bytes| bytes.0[0] ^= 1;
    assert_eq!(taken(&|it| flipped(&mut it.ciphertext)), Err(Reason::RootUnopened));
    assert_eq!(taken(&|it| flipped(&mut it.encapsulated)), Err(Reason::RootUnopened));
    assert_eq!(taken(&|it| flipped(&mut it.intake_key)), Err(Reason::EvidenceRefused));
    assert_eq!(taken(&|it| it.channel = Hash::ZERO), Err(Reason::EvidenceRefused));
    assert_eq!(taken(&|it| it.evidence = Bytes(vec![])), Err(Reason::EvidenceRefused));
    let counted = |it: &mut RootPackage| it.statement.payload.counter = 2;
    assert_eq!(taken(&counted), Err(Reason::DocumentSignature));
    // Another statement that the operators have signed too.
    let restated = |it: &mut RootPackage| {
        let other = HandOver { counter: 2, ..it.statement.payload.clone() };
        it.statement = Signed::by(&operator(), Label::HandOver, other).unwrap();
    };
    assert_eq!(taken(&restated), Err(Reason::RootUnopened));
    let from_another = |it: &mut RootPackage| {
        let other = HandOver { from: NEXT, ..it.statement.payload.clone() };
        it.statement = Signed::by(&operator(), Label::HandOver, other).unwrap();
    };
    assert_eq!(taken(&from_another), Err(Reason::HandOverRefused));
}

#[test]
fn a_package_is_of_use_to_who_asked_alone() {
    let world = World::new();
    let (giver, mut asking, package) = given(&world);
    let sealed_key = asking.sealed_key.clone();
    let refused = |machine: Machine, manifest: Manifest, reason| {
        let mut host = other_host(&giver, Enclave::new(Box::new(machine)));
        let (sealed_key, package) = (sealed_key.clone(), package.clone());
        let manifest = canonical::encode(&manifest).unwrap();
        let taken = host.call(Command::TakeRoot { manifest, sealed_key, package });
        assert_eq!(taken, Err(reason));
    };
    refused(Machine::new([9; 32], NEXT), manifest(), Reason::RootUnopened);
    refused(Machine::new(ELSEWHERE, MEASUREMENT), manifest(), Reason::HandOverRefused);
    refused(Machine::new(ELSEWHERE, NEXT).debugged(), manifest(), Reason::RootUnopened);
    let other = Manifest { nonce: Hash::of(b"another"), ..manifest() };
    refused(Machine::new(ELSEWHERE, NEXT), other, Reason::HandOverRefused);
    let own = Manifest { operators: vec![PublicKey::of(&signing_key(99))], ..manifest() };
    refused(Machine::new(ELSEWHERE, NEXT), own, Reason::DocumentSignature);
    asking.sealed_key = successor(&world).sealed_key;
    assert_eq!(asking.take(&giver, &package), Err(Reason::RootUnopened), "another life's key");
    asking.sealed_key = sealed_key.clone();
    assert_eq!(asking.take(&giver, &package), Ok(()));
    assert_eq!(asking.take(&giver, &package), Ok(()), "a crash in between costs nothing");
}

/// The log from before the hand-over does not go with the root from after it.
#[test]
fn log_and_root_are_of_the_same_hand_over() {
    let world = World::new();
    let (giver, mut asking, package) = given(&world);
    asking.take(&giver, &package).unwrap();
    let mut next = asking.host;
    next.log.pop();
    assert_eq!(boots(&mut next, cold(ELSEWHERE, NEXT)), Err(Reason::LogUnavailable));
    next.log.clone_from(&giver.log);
    assert_eq!(boots(&mut next, cold(ELSEWHERE, NEXT)), Ok(()));
}
