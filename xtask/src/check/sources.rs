//! What sources may say.

use crate::{
    lexer::{code_only, test_modules, without_tests, words},
    repo::Repo,
};

/// Lines of code of trusted/ and image/: neither blank, nor comment, nor test. Fewer than this.
const TRUSTED_LINES_MAX: usize = 12_500;

const TRUSTED: &[&str] = &["trusted/", "image/"];

/// Words that mean a clock, a file, a socket, a thread or the library that has them.
const HOST_WORDS: &[&str] = &[
    "std",
    "tokio",
    "SystemTime",
    "Instant",
    "File",
    "Socket",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "println",
    "eprintln",
];

/// Files that may hold unsafe code: one for each concern that safe Rust cannot express.
const UNSAFE_FILES: &[&str] = &[
    // The wipe, and its tests, which look at memory that nobody owns any more.
    "trusted/zeroize/src/wipe.rs",
    "trusted/zeroize/src/tests.rs",
    // All of the image: entry, heap, the border, ENCLU.
    "image/src/runtime.rs",
    // The network that a runner leaves.
    "host/enclave-host/src/runner/confine.rs",
    // The kernel's SGX driver and its vDSO.
    "host/enclave-host/src/sgx/driver.rs",
    "host/enclave-host/src/sgx/enter.rs",
    "host/enclave-host/src/sgx/mod.rs",
    // Mapping and entering the image where there is no SGX.
    "host/simulator/src/machine/enclu.rs",
    "host/simulator/src/machine/map.rs",
    "host/simulator/src/machine/mod.rs",
    // The door's descriptor, which the connector inherits.
    "host/connectors/src/inherited.rs",
    // What a container's program tries when it is hostile: tests run it, nothing ships it.
    "host/sandbox/probe/below.rs",
    "host/sandbox/probe/browse/doors.rs",
    "host/sandbox/probe/calls.rs",
    // Namespaces, limits and system call filters of the sandbox.
    "host/sandbox/src/native/sys.rs",
    // The driver of SEV-SNP guests.
    "host/sandbox/src/guest/ioctl.rs",
];

/// Types whose possession proves a check.
const PROOF_TYPES: &[&str] = &[
    "AttestedBoot",
    "AttestedEnclave",
    "AttestedPeer",
    "DurableStart",
    "RedeemedToken",
    "SgxVerdict",
    "SnpVerdict",
    "VerifiedAdmission",
    "VerifiedPolicy",
];

/// Where key material of tests may stand.
const TEST_VECTORS: &str = "tests/vectors/";

fn is_test_path(path: &str) -> bool {
    path.contains("/tests/") || path.contains("/benches/") || path.ends_with("/tests.rs")
}

/// Rust files of the trusted side that are compiled into it.
fn trusted_files(repo: &Repo) -> Vec<(&str, &str)> {
    let mut test_only = Vec::new();
    let files: Vec<_> = TRUSTED.iter().flat_map(|folder| repo.rust_files(folder)).collect();
    for (path, text) in &files {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let stem = name.trim_end_matches(".rs");
        for module in test_modules(text) {
            test_only.push(format!("{folder}/{module}.rs"));
            test_only.push(format!("{folder}/{stem}/{module}.rs"));
        }
    }
    let compiled = |path: &str| !is_test_path(path) && !test_only.iter().any(|test| test == path);
    files.into_iter().filter(|(path, _)| compiled(path)).collect()
}

pub(super) fn trusted_size(repo: &Repo) -> Vec<String> {
    let count = |text: &str| {
        let text = code_only(&without_tests(text));
        text.lines().filter(|line| !line.trim().is_empty()).count()
    };
    let lines: usize = trusted_files(repo).iter().map(|(_, text)| count(text)).sum();
    if lines < TRUSTED_LINES_MAX {
        return Vec::new();
    }
    vec![format!(
        "trusted/ and image/ have {lines} lines of code without tests; fewer than {TRUSTED_LINES_MAX} are allowed"
    )]
}

pub(super) fn trusted_attributes(repo: &Repo) -> Vec<String> {
    let mut breaches = Vec::new();
    for (path, text) in repo.rust_files("trusted/") {
        let is_root = path.ends_with("/src/lib.rs") && path.matches('/').count() == 3;
        if !is_root {
            continue;
        }
        let code = code_only(text);
        // What is forbidden cannot be allowed for one file.
        let folder = path.trim_end_matches("lib.rs");
        let exempt = UNSAFE_FILES.iter().any(|file| file.starts_with(folder));
        let safe = if exempt { "#![deny(unsafe_code)]" } else { "#![forbid(unsafe_code)]" };
        for attribute in ["#![no_std]", safe] {
            if !code.contains(attribute) {
                breaches.push(format!("{path} lacks {attribute}"));
            }
        }
    }
    for (_, package) in repo.members() {
        let trusted = package.folder.as_deref().filter(|folder| folder.starts_with("trusted/"));
        if let Some(folder) = trusted
            && !repo.files.contains_key(&format!("{folder}/src/lib.rs"))
        {
            breaches.push(format!("{folder} has no src/lib.rs"));
        }
    }
    breaches
}

pub(super) fn trusted_words(repo: &Repo) -> Vec<String> {
    let mut breaches = Vec::new();
    for (path, text) in trusted_files(repo) {
        // A build script is part of the toolchain, and runs where that does.
        if !path.starts_with("trusted/") || path.ends_with("/build.rs") {
            continue;
        }
        let code = code_only(&without_tests(text));
        for (_, word) in words(&code).filter(|(_, word)| HOST_WORDS.contains(word)) {
            breaches.push(format!("{path} says `{word}`"));
        }
    }
    breaches
}

pub(super) fn unsafe_files(repo: &Repo) -> Vec<String> {
    let mut breaches = Vec::new();
    for (path, text) in repo.rust_files("") {
        if UNSAFE_FILES.contains(&path) {
            continue;
        }
        let code = code_only(text);
        for (line, word) in words(&code) {
            // `unsafe_code` is the lint's name: allowing it is as bad, forbidding it is not.
            let allows = word == "unsafe_code"
                && code
                    .lines()
                    .nth(line - 1)
                    .is_some_and(|line| line.contains("allow(") || line.contains("expect("));
            if word == "unsafe" || allows {
                breaches.push(format!(
                    "{path}:{line} holds unsafe code; see UNSAFE_FILES of xtask's check"
                ));
            }
        }
    }
    breaches
}

/// Clippy asks for a reason at each unsafe block; this sees to it that clippy is asked.
pub(super) fn lints(repo: &Repo) -> Vec<String> {
    let mut breaches = Vec::new();
    let root = repo.files.get("Cargo.toml").map_or("", String::as_str);
    for lint in [
        "unsafe_code = \"deny\"",
        "undocumented_unsafe_blocks = \"deny\"",
        "unwrap_used = \"deny\"",
    ] {
        if !root.contains(lint) {
            breaches.push(format!("the workspace's lints lack {lint}"));
        }
    }
    let image = repo.files.get("image/Cargo.toml").map_or("", String::as_str);
    if !image.is_empty() && !image.contains("undocumented_unsafe_blocks = \"deny\"") {
        breaches.push("the image's lints lack undocumented_unsafe_blocks".to_owned());
    }
    // The image is a workspace of its own, with lints of its own.
    let own = |folder: &str| folder == "image" || folder.starts_with("image/");
    for (_, package) in repo.members() {
        if package.folder.as_deref().is_some_and(own) {
            continue;
        }
        let manifest = format!("{}/Cargo.toml", package.folder.as_deref().unwrap_or_default());
        let text = repo.files.get(&manifest).map_or("", String::as_str);
        let keeps = text.split("[lints]").nth(1).is_some_and(|rest| {
            let mut lines = rest.lines().map(str::trim).filter(|line| !line.is_empty());
            lines.next() == Some("workspace = true")
        });
        if !keeps {
            breaches.push(format!("{manifest} lacks [lints] workspace = true"));
        }
    }
    breaches
}

pub(super) fn proof_types(repo: &Repo) -> Vec<String> {
    let mut breaches = Vec::new();
    for (path, text) in repo.rust_files("") {
        if path.starts_with("xtask/") {
            continue;
        }
        let code = code_only(&without_tests(text));
        for name in PROOF_TYPES {
            breaches.extend(
                breaches_of_proof(&code, name).map(|what| format!("{path}: {name} {what}")),
            );
        }
    }
    breaches
}

fn breaches_of_proof<'a>(code: &'a str, name: &'a str) -> impl Iterator<Item = &'static str> + 'a {
    let conjured = ["Default", "Deserialize", "DeserializeOwned"];
    let by_hand = words_before_for(code, name).any(|word| conjured.contains(&word));
    let definitions = code.match_indices("struct ").filter(move |(at, _)| {
        let after = code.get(at + 7..).unwrap_or_default();
        words(after).next().map(|(_, word)| word) == Some(name)
    });
    let defined = definitions.flat_map(move |(at, _)| {
        let (before, after) = code.split_at(at);
        // Attributes stand between the end of the item before and this one.
        let attributes = before.rsplit([';', '}']).next().unwrap_or_default();
        let end = after.find(['}', ';']).unwrap_or(after.len());
        let body = after.get(..end).unwrap_or_default();
        let derives = words(attributes).any(|(_, word)| conjured.contains(&word));
        let open = body.find(['{', '(']).and_then(|at| body.get(at..)).unwrap_or_default();
        let public = words(open).any(|(_, word)| word == "pub");
        [
            derives.then_some("derives Default or Deserialize"),
            public.then_some("has a public field"),
        ]
    });
    let by_hand = by_hand.then_some("implements Default or Deserialize");
    defined.chain([by_hand]).flatten()
}

/// Traits that are implemented for a type: the words between `impl` and `for NAME`.
fn words_before_for<'a>(code: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let impls = code.split("impl").skip(1);
    impls
        .filter_map(|after| after.split('{').next())
        .filter_map(|head| head.split_once(" for "))
        .filter(move |(_, target)| words(target).next().map(|(_, word)| word) == Some(name))
        .flat_map(|(traits, _)| words(traits).map(|(_, word)| word))
}

pub(super) fn private_keys(repo: &Repo) -> Vec<String> {
    // Put together here, so that this file does not hold it.
    let marks = ["PRIVATE KEY-----", "PRIVATE KEY BLOCK-----", "OPENSSH PRIVATE KEY"];
    let begin = ["-----", "BEGIN"].concat();
    let mut breaches = Vec::new();
    for (path, text) in &repo.files {
        if path.starts_with(TEST_VECTORS) {
            continue;
        }
        let holds = text
            .lines()
            .any(|line| line.contains(&begin) && marks.iter().any(|mark| line.contains(mark)));
        if holds {
            breaches.push(format!("{path} holds a private key"));
        }
    }
    breaches
}
