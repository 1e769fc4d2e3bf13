//! The built image: both ways in and out, what it is measured as, and what a changed one cannot do.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{path::Path, time::Duration};

use common::{image, runner, start};
use toani_enclave_host::{
    EnclaveHost, StartError,
    image::{Content, Image, Rights, SigStruct, Signing, sign},
};
use toani_protocol::{
    Hash, Reason, canonical,
    instance::{Manifest, ManifestFormat, SgxPolicy},
    sign::PublicKey,
    wire::{Answer, Command},
};
use toani_simulator::Authority;

const LIMIT: Duration = Duration::from_secs(60);

fn manifest(machine: &Path) -> Vec<u8> {
    let authority = Authority::open_or_create(machine).unwrap();
    let operator = ed25519_dalek::SigningKey::from_bytes(&[1; 32]);
    let manifest = Manifest {
        format: ManifestFormat::V1,
        sgx_roots: vec![authority.sgx_root()],
        sgx_policy: SgxPolicy::up_to_date(),
        snp_roots: vec![Hash::of(b"no guests here")],
        operators: vec![PublicKey::of(&operator)],
        quorum: 1,
        log_origin: "log.example/image".into(),
        nonce: Hash::of(b"nonce"),
    };
    canonical::encode(&manifest).unwrap()
}

async fn proven(enclave: &EnclaveHost, command: Command) -> Result<Answer, Reason> {
    let report = match enclave.call(command).await.unwrap().answer? {
        Answer::Report { report } => report,
        other => panic!("{other:?}"),
    };
    let evidence = enclave.quote(report).await.unwrap();
    enclave.call(Command::Prove { evidence }).await.unwrap().answer
}

async fn birth(enclave: &EnclaveHost, manifest: &[u8]) -> Vec<u8> {
    let target = enclave.target_info().await.unwrap();
    let birth = Command::Birth { manifest: manifest.to_vec(), target };
    match proven(enclave, birth).await.unwrap() {
        Answer::Born { sealed_root } => sealed_root,
        other => panic!("{other:?}"),
    }
}

async fn boot(enclave: &EnclaveHost, manifest: &[u8], root: &[u8]) -> Result<Answer, Reason> {
    let target = enclave.target_info().await.unwrap();
    let boot = Command::Boot { manifest: manifest.to_vec(), sealed_root: root.to_vec(), target };
    proven(enclave, boot).await
}

/// Born by jumps, booted by trapped EENTER and EEXIT, and the other way round: the same bytes.
#[tokio::test]
async fn an_instance_lives_in_both_modes() {
    let machine = tempfile::tempdir().unwrap();
    let manifest = manifest(machine.path());
    for (first, then) in [(&[][..], &["--trap"][..]), (&["--trap"], &[])] {
        let enclave = start(machine.path(), first).await;
        let root = birth(&enclave, &manifest).await;
        drop(enclave);
        let enclave = start(machine.path(), then).await;
        assert_eq!(boot(&enclave, &manifest, &root).await, Ok(Answer::Done));
    }
}

#[tokio::test]
async fn four_threads_are_inside_at_once() {
    let machine = tempfile::tempdir().unwrap();
    for mode in [&[][..], &["--trap"]] {
        let enclave = start(machine.path(), mode).await;
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..256 {
            let enclave = enclave.clone();
            calls.spawn(async move { enclave.call(Command::Tick).await.unwrap().answer });
        }
        while let Some(answer) = tokio::time::timeout(LIMIT, calls.join_next()).await.unwrap() {
            assert_eq!(answer.unwrap(), Err(Reason::NotReady));
        }
    }
}

#[tokio::test]
async fn another_machine_opens_no_root() {
    let (here, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let manifest = manifest(here.path());
    let enclave = start(here.path(), &[]).await;
    let root = birth(&enclave, &manifest).await;
    let other = start(elsewhere.path(), &[]).await;
    assert_eq!(boot(&other, &manifest, &root).await, Err(Reason::RootUnopened));
}

/// Nothing about a page can change without the measurement.
#[test]
fn the_measurement_is_that_of_the_pages_in_order() {
    let image = Image::read(&std::fs::read(image()).unwrap()).unwrap();
    let mut end = 0;
    for region in &image.regions {
        assert!(region.offset >= end && region.offset % 4096 == 0 && region.bytes % 4096 == 0);
        end = region.offset + region.bytes;
        let executable = region.rights == Rights::ReadExecute;
        assert!(!executable || matches!(region.content, Content::Measured(_)));
    }
    assert!(image.threads.len() >= 4 && end <= image.elrange_bytes);
    let mut moved = image.clone();
    let last = moved.regions.last_mut().unwrap();
    last.offset += 4096;
    assert_ne!(moved.mrenclave(), image.mrenclave(), "a page elsewhere");
    let mut writable = image.clone();
    writable.regions[0].rights = Rights::ReadWrite;
    assert_ne!(writable.mrenclave(), image.mrenclave(), "other rights");
    let mut fewer = image.clone();
    fewer.regions.retain(|region| region.content != Content::Zeros);
    assert_ne!(fewer.mrenclave(), image.mrenclave(), "pages left out");
}

/// An image with one bit of code changed, signed by a key of the test's own.
fn changed(folder: &Path) -> std::path::PathBuf {
    let mut file = std::fs::read(image()).unwrap();
    let honest = Image::read(&file).unwrap();
    let Content::Measured(text) = &honest.regions[0].content else { panic!() };
    // The code begins at the file's second page; its last byte is of some function at the end.
    let length = text.iter().rposition(|byte| *byte != 0).unwrap();
    let at = file.windows(64).position(|part| part == &text[..64]).unwrap() + length;
    file[at] ^= 1;
    let image = Image::read(&file).unwrap();
    assert_ne!(image.mrenclave(), honest.mrenclave(), "one bit of code");
    let path = folder.join("changed");
    std::fs::write(&path, &file).unwrap();
    let mut random = rand_core::UnwrapErr(getrandom::SysRng);
    let exponent = rsa::BoxedUint::from(3_u8);
    let key = rsa::PrivateKey::new_with_exp(&mut random, 3072, exponent).unwrap();
    let signing = Signing { mrenclave: image.mrenclave(), isv_prod_id: 1, isv_svn: 1, date: 0 };
    std::fs::write(folder.join("changed.sig"), sign(&key, &signing).unwrap()).unwrap();
    path
}

#[tokio::test]
async fn one_bit_of_code_strands_the_root() {
    let machine = tempfile::tempdir().unwrap();
    let manifest = manifest(machine.path());
    let enclave = start(machine.path(), &[]).await;
    let root = birth(&enclave, &manifest).await;
    drop(enclave);
    let changed = changed(machine.path());
    let enclave = EnclaveHost::start(&runner(&changed, machine.path(), &[])).await.unwrap();
    assert_eq!(boot(&enclave, &manifest, &root).await, Err(Reason::RootUnopened));

    // The honest signature is of the honest image.
    std::fs::copy(image().with_extension("sig"), machine.path().join("changed.sig")).unwrap();
    let refused = EnclaveHost::start(&runner(&changed, machine.path(), &[])).await;
    assert!(matches!(refused, Err(StartError::Refused(why)) if why.contains("another image")));
}

#[test]
fn a_signature_structure_holds_whole_or_not_at_all() {
    let bytes = std::fs::read(image().with_extension("sig")).unwrap();
    let honest = SigStruct::read(&bytes).unwrap();
    let image = Image::read(&std::fs::read(image()).unwrap()).unwrap();
    assert_eq!(honest.mrenclave(), image.mrenclave());
    // Header and body are signed; the modulus and the signature are what they are checked by.
    for at in (0..128).chain(128..512).chain(516..900).chain(900..1028).step_by(7) {
        let mut forged = bytes.clone();
        forged[at] ^= 1;
        assert!(SigStruct::read(&forged).is_err(), "byte {at}");
    }
    assert!(SigStruct::read(&bytes[..1807]).is_err());
}

#[test]
fn what_is_no_image_is_refused() {
    let file = std::fs::read(image()).unwrap();
    assert!(Image::read(&[]).is_err());
    assert!(Image::read(&file[..file.len() / 2]).is_err());
    assert!(Image::read(&std::fs::read("/proc/self/exe").unwrap()).is_err());
}
