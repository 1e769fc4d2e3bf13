//! The image in this process: mapped, entered, and its ENCLU leaves emulated.
//!
//! ENCLU raises SIGILL where there is no SGX (and SIGSEGV where there is, but no enclave): the
//! handler does what the leaf would do. In fast mode the image is entered by a jump and leaves by
//! one; with `trap`, EENTER and EEXIT are executed and trapped both, the way the kernel's vDSO has
//! it. The image's bytes are the same.
#![allow(unsafe_code, reason = "mapping and entering foreign code; each block says why it holds")]

mod enclu;
mod map;

use std::{
    arch::asm,
    path::Path,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, Result, bail};
use toani_attestation::Evidence;
use toani_enclave_host::{
    image::{Image, SigStruct},
    now,
    runner::{CallFrame, Dead, Exchange, Machine},
};

use self::map::Mapping;
use crate::{Authority, Identity, Platform, Processor, processor::REPORT_BYTES};

const ATTRIBUTE_INIT: u8 = 1;

/// How the image is entered and left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By jumps.
    Fast,
    /// By ENCLU, emulated in the signal handler.
    Trap,
}

/// What the signal handler needs: there is one enclave in a process.
static LOADED: OnceLock<Loaded> = OnceLock::new();

#[derive(Debug)]
struct Loaded {
    mapping: Mapping,
    identity: Identity,
    processor: Processor,
    authority: Authority,
    platform: Platform,
    threads: Vec<Thread>,
}

#[derive(Debug)]
struct Thread {
    /// Address of the TCS.
    tcs: usize,
    /// A TCS holds one logical processor at a time.
    busy: AtomicBool,
}

/// A simulated enclave.
#[derive(Debug)]
pub struct Simulator {
    loaded: &'static Loaded,
    mode: Mode,
}

impl Simulator {
    /// Maps an image on the machine whose folder is `machine`, if `signature` is over that image, as
    /// EINIT does. Once in a process.
    pub fn load(image: &Image, signature: &SigStruct, machine: &Path, mode: Mode) -> Result<Self> {
        let identity = initialise(image, signature)?;
        let shown = machine.display();
        std::fs::create_dir_all(machine)
            .with_context(|| format!("cannot create the simulated machine's folder {shown}"))?;
        let processor = Processor::open_or_create(machine)
            .with_context(|| format!("the simulated processor's key in {shown}"))?;
        let authority = Authority::open_or_create(machine)
            .with_context(|| format!("the simulated vendors' keys in {shown}"))?;
        let platform = Platform { ppid: processor.ppid(), ..Platform::number(1) };
        let mapping = Mapping::new(image).context("cannot map the enclave's image")?;
        let base = mapping.base();
        let threads = image.threads.iter().map(|offset| {
            let offset = usize::try_from(*offset).unwrap_or(usize::MAX);
            Thread { tcs: base.wrapping_add(offset), busy: AtomicBool::new(false) }
        });
        let threads = threads.collect();
        let loaded = Loaded { mapping, identity, processor, authority, platform, threads };
        if LOADED.set(loaded).is_err() {
            bail!("this process holds an enclave already");
        }
        enclu::install().context("cannot handle SIGILL and SIGSEGV")?;
        let loaded = LOADED.get().context("just loaded")?;
        Ok(Self { loaded, mode })
    }

    /// Where ELRANGE begins.
    pub fn base(&self) -> usize {
        self.loaded.mapping.base()
    }

    /// Enters with any words, and lets the image leave through any thunk (0: by the usual way). For
    /// tests that play a hostile host.
    pub fn enter_with(&self, thread: usize, frame: &mut CallFrame, thunk: usize) {
        enclu::own_signal_stack();
        if let Some(thread) = self.loaded.threads.get(thread) {
            enter_by_jump(self.loaded.mapping.base(), thread.tcs, frame, thunk);
        }
    }

    /// What the processor knows of this enclave.
    pub fn identity(&self) -> &Identity {
        &self.loaded.identity
    }
}

/// EINIT: the signature must be over this measurement.
fn initialise(image: &Image, signature: &SigStruct) -> Result<Identity> {
    let mrenclave = image.mrenclave();
    if signature.mrenclave() != mrenclave {
        bail!("the signature structure is of another image; ./x image makes both");
    }
    let mut attributes = signature.attributes();
    attributes[0] |= ATTRIBUTE_INIT;
    Ok(Identity {
        mrenclave,
        mrsigner: signature.mrsigner(),
        attributes,
        misc_select: 0,
        isv_prod_id: signature.isv_prod_id(),
        isv_svn: signature.isv_svn(),
    })
}

impl Machine for Simulator {
    fn enter(&self, thread: usize, exchange: &mut Exchange) -> Result<(), Dead> {
        let tcs = self.loaded.threads.get(thread).ok_or(Dead)?;
        enclu::own_signal_stack();
        let mut frame = exchange.frame();
        match self.mode {
            Mode::Fast => {
                if tcs.busy.swap(true, Ordering::AcqRel) {
                    return Err(Dead);
                }
                enter_by_jump(self.loaded.mapping.base(), tcs.tcs, &mut frame, 0);
                tcs.busy.store(false, Ordering::Release);
            }
            Mode::Trap => enter_by_enclu(tcs.tcs, &mut frame),
        }
        exchange.settle(&frame)
    }

    fn target_info(&self) -> Result<Vec<u8>> {
        Ok(self.loaded.processor.quoting_target().to_vec())
    }

    fn quote(&self, report: &[u8]) -> Result<Vec<u8>> {
        let Loaded { processor, authority, platform, .. } = self.loaded;
        let report: &[u8; REPORT_BYTES] = report.try_into().context("it is not a report")?;
        if !processor.vouches_for(report) {
            bail!("the report was not made on this machine for its quoting enclave");
        }
        let body = report.first_chunk().context("a report begins with its body")?;
        let evidence = authority.sgx_evidence(platform, body, now())?;
        Evidence::Sgx(evidence).encode().context("the evidence is too large")
    }
}

/// As EENTER leaves the registers (RAX = CSSA, RBX = TCS, RCX = where to return to), with a thunk
/// in R9: that very place, where no other is given.
fn enter_by_jump(entry: usize, tcs: usize, frame: &mut CallFrame, thunk: usize) {
    // SAFETY: `entry` is the image's, which is mapped and executable; it keeps RSP, RBP, R12 to R15
    // (image/src/entry.s) and comes back to the label. RBX is LLVM's and saved here. It writes to
    // `frame` and to the exchange that it points to, both borrowed mutably for this call.
    unsafe {
        asm!(
            "push rbx",
            "mov rbx, r10",
            "lea rcx, [rip + 2f]",
            "test r9, r9",
            "cmovz r9, rcx",
            "jmp r11",
            "2:",
            "pop rbx",
            // By name: a register that is only clobbered may be chosen for an input.
            in("r10") tcs,
            in("r11") entry,
            in("rdi") std::ptr::from_mut(frame),
            inout("r9") thunk => _,
            inout("rax") 0_usize => _,
            clobber_abi("sysv64"),
        );
    }
}

/// EENTER, as the vDSO executes it; the handler enters, and EEXIT returns behind the instruction.
fn enter_by_enclu(tcs: usize, frame: &mut CallFrame) {
    // SAFETY: as in `enter_by_jump`; the AEP is never resumed at.
    unsafe {
        asm!(
            "push rbx",
            "mov rbx, r10",
            "lea rcx, [rip + 2f]",
            "xor r9d, r9d",
            "2: enclu",
            "pop rbx",
            in("r10") tcs,
            in("rdi") std::ptr::from_mut(frame),
            inout("rax") 2_usize => _,
            clobber_abi("sysv64"),
        );
    }
}

/// Reads an image and the signature structure beside it.
pub fn read(image: &Path) -> Result<(Image, SigStruct)> {
    let read = |path: &Path| {
        std::fs::read(path)
            .with_context(|| format!("cannot read {}; `./x image` makes it", path.display()))
    };
    let parsed = Image::read(&read(image)?)
        .with_context(|| format!("{} is no enclave image", image.display()))?;
    let signature = image.with_extension("sig");
    let signature = SigStruct::read(&read(&signature)?)
        .with_context(|| format!("{} is not sound", signature.display()))?;
    Ok((parsed, signature))
}
