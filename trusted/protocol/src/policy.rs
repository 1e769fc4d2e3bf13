//! The policy document: what it says, not what it decides. Deciding is `toani-policy`.
//!
//! In its canonical, signed form every field is present and an absent option is `null`. The file
//! that a person writes may leave out what has a default; `toani policy sign` fills it in.

use alloc::{collections::BTreeMap, string::String, vec::Vec};
use core::fmt;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use crate::{
    assurance::Assurance,
    canonical::Json,
    ids::{
        ActionName, AgentId, CredentialId, FormError, Hash, Namespace, PersonId, PolicyId, QuotaId,
        ServiceId, TenantId, Time,
    },
    sign::PublicKey,
    text::{bytes_as_text, debug_as_text, names},
};

/// One version of a policy, signed by the tenant's policy key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    pub format: PolicyFormat,
    pub tenant: TenantId,
    pub id: PolicyId,
    pub version: u64,
    pub not_before: Time,
    pub expires: Time,
    /// The part of the tenant's vault that this policy may use.
    pub namespace: Namespace,
    #[serde(default)]
    pub persons: BTreeMap<PersonId, Person>,
    pub agents: BTreeMap<AgentId, Agent>,
    #[serde(default)]
    pub credentials: BTreeMap<CredentialId, CredentialRule>,
    pub services: BTreeMap<ServiceId, Service>,
    #[serde(default)]
    pub quotas: BTreeMap<QuotaId, Quota>,
}

names! {
    PolicyFormat { V1 = "toani-policy/1", }
}

/// A person who may approve, or who stands behind an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Person {
    #[serde(default)]
    pub keys: Vec<ApproverKey>,
}

/// What a person signs with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ApproverKey {
    /// Good for tier 1.
    Ed25519(PublicKey),
    /// WebAuthn, ES256. Good for tier 1, and for tier 2 with user verification.
    Passkey(Passkey),
}

/// A WebAuthn credential and where it may be used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Passkey {
    pub key: Es256Key,
    pub rp_id: String,
    pub origins: Vec<String>,
    /// A software authenticator: its approvals count as `software`, not as `passkey`.
    #[serde(default)]
    pub software: bool,
}

/// A P-256 point, uncompressed SEC 1: `es256:` and 87 characters of base64url.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Es256Key(pub [u8; 65]);

bytes_as_text! {
    Es256Key as Vec<u8>: "es256:" BASE64URL_NOPAD,
    "a passkey is es256: and an uncompressed point in base64url"
}
debug_as_text!(Es256Key);

/// An agent and how it proves itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    pub key: AgentKey,
    /// The persons behind the agent: they never approve what it asks for.
    #[serde(default)]
    pub behind: Vec<PersonId>,
}

/// How an agent proves itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AgentKey {
    /// It signs each request.
    Ed25519(PublicKey),
    /// It sends an API key; this is the key's [`api_key_hash`].
    ApiKey(Hash),
}

/// The hash of an API key, as a policy lists it.
pub fn api_key_hash(key: &[u8]) -> Hash {
    Hash::of_labelled("toani/v1/api-key", key)
}

/// Which credential a policy means by a name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialRule {
    pub owner: PublicKey,
    #[serde(default = "one")]
    pub least_version: u64,
}

fn one<T: From<u8>>() -> T {
    T::from(1)
}

/// One upstream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    pub connector: Connector,
    pub endpoint: Endpoint,
    #[serde(default)]
    pub tls: TlsTrust,
    #[serde(default)]
    pub auth: Option<Auth>,
    pub actions: BTreeMap<ActionName, Action>,
}

/// The program that acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Connector {
    /// REST over HTTPS.
    DirectApi,
}

/// https, host and port; exact, no wildcards, no redirects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    pub host: String,
    #[serde(default = "https_port")]
    pub port: u16,
    /// The host may resolve to a private, loopback or link-local address.
    #[serde(default)]
    pub private: bool,
}

fn https_port() -> u16 {
    443
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// What an upstream's certificate is verified against.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TlsTrust {
    /// The public web's roots, compiled into the connector.
    #[default]
    Public,
    /// SHA-256 of the leaf's SubjectPublicKeyInfo, one of these. The name is verified as well.
    SpkiSha256(Vec<Hash>),
}

impl TlsTrust {
    /// Whether whoever satisfies this satisfies `owner` too. A pin stands for itself, without
    /// roots: it is within no list but one that holds it.
    pub fn is_within(&self, owner: &Self) -> bool {
        match (self, owner) {
            (Self::Public, Self::Public) => true,
            (Self::SpkiSha256(pins), Self::SpkiSha256(allowed)) => {
                pins.iter().all(|pin| allowed.contains(pin))
            }
            _ => false,
        }
    }
}

/// The credential of a service and where it goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    pub credential: CredentialId,
    pub injection: Injection,
}

/// Where the credential goes in the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Injection {
    /// `Authorization: Bearer VALUE`.
    Bearer,
    /// `Authorization: Basic base64(VALUE)`; the value is `user:password`.
    Basic,
    /// A header of this name, with the value alone.
    Header(String),
    /// A query parameter of this name.
    Query(String),
}

/// One thing an agent may do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Action {
    /// What a person reads about it.
    #[serde(default)]
    pub summary: String,
    /// JSON Schema, in the vocabulary of docs/PROTOCOL.md.
    pub params: Json,
    pub request: Template,
    /// What of the answer goes out, by name.
    #[serde(default)]
    pub result: BTreeMap<String, Output>,
    /// The least tier; 0 runs without a human.
    pub tier: Tier,
    /// What raises the tier.
    #[serde(default)]
    pub raise: Vec<Raise>,
    #[serde(default)]
    pub approval: Option<ApprovalRule>,
    /// The least assurance that is accepted.
    #[serde(default)]
    pub least: Assurance,
    /// When it is allowed; `null` is always.
    #[serde(default)]
    pub windows: Option<Vec<Window>>,
    #[serde(default)]
    pub class: Class,
}

/// The risk of an action: what kind of approval it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Tier {
    /// No human.
    Zero,
    /// A signature by an Ed25519 key or a passkey.
    One,
    /// A passkey with user verification.
    Two,
}

impl From<Tier> for u8 {
    fn from(tier: Tier) -> Self {
        match tier {
            Tier::Zero => 0,
            Tier::One => 1,
            Tier::Two => 2,
        }
    }
}

impl TryFrom<u8> for Tier {
    type Error = FormError;

    fn try_from(number: u8) -> Result<Self, FormError> {
        match number {
            0 => Ok(Self::Zero),
            1 => Ok(Self::One),
            2 => Ok(Self::Two),
            _ => Err(FormError("a tier is 0, 1 or 2")),
        }
    }
}

/// Method, path, query, headers and body, with params in marked places.
///
/// A path is literal segments and `{param}` segments. In query, headers and body a value is a
/// literal or `{"$param": "name"}`; an absent optional param leaves its entry out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    pub method: Method,
    pub path: String,
    #[serde(default)]
    pub query: BTreeMap<String, Json>,
    #[serde(default)]
    pub headers: BTreeMap<String, Json>,
    #[serde(default)]
    pub body: Option<Json>,
    /// Statuses that count as success; `null` is 200 to 299.
    #[serde(default)]
    pub success: Option<Vec<u16>>,
}

names! {
    /// The method of a request.
    Method {
        Get = "GET",
        Post = "POST",
        Put = "PUT",
        Patch = "PATCH",
        Delete = "DELETE",
    }
}

/// One value of the answer: where it is and what it must be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// RFC 6901.
    pub pointer: String,
    pub r#type: OutputType,
    /// Without it the execution counts as failed.
    #[serde(default)]
    pub required: bool,
    /// Longest text in bytes, or most items of a list.
    #[serde(default = "output_max")]
    pub max: u32,
}

fn output_max() -> u32 {
    1024
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputType {
    String,
    Integer,
    Number,
    Boolean,
    /// A list of texts, numbers and booleans.
    List,
}

/// A condition on params that raises the tier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raise {
    pub when: Condition,
    pub tier: Tier,
}

/// A param compared with a constant. A param that is absent or of another type satisfies every
/// condition: what cannot be compared raises.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    pub param: String,
    pub is: Comparison,
    pub value: Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Comparison {
    Equal,
    NotEqual,
    Above,
    AtLeast,
    Below,
    AtMost,
}

/// Who approves, and how many of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalRule {
    pub approvers: Vec<PersonId>,
    #[serde(default = "one")]
    pub threshold: u8,
    /// Waiting longer is a denial.
    #[serde(default = "wait_quarter")]
    pub wait_s: u32,
}

fn wait_quarter() -> u32 {
    900
}

/// A half-open interval of time: `from` is in it, `until` is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    pub from: Time,
    pub until: Time,
}

names! {
    /// Which of a sandbox's root file systems; the admission list says which bytes each is.
    RootName {
        /// The connector alone.
        Connector = "connector",
        /// A browser besides.
        Browser = "browser",
    }
}

/// Resources of one execution's container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Class {
    pub root_file_system: RootName,
    pub memory_mib: u32,
    pub processes: u32,
    pub tmp_mib: u32,
    pub timeout_ms: u32,
    pub response_bytes_max: u32,
}

impl Default for Class {
    fn default() -> Self {
        Self {
            root_file_system: RootName::Connector,
            memory_mib: 512,
            processes: 32,
            tmp_mib: 16,
            timeout_ms: 30_000,
            response_bytes_max: 1024 * 1024,
        }
    }
}

/// A budget over time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    pub measure: Measure,
    pub per: QuotaScope,
    pub window: QuotaWindow,
    pub limit: u64,
    /// Which actions count, as `service.action`; `null` is all.
    #[serde(default)]
    pub actions: Option<Vec<String>>,
}

/// What is counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Measure {
    /// Executions.
    Count,
    /// An integer param, which must be required and not negative.
    Sum(String),
}

/// Whose use adds up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuotaScope {
    Agent,
    Action,
    Policy,
}

/// Over which time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum QuotaWindow {
    /// Windows of this many seconds, counted from 1970-01-01T00:00:00Z.
    FixedS(u32),
    /// The last so many seconds. Kept in 16 slots, so that up to a sixteenth more may count.
    RollingS(u32),
}

/// A new policy key, signed by the one before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyKeyChange {
    pub tenant: TenantId,
    /// 1 for the first change.
    pub sequence: u64,
    pub key: PublicKey,
}
