//! Each planted bug is found by the oracle that watches over what it breaks; without it, the same
//! sequence is calm.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "../bugs.rs"]
#[allow(dead_code, reason = "where they stand is the build's concern")]
mod bugs;
#[path = "../../src/hostile/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports, reason = "not all of it is used here")]
mod hostile;
#[path = "../../../trusted/enclave/tests/world/mod.rs"]
mod world;

use bugs::BUGS;
use hostile::Kind::{self, *};

/// Sequences that may be needed from the seed on at which a bug was found first: some random bytes
/// are not the seed's.
const SEQUENCES_MAX: u64 = 30;

fn is_found(name: &str, kind: Kind, seed: u64) {
    let bug = BUGS.iter().position(|bug| bug.name == name).unwrap();
    toani_enclave::plant(bug + 1);
    let found = (seed..seed + SEQUENCES_MAX).find_map(|seed| hostile::run(seed).err());
    let found = found.unwrap_or_else(|| panic!("{SEQUENCES_MAX} sequences do not find it"));
    assert_eq!(found.breach.kind, kind, "another oracle than expected: {found}");
    toani_enclave::plant(0);
    if let Err(found) = hostile::run(found.seed) {
        panic!("without a bug: {found}");
    }
}

macro_rules! planted {
    ($($name:ident: $kind:ident from $seed:literal,)*) => {
        $(
            #[test]
            fn $name() {
                is_found(stringify!($name), $kind, $seed);
            }
        )*

        #[test]
        fn each_bug_has_its_test() {
            let names: Vec<&str> = BUGS.iter().map(|bug| bug.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

planted! {
    an_answer_with_the_secret_goes_out: Plaintext from 4,
    a_credential_rests_in_plain: Plaintext from 1,
    a_job_leaves_beside_the_channel: Plaintext from 1,
    a_token_names_its_key_by_the_key: Key from 1,
    a_salt_is_not_wrapped: Key from 1,
    a_commitment_is_the_key: Key from 1,
    an_idempotency_key_starts_twice: SecondUse from 2,
    a_token_is_not_spent: SecondUse from 1,
    a_boot_forgets_idempotency_keys: SecondUse from 5,
    a_job_leaves_as_often_as_it_was_checked: SecondUse from 14,
    anybody_signs_a_policy: Policy from 1,
    anybody_changes_the_policy_key: Policy from 3,
    an_older_policy_comes_back: Policy from 2,
    a_revoked_policy_decides: Policy from 1,
    what_was_checked_keeps_its_policy: Policy from 8,
    a_quota_is_not_counted: Quota from 2,
    every_end_gives_back: Quota from 2,
    a_quota_comes_back_twice: Quota from 2,
    a_boot_forgets_quotas: Quota from 2,
    a_job_that_left_is_aborted: Log from 4,
    what_was_checked_has_not_left: Log from 2,
    one_person_counts_twice: Approval from 3,
    one_approval_is_enough: Approval from 1,
    who_is_behind_the_agent_approves: Approval from 1,
    a_token_is_good_for_any_params: Approval from 7,
    a_stranger_seals_for_the_owner: Authority from 4,
    a_revoked_credential_leaves: Authority from 10,
    a_job_leaves_for_another_root_file_system: Authority from 14,
    anybody_signs_a_request: Forgery from 1,
    a_job_leaves_before_its_record: Log from 2,
    a_refused_record_moves_the_chain: Log from 5,
    the_last_record_needs_no_signature: Log from 15,
    a_connection_elsewhere_is_believed: Log from 1,
    a_token_that_is_none_panics: Panic from 1,
}
