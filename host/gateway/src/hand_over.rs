//! A hand-over as the host sees it: documents between two enclaves, neither of which takes its word.
//!
//! Every step may be repeated: the package is in the store before the record that names it, and the
//! key of who asks lies sealed in a file until the root is taken.

use std::path::Path;

use toani_audit_log::AuditLog;
use toani_enclave_host::{EnclaveHost, Runner};
use toani_protocol::{
    Hash, Reason, canonical,
    hand_over::{HandOver, RootPackage, RootRequest, RootRequestFormat},
    instance::Manifest,
    limits::DOCUMENT_BYTES_MAX,
    record::{About, Record},
    sign::{Bytes, Signed},
    wire::{Answer, Command},
};
use toani_store::DataFolder;

use crate::{
    boot::{self, BootError},
    keep::Keep,
};

/// Where in the data folder the key of a request lies, which an enclave has sealed for itself. Each
/// request has its own: asking again takes nothing away.
pub fn asked_key(request_key: &Bytes) -> String {
    format!("hand-over-{}.key", Hash::of(&request_key.0))
}

/// What an enclave has asked for a root with.
#[derive(Debug)]
pub struct Asked {
    /// A canonical `RootRequest`, for those who sign and for who gives.
    pub request: Vec<u8>,
    /// For [`asked_key`].
    pub key: Bytes,
    /// For [`take_root`]; opens in the same image on the same machine alone.
    pub sealed_key: Vec<u8>,
}

/// Asks for the root of the instance whose manifest lies in `data`. The plane may run meanwhile.
pub async fn ask_root(runner: &Runner, data: &Path) -> Result<Asked, BootError> {
    const STEP: &str = "a request for a root";
    let (manifest, _) = boot::read_manifest(data)?;
    let instance = Manifest::id_of(&manifest);
    let enclave = EnclaveHost::start(runner).await?;
    let command = Command::AskRoot { manifest, target: enclave.target_info().await? };
    let Answer::RootAsked { key, report, sealed_key } = boot::ask(&enclave, STEP, command).await?
    else {
        return Err(BootError::Answer(STEP));
    };
    let (key, evidence) = (Bytes(key.to_vec()), Bytes(enclave.quote(report).await?));
    let format = RootRequestFormat::V1;
    let request = RootRequest { format, instance, key: key.clone(), evidence };
    let request = canonical::encode(&request).map_err(|_| BootError::Answer(STEP))?;
    Ok(Asked { request, key, sealed_key })
}

/// Gives the root away, as a canonical `Signed<HandOver>` allows: the last thing that this enclave
/// does. Returns the canonical `RootPackage`; the same one, if it was given before.
pub async fn give_root(
    runner: &Runner,
    data: &Path,
    statement: Vec<u8>,
    request: Vec<u8>,
) -> Result<Vec<u8>, BootError> {
    const STEP: &str = "a hand-over";
    let signed: Signed<HandOver> = canonical::decode(&statement, DOCUMENT_BYTES_MAX)
        .map_err(|_| BootError::Document("signed hand-over"))?;
    let (manifest, parsed) = boot::read_manifest(data)?;
    boot::whole(data)?;
    let keep = Keep::open(data)?;
    let (log, _) = boot::open_log(&keep).await?;
    if let Some(package) = given(&keep, &log, &signed).await? {
        return Ok(package);
    }
    let enclave = opened(runner, &manifest, keep.folder().roots()?).await?;
    boot::replay(&enclave, &log).await?;
    let reply = enclave.call(Command::GiveRoot { statement, request }).await?;
    let package = match reply.answer {
        Ok(Answer::RootGiven { package }) => package,
        Ok(_) => return Err(BootError::Answer(STEP)),
        Err(reason) => return Err(BootError::Refused { step: STEP, reason }),
    };
    let read = RootPackage::decode(&package).map_err(|_| BootError::Answer(STEP))?;
    boot::expect_signer(&log, &parsed, read.statement.payload.chain_key)?;
    boot::carry_out(&enclave, &log, &keep, reply.effects).await?;
    Ok(package)
}

/// An enclave with the root of `roots` that it can open. After a hand-over within one data folder the
/// giver's lies behind the taker's, and may have to be given once more.
async fn opened(
    runner: &Runner,
    manifest: &[u8],
    roots: Vec<Vec<u8>>,
) -> Result<EnclaveHost, BootError> {
    let mut last = BootError::Unborn;
    for root in roots {
        match boot::open(runner, manifest.to_vec(), root).await {
            Err(error @ BootError::Refused { reason: Reason::RootUnopened, .. }) => last = error,
            opened => return opened,
        }
    }
    Err(last)
}

/// The package of a hand-over by this very statement, if that is the last that the log tells of.
async fn given(
    keep: &Keep,
    log: &AuditLog,
    statement: &Signed<HandOver>,
) -> Result<Option<Vec<u8>>, BootError> {
    let last = log.size().checked_sub(1).map(|last| log.leaf(last)).transpose()?.flatten();
    let record = last.and_then(|leaf| Record::decode(&leaf).ok());
    let counter = statement.payload.counter;
    let About { blob: Some(blob), count: Some(count), .. } =
        record.map(|record| record.about).unwrap_or_default()
    else {
        return Ok(None);
    };
    let Some(package) = keep.blob(blob).await? else { return Ok(None) };
    match RootPackage::decode(&package) {
        Ok(read) if read.statement.payload == statement.payload => Ok(Some(package)),
        Ok(_) if count >= counter => Err(BootError::GivenBefore { counter: count }),
        _ => Ok(None),
    }
}

/// Takes a root that was given, with the key of [`ask_root`]. From then on `data`, with the log and
/// the store of who gave it, is the instance's.
pub async fn take_root(
    runner: &Runner,
    data: &Path,
    sealed_key: Vec<u8>,
    package: Vec<u8>,
) -> Result<HandOver, BootError> {
    const STEP: &str = "a root package";
    let read = RootPackage::decode(&package).map_err(|_| BootError::Document("root package"))?;
    let allowed = read.statement.payload;
    let (manifest, _) = boot::read_manifest(data)?;
    // The store comes with the log, from the other side: none is made here.
    let folder = DataFolder::open(data)?;
    let enclave = EnclaveHost::start(runner).await?;
    let command = Command::TakeRoot { manifest, sealed_key, package };
    let Answer::Born { sealed_root } = boot::ask(&enclave, STEP, command).await? else {
        return Err(BootError::Answer(STEP));
    };
    folder.take_root(&sealed_root, allowed.counter)?;
    Ok(allowed)
}
