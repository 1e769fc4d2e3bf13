//! What a policy's author is told before anything is signed, through the command line alone.

#![allow(clippy::unwrap_used, reason = "a failing test says where")]

use std::fs;

use serde_json::{Value, json};
use toani_tests::{
    Plane,
    plane::{Said, programs},
};

/// A policy with one action, of which a part is changed.
fn policy(part: &str, by: &str) -> String {
    let text = r#"id: p
version: 1
not_before: "2026-10-19T00:00:00Z"
expires: "2026-11-02T00:00:00Z"
namespace: main
agents:
  agent: {key: {api_key: "sha256:KEY"}, behind: []}
services:
  s:
    connector: direct_api
    endpoint: {host: api.example}
    actions:
      a:
        params: {type: object, properties: {note: {type: string}}}
        request: {method: POST, path: /, body: {note: {$param: note}}}
        tier: 0
"#;
    assert!(text.contains(part));
    text.replace(part, by).replace("KEY", &"0".repeat(64))
}

struct Author {
    plane: Plane,
    _folder: tempfile::TempDir,
}

impl Author {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let plane = Plane::init(&programs().unwrap(), &folder.path().join("home")).unwrap();
        Self { plane, _folder: folder }
    }

    fn file(&self, text: &str) -> String {
        let file = self.plane.home().join("policy.yaml");
        fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    }

    fn say(&self, command: &str, text: &str) -> Said {
        self.plane.toani(&["policy", command, &self.file(text)]).unwrap()
    }
}

#[test]
fn windows_in_a_zone_are_signed_as_intervals_and_the_author_sees_the_clocks_change() {
    let author = Author::new();
    let windows = "windows: [{zone: Europe/Berlin, days: [sun, mon], from: 02:30, until: 04:00}]";
    let text = policy("tier: 0", &format!("tier: 0\n        {windows}"));
    let checked = author.say("check", &text).ok().unwrap();
    let signed = author.say("sign", &text).ok().unwrap();
    let expected = json!([{
        "action": "s.a", "intervals": 5, "from": "2026-10-19T00:30:00Z",
        "until": "2026-11-01T03:00:00Z",
        "clock_changes": [{"at": "2026-10-25T01:00:00Z", "zone": "Europe/Berlin", "clocks": "back"}],
    }]);
    assert_eq!((&checked["windows"], &signed["windows"]), (&expected, &expected));
    assert!(checked["zone_data"].as_str().unwrap().starts_with("20"));
    let file = signed["signed"].as_str().unwrap();
    let document: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let windows = document.pointer("/payload/services/s/actions/a/windows").unwrap();
    // On the 25th, 02:30 to 03:00 in summer time, then 02:30 to 04:00 in winter time.
    assert_eq!(
        windows[1],
        json!({"from": "2026-10-25T00:30:00Z", "until": "2026-10-25T01:00:00Z"})
    );
    assert_eq!(
        windows[2],
        json!({"from": "2026-10-25T01:30:00Z", "until": "2026-10-25T03:00:00Z"})
    );

    for (at, decision) in [
        ("2026-10-25T00:29:59.999Z", "deny"),
        ("2026-10-25T00:30:00Z", "allow"),
        ("2026-10-25T01:00:00Z", "deny"),
        ("2026-10-25T01:30:00Z", "allow"),
        ("2026-10-25T02:59:59.999Z", "allow"),
        ("2026-10-25T03:00:00Z", "deny"),
    ] {
        let arguments = ["policy", "simulate", file, "s.a", "--agent", "agent", "--at", at];
        let said = author.plane.toani(&[&arguments[..], &["--params", r#"{"note":"x"}"#]].concat());
        let said = said.unwrap().ok().unwrap();
        assert_eq!(said["decision"], decision, "{at}: {said}");
    }
}

#[test]
fn what_no_request_could_use_is_refused_with_its_place() {
    let author = Author::new();
    let zoned = |zone: &str| {
        format!("tier: 0\n        windows: [{{zone: {zone}, from: \"09:00\", until: \"10:00\"}}]")
    };
    for (part, by, says) in [
        ("tier: 0", "tier: 0\n        least: {approval: key}", "s.actions.a: `least.approval`"),
        ("note: {type: string}", "Pass-Word: {type: string}", "named \"Pass-Word\""),
        (
            "note: {type: string}",
            "n: {type: array, items: {type: object, properties: {secret: {type: string}}}}",
            "named \"secret\"",
        ),
        ("tier: 0", &zoned("Europe/Berlim"), "s.actions.a.windows: window 1: \"Europe/Berlim\""),
        ("host: api.example", "host: API.example", "services.s: host must be"),
        (
            "tier: 0",
            "tier: 3",
            "services.s.actions.a.tier: not of the expected form: a tier is 0, 1 or 2",
        ),
        ("tier: 0", "tires: 0", "services.s.actions.a.tires: unknown"),
        ("id: p", "id: p\nid: q", "policy.yaml is neither YAML nor JSON: "),
        ("    connector: direct_api", "\tconnector: direct_api", "line 10"),
        ("version: 1", "version: one", "version: "),
    ] {
        let text = policy(part, by).replace("{note: {$param: note}}", "{}");
        for command in ["check", "sign"] {
            let said = author.say(command, &text);
            assert_eq!((said.exit, said.code()), (5, "local"), "{by}: {}", said.error);
            let detail = said.value["error"]["detail"].as_str().unwrap().to_owned();
            assert!(detail.contains(says), "{by}: {detail}");
        }
    }
    let person = format!(
        "persons: {{anna: {{keys: [{{ed25519: \"{}\"}}]}}}}\nagents:",
        author.plane.owner()
    );
    let approved = "tier: 2\n        approval: {approvers: [anna]}";
    let text = policy("tier: 0", approved).replace("agents:", &person);
    let said = author.say("check", &text);
    assert!(said.error.contains("0 have a key that is good for tier 2"), "{}", said.error);
    assert_eq!(author.say("check", &text.replace("tier: 2", "tier: 1")).exit, 0);
    // Not everything of a similar kind is.
    for (part, by) in [
        ("note: {type: string}", "secret_santa: {type: string}, secret: {type: boolean}"),
        ("note: {type: string}", "token_id: {type: string}"),
    ] {
        let text = policy(part, by).replace("{note: {$param: note}}", "{}");
        assert_eq!(author.say("check", &text).exit, 0, "{by}");
    }
}
