//! A plane of its own in a folder of its own, driven by the command line.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::{Borders, Brokerage, policy};

/// How long anything may take; the slowest is a guest that an emulator boots.
pub const PATIENCE: Duration = Duration::from_secs(150);
/// Between two looks at something that is awaited.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub exit: i32,
    pub value: Value,
    pub error: String,
}

impl Said {
    /// The stable code of a failure.
    pub fn code(&self) -> &str {
        self.value.pointer("/error/code").and_then(Value::as_str).unwrap_or_default()
    }

    /// The value of a command that must have succeeded.
    pub fn ok(self) -> anyhow::Result<Value> {
        if self.exit == 0 { Ok(self.value) } else { bail!("exit {}: {}", self.exit, self.error) }
    }
}

/// The folder, the programs and, while it runs, the plane's process.
#[derive(Debug)]
pub struct Plane {
    programs: PathBuf,
    /// Those that the plane starts.
    served: PathBuf,
    home: PathBuf,
    machine: PathBuf,
    /// What `toani init` said.
    born: Value,
    /// What `toani serve` said last.
    announced: Value,
    process: Option<Child>,
    sandbox: &'static str,
    /// Names the parts of what holds connectors.
    runtime: Vec<String>,
}

/// Names the simulated machine to the commands that need it.
const MACHINE: &str = "TOANI_MACHINE";

impl Plane {
    /// Makes an instance in `home`.
    pub fn init(programs: &Path, home: &Path) -> anyhow::Result<Self> {
        Self::init_with(programs, home, &[])
    }

    /// The same, with more options.
    pub fn init_with(programs: &Path, home: &Path, options: &[&str]) -> anyhow::Result<Self> {
        let mut plane = Self {
            programs: programs.to_path_buf(),
            served: programs.to_path_buf(),
            home: home.to_path_buf(),
            // The same for all planes of one build.
            machine: programs.parent().unwrap_or(programs).join("simulated-machine"),
            sandbox: "native",
            runtime: Vec::new(),
            born: Value::Null,
            announced: Value::Null,
            process: None,
        };
        let machine = plane.machine.to_str().context("a path in UTF-8")?;
        let born =
            plane.toani(&[&["init", "--simulator", "--machine", machine], options].concat())?;
        plane.born = born.ok()?;
        Ok(plane)
    }

    /// From now on the programs of another folder are this instance's.
    pub fn upgrade(&mut self, programs: &Path) {
        (self.programs, self.served) = (programs.to_path_buf(), programs.to_path_buf());
    }

    /// From the next start on, messages between the plane's processes cross these borders.
    pub fn tap(&mut self, borders: &Borders) {
        self.served = borders.folder().to_path_buf();
    }

    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The simulated machine.
    pub fn machine(&self) -> &Path {
        &self.machine
    }

    /// The same people and the same manifest in another home, for another machine: an instance that
    /// has no root there yet.
    pub fn elsewhere(&self, home: &Path, machine: &Path) -> anyhow::Result<Self> {
        copy(&self.home, home, &|name| !["data", "serve.log"].contains(&name))?;
        copy(&self.data(), &home.join("data"), &|name| name == "manifest.json")?;
        Ok(Self {
            programs: self.programs.clone(),
            served: self.served.clone(),
            home: home.to_path_buf(),
            machine: machine.to_path_buf(),
            sandbox: self.sandbox,
            runtime: self.runtime.clone(),
            born: self.born.clone(),
            announced: Value::Null,
            process: None,
        })
    }

    /// What `toani init` said.
    pub fn born(&self) -> &Value {
        &self.born
    }

    /// What `toani serve` said when it was ready.
    pub fn announced(&self) -> &Value {
        &self.announced
    }

    /// The owner's public key, as policies name it.
    pub fn owner(&self) -> &str {
        self.born.get("owner").and_then(Value::as_str).unwrap_or_default()
    }

    pub fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    pub fn trust(&self) -> PathBuf {
        self.home.join("trust.json")
    }

    /// Runs a `toani` command with `--json`.
    pub fn toani(&self, arguments: &[&str]) -> anyhow::Result<Said> {
        self.toani_with(arguments, "")
    }

    /// The same, with something on its standard input.
    pub fn toani_with(&self, arguments: &[&str], input: &str) -> anyhow::Result<Said> {
        let mut child = self.begin(arguments)?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        stdin.write_all(input.as_bytes())?;
        drop(stdin);
        finished(child)
    }

    /// Starts a command and does not wait for it.
    pub fn begin(&self, arguments: &[&str]) -> anyhow::Result<Child> {
        Command::new(self.programs.join("toani"))
            .env(MACHINE, &self.machine)
            .args(["--json", "--home"])
            .arg(&self.home)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start toani")
    }

    /// Starts the plane and waits until it answers.
    pub fn serve(&mut self) -> anyhow::Result<()> {
        self.serve_with(&[])
    }

    /// The same, with more options.
    pub fn serve_with(&mut self, options: &[&str]) -> anyhow::Result<()> {
        let log = std::fs::File::create(self.home.join("serve.log"))?;
        let elsewhere = options.contains(&"--listen");
        let listen: &[&str] = if elsewhere { &[] } else { &["--listen", "127.0.0.1:0"] };
        let mut child = Command::new(self.programs.join("toani"))
            .env(MACHINE, &self.machine)
            .args(["--json", "--home"])
            .arg(&self.home)
            .args(["serve", "--sandbox", self.sandbox, "--programs"])
            .arg(&self.served)
            .args(&self.runtime)
            .args(listen)
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("cannot start toani serve")?;
        let output = child.stdout.take().context("no standard output")?;
        self.process = Some(child);
        let (sender, first_line) = mpsc::channel();
        std::thread::spawn(move || {
            // Reads on after the first line, so that the plane never blocks on its output.
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        match first_line.recv_timeout(PATIENCE) {
            Ok(line) => {
                self.announced = serde_json::from_str(&line)?;
                Ok(())
            }
            Err(_) => bail!("the plane did not start: {}", self.serve_log()),
        }
    }

    /// What the plane has logged.
    pub fn serve_log(&self) -> String {
        std::fs::read_to_string(self.home.join("serve.log")).unwrap_or_default()
    }

    /// The plane's process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Whether the plane's process still runs.
    pub fn runs(&mut self) -> anyhow::Result<bool> {
        match &mut self.process {
            Some(child) => Ok(child.try_wait()?.is_none()),
            None => Ok(false),
        }
    }

    /// Stops the plane as a service manager would, and waits for its end.
    pub fn stop(&mut self) -> anyhow::Result<i32> {
        let mut child = self.process.take().context("the plane does not run")?;
        signal(child.id(), "TERM")?;
        Ok(waited(&mut child)?.code().unwrap_or(-1))
    }

    /// Ends the plane without notice.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut child = self.process.take().context("the plane does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Waits until the plane can run executions.
    pub fn wait_until_ready(&self) -> anyhow::Result<()> {
        until("the plane is ready", || {
            let status = self.toani(&["status"])?;
            Ok(status.value.get("ready") == Some(&Value::Bool(true)))
        })
    }

    /// What holds connectors; natively if nothing is said.
    pub fn held_by(&mut self, sandbox: &'static str) {
        self.sandbox = sandbox;
    }

    /// Connectors are held by virtual machines of this guest, under an emulator: so on any machine.
    pub fn held_by_guest(&mut self, guest: &Path) -> anyhow::Result<()> {
        let guest = guest.to_str().context("a path in UTF-8")?;
        self.sandbox = "vm";
        self.runtime = ["--guest", guest, "--accel", "tcg"].map(str::to_owned).into();
        Ok(())
    }

    /// There is a second root file system from now on.
    pub fn with_browser(&mut self, root_file_system: &Path) -> anyhow::Result<()> {
        let file = root_file_system.to_str().context("a path in UTF-8")?;
        self.runtime = ["--browser", file].map(str::to_owned).into();
        Ok(())
    }

    /// Admits what holds connectors here, and says what was admitted.
    pub fn admit(&self) -> anyhow::Result<Value> {
        let runtime = self.runtime.iter().map(String::as_str);
        let admit = ["admission", "admit", "--sandbox", self.sandbox];
        self.toani(&admit.into_iter().chain(runtime).collect::<Vec<_>>())?.ok()
    }

    /// Admits the sandbox, activates the brokerage's policy with an agent and an approver, and
    /// seals the token.
    pub fn furnish(&self, upstream: &Brokerage, token: &str) -> anyhow::Result<()> {
        self.admit()?;
        self.activate(upstream)?;
        self.seal(upstream, token)?;
        self.wait_until_ready()
    }

    /// Writes, signs and activates the brokerage's policy.
    pub fn activate(&self, upstream: &Brokerage) -> anyhow::Result<()> {
        self.activate_policy(&policy::brokerage(self.owner(), upstream, 1))
    }

    /// The same with another policy.
    pub fn activate_policy(&self, policy: &str) -> anyhow::Result<()> {
        let file = self.home.join("policy.yaml");
        std::fs::write(&file, policy)?;
        let file = file.to_str().context("a path in UTF-8")?;
        self.toani(&["agent", "add", "agent", "--policy", file])?.ok()?;
        self.toani(&["approver", "add", "anna", "--software-passkey", "--policy", file])?.ok()?;
        let signed = self.toani(&["policy", "sign", file])?.ok()?;
        let signed = signed.get("signed").and_then(Value::as_str).context("no signed policy")?;
        self.toani(&["policy", "activate", signed])?.ok()?;
        Ok(())
    }

    /// Seals the brokerage's token on the owner's side.
    pub fn seal(&self, upstream: &Brokerage, token: &str) -> anyhow::Result<()> {
        let endpoint = format!("{}:{}", upstream.host(), upstream.port());
        let arguments = [
            "credential",
            "add",
            "broker",
            "--endpoint",
            &endpoint,
            "--private",
            "--spki",
            upstream.spki(),
        ];
        self.toani_with(&arguments, token)?.ok()?;
        Ok(())
    }

    /// Runs an action as the agent.
    pub fn run(&self, action: &str, params: &str, more: &[&str]) -> anyhow::Result<Said> {
        self.toani(&[&["run", action, "--params", params], more].concat())
    }

    /// Waits for an action that waits for people, and names it.
    pub fn wait_for_approval(&self) -> anyhow::Result<String> {
        let mut found = None;
        until("an action waits", || {
            let list = self.toani(&["approvals", "list"])?.ok()?;
            let first = list.pointer("/approvals/0/action_id").and_then(Value::as_str);
            found = first.map(str::to_owned);
            Ok(found.is_some())
        })?;
        found.context("an action waits")
    }

    /// Approves as Anna.
    pub fn approve(&self, action: &str) -> anyhow::Result<Said> {
        self.toani(&["approve", action, "--as", "anna", "--yes"])
    }

    /// Runs `toani-verify`.
    pub fn verify(&self, bundle: &Path) -> anyhow::Result<Said> {
        let child = Command::new(self.programs.join("toani-verify"))
            .arg(bundle)
            .arg("--trust")
            .arg(self.trust())
            .arg("--json")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start toani-verify")?;
        finished(child)
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        if let Some(child) = &mut self.process {
            // It may be gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Copies the entries of a folder whose names are chosen, whole.
pub fn copy(from: &Path, to: &Path, chosen: &dyn Fn(&str) -> bool) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let copied = to.join(&name);
        if !name.to_str().is_some_and(chosen) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &copied, &|_| true)?;
        } else {
            std::fs::copy(entry.path(), copied)?;
        }
    }
    Ok(())
}

/// Waits for a condition, for a while.
pub fn until(what: &str, mut holds: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let began = Instant::now();
    while !holds()? {
        if began.elapsed() > PATIENCE {
            bail!("waited too long until {what}");
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Sends a signal to a process that this test has started.
pub fn signal(pid: u32, name: &str) -> anyhow::Result<()> {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status()?;
    if status.success() { Ok(()) } else { bail!("cannot signal {pid}") }
}

fn waited(child: &mut Child) -> anyhow::Result<std::process::ExitStatus> {
    let mut status = None;
    until("a process ends", || {
        status = child.try_wait()?;
        Ok(status.is_some())
    })?;
    status.context("a process ends")
}

/// Waits for a command and reads what it said.
pub fn finished(child: Child) -> anyhow::Result<Said> {
    let output = child.wait_with_output()?;
    let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let text = if output.stdout.is_empty() {
        error.lines().last().unwrap_or_default().as_bytes().to_vec()
    } else {
        output.stdout
    };
    let value = serde_json::from_slice(&text).unwrap_or_default();
    Ok(Said { exit: output.status.code().unwrap_or(-1), value, error })
}

/// The folder of the programs under test: `./x test` builds them and says where.
pub fn programs() -> anyhow::Result<PathBuf> {
    let folder = std::env::var_os("TOANI_PROGRAMS");
    folder.map(PathBuf::from).context("TOANI_PROGRAMS is not set; run ./x test")
}

/// The processes below one, with their names.
pub fn descendants(pid: u32) -> anyhow::Result<Vec<(u32, String)>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(child) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process may end while it is looked at.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{child}/stat")) else { continue };
        if let Some((head, tail)) = stat.rsplit_once(')') {
            let parent =
                tail.split_whitespace().nth(1).and_then(|parent| parent.parse::<u32>().ok());
            let name = head.split_once('(').map(|(_, name)| name.to_owned());
            if let (Some(parent), Some(name)) = (parent, name) {
                all.push((child, parent, name));
            }
        }
    }
    let mut found = vec![pid];
    let mut named = Vec::new();
    while let Some(parent) = found.pop() {
        for (child, _, name) in all.iter().filter(|(_, of, _)| *of == parent) {
            found.push(*child);
            named.push((*child, name.clone()));
        }
    }
    Ok(named)
}
