//! An instance with data goes on in another image, and then on another machine.

#![allow(clippy::unwrap_used, reason = "a failing test says where")]

use std::{fs, path::Path};

use serde_json::Value;
use toani_protocol::Hash;
use toani_tests::{
    Brokerage, Plane, image,
    plane::{Said, copy, programs},
};

const TOKEN: &str = "token-of-the-hand-over-tests";

struct World {
    folder: tempfile::TempDir,
    _upstream: Brokerage,
    plane: Plane,
}

impl World {
    /// A plane with an agent, a policy and a credential, that has executed something.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let programs = programs().unwrap();
        let upstream = Brokerage::start(&programs, TOKEN, 0).unwrap();
        let mut plane = Plane::init(&programs, &folder.path().join("home")).unwrap();
        plane.serve().unwrap();
        plane.furnish(&upstream, TOKEN).unwrap();
        let world = Self { folder, _upstream: upstream, plane };
        world.reads();
        world
    }

    fn reads(&self) {
        let said = self.plane.run("broker.read_balance", r#"{"account":"main"}"#, &[]).unwrap();
        assert_eq!(said.ok().unwrap()["outcome"], "succeeded");
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn says(&self, arguments: &[&str]) -> Said {
        self.plane.toani(&[&["hand-over"], arguments].concat()).unwrap()
    }

    fn asks(&self, next: &Path) {
        let (out, next) = (self.path("request.json"), next.to_str().unwrap());
        self.says(&["ask", "--programs", next, "--out", &out]).ok().unwrap();
    }

    /// What the plane is asked while it runs, given here.
    fn sign_at_rest(&self, to: Hash, from: &Value, counter: &str) -> Said {
        self.sign(to, &["--from", from.as_str().unwrap(), "--counter", counter])
    }

    fn sign(&self, to: Hash, more: &[&str]) -> Said {
        let (request, out) = (self.path("request.json"), self.path("statement.json"));
        // As `./x image` prints it.
        let to = to.to_string().strip_prefix("sha256:").unwrap().to_owned();
        self.says(&[&["sign", &request, "--to", &to, "--out", &out], more].concat())
    }

    fn gives(&self) -> Said {
        let [statement, request, package] =
            ["statement.json", "request.json", "package.json"].map(|name| self.path(name));
        self.says(&["give", &statement, "--request", &request, "--out", &package])
    }

    fn takes(&self) -> Said {
        self.says(&["take", &self.path("package.json")])
    }

    fn instance(&self) -> Value {
        self.plane.toani(&["status"]).unwrap().ok().unwrap()["instance"].clone()
    }
}

#[test]
fn an_instance_with_data_is_upgraded_and_goes_on() {
    let mut world = World::new();
    let before = world.instance();
    let old = programs().unwrap();
    let (next, mrenclave) = image::successor(&old, world.folder.path()).unwrap();

    // The new version asks and the operator signs while the old one still serves.
    world.asks(&next);
    let first = fs::read(world.path("request.json")).unwrap();
    world.asks(&next);
    fs::write(world.path("request.json"), first).unwrap();
    let other = before["mrenclave"].as_str().unwrap().parse().unwrap();
    let refused = world.sign(other, &[]);
    assert_eq!(refused.exit, 5, "the operator says which image");
    assert!(refused.error.contains("the image that asks is"), "{}", refused.error);
    let signed = world.sign(mrenclave, &[]).ok().unwrap();
    assert_eq!((&signed["counter"], &signed["from"]), (&1.into(), &before["mrenclave"]));
    let twice = world.sign(mrenclave, &["--with", &world.path("statement.json")]);
    assert!(twice.error.contains("signed the statement already"), "{}", twice.error);
    assert!(world.gives().error.contains("in use"), "a plane that runs gives nothing");
    world.reads();
    assert_eq!(world.plane.stop().unwrap(), 0);

    world.gives().ok().unwrap();
    let package = fs::read(world.path("package.json")).unwrap();
    world.gives().ok().unwrap();
    assert_eq!(fs::read(world.path("package.json")).unwrap(), package, "the same one again");
    let started = world.plane.serve().unwrap_err().to_string();
    assert!(started.contains("handed_over"), "the old version starts no more: {started}");
    let refused = world.takes();
    assert!(refused.error.contains("hand_over_refused"), "and takes nothing: {}", refused.error);

    world.plane.upgrade(&next);
    let taken = world.takes().ok().unwrap();
    assert_eq!(taken["mrenclave"], mrenclave.to_string());
    world.plane.serve().unwrap();
    world.plane.admit().unwrap();
    world.plane.wait_until_ready().unwrap();
    let after = world.instance();
    for same in ["instance", "chain_key", "intake_key"] {
        assert_eq!(after[same], before[same], "{same}");
    }
    assert_eq!(after["mrenclave"], mrenclave.to_string());
    assert_eq!(after["hand_overs"], 1);
    world.plane.toani(&["instance", "show"]).unwrap().ok().unwrap();
    world.reads();
    // One log, under both measurements; and the credential that was sealed before still opens.
    let bundle = world.path("bundle.tar");
    world.plane.toani(&["audit", "export", "--out", &bundle]).unwrap().ok().unwrap();
    world.plane.verify(Path::new(&bundle)).unwrap().ok().unwrap();
}

/// The new image takes the root and is never served: the old one gives once more.
#[test]
fn a_root_that_came_to_nothing_is_given_again() {
    let mut world = World::new();
    let before = world.instance();
    let old = programs().unwrap();
    let (next, mrenclave) = image::successor(&old, world.folder.path()).unwrap();
    world.asks(&next);
    assert_eq!(world.plane.stop().unwrap(), 0);
    let stranger = world.sign_at_rest(mrenclave, &mrenclave.to_string().into(), "1");
    assert!(stranger.error.contains("trust file does not name"), "{}", stranger.error);
    world.sign_at_rest(mrenclave, &before["mrenclave"], "1").ok().unwrap();
    world.gives().ok().unwrap();
    world.plane.upgrade(&next);
    world.takes().ok().unwrap();

    world.asks(&next);
    world.sign_at_rest(mrenclave, &before["mrenclave"], "1").ok().unwrap();
    world.plane.upgrade(&old);
    let again = world.gives();
    assert!(again.error.contains("--counter 2"), "the error says the next one: {}", again.error);
    world.sign_at_rest(mrenclave, &before["mrenclave"], "2").ok().unwrap();
    world.gives().ok().unwrap();
    world.plane.upgrade(&next);
    let behind = world.plane.serve().unwrap_err().to_string();
    assert!(behind.contains("handed_over"), "the first root is over: {behind}");
    world.takes().ok().unwrap();
    world.plane.serve().unwrap();
    world.plane.admit().unwrap();
    world.plane.wait_until_ready().unwrap();
    assert_eq!(world.instance()["hand_overs"], 2);
    world.reads();
}

#[test]
fn an_instance_moves_to_another_machine() {
    let mut world = World::new();
    let mrenclave: Hash = world.instance()["mrenclave"].as_str().unwrap().parse().unwrap();
    // Under the same roots: another processor of the same simulated vendors.
    let machine = world.folder.path().join("other-machine");
    copy(world.plane.machine(), &machine, &|name| name != "processor.key").unwrap();
    let mut there = world.plane.elsewhere(&world.folder.path().join("there"), &machine).unwrap();
    let request = world.path("request.json");
    let ask = ["hand-over", "ask", "--out", &request];
    there.toani(&ask).unwrap().ok().unwrap();
    world.sign(mrenclave, &[]).ok().unwrap();
    assert_eq!(world.plane.stop().unwrap(), 0);
    world.gives().ok().unwrap();

    let package = world.path("package.json");
    there.toani(&["hand-over", "take", &package]).unwrap().ok().unwrap();
    let behind = there.serve().unwrap_err().to_string();
    assert!(behind.contains("a root and no audit"), "root without log: {behind}");
    let (from, to) = (world.plane.data(), there.data());
    let bring = |what: &str| copy(&from, &to, &|name| name.starts_with(what)).unwrap();
    bring("audit");
    let lost = there.serve().unwrap_err().to_string();
    assert!(lost.contains("a root and no store.sqlite"), "log without store: {lost}");
    bring("store.sqlite");
    there.serve().unwrap();
    there.wait_until_ready().unwrap();
    let said = there.run("broker.read_balance", r#"{"account":"main"}"#, &[]).unwrap();
    assert_eq!(said.ok().unwrap()["outcome"], "succeeded");
}
