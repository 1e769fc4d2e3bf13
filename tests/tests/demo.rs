//! The demo itself, as `./x demo` runs it.

use std::process::Command;

use serde_json::Value;
use toani_tests::plane::programs;

#[test]
fn every_step_of_the_demo_holds() {
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(programs().unwrap().join("toani-demo"))
        .args(["--json", "--home"])
        .arg(home.path().join("demo"))
        .output()
        .unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
        panic!("no JSON; {}", String::from_utf8_lossy(&output.stderr));
    });
    assert_eq!(said["ok"], true, "{said:#}");
    assert_eq!(said["tee"], "none");
    assert_eq!(said["steps"].as_array().unwrap().len(), 10);
    for name in ["bundle", "trust", "data"] {
        assert!(std::path::Path::new(said[name].as_str().unwrap()).exists(), "{name}");
    }
}
