//! From a data folder to a working plane, and an instance's birth.

use std::{io, path::Path, sync::Arc, time::Duration};

use toani_audit_log::{AuditLog, OpenError, Options, ReadError};
use toani_enclave_host::{EnclaveHost, EnclaveLost, QuoteError, Runner, StartError, now};
use toani_protocol::{
    Hash, Reason, TenantId,
    instance::{Manifest, ManifestError},
    limits::{DOCUMENT_BYTES_MAX, MESSAGE_BYTES_MAX},
    sign::PublicKey,
    wire::{Answer, Command, Effect, Facts},
};
use tokio::sync::oneshot;

use crate::{
    Config,
    keep::{Keep, KeepError},
    plane::{Parts, Plane},
};

/// The instance's manifest, canonical.
pub const MANIFEST: &str = "manifest.json";

/// Records of one batch: well below a message, which is counted in bytes.
const BATCH_COUNT_MAX: usize = 4_096;
const BATCH_BYTES_MAX: usize = MESSAGE_BYTES_MAX / 4;

/// Why the plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error("{what}: {error}")]
    Io { what: String, error: io::Error },
    #[error("the manifest in the data folder is no manifest: {0}")]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Enclave(#[from] StartError),
    #[error(transparent)]
    EnclaveLost(#[from] EnclaveLost),
    #[error(transparent)]
    Quote(#[from] QuoteError),
    #[error("the enclave refuses {step}: {} ({})", .reason.sentence(), .reason.code())]
    Refused { step: &'static str, reason: Reason },
    #[error("the enclave's answer to {0} is of another kind; is it of this version?")]
    Answer(&'static str),
    #[error("the audit log cannot be opened: {0}")]
    Log(#[from] OpenError),
    #[error("the audit log cannot be read: {0}")]
    Read(#[from] ReadError),
    #[error("the audit log cannot be written: {0}")]
    Write(#[from] toani_audit_log::LogError),
    #[error("the store cannot be opened: {0}")]
    Store(#[from] KeepError),
    #[error("the sandbox cannot be started: {0}")]
    Sandbox(#[from] toani_sandbox::SpawnError),
    #[error("{0}")]
    Listen(String),
    #[error("the data folder holds an instance already; an instance is born once")]
    BornBefore,
    #[error("the data folder holds no instance; `toani init` makes one")]
    Unborn,
    #[error("this is no {0}")]
    Document(&'static str),
    #[error("the instance was handed over by another statement, whose package is not kept here")]
    PackageLost,
    #[error(transparent)]
    Replay(#[from] toani_store::ReplayError),
    #[error(transparent)]
    Folder(#[from] toani_store::FolderError),
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> BootError {
    let what = what.into();
    move |error| BootError::Io { what, error }
}

/// Makes an instance in `data`, whose manifest stands there already: the enclave is born and
/// proves what it is, its sealed root is kept, and the records of birth and first boot are written.
pub async fn birth(runner: &Runner, data: &Path) -> Result<Facts, BootError> {
    let (manifest, parsed) = read_manifest(data)?;
    let keep = Keep::open(data)?;
    let (log, _) = open_log(&keep).await?;
    if log.size() > 0 || keep.folder().root()?.is_some() {
        return Err(BootError::BornBefore);
    }
    let enclave = EnclaveHost::start(runner).await?;
    let command = Command::Birth { manifest, target: enclave.target_info().await? };
    let Answer::Born { sealed_root } = prove(&enclave, "to be born", command).await? else {
        return Err(BootError::Answer("birth"));
    };
    keep.folder().put_root(&sealed_root)?;
    ask(&enclave, "an empty log", Command::ReplayEnd).await?;
    start(&enclave, &log, &keep, &parsed).await
}

/// Opens everything and boots the enclave over what the log says. Also returns how many of the
/// records the lists know.
pub(crate) async fn boot(
    config: &Config,
    alive: oneshot::Sender<()>,
) -> Result<(Arc<Plane>, u64), BootError> {
    let data = &config.data;
    let (manifest, parsed) = read_manifest(data)?;
    let keep = config.replay.keep(Keep::open(data)?).await?;
    let sealed_root = keep.folder().root()?.ok_or(BootError::Unborn)?;
    let (log, recovery) = open_log(&keep).await?;
    tracing::info!(?recovery, "the audit log is open");

    let enclave = open(&config.runner, manifest.clone(), sealed_root).await?;
    let needs = replay(&enclave, &log).await?;
    give_blobs(&enclave, &keep, needs).await?;
    let listed = listed(&keep, &log).await?;
    let facts = start(&enclave, &log, &keep, &parsed).await?;
    let plane = Plane::new(Parts {
        enclave,
        log,
        keep,
        facts,
        manifest,
        executions_at_once: config.executions_at_once,
        outcome_wait: Duration::from_millis(config.outcome_ms_max),
        alive,
    });
    Ok((Arc::new(plane), listed))
}

/// Starts an enclave that opens the instance and proves what it is.
pub(crate) async fn open(
    runner: &Runner,
    manifest: Vec<u8>,
    sealed_root: Vec<u8>,
) -> Result<EnclaveHost, BootError> {
    let enclave = EnclaveHost::start(runner).await?;
    let target = enclave.target_info().await?;
    let command = Command::Boot { manifest, sealed_root, target };
    prove(&enclave, "to open this instance", command).await?;
    Ok(enclave)
}

/// Takes the enclave's report, has it quoted, and hands the evidence back.
async fn prove(
    enclave: &EnclaveHost,
    step: &'static str,
    command: Command,
) -> Result<Answer, BootError> {
    let Answer::Report { report } = ask(enclave, step, command).await? else {
        return Err(BootError::Answer(step));
    };
    let evidence = enclave.quote(report).await?;
    ask(enclave, "its own evidence", Command::Prove { evidence }).await
}

/// How far the lists have come. Lists of another log are made anew.
async fn listed(keep: &Keep, log: &AuditLog) -> Result<u64, BootError> {
    let listed = keep.store().projected().map_err(KeepError::from)?;
    if listed <= log.size() {
        return Ok(listed);
    }
    tracing::warn!(listed, size = log.size(), "the lists are of another log; they are made anew");
    let none: [&[u8]; 0] = [];
    Ok(keep.store().rebuild(none).await.map_err(KeepError::from)?)
}

/// The manifest in a data folder.
pub fn manifest(data: &Path) -> Result<Manifest, BootError> {
    read_manifest(data).map(|(_, manifest)| manifest)
}

pub(crate) fn read_manifest(data: &Path) -> Result<(Vec<u8>, Manifest), BootError> {
    let path = data.join(MANIFEST);
    let what = format!("cannot read {}; `toani init` makes one", path.display());
    let manifest = std::fs::read(path).map_err(failed(what))?;
    let parsed = Manifest::decode(&manifest)?;
    Ok((manifest, parsed))
}

pub(crate) async fn open_log(
    keep: &Keep,
) -> Result<(AuditLog, toani_audit_log::Recovery), BootError> {
    let folder = keep.folder().audit();
    let opened =
        tokio::task::spawn_blocking(move || AuditLog::open(&folder, Options::default())).await;
    let opened = opened.map_err(|error| io::Error::other(error.to_string()));
    Ok(opened.map_err(failed("cannot open the audit log"))??)
}

/// Gives the enclave the whole log; it names the documents that it needs.
pub(crate) async fn replay(enclave: &EnclaveHost, log: &AuditLog) -> Result<Vec<Hash>, BootError> {
    let mut from = 0;
    loop {
        let reader = log.clone();
        let leaves = tokio::task::spawn_blocking(move || {
            reader.read(from, BATCH_COUNT_MAX, BATCH_BYTES_MAX)
        })
        .await
        .map_err(|error| io::Error::other(error.to_string()))
        .map_err(failed("cannot read the audit log"))??;
        if leaves.is_empty() {
            break;
        }
        from += u64::try_from(leaves.len()).unwrap_or(u64::MAX);
        ask(enclave, "the log", Command::Replay { leaves }).await?;
    }
    match ask(enclave, "the log's end", Command::ReplayEnd).await? {
        Answer::Needs { blobs } => Ok(blobs),
        _ => Err(BootError::Answer("the log's end")),
    }
}

async fn give_blobs(enclave: &EnclaveHost, keep: &Keep, needs: Vec<Hash>) -> Result<(), BootError> {
    // What is missing disables what needs it and nothing else.
    for some in needs.chunks(BATCH_BYTES_MAX / DOCUMENT_BYTES_MAX) {
        let mut blobs = Vec::with_capacity(some.len());
        for hash in some {
            match keep.blob(*hash).await? {
                Some(blob) => blobs.push(blob),
                None => tracing::error!(%hash, "the store has lost a document"),
            }
        }
        ask(enclave, "documents", Command::Blobs { blobs }).await?;
    }
    Ok(())
}

/// Begins the boot and carries out what that brings.
async fn start(
    enclave: &EnclaveHost,
    log: &AuditLog,
    keep: &Keep,
    manifest: &Manifest,
) -> Result<Facts, BootError> {
    let salts: Vec<(TenantId, Vec<u8>)> = keep.salts(now().day()).await?;
    let reply = enclave.call(Command::Start { salts }).await?;
    let facts = match reply.answer {
        Ok(Answer::Started(facts)) => facts,
        Ok(_) => return Err(BootError::Answer("the start")),
        Err(reason) => {
            return Err(BootError::Refused { step: "to start", reason });
        }
    };
    expect_signer(log, manifest, facts.chain_key)?;
    let mut effects = reply.effects;
    // What boots before left pending ends some at a time; nothing else can happen yet.
    while !effects.is_empty() {
        carry_out(enclave, log, keep, effects).await?;
        let reply = enclave.call(Command::Tick).await?;
        reply
            .answer
            .map_err(|reason| BootError::Refused { step: "to end what was left", reason })?;
        effects = reply.effects;
    }
    Ok(facts)
}

/// From here on the log takes records of this key alone.
pub(crate) fn expect_signer(
    log: &AuditLog,
    manifest: &Manifest,
    chain_key: PublicKey,
) -> Result<(), BootError> {
    log.expect_signer(&manifest.log_origin, chain_key)
        .map_err(failed("cannot start verifying the log"))
}

/// Carries out effects, and tells the enclave when they are durable.
pub(crate) async fn carry_out(
    enclave: &EnclaveHost,
    log: &AuditLog,
    keep: &Keep,
    effects: Vec<Effect>,
) -> Result<(), BootError> {
    let mut leaves = Vec::new();
    for effect in effects {
        match effect {
            Effect::Append { index, leaf } => leaves.push((index, leaf)),
            Effect::PutBlob { bytes, delete_after } => {
                if let Some(ticket) = keep.put_blob(bytes, delete_after).await? {
                    ticket.settled().await.map_err(KeepError::from)?;
                }
            }
            Effect::PutSalt { tenant, day, wrapped } => keep.put_salt(tenant, day, wrapped).await?,
            // No channel is there yet.
            Effect::Sandbox(_) => {}
        }
    }
    let size = leaves.last().map_or(log.size(), |(index, _): &(u64, Vec<u8>)| index + 1);
    // What a crash left open may be more than one window of the log.
    for some in leaves.chunks(BATCH_COUNT_MAX) {
        log.append_all(some.to_vec()).await?;
    }
    log.durable(size).await?;
    if let Answer::Checkpoint { size, note } =
        ask(enclave, "a commit", Command::Durable { size }).await?
    {
        log.put_checkpoint(size, note);
    }
    Ok(())
}

pub(crate) async fn ask(
    enclave: &EnclaveHost,
    step: &'static str,
    command: Command,
) -> Result<Answer, BootError> {
    let reply = enclave.call(command).await?;
    reply.answer.map_err(|reason| BootError::Refused { step, reason })
}
