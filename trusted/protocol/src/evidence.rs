//! What the evidence of an attested side vouches for: the 64 bytes of report data in its quote.
//!
//! Every formula is SHA-512 over a label and its fields, each after its length in four bytes, big
//! endian, so that no two lists of fields are ever the same bytes.

use alloc::vec::Vec;

use sha2::{Digest, Sha512};

use crate::{ids::Hash, sign::PublicKey, text::names};

/// Vouches for the keys of one boot.
const REPORT_DATA: &str = "toani/v1/report-data";
const BOOT_KEYS: &str = "toani/v1/boot-keys";
/// Vouches for the key that an instance's root is asked to be sealed to.
const ROOT_REQUEST_REPORT_DATA: &str = "toani/v1/root-request-report-data";
/// Vouches for one end of one channel.
const CHANNEL_REPORT_DATA: &str = "toani/v1/channel-report-data";

/// Report data of an SGX quote or an SEV-SNP report: all 64 bytes of it.
pub type ReportData = [u8; 64];

names! {
    /// Which side of the channel. Evidence names its side, so that it is of no use to the other.
    Role {
        Enclave = "enclave",
        Sandbox = "sandbox",
    }
}

impl Role {
    /// The other side.
    pub const fn peer(self) -> Self {
        match self {
            Self::Enclave => Self::Sandbox,
            Self::Sandbox => Self::Enclave,
        }
    }
}

/// Report data of a boot: `keys` is the hash of the keys that the evidence vouches for.
pub fn report_data(role: Role, manifest: &Hash, boot: &str, keys: &Hash) -> ReportData {
    let fields = [role.as_str().as_bytes(), manifest.as_bytes(), boot.as_bytes(), keys.as_bytes()];
    digest(REPORT_DATA, &fields)
}

/// Report data of a supervisor's life: `key` is the SHA-256 of the SubjectPublicKeyInfo of its
/// channel key, which is made anew with each life and so names it; there is no boot beside it.
pub fn sandbox_report_data(manifest: &Hash, key: &Hash) -> ReportData {
    report_data(Role::Sandbox, manifest, "", key)
}

/// Report data of an enclave that asks for the root of an instance: `key` is the X25519 key that it
/// is to be sealed to.
pub fn root_request_report_data(manifest: &Hash, key: &[u8; 32]) -> ReportData {
    digest(ROOT_REQUEST_REPORT_DATA, &[manifest.as_bytes(), key])
}

/// The public keys of an enclave's boot, which its evidence vouches for together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootKeys {
    /// Signs records, receipts, statements and checkpoints.
    pub chain: PublicKey,
    /// X25519: credentials are sealed to it.
    pub intake: [u8; 32],
    /// SHA-256 of the SubjectPublicKeyInfo of the key that opens channels to supervisors.
    pub channel: Hash,
}

impl BootKeys {
    /// The `keys` of [`report_data`].
    pub fn hash(&self) -> Hash {
        Hash::of_parts(BOOT_KEYS, &[self.chain.as_bytes(), &self.intake, self.channel.as_bytes()])
    }
}

/// One TLS connection and one exchange of nonces on it, as the enclave and the sandbox both see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelTranscript {
    /// The instance that both belong to.
    pub manifest: Hash,
    /// SHA-256 of the enclave's SubjectPublicKeyInfo, DER.
    pub enclave_key: Hash,
    /// SHA-256 of the sandbox's SubjectPublicKeyInfo, DER.
    pub sandbox_key: Hash,
    /// The enclave is TLS's client.
    pub enclave_nonce: [u8; 32],
    /// The sandbox is TLS's server.
    pub sandbox_nonce: [u8; 32],
    /// RFC 8446, 7.5; the same on both sides of one connection and on no other.
    pub exporter: [u8; 32],
}

/// Report data of `role`'s end of the channel: role, own key, peer's key, the client's nonce, the
/// server's, exporter, manifest. Role and own key stand first because all that follows is the same
/// for both: without them a side's evidence could be sent back to it.
pub fn channel_report_data(role: Role, channel: &ChannelTranscript) -> ReportData {
    let (own, peer) = match role {
        Role::Enclave => (&channel.enclave_key, &channel.sandbox_key),
        Role::Sandbox => (&channel.sandbox_key, &channel.enclave_key),
    };
    let fields = [
        role.as_str().as_bytes(),
        own.as_bytes(),
        peer.as_bytes(),
        &channel.enclave_nonce,
        &channel.sandbox_nonce,
        &channel.exporter,
        channel.manifest.as_bytes(),
    ];
    digest(CHANNEL_REPORT_DATA, &fields)
}

fn digest(label: &str, fields: &[&[u8]]) -> ReportData {
    let mut input = Vec::new();
    for field in core::iter::once(&label.as_bytes()).chain(fields) {
        // No field of these formulas comes near 4 GiB; one that did would share a prefix.
        let length = u32::try_from(field.len()).unwrap_or(u32::MAX);
        input.extend_from_slice(&length.to_be_bytes());
        input.extend_from_slice(field);
    }
    Sha512::digest(&input).into()
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    // Computed with another language's SHA-512.
    const BOOT_VECTOR: &str = "83faf6f1e1459a3c55f28c7855ea7e807a1d2d1986d99a0bb1e5ce5ddd0b9bb4\
        49af19a0f0aa4d2f912fc21d97d4c338e05908919033cb436078ece6080557d0";
    const SANDBOX_BOOT_VECTOR: &str = "7742f7e0a99787fb1507716baae95dff71d2857aa1d755e8d215f6f62b9e0b4e\
        ebe17f8054f168489afb6ac4ea1ad63f6fd2fd87ff481dc92028fa59fe51357a";
    const ENCLAVE_CHANNEL_VECTOR: &str = "60c4f5858937682cd069384432f0f8b11ea1dd0a5cf2e250005562c47f93b3c9\
        993e58b77f264a121b137d0d4e3d3ca28003bd88dd67848ed1cb396db2fb71cb";
    const SANDBOX_CHANNEL_VECTOR: &str = "e9927f3e297b3d0728bc7a64cb5b8efab57c7ea81ecc6b279a75eb1710d569c2\
        28fcf8579b9911acfe6b1e157d8f7018757a5a96e51275f216f691d61dc3fa40";

    const ROOT_REQUEST_VECTOR: &str = "07bbbf95ca058c6a52fc56eebf5b430cb32ade3738299f179cf78fc97f1ff036\
        5bbaa3869041d2cbe5e7385fca25bdeaedacab9707db76125a68a3b9f3157254";

    fn hash(byte: u8) -> Hash {
        Hash::new([byte; 32])
    }

    #[test]
    fn vectors_of_a_boot() {
        let data = report_data(Role::Enclave, &hash(1), "boot_a", &hash(2));
        assert_eq!(HEXLOWER.encode(&data), BOOT_VECTOR);
        let sandbox = report_data(Role::Sandbox, &hash(1), "boot_a", &hash(2));
        assert_eq!(HEXLOWER.encode(&sandbox), SANDBOX_BOOT_VECTOR);
    }

    #[test]
    fn vector_of_a_request_for_a_root() {
        let data = root_request_report_data(&hash(1), &[2; 32]);
        assert_eq!(HEXLOWER.encode(&data), ROOT_REQUEST_VECTOR);
    }

    #[test]
    fn vectors_of_a_channel() {
        let channel = ChannelTranscript {
            manifest: hash(1),
            enclave_key: hash(2),
            sandbox_key: hash(3),
            enclave_nonce: [4; 32],
            sandbox_nonce: [5; 32],
            exporter: [6; 32],
        };
        let of_enclave = channel_report_data(Role::Enclave, &channel);
        assert_eq!(HEXLOWER.encode(&of_enclave), ENCLAVE_CHANNEL_VECTOR);
        let of_sandbox = channel_report_data(Role::Sandbox, &channel);
        assert_eq!(HEXLOWER.encode(&of_sandbox), SANDBOX_CHANNEL_VECTOR);
    }

    #[test]
    fn fields_cannot_run_into_each_other() {
        let one = digest("label", &[b"ab", b"c"]);
        assert_ne!(one, digest("label", &[b"a", b"bc"]));
        assert_ne!(one, digest("labela", &[b"b", b"c"]));
    }
}
