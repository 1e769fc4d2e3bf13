//! A hand-over as the host sees it: documents between two enclaves, neither of which takes its word.
//!
//! Every step may be repeated: the package is in the store before the record that names it, and the
//! key of who asks lies sealed in a file until the root is taken.

use std::path::Path;

use toani_audit_log::AuditLog;
use toani_enclave_host::{EnclaveHost, Runner};
use toani_protocol::{
    canonical,
    hand_over::{HandOver, RootPackage, RootRequest, RootRequestFormat},
    instance::Manifest,
    limits::DOCUMENT_BYTES_MAX,
    record::{Record, RecordKind},
    sign::{Bytes, Signed},
    wire::{Answer, Command},
};

use crate::{
    boot::{self, BootError},
    keep::Keep,
};

/// In the data folder: what the enclave that asked has sealed for itself.
pub const ASKED_KEY: &str = "hand-over.key";

/// What an enclave has asked for a root with.
#[derive(Debug)]
pub struct Asked {
    /// A canonical `RootRequest`, for those who sign and for who gives.
    pub request: Vec<u8>,
    /// For [`take_root`]; opens in the same image on the same machine alone.
    pub sealed_key: Vec<u8>,
}

/// Asks for the root of the instance whose manifest lies in `data`. The plane may run meanwhile.
pub async fn ask_root(runner: &Runner, data: &Path) -> Result<Asked, BootError> {
    const STEP: &str = "to ask for a root";
    let (manifest, _) = boot::read_manifest(data)?;
    let instance = Manifest::id_of(&manifest);
    let enclave = EnclaveHost::start(runner).await?;
    let command = Command::AskRoot { manifest, target: enclave.target_info().await? };
    let Answer::RootAsked { key, report, sealed_key } = boot::ask(&enclave, STEP, command).await?
    else {
        return Err(BootError::Answer(STEP));
    };
    let (key, evidence) = (Bytes(key.to_vec()), Bytes(enclave.quote(report).await?));
    let request = RootRequest { format: RootRequestFormat::V1, instance, key, evidence };
    let request = canonical::encode(&request).map_err(|_| BootError::Document("request"))?;
    Ok(Asked { request, sealed_key })
}

/// Gives the root away, as a canonical `Signed<HandOver>` allows: the last thing that this enclave
/// does. Returns the canonical `RootPackage`; the same one, if it was given before.
pub async fn give_root(
    runner: &Runner,
    data: &Path,
    statement: Vec<u8>,
    request: Vec<u8>,
) -> Result<Vec<u8>, BootError> {
    const STEP: &str = "to give its root away";
    let signed: Signed<HandOver> = canonical::decode(&statement, DOCUMENT_BYTES_MAX)
        .map_err(|_| BootError::Document("signed hand-over"))?;
    let (manifest, parsed) = boot::read_manifest(data)?;
    let keep = Keep::open(data)?;
    let sealed_root = keep.folder().root()?.ok_or(BootError::Unborn)?;
    let (log, _) = boot::open_log(&keep).await?;
    if let Some(package) = given(&keep, &log, &signed).await? {
        return Ok(package);
    }
    let enclave = boot::open(runner, manifest, sealed_root).await?;
    boot::replay(&enclave, &log).await?;
    let reply = enclave.call(Command::GiveRoot { statement, request }).await?;
    let package = match reply.answer {
        Ok(Answer::RootGiven { package }) => package,
        Ok(_) => return Err(BootError::Answer(STEP)),
        Err(reason) => return Err(BootError::Refused { step: STEP, reason }),
    };
    let read = RootPackage::decode(&package).map_err(|_| BootError::Answer(STEP))?;
    boot::expect_signer(&log, &parsed, read.chain_key)?;
    boot::carry_out(&enclave, &log, &keep, reply.effects).await?;
    Ok(package)
}

/// The package of a hand-over by this very statement that stands in the log.
async fn given(
    keep: &Keep,
    log: &AuditLog,
    statement: &Signed<HandOver>,
) -> Result<Option<Vec<u8>>, BootError> {
    let last = log.size().checked_sub(1).map(|last| log.leaf(last)).transpose()?.flatten();
    let record = last.and_then(|leaf| Record::decode(&leaf).ok());
    let Some(record) = record.filter(|record| record.kind == RecordKind::HandedOver) else {
        return Ok(None);
    };
    if record.about.count != Some(statement.payload.counter) {
        return Ok(None);
    }
    let blob = record.about.blob.ok_or(BootError::PackageLost)?;
    let package = keep.blob(blob).await?.ok_or(BootError::PackageLost)?;
    let read = RootPackage::decode(&package).map_err(|_| BootError::PackageLost)?;
    if read.statement.payload == statement.payload {
        Ok(Some(package))
    } else {
        Err(BootError::PackageLost)
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
    const STEP: &str = "to take the root";
    let read = RootPackage::decode(&package).map_err(|_| BootError::Document("root package"))?;
    let allowed = read.statement.payload;
    let (manifest, _) = boot::read_manifest(data)?;
    let keep = Keep::open(data)?;
    let enclave = EnclaveHost::start(runner).await?;
    let command = Command::TakeRoot { manifest, sealed_key, package };
    let Answer::Born { sealed_root } = boot::ask(&enclave, STEP, command).await? else {
        return Err(BootError::Answer(STEP));
    };
    keep.folder().take_root(&sealed_root, allowed.counter)?;
    Ok(allowed)
}
