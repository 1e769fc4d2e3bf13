//! Hand-over: the root goes on in another image or on another machine, once for each statement of
//! the operators. docs/PROTOCOL.md has the documents.
//!
//! The giver writes a record first, and starts no boot after it: what the root is sealed to then
//! goes on alone. Whoever puts an older log back beside the giver's sealed root has both of them
//! work: against that there is no more than against any rollback (`freshness: host`).

use alloc::vec::Vec;

use hpke::{Kem, Serializable, kem::X25519HkdfSha256};
use rand_core::CryptoRng;
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
    boot::{proven, read_manifest},
    keys::{self, CryptoError, PrivateKey},
    platform::{OwnReport, Platform, Wrapped},
    ready::Turn,
    root::Root,
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

/// A statement and a request that allow this enclave to give its root away.
pub(crate) struct Allowed(Signed<HandOver>);

/// What the giver is, for a statement to name.
pub(crate) struct Giver<'a> {
    pub(crate) manifest: &'a Manifest,
    pub(crate) instance: &'a Hash,
    pub(crate) mrenclave: &'a Hash,
    /// Counter of the last hand-over in the log.
    pub(crate) hand_overs: u64,
    /// The newest that any boot was proven by.
    pub(crate) collateral: CollateralNumbers,
    pub(crate) now: Time,
}

impl Giver<'_> {
    /// Verifies what allows a hand-over: operators, counter, both measurements, and the quote of
    /// who asks.
    pub(crate) fn check(&self, statement: &[u8], request: &[u8]) -> Result<Allowed, Reason> {
        let malformed = |_| Reason::DocumentMalformed;
        let signed: Signed<HandOver> =
            canonical::decode(statement, DOCUMENT_BYTES_MAX).map_err(malformed)?;
        let request: RootRequest =
            canonical::decode(request, DOCUMENT_BYTES_MAX).map_err(malformed)?;
        let unsigned = |_| Reason::DocumentSignature;
        self.manifest.verify(Label::HandOver, &signed).map_err(unsigned)?;
        let allowed = &signed.payload;
        let next = self.hand_overs.checked_add(1);
        let here = allowed.from == *self.mrenclave && Some(allowed.counter) == next;
        let ours = [allowed.instance, request.instance].iter().all(|named| named == self.instance);
        if !here || !ours || request.key != allowed.key || self.now >= allowed.expires_at {
            return Err(Reason::HandOverRefused);
        }
        let key = request.key.0.as_slice().try_into().map_err(|_| Reason::DocumentMalformed)?;
        let report_data = root_request_report_data(self.instance, key);
        let shown = proven(&request.evidence.0, self.manifest, &report_data, self.now)?;
        if !CollateralNumbers::of(&shown).reaches(self.collateral) {
            return Err(Reason::EvidenceRefused);
        }
        if shown.mrenclave != allowed.to || shown.isv_svn < allowed.min_isv_svn {
            return Err(Reason::HandOverRefused);
        }
        Ok(Allowed(signed))
    }
}

/// Records the hand-over, and seals the root. The host gets both at once: the package is nothing
/// secret, and the record names it.
pub(crate) fn give(turn: &mut Turn<'_>, allowed: Allowed) -> Result<Answer, Reason> {
    let Allowed(statement) = allowed;
    let counter = statement.payload.counter;
    let keys = &turn.ready.keys;
    let aad = statement.payload.aad().map_err(|_| Reason::Internal)?;
    let sealed = keys.root.seal_to(&statement.payload.key.0, &aad, turn.rng);
    let (encapsulated, ciphertext) = sealed.map_err(|_| Reason::HandOverRefused)?;
    let BootKeys { chain, intake, channel } = keys.vouched();
    let package = RootPackage {
        format: RootPackageFormat::V1,
        statement,
        boot: keys.boot.clone(),
        chain_key: chain,
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
    let package = RootPackage::decode(package).map_err(|_| Reason::DocumentMalformed)?;
    let unsigned = |_| Reason::DocumentSignature;
    manifest.verify(Label::HandOver, &package.statement).map_err(unsigned)?;
    let (allowed, own) = (&package.statement.payload, OwnReport::of(platform));
    let here = allowed.instance == instance && allowed.to == own.mrenclave;
    if !here || own.isv_svn < allowed.min_isv_svn {
        return Err(Reason::HandOverRefused);
    }
    let vouched = package.vouched().ok_or(Reason::DocumentMalformed)?;
    let keys = vouched.hash();
    let report_data = report_data(Role::Enclave, &instance, package.boot.as_str(), &keys);
    let giver = proven(&package.evidence.0, &manifest, &report_data, now)?;
    if giver.mrenclave != allowed.from {
        return Err(Reason::HandOverRefused);
    }
    let root = open(platform, sealed_key, &package, instance).map_err(|_| Reason::RootUnopened)?;
    // Anybody can seal something to a key that stands in the open. Only what the giver's evidence
    // vouches for by its chain key is the instance's root.
    if PublicKey::of(&*root.chain()?) != vouched.chain {
        return Err(Reason::HandOverRefused);
    }
    Ok(Answer::Born { sealed_root: root.seal(platform, rng)? })
}

fn open(
    platform: &dyn Platform,
    sealed_key: &[u8],
    package: &RootPackage,
    instance: Hash,
) -> Result<Root, CryptoError> {
    let wrapped: Wrapped = postcard::from_bytes(sealed_key)?;
    let private = key_pair(&wrapped.open(platform, &key_aad(&instance))?).0;
    let allowed = &package.statement.payload;
    let sealed = (&package.encapsulated, &package.ciphertext);
    Root::open_sealed(&private, sealed, &allowed.aad()?, instance, allowed.counter)
}
