//! The host lies about what the enclave runs on: no evidence, no work.

use toani_protocol::{
    Hash, Reason, Time, canonical,
    instance::{Manifest, SgxPolicy, TcbStatus},
    sign::Bytes,
    wire::{Answer, Command},
};
use toani_simulator::{Level, Platform, Publication};

use crate::world::*;

/// A world whose enclave waits for its proof, and its report.
fn waiting(world: &World) -> (World, Vec<u8>) {
    let mut liar = World::with_log(world, world.log.clone());
    let (manifest, sealed_root) = (liar.manifest.clone(), liar.sealed_root.clone());
    let boot = Command::Boot { manifest, sealed_root, target: quoting_target() };
    let report = liar.report(boot).unwrap();
    (liar, report)
}

fn shown(world: &mut World, platform: &Platform, report: &[u8]) -> Result<Answer, Reason> {
    let evidence = encoded(quoted(platform, report, world.now));
    world.call(Command::Prove { evidence })
}

#[test]
fn a_machine_that_is_not_sound_runs_nothing() {
    let sound = Platform::number(1);
    let refused = [
        Platform { level: Level::Outdated, ..sound.clone() },
        Platform { level: Level::Misconfigured, ..sound.clone() },
        Platform { level: Level::Broken, ..sound.clone() },
        Platform { level: Level::Unknown, ..sound.clone() },
        Platform { qe_level: Level::Outdated, ..sound.clone() },
    ];
    let (mut liar, report) = waiting(&World::born());
    for platform in &refused {
        assert_eq!(shown(&mut liar, platform, &report), Err(Reason::EvidenceRefused));
    }
    assert_eq!(shown(&mut liar, &sound, &report), Ok(Answer::Done), "it may try again");
}

/// The manifest says what is good enough, and the host cannot.
#[test]
fn a_manifest_can_ask_for_less() {
    let lenient = Manifest {
        sgx_policy: SgxPolicy {
            statuses: vec![TcbStatus::UpToDate, TcbStatus::OutOfDate],
            ..SgxPolicy::up_to_date()
        },
        ..manifest()
    };
    let lenient = canonical::encode(&lenient).unwrap();
    let mut world = World { enclave: cold([7; 32], MEASUREMENT), ..World::born() };
    let birth = Command::Birth { manifest: lenient, target: quoting_target() };
    let report = world.report(birth).unwrap();
    let outdated = Platform { level: Level::Outdated, ..Platform::number(1) };
    assert!(matches!(shown(&mut world, &outdated, &report), Ok(Answer::Born { .. })));
}

#[test]
fn a_debug_enclave_is_not_born() {
    let debugged = Machine::new([7; 32], MEASUREMENT).debugged();
    let enclave = toani_enclave::Enclave::new(Box::new(debugged));
    let mut world = World { enclave, ..World::born() };
    let manifest = world.manifest.clone();
    assert_eq!(world.birth(manifest), Err(Reason::EvidenceRefused));
}

/// An honest quote over the report of another program, another boot, or nobody.
#[test]
fn evidence_of_something_else_is_refused() {
    let world = World::born();
    let (mut liar, report) = waiting(&world);
    let now = liar.now;
    let prove = |liar: &mut World, report: &[u8]| {
        let evidence = encoded(quoted(&Platform::number(1), report, now));
        liar.call(Command::Prove { evidence })
    };
    // MRENCLAVE, then the first and the last byte of report data.
    for at in [64, 320, 383] {
        let mut other = report.clone();
        other[at] ^= 1;
        assert_eq!(prove(&mut liar, &other), Err(Reason::EvidenceRefused), "byte {at}");
    }
    let (_, of_another_boot) = waiting(&world);
    assert_eq!(prove(&mut liar, &of_another_boot), Err(Reason::EvidenceRefused));
    for evidence in [vec![], b"{}".to_vec(), vec![0xff; 100]] {
        let refused = Err(Reason::EvidenceRefused);
        assert_eq!(liar.call(Command::Prove { evidence }), refused);
    }
    assert_eq!(prove(&mut liar, &report), Ok(Answer::Done));
}

#[test]
fn a_root_that_the_manifest_does_not_name_vouches_for_nothing() {
    let other = Manifest { sgx_roots: vec![Hash::of(b"another root")], ..manifest() };
    let other = canonical::encode(&other).unwrap();
    let mut world = World { enclave: cold([7; 32], MEASUREMENT), ..World::born() };
    assert_eq!(world.birth(other), Err(Reason::EvidenceRefused));
    let none = Manifest { sgx_roots: vec![], ..manifest() };
    let none = canonical::encode(&none).unwrap();
    let mut world = World { enclave: cold([7; 32], MEASUREMENT), ..World::born() };
    assert_eq!(world.birth(none), Err(Reason::DocumentMalformed), "no roots, no instance");
}

#[test]
fn collateral_has_its_time() {
    let (mut liar, report) = waiting(&World::born());
    let honest = liar.now;
    let evidence = encoded(quoted(&Platform::number(1), &report, honest));
    for (now, expected) in [
        (honest.plus_ms(40 * 24 * 3_600_000), Err(Reason::EvidenceRefused)),
        (Time::from_ms(honest.ms() - 2 * 24 * 3_600_000), Err(Reason::EvidenceRefused)),
        (honest, Ok(Answer::Done)),
    ] {
        liar.now = now;
        assert_eq!(liar.call(Command::Prove { evidence: evidence.clone() }), expected);
    }
}

#[test]
fn collateral_that_is_missing_or_of_another_platform_proves_nothing() {
    let (mut liar, report) = waiting(&World::born());
    let platform = Platform::number(1);
    let whole = quoted(&platform, &report, liar.now);
    let mut prove = |change: &dyn Fn(&mut toani_attestation::SgxEvidence)| {
        let mut evidence = whole.clone();
        change(&mut evidence);
        liar.call(Command::Prove { evidence: encoded(evidence) })
    };
    let refused = Err(Reason::EvidenceRefused);
    assert_eq!(prove(&|evidence| evidence.collateral.pck_crl = Bytes(vec![])), refused);
    assert_eq!(prove(&|evidence| evidence.collateral.root_crl = Bytes(vec![])), refused);
    assert_eq!(prove(&|evidence| evidence.collateral.tcb_info = Bytes(vec![])), refused);
    assert_eq!(prove(&|evidence| evidence.quote.0.truncate(432)), refused);
    let other = Platform { fmspc: [9; 6], ..platform.clone() };
    let elsewhere = authority().collateral(&Publication::about(&other, whole_time())).unwrap();
    assert_eq!(prove(&|evidence| evidence.collateral = elsewhere.clone()), refused);
    let revoked = Publication {
        revoked_by_pck_ca: vec![platform.pck_serial],
        ..Publication::about(&platform, whole_time())
    };
    let revoked = authority().collateral(&revoked).unwrap();
    assert_eq!(prove(&|evidence| evidence.collateral = revoked.clone()), refused);
    assert_eq!(prove(&|_| {}), Ok(Answer::Done));
}

fn whole_time() -> Time {
    Time::from_ms(START_MS)
}

/// Whatever the host's clock says: what was published once is not unpublished.
#[test]
fn older_collateral_does_not_come_back() {
    let mut world = World::born();
    let newer = |world: &World, report: &[u8], number| {
        let platform = Platform::number(1);
        let published = Publication {
            tcb_eval_data_number: number,
            ..Publication::about(&platform, world.now)
        };
        let mut evidence = quoted(&platform, report, world.now);
        evidence.collateral = authority().collateral(&published).unwrap();
        encoded(evidence)
    };
    for (number, expected) in [(18, Ok(())), (17, Err(Reason::EvidenceRefused)), (18, Ok(()))] {
        let (mut next, report) = waiting(&world);
        let evidence = newer(&next, &report, number);
        next.ok(Command::Prove { evidence });
        next.ok(Command::Replay { leaves: world.log.clone() });
        assert_eq!(next.try_finish_boot(), expected, "{number}");
        if expected.is_ok() {
            world = next;
        }
    }
}

/// A boot may last longer than collateral: then it proves itself once more.
#[test]
fn a_boot_that_lasts_proves_itself_again() {
    const DAY_MS: u64 = 24 * 3_600_000;
    let mut world = World::new();
    let first = world.facts().evidence.clone();
    world.now = world.now.plus_ms(40 * DAY_MS);
    assert!(world.try_connect().is_err(), "the first evidence has expired");
    let (_, of_another_boot) = waiting(&world);
    let report = world.report(Command::Renew { target: quoting_target() }).unwrap();
    let sound = Platform::number(1);
    let refused = Err(Reason::EvidenceRefused);
    assert_eq!(shown(&mut world, &sound, &of_another_boot), refused);
    let outdated = Platform { level: Level::Outdated, ..sound.clone() };
    assert_eq!(shown(&mut world, &outdated, &report), refused);
    assert_eq!(world.call(Command::Prove { evidence: first.clone() }), refused);
    let mut debugged = report.clone();
    debugged[48] |= 2;
    assert_eq!(shown(&mut world, &sound, &debugged), refused);
    assert_eq!(shown(&mut world, &sound, &report), Ok(Answer::Done));
    let Answer::Facts(facts) = world.ok(Command::Status) else { panic!() };
    assert_ne!(facts.evidence, first);
    world.facts = Some(facts);
    world.connect();
    assert_eq!(world.last_record().evidence, Hash::of(&first), "records keep naming the first");
}
