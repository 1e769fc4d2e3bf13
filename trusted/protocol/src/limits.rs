//! Every maximum of the protocol, by name. Units are in the names.

/// A document in canonical JSON: policy, manifest, admission list.
pub const DOCUMENT_BYTES_MAX: usize = 256 * 1024;
/// One action request, canonical.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Nesting of any JSON value.
pub const JSON_DEPTH_MAX: usize = 24;
/// One audit record: a tlog entry carries its length in 16 bits.
pub const RECORD_BYTES_MAX: usize = 65_535;
/// A credential's plaintext.
pub const CREDENTIAL_BYTES_MAX: usize = 8 * 1024;
/// A sealed credential as its owner sends it.
pub const SEALED_CREDENTIAL_BYTES_MAX: usize = 32 * 1024;
/// An Action Token as text.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// One approver's evidence, canonical.
pub const EVIDENCE_BYTES_MAX: usize = 16 * 1024;
/// Evidence of an attested side, in a certificate and on a channel. TLS's messages of a handshake
/// are held to 64 KiB, and the certificate is one of them.
pub const ATTESTATION_EVIDENCE_BYTES_MAX: usize = 48 * 1024;
/// Boots whose evidence one bundle holds.
pub const BUNDLE_BOOTS_MAX: usize = 1_024;
/// What opens one action's commitments, canonical: params twice, plan, every approver's evidence.
pub const DISCLOSURE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What a connector may answer with, whatever the policy says.
pub const RESPONSE_BYTES_MAX: u32 = 4 * 1024 * 1024;
/// What the enclave lets out to the agent, after cutting.
pub const RESULT_BYTES_MAX: usize = 256 * 1024;
/// One message across the enclave's boundary, either way.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// One frame between supervisor and connector, either way.
pub const FRAME_BYTES_MAX: usize = 6 * 1024 * 1024;
/// A proof bundle.
pub const BUNDLE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Longest life of a request between `issued_at` and `expires_at`.
pub const REQUEST_LIFE_MS_MAX: u64 = 60 * 60 * 1000;
/// How far `issued_at` may lie ahead of the enclave's time.
pub const CLOCK_SKEW_MS_MAX: u64 = 30 * 1000;
/// Life of an Action Token.
pub const TOKEN_LIFE_MS_MAX: u64 = 15 * 60 * 1000;
/// Longest wait for approvals that a policy may set.
pub const APPROVAL_WAIT_S_MAX: u32 = 24 * 60 * 60;
/// How long an idempotency key is remembered.
pub const IDEMPOTENCY_LIFE_MS: u64 = 24 * 60 * 60 * 1000;
/// Sealed results are deleted after this.
pub const RESULT_RETENTION_MS: u64 = IDEMPOTENCY_LIFE_MS;
/// Sealed params, statements and approvals' evidence are deleted after this.
pub const EVIDENCE_RETENTION_MS: u64 = 90 * 24 * 60 * 60 * 1000;
/// Longest time that one execution may take upstream.
pub const EXECUTION_MS_MAX: u32 = 120 * 1000;
/// After this the host gives up on an outcome, and the enclave writes `unknown`.
pub const OUTCOME_WAIT_MS_MAX: u64 = 180 * 1000;

pub const AGENTS_MAX: usize = 10_000;
pub const PERSONS_MAX: usize = 1_000;
pub const KEYS_PER_PERSON_MAX: usize = 16;
pub const SERVICES_MAX: usize = 100;
pub const ACTIONS_PER_SERVICE_MAX: usize = 200;
pub const CREDENTIALS_PER_POLICY_MAX: usize = 1_000;
pub const QUOTAS_PER_POLICY_MAX: usize = 100;
pub const WINDOWS_PER_ACTION_MAX: usize = 1_000;
pub const PARAMS_MAX: usize = 64;
pub const RESULT_FIELDS_MAX: usize = 64;
pub const HEADERS_MAX: usize = 32;
pub const QUERY_MAX: usize = 64;
pub const PATH_SEGMENTS_MAX: usize = 32;
pub const OPERATORS_MAX: usize = 32;
/// Roots of attestation of one kind.
pub const ROOTS_MAX: usize = 8;
pub const TCB_STATUSES_MAX: usize = 8;
pub const SIGNATURES_MAX: usize = 32;
pub const ADMITTED_ENCLAVES_MAX: usize = 64;
pub const ADMITTED_SANDBOXES_MAX: usize = 64;
pub const ADMITTED_CHIPS_MAX: usize = 1_024;
/// Connections of one execution.
pub const CONNECTIONS_MAX: usize = 16;
/// Jobs that a channel carries before both sides have to prove anew who they are.
pub const JOBS_PER_ATTESTATION_MAX: u32 = 1_000;
/// Outcomes that have arrived in the enclave and that the host has not asked for.
pub const ARRIVED_BYTES_MAX: usize = 64 * 1024 * 1024;

pub const TENANTS_MAX: usize = 10_000;
pub const POLICIES_MAX: usize = 10_000;
pub const CREDENTIALS_MAX: usize = 100_000;
pub const PENDING_ACTIONS_MAX: usize = 20_000;
pub const PENDING_ACTIONS_PER_AGENT_MAX: usize = 1_000;
/// Redeemed tokens of this boot that are still told apart from expired ones.
pub const SPENT_ACTIONS_MAX: usize = 100_000;
pub const OPEN_EXECUTIONS_MAX: usize = 4_096;
pub const IDEMPOTENCY_KEYS_MAX: usize = 500_000;
pub const QUOTA_WINDOWS_MAX: usize = 200_000;
/// Exports that have begun and are not signed.
pub const COVERAGES_MAX: usize = 16;
pub const REVOKED_MAX: usize = 100_000;
/// Records that are signed and not yet durable.
pub const UNDURABLE_RECORDS_MAX: usize = 16_384;
/// Of these, kept free for the ends of executions: `finished`, `ended`.
pub const UNDURABLE_RECORDS_RESERVE: usize = 8_192;
/// Refusals that one agent may cause within `REFUSAL_WINDOW_MS` before they are aggregated.
pub const REFUSALS_PER_AGENT_MAX: u32 = 20;
pub const REFUSAL_WINDOW_MS: u64 = 60 * 1000;
