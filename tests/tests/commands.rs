//! Each command through the shipped programs: what it says to machines, and how it fails.

#![allow(clippy::unwrap_used, reason = "a failing test says where")]

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use toani_tests::{
    Brokerage, Plane,
    plane::{Said, finished, programs},
};

const TOKEN: &str = "token-of-the-command-tests";
const ORDER: &str = r#"{"symbol": "ACME", "quantity": 1}"#;
const RESULT: &str = "action_id execution_id outcome receipt result upstream_status";
const SIGNED: &str = "hash id key signed version windows zone_data";
const NOBODY: &str = "act_aaaaaaaaaaaaaaaaaaaaaaaaaa";

/// The keys of an object, sorted: a machine relies on them.
fn keys(value: &Value) -> String {
    let map = value.as_object().unwrap_or_else(|| panic!("no object: {value}"));
    map.keys().map(String::as_str).collect::<Vec<_>>().join(" ")
}

struct World {
    plane: Plane,
    upstream: Brokerage,
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let programs = programs().unwrap();
        let upstream = Brokerage::start(&programs, TOKEN, 0).unwrap();
        let plane = Plane::init(&programs, &folder.path().join("home")).unwrap();
        Self { plane, upstream, folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// A command that succeeds and says an object with these keys.
    fn says(&self, arguments: &[&str], input: &str, expected: &str) -> Value {
        let said = self.plane.toani_with(arguments, input).unwrap().ok();
        let said = said.unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
        assert_eq!(keys(&said), expected, "{arguments:?}");
        said
    }

    /// The first row of a list has these keys.
    fn lists(&self, arguments: &[&str], name: &str, expected: &str) -> Value {
        let said = self.says(arguments, "", name);
        let first = said[name].get(0).unwrap_or_else(|| panic!("{arguments:?}: nothing listed"));
        assert_eq!(keys(first), expected, "{arguments:?}");
        first.clone()
    }

    fn fails(&self, arguments: &[&str], input: &str) -> Said {
        let said = self.plane.toani_with(arguments, input).unwrap();
        assert_eq!(keys(&said.value), "error", "{arguments:?}: {}", said.error);
        assert_eq!(keys(&said.value["error"]), "code detail", "{arguments:?}");
        said
    }

    /// A person at a terminal: waits for the question, types a line, reads on until the end.
    fn typed(&self, arguments: &[&str], question: &str, line: &str) -> (i32, String) {
        let toani = programs().unwrap().join("toani");
        let home = self.plane.home().display();
        let command = format!("'{}' --home '{home}' {}", toani.display(), arguments.join(" "));
        let mut child = Command::new("timeout")
            .args(["60", "script", "-qec", &command, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut output, mut seen) = (child.stdout.take().unwrap(), Vec::new());
        let mut next = [0; 256];
        while !String::from_utf8_lossy(&seen).contains(question) {
            let read = output.read(&mut next).unwrap();
            assert!(read > 0, "no question: {}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&next[..read]);
        }
        child.stdin.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
        output.read_to_end(&mut seen).unwrap();
        let exit = child.wait().unwrap().code().unwrap();
        (exit, String::from_utf8_lossy(&seen).into_owned())
    }

    /// An action that waits for people, and the agent's command that waits with it.
    fn ask(&self, more: &[&str]) -> (String, Child) {
        let asking = [&["run", "broker.buy_stock", "--params", ORDER][..], more].concat();
        let agent = self.plane.begin(&asking).unwrap();
        (self.plane.wait_for_approval().unwrap(), agent)
    }
}

#[test]
fn every_command_speaks_to_machines() {
    let mut world = World::new();
    let born = "home instance mrenclave owner policy_key tee tenant trust";
    assert_eq!(keys(world.plane.born()), born);
    world.plane.serve().unwrap();
    let status = "instance log proven_at ready sandbox_connected sandbox_means tee_means";
    world.says(&["status"], "", status);
    world.says(
        &["admission", "admit", "--sandbox", "native"],
        "",
        "chip enclave hash launch_digest level min_tcb root_file_systems sandbox version",
    );

    author(&world);
    own(&world);
    world.plane.wait_until_ready().unwrap();
    act(&world);
    prove(&world);
    take_back(&world);
}

/// Policies, agents, approvers.
fn author(world: &World) {
    let new = world.path("new.yaml");
    world.says(&["policy", "new", "--out", &new], "", "policy");
    world.plane.activate(&world.upstream).unwrap();
    let file = world.plane.home().join("policy.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("\nversion: 1\n", "\nversion: 2\n")).unwrap();
    let file = file.to_str().unwrap();
    world.says(&["agent", "add", "keyed", "--api-key", "--policy", file], "", "agent key policy");
    world.says(&["approver", "add", "bert", "--policy", file], "", "key person policy");
    world.says(&["policy", "check", file], "", "id ok version windows zone_data");
    let signed = world.says(&["policy", "sign", file], "", SIGNED);
    let signed = signed["signed"].as_str().unwrap();
    world.says(&["policy", "activate", signed], "", "hash id version");
    let row = "hash id since state tenant version";
    world.lists(&["policy", "list"], "policies", row);
    world.lists(&["policy", "keys"], "keys", "key sequence since");
    world.says(&["policy", "show", "brokerage"], "", "payload signatures");
    for (action, params, agent, expected, decision) in [
        ("broker.order_direct", ORDER, "agent", "approvers decision plan threshold tier", "allow"),
        ("broker.buy_stock", ORDER, "agent", "approvers decision plan threshold tier", "approval"),
        ("broker.buy_stock_in_sgx", ORDER, "agent", "code decision why", "deny"),
        ("broker.order_direct", "{}", "agent", "code decision why", "deny"),
        ("broker.order_direct", ORDER, "stranger", "code decision why", "deny"),
    ] {
        let arguments =
            ["policy", "simulate", signed, action, "--agent", agent, "--params", params];
        assert_eq!(world.says(&arguments, "", expected)["decision"], decision, "{action}");
    }
}

/// Credentials.
fn own(world: &World) {
    let endpoint = format!("127.0.0.1:{}", world.upstream.port());
    let of = ["--endpoint", &endpoint, "--private", "--spki", world.upstream.spki()];
    let named = |verb, id| [&["credential", verb, id][..], &of].concat();
    for wrong in ["", &"x".repeat(8 * 1024 + 1)] {
        let said = world.fails(&named("add", "broker"), wrong);
        assert!(said.error.contains("1 to 8192 bytes"), "{}", said.error);
    }
    assert!(world.fails(&named("rotate", "broker"), "x").error.contains("credential add"));
    let added = world.says(&named("add", "broker"), "wrong at first\n", "id version");
    assert_eq!(added["version"], 1);
    assert!(world.fails(&named("add", "broker"), "x").error.contains("credential rotate"));
    let rotated = world.says(&named("rotate", "broker"), &format!("{TOKEN}\n"), "id version");
    assert_eq!(rotated["version"], 2);
    let row = "id owner since state tenant version";
    world.lists(&["credential", "list"], "credentials", row);
}

/// Asking, approving, denying; tokens.
fn act(world: &World) {
    let plane = &world.plane;
    world.says(&["run", "broker.order_direct", "--params", ORDER], "", RESULT);
    let of_key = ["run", "broker.order_direct", "--params", ORDER, "--agent", "keyed"];
    let executed = world.says(&of_key, "", RESULT)["execution_id"].clone();
    let executed = executed.as_str().unwrap();
    let show = ["executions", "show", executed, "--agent", "keyed"];
    let shown = world.says(&show, "", RESULT);
    let opened = shown["receipt"]["payload"]["connections"].as_array().unwrap();
    assert_eq!(opened.len(), 1, "{shown}");
    assert_eq!(keys(&opened[0]), "bytes_in bytes_out host port");
    assert_eq!(opened[0]["port"], world.upstream.port(), "{shown}");
    let row = "action action_id agent ended ended_at execution_id outcome receipt service started \
               started_at state tenant";
    world.lists(&["executions", "list", "--limit", "1"], "executions", row);

    let (action, agent) = world.ask(&[]);
    let row = "action action_id agent asked_at service state tenant tier";
    world.lists(&["approvals", "list"], "approvals", row);
    let approve = ["approve", &action, "--as", "anna"];
    let unsaid = world.fails(&approve, "approve\n");
    assert_eq!((unsaid.exit, unsaid.code()), (2, "usage"), "nobody is there to look at it");
    let not_asked = world.fails(&["approve", &action, "--as", "bert", "--yes"], "");
    assert_eq!((not_asked.exit, not_asked.code()), (1, "approval_evidence"));
    let yes = [&approve[..], &["--yes"]].concat();
    assert_eq!(world.says(&yes, "", "status")["status"], "approved");
    assert_eq!(keys(&finished(agent).unwrap().ok().unwrap()), RESULT);

    let (action, agent) = world.ask(&[]);
    let denied = world.says(&["deny", &action, "--as", "anna", "--yes"], "", "status");
    assert_eq!(denied["status"], "denied");
    let denied = finished(agent).unwrap();
    assert_eq!((denied.exit, denied.code()), (1, "approval_denied"));

    let (action, agent) = world.ask(&["--wait-s", "1"]);
    let waited = finished(agent).unwrap();
    assert_eq!((waited.exit, waited.code()), (4, "waited_too_long"));
    world.says(&["deny", &action, "--as", "anna", "--yes"], "", "status");

    let once = ["--idempotency-key", "k"];
    let (action, agent) = world.ask(&[&once[..], &["--token-only"]].concat());
    plane.approve(&action).unwrap().ok().unwrap();
    let token = finished(agent).unwrap().ok().unwrap();
    assert_eq!(keys(&token), "token");
    let token = token["token"].as_str().unwrap();
    assert_eq!(
        world.says(&["token", "revoke", &action], "", "revoked")["revoked"],
        action.as_str()
    );
    let redeeming = ["run", "broker.buy_stock", "--params", ORDER, "--token", token];
    assert_eq!(world.fails(&redeeming, "").exit, 2, "a token without its idempotency key");
    let said = world.fails(&[&redeeming[..], &once].concat(), "");
    assert_eq!((said.exit, said.code()), (1, "token_revoked"));
}

/// Proof for others.
fn prove(world: &World) {
    let bundle = world.path("bundle.tar");
    world.says(&["audit", "export", "--out", &bundle], "", "bundle bytes");
    let verified = world.plane.verify(bundle.as_ref()).unwrap();
    assert_eq!(verified.exit, 0, "{}", verified.error);
    let mut bytes = fs::read(&bundle).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&bundle, bytes).unwrap();
    assert_eq!(world.plane.verify(bundle.as_ref()).unwrap().exit, 1);
    assert_eq!(world.plane.verify(world.path("none.tar").as_ref()).unwrap().exit, 2);
}

/// Revocations, each seen by who asks next.
fn take_back(world: &World) {
    let run = ["run", "broker.order_direct", "--params", ORDER];
    world.says(&["agent", "revoke", "keyed"], "", "revoked");
    let said = world.fails(&[&run[..], &["--agent", "keyed"]].concat(), "");
    assert_eq!((said.exit, said.code()), (1, "agent_revoked"));
    world.says(&["credential", "revoke", "broker"], "", "revoked");
    assert_eq!(world.fails(&run, "").code(), "credential_revoked");
    world.says(&["policy", "revoke", "brokerage"], "", "revoked");
    assert_eq!(world.fails(&run, "").code(), "policy_revoked");
    for unknown in [
        vec!["approve", NOBODY, "--as", "anna", "--yes"],
        vec!["token", "revoke", NOBODY],
        vec!["executions", "show", "exe_aaaaaaaaaaaaaaaaaaaaaaaaaa"],
        vec!["agent", "revoke", "nobody"],
        vec!["credential", "revoke", "nothing"],
        vec!["policy", "revoke", "nothing"],
    ] {
        assert_eq!(world.fails(&unknown, "").exit, 1, "{unknown:?}");
    }
    let shown = world.fails(&["policy", "show", "nothing"], "");
    assert!(shown.error.contains("toani policy list"), "{}", shown.error);
}

#[test]
fn at_a_terminal_people_see_and_are_asked() {
    let mut world = World::new();
    world.plane.serve().unwrap();
    world.plane.admit().unwrap();
    world.plane.activate(&world.upstream).unwrap();
    let endpoint = format!("127.0.0.1:{}", world.upstream.port());
    let (spki, add) = (world.upstream.spki(), ["credential", "add", "broker", "--private"]);
    let adding = [&add[..], &["--endpoint", &endpoint, "--spki", spki]].concat();
    let (exit, seen) = world.typed(&adding, "Value (not shown): ", TOKEN);
    assert_eq!(exit, 0, "{seen}");
    assert!(seen.contains("Sealed:") && !seen.contains(TOKEN), "{seen}");
    world.plane.wait_until_ready().unwrap();

    let (action, agent) = world.ask(&[]);
    let approving = ["approve", &action, "--as", "anna"];
    let question = "Type approve to go on: ";
    let (exit, seen) = world.typed(&approving, question, "yes");
    assert!(exit == 5 && seen.contains("nothing was signed"), "{seen}");
    let (exit, seen) = world.typed(&approving, question, "approve");
    assert_eq!(exit, 0, "{seen}");
    for shown in [
        &format!("POST https://{endpoint}/v1/orders"),
        "\"symbol\": \"ACME\"",
        "the credential goes in as \"bearer\"",
        "agent agent for user agent (as it claims)",
        "policy brokerage version 1, tier 2, 1 of 1 to approve",
        "Approved: the agent can go on",
    ] {
        assert!(seen.contains(shown), "{shown} is not in: {seen}");
    }
    assert_eq!(
        keys(&finished(agent).unwrap().ok().unwrap()),
        RESULT,
        "by the value that was typed"
    );
}

#[test]
fn without_a_plane_each_command_says_what_to_do() {
    let world = World::new();
    let plane = &world.plane;
    let policy = world.path("policy.yaml");
    world.says(&["policy", "new", "--out", &policy], "", "policy");
    let tiny = world.path("tiny.yaml");
    fs::write(&tiny, "agents: {}\npersons: {}\n").unwrap();
    world.says(&["agent", "add", "agent", "--policy", &tiny], "", "agent key policy");
    world.says(&["approver", "add", "anna", "--policy", &tiny], "", "key person policy");
    let (folder, bundle) = (world.path(""), world.path("b.tar"));

    let answers = "toani serve";
    for arguments in [
        vec!["status"],
        vec!["admission", "admit", "--sandbox", "native"],
        vec!["credential", "add", "x", "--endpoint", "a.example"],
        vec!["credential", "rotate", "x", "--endpoint", "a.example"],
        vec!["credential", "revoke", "x"],
        vec!["credential", "list"],
        vec!["policy", "list"],
        vec!["policy", "show", "x"],
        vec!["policy", "revoke", "x"],
        vec!["policy", "keys"],
        vec!["policy", "change-key"],
        vec!["agent", "revoke", "agent"],
        vec!["approvals", "list"],
        vec!["approve", NOBODY, "--as", "anna", "--yes"],
        vec!["deny", NOBODY, "--as", "anna", "--yes"],
        vec!["token", "revoke", NOBODY],
        vec!["run", "a.b"],
        vec!["executions", "list"],
        vec!["executions", "show", "exe_aaaaaaaaaaaaaaaaaaaaaaaaaa"],
        vec!["audit", "export", "--out", &bundle],
        vec!["audit", "user", "anna", "--day", "2026-03-11"],
    ] {
        let said = world.fails(&arguments, "value");
        assert_eq!((said.exit, said.code()), (3, "unreachable"), "{arguments:?}: {}", said.error);
        assert!(said.error.contains(answers), "{arguments:?}: {}", said.error);
    }
    assert!(!std::path::Path::new(&bundle).exists(), "nothing is written of what did not come");

    for (arguments, exit, says) in [
        (vec!["init"], 5, "another --home"),
        (vec!["serve", "--listen", "0.0.0.0:0"], 5, "loopback"),
        (vec!["serve", "--programs", &folder], 5, "--programs"),
        (vec!["policy", "new", "--out", &policy], 5, "move it away"),
        (vec!["policy", "check", "/nowhere.yaml"], 5, "cannot read /nowhere.yaml"),
        (vec!["policy", "check", &policy], 5, "agents: "),
        (vec!["policy", "sign", &tiny], 5, "missing field"),
        (vec!["policy", "activate", &policy], 5, "toani policy sign"),
        (vec!["policy", "simulate", &policy, "nodot", "--agent", "agent"], 5, "agents: "),
        (vec!["agent", "add", "agent", "--policy", &tiny], 5, "there already"),
        (vec!["agent", "add", "other", "--policy", "/nowhere.yaml"], 5, "/nowhere.yaml"),
        (vec!["approver", "add", "anna", "--policy", &tiny], 5, "there already"),
        (vec!["run", "a.b", "--agent", "nobody"], 5, "agent add"),
        (vec!["run", "nodot", "--url", "http://127.0.0.1:1"], 3, "127.0.0.1:1"),
        (vec!["run", "a.b", "--url", "https://x"], 2, "http://HOST:PORT"),
        (vec!["run", "a.b", "--token", "t"], 2, "--idempotency-key"),
        (vec!["approve", "act_1", "--as", "Anna"], 2, "--as"),
        (vec!["audit", "forget", "--through", "2025-12-31"], 2, "--yes"),
        (vec!["policy", "nonsense"], 2, "nonsense"),
        (vec![], 2, "Usage"),
    ] {
        let said = world.fails(&arguments, "");
        assert_eq!(said.exit, exit, "{arguments:?}: {}", said.error);
        assert!(said.error.contains(says), "{arguments:?}: {}", said.error);
    }

    let key = plane.home().join("agents/agent.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let open = world.fails(&["run", "a.b"], "");
    assert!(open.exit == 5 && open.error.contains("chmod 600"), "{}", open.error);
    fs::write(plane.trust(), "{}").unwrap();
    let broken = world.fails(&["policy", "list"], "");
    assert!(broken.exit == 5 && broken.error.contains("is no trust file"), "{}", broken.error);
    fs::remove_file(plane.trust()).unwrap();
    let none = world.fails(&["policy", "list"], "");
    assert!(none.exit == 5 && none.error.contains("toani init"), "{}", none.error);
}

#[test]
fn one_plane_at_a_time_serves_a_folder() {
    let mut world = World::new();
    world.plane.serve().unwrap();
    let second = world.fails(&["serve", "--listen", "127.0.0.1:0"], "");
    assert_eq!(second.exit, 5, "{}", second.error);
    let pid = world.plane.pid().unwrap().to_string();
    assert!(second.error.contains(&pid), "it names who holds the folder: {}", second.error);
    assert_eq!(world.plane.stop().unwrap(), 0);
    let log = world.plane.serve_log();
    assert!(log.contains("not admitted") && !log.contains('\u{1b}'), "colours in a file: {log}");
}
