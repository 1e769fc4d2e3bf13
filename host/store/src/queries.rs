//! What the lists answer. Every list is bounded by the caller's `max`.

use rusqlite::{Connection, Row, params, types::FromSql};
use toani_protocol::{
    ActionId, CredentialId, ExecutionId, Hash, PolicyId, TenantId, Time, sign::PublicKey,
};

use crate::{
    database::{int, uint},
    error::StoreError,
    store::Store,
};

macro_rules! states {
    ($($(#[$doc:meta])* $name:ident { $($level:ident = $text:literal),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($level),* }

        impl $name {
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$level => $text),* }
            }

            fn read(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$level),)* _ => None }
            }
        }
    )*};
}

states! {
    /// A policy version decides, was followed by another, or was revoked.
    PolicyState { Active = "active", Superseded = "superseded", Revoked = "revoked" }
    /// A credential version is used, was followed by another, or was revoked.
    CredentialState { Active = "active", Superseded = "superseded", Revoked = "revoked" }
    /// How far an action that was asked for has come; `Ended` with the boot.
    ActionState {
        Allowed = "allowed", Waiting = "waiting", Approved = "approved", Denied = "denied",
        Revoked = "revoked", Executed = "executed", Ended = "ended",
    }
    /// How far an execution has come; `Ended` by a boot after its own.
    ExecutionState { Started = "started", Finished = "finished", Ended = "ended" }
}

/// One version of a policy. `since`: index of the record that made its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRow {
    pub tenant: TenantId,
    pub id: PolicyId,
    pub version: u64,
    pub hash: Hash,
    pub state: PolicyState,
    pub since: u64,
}

/// One of the keys that have signed a tenant's policies; 0 is the first, the last one signs now.
/// `since`: index of the record that it came with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyKeyRow {
    pub sequence: u64,
    pub key: PublicKey,
    pub since: u64,
}

/// One version of a credential; never its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialRow {
    pub tenant: TenantId,
    pub owner: PublicKey,
    pub id: CredentialId,
    pub version: u64,
    pub state: CredentialState,
    pub since: u64,
}

/// One execution. Indices are those of its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutionRow {
    pub id: ExecutionId,
    pub action_id: Option<ActionId>,
    pub tenant: TenantId,
    pub agent: Option<String>,
    pub service: Option<String>,
    pub action: Option<String>,
    pub started: u64,
    pub started_at: Time,
    pub state: ExecutionState,
    /// `Outcome::as_str`.
    pub outcome: Option<String>,
    pub ended: Option<u64>,
    pub ended_at: Option<Time>,
    pub receipt: Option<Hash>,
    /// The sealed result's blob.
    pub result: Option<Hash>,
}

/// One action that was asked for and not refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionRow {
    pub id: ActionId,
    pub tenant: TenantId,
    pub agent: Option<String>,
    pub service: Option<String>,
    pub action: Option<String>,
    pub tier: Option<u8>,
    pub state: ActionState,
    /// `Reason::code`, where it was denied, revoked or ended.
    pub reason: Option<String>,
    /// Index of the record that asked.
    pub first: u64,
    pub asked_at: Time,
    /// Index of the record that made its state.
    pub since: u64,
    /// Its sealed params or statement.
    pub blob: Option<Hash>,
}

/// What persons said of an action; `kind` is endorsed, approved or denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalRow {
    pub record: u64,
    pub kind: String,
    pub at: Time,
    pub hitl_proof: Option<Hash>,
}

impl Store {
    /// Policies by tenant, id and version; of all tenants if none is given.
    pub fn policies(
        &self,
        tenant: Option<&TenantId>,
        max: u32,
    ) -> Result<Vec<PolicyRow>, StoreError> {
        let sql = "SELECT tenant, id, version, hash, state, since FROM policies
                   WHERE (?1 IS NULL OR tenant = ?1) ORDER BY tenant, id, version LIMIT ?2";
        let tenant = tenant.map(TenantId::as_str);
        self.rows(sql, params![tenant, max], |row| {
            Ok(PolicyRow {
                tenant: text(row, 0, TenantId::new)?,
                id: text(row, 1, PolicyId::new)?,
                version: uint(row.get(2)?),
                hash: hash(row.get(3)?)?,
                state: state(row, 4, PolicyState::read)?,
                since: uint(row.get(5)?),
            })
        })
    }

    /// A tenant's policy keys, newest first.
    pub fn policy_keys(
        &self,
        tenant: &TenantId,
        max: u32,
    ) -> Result<Vec<PolicyKeyRow>, StoreError> {
        let sql = "SELECT sequence, key, since FROM policy_keys
                   WHERE tenant = ?1 ORDER BY sequence DESC LIMIT ?2";
        self.rows(sql, params![tenant.as_str(), max], |row| {
            Ok(PolicyKeyRow {
                sequence: uint(row.get(0)?),
                key: text(row, 1, str::parse)?,
                since: uint(row.get(2)?),
            })
        })
    }

    /// Credentials by tenant, owner, id and version; of all tenants if none is given.
    pub fn credentials(
        &self,
        tenant: Option<&TenantId>,
        max: u32,
    ) -> Result<Vec<CredentialRow>, StoreError> {
        let sql = "SELECT tenant, owner, id, version, state, since FROM credentials
                   WHERE (?1 IS NULL OR tenant = ?1) ORDER BY tenant, owner, id, version LIMIT ?2";
        let tenant = tenant.map(TenantId::as_str);
        self.rows(sql, params![tenant, max], |row| {
            Ok(CredentialRow {
                tenant: text(row, 0, TenantId::new)?,
                owner: text(row, 1, str::parse)?,
                id: text(row, 2, CredentialId::new)?,
                version: uint(row.get(3)?),
                state: state(row, 4, CredentialState::read)?,
                since: uint(row.get(5)?),
            })
        })
    }

    /// One execution.
    pub fn execution(&self, id: &ExecutionId) -> Result<Option<ExecutionRow>, StoreError> {
        let sql = "SELECT id, action_id, tenant, agent, service, action, started, started_at,
                   state, outcome, ended, ended_at, receipt, result FROM executions WHERE id = ?1";
        let mut rows = self.rows(sql, [id.as_str()], execution)?;
        Ok(rows.pop())
    }

    /// Executions, newest first: those that started before the record `before`, if given.
    /// For the next page give the last one's `started`.
    pub fn executions(
        &self,
        tenant: Option<&TenantId>,
        before: Option<u64>,
        max: u32,
    ) -> Result<Vec<ExecutionRow>, StoreError> {
        let columns = "SELECT id, action_id, tenant, agent, service, action, started, started_at,
                       state, outcome, ended, ended_at, receipt, result FROM executions";
        let before = before.map_or(i64::MAX, int);
        match tenant {
            Some(tenant) => self.rows(
                &format!(
                    "{columns} WHERE tenant = ?1 AND started < ?2 ORDER BY started DESC LIMIT ?3"
                ),
                params![tenant.as_str(), before, max],
                execution,
            ),
            None => self.rows(
                &format!("{columns} WHERE started < ?1 ORDER BY started DESC LIMIT ?2"),
                params![before, max],
                execution,
            ),
        }
    }

    /// One action.
    pub fn action(&self, id: &ActionId) -> Result<Option<ActionRow>, StoreError> {
        let sql = "SELECT id, tenant, agent, service, action, tier, state, reason, first,
                   asked_at, since, blob FROM actions WHERE id = ?1";
        Ok(self.rows(sql, [id.as_str()], action)?.pop())
    }

    /// Actions that wait for approval, oldest first; of all tenants if none is given.
    pub fn actions_waiting(
        &self,
        tenant: Option<&TenantId>,
        max: u32,
    ) -> Result<Vec<ActionRow>, StoreError> {
        let sql = "SELECT id, tenant, agent, service, action, tier, state, reason, first,
                   asked_at, since, blob FROM actions
                   WHERE state = 'waiting' AND (?1 IS NULL OR tenant = ?1)
                   ORDER BY first LIMIT ?2";
        let tenant = tenant.map(TenantId::as_str);
        self.rows(sql, params![tenant, max], action)
    }

    /// What persons said of an action, in the order of the log.
    pub fn approvals(&self, id: &ActionId, max: u32) -> Result<Vec<ApprovalRow>, StoreError> {
        let sql = "SELECT record, kind, at, hitl_proof FROM approvals
                   WHERE action_id = ?1 ORDER BY record LIMIT ?2";
        self.rows(sql, params![id.as_str(), max], |row| {
            Ok(ApprovalRow {
                record: uint(row.get(0)?),
                kind: row.get(1)?,
                at: Time::from_ms(uint(row.get(2)?)),
                hitl_proof: optional_hash(row, 3)?,
            })
        })
    }

    fn rows<T>(
        &self,
        sql: &str,
        parameters: impl rusqlite::Params,
        read: impl Fn(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        self.with_reader(|connection: &Connection| {
            let mut statement = connection.prepare_cached(sql)?;
            let mut rows = statement.query(parameters)?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(read(row)?);
            }
            Ok(found)
        })
    }
}

/// Only this crate writes these tables; another content is damage.
fn damaged() -> StoreError {
    StoreError::Database("a list is damaged; make the lists anew from the log".into())
}

fn text<T, E>(
    row: &Row<'_>,
    column: usize,
    read: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, StoreError> {
    let text: String = row.get(column)?;
    read(&text).map_err(|_| damaged())
}

fn state<T>(
    row: &Row<'_>,
    column: usize,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<T, StoreError> {
    let text: String = row.get(column)?;
    read(&text).ok_or_else(damaged)
}

fn optional<T: FromSql>(row: &Row<'_>, column: usize) -> Result<Option<T>, StoreError> {
    Ok(row.get(column)?)
}

fn hash(bytes: Vec<u8>) -> Result<Hash, StoreError> {
    bytes.try_into().map(Hash::new).map_err(|_| damaged())
}

fn optional_hash(row: &Row<'_>, column: usize) -> Result<Option<Hash>, StoreError> {
    optional(row, column)?.map(hash).transpose()
}

fn execution(row: &Row<'_>) -> Result<ExecutionRow, StoreError> {
    let action_id: Option<String> = row.get(1)?;
    Ok(ExecutionRow {
        id: text(row, 0, ExecutionId::new)?,
        action_id: action_id.and_then(|id| ActionId::new(&id).ok()),
        tenant: text(row, 2, TenantId::new)?,
        agent: row.get(3)?,
        service: row.get(4)?,
        action: row.get(5)?,
        started: uint(row.get(6)?),
        started_at: Time::from_ms(uint(row.get(7)?)),
        state: state(row, 8, ExecutionState::read)?,
        outcome: row.get(9)?,
        ended: optional(row, 10)?.map(uint),
        ended_at: optional(row, 11)?.map(uint).map(Time::from_ms),
        receipt: optional_hash(row, 12)?,
        result: optional_hash(row, 13)?,
    })
}

fn action(row: &Row<'_>) -> Result<ActionRow, StoreError> {
    Ok(ActionRow {
        id: text(row, 0, ActionId::new)?,
        tenant: text(row, 1, TenantId::new)?,
        agent: row.get(2)?,
        service: row.get(3)?,
        action: row.get(4)?,
        tier: row.get(5)?,
        state: state(row, 6, ActionState::read)?,
        reason: row.get(7)?,
        first: uint(row.get(8)?),
        asked_at: Time::from_ms(uint(row.get(9)?)),
        since: uint(row.get(10)?),
        blob: optional_hash(row, 11)?,
    })
}
