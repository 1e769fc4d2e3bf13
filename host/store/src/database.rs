//! Opening SQLite, and its schema.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags};

use crate::error::StoreError;

/// Each step leads from one schema version to the next; released steps are never changed.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE blobs (
        hash BLOB PRIMARY KEY,
        bytes BLOB NOT NULL,
        delete_after INTEGER
    );
    CREATE INDEX blobs_by_end ON blobs (delete_after) WHERE delete_after IS NOT NULL;

    CREATE TABLE salts (
        tenant TEXT NOT NULL,
        day INTEGER NOT NULL,
        wrapped BLOB NOT NULL,
        PRIMARY KEY (day, tenant)
    ) WITHOUT ROWID;

    -- How many records are projected.
    CREATE TABLE projected (size INTEGER NOT NULL);
    INSERT INTO projected VALUES (0);

    CREATE TABLE policies (
        tenant TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL,
        hash BLOB NOT NULL, state TEXT NOT NULL, since INTEGER NOT NULL,
        PRIMARY KEY (tenant, id, version)
    ) WITHOUT ROWID;

    CREATE TABLE policy_keys (
        tenant TEXT NOT NULL, sequence INTEGER NOT NULL, key TEXT NOT NULL,
        since INTEGER NOT NULL,
        PRIMARY KEY (tenant, sequence)
    ) WITHOUT ROWID;

    CREATE TABLE credentials (
        tenant TEXT NOT NULL, owner TEXT NOT NULL, id TEXT NOT NULL,
        version INTEGER NOT NULL, state TEXT NOT NULL, since INTEGER NOT NULL,
        PRIMARY KEY (tenant, owner, id, version)
    ) WITHOUT ROWID;

    CREATE TABLE executions (
        id TEXT PRIMARY KEY, action_id TEXT, tenant TEXT NOT NULL, agent TEXT, service TEXT,
        action TEXT, started INTEGER NOT NULL, started_at INTEGER NOT NULL,
        state TEXT NOT NULL, outcome TEXT, ended INTEGER, ended_at INTEGER,
        receipt BLOB, result BLOB
    ) WITHOUT ROWID;
    CREATE INDEX executions_by_start ON executions (started);
    CREATE INDEX executions_by_tenant ON executions (tenant, started);

    CREATE TABLE actions (
        id TEXT PRIMARY KEY, tenant TEXT NOT NULL, agent TEXT, service TEXT, action TEXT,
        tier INTEGER, state TEXT NOT NULL, reason TEXT, first INTEGER NOT NULL,
        asked_at INTEGER NOT NULL, since INTEGER NOT NULL, blob BLOB
    ) WITHOUT ROWID;
    CREATE INDEX actions_waiting ON actions (tenant, first) WHERE state = 'waiting';

    CREATE TABLE approvals (
        record INTEGER PRIMARY KEY, action_id TEXT NOT NULL, kind TEXT NOT NULL,
        at INTEGER NOT NULL, hitl_proof BLOB
    );
    CREATE INDEX approvals_by_action ON approvals (action_id);
"];

/// The tables that are made from records alone.
pub(crate) const CLEAR_PROJECTIONS: &str = "
    DELETE FROM policies; DELETE FROM policy_keys; DELETE FROM credentials; DELETE FROM executions;
    DELETE FROM actions; DELETE FROM approvals; UPDATE projected SET size = 0;
";

fn configure(connection: &Connection) -> Result<(), StoreError> {
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// The one connection that writes.
pub(crate) fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    let mut connection = Connection::open(path)?;
    configure(&connection)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    // What is deleted is to be gone: salts, and sealed blobs after their time.
    connection.pragma_update(None, "secure_delete", "on")?;
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    if found > known {
        return Err(StoreError::Newer { found, known });
    }
    let done = usize::try_from(found).unwrap_or_default();
    for (step, sql) in (found.saturating_add(1)..).zip(MIGRATIONS.iter().skip(done)) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(sql)?;
        transaction.pragma_update(None, "user_version", step)?;
        transaction.commit()?;
    }
    Ok(connection)
}

/// One of the connections that read.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    configure(&connection)?;
    Ok(connection)
}

/// SQLite's integers are signed. Nothing here comes near 2^63.
pub(crate) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The way back.
pub(crate) fn uint(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_schema_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let connection = open_writer(&path).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        drop(connection);
        let found = open_writer(&path).err();
        assert_eq!(found, Some(StoreError::Newer { found: 99, known: 1 }));
    }
}
