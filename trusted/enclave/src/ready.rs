//! The enclave after its boot: everything that the steps share.

use alloc::{collections::VecDeque, string::String, vec::Vec};

use rand_core::CryptoRng;
use serde::Serialize;
use toani_audit::bundle::BundleIndex;
use toani_policy::{CredentialView, Decision, Granted, Situation, VerifiedPolicy};
use toani_protocol::{
    ActionId, BootId, Hash, Reason, TenantId, Time,
    assurance::{AgentLevel, Assurance, SandboxLevel},
    canonical,
    instance::Manifest,
    limits::{COVERAGES_MAX, EVIDENCE_RETENTION_MS},
    record::{About, RecordKind},
    request::ActionRequest,
    sign::{Bytes, Label, Signed},
    wire::{self, Answer, Effect, Facts},
};

use crate::{
    asked::Asked,
    chain::{Chain, Standing},
    channel::{AttestedPeer, Link},
    keys::Keys,
    life::Life,
    state::{CredentialName, CredentialSlot, CredentialVersion, SealedField, State},
};

#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) keys: Keys,
    pub(crate) instance: Hash,
    pub(crate) manifest: Manifest,
    pub(crate) standing: Standing,
    /// This boot's, for whoever asks who runs here.
    pub(crate) evidence: Vec<u8>,
    pub(crate) chain: Chain,
    pub(crate) state: State,
    pub(crate) life: Life,
    /// The newest checkpoint, if this boot has signed one.
    checkpoint: Option<(String, u64)>,
    coverages: VecDeque<Coverage>,
}

/// An export that has begun: what its index may claim.
#[derive(Debug)]
struct Coverage {
    tenant: TenantId,
    checkpoint: Hash,
    last_sequence: u64,
}

impl Ready {
    pub(crate) fn new(
        keys: Keys,
        instance: Hash,
        manifest: Manifest,
        standing: Standing,
        chain: Chain,
        state: State,
        life: Life,
    ) -> Self {
        let (evidence, checkpoint, coverages) = (Vec::new(), None, VecDeque::new());
        Self {
            keys,
            instance,
            manifest,
            standing,
            evidence,
            chain,
            state,
            life,
            checkpoint,
            coverages,
        }
    }

    /// What the policy says to a request now, and which credential it would take.
    pub(crate) fn granted(
        &self,
        asked: &Asked,
        now: Time,
    ) -> Result<(Granted, Option<CredentialVersion>), Reason> {
        let Asked { policy, request, level, .. } = asked;
        let (name, slot) = self.credential_slot(policy, request).unzip();
        let view = slot.and_then(|slot| {
            let (_, header) = &**slot.body.as_ref()?;
            Some(CredentialView {
                owner: header.owner,
                version: slot.version,
                revoked: slot.revoked,
                endpoints: &header.endpoints,
                tls: &header.tls,
                injection: &header.injection,
            })
        });
        let situation = Situation { assurance: self.assurance(*level), credential: view };
        match toani_policy::decide(policy, request, &self.state, &situation, now) {
            Decision::Allow(granted) => {
                let taken = name.zip(slot.map(|slot| slot.version));
                let taken = taken.filter(|_| granted.credential.is_some());
                Ok((granted, taken))
            }
            // What was revoked is not kept, but it was there.
            Decision::Deny(Reason::CredentialMissing) if slot.is_some_and(|slot| slot.revoked) => {
                Err(Reason::CredentialRevoked)
            }
            Decision::Deny(reason) => Err(reason),
        }
    }

    /// The vault's slot for the credential of the request's service.
    fn credential_slot(
        &self,
        policy: &VerifiedPolicy,
        request: &ActionRequest,
    ) -> Option<(CredentialName, &CredentialSlot)> {
        let policy = policy.policy();
        let auth = policy.services.get(&request.service)?.auth.as_ref()?;
        let rule = policy.credentials.get(&auth.credential)?;
        let name = (policy.namespace.clone(), rule.owner, auth.credential.clone());
        let slot = self.state.tenants.get(&policy.tenant)?.credentials.get(&name)?;
        Some((name, slot))
    }

    /// What is true now, apart from approvals. All but these stay at their lowest: witnesses come
    /// with later versions.
    pub(crate) fn assurance(&self, agent: AgentLevel) -> Assurance {
        let sandbox = self.sandbox().map_or(SandboxLevel::Native, AttestedPeer::level);
        Assurance { tee: self.standing.tee, sandbox, agent, ..Assurance::LOWEST }
    }

    /// The supervisor that has proved last what it is, and is connected.
    pub(crate) fn sandbox(&self) -> Option<&AttestedPeer> {
        self.life.sandbox.as_ref().and_then(Link::peer)
    }

    /// Records up to `size` are durable.
    pub(crate) fn durable(&mut self, size: u64) -> Result<Answer, Reason> {
        let note = self.chain.durable(&self.keys, &self.standing.origin, size)?;
        self.checkpoint = Some((note.clone(), size));
        Ok(Answer::Checkpoint { size, note })
    }

    /// Begins an export.
    pub(crate) fn cover(&mut self, tenant: &TenantId) -> Result<Answer, Reason> {
        let (note, size) = self.checkpoint.clone().ok_or(Reason::NotReady)?;
        let last_sequence = self.chain.covered(tenant).ok_or(Reason::TenantUnknown)?;
        if self.coverages.len() >= COVERAGES_MAX {
            self.coverages.pop_front();
        }
        let checkpoint = Hash::of(note.as_bytes());
        self.coverages.push_back(Coverage { tenant: tenant.clone(), checkpoint, last_sequence });
        Ok(Answer::Coverage { note, size, last_sequence })
    }

    /// Signs the index of an export that has begun: the tenant's records end where it says.
    pub(crate) fn sign_index(&mut self, index: &[u8]) -> Result<Answer, Reason> {
        let index = BundleIndex::decode(index).map_err(|_| Reason::DocumentMalformed)?;
        let claimed = self.coverages.iter().position(|coverage| {
            coverage.tenant == index.tenant
                && coverage.checkpoint == index.checkpoint
                && coverage.last_sequence == index.tenant_last_sequence
        });
        let here = index.instance == self.instance && index.boot == self.keys.boot;
        let position = claimed.filter(|_| here).ok_or(Reason::DocumentVersion)?;
        self.coverages.remove(position);
        let signed = Signed::by(&self.keys.chain, Label::BundleIndex, index);
        let bytes = signed.and_then(|signed| canonical::encode(&signed));
        Ok(Answer::Index { index: bytes.map_err(|_| Reason::Internal)? })
    }

    pub(crate) fn facts(&self) -> Facts {
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        Facts {
            instance: self.instance,
            boot: self.boot().clone(),
            mrenclave: self.standing.mrenclave,
            evidence: self.evidence.clone(),
            tee: self.standing.tee,
            chain_key: self.keys.chain_public,
            intake_key: self.keys.intake_public,
            channel: self.keys.channel.spki_hash(),
            admission: self.standing.admission,
            admission_version: self.state.admission.as_ref().map_or(0, |list| list.version()),
            sandbox: self.sandbox().map(AttestedPeer::level),
            hand_overs: self.state.hand_overs,
            size: self.chain.size(),
            durable: self.chain.durable_size(),
            open_executions: count(self.state.open.len()),
            pending_actions: count(self.life.actions.len()),
        }
    }

    pub(crate) fn boot(&self) -> &BootId {
        &self.keys.boot
    }
}

/// One call that takes effect: on what, when, and what the host is to do about it.
pub(crate) struct Turn<'a> {
    pub(crate) ready: &'a mut Ready,
    pub(crate) now: Time,
    pub(crate) rng: &'a mut dyn CryptoRng,
    pub(crate) out: &'a mut Vec<Effect>,
}

impl Turn<'_> {
    /// Signs the next record and folds it: the only way in which state that lasts changes.
    pub(crate) fn write(
        &mut self,
        kind: RecordKind,
        mut about: About,
        sealed: Option<SealedField>,
    ) -> Result<u64, Reason> {
        let ready = &mut *self.ready;
        if let Some(field) = &sealed {
            let bytes = wire::encode(field).map_err(|_| Reason::Internal)?;
            let index = ready.chain.size().to_be_bytes();
            about.sealed = Some(Bytes(ready.keys.seal(&record_field(&index), &bytes)?));
        }
        let (record, effect) =
            ready.chain.append(&ready.keys, &ready.standing, self.now, kind, about)?;
        ready.state.fold(&record, sealed).map_err(|_| Reason::Internal)?;
        self.out.push(effect);
        Ok(record.index)
    }

    /// Lets the host keep a document, for good or for so long, and names it.
    pub(crate) fn keep(&mut self, bytes: Vec<u8>, for_ms: Option<u64>) -> Hash {
        let hash = Hash::of(&bytes);
        let delete_after = for_ms.map(|ms| self.now.plus_ms(ms));
        self.out.push(Effect::PutBlob { bytes, delete_after });
        hash
    }

    /// Lets the host keep something of an action, sealed, for those who may be told later.
    pub(crate) fn keep_sealed(
        &mut self,
        what: &[u8],
        action: &ActionId,
        document: &impl Serialize,
    ) -> Result<Hash, Reason> {
        let bytes = canonical::encode(document).map_err(|_| Reason::Internal)?;
        let sealed = self.ready.keys.seal(&[what, action.as_str().as_bytes()], &bytes)?;
        Ok(self.keep(sealed, Some(EVIDENCE_RETENTION_MS)))
    }
}

/// What a record's sealed field is bound to: its place in the log.
pub(crate) fn record_field(index: &[u8; 8]) -> [&[u8]; 2] {
    [b"toani/v1/record-field", index]
}
