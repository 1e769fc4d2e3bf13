//! Lists for people, made from records alone: each record once, in the order of the log.

use rusqlite::{Connection, params};
use toani_protocol::{
    TenantId,
    record::{About, Record, RecordKind},
};

use crate::{
    blobs,
    database::{int, uint},
    error::StoreError,
};

/// How many records are projected.
pub(crate) fn size(connection: &Connection) -> Result<u64, StoreError> {
    let size: i64 =
        connection.prepare_cached("SELECT size FROM projected")?.query_row([], |row| row.get(0))?;
    Ok(uint(size))
}

/// Takes the next record; one that was taken before changes nothing.
pub(crate) fn project(connection: &Connection, record: &Record) -> Result<(), StoreError> {
    let expected = size(connection)?;
    if record.index < expected {
        return Ok(());
    }
    if record.index > expected {
        return Err(StoreError::Gap { expected, found: record.index });
    }
    // A record without a tenant is of the instance itself and stands in no list.
    if let Some(tenant) = &record.about.tenant {
        match record.kind {
            RecordKind::PolicyActivated | RecordKind::PolicyRevoked => {
                policy(connection, record, tenant)?;
            }
            RecordKind::PolicyKeyChanged => policy_key(connection, record, tenant)?,
            RecordKind::CredentialSealed | RecordKind::CredentialRevoked => {
                credential(connection, record, tenant)?;
            }
            RecordKind::Allowed | RecordKind::Waiting => asked(connection, record, tenant)?,
            RecordKind::Endorsed | RecordKind::Approved | RecordKind::Denied => {
                approval(connection, record)?;
            }
            RecordKind::TokenRevoked => action_state(connection, record, "revoked")?,
            RecordKind::Started => started(connection, record, tenant)?,
            RecordKind::Finished | RecordKind::Ended => ended(connection, record)?,
            // What the enclave no longer opens is of no more use.
            RecordKind::Forgotten => {
                if let Some(day) = record.about.day {
                    blobs::delete_salts(connection, tenant, day)?;
                }
            }
            RecordKind::Birth
            | RecordKind::Boot
            | RecordKind::HandedOver
            | RecordKind::Admission
            | RecordKind::Sandbox
            | RecordKind::AgentRevoked
            | RecordKind::Refused
            | RecordKind::Refusals => {}
        }
    }
    // Tokens and waits die with the boot. Of those that were not over by then, records say so too.
    if record.kind == RecordKind::Boot {
        connection
            .prepare_cached(
                "UPDATE actions SET state = 'ended', reason = 'boot_ended', since = ?1
                 WHERE state IN ('allowed', 'waiting', 'approved')",
            )?
            .execute([int(record.index)])?;
    }
    connection
        .prepare_cached("UPDATE projected SET size = ?1")?
        .execute([int(record.index.saturating_add(1))])?;
    Ok(())
}

fn policy(connection: &Connection, record: &Record, tenant: &TenantId) -> Result<(), StoreError> {
    let Some(policy) = &record.about.policy else {
        return Ok(());
    };
    let (tenant, id) = (tenant.as_str(), policy.id.as_str());
    let since = int(record.index);
    if record.kind == RecordKind::PolicyRevoked {
        connection
            .prepare_cached(
                "UPDATE policies SET state = 'revoked', since = ?3
                 WHERE tenant = ?1 AND id = ?2 AND state = 'active'",
            )?
            .execute(params![tenant, id, since])?;
        return Ok(());
    }
    connection
        .prepare_cached(
            "UPDATE policies SET state = 'superseded', since = ?3
             WHERE tenant = ?1 AND id = ?2 AND state != 'superseded'",
        )?
        .execute(params![tenant, id, since])?;
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO policies (tenant, id, version, hash, state, since)
             VALUES (?1, ?2, ?3, ?4, 'active', ?5)",
        )?
        .execute(params![tenant, id, int(policy.version), policy.hash.as_bytes(), since])?;
    // The tenant's first policy is signed by its first key.
    if let Some(key) = &record.about.key {
        connection
            .prepare_cached("INSERT OR IGNORE INTO policy_keys VALUES (?1, 0, ?2, ?3)")?
            .execute(params![tenant, key.to_string(), since])?;
    }
    Ok(())
}

fn policy_key(
    connection: &Connection,
    record: &Record,
    tenant: &TenantId,
) -> Result<(), StoreError> {
    if let Some(key) = &record.about.key {
        connection
            .prepare_cached(
                "INSERT INTO policy_keys SELECT ?1, COALESCE(MAX(sequence), 0) + 1, ?2, ?3
                 FROM policy_keys WHERE tenant = ?1",
            )?
            .execute(params![tenant.as_str(), key.to_string(), int(record.index)])?;
    }
    Ok(())
}

/// Records do not say a credential's namespace in the clear. Where one owner has the same id in
/// two namespaces, they are told apart by their versions only.
fn credential(
    connection: &Connection,
    record: &Record,
    tenant: &TenantId,
) -> Result<(), StoreError> {
    let Some(credential) = &record.about.credential else {
        return Ok(());
    };
    let (tenant, id) = (tenant.as_str(), credential.id.as_str());
    let (owner, since) = (credential.owner.to_string(), int(record.index));
    if record.kind == RecordKind::CredentialRevoked {
        connection
            .prepare_cached(
                "UPDATE credentials SET state = 'revoked', since = ?4
                 WHERE tenant = ?1 AND owner = ?2 AND id = ?3 AND state = 'active'",
            )?
            .execute(params![tenant, owner, id, since])?;
        return Ok(());
    }
    connection
        .prepare_cached(
            "UPDATE credentials SET state = 'superseded', since = ?4
             WHERE tenant = ?1 AND owner = ?2 AND id = ?3 AND state != 'superseded'",
        )?
        .execute(params![tenant, owner, id, since])?;
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO credentials (tenant, owner, id, version, state, since)
             VALUES (?1, ?2, ?3, ?4, 'active', ?5)",
        )?
        .execute(params![tenant, owner, id, int(credential.version), since])?;
    Ok(())
}

fn texts(about: &About) -> (Option<&str>, Option<&str>, Option<&str>, Option<&str>) {
    (
        about.action_id.as_ref().map(|id| id.as_str()),
        about.agent.as_ref().map(|id| id.as_str()),
        about.service.as_ref().map(|id| id.as_str()),
        about.action.as_ref().map(|id| id.as_str()),
    )
}

fn asked(connection: &Connection, record: &Record, tenant: &TenantId) -> Result<(), StoreError> {
    let (Some(action_id), agent, service, action) = texts(&record.about) else {
        return Ok(());
    };
    let state = match record.kind {
        RecordKind::Waiting => "waiting",
        _ => "allowed",
    };
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO actions (id, tenant, agent, service, action, tier, state,
                first, asked_at, since, blob)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?8, ?10)",
        )?
        .execute(params![
            action_id,
            tenant.as_str(),
            agent,
            service,
            action,
            record.about.tier.map(u8::from),
            state,
            int(record.index),
            int(record.time.ms()),
            record.about.blob.as_ref().map(toani_protocol::Hash::as_bytes),
        ])?;
    Ok(())
}

fn approval(connection: &Connection, record: &Record) -> Result<(), StoreError> {
    let Some(action_id) = &record.about.action_id else {
        return Ok(());
    };
    let kind = match record.kind {
        RecordKind::Endorsed => "endorsed",
        RecordKind::Approved => "approved",
        _ => "denied",
    };
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO approvals (record, action_id, kind, at, hitl_proof)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            int(record.index),
            action_id.as_str(),
            kind,
            int(record.time.ms()),
            record.about.hitl_proof.as_ref().map(toani_protocol::Hash::as_bytes),
        ])?;
    match record.kind {
        RecordKind::Endorsed => Ok(()),
        _ => action_state(connection, record, kind),
    }
}

fn action_state(connection: &Connection, record: &Record, state: &str) -> Result<(), StoreError> {
    if let Some(action_id) = &record.about.action_id {
        connection
            .prepare_cached("UPDATE actions SET state = ?2, reason = ?3, since = ?4 WHERE id = ?1")?
            .execute(params![
                action_id.as_str(),
                state,
                record.about.reason.map(toani_protocol::Reason::code),
                int(record.index)
            ])?;
    }
    Ok(())
}

fn started(connection: &Connection, record: &Record, tenant: &TenantId) -> Result<(), StoreError> {
    let Some(execution) = &record.about.execution_id else {
        return Ok(());
    };
    let (action_id, agent, service, action) = texts(&record.about);
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO executions (id, action_id, tenant, agent, service, action,
                started, started_at, state)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'started')",
        )?
        .execute(params![
            execution.as_str(),
            action_id,
            tenant.as_str(),
            agent,
            service,
            action,
            int(record.index),
            int(record.time.ms())
        ])?;
    action_state(connection, record, "executed")
}

/// `Ended` without an execution is a wait or a token that the boot before left behind.
fn ended(connection: &Connection, record: &Record) -> Result<(), StoreError> {
    let about = &record.about;
    let Some(execution) = &about.execution_id else {
        return action_state(connection, record, "ended");
    };
    let state = match record.kind {
        RecordKind::Finished => "finished",
        _ => "ended",
    };
    connection
        .prepare_cached(
            "UPDATE executions SET state = ?2, outcome = ?3, ended = ?4, ended_at = ?5,
                receipt = ?6, result = ?7
             WHERE id = ?1",
        )?
        .execute(params![
            execution.as_str(),
            state,
            about.outcome.map(toani_protocol::record::Outcome::as_str),
            int(record.index),
            int(record.time.ms()),
            about.execution_receipt.as_ref().map(toani_protocol::Hash::as_bytes),
            about.blob.as_ref().map(toani_protocol::Hash::as_bytes),
        ])?;
    Ok(())
}
