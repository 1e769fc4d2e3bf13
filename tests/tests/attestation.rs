//! What the command line says is proven of a running plane, and what it refuses to believe.

#![allow(clippy::unwrap_used, reason = "a failing test says where")]

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use toani_protocol::{Hash, canonical};
use toani_tests::{
    Brokerage, Plane,
    plane::{Said, programs},
};

const TOKEN: &str = "token-of-the-attestation-tests";

/// A plane that runs, and a folder for files.
struct World {
    folder: tempfile::TempDir,
    plane: Plane,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut plane = Plane::init(&programs().unwrap(), &folder.path().join("home")).unwrap();
        plane.serve().unwrap();
        Self { folder, plane }
    }

    fn file(&self, name: &str, value: &Value) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, canonical::encode_value(value).unwrap()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn trust(&self) -> Value {
        serde_json::from_slice(&fs::read(self.plane.trust()).unwrap()).unwrap()
    }

    /// What `GET /v1/instance` answers.
    fn instance(&self) -> Value {
        let url = self.plane.announced()["url"].as_str().unwrap();
        let authority = url.strip_prefix("http://").unwrap().trim_end_matches('/');
        let mut stream = TcpStream::connect(authority).unwrap();
        let head = format!("GET /v1/instance HTTP/1.1\r\nHost: {authority}\r\n");
        stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    /// The trust file of an instance on another machine, so under another root.
    fn stranger(&self) -> Value {
        let (home, machine) = (self.path("stranger"), self.path("other-machine"));
        let status = Command::new(programs().unwrap().join("toani"))
            .arg("--home")
            .arg(&home)
            .args(["init", "--simulator", "--machine"])
            .arg(machine)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        serde_json::from_slice(&fs::read(home.join("trust.json")).unwrap()).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn says(&self, arguments: &[&str]) -> Said {
        self.plane.toani(arguments).unwrap()
    }

    fn refused(&self, arguments: &[&str], code: &str, place: &str) {
        let said = self.says(arguments);
        assert_eq!((said.exit, said.code()), (1, code), "{arguments:?}: {}", said.error);
        assert!(said.error.contains(place), "{arguments:?}: {}", said.error);
    }
}

#[test]
fn what_is_proven_is_shown_and_what_is_not() {
    let world = World::new();
    let shown = world.says(&["instance", "show"]).ok().unwrap();
    let told = world.instance();
    assert_eq!(shown["evidence"]["tee"], "simulator");
    assert_eq!(shown["evidence"]["boot"], told["boot"]);
    assert_eq!(shown["evidence"]["root"], world.trust()["sgx_roots"][0]);
    assert_eq!(shown["evidence"]["tcb_status"], "UpToDate");
    let not_proven = shown["not_proven"].as_array().unwrap();
    assert!(not_proven[0].as_str().unwrap().contains("its protection is not"), "{shown}");
    let status = world.says(&["status"]).ok().unwrap();
    assert_eq!(status["tee_means"], shown["tee_means"]);

    let stranger = world.stranger();
    let trust = world.trust();
    for (changed, code, place) in [
        (json!({"sgx_roots": stranger["sgx_roots"]}), "evidence_quote", "accepted roots"),
        (json!({"mrenclaves": [stranger["instance"]]}), "evidence_measurement", "measurement"),
        (json!({"instance": stranger["instance"]}), "evidence_told", "another instance"),
        (json!({"intake_key": stranger["intake_key"]}), "evidence_told", "another intake key"),
        (json!({"log": stranger["log"]}), "evidence_told", "another chain key"),
    ] {
        let mut other = trust.clone();
        other.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
        fs::write(world.plane.trust(), canonical::encode_value(&other).unwrap()).unwrap();
        world.refused(&["instance", "show"], code, place);
    }
}

#[test]
fn evidence_is_verified_offline_and_the_place_that_fails_is_named() {
    let mut world = World::new();
    let told = world.instance();
    let text = |name: &str| told[name].as_str().unwrap().to_owned();
    let (boot, channel) = (text("boot"), text("channel"));
    world.plane.stop().unwrap();
    let trust = world.plane.trust();
    let trust = trust.to_str().unwrap().to_owned();
    let verify = |file: &str, more: &[&str]| {
        let arguments = ["attestation", "verify", file, "--trust", &trust];
        [&arguments[..], more].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let verified = |file: &str, more: &[&str]| {
        let arguments = verify(file, more);
        world.says(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let refused = |file: &str, more: &[&str], code: &str, place: &str| {
        let arguments = verify(file, more);
        world.refused(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), code, place);
    };

    let answer = world.file("instance.json", &told);
    assert_eq!(verified(&answer, &[]).ok().unwrap()["verified"], true);
    let document = world.file("evidence.json", &told["evidence"]);
    let named = ["--boot", &boot, "--channel", &channel];
    assert_eq!(verified(&document, &named).ok().unwrap()["evidence"]["boot"], boot);
    let nameless = verified(&document, &[]);
    assert_eq!((nameless.exit, nameless.code()), (2, "usage"));
    let other = "boot_aaaaaaaaaaaaaaaaaaaaaaaaaa";
    let of_another = ["--boot", other, "--channel", &channel];
    refused(&document, &of_another, "evidence_keys", "another instance, boot");
    let another = Hash::of(b"another key").to_string();
    let of_another = ["--boot", &boot, "--channel", &another];
    refused(&document, &of_another, "evidence_keys", "channel key");
    refused(&answer, &["--at", "2099-01-01T00:00:00Z"], "evidence_quote", "expired");
    refused(&answer, &["--at", "2021-01-01T00:00:00Z"], "evidence_quote", "not valid yet");

    let stranger = world.file("stranger.json", &world.stranger());
    let by_stranger = world.says(&["attestation", "verify", &answer, "--trust", &stranger]);
    assert_eq!((by_stranger.exit, by_stranger.code()), (1, "evidence_told"));

    let mut forged = told.clone();
    let quote = forged.pointer_mut("/evidence/evidence/sgx/quote").unwrap();
    let text = quote.as_str().unwrap();
    // MRENCLAVE begins at byte 112 of a quote: character 152 is within it.
    let flipped = if text.as_bytes()[152] == b'A' { "B" } else { "A" };
    *quote = format!("{}{flipped}{}", &text[..152], &text[153..]).into();
    let forged = world.file("forged.json", &forged);
    refused(&forged, &[], "evidence_quote", "the attestation key did not sign the quote");
    let empty = world.file("empty.json", &json!({}));
    refused(&empty, &named, "evidence_document", "no canonical document");
    assert_eq!(verified("none.json", &[]).exit, 5);
}

#[test]
fn nothing_is_sealed_to_a_plane_that_does_not_prove_itself() {
    let world = World::new();
    let brokerage = Brokerage::start(&programs().unwrap(), TOKEN, 0).unwrap();
    world.plane.activate(&brokerage).unwrap();
    let (trust, stranger) = (world.trust(), world.stranger());
    let put = |trust: &Value| {
        fs::write(world.plane.trust(), canonical::encode_value(trust).unwrap()).unwrap();
    };
    let seal = ["credential", "add", "broker", "--endpoint", "a.example"];
    for (field, code) in [("sgx_roots", "evidence_quote"), ("instance", "evidence_told")] {
        let mut other = trust.clone();
        other[field] = stranger[field].clone();
        put(&other);
        let said = world.plane.toani_with(&seal, TOKEN).unwrap();
        assert_eq!((said.exit, said.code()), (1, code), "{}", said.error);
        assert!(said.error.contains("nothing was sealed"), "{}", said.error);
        let listed = world.says(&["credential", "list"]).ok().unwrap();
        assert_eq!(listed["credentials"], json!([]));
    }
    put(&trust);
    world.plane.seal(&brokerage, TOKEN).unwrap();
}
