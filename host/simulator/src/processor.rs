//! The processor's part of SGX: EGETKEY and EREPORT (SDM vol. 3D, 40.4), from a secret of this
//! machine instead of fuses.
//!
//! A key depends on what the request names and on nothing less: another machine, another MRENCLAVE,
//! another set of attributes give another key.

use std::path::Path;

use aes::Aes128;
use cmac::{Cmac, KeyInit, Mac};
use getrandom::{SysRng, rand_core::TryRng as _};
use hmac::Hmac;
use sha2::{Digest, Sha256};

use crate::{AuthorityError, folder};

/// The security version of the simulated microcode.
const CPU_SVN: [u8; 16] = [8, 8, 2, 2, 0xff, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

const SECRET_FILE: &str = "processor.key";

const REPORT_KEY: u16 = 3;
const SEAL_KEY: u16 = 4;
const POLICY_MRENCLAVE: u16 = 1;
const POLICY_MRSIGNER: u16 = 2;

pub(crate) const REPORT_BODY_BYTES: usize = 384;
pub(crate) const REPORT_BYTES: usize = 432;

/// What the processor knows of a loaded enclave (SECS).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub mrenclave: [u8; 32],
    pub mrsigner: [u8; 32],
    /// FLAGS and XFRM.
    pub attributes: [u8; 16],
    pub misc_select: u32,
    pub isv_prod_id: u16,
    pub isv_svn: u16,
}

/// The error codes of EGETKEY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EgetkeyError {
    InvalidAttribute = 2,
    InvalidCpuSvn = 32,
    InvalidIsvSvn = 64,
    InvalidKeyName = 256,
}

/// A simulated processor: its secret lies in a file.
#[derive(Debug)]
pub struct Processor {
    secret: [u8; 32],
}

impl Processor {
    /// The processor of this machine: made at its first use in `folder`.
    pub fn open_or_create(folder: &Path) -> Result<Self, AuthorityError> {
        let secret = folder::open_or_create(folder, SECRET_FILE, || {
            let mut secret = vec![0; 32];
            SysRng.try_fill_bytes(&mut secret).map_err(|_| AuthorityError::Random)?;
            Ok::<_, AuthorityError>(secret)
        })?;
        let secret = secret.try_into().map_err(|_| AuthorityError::Damaged(SECRET_FILE))?;
        Ok(Self::of_secret(secret))
    }

    /// The processor with this secret in its fuses.
    pub const fn of_secret(secret: [u8; 32]) -> Self {
        Self { secret }
    }

    /// The machine's own id: not secret, and not the same on another machine.
    pub fn ppid(&self) -> [u8; 16] {
        self.key(&[b"PPID"])
    }

    /// EGETKEY for an enclave. Reserved fields must be zero.
    pub fn egetkey(&self, own: &Identity, request: &[u8; 512]) -> Result<[u8; 16], EgetkeyError> {
        let name = u16_at(request, 0);
        let policy = u16_at(request, 2);
        if request[76..].iter().any(|byte| *byte != 0) || request[6..8] != [0; 2] {
            return Err(EgetkeyError::InvalidAttribute);
        }
        if name != SEAL_KEY || policy & !(POLICY_MRENCLAVE | POLICY_MRSIGNER) != 0 {
            return Err(EgetkeyError::InvalidKeyName);
        }
        let isv_svn = u16_at(request, 4);
        if isv_svn > own.isv_svn {
            return Err(EgetkeyError::InvalidIsvSvn);
        }
        let cpu_svn = &request[8..24];
        if cpu_svn.iter().zip(CPU_SVN).any(|(asked, there)| *asked > there) {
            return Err(EgetkeyError::InvalidCpuSvn);
        }
        let attributes: Vec<u8> =
            own.attributes.iter().zip(&request[24..40]).map(|(own, mask)| own & mask).collect();
        let misc = own.misc_select
            & u32::from_le_bytes([request[72], request[73], request[74], request[75]]);
        let zero = [0; 32];
        let by = |bit, value| if policy & bit == 0 { zero } else { value };
        Ok(self.key(&[
            &name.to_le_bytes(),
            &policy.to_le_bytes(),
            &by(POLICY_MRENCLAVE, own.mrenclave),
            &by(POLICY_MRSIGNER, own.mrsigner),
            &own.isv_prod_id.to_le_bytes(),
            &isv_svn.to_le_bytes(),
            cpu_svn,
            &attributes,
            &misc.to_le_bytes(),
            &request[40..72],
        ]))
    }

    /// EREPORT by an enclave for the one that `target` names.
    pub fn ereport(
        &self,
        own: &Identity,
        target: &[u8; 512],
        report_data: &[u8; 64],
    ) -> [u8; REPORT_BYTES] {
        let mut report = [0; REPORT_BYTES];
        report[..16].copy_from_slice(&CPU_SVN);
        report[16..20].copy_from_slice(&own.misc_select.to_le_bytes());
        report[48..64].copy_from_slice(&own.attributes);
        report[64..96].copy_from_slice(&own.mrenclave);
        report[128..160].copy_from_slice(&own.mrsigner);
        report[256..258].copy_from_slice(&own.isv_prod_id.to_le_bytes());
        report[258..260].copy_from_slice(&own.isv_svn.to_le_bytes());
        report[320..384].copy_from_slice(report_data);
        let key = self.report_key(target);
        let (body, rest) = report.split_at_mut(REPORT_BODY_BYTES);
        rest[32..].copy_from_slice(&mac(&key, body));
        report
    }

    /// TARGETINFO of the simulated quoting enclave.
    pub fn quoting_target(&self) -> [u8; 512] {
        let mut target = [0; 512];
        target[..32].copy_from_slice(&Sha256::digest(b"toani simulated quoting enclave"));
        // INIT and 64-bit mode; x87 and SSE.
        target[32] = 5;
        target[40] = 3;
        target
    }

    /// What the quoting enclave does first: whether a report was made on this machine, for it.
    pub fn vouches_for(&self, report: &[u8; REPORT_BYTES]) -> bool {
        let (body, rest) = report.split_at(REPORT_BODY_BYTES);
        let key = self.report_key(&self.quoting_target());
        // Timing tells nothing here: the caller may make any report of its own.
        rest.starts_with(&[0; 32]) && rest.ends_with(&mac(&key, body))
    }

    fn report_key(&self, target: &[u8; 512]) -> [u8; 16] {
        self.key(&[&REPORT_KEY.to_le_bytes(), &target[..128], &CPU_SVN])
    }

    fn key(&self, parts: &[&[u8]]) -> [u8; 16] {
        let mut mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(&self.secret)
            .unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
        for part in parts {
            hmac::Mac::update(&mut mac, &(part.len() as u64).to_le_bytes());
            hmac::Mac::update(&mut mac, part);
        }
        let full = hmac::Mac::finalize(mac).into_bytes();
        let mut key = [0; 16];
        key.copy_from_slice(&full[..16]);
        key
    }
}

fn mac(key: &[u8; 16], body: &[u8]) -> [u8; 16] {
    let mut mac = Cmac::<Aes128>::new(key.into());
    mac.update(body);
    mac.finalize().into_bytes().into()
}

fn u16_at(bytes: &[u8; 512], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            mrenclave: [1; 32],
            mrsigner: [2; 32],
            attributes: [5, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0],
            misc_select: 0,
            isv_prod_id: 1,
            isv_svn: 2,
        }
    }

    fn request() -> [u8; 512] {
        let mut request = [0; 512];
        request[0] = 4;
        request[2] = 1;
        request[4] = 2;
        request[8..24].copy_from_slice(&CPU_SVN);
        request[24..40].fill(0xff);
        request
    }

    #[test]
    fn a_key_depends_on_all_that_is_named() {
        let processor = Processor { secret: [9; 32] };
        let key = processor.egetkey(&identity(), &request()).unwrap();
        assert_eq!(processor.egetkey(&identity(), &request()), Ok(key));
        let other = Processor { secret: [8; 32] };
        assert_ne!(other.egetkey(&identity(), &request()), Ok(key), "another machine");
        let code = Identity { mrenclave: [3; 32], ..identity() };
        assert_ne!(processor.egetkey(&code, &request()), Ok(key), "another MRENCLAVE");
        let mut debug = identity();
        debug.attributes[0] |= 2;
        assert_ne!(processor.egetkey(&debug, &request()), Ok(key), "debug");
        let signer = Identity { mrsigner: [3; 32], ..identity() };
        assert_eq!(processor.egetkey(&signer, &request()), Ok(key), "the signer does not count");
        let mut named = request();
        named[40] = 1;
        assert_ne!(processor.egetkey(&identity(), &named), Ok(key), "KEYID");
    }

    #[test]
    fn newer_versions_are_not_given_and_older_ones_are() {
        let processor = Processor { secret: [9; 32] };
        let mut newer = request();
        newer[4] = 3;
        let refused = processor.egetkey(&identity(), &newer);
        assert_eq!(refused, Err(EgetkeyError::InvalidIsvSvn));
        let mut newer = request();
        newer[8] += 1;
        let refused = processor.egetkey(&identity(), &newer);
        assert_eq!(refused, Err(EgetkeyError::InvalidCpuSvn));
        let mut older = request();
        older[4] = 1;
        assert!(processor.egetkey(&identity(), &older).is_ok());
        let mut unknown = request();
        unknown[0] = 1;
        let refused = processor.egetkey(&identity(), &unknown);
        assert_eq!(refused, Err(EgetkeyError::InvalidKeyName));
    }

    #[test]
    fn a_report_holds_on_its_machine_for_its_target_alone() {
        let processor = Processor { secret: [9; 32] };
        let report = processor.ereport(&identity(), &processor.quoting_target(), &[6; 64]);
        assert!(processor.vouches_for(&report));
        assert!(!Processor { secret: [8; 32] }.vouches_for(&report));
        for at in [0, 64, 320, 383, 416, 431] {
            let mut forged = report;
            forged[at] ^= 1;
            assert!(!processor.vouches_for(&forged), "byte {at}");
        }
        let elsewhere = processor.ereport(&identity(), &[0; 512], &[6; 64]);
        assert!(!processor.vouches_for(&elsewhere));
    }
}
