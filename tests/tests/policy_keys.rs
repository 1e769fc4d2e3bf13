//! The policy key and its successors, through the command line.

#![allow(clippy::unwrap_used, reason = "a failing test says where")]

use std::{fs, path::Path};

use serde_json::Value;
use toani_tests::{
    Brokerage, Plane,
    plane::{Said, programs},
};

/// Signs another version of the plane's policy in the author's home, and activates it.
fn activate(plane: &Plane, author: &Plane, version: u64) -> Said {
    let text = fs::read_to_string(plane.home().join("policy.yaml")).unwrap();
    let file = author.home().join("next.yaml");
    fs::write(&file, text.replace("\nversion: 1\n", &format!("\nversion: {version}\n"))).unwrap();
    let signed = author.toani(&["policy", "sign", file.to_str().unwrap()]).unwrap().ok().unwrap();
    plane.toani(&["policy", "activate", signed["signed"].as_str().unwrap()]).unwrap()
}

/// Newest first.
fn keys(plane: &Plane) -> Vec<Value> {
    let listed = plane.toani(&["policy", "keys"]).unwrap().ok().unwrap();
    listed["keys"].as_array().unwrap().iter().map(|listed| listed["key"].clone()).collect()
}

fn change(plane: &Plane, more: &[&str]) -> Said {
    plane.toani(&[&["policy", "change-key"], more].concat()).unwrap()
}

fn rename(folder: &Path, from: &str, to: &str) {
    fs::rename(folder.join(from), folder.join(to)).unwrap();
}

#[test]
fn each_policy_key_names_the_next_and_then_signs_nothing_new() {
    let folder = tempfile::tempdir().unwrap();
    let programs = programs().unwrap();
    let upstream = Brokerage::start(&programs, "token-of-the-key-tests", 0).unwrap();
    let mut plane = Plane::init(&programs, &folder.path().join("home")).unwrap();
    plane.serve().unwrap();
    let tenant = plane.home().join("tenant");

    let early = change(&plane, &[]);
    assert_eq!(early.exit, 5);
    assert!(early.error.contains("first active policy"), "{}", early.error);
    plane.activate(&upstream).unwrap();
    let first = keys(&plane);
    assert_eq!(first.len(), 1);

    let changed = change(&plane, &[]).ok().unwrap();
    assert_eq!((&changed["sequence"], &changed["before"]), (&1.into(), &first[0]));
    assert_eq!(keys(&plane), [changed["key"].clone(), first[0].clone()]);
    assert_eq!(activate(&plane, &plane, 2).exit, 0, "the new key signs");

    // As if killed after the plane had taken the key and before the files were moved.
    rename(&tenant, "policy.key", "policy.next.key");
    rename(&tenant, "policy-0.key", "policy.key");
    assert_eq!(activate(&plane, &plane, 3).code(), "document_signature", "the old key is over");
    let handing = change(&plane, &["--to", plane.owner(), "--yes"]);
    assert!(handing.error.contains("cut short"), "{}", handing.error);
    assert_eq!(change(&plane, &[]).ok().unwrap(), changed, "the change that was begun, no other");
    assert_eq!(keys(&plane).len(), 2);
    assert_eq!(activate(&plane, &plane, 3).exit, 0);

    // Over to an author with a home of their own and the plane's trust file.
    let other = Plane::init(&programs, &folder.path().join("other")).unwrap();
    fs::copy(plane.trust(), other.trust()).unwrap();
    let key = other.born()["policy_key"].as_str().unwrap();
    assert_eq!(change(&plane, &["--to", key]).exit, 2, "without a terminal it takes --yes");
    let handed = change(&plane, &["--to", key, "--yes"]).ok().unwrap();
    assert_eq!((&handed["sequence"], &handed["key"]), (&2.into(), &key.into()));
    assert_eq!(change(&plane, &["--to", key, "--yes"]).ok().unwrap(), handed, "once");
    assert_eq!(activate(&plane, &other, 4).exit, 0);

    // Who handed over has no say any more, whatever name the old key file goes by.
    assert_eq!(change(&plane, &[]).exit, 5);
    rename(&tenant, "policy-1.key", "policy.key");
    let stale = change(&plane, &[]);
    assert!(stale.error.contains("alone names its successor"), "{}", stale.error);
    assert_eq!(activate(&plane, &plane, 5).code(), "document_signature");
    assert_eq!(keys(&plane).len(), 3);
}
