//! One governed action under each driver, by the shipped programs: what the receipt says of what
//! held the connector, and what a policy refuses that asks for more.

#![allow(clippy::unwrap_used, reason = "a failing test says where")]

use std::{path::Path, process::Command};

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use serde_json::{Value, json};
use toani_tests::{
    Brokerage, Plane, guest, ovmf,
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
    assert!(mkfs.status().unwrap().success());
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

/// A guest with nothing in it, and a firmware: enough to be measured.
struct Protected {
    folder: tempfile::TempDir,
}

impl Protected {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let guest = folder.path().join("guest");
        std::fs::create_dir(&guest).unwrap();
        for part in ["vmlinuz", "initrd", "cmdline"] {
            std::fs::write(guest.join(part), part).unwrap();
        }
        let root = programs().unwrap().join("connector.erofs");
        std::fs::copy(root, guest.join("root-file-system")).unwrap();
        std::fs::write(folder.path().join("ovmf"), ovmf::stand_in()).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// What the program says that starts such guests.
    fn digest(&self, processors: &str) -> String {
        let output = Command::new(programs().unwrap().join("toani-sandbox"))
            .args(["vm-digest", "--guest", &self.path("guest"), "--firmware", &self.path("ovmf")])
            .args(["--vcpus", processors])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("sev-snp")).unwrap();
        BASE64URL_NOPAD.encode(&HEXLOWER.decode(line.trim().as_bytes()).unwrap())
    }
}

/// The hexadecimal digits of ARK-Milan's SHA-256.
const AMD_ARK_MILAN: &str = "69d063b45344d26a2e94e1f4210de49ef5553082\
                             87d4c174445c95639a540bcd";

/// What is admitted is what the firmware will measure, of the chip whose VCEK is there: in
/// simulation nothing of it, and never something simulated instead.
#[test]
fn a_protected_guest_is_admitted_by_its_launch_digest() {
    let folder = tempfile::tempdir().unwrap();
    let protected = Protected::new();
    let mut plane = plane(&folder);
    plane.serve().unwrap();
    let (guest, firmware) = (protected.path("guest"), protected.path("ovmf"));
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/attestation");
    std::fs::copy(vectors.join("vcek_milan.der"), protected.path("vcek.der")).unwrap();
    let certificates = protected.path("");
    let base = ["admission", "admit", "--sandbox", "vm", "--guest", &guest, "--snp"];
    let named = ["--firmware", &firmware, "--certificates", &certificates, "--vcpus", "4"];
    let admit = |more: &[&str]| plane.toani(&[&base, more].concat()).unwrap();
    let refused = |more: &[&str], expected: &str| {
        let said = admit(more);
        assert!(said.exit != 0 && said.error.contains(expected), "{}", said.error);
    };
    refused(&named, "simulated machine's root");

    let trust = std::fs::read(plane.trust()).unwrap();
    let mut trust: Value = serde_json::from_slice(&trust).unwrap();
    trust["snp_roots"] = json!([format!("sha256:{AMD_ARK_MILAN}")]);
    std::fs::write(plane.trust(), serde_json::to_vec(&trust).unwrap()).unwrap();
    refused(&["--certificates", &certificates], "AmdSev");
    refused(&["--firmware", "/nowhere"], "no firmware /nowhere");
    refused(&["--firmware", &firmware], "which chip?");
    refused(&["--firmware", &firmware, "--accel", "tcg"], "emulator");
    let others = plane.toani(&["admission", "admit", "--sandbox", "gvisor"]).unwrap();
    assert!(others.error.contains("--sandbox vm --snp --firmware"), "{}", others.error);

    let admitted = admit(&named).ok().unwrap();
    assert_eq!(admitted["level"], "snp");
    assert_eq!(admitted["launch_digest"], protected.digest("4"));
    assert_ne!(protected.digest("4"), protected.digest("1"));
    let chip = BASE64URL_NOPAD.decode(admitted["chip"].as_str().unwrap().as_bytes()).unwrap();
    let vcek = std::fs::read(protected.path("vcek.der")).unwrap();
    assert!(chip.len() == 64 && vcek.windows(64).any(|bytes| bytes == chip));
    assert_eq!(plane.stop().unwrap(), 0);
}

/// An instance that believes AMD's roots is served by nothing simulated.
#[test]
fn without_sev_snp_an_instance_that_asks_for_it_is_not_served() {
    if Path::new("/dev/sev").exists() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let protected = Protected::new();
    let programs = programs().unwrap();
    let plane = Plane::init_with(&programs, &folder.path().join("home"), &["--snp"]).unwrap();
    let (guest, firmware) = (protected.path("guest"), protected.path("ovmf"));
    let programs = programs.to_str().unwrap();
    let base = ["serve", "--listen", "127.0.0.1:0", "--programs", programs];
    let vm = ["--sandbox", "vm", "--guest", &guest];
    for (more, expected) in [
        ([&vm[..], &["--snp", "--firmware", &firmware]].concat().as_slice(), "/dev/sev"),
        (&[&vm[..], &["--snp"]].concat(), "AmdSev"),
        (&vm, "--sandbox vm --snp --firmware"),
        (&["--sandbox", "native", "--guest", &guest], "are a virtual machine's"),
        (&["--sandbox", "native"], "--sandbox vm --snp --firmware"),
        (&["--sandbox", "native", "--snp"], "--sandbox vm --snp --firmware"),
    ] {
        let said = plane.toani(&[&base, more].concat()).unwrap();
        assert!(said.exit != 0 && said.error.contains(expected), "{more:?}: {}", said.error);
    }
}
