//! What is kept beside the log: blobs, salts, lists, and which tokens were redeemed.

use std::{path::Path, sync::Arc};

use serde_json::{Value, json};
use toani_protocol::{ActionId, ExecutionId, Hash, TenantId, Time, sign::Label};
use toani_store::{
    ActionRow, CredentialRow, DataFolder, EmbeddedReplay, ExecutionRow, FolderError, PolicyKeyRow,
    PolicyRow, ReplayError, ReplayStore, Store, StoreError, Ticket,
};

/// Rows of one list.
pub(crate) const ROWS_MAX: u32 = 1_000;

/// Why something is not kept, or not found again.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("reading the store was cut short")]
    CutShort,
}

/// The data folder, which this process holds, and the store in it.
#[derive(Debug, Clone)]
pub(crate) struct Keep {
    folder: Arc<DataFolder>,
    store: Store,
    replay: Arc<dyn ReplayStore>,
}

impl Keep {
    pub(crate) fn open(data: &Path) -> Result<Self, KeepError> {
        let folder = DataFolder::open(data)?;
        let store = Store::open(&folder)?;
        Ok(Self { folder: Arc::new(folder), store, replay: Arc::new(EmbeddedReplay::new()) })
    }

    /// With another replay store than the one in memory.
    pub(crate) fn with_replay(self, replay: Arc<dyn ReplayStore>) -> Self {
        Self { replay, ..self }
    }

    pub(crate) fn folder(&self) -> &DataFolder {
        &self.folder
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Keeps a blob. What stays for good (policies, credentials, admission lists) is durable when
    /// this returns; what is deleted one day is once its ticket is settled.
    pub(crate) async fn put_blob(
        &self,
        bytes: Vec<u8>,
        delete_after: Option<Time>,
    ) -> Result<Option<Ticket>, KeepError> {
        if delete_after.is_none() {
            self.store.put_blob_durable(bytes, None).await?;
            return Ok(None);
        }
        let (_, ticket) = self.store.put_blob(bytes, delete_after).await?;
        Ok(Some(ticket))
    }

    /// Keeps a signed receipt where a record's `execution_receipt` finds it: that hash is the
    /// SHA-256 of label, zero byte and receipt, so these are the bytes that are kept.
    pub(crate) async fn put_receipt(
        &self,
        receipt: &[u8],
        delete_after: Time,
    ) -> Result<(), KeepError> {
        let message = Label::Receipt.message(receipt);
        let (_, ticket) = self.store.put_blob(message, Some(delete_after)).await?;
        ticket.settled().await?;
        Ok(())
    }

    /// A signed receipt by a record's `execution_receipt`. Blocks on the disk.
    pub(crate) fn receipt_now(&self, hash: Hash) -> Result<Option<Vec<u8>>, KeepError> {
        let prefix = Label::Receipt.message(b"");
        let message = self.store.blob(&hash)?;
        Ok(message.and_then(|message| Some(message.strip_prefix(&*prefix)?.to_vec())))
    }

    pub(crate) async fn put_salt(
        &self,
        tenant: TenantId,
        day: u64,
        wrapped: Vec<u8>,
    ) -> Result<(), KeepError> {
        Ok(self.store.put_salt(tenant, day, wrapped).await?)
    }

    /// Whether a token is redeemed for the first time.
    pub(crate) async fn consume(&self, jti: Hash, expires: Time) -> Result<bool, ReplayError> {
        self.replay.consume(jti, expires).await
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, KeepError> {
        let store = self.store.clone();
        let result = tokio::task::spawn_blocking(move || read(&store)).await;
        Ok(result.map_err(|_| KeepError::CutShort)??)
    }

    pub(crate) async fn blob(&self, hash: Hash) -> Result<Option<Vec<u8>>, KeepError> {
        self.read(move |store| store.blob(&hash)).await
    }

    /// As [`Self::blob`], where blocking is acceptable.
    pub(crate) fn blob_now(&self, hash: Hash) -> Result<Option<Vec<u8>>, KeepError> {
        Ok(self.store.blob(&hash)?)
    }

    pub(crate) async fn salt(
        &self,
        tenant: TenantId,
        day: u64,
    ) -> Result<Option<Vec<u8>>, KeepError> {
        self.read(move |store| store.salt(&tenant, day)).await
    }

    pub(crate) async fn salts(&self, day: u64) -> Result<Vec<(TenantId, Vec<u8>)>, KeepError> {
        self.read(move |store| store.salts_of_day(day)).await
    }

    pub(crate) async fn action(&self, id: ActionId) -> Result<Option<ActionRow>, KeepError> {
        self.read(move |store| store.action(&id)).await
    }

    /// The execution that began with this record.
    pub(crate) async fn execution_started(
        &self,
        tenant: TenantId,
        index: u64,
    ) -> Result<Option<ExecutionRow>, KeepError> {
        let before = index.saturating_add(1);
        let rows = self.read(move |store| store.executions(Some(&tenant), Some(before), 1));
        Ok(rows.await?.pop().filter(|row| row.started == index))
    }

    pub(crate) async fn execution(
        &self,
        id: ExecutionId,
    ) -> Result<Option<ExecutionRow>, KeepError> {
        self.read(move |store| store.execution(&id)).await
    }

    pub(crate) async fn executions(
        &self,
        tenant: Option<TenantId>,
        before: Option<u64>,
        max: u32,
    ) -> Result<Vec<Value>, KeepError> {
        let max = max.min(ROWS_MAX);
        let rows = self.read(move |store| store.executions(tenant.as_ref(), before, max));
        Ok(rows.await?.iter().map(execution).collect())
    }

    pub(crate) async fn policies(&self, tenant: Option<TenantId>) -> Result<Vec<Value>, KeepError> {
        let rows = self.read(move |store| store.policies(tenant.as_ref(), ROWS_MAX));
        Ok(rows.await?.iter().map(policy).collect())
    }

    pub(crate) async fn policy_keys(&self, tenant: TenantId) -> Result<Vec<Value>, KeepError> {
        let rows = self.read(move |store| store.policy_keys(&tenant, ROWS_MAX));
        Ok(rows.await?.iter().map(policy_key).collect())
    }

    pub(crate) async fn credentials(
        &self,
        tenant: Option<TenantId>,
    ) -> Result<Vec<Value>, KeepError> {
        let rows = self.read(move |store| store.credentials(tenant.as_ref(), ROWS_MAX));
        Ok(rows.await?.iter().map(credential).collect())
    }

    pub(crate) async fn waiting(
        &self,
        tenant: Option<TenantId>,
        max: u32,
    ) -> Result<Vec<Value>, KeepError> {
        let max = max.min(ROWS_MAX);
        let rows = self.read(move |store| store.actions_waiting(tenant.as_ref(), max));
        Ok(rows.await?.iter().map(action).collect())
    }
}

fn policy(row: &PolicyRow) -> Value {
    json!({
        "tenant": row.tenant,
        "id": row.id,
        "version": row.version,
        "hash": row.hash,
        "state": row.state.as_str(),
        "since": row.since,
    })
}

fn policy_key(row: &PolicyKeyRow) -> Value {
    json!({"sequence": row.sequence, "key": row.key, "since": row.since})
}

fn credential(row: &CredentialRow) -> Value {
    json!({
        "tenant": row.tenant,
        "owner": row.owner,
        "id": row.id,
        "version": row.version,
        "state": row.state.as_str(),
        "since": row.since,
    })
}

fn execution(row: &ExecutionRow) -> Value {
    json!({
        "execution_id": row.id,
        "action_id": row.action_id.as_ref().map(ActionId::as_str),
        "tenant": row.tenant,
        "agent": row.agent,
        "service": row.service,
        "action": row.action,
        "state": row.state.as_str(),
        "outcome": row.outcome,
        "started": row.started,
        "started_at": row.started_at,
        "ended": row.ended,
        "ended_at": row.ended_at,
        "receipt": row.receipt,
    })
}

fn action(row: &ActionRow) -> Value {
    json!({
        "action_id": row.id,
        "tenant": row.tenant,
        "agent": row.agent,
        "service": row.service,
        "action": row.action,
        "tier": row.tier,
        "state": row.state.as_str(),
        "asked_at": row.asked_at,
    })
}
