//! Licences and sources of everything that is linked, built with or tested with.

use spdx::{Expression, LicenseReq, ParseMode};

use crate::repo::{Package, Repo};

/// Licences that a dependency may be used under.
const ALLOWED: &[&str] =
    &["MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Zlib", "Unicode-3.0", "MPL-2.0"];

/// The only exception that may come with one of these.
const ALLOWED_EXCEPTION: &str = "LLVM-exception";

/// How cargo names the default registry.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

pub(super) fn licences(repo: &Repo) -> Vec<String> {
    repo.packages.values().filter_map(breach_of).collect()
}

fn breach_of(package: &Package) -> Option<String> {
    let Package { name, version, .. } = package;
    match (&package.source, &package.folder) {
        (None, Some(_)) => {}
        (None, None) => {
            return Some(format!("{name} {version} comes from outside the repository"));
        }
        (Some(source), _) if source == REGISTRY => {}
        (Some(source), _) => return Some(format!("{name} {version} comes from {source}")),
    }
    let Some(licence) = &package.license else {
        return Some(format!("{name} {version} names no licence"));
    };
    // `MIT/Apache-2.0` is an older spelling of OR.
    match Expression::parse_mode(licence, ParseMode::LAX) {
        Ok(expression) if expression.evaluate(is_allowed) => None,
        Ok(_) => Some(format!("{name} {version} is under {licence}, which is not allowed")),
        Err(_) => Some(format!("{name} {version} has an unreadable licence: {licence}")),
    }
}

fn is_allowed(required: &LicenseReq) -> bool {
    let id = required.license.id().map(|id| id.name);
    let exception = match &required.addition {
        None => true,
        Some(addition) => addition.to_string() == ALLOWED_EXCEPTION,
    };
    exception && id.is_some_and(|id| ALLOWED.contains(&id))
}
