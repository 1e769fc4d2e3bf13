//! Proof bundles: collected here, signed by the enclave, verified by strangers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use toani_audit_log::{
    ReadError,
    bundle::{Draft, DraftError, Entry},
};
use toani_enclave_host::now;
use toani_protocol::{
    ActionId, Hash, Reason, TenantId, canonical,
    disclosure::{Disclosure, DisclosureFormat},
    limits::DISCLOSURE_BYTES_MAX,
    record::{About, Record, RecordKind},
    wire::{Answer, Command},
};

use crate::{body, keep::KeepError, plane::Plane, problem::Problem};

/// Room for a thousand ids.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Records of one bundle; a file each for leaf and proof.
const RECORDS_MAX: usize = 70_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    tenant: TenantId,
    #[serde(default)]
    from_sequence: u64,
    /// Ids of actions or executions that are disclosed.
    #[serde(default)]
    disclose: BTreeSet<String>,
}

/// What is kept of an action, by the records of the bundle.
#[derive(Debug, Default)]
struct Sealed {
    kept: Option<Hash>,
    evidence: Option<Hash>,
}

/// Actions, and which execution was of which.
#[derive(Debug, Default)]
struct Actions {
    sealed: BTreeMap<ActionId, Sealed>,
    executions: BTreeMap<String, ActionId>,
}

impl Actions {
    fn add(&mut self, record: &Record) {
        let About { action_id, execution_id, blob, .. } = &record.about;
        let Some(action) = action_id else { return };
        let sealed = self.sealed.entry(action.clone()).or_default();
        match record.kind {
            RecordKind::Waiting | RecordKind::Allowed => sealed.kept = *blob,
            RecordKind::Started => {
                sealed.kept = sealed.kept.or(*blob);
                let execution = execution_id.as_ref().map(|id| (id.to_string(), action.clone()));
                self.executions.extend(execution);
            }
            RecordKind::Approved | RecordKind::Denied => sealed.evidence = *blob,
            _ => {}
        }
    }

    fn find(&self, id: &str) -> Option<(&ActionId, &Sealed)> {
        let action = self.executions.get(id).cloned().or_else(|| ActionId::new(id).ok())?;
        self.sealed.get_key_value(&action)
    }
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Keep(#[from] KeepError),
    #[error(transparent)]
    Draft(#[from] DraftError),
    #[error("a record of the log is missing or no record")]
    Record,
    #[error("the store has lost a document that a record names")]
    Lost,
}

impl From<ExportError> for Problem {
    fn from(error: ExportError) -> Self {
        tracing::error!(%error, "a bundle cannot be made");
        match error {
            ExportError::Draft(_) => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "bundle_too_large",
                "The bundle would be larger than a bundle may be; export from a later sequence.",
            ),
            ExportError::Lost => Reason::PolicyUnavailable.into(),
            _ => Reason::LogUnavailable.into(),
        }
    }
}

/// The records of a tenant from a sequence on, up to the newest checkpoint, as a bundle.
pub(super) async fn export(
    State(plane): State<Arc<Plane>>,
    request: Request,
) -> Result<Response, Problem> {
    let (bytes, _) = body::read_canonical(request, BODY_BYTES_MAX).await?;
    let wanted: Wanted = serde_json::from_slice(&bytes).map_err(|_| Reason::DocumentMalformed)?;
    let tenant = wanted.tenant.clone();
    let Answer::Coverage { note, size, last_sequence } =
        plane.answer(Command::Cover { tenant }).await?
    else {
        return Err(plane.broken());
    };
    if wanted.from_sequence > last_sequence {
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            "sequence_not_found",
            "The tenant has no record with this sequence under the newest checkpoint.",
        ));
    }
    let facts = plane.facts().clone();
    let sequences = wanted.from_sequence..=last_sequence;
    let collector = plane.clone();
    let (mut draft, actions, wanted) = tokio::task::spawn_blocking(move || {
        let (draft, actions) = collect(&collector, &wanted, size, last_sequence, &note)?;
        Ok::<_, ExportError>((draft, actions, wanted))
    })
    .await
    .map_err(|_| Problem::busy())??;
    for id in &wanted.disclose {
        let disclosure = disclose(&plane, &actions, id).await?;
        let bytes = canonical::encode(&disclosure).map_err(|_| plane.broken())?;
        draft.disclosure(disclosure.action_id, &bytes).map_err(ExportError::Draft)?;
    }
    let index = draft
        .index(facts.instance, facts.boot, wanted.tenant, sequences, now())
        .map_err(ExportError::Draft)?;
    let Answer::Index { index } = plane.answer(Command::SignIndex { index }).await? else {
        return Err(plane.broken());
    };
    let bundle = draft.finish(index).map_err(ExportError::Draft)?;
    Ok(([(header::CONTENT_TYPE, "application/x-tar")], bundle).into_response())
}

/// What opens the commitments of an action's records.
async fn disclose(plane: &Arc<Plane>, actions: &Actions, id: &str) -> Result<Disclosure, Problem> {
    let not_found = || {
        let detail = "The bundle would hold no record that asks for this action or execution.";
        Problem::new(StatusCode::NOT_FOUND, "disclosure_not_found", detail).with("id", id)
    };
    let (action, sealed) = actions.find(id).ok_or_else(not_found)?;
    let kept = still_kept(plane, sealed.kept.ok_or_else(not_found)?, id).await?;
    let evidence = match sealed.evidence {
        Some(hash) => Some(still_kept(plane, hash, id).await?),
        None => None,
    };
    let command = Command::Disclose { action: action.clone(), kept, evidence };
    let Answer::Disclosed { kept, evidence } = plane.answer(command).await? else {
        return Err(plane.broken());
    };
    let lost = |_| plane.broken();
    let evidence = evidence.map(|bytes| canonical::decode(&bytes, DISCLOSURE_BYTES_MAX));
    Ok(Disclosure {
        format: DisclosureFormat::V1,
        action_id: action.clone(),
        kept: canonical::decode(&kept, DISCLOSURE_BYTES_MAX).map_err(lost)?,
        evidence: evidence.transpose().map_err(lost)?,
    })
}

async fn still_kept(plane: &Plane, hash: Hash, id: &str) -> Result<Vec<u8>, Problem> {
    let blob = plane.keep().blob(hash).await.map_err(|_| Problem::busy())?;
    blob.ok_or_else(|| {
        let detail = "What was kept of this action is deleted, 90 days after it was asked for; \
                      its records stay, and whoever has its params and nonce can show them.";
        Problem::new(StatusCode::GONE, "disclosure_deleted", detail).with("id", id)
    })
}

/// Collects records with their proofs, and the documents that they name. Blocks on the disk.
fn collect(
    plane: &Plane,
    wanted: &Wanted,
    size: u64,
    last_sequence: u64,
    note: &str,
) -> Result<(Draft, Actions), ExportError> {
    let log = plane.log();
    let mut draft = Draft::new(plane.manifest(), note)?;
    let mut actions = Actions::default();
    let count = last_sequence.saturating_sub(wanted.from_sequence).saturating_add(1);
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if count > RECORDS_MAX {
        return Err(DraftError::TooLarge.into());
    }
    let mut indices = BTreeSet::from([0]);
    indices.extend(log.tenant_indices(&wanted.tenant, wanted.from_sequence, count));
    // The records that begin the boots of these, and the boot that is going to sign the index.
    let last = log.size().saturating_sub(1);
    let boots: Vec<u64> =
        indices.iter().chain([&last]).filter_map(|index| log.boot_of(*index)).collect();
    indices.extend(boots);
    for index in indices.into_iter().filter(|index| *index < size) {
        let leaf = log.leaf(index)?.ok_or(ExportError::Record)?;
        let record = Record::decode(&leaf).map_err(|_| ExportError::Record)?;
        let proof = log.inclusion_proof(index, size)?;
        draft.record(&Entry { index, leaf: &leaf, proof: &proof })?;
        actions.add(&record);
        if record.kind == RecordKind::Finished
            && let Some(execution) = record.about.execution_id
            && let Some(hash) = record.about.execution_receipt
            && let Some(receipt) = plane.keep().receipt_now(hash)?
        {
            draft.receipt(execution, &receipt)?;
        }
    }
    for hash in draft.missing() {
        let document = plane.keep().blob_now(hash)?;
        draft.document(&document.ok_or(ExportError::Lost)?)?;
    }
    Ok((draft, actions))
}
