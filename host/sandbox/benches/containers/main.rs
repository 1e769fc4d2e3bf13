//! What a container costs under gVisor, beside what it costs elsewhere, in one run; one JSON
//! object. `podman` and `runc` are left out, and named, where they are not installed.

mod peers;

use std::{
    io::Read,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde_json::{Value, json};
use toani_protocol::{
    ids::Hash,
    job::Job,
    plan::Plan,
    policy::{Class, Connector, Endpoint, Method, TlsTrust},
};
use toani_sandbox::{
    DriverKind,
    driver::{Driver, Kind, Parked},
    ending::Ended,
    execution::Work,
    gvisor::Gvisor,
    root::Roots,
    share::Share,
};
use tokio::runtime::Runtime;

const ROUNDS: usize = 30;
/// Containers of each side of the rate.
const CONTAINERS: usize = 40;
const AT_ONCE: usize = 2;
const HELD: usize = 50;
/// Longest time for all containers to end.
const END: Duration = Duration::from_secs(60);

#[allow(clippy::print_stdout, reason = "the benchmark's result")]
fn main() -> anyhow::Result<()> {
    let programs = std::env::var_os("TOANI_PROGRAMS").context("./x bench names the programs")?;
    let programs = PathBuf::from(programs);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let folder = tempfile::tempdir()?;
    let bench = Bench { programs, runtime, folder: folder.path().to_path_buf() };
    let peers = peers::Peers::new(&bench.programs, &bench.folder)?;
    println!(
        "{}",
        json!({ "containers": {
            "to_first_byte": bench.to_first_byte(&peers)?,
            "rate": bench.rate(&peers)?,
            "held": bench.held()?,
        }})
    );
    Ok(())
}

struct Bench {
    programs: PathBuf,
    runtime: Runtime,
    folder: PathBuf,
}

impl Bench {
    fn start(&self) -> anyhow::Result<(Gvisor, Ended)> {
        let connector = self.programs.join("connector.erofs");
        let driver = DriverKind::Gvisor { runsc: self.programs.join("runsc"), browser: None };
        let roots = Roots::open(&connector, &driver)?;
        let (runsc, sandbox) = (self.programs.join("runsc"), self.programs.join("toani-sandbox"));
        Ok(self.runtime.block_on(Gvisor::start(&roots, &runsc, &sandbox, Share::default()))?)
    }

    /// A driver for as long as `with` takes, and until nothing of it is left.
    fn with_driver<T>(&self, with: impl FnOnce(&Gvisor) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let (driver, ended) = self.start()?;
        let result = with(&driver);
        drop(driver);
        ended.wait(END);
        result
    }

    /// From the job to the first byte that its upstream sees.
    fn to_first_byte(&self, peers: &peers::Peers) -> anyhow::Result<Value> {
        let upstream = Upstream::start()?;
        let ours = self.with_driver(|driver| {
            rounds(|| {
                let parked = self.runtime.block_on(driver.prepare(Kind::default()))?;
                let began = Instant::now();
                let run = self.runtime.spawn(parked.run(upstream.work()?));
                let took = upstream.first_byte()?.duration_since(began);
                run.abort();
                Ok(took)
            })
        })?;
        let podman = peers.podman().map(|podman| rounds(|| podman.to_waiting())).transpose()?;
        let runc = peers
            .runc()
            .map(|runc| {
                rounds(|| {
                    let streams = self.runtime.block_on(runc.parked())?;
                    let began = Instant::now();
                    let work = upstream.work()?;
                    let run = self.runtime.spawn(toani_sandbox::execution::run(streams, work));
                    let took = upstream.first_byte()?.duration_since(began);
                    run.abort();
                    Ok(took)
                })
            })
            .transpose()?;
        Ok(json!({
            "parked_ms": ours,
            "podman_run_ms": podman, "over_podman": podman.map(|podman| ours / podman),
            "podman_goal": 0.01,
            "parked_in_runc_ms": runc, "over_runc": runc.map(|runc| ours / runc), "runc_goal": 3,
        }))
    }

    /// Containers that come and go, two at a time, until nothing is left of them.
    fn rate(&self, peers: &peers::Peers) -> anyhow::Result<Value> {
        let (driver, ended) = self.start()?;
        let began = Instant::now();
        let one = async || {
            for _ in 0..CONTAINERS / AT_ONCE {
                drop(driver.prepare(Kind::default()).await?);
            }
            anyhow::Ok(())
        };
        self.runtime.block_on(async { tokio::try_join!(one(), one()) })?;
        drop(driver);
        ended.wait(END);
        let ours = per_second(CONTAINERS, began.elapsed());
        let began = Instant::now();
        let loops: Vec<_> = (0..AT_ONCE).map(|_| peers.runsc_loop(CONTAINERS / AT_ONCE)).collect();
        for one in loops {
            one.join().map_err(|_| anyhow::anyhow!("a loop panicked"))??;
        }
        let peer = per_second(CONTAINERS, began.elapsed());
        Ok(json!({
            "ours_per_s": ours, "runsc_run_per_s": peer, "ratio": ours / peer, "goal": 1.2,
        }))
    }

    /// Memory of those that wait, and of this process, which holds them as a supervisor does.
    fn held(&self) -> anyhow::Result<Value> {
        self.with_driver(|driver| {
            let before = available_mib()?;
            let held: Vec<_> = (0..HELD)
                .map(|_| self.runtime.block_on(driver.prepare(Kind::default())))
                .collect::<Result<_, _>>()?;
            let taken = before - available_mib()?;
            let own = own_mib()?;
            drop(held);
            Ok(json!({
                "containers": HELD, "mib_each": taken / 50.0,
                "holder_mib": own, "holder_goal_mib": 64,
            }))
        })
    }
}

fn per_second(count: usize, took: Duration) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / took.as_secs_f64()
}

/// The median, in milliseconds; the first round warms up.
fn rounds(mut round: impl FnMut() -> anyhow::Result<Duration>) -> anyhow::Result<f64> {
    let mut took = Vec::new();
    for number in 0..=ROUNDS {
        let one = round()?;
        if number > 0 {
            took.push(one);
        }
    }
    took.sort();
    Ok(took.get(ROUNDS / 2).context("nothing was measured")?.as_secs_f64() * 1e3)
}

fn number_of(file: &str, name: &str) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
    let kib = line.trim().split(' ').next().context("no number")?;
    Ok(kib.parse::<f64>()? / 1024.0)
}

fn available_mib() -> anyhow::Result<f64> {
    number_of("/proc/meminfo", "MemAvailable:")
}

fn own_mib() -> anyhow::Result<f64> {
    number_of("/proc/self/status", "VmRSS:")
}

/// Notes when each connection's first byte comes, and closes it.
struct Upstream {
    port: u16,
    first_bytes: mpsc::Receiver<Instant>,
}

impl Upstream {
    fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let (sender, first_bytes) = mpsc::channel();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                if stream.read_exact(&mut [0]).is_ok() && sender.send(Instant::now()).is_err() {
                    return;
                }
            }
        });
        Ok(Self { port, first_bytes })
    }

    fn first_byte(&self) -> anyhow::Result<Instant> {
        self.first_bytes.recv_timeout(Duration::from_secs(10)).context("nothing reached upstream")
    }

    fn work(&self) -> anyhow::Result<Work> {
        let plan = Plan {
            connector: Connector::DirectApi,
            method: Method::Get,
            endpoint: Endpoint { host: "localhost".into(), port: self.port, private: true },
            path: "/".into(),
            query: Vec::new(),
            headers: Default::default(),
            body: None,
            injection: None,
            tls: TlsTrust::SpkiSha256(vec![Hash::of(b"any")]),
            success: None,
            class: Class::default(),
            nonce: Hash::of(b"nonce"),
        };
        let plan = toani_protocol::canonical::encode(&plan)?;
        Work::new(Job { plan, credential: Vec::new() }, Hash::of(b"any"))
            .context("a plan that is none")
    }
}

fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}
