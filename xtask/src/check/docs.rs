//! What documents point at.

use std::collections::BTreeSet;

use crate::{SUBCOMMANDS, repo::Repo};

fn documents(repo: &Repo) -> impl Iterator<Item = (&str, &str)> {
    repo.files
        .iter()
        .filter(|(path, _)| path.ends_with(".md"))
        .map(|(path, text)| (path.as_str(), text.as_str()))
}

/// Relative links name a file or folder of the repository, and a heading that exists.
pub(super) fn links(repo: &Repo) -> Vec<String> {
    let mut breaches = Vec::new();
    for (path, text) in documents(repo) {
        for target in targets(&without_code(text)) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { Some(path.to_owned()) } else { resolve(path, file) };
            let found = file.filter(|file| repo.paths.contains(file));
            let Some(found) = found else {
                breaches.push(format!("{path} links to {target}, which is not there"));
                continue;
            };
            let document = repo.files.get(&found).filter(|_| found.ends_with(".md"));
            if let Some(document) = document
                && !heading.is_empty()
                && !headings(document).contains(heading)
            {
                breaches.push(format!("{path} links to {target}, a heading that is not there"));
            }
        }
    }
    breaches
}

/// README and subcommands name each other: none undocumented, none made up.
pub(super) fn subcommands(repo: &Repo) -> Vec<String> {
    let mut breaches = Vec::new();
    if let Some(readme) = repo.files.get("README.md") {
        for (name, _) in SUBCOMMANDS {
            if !readme.contains(&format!("./x {name}")) {
                breaches.push(format!("README.md does not document ./x {name}"));
            }
        }
    }
    for (path, text) in documents(repo) {
        for name in named_subcommands(text) {
            if name != "help" && !SUBCOMMANDS.iter().any(|(known, _)| first_word(known) == name) {
                breaches.push(format!("{path} names ./x {name}, which does not exist"));
            }
        }
    }
    breaches
}

/// `image connector` is a subcommand of `image`.
fn first_word(name: &str) -> &str {
    name.split(' ').next().unwrap_or_default()
}

fn named_subcommands(text: &str) -> BTreeSet<&str> {
    let calls = text.split("./x ").skip(1);
    calls
        .map(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(rest.len());
            rest.get(..end).unwrap_or_default()
        })
        .filter(|name| !name.is_empty())
        .collect()
}

/// A document without its code, fenced and inline.
fn without_code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            let outside = line.split('`').step_by(2);
            outside.for_each(|part| out.push_str(part));
        }
        out.push('\n');
    }
    out
}

/// Targets of `[text](target)` and `[name]: target`.
fn targets(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for after in text.split("](").skip(1) {
        found.extend(after.split([')', ' ']).next());
    }
    for line in text.lines().filter(|line| line.starts_with('[')) {
        found.extend(line.split_once("]: ").map(|(_, target)| target.trim()));
    }
    found
}

/// A path relative to a document, from the repository's root; `None` if it leaves that.
fn resolve(document: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = document.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

/// Headings as GitHub names them in links.
fn headings(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| line.starts_with('#'));
    lines
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}
