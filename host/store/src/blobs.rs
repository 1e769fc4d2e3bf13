//! Blobs and salts in SQL.

use rusqlite::{Connection, OptionalExtension, params};
use toani_protocol::{Hash, TenantId, Time};

use crate::{database::int, error::StoreError};

/// Of two ends of one blob the later holds, and none is later than any.
pub(crate) fn put(
    connection: &Connection,
    hash: &Hash,
    bytes: &[u8],
    delete_after: Option<Time>,
) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO blobs VALUES (?1, ?2, ?3) ON CONFLICT (hash) DO UPDATE SET
             bytes = excluded.bytes,
             delete_after = CASE WHEN delete_after IS NULL OR excluded.delete_after IS NULL
                THEN NULL ELSE max(delete_after, excluded.delete_after) END",
        )?
        .execute(params![hash.as_bytes(), bytes, delete_after.map(|time| int(time.ms()))])?;
    Ok(())
}

/// What is read is what the hash names, or an error.
pub(crate) fn get(connection: &Connection, hash: &Hash) -> Result<Option<Vec<u8>>, StoreError> {
    let bytes: Option<Vec<u8>> = connection
        .prepare_cached("SELECT bytes FROM blobs WHERE hash = ?1")?
        .query_row([hash.as_bytes()], |row| row.get(0))
        .optional()?;
    match bytes {
        Some(bytes) if Hash::of(&bytes) != *hash => Err(StoreError::Damaged(*hash)),
        bytes => Ok(bytes),
    }
}

/// Deletes blobs whose end has passed; says how many.
pub(crate) fn delete_expired(connection: &Connection, now: Time) -> Result<u64, StoreError> {
    let deleted = connection
        .prepare_cached("DELETE FROM blobs WHERE delete_after < ?1")?
        .execute([int(now.ms())])?;
    Ok(u64::try_from(deleted).unwrap_or_default())
}

pub(crate) fn put_salt(
    connection: &Connection,
    tenant: &TenantId,
    day: u64,
    wrapped: &[u8],
) -> Result<(), StoreError> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO salts (tenant, day, wrapped) VALUES (?1, ?2, ?3)")?
        .execute(params![tenant.as_str(), int(day), wrapped])?;
    Ok(())
}

pub(crate) fn salt(
    connection: &Connection,
    tenant: &TenantId,
    day: u64,
) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(connection
        .prepare_cached("SELECT wrapped FROM salts WHERE tenant = ?1 AND day = ?2")?
        .query_row(params![tenant.as_str(), int(day)], |row| row.get(0))
        .optional()?)
}

/// Deletes a tenant's wrapped salts of a day and all days before.
pub(crate) fn delete_salts(
    connection: &Connection,
    tenant: &TenantId,
    through: u64,
) -> Result<(), StoreError> {
    connection
        .prepare_cached("DELETE FROM salts WHERE tenant = ?1 AND day <= ?2")?
        .execute(params![tenant.as_str(), int(through)])?;
    Ok(())
}

pub(crate) fn salts_of_day(
    connection: &Connection,
    day: u64,
) -> Result<Vec<(TenantId, Vec<u8>)>, StoreError> {
    let mut statement =
        connection.prepare_cached("SELECT tenant, wrapped FROM salts WHERE day = ?1")?;
    let mut rows = statement.query([int(day)])?;
    let mut salts = Vec::new();
    while let Some(row) = rows.next()? {
        let tenant: String = row.get(0)?;
        // Only tenant ids are ever written.
        if let Ok(tenant) = TenantId::new(&tenant) {
            salts.push((tenant, row.get(1)?));
        }
    }
    Ok(salts)
}
