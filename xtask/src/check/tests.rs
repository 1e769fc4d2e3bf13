//! Breaks each invariant in a made-up repository and sees it found.

use std::collections::BTreeSet;

use super::*;
use crate::repo::{Kind, Package};

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn package(name: &str, folder: Option<&str>, needs: &[&str]) -> (String, Package) {
    let dependencies: BTreeSet<_> =
        needs.iter().map(|need| ((*need).to_owned(), Kind::Normal)).collect();
    let package = Package {
        name: name.to_owned(),
        version: "1.0.0".to_owned(),
        folder: folder.map(str::to_owned),
        license: Some("MIT OR Apache-2.0".to_owned()),
        source: folder.is_none().then(|| REGISTRY.to_owned()),
        dependencies,
    };
    (name.to_owned(), package)
}

/// A repository that keeps every invariant.
fn sound() -> Repo {
    let members: &[(&str, &str, &[&str])] = &[
        ("toani-protocol", "trusted/protocol", &["serde"]),
        ("toani-policy", "trusted/policy", &["toani-protocol"]),
        ("toani-audit", "trusted/audit", &["toani-protocol"]),
        ("toani-enclave", "trusted/enclave", &["toani-policy", "toani-audit"]),
        ("toani-image", "image", &["toani-enclave"]),
        ("toani-gateway", "host/gateway", &["toani-protocol", "axum", "tokio"]),
        ("toani-audit-log", "host/audit-log", &["toani-protocol"]),
        ("toani-cli", "host/cli", &["toani-gateway", "hyper"]),
        ("toani-verify", "verifier", &["toani-audit"]),
        ("toani-bench", "bench", &["toani-enclave"]),
    ];
    let mut repo = Repo::default().with_file(
        "Cargo.toml",
        "unsafe_code = \"deny\"\nundocumented_unsafe_blocks = \"deny\"\nunwrap_used = \"deny\"\n",
    );
    for (name, folder, needs) in members {
        repo.packages.extend([package(name, Some(folder), needs)]);
        let root = "#![no_std]\n#![forbid(unsafe_code)]\npub struct VerifiedPolicy { hash: u8 }\n";
        repo = repo
            .with_file(&format!("{folder}/Cargo.toml"), "[lints]\nworkspace = true\n")
            .with_file(&format!("{folder}/src/lib.rs"), root);
    }
    repo = repo.with_file("image/Cargo.toml", "undocumented_unsafe_blocks = \"deny\"\n");
    for name in ["serde", "axum", "tokio", "hyper"] {
        repo.packages.extend([package(name, None, &[])]);
    }
    let readme: String =
        crate::SUBCOMMANDS.iter().map(|(name, _)| format!("./x {name}\n")).collect();
    repo.with_file(
        "README.md",
        &format!("# Title one\n{readme}[docs](docs/A.md#a-b) [here](#title-one)\n"),
    )
    .with_file("docs/A.md", "# A B\n[up](../README.md) `[no](link)`\n")
}

fn need(repo: &mut Repo, who: &str, kind: Kind, what: &str) {
    let package = repo.packages.get_mut(who).unwrap();
    package.dependencies.insert((what.to_owned(), kind));
}

/// Asserts that exactly this invariant finds something, and that it says `word`.
fn breaks(repo: &Repo, invariant: fn(&Repo) -> Vec<String>, word: &str) {
    let breaches = invariant(repo);
    assert!(breaches.iter().any(|breach| breach.contains(word)), "{word}: {breaches:?}");
}

#[test]
fn a_sound_repository_passes() {
    let repo = sound();
    for (name, invariant) in INVARIANTS {
        assert_eq!(invariant(&repo), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn layers_break() {
    let mut repo = sound();
    need(&mut repo, "toani-protocol", Kind::Normal, "toani-policy");
    breaks(&repo, layers::trusted_layers, "toani-protocol may not need toani-policy");

    let mut repo = sound();
    need(&mut repo, "toani-audit", Kind::Normal, "toani-policy");
    breaks(&repo, layers::trusted_layers, "toani-audit may not need toani-policy");

    let mut repo = sound();
    need(&mut repo, "toani-policy", Kind::Dev, "toani-gateway");
    breaks(&repo, layers::trusted_layers, "the tests of toani-policy");

    // What a named crate's tests may need, another's may not.
    let mut repo = sound();
    let simulator = package("toani-simulator", Some("host/simulator"), &[]);
    repo.packages.extend([simulator]);
    need(&mut repo, "toani-policy", Kind::Dev, "toani-simulator");
    breaks(&repo, layers::trusted_layers, "the tests of toani-policy may not need toani-simulator");

    let mut repo = sound();
    repo.packages.extend([package("toani-new", Some("trusted/new"), &[])]);
    breaks(&repo, layers::trusted_layers, "toani-new is not named");

    let mut repo = sound();
    need(&mut repo, "serde", Kind::Normal, "tokio");
    breaks(&repo, layers::trusted_closure, "toani-protocol links tokio");

    let mut repo = sound();
    need(&mut repo, "toani-enclave", Kind::Normal, "toani-audit-log");
    breaks(&repo, layers::trusted_closure, "toani-enclave links toani-audit-log");
}

#[test]
fn links_break() {
    let mut repo = sound();
    need(&mut repo, "toani-audit-log", Kind::Normal, "toani-enclave");
    breaks(&repo, layers::enclave_in_the_image, "toani-audit-log links toani-enclave");

    let mut repo = sound();
    need(&mut repo, "toani-verify", Kind::Normal, "toani-audit-log");
    breaks(&repo, layers::verifier, "toani-verify links toani-audit-log");

    let mut repo = sound();
    need(&mut repo, "toani-cli", Kind::Normal, "axum");
    breaks(&repo, layers::http, "toani-cli may not use axum");

    let mut repo = sound();
    need(&mut repo, "toani-audit-log", Kind::Normal, "hyper");
    breaks(&repo, layers::http, "toani-audit-log may not use hyper");

    let mut repo = sound();
    for i in 0..120 {
        let name = format!("small-{i}");
        repo.packages.extend([package(&name, None, &[])]);
        need(&mut repo, "toani-audit", Kind::Normal, &name);
    }
    breaks(&repo, layers::trusted_crates, "crates; fewer than 120");
}

#[test]
fn the_trusted_base_grows_too_long() {
    let long = "fn f() {}\n".repeat(12_500);
    let repo = sound().with_file("trusted/enclave/src/long.rs", &long);
    breaks(&repo, sources::trusted_size, "lines of code");
    // Blank lines, comments and tests do not count.
    let tests = format!("{}#[cfg(test)]\nmod tests {{\n{long}}}\n", "// why\n\n".repeat(9_000));
    let repo = sound()
        .with_file("trusted/enclave/src/long.rs", &tests)
        .with_file("trusted/enclave/tests/long.rs", &long);
    assert_eq!(sources::trusted_size(&repo), Vec::<String>::new());
}

#[test]
fn trusted_sources_break() {
    let repo =
        sound().with_file("trusted/policy/src/lib.rs", "#![no_std]\n// #![forbid(unsafe_code)]");
    breaks(&repo, sources::trusted_attributes, "lacks #![forbid(unsafe_code)]");
    let repo = sound().with_file("trusted/policy/src/lib.rs", "#![forbid(unsafe_code)]");
    breaks(&repo, sources::trusted_attributes, "lacks #![no_std]");
    // The crate of the wipe has one file that may, and so it denies.
    let wipe = |root: &str| sound().with_file("trusted/zeroize/src/lib.rs", root);
    breaks(&wipe("#![no_std]"), sources::trusted_attributes, "lacks #![deny(unsafe_code)]");
    let repo = wipe("#![no_std]\n#![deny(unsafe_code)]");
    assert_eq!(sources::trusted_attributes(&repo), Vec::<String>::new());

    for bad in [
        "use std::fs;",
        "extern crate std;",
        "let x: Instant;",
        "fn f(t: SystemTime) {}",
        "File::open(x)",
    ] {
        let repo = sound().with_file("trusted/policy/src/more.rs", bad);
        breaks(&repo, sources::trusted_words, "trusted/policy/src/more.rs says");
    }
    let repo = sound()
        .with_file(
            "trusted/policy/src/more.rs",
            "// std::\n#[cfg(test)]\nmod only;\n#[cfg(test)] mod t { use std::fs; }",
        )
        .with_file("trusted/policy/src/more/only.rs", "use std::fs;");
    assert_eq!(sources::trusted_words(&repo), Vec::<String>::new());
}

#[test]
fn unsafe_code_is_found() {
    let repo = sound().with_file("host/gateway/src/a.rs", "fn f() { unsafe { g() } }");
    breaks(&repo, sources::unsafe_files, "host/gateway/src/a.rs:1 holds unsafe code");
    let repo = sound().with_file("host/gateway/src/a.rs", "\n#![allow(unsafe_code)]");
    breaks(&repo, sources::unsafe_files, "host/gateway/src/a.rs:2 holds unsafe code");
    let repo = sound().with_file("host/gateway/src/a.rs", "// unsafe\nlet a = \"unsafe\";");
    assert_eq!(sources::unsafe_files(&repo), Vec::<String>::new());
    let repo = sound().with_file("host/gateway/Cargo.toml", "[package]\n");
    breaks(&repo, sources::lints, "host/gateway/Cargo.toml lacks");
    let repo = sound().with_file("Cargo.toml", "unsafe_code = \"deny\"");
    breaks(&repo, sources::lints, "undocumented_unsafe_blocks");
}

#[test]
fn proof_types_break() {
    let path = "trusted/policy/src/proof.rs";
    for (bad, word) in [
        ("pub struct VerifiedPolicy { pub hash: Hash }", "public field"),
        ("pub struct VerifiedPolicy(pub(crate) Hash);", "public field"),
        ("#[derive(Debug, Deserialize)]\npub struct DurableStart { a: u8 }", "derives"),
        ("#[derive(Default)]\n/// Doc.\n#[repr(C)]\nstruct RedeemedToken;", "derives"),
        ("impl Default for VerifiedAdmission { }", "implements"),
        ("impl<'de> serde::Deserialize<'de> for VerifiedPolicy {}", "implements"),
    ] {
        breaks(&sound().with_file(path, bad), sources::proof_types, word);
    }
    let good = "#[derive(Default)] struct A; #[derive(Debug)] pub struct VerifiedPolicy { a: u8 }\nimpl Default for A {}\n pub struct B { pub c: u8 }";
    assert_eq!(sources::proof_types(&sound().with_file(path, good)), Vec::<String>::new());
}

#[test]
fn licences_break() {
    let licensed = |licence: Option<&str>| {
        let mut repo = sound();
        repo.packages.get_mut("serde").unwrap().license = licence.map(str::to_owned);
        licences::licences(&repo)
    };
    for good in [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-3.0 OR MPL-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
    ] {
        assert!(licensed(Some(good)).is_empty(), "{good}");
    }
    for bad in [
        Some("GPL-3.0"),
        Some("MIT AND AGPL-3.0"),
        Some("Apache-2.0 WITH Classpath-exception-2.0"),
        Some("CDLA-Permissive-2.0"),
        Some("nonsense"),
        None,
    ] {
        assert!(!licensed(bad).is_empty(), "{bad:?}");
    }
    let sourced = |source: Option<&str>| {
        let mut repo = sound();
        repo.packages.get_mut("serde").unwrap().source = source.map(str::to_owned);
        licences::licences(&repo)
    };
    assert!(!sourced(Some("git+https://example.com/serde#abc")).is_empty());
    assert!(!sourced(None).is_empty(), "a path outside the repository");
}

#[test]
fn documents_break() {
    for bad in
        ["[x](nowhere.md)", "[x](../A.md)", "[x](#nothing)", "[x](A.md#c)", "[x]: nowhere.md"]
    {
        let repo = sound().with_file("docs/B.md", bad);
        breaks(&repo, docs::links, "docs/B.md links to");
    }
    let repo = sound().with_file("README.md", "./x demo ./x test");
    breaks(&repo, docs::subcommands, "README.md does not document ./x fuzz");
    let repo = sound().with_file("docs/B.md", "run `./x deploy`");
    breaks(&repo, docs::subcommands, "docs/B.md names ./x deploy");
}

#[test]
fn a_private_key_is_found() {
    let key = ["-----", "BEGIN EC ", "PRIVATE KEY-----"].concat();
    let repo = sound().with_file("docs/key.pem", &key);
    breaks(&repo, sources::private_keys, "docs/key.pem holds a private key");
    let repo = sound().with_file("tests/vectors/key.pem", &key);
    assert_eq!(sources::private_keys(&repo), Vec::<String>::new());
}
