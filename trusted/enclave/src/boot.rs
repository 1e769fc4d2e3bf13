//! Birth, and the way from a sealed root and a log to a working enclave.

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};

use rand_core::CryptoRng;
use toani_attestation::{Evidence, SgxVerdict, roots, sgx};
use toani_audit::chain::Links;
use toani_policy::VerifiedPolicy;
use toani_protocol::{
    ActionId, AgentId, BootId, Hash, Reason, TenantId, Time,
    assurance::Tee,
    canonical,
    evidence::{ReportData, Role, report_data},
    instance::{Manifest, VerifiedAdmission},
    limits::DOCUMENT_BYTES_MAX,
    policy::Policy,
    record::{About, Outcome, Record, RecordKind},
    sign::Signed,
    wire::{self, Answer, Effect},
};

use crate::{
    chain::{Chain, Standing},
    keys::{Keys, random},
    life::Life,
    platform::{OwnReport, Platform},
    ready::{Ready, Turn, record_field},
    root::Root,
    salts,
    state::{CollateralNumbers, SealedField, State},
    vault::StoredCredential,
};

/// Between the root and the proof of what runs. Nothing else is answered here.
#[derive(Debug)]
pub(crate) struct Proving {
    keys: Keys,
    instance: Hash,
    manifest: Manifest,
    mrenclave: Hash,
    report_data: ReportData,
    /// At birth: the sealed root, which leaves once it is proven who made it.
    newborn: Option<Vec<u8>>,
}

/// What this boot runs in, by evidence that holds under the manifest's roots.
#[derive(Debug)]
pub(crate) struct Proof {
    tee: Tee,
    pub(crate) collateral: CollateralNumbers,
}

/// Makes a new instance: L1 is born here and leaves sealed only.
pub(crate) fn birth(
    platform: &dyn Platform,
    manifest: &[u8],
    target: &[u8],
    rng: &mut dyn CryptoRng,
) -> Result<(Proving, Vec<u8>), Reason> {
    let (manifest, instance) = read_manifest(manifest)?;
    let root = Root::born(instance, rng);
    let sealed = root.seal(platform, rng)?;
    Proving::new(platform, root, manifest, instance, target, Some(sealed), rng)
}

/// Opens an instance.
pub(crate) fn begin(
    platform: &dyn Platform,
    manifest: &[u8],
    sealed_root: &[u8],
    target: &[u8],
    rng: &mut dyn CryptoRng,
) -> Result<(Proving, Vec<u8>), Reason> {
    let (manifest, instance) = read_manifest(manifest)?;
    let root = Root::open(platform, instance, sealed_root).map_err(|_| Reason::RootUnopened)?;
    Proving::new(platform, root, manifest, instance, target, None, rng)
}

pub(crate) fn read_manifest(bytes: &[u8]) -> Result<(Manifest, Hash), Reason> {
    let manifest = Manifest::decode(bytes).map_err(|_| Reason::DocumentMalformed)?;
    Ok((manifest, Manifest::id_of(bytes)))
}

/// Report data of this boot.
fn vouched_by(keys: &Keys, instance: &Hash) -> ReportData {
    report_data(Role::Enclave, instance, keys.boot.as_str(), &keys.vouched().hash())
}

/// The report of a boot that goes on.
pub(crate) fn report_again(
    ready: &Ready,
    platform: &dyn Platform,
    target: &[u8],
) -> Result<Answer, Reason> {
    let target = target.try_into().map_err(|_| Reason::RequestMalformed)?;
    let report_data = vouched_by(&ready.keys, &ready.instance);
    Ok(Answer::Report { report: platform.ereport(target, &report_data).to_vec() })
}

/// Newer evidence of a boot that goes on, for new channels and for whoever asks. Records keep
/// naming the first, which held when they began.
pub(crate) fn prove_again(ready: &Ready, evidence: Vec<u8>, now: Time) -> Result<Vec<u8>, Reason> {
    let report_data = vouched_by(&ready.keys, &ready.instance);
    let verdict = proven(&evidence, &ready.manifest, &report_data, now)?;
    let Standing { mrenclave, tee, .. } = &ready.standing;
    let same = verdict.mrenclave == *mrenclave && roots::tee_of(&verdict.root) == *tee;
    let newer = CollateralNumbers::of(&verdict).reaches(ready.state.collateral);
    if same && newer { Ok(evidence) } else { Err(Reason::EvidenceRefused) }
}

/// What an enclave's evidence says, if it holds under the manifest and vouches for this.
pub(crate) fn proven(
    evidence: &[u8],
    manifest: &Manifest,
    report_data: &ReportData,
    now: Time,
) -> Result<SgxVerdict, Reason> {
    let refused = Reason::EvidenceRefused;
    let Ok(Evidence::Sgx(evidence)) = Evidence::decode(evidence) else { return Err(refused) };
    let (roots, policy) = (&manifest.sgx_roots, &manifest.sgx_policy);
    let verdict = sgx::verify(&evidence, roots, policy, now).map_err(|_| refused)?;
    if verdict.report_data == *report_data { Ok(verdict) } else { Err(refused) }
}

impl Proving {
    /// Also returns the report that the host has to get quoted.
    fn new(
        platform: &dyn Platform,
        root: Root,
        manifest: Manifest,
        instance: Hash,
        target: &[u8],
        newborn: Option<Vec<u8>>,
        rng: &mut dyn CryptoRng,
    ) -> Result<(Self, Vec<u8>), Reason> {
        let target = target.try_into().map_err(|_| Reason::RequestMalformed)?;
        let mrenclave = OwnReport::of(platform).mrenclave;
        let keys = Keys::derive(root, BootId::from_random(random(rng)), mrenclave, rng)?;
        let report_data = vouched_by(&keys, &instance);
        let report = platform.ereport(target, &report_data).to_vec();
        Ok((Self { keys, instance, manifest, mrenclave, report_data, newborn }, report))
    }

    /// Verifies this very boot's evidence: its own code, its own keys, under the manifest's roots.
    pub(crate) fn verify(&self, evidence: &[u8], now: Time) -> Result<Proof, Reason> {
        let verdict = proven(evidence, &self.manifest, &self.report_data, now)?;
        if verdict.mrenclave != self.mrenclave {
            return Err(Reason::EvidenceRefused);
        }
        let (tee, collateral) = (roots::tee_of(&verdict.root), CollateralNumbers::of(&verdict));
        Ok(Proof { tee, collateral })
    }

    /// The way on, and at birth the sealed root.
    pub(crate) fn proven(self, evidence: Vec<u8>, proof: Proof) -> (Replaying, Option<Vec<u8>>) {
        let Self { keys, instance, manifest, mrenclave, newborn, .. } = self;
        let replaying = Replaying {
            keys,
            instance,
            manifest,
            mrenclave,
            evidence,
            proof,
            links: Links::new(),
            covered: BTreeMap::new(),
            state: State::default(),
            last: None,
            ended: false,
            failed: false,
        };
        (replaying, newborn)
    }
}

/// Between the proof and the boot record.
#[derive(Debug)]
pub(crate) struct Replaying {
    pub(crate) keys: Keys,
    pub(crate) instance: Hash,
    pub(crate) manifest: Manifest,
    pub(crate) mrenclave: Hash,
    evidence: Vec<u8>,
    pub(crate) proof: Proof,
    pub(crate) links: Links,
    covered: BTreeMap<TenantId, u64>,
    pub(crate) state: State,
    /// The last leaf of all that were folded.
    last: Option<Vec<u8>>,
    pub(crate) ended: bool,
    /// A record did not fit. It may have moved some of what is above: this boot is over.
    failed: bool,
}

impl Replaying {
    /// Folds the next records of the log. Nothing acts on them before [`Self::end`] has held the last
    /// one against its canonical form and its signature, which vouches for all by their hashes.
    pub(crate) fn replay(&mut self, leaves: &[Vec<u8>]) -> Result<(), Reason> {
        if self.ended || self.failed {
            return Err(Reason::NotReady);
        }
        let replayed = leaves.iter().try_for_each(|leaf| self.replay_one(leaf));
        self.failed = replayed.is_err();
        replayed?;
        self.last = leaves.last().cloned().or(self.last.take());
        Ok(())
    }

    fn replay_one(&mut self, leaf: &[u8]) -> Result<(), Reason> {
        let record = Record::decode_vouched(leaf).map_err(|_| Reason::LogUnavailable)?;
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
        self.state.fold(&record, sealed).map_err(|_| Reason::LogUnavailable)
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
        if self.failed {
            return Err(Reason::LogUnavailable);
        }
        if let Some(last) = &self.last {
            let last = Record::decode(last).map_err(|_| Reason::LogUnavailable)?;
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

    /// Whether the instance goes on here, and not where its root was given to.
    pub(crate) fn goes_on(&self) -> Result<(), Reason> {
        let here = self.state.handed_over.counter <= self.keys.root.came_by.counter;
        if here { Ok(()) } else { Err(Reason::HandedOver) }
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
        let (log, root) = (self.state.handed_over, self.keys.root.came_by);
        if log.counter < root.counter || log.counter == root.counter && log != root {
            return Err(Reason::LogBehind);
        }
        if !self.proof.collateral.reaches(self.state.collateral) {
            return Err(Reason::EvidenceRefused);
        }
        let standing = Standing {
            origin: self.manifest.log_origin.clone(),
            mrenclave: self.mrenclave,
            tee: self.proof.tee,
            evidence: Hash::of(&self.evidence),
            admission: self.state.admission_hash.unwrap_or(Hash::ZERO),
        };
        let born = self.links.size() == 0;
        let mut life = Life::default();
        life.salts = salts::restore(&self.keys.root, &self.state, salts);
        let chain = Chain::after(self.links, self.covered);
        let mut ready =
            Ready::new(self.keys, self.instance, self.manifest, standing, chain, self.state, life);
        ready.evidence.clone_from(&self.evidence);
        let mut turn = Turn { ready: &mut ready, now, rng, out };
        turn.keep(self.evidence, None);
        if born {
            let (key, blob) = (Some(turn.ready.keys.chain_public), Some(turn.ready.instance));
            let about = About { key, blob, ..About::default() };
            turn.write(RecordKind::Birth, about, None)?;
        }
        let numbers = SealedField::Boot(self.proof.collateral);
        let channel = Some(turn.ready.keys.channel.spki_hash());
        let about = About { blob: channel, ..About::default() };
        turn.write(RecordKind::Boot, about, Some(numbers))?;
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
