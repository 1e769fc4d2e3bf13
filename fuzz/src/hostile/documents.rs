//! What honest holders of keys have signed, and what the host makes of it.

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::SigningKey;
use serde_json::json;
use toani_protocol::{
    ActionId, Hash, PersonId, TenantId,
    approval::Verdict,
    canonical,
    credential::SealedCredential,
    instance::AdmissionList,
    policy::{Policy, PolicyKeyChange},
    request::{AgentProof, ReadRequest},
    sign::{Label, PublicKey, Signed},
    wire::{Command, LinkState, Read},
};

use super::{Kind, Watched, host::Host, steps::Step};
use crate::world::*;

/// A person's answer.
pub(super) struct Given {
    pub(super) action: ActionId,
    pub(super) person: PersonId,
    pub(super) verdict: Verdict,
    /// By a passkey, which has verified its user.
    pub(super) verified: bool,
}

/// Everything that is rightly signed. What is not here is nobody's word.
#[derive(Default)]
pub(super) struct Documents {
    pub(super) policies: BTreeMap<Hash, (Policy, PublicKey)>,
    pub(super) changes: BTreeMap<Vec<u8>, (PolicyKeyChange, PublicKey)>,
    /// Versions, and what the sandbox in them runs, if there is one.
    pub(super) lists: BTreeMap<Hash, (u64, Option<Hash>)>,
    pub(super) credentials: BTreeSet<Vec<u8>>,
    /// What an owner has sealed as a version.
    pub(super) values: BTreeMap<(PublicKey, u64), Vec<Vec<u8>>>,
    requests: BTreeSet<Vec<u8>>,
    reads: BTreeSet<Vec<u8>>,
    pub(super) answers: BTreeMap<Vec<u8>, Given>,
    pub(super) tokens: BTreeMap<String, ActionId>,
}

/// Text of a proof together with what it proves.
fn proven(bytes: &[u8], proof: &AgentProof) -> Vec<u8> {
    [bytes, &canonical::encode(proof).unwrap()].concat()
}

impl Documents {
    pub(super) fn signed_request(&mut self, bytes: &[u8], proof: &AgentProof) {
        self.requests.insert(proven(bytes, proof));
    }

    pub(super) fn signed_read(&mut self, bytes: &[u8], proof: &AgentProof) {
        self.reads.insert(proven(bytes, proof));
    }

    /// Whether these bytes are their agent's request. Who has an API key may ask for anything.
    pub(super) fn is_request(&self, bytes: &[u8], proof: &AgentProof) -> bool {
        let request = toani_protocol::request::ActionRequest::decode(bytes);
        match (request, proof) {
            (Ok(request), AgentProof::ApiKey(key)) => is_api_key(request.agent.as_str(), key),
            (Ok(_), AgentProof::Signature(_)) => self.requests.contains(&proven(bytes, proof)),
            (Err(_), _) => false,
        }
    }

    /// What the sandbox that a list names runs.
    pub(super) fn root_file_system(&self, list: &Hash) -> Option<Hash> {
        self.lists.get(list).and_then(|(_, root_file_system)| *root_file_system)
    }

    pub(super) fn is_read(&self, read: &Read) -> bool {
        match read {
            Read::Signed { request, proof: AgentProof::ApiKey(key) } => {
                let request = ReadRequest::decode(request);
                request.is_ok_and(|request| is_api_key(request.agent.as_str(), key))
            }
            Read::Signed { request, proof } => self.reads.contains(&proven(request, proof)),
            Read::Asked { request, proof } => self.is_request(request, proof),
            Read::ApiKey { agent, key, .. } => is_api_key(agent.as_str(), key),
        }
    }
}

fn is_api_key(agent: &str, key: &str) -> bool {
    (agent, key) == ("simple", "tk_simple")
}

/// Versions that were given out.
#[derive(Default)]
pub(super) struct Versions {
    policy: u64,
    list: u64,
    credential: u64,
}

/// Keys that have signed or may come to sign the tenant's policies.
const POLICY_KEYS: [u8; 4] = [2, 70, 71, 72];
/// Who is nobody here.
const STRANGER: u8 = 60;

fn second_operator() -> SigningKey {
    signing_key(6)
}

pub(super) fn hostile_manifest() -> Vec<u8> {
    let operators = [operator(), second_operator()].iter().map(PublicKey::of).collect();
    canonical::encode(&toani_protocol::instance::Manifest { operators, quorum: 2, ..manifest() })
        .unwrap()
}

/// A policy with quotas that are soon used up.
fn policy(tenant: &TenantId, version: u64, shares: u32) -> Policy {
    let mut document = policy_document(version);
    document["tenant"] = json!(tenant);
    document["quotas"] = json!({
        "shares": {"measure": {"sum": "quantity"}, "per": "policy", "window": {"fixed_s": 7200},
                   "limit": 7 + shares, "actions": ["broker.buy_stock"]},
        "reads": {"measure": "count", "per": "agent", "window": {"rolling_s": 600}, "limit": 3,
                  "actions": ["broker.read_balance"]},
        "moves": {"measure": "count", "per": "action", "window": {"fixed_s": 1200}, "limit": 2,
                  "actions": ["broker.move"]},
    });
    // Text of the upstream that goes out.
    let read = &mut document["services"]["broker"]["actions"]["read_balance"];
    read["result"]["note"] = json!({"pointer": "/id", "type": "string"});
    serde_json::from_value(document).unwrap()
}

fn by(key: &SigningKey, label: Label, policy: Policy) -> Vec<u8> {
    canonical::encode(&Signed::by(key, label, policy).unwrap()).unwrap()
}

impl Host {
    /// Who signs the tenant's policies now.
    fn policy_signer(&self) -> SigningKey {
        let now = self.model.fold.keys.get(&tenant()).map(|(key, _)| *key);
        let keys = POLICY_KEYS.map(signing_key);
        let of_now = |key: &&SigningKey| now.is_none_or(|now| now == PublicKey::of(key));
        keys.iter().find(of_now).unwrap().clone()
    }

    fn next_policy(&mut self, shares: u32) -> Policy {
        self.versions.policy += 1;
        policy(&tenant(), self.versions.policy, shares)
    }

    /// A policy by its author.
    fn authored(&mut self, policy: Policy, key: &SigningKey) -> Vec<u8> {
        let bytes = by(key, Label::Policy, policy.clone());
        let signer = PublicKey::of(key);
        self.model.documents.policies.insert(Hash::of(&bytes), (policy, signer));
        self.policies.push(bytes.clone());
        bytes
    }

    pub(super) fn policy(&mut self, step: &Step) -> Watched {
        let mut next = self.next_policy(step.b % 4);
        let key = self.policy_signer();
        let policy = match step.a % 12 {
            0 => by(&signing_key(STRANGER), Label::Policy, next),
            1 => by(&key, Label::Admission, next),
            2 => by(&signing_key(4), Label::Policy, next),
            3 => {
                let mut signed = Signed::by(&key, Label::Policy, next).unwrap();
                signed.payload.quotas.clear();
                canonical::encode(&signed).unwrap()
            }
            4 => {
                let stranger = signing_key(STRANGER);
                let own = TenantId::of_first_key(&PublicKey::of(&stranger));
                let policy = policy(&own, self.versions.policy, 0);
                self.authored(policy, &stranger)
            }
            5 => {
                next.expires = self.now().plus_ms(60_000 * u64::from(step.b % 10));
                self.authored(next, &key)
            }
            6 => {
                let old = POLICY_KEYS.map(signing_key)[step.b as usize % POLICY_KEYS.len()].clone();
                self.authored(next, &old)
            }
            7 => {
                let policy = self.authored(next, &key);
                flipped(policy, step.b)
            }
            _ => self.authored(next, &key),
        };
        self.tell(Command::ActivatePolicy { policy })
    }

    pub(super) fn old_policy(&mut self, step: &Step) -> Watched {
        let Some(policy) = pick(&self.policies, step.a) else { return Ok(()) };
        self.tell(Command::ActivatePolicy { policy })
    }

    pub(super) fn policy_key(&mut self, step: &Step) -> Watched {
        let signer = self.policy_signer();
        let times = self.model.fold.keys.get(&tenant()).map_or(0, |(_, times)| *times);
        let next = POLICY_KEYS[step.b as usize % POLICY_KEYS.len()];
        let key = PublicKey::of(&signing_key(next));
        let change = |sequence| PolicyKeyChange { tenant: tenant(), sequence, key };
        let (signer, change) = match step.a % 3 {
            0 => (signing_key(STRANGER), change(times + 1)),
            1 => (signer, change(times + 2)),
            _ => (signer, change(times + 1)),
        };
        let signed = Signed::by(&signer, Label::PolicyKey, change.clone()).unwrap();
        let bytes = canonical::encode(&signed).unwrap();
        if !step.a.is_multiple_of(3) {
            let known = (change, PublicKey::of(&signer));
            self.model.documents.changes.insert(bytes.clone(), known);
        }
        self.tell(Command::ChangePolicyKey { change: bytes })
    }

    pub(super) fn revoke_policy(&mut self) -> Watched {
        let policy = "brokerage".parse().unwrap();
        self.tell(Command::RevokePolicy { tenant: tenant(), policy })
    }

    pub(super) fn revoke_agent(&mut self, step: &Step) -> Watched {
        // An agent's key is revoked for good, and with it much of what can be tried.
        let agent = match step.a % 32 {
            0 => "trader",
            1..4 => "simple",
            _ => "nobody",
        };
        let agent = agent.parse().unwrap();
        self.tell(Command::RevokeAgent { tenant: tenant(), agent })
    }

    /// What an owner has sealed, unless it is a stranger in the owner's name.
    fn sealed(&mut self, owner: &SigningKey, signer: &SigningKey) -> Vec<u8> {
        self.versions.credential += 1;
        let version = self.versions.credential;
        let value = format!("canary-{version}-5up3r-s3cret-{}", version * 7919);
        let mut header = self.world.credential_header(version);
        header.owner = PublicKey::of(owner);
        let sealed = self.world.seal_credential(header, &value, signer);
        let bytes = canonical::encode(&sealed).unwrap();
        self.model.watch.add(Kind::Plaintext, "a credential", value.as_bytes());
        if PublicKey::of(owner) == PublicKey::of(signer) {
            let slot = (PublicKey::of(owner), version);
            let values = self.model.documents.values.entry(slot).or_default();
            values.push(value.into_bytes());
            self.model.documents.credentials.insert(bytes.clone());
            self.credentials.push(bytes.clone());
        }
        bytes
    }

    pub(super) fn credential(&mut self, step: &Step) -> Watched {
        let stranger = signing_key(STRANGER);
        let credential = match step.a % 6 {
            0 => self.sealed(&owner(), &stranger),
            1 => self.sealed(&stranger, &stranger),
            2 => {
                let sealed = self.sealed(&owner(), &owner());
                flipped(sealed, step.b)
            }
            3 => self.reheaded(),
            _ => self.sealed(&owner(), &owner()),
        };
        self.tell(Command::PutCredential { credential })
    }

    /// The owner's ciphertext under a header that he did not sign.
    fn reheaded(&mut self) -> Vec<u8> {
        let sealed = self.sealed(&owner(), &owner());
        let mut sealed = SealedCredential::decode(&sealed).unwrap();
        sealed.header.endpoints[0].host = "elsewhere.example".into();
        canonical::encode(&sealed).unwrap()
    }

    pub(super) fn old_credential(&mut self, step: &Step) -> Watched {
        let Some(credential) = pick(&self.credentials, step.a) else { return Ok(()) };
        self.tell(Command::PutCredential { credential })
    }

    pub(super) fn revoke_credential(&mut self) -> Watched {
        let (namespace, id) = ("main".parse().unwrap(), "broker".parse().unwrap());
        let owner = PublicKey::of(&owner());
        self.tell(Command::RevokeCredential { tenant: tenant(), namespace, owner, id })
    }

    /// A list with these signatures.
    fn list(&mut self, operators: &[SigningKey], mut list: AdmissionList) -> Vec<u8> {
        self.versions.list += 1;
        list.version = self.versions.list;
        let signatures = operators.iter().map(|key| {
            Signed::by(key, Label::Admission, list.clone()).unwrap().signatures.remove(0)
        });
        let signatures = signatures.collect();
        canonical::encode(&Signed { payload: list, signatures }).unwrap()
    }

    /// The operators' next list.
    fn quorum_list(&mut self, list: AdmissionList) -> Vec<u8> {
        let root_file_system =
            list.sandboxes.first().map(|admitted| admitted.root_file_systems.connector);
        let bytes = self.list(&[operator(), second_operator()], list);
        let known = (self.versions.list, root_file_system);
        self.model.documents.lists.insert(Hash::of(&bytes), known);
        self.lists.push(bytes.clone());
        bytes
    }

    pub(super) fn admit(&mut self, step: &Step) -> Watched {
        let mut list = self.world.admission_list(0);
        let admission = match step.a % 6 {
            0 => self.list(&[operator()], list),
            1 => self.list(&[operator(), operator()], list),
            2 => self.list(&[operator(), signing_key(STRANGER)], list),
            3 => {
                let Some(old) = pick(&self.lists, step.b) else { return Ok(()) };
                old
            }
            _ => {
                match step.b % 16 {
                    0 => list.sandboxes.clear(),
                    1..=4 => list.sandboxes[0].root_file_systems.connector = Hash::of(b"another"),
                    _ => {}
                }
                self.quorum_list(list)
            }
        };
        self.tell(Command::Admit { admission })
    }

    /// Brings a policy, a credential, a list and a channel where there are none.
    pub(super) fn mend(&mut self) -> Watched {
        self.world.now = self.now();
        let fold = &self.model.fold;
        let list = fold.list.and_then(|(hash, _)| self.model.documents.root_file_system(&hash));
        let policy = fold.policies.get(&(tenant(), "brokerage".parse().unwrap()));
        let slot = (tenant(), PublicKey::of(&owner()), "broker".parse().unwrap());
        let credential = fold.credentials.get(&slot).is_some_and(|(_, revoked)| !revoked);
        let lasts =
            |hash| self.model.documents.policies.get(hash).map(|(policy, _)| policy.expires);
        let policy = policy.is_some_and(|(policy, revoked)| {
            !revoked && lasts(&policy.hash).is_some_and(|expires| self.now() < expires)
        });
        if list.is_none() {
            let list = self.world.admission_list(0);
            let admission = self.quorum_list(list);
            self.tell(Command::Admit { admission })?;
        }
        if !policy {
            let (policy, key) = (self.next_policy(0), self.policy_signer());
            let policy = self.authored(policy, &key);
            self.tell(Command::ActivatePolicy { policy })?;
        }
        if !credential {
            let credential = self.sealed(&owner(), &owner());
            self.tell(Command::PutCredential { credential })?;
        }
        self.carry()?;
        if self.world.link == LinkState::Open { Ok(()) } else { self.connect() }
    }

    /// What an honest tenant begins with.
    pub(super) fn set_up(&mut self) -> Watched {
        let list = self.world.admission_list(0);
        let admission = self.quorum_list(list);
        self.honest(Command::Admit { admission })?;
        self.connect()?;
        let policy = self.next_policy(0);
        let policy = self.authored(policy, &policy_key());
        self.honest(Command::ActivatePolicy { policy })?;
        let credential = self.sealed(&owner(), &owner());
        self.honest(Command::PutCredential { credential })?;
        self.carry()
    }
}

/// One of these.
pub(super) fn pick<T: Clone>(all: &[T], which: u32) -> Option<T> {
    let which = (which as usize).checked_rem(all.len())?;
    all.get(which).cloned()
}

/// With one bit changed.
pub(super) fn flipped(mut bytes: Vec<u8>, where_: u32) -> Vec<u8> {
    let bits = bytes.len() * 8;
    if let Some(bit) = (where_ as usize).checked_rem(bits) {
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    bytes
}
