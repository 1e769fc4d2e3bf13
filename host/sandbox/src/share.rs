//! How much of the machine's memory all containers of a supervisor may use together. Each has a limit
//! of its own; that many of them do not take the machine's last is another one.

use rustix::system::sysinfo;

/// The rest is the plane's and the machine's.
const QUARTERS: u64 = 3;

/// Memory of all containers together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    memory_mib: u64,
}

impl Share {
    pub fn of_mib(memory_mib: u32) -> Self {
        Self { memory_mib: memory_mib.into() }
    }

    /// A whole number of pages of any size.
    pub(crate) fn memory_bytes(self) -> u64 {
        self.memory_mib << 20
    }
}

impl Default for Share {
    /// Three quarters of what the machine has.
    fn default() -> Self {
        let machine = sysinfo();
        let bytes = machine.totalram.saturating_mul(machine.mem_unit.into());
        Self { memory_mib: (bytes >> 20) / 4 * QUARTERS }
    }
}
