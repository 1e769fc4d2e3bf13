//! The built image, and machines to run it on.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses its part, and stops at the first surprise"
)]

use std::path::{Path, PathBuf};

use toani_enclave_host::{EnclaveHost, Runner};

pub const SIMULATOR: &str = env!("CARGO_BIN_EXE_toani-simulator");

/// What `./x test` has built and signed.
pub fn image() -> PathBuf {
    let Some(programs) = std::env::var_os("TOANI_PROGRAMS") else {
        panic!("TOANI_PROGRAMS is not set; run ./x test");
    };
    let image = Path::new(&programs).join("toani-image");
    assert!(image.is_file(), "there is no image; run ./x image");
    image
}

pub fn runner(image: &Path, machine: &Path, more: &[&str]) -> Runner {
    let mut arguments = vec![image.as_os_str().to_owned(), machine.as_os_str().to_owned()];
    arguments.extend(more.iter().map(Into::into));
    Runner { program: SIMULATOR.into(), arguments }
}

pub async fn start(machine: &Path, more: &[&str]) -> EnclaveHost {
    EnclaveHost::start(&runner(&image(), machine, more)).await.unwrap()
}
