//! What the probe is asked, and what it says where it is isolated.

use std::collections::BTreeMap;

use toani_protocol::{job::JobEnd, plan::Plan};

use super::Bench;

/// The same plan, from whose path the probe takes what it asks the door: to connect to the plan's
/// upstream.
pub(crate) fn connecting(mut plan: Plan) -> Plan {
    plan.path = format!("/CONNECT {}:{}|", plan.endpoint.host, plan.endpoint.port);
    plan
}

/// What a report says of each try: an error's number, where it is about one.
pub(crate) fn tries(report: &str) -> BTreeMap<&str, &str> {
    report.lines().filter_map(|line| line.rsplit_once(' ')).collect()
}

/// Runs the probe; what it tried and what came of it.
pub(crate) async fn probed(bench: &Bench, plan: Plan) -> BTreeMap<String, String> {
    let outcome = bench.run(&connecting(plan), b"").await;
    let JobEnd::Response { body, .. } = outcome.end else {
        panic!("{:?}", outcome.end);
    };
    let text = String::from_utf8(body).unwrap();
    let line = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.to_owned())
    };
    text.lines().map(line).collect()
}

pub(crate) fn expect_isolated(mut tries: BTreeMap<String, String>) {
    assert_eq!(tries.remove("door HTTP/1.1").unwrap(), "200");
    assert!(["", "HOME=/"].contains(&tries.remove("environment").unwrap().as_str()));
    assert_eq!(tries.remove("arguments").unwrap(), "1");
    let bad_descriptor = libc::EBADF.to_string();
    let not_permitted = libc::EPERM.to_string();
    assert!(tries.len() > 50);
    let expected = |name: &str| {
        if name.starts_with("descriptor ") { &bad_descriptor } else { &not_permitted }
    };
    tries.retain(|name, errno| errno != expected(name));
    assert_eq!(tries, BTreeMap::new());
}
