//! The image in the simulator's fast mode beside the same code as a plain library, in one run: calls,
//! several threads at once, and a boot. Only the time within calls is counted, and one driver makes
//! the calls of both. One JSON object.
//!
//! `./x bench` compiles this as it compiles the image (xtask/src/run.rs). What differs is the runtime
//! around the code: the image copies a call in and its reply out, locks the state, wipes its stack and
//! every freed block, and draws from RDRAND; the library takes the C library's allocator, which wipes
//! nothing, and the kernel's random numbers.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../../../trusted/enclave/tests/world/mod.rs"]
mod world;

use std::{
    collections::BTreeMap,
    hint::black_box,
    path::Path,
    process::Command as Program,
    sync::Barrier,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use toani_enclave::Enclave;
use toani_enclave_host::runner::{Exchange, Machine as _};
use toani_protocol::{
    Hash, TenantId, Time,
    request::ActionRequest,
    sign::{self, Label, PublicKey},
    wire::{self, ActionState, Call, Command, WIRE_VERSION},
};
use toani_simulator::{
    Identity, Processor,
    machine::{self, Mode, Simulator},
};
use world::*;

const ROUNDS: usize = 400;
/// Calls of each thread in one round of [`at_once`].
const CALLS_AT_ONCE: usize = 500;
const ROUNDS_AT_ONCE: usize = 21;
const RECORDS: usize = 10_000;
const BOOTS: usize = 9;
/// Most of what the image may take over the library.
const GOAL: f64 = 1.2;
/// Makes a child of this benchmark that boots once.
const BOOT: &str = "boot";

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// One of the two that are compared.
trait Side: Answers {
    /// Time within calls so far.
    fn spent(&self) -> Duration;
}

struct Library {
    enclave: Enclave,
    spent: Duration,
}

impl Library {
    /// On the processor of a machine, measured as the image is: each opens what the other sealed.
    fn new(machine: &Path, identity: &Identity) -> Self {
        let processor = Processor::open_or_create(machine).unwrap();
        let platform = Machine::of(processor, identity.clone());
        Self { enclave: Enclave::new(Box::new(platform)), spent: Duration::ZERO }
    }
}

impl Answers for Library {
    fn answer(&mut self, call: &[u8]) -> Vec<u8> {
        let began = Instant::now();
        let reply = self.enclave.answer(call);
        self.spent += began.elapsed();
        reply
    }
}

impl Side for Library {
    fn spent(&self) -> Duration {
        self.spent
    }
}

struct Image<'a> {
    simulator: &'a Simulator,
    exchange: Exchange,
    spent: Duration,
}

impl<'a> Image<'a> {
    fn new(simulator: &'a Simulator) -> Self {
        Self { simulator, exchange: Exchange::with_input(&[]), spent: Duration::ZERO }
    }
}

impl Answers for Image<'_> {
    /// From a call in the host's memory to a reply there, as a runner has it from and for its lane.
    fn answer(&mut self, call: &[u8]) -> Vec<u8> {
        self.exchange.take(call);
        let began = Instant::now();
        self.simulator.enter(0, &mut self.exchange).unwrap();
        self.spent += began.elapsed();
        self.exchange.reply().to_vec()
    }
}

impl Side for Image<'_> {
    fn spent(&self) -> Duration {
        self.spent
    }
}

/// Microseconds within the calls of some work.
fn within<E: Side, T>(world: &mut World<E>, work: impl FnOnce(&mut World<E>) -> T) -> (f64, T) {
    let before = world.enclave.spent();
    let value = work(world);
    ((world.enclave.spent() - before).as_secs_f64() * 1e6, value)
}

/// A world with a service more, which takes no credential and is the same in all else.
fn furnished<E: Side>(enclave: E, identity: &Identity) -> World<E> {
    let mut world = World::born_in(enclave, Hash::new(identity.mrenclave));
    world.furnish();
    let mut document = policy_document(2);
    let mut open = document["services"]["broker"].clone();
    open.as_object_mut().unwrap().remove("auth");
    document["services"]["open"] = open;
    world.activate(document).unwrap();
    world.durable();
    world
}

/// A read of the balance, and what passes with time: quotas and idempotency keys.
fn reading<E: Side>(world: &mut World<E>, service: &str, key: &str) -> ActionRequest {
    world.now = world.now.plus_ms(4_000);
    world.ok(Command::Tick);
    world.carry().unwrap();
    let request = world.request("read_balance", json!({"account": "main"}), key);
    ActionRequest { service: service.parse().unwrap(), ..request }
}

/// No bytes at all: what it costs to enter and to leave.
fn nothing<E: Side>(world: &mut World<E>, _: &str) -> f64 {
    within(world, |world| world.raw(&[])).0
}

/// A call that reads what is there.
fn status<E: Side>(world: &mut World<E>, _: &str) -> f64 {
    within(world, |world| world.ok(Command::Status)).0
}

/// Two calls: an action is decided and its token issued, and the token redeemed.
fn decide_issue_redeem<E: Side>(world: &mut World<E>, key: &str) -> f64 {
    let request = reading(world, "broker", key);
    let (us, redeemed) = within(world, |world| {
        let state = world.decide(&request).unwrap().state;
        let ActionState::Token { token, .. } = state else { panic!("{state:?}") };
        world.redeem(Some(&token), &request).unwrap()
    });
    world.run(&redeemed, &answered(200, json!({"balance": 1})));
    us
}

/// The one call that lets a job out, of a service with a credential or without one.
fn release<E: Side>(world: &mut World<E>, service: &str, key: &str) -> f64 {
    let request = reading(world, service, key);
    let redeemed = world.redeem(None, &request).unwrap();
    world.durable();
    let execution = redeemed.execution;
    let (us, _) =
        within(world, |world| world.ok(Command::Release { execution: execution.clone() }));
    world.carry().unwrap();
    let job = world.supervisor.jobs.pop_back().unwrap();
    let outcome = outcome_of(&job, &answered(200, json!({"balance": 1})));
    world.finish(&execution, Some(outcome)).unwrap();
    us
}

/// All calls of a tier-0 execution: execute, durable, release, the channel's bytes, finish, durable.
fn tier_0<E: Side>(world: &mut World<E>, key: &str) -> f64 {
    let request = reading(world, "broker", key);
    let (us, ()) = within(world, |world| {
        let redeemed = world.redeem(None, &request).unwrap();
        world.run(&redeemed, &answered(200, json!({"balance": 1})));
        world.durable();
    });
    us
}

fn row(what: &str, (library_us, image_us): (f64, f64)) -> Value {
    json!({
        "what": what, "library_us": library_us, "image_us": image_us,
        "ratio": image_us / library_us, "goal": GOAL,
    })
}

/// Medians of both sides, interleaved.
fn both<'a>(
    (library, image): (&mut World<Library>, &mut World<Image<'a>>),
    one: impl Fn(&mut World<Library>, &str) -> f64,
    other: impl Fn(&mut World<Image<'a>>, &str) -> f64,
) -> (f64, f64) {
    let (mut ones, mut others) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        // No key comes twice.
        let key = format!("key-{}", library.transcript.len());
        ones.push(one(library, &key));
        others.push(other(image, &key));
    }
    (median(ones), median(others))
}

fn calls(library: &mut World<Library>, image: &mut World<Image<'_>>) -> Vec<Value> {
    let nothing = both((library, image), nothing, nothing);
    let status = both((library, image), status, status);
    let token = both((library, image), decide_issue_redeem, decide_issue_redeem);
    let with = both(
        (library, image),
        |world, key| release(world, "broker", key),
        |world, key| release(world, "broker", key),
    );
    let without = both(
        (library, image),
        |world, key| release(world, "open", key),
        |world, key| release(world, "open", key),
    );
    let path = both((library, image), tier_0, tier_0);
    vec![
        row("no bytes", nothing),
        row("status", status),
        row("decide, issue, redeem", token),
        row("release with a credential", with),
        row("of it, opening the credential", (with.0 - without.0, with.1 - without.1)),
        row("the whole tier-0 path", path),
    ]
}

/// An `Execute` whose check is the whole one and whose effect is none: it was executed before.
fn retried<E: Side>(world: &mut World<E>) -> Vec<u8> {
    let request = reading(world, "broker", "retried");
    let redeemed = world.redeem(None, &request).unwrap();
    world.run(&redeemed, &answered(200, json!({"balance": 1})));
    let (request, proof) = prove(&request);
    let command = Command::Execute { token: None, request, proof };
    wire::encode(&Call { version: WIRE_VERSION, now: world.now, command }).unwrap()
}

/// Calls per second of so many threads, each of which makes one call after the other.
fn rate(threads: usize, call: impl Fn(&mut Exchange, usize) + Sync, bytes: &[u8]) -> f64 {
    let gate = Barrier::new(threads);
    let run = |thread| {
        let mut exchange = Exchange::with_input(bytes);
        call(&mut exchange, thread);
        gate.wait();
        // Each takes its own time: the one that waits for them may be woken late.
        let began = Instant::now();
        (0..CALLS_AT_ONCE).for_each(|_| call(&mut exchange, thread));
        (began, Instant::now())
    };
    let spans: Vec<(Instant, Instant)> = std::thread::scope(|scope| {
        let run = &run;
        let all: Vec<_> = (0..threads).map(|thread| scope.spawn(move || run(thread))).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let began = spans.iter().map(|span| span.0).min().unwrap();
    let ended = spans.iter().map(|span| span.1).max().unwrap();
    (threads * CALLS_AT_ONCE) as f64 / (ended - began).as_secs_f64()
}

/// How the rate grows from one thread to two: of whole calls of the image, of the library's check
/// alone, and of this machine, by signatures that are verified and nothing else.
fn at_once(mut library: World<Library>, mut image: World<Image<'_>>) -> Value {
    let calls = (retried(&mut library), retried(&mut image));
    let (simulator, enclave) = (image.enclave.simulator, library.enclave.enclave);
    let key = PublicKey::of(&agent());
    let signature = sign::sign(&agent(), Label::Request, &calls.0);
    let in_image = |exchange: &mut Exchange, thread| {
        simulator.enter(thread, exchange).unwrap();
    };
    let in_library = |_: &mut Exchange, _| {
        black_box(enclave.check(&calls.0, &mut rng()));
    };
    let in_neither = |_: &mut Exchange, _| {
        key.verify(Label::Request, &calls.0, &signature).unwrap();
    };
    let mut rates = [const { [const { Vec::new() }; 2] }; 3];
    for _ in 0..ROUNDS_AT_ONCE {
        for threads in [1, 2] {
            rates[0][threads - 1].push(rate(threads, in_image, &calls.1));
            rates[1][threads - 1].push(rate(threads, in_library, &[]));
            rates[2][threads - 1].push(rate(threads, in_neither, &[]));
        }
    }
    let names = ["image", "check alone", "bare signatures"];
    let rows = names.into_iter().zip(rates).map(|(what, [one, two])| {
        let (one, two) = (median(one), median(two));
        json!({"what": what, "one_thread": one, "two_threads": two, "ratio": two / one})
    });
    rows.collect()
}

/// What a host keeps from boot to boot.
#[derive(Serialize, Deserialize)]
struct Kept {
    now: Time,
    log: Vec<Vec<u8>>,
    blobs: BTreeMap<Hash, Vec<u8>>,
    salts: Vec<(TenantId, Vec<u8>)>,
    manifest: Vec<u8>,
    sealed_root: Vec<u8>,
}

const KEPT: &str = "kept";

/// Executions, until the log has its records; all is kept in the machine's folder.
fn live(machine: &Path, identity: &Identity) {
    let mut world = furnished(Library::new(machine, identity), identity);
    while world.log.len() < RECORDS {
        let key = format!("key-{}", world.log.len());
        tier_0(&mut world, &key);
    }
    let World { now, log, blobs, salts, manifest, sealed_root, .. } = world;
    let kept = Kept { now, log, blobs, salts, manifest, sealed_root };
    std::fs::write(machine.join(KEPT), postcard::to_allocvec(&kept).unwrap()).unwrap();
}

/// Boots once, as the first thing that this enclave does: milliseconds within calls.
fn boot<E: Side>(enclave: E, identity: &Identity, machine: &Path) -> Value {
    let kept: Kept = postcard::from_bytes(&std::fs::read(machine.join(KEPT)).unwrap()).unwrap();
    let Kept { now, log, blobs, salts, manifest, sealed_root } = kept;
    let measurement = Hash::new(identity.mrenclave);
    let host =
        World { measurement, now, log, blobs, salts, manifest, sealed_root, ..World::born() };
    let mut world = host.moved_to(enclave);
    let (manifest, sealed_root) = (world.manifest.clone(), world.sealed_root.clone());
    let begin = Command::Boot { manifest, sealed_root, target: quoting_target() };
    let (open_us, report) = within(&mut world, |world| world.report(begin).unwrap());
    let (quote_us, _) = within(&mut world, |world| world.prove(&report).unwrap());
    let log = world.log.clone();
    let (replay_us, ()) = within(&mut world, |world| {
        for leaves in log.chunks(REPLAY_COUNT_MAX) {
            world.ok(Command::Replay { leaves: leaves.to_vec() });
        }
    });
    let (start_us, ()) = within(&mut world, |world| world.try_finish_boot().unwrap());
    json!({
        "open_root_ms": open_us / 1e3, "verify_quote_ms": quote_us / 1e3,
        "replay_ms": replay_us / 1e3, "start_ms": start_us / 1e3,
        "without_quote_ms": (open_us + replay_us + start_us) / 1e3,
    })
}

/// A child: an enclave has one life, and its memory is fresh.
fn boot_child(side: &str, machine: &Path) -> Value {
    let began = Instant::now();
    let simulator = load(machine);
    let load_ms = began.elapsed().as_secs_f64() * 1e3;
    let identity = simulator.identity();
    let mut booted = match side {
        "image" => boot(Image::new(&simulator), identity, machine),
        _ => boot(Library::new(machine, identity), identity, machine),
    };
    if side == "image" {
        booted["load_ms"] = json!(load_ms);
    }
    booted
}

fn boots(machine: &Path) -> Value {
    let mut sides: [Vec<Value>; 2] = Default::default();
    for _ in 0..BOOTS {
        for (name, boots) in ["library", "image"].into_iter().zip(&mut sides) {
            let mut child = Program::new(std::env::current_exe().unwrap());
            let output = child.arg(BOOT).arg(name).arg(machine).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            boots.push(serde_json::from_slice(&output.stdout).unwrap());
        }
    }
    let [library, image] = sides.map(|boots| {
        let names = boots[0].as_object().unwrap().keys();
        let of = |name: &String| boots.iter().map(|boot| boot[name].as_f64().unwrap()).collect();
        names.map(|name| (name.clone(), json!(median(of(name))))).collect::<Value>()
    });
    json!({"records": RECORDS, "library": library, "image": image, "goal_without_quote_ms": 100})
}

fn load(machine: &Path) -> Simulator {
    let (image, signature) = machine::read(&common::image()).unwrap();
    Simulator::load(&image, &signature, machine, Mode::Fast).unwrap()
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [boot, side, machine] = arguments.as_slice()
        && boot == BOOT
    {
        println!("{}", boot_child(side, Path::new(machine)));
        return;
    }
    let machine = tempfile::tempdir().unwrap();
    let simulator = load(machine.path());
    let identity = simulator.identity();
    let mut library = furnished(Library::new(machine.path(), identity), identity);
    let mut image = furnished(Image::new(&simulator), identity);
    let calls = calls(&mut library, &mut image);
    let at_once = at_once(library, image);
    live(machine.path(), identity);
    println!("{}", json!({"calls": calls, "check": at_once, "boot": boots(machine.path())}));
}
