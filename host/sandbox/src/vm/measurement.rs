//! The launch digest of a guest that no SEV-SNP firmware has measured: what it is made of, under a
//! label of its own, so that a digest of one kind is never one of another.

use sha2::{Digest, Sha384};
use toani_protocol::{ids::Hash, instance::LaunchDigest};

const LABEL: &str = "toani/v1/sandbox-vm";

/// The SHA-256 of a guest's three parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    pub kernel: Hash,
    pub initrd: Hash,
    /// Of the command line's bytes, without anything behind them.
    pub command_line: Hash,
}

impl Parts {
    /// SHA-384 over a label, a zero byte, and the three hashes.
    pub fn simulated_digest(&self) -> LaunchDigest {
        let digest = Sha384::new_with_prefix(LABEL)
            .chain_update([0])
            .chain_update(self.kernel.as_bytes())
            .chain_update(self.initrd.as_bytes())
            .chain_update(self.command_line.as_bytes());
        digest.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_its_own_place() {
        let parts = |[kernel, initrd, command_line]: [&[u8]; 3]| Parts {
            kernel: Hash::of(kernel),
            initrd: Hash::of(initrd),
            command_line: Hash::of(command_line),
        };
        let digest = parts([b"k", b"i", b"c"]).simulated_digest();
        for other in [[b"i", b"k", b"c"], [b"k", b"c", b"i"], [b"x", b"i", b"c"]] {
            assert_ne!(parts(other.map(<[u8; 1]>::as_slice)).simulated_digest(), digest);
        }
    }

    /// By another program: `printf 'toani/v1/sandbox-vm\0'` and three SHA-256 of nothing, through
    /// `sha384sum`.
    #[test]
    fn the_digest_is_what_it_is_said_to_be() {
        let nothing = Hash::of(b"");
        let parts = Parts { kernel: nothing, initrd: nothing, command_line: nothing };
        let hex: String = parts.simulated_digest().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "d64756a5906ca1c165a904b33087e0784d217f224454aa70ae4a292a51ccd9aa316fce69feb22ff547b0f864bc2058f6"
        );
    }
}
