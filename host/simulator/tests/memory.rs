//! What stands in the enclave's memory after an execution: no plaintext, and no key between the
//! processor's and a credential's. The root itself does: the enclave works with it.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;
#[path = "../../../trusted/enclave/tests/world/mod.rs"]
mod world;

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::Path,
    process::{Command as Program, Stdio},
};

use aes_gcm::{
    Aes256Gcm, KeyInit,
    aead::{Aead, Payload},
};
use hkdf::Hkdf;
use memchr::memmem;
use serde::Deserialize;
use serde_json::json;
use sha2::Sha256;
use toani_enclave::Enclave;
use toani_enclave_host::runner::{Exchange, Machine as _};
use toani_protocol::{
    Hash, canonical,
    credential::CredentialHeader,
    instance::Manifest,
    job::JobOutcome,
    record::{Connection, Outcome},
};
use toani_simulator::{
    Identity, Processor,
    machine::{self, Mode, Simulator},
};
use world::{Answers, Machine, SECRET, World, answered, tenant};

/// Tells a child of this test which life to live: one process has one enclave.
const LIFE: &str = "TOANI_TEST_LIFE";

/// The image, entered on each of its threads in turn.
struct Image {
    simulator: Simulator,
    calls: usize,
}

impl Answers for Image {
    fn answer(&mut self, call: &[u8]) -> Vec<u8> {
        let mut exchange = Exchange::with_input(call);
        self.calls += 1;
        self.simulator.enter(self.calls % 4, &mut exchange).unwrap();
        exchange.reply().to_vec()
    }
}

#[test]
fn no_key_below_the_root_and_no_plaintext_stays() {
    live("born");
    live("booted");
}

/// A supervisor says of a job that it opened more connections than there is memory for.
#[test]
fn a_list_without_end_does_not_end_the_enclave() {
    live("endless");
}

fn live(life: &str) {
    let child = Program::new(std::env::current_exe().unwrap())
        .args(["life", "--exact", "--nocapture"])
        .env(LIFE, life)
        .stdout(Stdio::null())
        .status();
    assert!(child.unwrap().success(), "{life}");
}

/// Not a test by itself: the child of those above.
#[test]
fn life() {
    let Some(life) = std::env::var_os(LIFE) else { return };
    let folder = tempfile::tempdir().unwrap();
    let (image, signature) = machine::read(&common::image()).unwrap();
    let simulator = Simulator::load(&image, &signature, folder.path(), Mode::Fast).unwrap();
    let identity = simulator.identity().clone();
    let elrange = (simulator.base(), usize::try_from(image.elrange_bytes).unwrap());
    let image = Image { simulator, calls: 0 };
    let mut world = if life == "booted" {
        booted(image, folder.path(), &identity)
    } else {
        born(image, &identity)
    };
    if life == "endless" {
        return hear_a_list_without_end(&mut world);
    }
    execute(&mut world);
    let keys = Keys::derive(&world, folder.path(), &identity);

    assert!(stands(elrange, &keys.root), "what is there is found");
    for (name, key) in &keys.passing {
        // Half a key as well: what overwrote the rest may have left it.
        for half in key.chunks(16) {
            assert!(!stands(elrange, half), "{name} is in the memory of the enclave");
        }
    }
    assert!(!stands(elrange, SECRET.as_bytes()), "the plaintext is in the memory of the enclave");
}

/// The image wraps the root and takes the credential in.
fn born(image: Image, identity: &Identity) -> World<Image> {
    let mut world = World::born_in(image, Hash::new(identity.mrenclave));
    world.furnish();
    world
}

/// The image unwraps the root. Both were made by the same code as a library, on the same processor
/// under the same measurement.
fn booted(image: Image, machine: &Path, identity: &Identity) -> World<Image> {
    let processor = Processor::open_or_create(machine).unwrap();
    let library = Enclave::new(Box::new(Machine::of(processor, identity.clone())));
    let mut world = World::born_in(library, Hash::new(identity.mrenclave));
    world.furnish();
    let mut world = world.moved_to(image);
    world.restart().unwrap();
    world.connect();
    world
}

/// One execution with a credential, to its end.
fn execute(world: &mut World<Image>) {
    let request = world.request("read_balance", json!({"account": "x"}), "key");
    let redeemed = world.redeem(None, &request).unwrap();
    world.durable();
    let job = world.release(&redeemed.execution).unwrap();
    assert_eq!(job.job.credential, SECRET.as_bytes(), "it was opened");
    let outcome = world::outcome_of(&job, &answered(200, json!({"balance": 1})));
    world.finish(&redeemed.execution, Some(outcome)).unwrap();
    world.durable();
}

fn hear_a_list_without_end(world: &mut World<Image>) {
    let redeemed = world.started("endless");
    let job = world.release(&redeemed.execution).unwrap();
    let connection = Connection { host: String::new(), port: 0, bytes_out: 0, bytes_in: 0 };
    let connections = vec![connection; 3_500_000];
    let outcome = world::outcome_of(&job, &JobOutcome { connections, ..answered(200, json!({})) });
    let (finished, _) = world.finish(&redeemed.execution, Some(outcome)).unwrap();
    assert_eq!(finished.outcome, Outcome::Unknown, "and the enclave lives");
}

/// Whether these bytes stand anywhere between an address and as many bytes behind it.
fn stands((base, bytes): (usize, usize), needle: &[u8]) -> bool {
    const BLOCK_BYTES: usize = 1 << 20;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let memory = File::open("/proc/self/mem").unwrap();
    let finder = memmem::Finder::new(needle);
    let mut block = vec![0; BLOCK_BYTES + needle.len()];
    let mut searched = 0;
    let mut found = false;
    for line in maps.lines() {
        let (range, rights) = line.split_once(' ').unwrap();
        let (from, to) = range.split_once('-').unwrap();
        let from = usize::from_str_radix(from, 16).unwrap();
        let to = usize::from_str_radix(to, 16).unwrap();
        if !rights.starts_with('r') || from < base || to > base + bytes {
            continue;
        }
        searched += to - from;
        for at in (from..to).step_by(BLOCK_BYTES) {
            // Blocks overlap, or what lies across their border would not be seen.
            let length = block.len().min(to - at);
            memory.read_exact_at(&mut block[..length], at as u64).unwrap();
            found |= finder.find(&block[..length]).is_some();
        }
    }
    assert!(searched > 512 << 20, "the heap at least");
    found
}

/// The hierarchy as PROTOCOL has it, from the processor's secret and from what the host keeps. No
/// line of the enclave's takes part.
struct Keys {
    /// L1.
    root: Vec<u8>,
    /// What is derived when it is needed, and wiped then.
    passing: Vec<(&'static str, Vec<u8>)>,
}

impl Keys {
    fn derive(world: &World<Image>, machine: &Path, identity: &Identity) -> Self {
        let instance = Manifest::id_of(&world.manifest);
        let sealed: SealedRoot = postcard::from_bytes(&world.sealed_root).unwrap();
        assert_eq!((sealed.format, sealed.epoch), (1, 1));
        let epoch = sealed.epoch.to_be_bytes();
        let processor = Processor::open_or_create(machine).unwrap();
        let sealing = processor.egetkey(identity, &sealed.key_request()).unwrap();
        let (l0_prk, l0) = hkdf(&sealing, b"", &[b"toani/v1/l0"], 32);
        let counter = sealed.counter.to_be_bytes();
        let root_aad: [&[u8]; 5] =
            [b"toani/v1/root", instance.as_bytes(), &epoch, &counter, sealed.package.as_bytes()];
        let aad = fields(&root_aad);
        let root = open(&l0, sealed.nonce, &aad, &sealed.ciphertext);

        let mut stored = world.blobs.values().filter_map(|blob| StoredCredential::read(blob));
        let (stored, header) = stored.next().unwrap();
        let (tenant, namespace) = (tenant(), header.namespace.as_str());
        let info: [&[u8]; 5] = [
            b"toani/v1/l2",
            instance.as_bytes(),
            tenant.as_str().as_bytes(),
            namespace.as_bytes(),
            &epoch,
        ];
        let (_, l2) = hkdf(&root, b"", &info, 32);
        let info: [&[u8]; 4] = [
            b"toani/v1/l3",
            header.owner.as_bytes(),
            header.id.as_str().as_bytes(),
            &header.version.to_be_bytes(),
        ];
        let (l3_prk, l3) = hkdf(&l2, &stored.salt, &info, 64);
        let (l3, commitment) = l3.split_at(32);
        assert_eq!(commitment, stored.commitment);
        let aad = fields(&[b"toani/v1/credential-at-rest", b"aes-256-gcm", &stored.header]);
        let plaintext = open(l3, stored.nonce, &aad, &stored.ciphertext);
        assert_eq!(plaintext, SECRET.as_bytes(), "these are the keys");
        let passing = vec![
            ("the sealing key", sealing.to_vec()),
            ("the extract of L0", l0_prk),
            ("L0", l0),
            ("L2", l2),
            ("the extract of L3", l3_prk),
            ("L3", l3.to_vec()),
        ];
        Self { root, passing }
    }
}

/// Extract and output of HKDF-SHA-256.
fn hkdf(key: &[u8], salt: &[u8], info: &[&[u8]], bytes: usize) -> (Vec<u8>, Vec<u8>) {
    let (extract, hkdf) = Hkdf::<Sha256>::extract(Some(salt), key);
    let mut out = vec![0; bytes];
    hkdf.expand(&fields(info), &mut out).unwrap();
    (extract.to_vec(), out)
}

fn fields(parts: &[&[u8]]) -> Vec<u8> {
    let prefixed = |part: &&[u8]| {
        let length = u32::try_from(part.len()).unwrap();
        [&length.to_be_bytes(), *part].concat()
    };
    parts.iter().flat_map(prefixed).collect()
}

fn open(key: &[u8], nonce: [u8; 12], aad: &[u8], ciphertext: &[u8]) -> Vec<u8> {
    let cipher = Aes256Gcm::new_from_slice(key).unwrap();
    cipher.decrypt(&nonce.into(), Payload { msg: ciphertext, aad }).unwrap()
}

/// As the enclave gives it to the host.
#[derive(Deserialize)]
struct SealedRoot {
    format: u8,
    epoch: u32,
    /// Of the hand-over that it came by; none here.
    counter: u64,
    package: Hash,
    key_id: [u8; 32],
    cpu_svn: [u8; 16],
    isv_svn: u16,
    nonce: [u8; 12],
    ciphertext: Vec<u8>,
}

impl SealedRoot {
    /// KEYREQUEST (SDM vol. 3D, 38.17): a sealing key by MRENCLAVE and by all attributes.
    fn key_request(&self) -> [u8; 512] {
        let mut request = [0; 512];
        request[0] = 4;
        request[2] = 1;
        request[4..6].copy_from_slice(&self.isv_svn.to_le_bytes());
        request[8..24].copy_from_slice(&self.cpu_svn);
        request[24..40].fill(0xff);
        request[40..72].copy_from_slice(&self.key_id);
        request[72..76].fill(0xff);
        request
    }
}

/// As the enclave gives it to the host.
#[derive(Deserialize)]
struct StoredCredential {
    format: u8,
    header: Vec<u8>,
    salt: [u8; 32],
    commitment: [u8; 32],
    nonce: [u8; 12],
    ciphertext: Vec<u8>,
}

impl StoredCredential {
    fn read(blob: &[u8]) -> Option<(Self, CredentialHeader)> {
        let stored: Self = postcard::from_bytes(blob).ok()?;
        let header = canonical::decode(&stored.header, blob.len()).ok()?;
        (stored.format == 1).then_some((stored, header))
    }
}
