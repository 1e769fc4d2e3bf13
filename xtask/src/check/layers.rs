//! Who may depend on whom.

use crate::repo::{Kind, Package, Repo};

/// What each trusted crate may need of the workspace. A new crate is added here on purpose.
const TRUSTED: &[(&str, &[&str])] = &[
    (WIPE, &[]),
    ("toani-protocol", &[]),
    ("toani-policy", &["toani-protocol"]),
    ("toani-audit", &["toani-protocol"]),
    ("toani-attestation", &["toani-protocol"]),
    ("toani-tls", &["toani-protocol"]),
    (
        "toani-enclave",
        &["toani-protocol", "toani-policy", "toani-audit", "toani-attestation", "toani-tls"],
    ),
];

/// Our own in the place of the crates.io package, so that it stands below every library: all may
/// need it.
const WIPE: &str = "zeroize";

/// What the tests of a trusted crate may need of the host: a simulator that makes what they verify.
const TRUSTED_TESTS: &[(&str, &str)] =
    &[("toani-attestation", "toani-simulator"), ("toani-enclave", "toani-simulator")];

/// Crates that bring a runtime, a clock, files or sockets.
const RUNTIMES: &[&str] = &[
    "async-std",
    "chrono",
    "hyper",
    "mio",
    "nix",
    "reqwest",
    "rusqlite",
    "rustix",
    "smol",
    "socket2",
    "tokio",
];

/// Crates in the normal dependency closure of trusted/, its own included: fewer than this.
const TRUSTED_CRATES_MAX: usize = 120;

const ENCLAVE: &str = "toani-enclave";

/// Who may use which HTTP crate directly. Connectors and the CLI are clients; they need no server.
const HTTP: &[(&str, &[&str])] = &[
    ("axum", &["toani-gateway"]),
    ("tower-http", &["toani-gateway"]),
    ("utoipa", &["toani-gateway"]),
    ("utoipa-axum", &["toani-gateway"]),
    ("hyper", &["toani-gateway", "toani-connectors", "toani-cli"]),
    ("hyper-util", &["toani-gateway", "toani-connectors", "toani-cli"]),
];

/// Folders of programs that ship. What tests and measures them may link more.
const SHIPPED: &[&str] = &["host/", "verifier", "management/", "sdk/"];

fn is_below(package: &Package, folder: &str) -> bool {
    package.folder.as_deref().is_some_and(|own| own.starts_with(folder))
}

/// `protocol <- policy <- enclave`; `audit`, `attestation` and `tls` need only `protocol`.
pub(super) fn trusted_layers(repo: &Repo) -> Vec<String> {
    let mut breaches = Vec::new();
    for (_, package) in repo.members().filter(|(_, p)| is_below(p, "trusted/")) {
        let name = &package.name;
        let Some((_, allowed)) = TRUSTED.iter().find(|(known, _)| known == name) else {
            breaches.push(format!("{name} is not named in the layers of xtask's check"));
            continue;
        };
        for needed in repo.direct(package, &[Kind::Normal, Kind::Build]) {
            let name_allowed = needed.name == WIPE || allowed.contains(&needed.name.as_str());
            if needed.folder.is_some() && !name_allowed {
                breaches.push(format!("{name} may not need {}", needed.name));
            }
        }
        for needed in repo.direct(package, &[Kind::Dev]) {
            let allowed = TRUSTED_TESTS.contains(&(name.as_str(), needed.name.as_str()));
            if needed.folder.is_some() && !is_below(needed, "trusted/") && !allowed {
                breaches.push(format!("the tests of {name} may not need {}", needed.name));
            }
        }
    }
    breaches
}

/// Nothing that trusted crates link belongs to the host or brings a runtime.
pub(super) fn trusted_closure(repo: &Repo) -> Vec<String> {
    let mut breaches = Vec::new();
    for (id, package) in repo.members().filter(|(_, p)| is_below(p, "trusted/")) {
        for linked in repo.closure(id) {
            let Some(linked) = repo.packages.get(linked) else {
                continue;
            };
            let foreign = linked.folder.is_some() && !is_below(linked, "trusted/");
            if foreign || RUNTIMES.contains(&linked.name.as_str()) {
                breaches.push(format!("{} links {}", package.name, linked.name));
            }
        }
    }
    breaches
}

/// No program of the host links the enclave: it ships as the measured image alone.
pub(super) fn enclave_in_the_image(repo: &Repo) -> Vec<String> {
    let mut breaches = Vec::new();
    for (id, package) in repo.members() {
        let shipped = SHIPPED.iter().any(|folder| is_below(package, folder));
        if !shipped {
            continue;
        }
        let closure = repo.closure(id);
        let links = |name: &str| {
            let mut linked = closure.iter().filter_map(|id| repo.packages.get(*id));
            linked.any(|linked| linked.name == name)
        };
        if links(ENCLAVE) {
            breaches.push(format!("{} links {ENCLAVE}", package.name));
        }
    }
    breaches
}

/// The verifier never links the code that wrote the log.
pub(super) fn verifier(repo: &Repo) -> Vec<String> {
    let mut breaches = Vec::new();
    for (id, package) in repo.members().filter(|(_, p)| is_below(p, "verifier")) {
        for linked in repo.closure(id) {
            if let Some(linked) = repo.packages.get(linked) {
                let own = linked.name == package.name || is_below(linked, "trusted/");
                if linked.folder.is_some() && !own {
                    breaches.push(format!("{} links {}", package.name, linked.name));
                }
            }
        }
    }
    breaches
}

/// Direct dependencies on HTTP crates stand where they may.
pub(super) fn http(repo: &Repo) -> Vec<String> {
    let mut breaches = Vec::new();
    for (_, package) in repo.members() {
        if !SHIPPED.iter().any(|folder| is_below(package, folder)) {
            continue;
        }
        for needed in repo.direct(package, &[Kind::Normal, Kind::Build]) {
            let rule = HTTP.iter().find(|(name, _)| *name == needed.name);
            if rule.is_some_and(|(_, users)| !users.contains(&package.name.as_str())) {
                breaches.push(format!("{} may not use {}", package.name, needed.name));
            }
        }
    }
    breaches
}

/// How many crates an auditor has to believe.
pub(super) fn trusted_crates(repo: &Repo) -> Vec<String> {
    let mut crates = std::collections::BTreeSet::new();
    for (id, package) in repo.members() {
        if is_below(package, "trusted/") || is_below(package, "image") {
            crates.extend(repo.closure(id));
        }
    }
    if crates.len() < TRUSTED_CRATES_MAX {
        return Vec::new();
    }
    vec![format!(
        "trusted/ and image/ link {} crates; fewer than {TRUSTED_CRATES_MAX} are allowed",
        crates.len()
    )]
}
