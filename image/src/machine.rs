//! The state machine behind its lock, and the processor as what it runs on.

use alloc::{boxed::Box, vec::Vec};

use spin::{Mutex, Once, RwLock};
use toani_enclave::{Enclave, KEYREQUEST_BYTES, Platform, REPORT_BYTES, Secret, TARGETINFO_BYTES};

use crate::runtime::{self, Rdrand};

pub(crate) struct Machine {
    /// Held while a lock on the enclave is taken, so that readers who keep coming do not keep a
    /// writer waiting.
    turnstile: Mutex<()>,
    enclave: RwLock<Enclave>,
}

pub(crate) fn the_machine() -> &'static Machine {
    static MACHINE: Once<Machine> = Once::new();
    MACHINE.call_once(|| Machine {
        turnstile: Mutex::new(()),
        enclave: RwLock::new(Enclave::new(Box::new(Sgx))),
    })
}

impl Machine {
    /// Verifies in parallel with others, applies alone.
    pub(crate) fn answer(&self, call: &[u8]) -> Vec<u8> {
        let enclave = {
            let _turn = self.turnstile.lock();
            self.enclave.read()
        };
        let checked = enclave.check(call, &mut Rdrand);
        drop(enclave);
        let mut enclave = {
            let _turn = self.turnstile.lock();
            self.enclave.write()
        };
        enclave.apply(checked, &mut Rdrand)
    }
}

/// The processor that this image runs on.
struct Sgx;

impl Platform for Sgx {
    fn egetkey(&self, request: &[u8; KEYREQUEST_BYTES]) -> Option<Secret<16>> {
        let mut key = Secret::zeroed();
        runtime::egetkey(request, key.bytes_mut())?;
        Some(key)
    }

    fn ereport(
        &self,
        target: &[u8; TARGETINFO_BYTES],
        report_data: &[u8; 64],
    ) -> [u8; REPORT_BYTES] {
        runtime::ereport(target, report_data)
    }
}
