//! Every fuzz target for a fixed number of executions, with a fixed seed.

use toani_fuzz::{executions, hostile, run, targets::ALL};

macro_rules! targets {
    ($($test:ident = $name:literal),* $(,)?) => {
        $(
            #[test]
            fn $test() {
                let (_, make) = ALL.iter().find(|(name, _)| *name == $name).unwrap();
                run(&mut make(), executions(), 1);
            }
        )*

        #[test]
        fn each_target_has_its_test() {
            let named: Vec<&str> = ALL.iter().map(|(name, _)| *name).collect();
            assert_eq!(named, [$($name),*]);
        }
    };
}

/// The same seeds find each planted bug in fuzz/planted.
#[test]
fn fuzz_hostile_host() {
    let sequences = hostile::sequences(executions());
    let tally = hostile::fuzz(1..1 + sequences);
    // Nothing is found where nothing happens.
    assert!(tally.started > 5 * sequences && tally.jobs > 2 * sequences, "{tally:?}");
    assert!(tally.finished > 2 * sequences && tally.boots >= sequences / 2, "{tally:?}");
}

targets! {
    fuzz_canonical = "canonical",
    fuzz_action_request = "action_request",
    fuzz_read_request = "read_request",
    fuzz_evidence = "evidence",
    fuzz_manifest = "manifest",
    fuzz_trust_file = "trust_file",
    fuzz_record = "record",
    fuzz_policy_draft = "policy_draft",
    fuzz_schema = "schema",
    fuzz_frames = "frames",
    fuzz_policy = "policy",
    fuzz_admission_list = "admission_list",
    fuzz_sealed_credential = "sealed_credential",
    fuzz_checkpoint = "checkpoint",
    fuzz_bundle = "bundle",
    fuzz_peer_certificate = "peer_certificate",
    fuzz_first_flight = "first_flight",
    fuzz_call = "call",
    fuzz_token = "token",
    fuzz_webauthn = "webauthn",
    fuzz_sealed_outcome = "sealed_outcome",
    fuzz_log = "log",
}
