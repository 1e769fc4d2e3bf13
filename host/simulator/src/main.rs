//! `toani-simulator IMAGE MACHINE [--trap]`: the enclave's image where there is no SGX.
//!
//! Started by the gateway where an instance's manifest names the test root of MACHINE, a folder
//! that stands for one simulated machine. What it attests chains to that root and to nothing else.
//! `toani-simulator --roots MACHINE` names the roots and the chip.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use serde_json::json;
use toani_enclave_host::runner::{self, Protection};
use toani_protocol::sign::Bytes;
use toani_simulator::{
    Authority,
    machine::{self, Mode, Simulator},
};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let [roots, machine] = arguments.as_slice()
        && roots == "--roots"
    {
        return match print_roots(Path::new(machine)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("toani-simulator: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    runner::main(Protection::OfTheProcess, || load(&arguments))
}

fn load(arguments: &[OsString]) -> Result<Simulator> {
    let (image, machine, mode) = match arguments {
        [image, machine] => (image, machine, Mode::Fast),
        [image, machine, trap] if trap == "--trap" => (image, machine, Mode::Trap),
        _ => bail!("usage: toani-simulator IMAGE MACHINE [--trap]; `toani serve` starts it"),
    };
    let (image, signature) = machine::read(&PathBuf::from(image))?;
    Simulator::load(&image, &signature, Path::new(machine), mode)
}

fn print_roots(machine: &Path) -> Result<()> {
    let shown = machine.display();
    std::fs::create_dir_all(machine)
        .with_context(|| format!("cannot create the simulated machine's folder {shown}"))?;
    let authority = Authority::open_or_create(machine)
        .with_context(|| format!("the simulated vendors' keys in {shown}"))?;
    let snp_root = authority.snp_root()?;
    let chip = Bytes(authority.chip().id.to_vec());
    let sgx_root = authority.sgx_root();
    println!("{}", json!({ "sgx_root": sgx_root, "snp_root": snp_root, "chip": chip }));
    Ok(())
}
