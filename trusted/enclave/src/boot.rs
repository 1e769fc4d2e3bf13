//! Birth, and the way from a sealed root and a log to a working enclave.

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};

use rand_core::CryptoRng;
use toani_audit::chain::Links;
use toani_policy::VerifiedPolicy;
use toani_protocol::{
    ActionId, AgentId, BootId, Hash, Reason, TenantId, Time, canonical,
    instance::{Manifest, VerifiedAdmission},
    limits::DOCUMENT_BYTES_MAX,
    policy::Policy,
    record::{About, Outcome, Record, RecordKind},
    sign::Signed,
    wire::{self, Effect},
};

use crate::{
    chain::{Chain, Standing},
    keys::{Keys, Platform, Root, random},
    life::Life,
    ready::{Ready, Turn, record_field},
    salts,
    state::{SealedField, State},
    vault::StoredCredential,
};

/// Between the root's opening and the boot record.
#[derive(Debug)]
pub(crate) struct Replaying {
    keys: Keys,
    instance: Hash,
    manifest: Manifest,
    mrenclave: Hash,
    links: Links,
    covered: BTreeMap<TenantId, u64>,
    state: State,
    last: Option<Record>,
    ended: bool,
}

/// Makes a new instance: L1 is born here and leaves sealed only.
pub(crate) fn birth(
    platform: &dyn Platform,
    manifest: Vec<u8>,
    rng: &mut dyn CryptoRng,
) -> Result<(Replaying, Vec<u8>), Reason> {
    let (manifest, instance) = read_manifest(&manifest)?;
    let root = Root::born(instance, rng);
    let sealed = root.seal(platform, rng)?;
    Ok((Replaying::new(platform, root, manifest, instance, rng)?, sealed))
}

/// Opens an instance.
pub(crate) fn begin(
    platform: &dyn Platform,
    manifest: Vec<u8>,
    sealed_root: &[u8],
    rng: &mut dyn CryptoRng,
) -> Result<Replaying, Reason> {
    let (manifest, instance) = read_manifest(&manifest)?;
    let root = Root::open(platform, instance, sealed_root).map_err(|_| Reason::RequestInstance)?;
    Replaying::new(platform, root, manifest, instance, rng)
}

fn read_manifest(bytes: &[u8]) -> Result<(Manifest, Hash), Reason> {
    let manifest = Manifest::decode(bytes).map_err(|_| Reason::DocumentMalformed)?;
    // Roots vouch for quotes. There are none here, so an enclave that should prove itself under a
    // root refuses to work rather than to pretend.
    if !manifest.sgx_roots.is_empty() || !manifest.snp_roots.is_empty() {
        return Err(Reason::AssuranceTee);
    }
    Ok((manifest, Manifest::id_of(bytes)))
}

impl Replaying {
    fn new(
        platform: &dyn Platform,
        root: Root,
        manifest: Manifest,
        instance: Hash,
        rng: &mut dyn CryptoRng,
    ) -> Result<Self, Reason> {
        let mrenclave = platform.measurement();
        let keys = Keys::derive(root, BootId::from_random(random(rng)), mrenclave)?;
        Ok(Self {
            keys,
            instance,
            manifest,
            mrenclave,
            links: Links::new(),
            covered: BTreeMap::new(),
            state: State::default(),
            last: None,
            ended: false,
        })
    }

    /// Folds the next records of the log. Nothing acts on them before [`Self::end`] has verified
    /// the last signature, which vouches for all by their hashes.
    pub(crate) fn replay(&mut self, leaves: &[Vec<u8>]) -> Result<(), Reason> {
        if self.ended {
            return Err(Reason::NotReady);
        }
        leaves.iter().try_for_each(|leaf| self.replay_one(leaf))
    }

    fn replay_one(&mut self, leaf: &[u8]) -> Result<(), Reason> {
        let record = Record::decode(leaf).map_err(|_| Reason::LogUnavailable)?;
        if record.origin != self.manifest.log_origin {
            return Err(Reason::LogUnavailable);
        }
        let hash = Record::hash_of(leaf);
        self.links.advance(&record, hash).map_err(|_| Reason::LogUnavailable)?;
        if let Some((tenant, sequence)) =
            record.about.tenant.clone().zip(record.about.tenant_sequence)
        {
            self.covered.insert(tenant, sequence);
        }
        let sealed = self.sealed_field(&record)?;
        self.state.fold(&record, sealed).map_err(|_| Reason::LogUnavailable)?;
        self.last = Some(record);
        Ok(())
    }

    fn sealed_field(&self, record: &Record) -> Result<Option<SealedField>, Reason> {
        let Some(sealed) = &record.about.sealed else { return Ok(None) };
        let index = record.index.to_be_bytes();
        let bytes =
            self.keys.open(&record_field(&index), &sealed.0).map_err(|_| Reason::LogUnavailable)?;
        let field = wire::decode(&bytes, bytes.len()).map_err(|_| Reason::LogUnavailable)?;
        Ok(Some(field))
    }

    /// The log has ended: names the documents that the state needs.
    pub(crate) fn end(&mut self) -> Result<Vec<Hash>, Reason> {
        if let Some(last) = &self.last {
            last.verify(&self.keys.chain_public).map_err(|_| Reason::LogUnavailable)?;
        }
        self.ended = true;
        Ok(self.state.missing())
    }

    /// Gives the state the documents that its records name. A document is taken for what its hash
    /// says it is: the record that names it was signed after its own signature had been verified.
    pub(crate) fn attach(&mut self, blobs: &[Vec<u8>]) -> Result<(), Reason> {
        if !self.ended {
            return Err(Reason::NotReady);
        }
        for blob in blobs {
            let hash = Hash::of(blob);
            self.attach_admission(blob, hash);
            self.attach_policy(blob);
            self.attach_credential(blob, hash);
        }
        Ok(())
    }

    fn attach_admission(&mut self, blob: &[u8], hash: Hash) {
        if self.state.admission_hash != Some(hash) {
            return;
        }
        let verified = VerifiedAdmission::verify(blob, &self.manifest, self.instance);
        self.state.admission = verified.ok().map(Arc::new);
    }

    fn attach_policy(&mut self, blob: &[u8]) {
        // A new policy key does not void what the one before has signed.
        let Ok(signed) = canonical::decode::<Signed<Policy>>(blob, DOCUMENT_BYTES_MAX) else {
            return;
        };
        let Some(signature) = signed.signatures.first() else { return };
        let Ok(verified) = VerifiedPolicy::verify(blob, &signature.key) else { return };
        self.state.attach_policy(verified);
    }

    fn attach_credential(&mut self, blob: &[u8], hash: Hash) {
        let Ok((stored, header)) = StoredCredential::decode(blob) else { return };
        let name = (header.namespace.clone(), header.owner, header.id.clone());
        let slot = self
            .state
            .tenants
            .get_mut(&header.tenant)
            .and_then(|tenant| tenant.credentials.get_mut(&name));
        if let Some(slot) = slot.filter(|slot| slot.blob == hash) {
            slot.body = Some(Arc::new((stored, header)));
        }
    }

    /// Begins the boot: writes its record, and ends the executions that the boot before left open.
    pub(crate) fn start(
        self,
        salts: &[(TenantId, Vec<u8>)],
        now: Time,
        rng: &mut dyn CryptoRng,
        out: &mut Vec<Effect>,
    ) -> Result<Ready, Reason> {
        if !self.ended {
            return Err(Reason::NotReady);
        }
        let standing = Standing {
            origin: self.manifest.log_origin.clone(),
            mrenclave: self.mrenclave,
            evidence: Hash::of(b""),
            admission: self.state.admission_hash.unwrap_or(Hash::ZERO),
        };
        let born = self.links.size() == 0;
        let mut life = Life::default();
        life.salts = salts::restore(&self.keys.root, &self.state, salts);
        let chain = Chain::after(self.links, self.covered);
        let mut ready =
            Ready::new(self.keys, self.instance, self.manifest, standing, chain, self.state, life);
        let mut turn = Turn { ready: &mut ready, now, rng, out };
        if born {
            let (key, blob) = (Some(turn.ready.keys.chain_public), Some(turn.ready.instance));
            let about = About { key, blob, ..About::default() };
            turn.write(RecordKind::Birth, about, None)?;
        }
        turn.write(RecordKind::Boot, About::default(), None)?;
        end_left_open(&mut turn)?;
        Ok(ready)
    }
}

/// Pending actions that end at once: their records fit into one reply.
const LEFT_AT_ONCE_MAX: usize = 1_024;

/// Executions that were open when the boot before ended: what happened is not known, and nothing
/// is retried.
fn end_left_open(turn: &mut Turn<'_>) -> Result<(), Reason> {
    let left: Vec<_> =
        turn.ready.state.open.iter().map(|(id, open)| (id.clone(), open.clone())).collect();
    for (execution, open) in left {
        let about = About {
            execution_id: Some(execution),
            outcome: Some(Outcome::Unknown),
            ..left_behind(open.tenant, open.agent, open.action)
        };
        let sealed = SealedField::Finished { give_back: false };
        turn.write(RecordKind::Ended, about, Some(sealed))?;
    }
    Ok(())
}

/// Actions that waited or had a token when the boot before ended, which voids them. In bounded
/// steps: the host calls again, and what is left when it does not is left to the next boot.
pub(crate) fn end_left_pending(turn: &mut Turn<'_>) -> Result<(), Reason> {
    let left = turn.ready.state.left.iter().take(LEFT_AT_ONCE_MAX);
    let left: Vec<_> = left.map(|(id, pending)| (id.clone(), pending.clone())).collect();
    for (action, pending) in left {
        // The room that is kept for ends is for those of executions.
        if turn.ready.chain.room(RecordKind::Boot).is_err() {
            break;
        }
        let about = left_behind(pending.tenant, pending.agent, action);
        turn.write(RecordKind::Ended, about, None)?;
    }
    Ok(())
}

fn left_behind(tenant: TenantId, agent: AgentId, action: ActionId) -> About {
    About {
        tenant: Some(tenant),
        agent: Some(agent),
        action_id: Some(action),
        reason: Some(Reason::BootEnded),
        ..About::default()
    }
}
