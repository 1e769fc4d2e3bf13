//! Hand-over: the root goes on in another image or on another machine, once for each statement of
//! the operators. docs/PROTOCOL.md has the documents.
//!
//! The giver writes a record first, and starts no boot after it: what the root is sealed to then
//! goes on alone. Whoever puts an older log back beside the giver's sealed root has both of them
//! work: against that there is no more than against any rollback (`freshness: host`).

use alloc::vec::Vec;

use hpke::{Kem, Serializable, kem::X25519HkdfSha256};
use rand_core::CryptoRng;
use serde::{Serialize, de::DeserializeOwned};
use toani_protocol::{
    Hash, Reason, Time, canonical,
    evidence::{BootKeys, Role, report_data, root_request_report_data},
    hand_over::{HandOver, RootPackage, RootPackageFormat, RootRequest},
    instance::Manifest,
    limits::DOCUMENT_BYTES_MAX,
    record::{About, RecordKind},
    sign::{Bytes, Label, PublicKey, Signed},
    wire::Answer,
};

use crate::{
    boot::{Replaying, proven, read_manifest},
    keys::{self, CryptoError, PrivateKey},
    platform::{OwnReport, Platform, Wrapped},
    ready::Turn,
    root::{CameBy, Root},
    secret::Secret,
    state::CollateralNumbers,
};

/// Makes the key that a root is to be sealed to.
pub(crate) fn ask(
    platform: &dyn Platform,
    manifest: &[u8],
    target: &[u8],
    rng: &mut dyn CryptoRng,
) -> Result<Answer, Reason> {
    let (_, instance) = read_manifest(manifest)?;
    let target = target.try_into().map_err(|_| Reason::RequestMalformed)?;
    let seed = Secret::filled(|bytes| rng.fill_bytes(bytes));
    let key = key_pair(&seed).1;
    let wrapped = Wrapped::seal(platform, &seed, &key_aad(&instance), rng)?;
    let report = platform.ereport(target, &root_request_report_data(&instance, &key)).to_vec();
    let sealed_key = postcard::to_allocvec(&wrapped).map_err(|_| Reason::Internal)?;
    Ok(Answer::RootAsked { key, report, sealed_key })
}

fn key_pair(seed: &Secret<32>) -> (PrivateKey, [u8; 32]) {
    let (private, public) = X25519HkdfSha256::derive_keypair(seed.bytes());
    (private, public.to_bytes().into())
}

fn key_aad(instance: &Hash) -> Vec<u8> {
    keys::fields(&[b"toani/v1/root-request-key", instance.as_bytes()])
}

/// A statement that allows this enclave to give its root away, and the root as it leaves.
#[derive(Debug)]
pub(crate) struct Allowed {
    statement: Signed<HandOver>,
    encapsulated: Bytes,
    ciphertext: Bytes,
}

/// Verifies what allows a hand-over: operators, root, counter, both measurements, and the quote of
/// who asks.
pub(crate) fn check(
    giver: &Replaying,
    statement: &[u8],
    request: &[u8],
    now: Time,
    rng: &mut dyn CryptoRng,
) -> Result<Allowed, Reason> {
    if !giver.ended {
        return Err(Reason::NotReady);
    }
    let Replaying { keys, instance, manifest, mrenclave, state, proof, links, .. } = giver;
    let statement: Signed<HandOver> = document(statement)?;
    let request: RootRequest = document(request)?;
    signed(&statement, manifest)?;
    let (allowed, now) = (&statement.payload, now.max(links.time()));
    let next = state.handed_over.counter.checked_add(1);
    let root = (allowed.instance, allowed.chain_key) == (*instance, keys.chain_public);
    let here = allowed.from == *mrenclave && Some(allowed.counter) == next;
    let asked = (request.instance, &request.key) == (*instance, &allowed.key);
    if !root || !here || !asked || now >= allowed.expires_at {
        return Err(Reason::HandOverRefused);
    }
    let key = request.key.0.as_slice().try_into().map_err(|_| Reason::DocumentMalformed)?;
    let report_data = root_request_report_data(instance, key);
    let shown = proven(&request.evidence.0, manifest, &report_data, now)?;
    if !CollateralNumbers::of(&shown).reaches(state.collateral.max(proof.collateral)) {
        return Err(Reason::EvidenceRefused);
    }
    if shown.mrenclave != allowed.to || shown.isv_svn < allowed.min_isv_svn {
        return Err(Reason::HandOverRefused);
    }
    let aad = canonical::encode(allowed).map_err(|_| Reason::Internal)?;
    let sealed = keys.root.seal_to(key, &aad, rng).map_err(|_| Reason::HandOverRefused)?;
    let (encapsulated, ciphertext) = sealed;
    Ok(Allowed { statement, encapsulated, ciphertext })
}

fn document<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Result<T, Reason> {
    canonical::decode(bytes, DOCUMENT_BYTES_MAX).map_err(|_| Reason::DocumentMalformed)
}

fn signed(statement: &Signed<HandOver>, manifest: &Manifest) -> Result<(), Reason> {
    manifest.verify(Label::HandOver, statement).map_err(|_| Reason::DocumentSignature)
}

/// Records the hand-over. The host gets record and package at once: the package is nothing secret,
/// and the record names it.
pub(crate) fn give(turn: &mut Turn<'_>, allowed: Allowed) -> Result<Answer, Reason> {
    let Allowed { statement, encapsulated, ciphertext } = allowed;
    let counter = statement.payload.counter;
    let BootKeys { intake, channel, .. } = turn.ready.keys.vouched();
    let package = RootPackage {
        format: RootPackageFormat::V1,
        statement,
        boot: turn.ready.keys.boot.clone(),
        intake_key: Bytes(intake.to_vec()),
        channel,
        evidence: Bytes(turn.ready.evidence.clone()),
        encapsulated,
        ciphertext,
    };
    let package = canonical::encode(&package).map_err(|_| Reason::Internal)?;
    let blob = Some(turn.keep(package.clone(), None));
    let about = About { blob, count: Some(counter), ..About::default() };
    turn.write(RecordKind::HandedOver, about, None)?;
    Ok(Answer::RootGiven { package })
}

/// Opens a package with the key of [`ask`], and seals the root for this enclave on this platform.
pub(crate) fn take(
    platform: &dyn Platform,
    manifest: &[u8],
    sealed_key: &[u8],
    package: &[u8],
    now: Time,
    rng: &mut dyn CryptoRng,
) -> Result<Answer, Reason> {
    let (manifest, instance) = read_manifest(manifest)?;
    let came_by = Hash::of(package);
    let package: RootPackage = document(package)?;
    signed(&package.statement, &manifest)?;
    let (allowed, own) = (&package.statement.payload, OwnReport::of(platform));
    let here = allowed.instance == instance && allowed.to == own.mrenclave;
    if !here || own.isv_svn < allowed.min_isv_svn {
        return Err(Reason::HandOverRefused);
    }
    let keys = package.vouched().ok_or(Reason::DocumentMalformed)?.hash();
    let report_data = report_data(Role::Enclave, &instance, package.boot.as_str(), &keys);
    let giver = proven(&package.evidence.0, &manifest, &report_data, now)?;
    if giver.mrenclave != allowed.from {
        return Err(Reason::HandOverRefused);
    }
    let came_by = CameBy { counter: allowed.counter, package: came_by };
    let root = open(platform, sealed_key, &package, instance, came_by);
    let root = root.map_err(|_| Reason::RootUnopened)?;
    // Anybody can seal something to a key that stands in the open: the root is what the chain key
    // follows from that the operators know.
    if PublicKey::of(&*root.chain()?) != allowed.chain_key {
        return Err(Reason::HandOverRefused);
    }
    Ok(Answer::Born { sealed_root: root.seal(platform, rng)? })
}

fn open(
    platform: &dyn Platform,
    sealed_key: &[u8],
    package: &RootPackage,
    instance: Hash,
    came_by: CameBy,
) -> Result<Root, CryptoError> {
    let wrapped: Wrapped = postcard::from_bytes(sealed_key)?;
    let private = key_pair(&wrapped.open(platform, &key_aad(&instance))?).0;
    let aad = canonical::encode(&package.statement.payload)?;
    let sealed = (&package.encapsulated, &package.ciphertext);
    Root::open_sealed(&private, sealed, &aad, instance, came_by)
}
