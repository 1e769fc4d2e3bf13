//! Proof bundles: collected here, signed by the enclave, verified by strangers.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    extract::{Request, State},
    http::header,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use toani_audit_log::{
    ReadError,
    bundle::{Draft, DraftError, Entry},
};
use toani_enclave_host::now;
use toani_protocol::{
    Reason, TenantId,
    record::{Record, RecordKind},
    wire::{Answer, Command},
};

use crate::{body, keep::KeepError, plane::Plane, problem::Problem};

const BODY_BYTES_MAX: usize = 4 * 1024;
/// Records of one bundle; a file each for leaf and proof.
const RECORDS_MAX: usize = 70_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    tenant: TenantId,
    #[serde(default)]
    from_sequence: u64,
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
                axum::http::StatusCode::PAYLOAD_TOO_LARGE,
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
            axum::http::StatusCode::NOT_FOUND,
            "sequence_not_found",
            "The tenant has no record with this sequence under the newest checkpoint.",
        ));
    }
    let facts = plane.facts().clone();
    let sequences = wanted.from_sequence..=last_sequence;
    let collector = plane.clone();
    let (draft, index) = tokio::task::spawn_blocking(move || {
        let draft = collect(&collector, &wanted, size, last_sequence, &note)?;
        let (instance, boot) = (facts.instance, facts.boot);
        let index = draft.index(instance, boot, wanted.tenant, sequences, now())?;
        Ok::<_, ExportError>((draft, index))
    })
    .await
    .map_err(|_| Problem::busy())??;
    let Answer::Index { index } = plane.answer(Command::SignIndex { index }).await? else {
        return Err(plane.broken());
    };
    let bundle = draft.finish(index).map_err(ExportError::Draft)?;
    Ok(([(header::CONTENT_TYPE, "application/x-tar")], bundle).into_response())
}

/// Collects records with their proofs, and the documents that they name. Blocks on the disk.
fn collect(
    plane: &Plane,
    wanted: &Wanted,
    size: u64,
    last_sequence: u64,
    note: &str,
) -> Result<Draft, ExportError> {
    let log = plane.log();
    let mut draft = Draft::new(plane.manifest(), note)?;
    let count = last_sequence.saturating_sub(wanted.from_sequence).saturating_add(1);
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if count > RECORDS_MAX {
        return Err(DraftError::TooLarge.into());
    }
    let mut indices = BTreeSet::from([0]);
    indices.extend(log.tenant_indices(&wanted.tenant, wanted.from_sequence, count));
    for index in indices.into_iter().filter(|index| *index < size) {
        let leaf = log.leaf(index)?.ok_or(ExportError::Record)?;
        let record = Record::decode(&leaf).map_err(|_| ExportError::Record)?;
        let proof = log.inclusion_proof(index, size)?;
        draft.record(&Entry { index, leaf: &leaf, proof: &proof })?;
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
    Ok(draft)
}
