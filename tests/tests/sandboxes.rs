//! One governed action under each driver, by the shipped programs: what the receipt says of what
//! held the connector, and what a policy refuses that asks for more.

#![allow(clippy::unwrap_used, reason = "a failing test says where")]

use serde_json::{Value, json};
use toani_tests::{
    Brokerage, Plane, guest,
    plane::{Said, programs},
    policy,
};

const TOKEN: &str = "token-of-the-sandbox-tests";
/// From the weakest to the strongest.
const LEVELS: [&str; 4] = ["native", "gvisor", "vm", "snp"];

fn upstream() -> Brokerage {
    Brokerage::start(&programs().unwrap(), TOKEN, 0).unwrap()
}

fn plane(folder: &tempfile::TempDir) -> Plane {
    Plane::init(&programs().unwrap(), &folder.path().join("home")).unwrap()
}

fn read(plane: &Plane, action: &str) -> Said {
    plane.run(&format!("broker.{action}"), "{}", &[]).unwrap()
}

/// Serves, admits, and asks for what this level is enough for and for what it is not.
fn expect_level(mut plane: Plane, upstream: &Brokerage, level: &str) {
    plane.serve().unwrap();
    let admitted = plane.admit().unwrap();
    let policy = policy::sandboxes(plane.owner(), upstream, &LEVELS);
    plane.activate_policy(&policy).unwrap();
    plane.seal(upstream, TOKEN).unwrap();
    plane.wait_until_ready().unwrap();

    let said = read(&plane, "read_balance").ok().unwrap();
    assert_eq!(said["result"], json!({"balance": 1250}));
    expect_receipt(&said["receipt"]["payload"], &admitted, upstream, level);

    let own = LEVELS.iter().position(|one| *one == level).unwrap();
    for (at, least) in LEVELS.iter().enumerate() {
        let said = read(&plane, &format!("read_balance_in_{least}"));
        let expected = if at <= own { (0, "") } else { (1, "assurance_sandbox") };
        assert_eq!((said.exit, said.code()), expected, "{least} under {level}: {}", said.error);
    }
    assert_eq!(plane.stop().unwrap(), 0);
}

fn expect_receipt(receipt: &Value, admitted: &Value, upstream: &Brokerage, level: &str) {
    assert_eq!(admitted["level"], level);
    assert_eq!(receipt["assurance"]["sandbox"], level);
    assert!(admitted["sandbox"].is_string());
    assert_eq!(receipt["sandbox"], admitted["sandbox"]);
    assert!(admitted["root_file_systems"]["connector"].is_string());
    assert_eq!(receipt["root_file_system"], admitted["root_file_systems"]["connector"]);
    let connections = receipt["connections"].as_array().unwrap();
    assert_eq!(connections.len(), 1);
    assert_eq!(connections[0]["host"], upstream.host());
    assert_eq!(connections[0]["port"], upstream.port());
    for way in ["bytes_out", "bytes_in"] {
        assert!(connections[0][way].as_u64().unwrap() > 0, "{way}");
    }
}

#[test]
fn under_namespaces() {
    let folder = tempfile::tempdir().unwrap();
    expect_level(plane(&folder), &upstream(), "native");
}

#[test]
fn under_gvisor() {
    let folder = tempfile::tempdir().unwrap();
    let mut plane = plane(&folder);
    plane.held_by("gvisor");
    expect_level(plane, &upstream(), "gvisor");
}

/// A class names the root file system; without one of that name its actions are refused.
#[test]
fn a_class_runs_in_the_root_file_system_that_it_names() {
    let (folder, upstream) = (tempfile::tempdir().unwrap(), upstream());
    let mut plane = plane(&folder);
    plane.held_by("gvisor");
    plane.serve().unwrap();
    plane.admit().unwrap();
    let policy = policy::sandboxes(plane.owner(), &upstream, &[]);
    plane.activate_policy(&policy).unwrap();
    plane.seal(&upstream, TOKEN).unwrap();
    plane.wait_until_ready().unwrap();
    let said = read(&plane, "read_balance_as_browser");
    assert_eq!((said.exit, said.code()), (1, "root_file_system_unavailable"), "{}", said.error);
    assert_eq!(plane.stop().unwrap(), 0);

    plane.with_browser(&connector_and_more(folder.path())).unwrap();
    plane.serve().unwrap();
    let admitted = plane.admit().unwrap();
    plane.wait_until_ready().unwrap();
    for (action, name) in [("read_balance", "connector"), ("read_balance_as_browser", "browser")] {
        let said = read(&plane, action).ok().unwrap();
        let receipt = &said["receipt"]["payload"];
        assert_eq!(receipt["root_file_system"], admitted["root_file_systems"][name], "{action}");
    }
    let [connector, browser] = ["connector", "browser"].map(|n| &admitted["root_file_systems"][n]);
    assert_ne!(connector, browser);
    assert_eq!(plane.stop().unwrap(), 0);
}

/// The connector in a root file system of another content.
fn connector_and_more(folder: &std::path::Path) -> std::path::PathBuf {
    let (root, image) = (folder.join("root"), folder.join("more.erofs"));
    for name in ["dev", "proc", "sys", "tmp", "more"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    std::fs::copy(programs().unwrap().join("toani-connector"), root.join("toani-connector"))
        .unwrap();
    std::fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let mut mkfs = std::process::Command::new("mkfs.erofs");
    mkfs.args(["--quiet", "-Enoinline_data", "--all-root"]).args([&image, &root]);
    assert!(mkfs.status().expect("./x setup installs mkfs.erofs").success());
    image
}

#[test]
fn in_a_virtual_machine() {
    let folder = tempfile::tempdir().unwrap();
    let guest = folder.path().join("guest");
    guest::build(&programs().unwrap(), &guest).unwrap();
    let mut plane = plane(&folder);
    plane.held_by_guest(&guest).unwrap();
    expect_level(plane, &upstream().seen_by_guests(), "vm");
}
