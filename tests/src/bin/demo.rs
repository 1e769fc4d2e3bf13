//! `./x demo`: one governed action, end to end, through the shipped programs.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use toani_tests::{Brokerage, Plane, plane};

const ORDER: &str = r#"{"symbol": "ACME", "quantity": 3}"#;

/// One governed action, end to end, in a folder of its own.
#[derive(Debug, Parser)]
struct Arguments {
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// Where to leave keys, data and the bundle; by default a new folder under the system's
    /// temporary one.
    #[arg(long)]
    home: Option<PathBuf>,
}

/// The demo's state from step to step.
struct Demo {
    plane: Plane,
    upstream: Brokerage,
    token: String,
    /// An Action Token that was used, and the idempotency key that it was used with.
    used: Option<String>,
    bundle: PathBuf,
}

struct Step {
    name: &'static str,
    says: &'static str,
    run: fn(&mut Demo) -> anyhow::Result<String>,
}

const STEPS: &[Step] = &[
    Step {
        name: "credential_sealed",
        says: "the brokerage's token is sealed on its owner's side",
        run: seal,
    },
    Step {
        name: "read_balance",
        says: "tier 0: the agent reads the balance; no human is asked",
        run: read_balance,
    },
    Step {
        name: "buy_stock",
        says: "tier 2: the agent asks to buy, waits, a software passkey approves, it runs",
        run: buy_stock,
    },
    Step {
        name: "token_again_refused",
        says: "the same Action Token again is refused",
        run: token_again,
    },
    Step {
        name: "outside_policy_refused",
        says: "a call outside of the policy is refused",
        run: outside_policy,
    },
    Step {
        name: "sgx_refused_here",
        says: "a policy that asks for tee: sgx is refused on this machine",
        run: sgx_refused,
    },
    Step {
        name: "bundle_verified",
        says: "the records are exported, and verified offline",
        run: bundle_verified,
    },
    Step {
        name: "changed_byte_refused",
        says: "one byte changed, and verification fails",
        run: changed_byte,
    },
    Step {
        name: "secret_nowhere",
        says: "the token is in no file of the plane",
        run: secret_nowhere,
    },
];

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match demo(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("demo: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stderr, reason = "progress, for people")]
fn say(text: &str) {
    eprintln!("{text}");
}

#[allow(clippy::print_stdout, reason = "the result")]
fn result(value: &Value) {
    println!("{value}");
}

fn demo(arguments: &Arguments) -> anyhow::Result<bool> {
    let began = Instant::now();
    let programs = std::env::current_exe()?;
    let programs = programs.parent().context("this program stands in no folder")?;
    let home = match &arguments.home {
        Some(home) => home.clone(),
        None => tempfile::Builder::new().prefix("toani-demo-").tempdir()?.keep(),
    };
    if !arguments.json {
        say(
            "A simulated TEE, asked for by name: the enclave's image is what SGX would run, its quotes",
        );
        say(
            "chain to a test root of this machine, and prove nothing elsewhere. tee: simulator, sandbox:",
        );
        say("gvisor, approval by a software passkey. Every receipt says so.\n");
    }
    let mut steps = Vec::new();
    let first = Instant::now();
    let mut demo = start(programs, &home)?;
    note(
        arguments,
        &mut steps,
        "plane_started",
        "an instance is born, a policy signed and active",
        "",
        first.elapsed(),
        true,
    );
    for step in STEPS {
        let began = Instant::now();
        let (ok, told) = match (step.run)(&mut demo) {
            Ok(told) => (true, told),
            Err(error) => (false, format!("{error:#}")),
        };
        note(arguments, &mut steps, step.name, step.says, &told, began.elapsed(), ok);
        if !ok {
            break;
        }
    }
    let ok = steps.iter().all(|step| step.get("ok") == Some(&Value::Bool(true)));
    let stopped = demo.plane.stop()?;
    ensure!(stopped == 0, "the plane did not stop cleanly: {}", demo.plane.serve_log());
    let (bundle, trust, data) = (&demo.bundle, demo.plane.trust(), demo.plane.data());
    if arguments.json {
        result(&json!({
            "ok": ok, "tee": "none", "steps": steps,
            "bundle": bundle, "trust": trust, "data": data,
        }));
    } else {
        say(&format!(
            "\n{} in {:.1} s",
            if ok { "done" } else { "FAILED" },
            began.elapsed().as_secs_f64()
        ));
        say(&format!(
            "bundle {}\ntrust  {}\ndata   {}",
            bundle.display(),
            trust.display(),
            data.display()
        ));
    }
    Ok(ok)
}

fn note(
    arguments: &Arguments,
    steps: &mut Vec<Value>,
    name: &str,
    says: &str,
    told: &str,
    took: Duration,
    ok: bool,
) {
    let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    if !arguments.json {
        let mark = if ok { "ok  " } else { "FAIL" };
        say(&format!("{mark} {ms:>6} ms  {says}"));
        if !told.is_empty() {
            say(&format!("                {told}"));
        }
    }
    steps.push(json!({"name": name, "ok": ok, "ms": ms}));
}

fn start(programs: &Path, home: &Path) -> anyhow::Result<Demo> {
    let mut random = [0; 24];
    getrandom::fill(&mut random)?;
    let token = format!("broker-{}", BASE64URL_NOPAD.encode(&random));
    let upstream = Brokerage::start(programs, &token, 0)?;
    let mut plane = Plane::init(programs, home)?;
    plane.held_by("gvisor");
    plane.serve()?;
    plane.admit()?;
    plane.activate(&upstream)?;
    plane.wait_until_ready()?;
    let bundle = home.join("bundle.tar");
    Ok(Demo { plane, upstream, token, used: None, bundle })
}

fn seal(demo: &mut Demo) -> anyhow::Result<String> {
    demo.plane.seal(&demo.upstream, &demo.token)?;
    Ok("only the enclave can open it; the brokerage itself keeps a hash".to_owned())
}

fn read_balance(demo: &mut Demo) -> anyhow::Result<String> {
    let said = demo.plane.run("broker.read_balance", r#"{"account": "main"}"#, &[])?.ok()?;
    let balance = said.pointer("/result/balance").context("no balance")?;
    ensure!(said.get("result") == Some(&json!({ "balance": balance })), "more came out than named");
    Ok(format!("balance {balance}"))
}

fn buy_stock(demo: &mut Demo) -> anyhow::Result<String> {
    let before = demo.upstream.orders()?;
    let key = ["--idempotency-key", "demo-1"];
    let asking =
        [&["run", "broker.buy_stock", "--params", ORDER, "--token-only"][..], &key].concat();
    let agent = demo.plane.begin(&asking)?;
    let action = demo.plane.wait_for_approval()?;
    ensure!(demo.upstream.orders()? == before, "it ran before anyone approved");
    demo.plane.approve(&action)?.ok()?;
    let said = plane::finished(agent)?.ok()?;
    let token = said.get("token").and_then(Value::as_str).context("no token")?.to_owned();
    let with_token = [&["--token", &token][..], &key].concat();
    let said = demo.plane.run("broker.buy_stock", ORDER, &with_token)?.ok()?;
    demo.upstream.wait_for_orders(before.saturating_add(1))?;
    let order = said.pointer("/result/order").and_then(Value::as_str).context("no order")?;
    let approval = said.pointer("/receipt/payload/assurance/approval");
    ensure!(approval == Some(&json!("software")), "the receipt must say who approved");
    let told = format!("order {order}; the receipt says approval: software");
    demo.used = Some(token);
    Ok(told)
}

fn token_again(demo: &mut Demo) -> anyhow::Result<String> {
    let before = demo.upstream.orders()?;
    let token = demo.used.clone().context("no token was used")?;
    // With the key of the first time, the answer of the first time would come.
    let again = ["--token", &token, "--idempotency-key", "demo-2"];
    let said = demo.plane.run("broker.buy_stock", ORDER, &again)?;
    refused(said.code(), "token_used", said.exit)?;
    ensure!(demo.upstream.orders()? == before, "it ran twice");
    Ok(format!("token_used; the brokerage still counts {before}"))
}

fn outside_policy(demo: &mut Demo) -> anyhow::Result<String> {
    let wire = demo.plane.run("broker.wire_money", r#"{"amount": 1}"#, &[])?;
    refused(wire.code(), "action_unknown", wire.exit)?;
    let many =
        demo.plane.run("broker.buy_stock", r#"{"symbol": "ACME", "quantity": 1000}"#, &[])?;
    refused(many.code(), "params_invalid", many.exit)?;
    Ok("action_unknown; params_invalid".to_owned())
}

fn sgx_refused(demo: &mut Demo) -> anyhow::Result<String> {
    let said = demo.plane.run("broker.buy_stock_in_sgx", ORDER, &[])?;
    refused(said.code(), "assurance_tee", said.exit)?;
    Ok("assurance_tee".to_owned())
}

fn refused(code: &str, expected: &str, exit: i32) -> anyhow::Result<()> {
    if code == expected && exit == 1 {
        Ok(())
    } else {
        bail!("{code} (exit {exit}) instead of {expected}")
    }
}

fn bundle_verified(demo: &mut Demo) -> anyhow::Result<String> {
    let bundle = demo.bundle.to_str().context("a path in UTF-8")?;
    demo.plane.toani(&["audit", "export", "--out", bundle])?.ok()?;
    let said = demo.plane.verify(&demo.bundle)?.ok()?;
    let records = said.pointer("/report/records").or_else(|| said.get("records"));
    Ok(format!(
        "{} records, gap-free, by toani-verify and the trust file alone",
        records.context("no count")?
    ))
}

fn changed_byte(demo: &mut Demo) -> anyhow::Result<String> {
    let mut bytes = std::fs::read(&demo.bundle)?;
    let middle = bytes.len() / 2;
    let byte = bytes.get_mut(middle).context("the bundle is empty")?;
    *byte ^= 1;
    let changed = demo.bundle.with_extension("changed.tar");
    std::fs::write(&changed, &bytes)?;
    let said = demo.plane.verify(&changed)?;
    ensure!(said.exit == 1, "exit {}: {}", said.exit, said.error);
    Ok(format!("byte {middle} of {}", bytes.len()))
}

fn secret_nowhere(demo: &mut Demo) -> anyhow::Result<String> {
    let mut files = 0_u64;
    let mut folders = vec![demo.plane.home().to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let bytes = std::fs::read(entry.path())?;
                let found =
                    bytes.windows(demo.token.len()).any(|part| part == demo.token.as_bytes());
                ensure!(!found, "found in {}", entry.path().display());
                files = files.saturating_add(1);
            }
        }
    }
    Ok(format!("{files} files searched"))
}
