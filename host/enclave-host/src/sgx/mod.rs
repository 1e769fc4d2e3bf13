//! The image in SGX: built by the kernel's driver, entered by its vDSO, quoted by AESM.
//!
//! Written to the SDM and the kernel's ABI (asm/sgx.h). Status: **not yet run on SGX hardware**.
//! Structures and request numbers are compared with the kernel's header by a test, and the pages
//! that are added are the very list that the simulator maps and measures.
#![allow(unsafe_code, reason = "ioctl, mmap and the vDSO; each block says why it holds")]

mod aesm;
mod collateral;
mod driver;
mod enter;

use std::path::Path;

use anyhow::{Context, Result, bail};
use toani_attestation::{Evidence, SgxEvidence};
use toani_protocol::sign::Bytes;

use self::{aesm::Aesm, collateral::CollateralFile, driver::Loaded, enter::EnterEnclave};
use crate::{
    image::{Image, SigStruct},
    runner::{Dead, Exchange, Machine},
};

/// An enclave on hardware.
#[derive(Debug)]
pub struct Sgx {
    loaded: Loaded,
    enter: EnterEnclave,
    aesm: Aesm,
    collateral: CollateralFile,
}

impl Sgx {
    /// Loads an image with its signature structure. `collateral` is a file with what Intel's
    /// provisioning service publishes about this platform, as `toani-evidence/1` has it.
    pub fn load(image: &Path, signature: &Path, collateral: &Path) -> Result<Self> {
        let read = |path: &Path| {
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
        };
        let parsed = Image::read(&read(image)?)?;
        let signature = SigStruct::read(&read(signature)?)?;
        if signature.mrenclave() != parsed.mrenclave() {
            bail!("the signature structure is of another image; ./x image makes both");
        }
        let collateral = CollateralFile::open(collateral)?;
        let enter = EnterEnclave::of_vdso()?;
        let aesm = Aesm::connect()?;
        let loaded = driver::load(&parsed, &signature)?;
        Ok(Self { loaded, enter, aesm, collateral })
    }
}

impl Machine for Sgx {
    fn enter(&self, thread: usize, exchange: &mut Exchange) -> Result<(), Dead> {
        let tcs = self.loaded.threads.get(thread).ok_or(Dead)?;
        let mut frame = exchange.frame();
        self.enter.enter(*tcs, &mut frame).map_err(|fault| {
            eprintln!("toani-sgx: {fault}");
            Dead
        })?;
        exchange.settle(&frame)
    }

    fn target_info(&self) -> Result<Vec<u8>> {
        self.aesm.target_info()
    }

    fn quote(&self, report: &[u8]) -> Result<Vec<u8>> {
        let quote = self.aesm.quote(report)?;
        let collateral = self.collateral.read()?;
        let evidence = Evidence::Sgx(SgxEvidence { quote: Bytes(quote), collateral });
        evidence.encode().context("the evidence is too large")
    }
}
