//! `toani-sgx IMAGE SIGNATURE COLLATERAL`: the enclave's image in SGX.
//!
//! Started by the gateway where an instance's manifest names Intel's root. Not yet run on SGX
//! hardware.

use std::{path::Path, process::ExitCode};

use anyhow::{Result, bail};
use toani_enclave_host::{runner, sgx::Sgx};

fn main() -> ExitCode {
    runner::main(runner::Protection::OfTheProcessor, load)
}

fn load() -> Result<Sgx> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [image, signature, collateral] = arguments.as_slice() else {
        bail!("usage: toani-sgx IMAGE SIGNATURE COLLATERAL; it is started by `toani serve`");
    };
    Sgx::load(Path::new(image), Path::new(signature), Path::new(collateral))
}
