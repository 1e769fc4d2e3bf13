//! All unsafe code of the image: entry, relocation, heap, copies across the boundary, ENCLU leaves,
//! RDRAND, panic. It knows bytes and addresses, and calls one safe function: [`crate::answer`].
//!
//! The host is the enemy: it chooses RDI, R9 and all memory outside. It cannot choose where the
//! code begins (TCS.OENTRY is measured), which stack it runs on (below the TCS), nor what is in the
//! image when it begins to run. Built to the SDM and kernel ABI; not yet run on SGX hardware.
#![allow(unsafe_code, reason = "the one file that has it; each block says why it holds")]

use alloc::vec::Vec;
use core::{
    alloc::{GlobalAlloc, Layout},
    arch::{asm, global_asm, x86_64::_rdrand64_step},
    ptr,
    sync::atomic::{AtomicBool, Ordering},
};

use talc::{TalcLock, source::Manual};
use toani_enclave::{KEYREQUEST_BYTES, REPORT_BYTES, TARGETINFO_BYTES};
use toani_protocol::limits::MESSAGE_BYTES_MAX;
use zeroize::{WipingAllocator, Zeroize};

const PAGE_BYTES: usize = 4096;
const ELRANGE_BYTES: usize = 1 << 30;
const HEAP_BYTES: usize = 512 << 20;
const STACK_BYTES: usize = 1 << 20;
/// Two, so that an exception on entry has a frame; nothing here ever runs on the second.
const SSA_FRAMES: usize = 2;
const THREADS: usize = 4;

global_asm!(
    include_str!("entry.s"),
    ssa_bytes = const SSA_FRAMES * PAGE_BYTES,
    stack_bytes = const STACK_BYTES,
    elrange_bytes = const ELRANGE_BYTES,
);
global_asm!(include_str!("memory.s"));

/// How the pages behind the image are laid out; the converter reads this from the ELF file. All
/// that is said here takes part in MRENCLAVE as pages that are there or not.
#[repr(C)]
struct ImageLayout {
    magic: [u8; 16],
    elrange_bytes: u64,
    heap_bytes: u64,
    stack_bytes: u64,
    ssa_frames: u64,
    threads: u64,
}

#[used]
#[unsafe(link_section = ".toani.layout")]
static LAYOUT: ImageLayout = ImageLayout {
    magic: *b"toani-layout/1\0\0",
    elrange_bytes: ELRANGE_BYTES as u64,
    heap_bytes: HEAP_BYTES as u64,
    stack_bytes: STACK_BYTES as u64,
    ssa_frames: SSA_FRAMES as u64,
    threads: THREADS as u64,
};

/// The address of a symbol of the linker script, relative to RIP: a compiler would read it from a
/// table that is not yet relocated.
macro_rules! address_of {
    ($symbol:literal) => {{
        let address: usize;
        // SAFETY: computes an address and touches nothing.
        unsafe {
            asm!(
                concat!("lea {address}, [rip + ", $symbol, "]"),
                address = out(reg) address,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        address
    }};
}

/// What the host hands in: six words of its own memory. Address and bytes of the input, address and
/// capacity of the output; and written by the image: bytes of the output, and last the status.
const CALL_BYTES: usize = 48;
const STATUS_OFFSET: usize = 40;
const OUTPUT_BYTES_OFFSET: usize = 32;

/// The output holds a reply.
const STATUS_REPLY: u64 = 1;
/// The call's memory is not as asked for; nothing was done.
const STATUS_REFUSED: u64 = 2;
/// An earlier call has panicked. Nothing is answered any more.
const STATUS_DEAD: u64 = 3;

/// Set before a panic gives up its thread: others can still enter, and must not meet a state that
/// was left in the middle.
static DEAD: AtomicBool = AtomicBool::new(false);

/// The first Rust of every entry.
///
/// # Safety
/// Called by `entry.s` alone, on the thread's own stack. `call` is an address that the host chose.
#[unsafe(no_mangle)]
unsafe extern "C" fn enclave_main(call: usize) {
    initialise();
    // Without memory for the call there is nobody to tell.
    let Some(call) = Outside::new(call, CALL_BYTES) else { return };
    let status = serve(&call);
    call.write_word(STATUS_OFFSET, status);
}

fn serve(call: &Outside) -> u64 {
    if DEAD.load(Ordering::Acquire) {
        return STATUS_DEAD;
    }
    // Each word is read once; what the host changes afterwards is not seen.
    let word = |index: usize| usize::try_from(call.read_word(index.saturating_mul(8)));
    let (Ok(input), Ok(input_bytes), Ok(output), Ok(capacity)) =
        (word(0), word(1), word(2), word(3))
    else {
        return STATUS_REFUSED;
    };
    // A reply of any size must fit before anything is done, or it would be lost.
    if input_bytes > MESSAGE_BYTES_MAX || capacity < MESSAGE_BYTES_MAX {
        return STATUS_REFUSED;
    }
    let (Some(input), Some(output)) =
        (Outside::new(input, input_bytes), Outside::new(output, capacity))
    else {
        return STATUS_REFUSED;
    };
    let reply = crate::answer(&input.copy_in());
    if reply.len() > MESSAGE_BYTES_MAX {
        return STATUS_REFUSED;
    }
    output.copy_out(&reply);
    call.write_word(OUTPUT_BYTES_OFFSET, reply.len() as u64);
    STATUS_REPLY
}

/// A range of the host's memory: aligned to 8 bytes and nowhere inside the enclave. Holding one
/// says nothing about what stands there, which may change between any two reads, nor that it is
/// mapped: a fault there is the host's own loss.
struct Outside {
    start: *mut u64,
    bytes: usize,
}

impl Outside {
    fn new(address: usize, bytes: usize) -> Option<Self> {
        let end = address.checked_add(bytes.checked_next_multiple_of(8)?)?;
        let enclave = image_base();
        let enclave_end = enclave.checked_add(ELRANGE_BYTES)?;
        let apart = end <= enclave || address >= enclave_end;
        let usable = address != 0 && address.is_multiple_of(8) && apart;
        usable.then(|| Self { start: ptr::with_exposed_provenance_mut(address), bytes })
    }

    fn read_word(&self, offset: usize) -> u64 {
        // SAFETY: aligned, outside of the enclave and so no Rust object; whole words only, so that
        // no stale bytes of a fill buffer are taken in (INTEL-SA-00615).
        unsafe { self.start.wrapping_byte_add(offset).read_volatile() }
    }

    fn write_word(&self, offset: usize, word: u64) {
        // SAFETY: as in `read_word`.
        unsafe { self.start.wrapping_byte_add(offset).write_volatile(word) }
    }

    /// The one copy, which is then parsed.
    fn copy_in(&self) -> Vec<u8> {
        let mut copy = Vec::<u8>::with_capacity(self.bytes.next_multiple_of(8));
        let start = copy.as_mut_ptr();
        for offset in (0..self.bytes).step_by(8) {
            let word = self.read_word(offset);
            // SAFETY: the capacity is a multiple of 8 that holds every offset below it, and 8 more.
            unsafe { start.wrapping_byte_add(offset).cast::<u64>().write_unaligned(word) };
        }
        // SAFETY: `self.bytes` bytes and up to 7 more were written above.
        unsafe { copy.set_len(self.bytes) };
        copy
    }

    /// Writes whole words; what is beyond the bytes' end in the last one is zero.
    fn copy_out(&self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        let mut last = [0; 8];
        last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        let last = (!rest.is_empty()).then_some(&last);
        for (index, word) in words.iter().chain(last).enumerate() {
            self.write_word(index.saturating_mul(8), u64::from_le_bytes(*word));
        }
    }
}

fn image_base() -> usize {
    address_of!("__image_base")
}

/// Once, by whoever enters first; others who enter meanwhile wait for it.
fn initialise() {
    static DONE: spin::Once = spin::Once::new();
    DONE.call_once(|| {
        relocate();
        claim_heap();
    });
}

/// One entry of `.rela.dyn`: offset, kind, addend (System V ABI, AMD64 supplement, 4.4.1).
type Relocation = [usize; 3];

/// `base + addend`; the gates of `./x image` see that there is no other kind.
const R_X86_64_RELATIVE: usize = 8;

/// Applies the relocations. Nothing before this may use an address that is stored in data.
fn relocate() {
    let base = image_base();
    let (mut entry, end) = (address_of!("__rela_start"), address_of!("__rela_end"));
    while entry < end {
        let relocation = ptr::with_exposed_provenance::<Relocation>(entry);
        // SAFETY: the linker script brackets a whole number of entries, in read-only pages.
        let [offset, kind, addend] = unsafe { relocation.read() };
        if kind != R_X86_64_RELATIVE {
            die();
        }
        let target = ptr::with_exposed_provenance_mut::<usize>(base.wrapping_add(offset));
        // SAFETY: the linker wrote the offset of a word in the image's writable pages, and nobody
        // else runs yet.
        unsafe { target.write_unaligned(base.wrapping_add(addend)) };
        entry = entry.wrapping_add(size_of::<Relocation>());
    }
}

/// Wipes every block that is freed.
#[global_allocator]
static HEAP: WipingAllocator<Heaps> =
    WipingAllocator(Heaps([const { TalcLock::new(Manual) }; THREADS]));

/// A heap for each thread, with a part of the pages of its own: threads that verify at once wait
/// neither for each other's lock nor for each other's cache lines. When its own is full, a thread
/// takes from the next.
struct Heaps([TalcLock<spin::Mutex<()>, Manual>; THREADS]);

const PART_BYTES: usize = HEAP_BYTES / THREADS;

// SAFETY: each block is one of these heaps' own, and goes back to the heap in whose part it lies.
unsafe impl GlobalAlloc for Heaps {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (others, own) = self.0.split_at_checked(this_thread()).unwrap_or((&self.0, &[]));
        // SAFETY: the caller's promise.
        let mut blocks = own.iter().chain(others).map(|heap| unsafe { heap.alloc(layout) });
        blocks.find(|block| !block.is_null()).unwrap_or(ptr::null_mut())
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let heap = self.0.get(block.addr().wrapping_sub(heap_start()) / PART_BYTES);
        // SAFETY: the caller's promise, and this is the heap that the block came from.
        heap.into_iter().for_each(|heap| unsafe { heap.dealloc(block, layout) });
    }
}

fn heap_start() -> usize {
    address_of!("__image_end")
}

/// What the converter lays out for each thread: a hole, the stack, SSA frames, the TCS
/// (host/enclave-host/src/image).
const THREAD_BYTES: usize = 16 * PAGE_BYTES + STACK_BYTES + (SSA_FRAMES + 1) * PAGE_BYTES;

/// Which thread this is, by where its stack lies. One that is taken for another only waits for it.
fn this_thread() -> usize {
    let here = 0_u8;
    (&raw const here).addr().wrapping_sub(heap_start().wrapping_add(HEAP_BYTES)) / THREAD_BYTES
}

fn claim_heap() {
    for (part, heap) in HEAP.0.0.iter().enumerate() {
        let start = heap_start().wrapping_add(part.wrapping_mul(PART_BYTES));
        let start = ptr::with_exposed_provenance_mut(start);
        // SAFETY: the pages from the image's end on belong to the heaps alone, by the image's layout.
        // What stands in them at first is the host's choice, so it is written before it is read.
        if unsafe { heap.lock().claim(start, PART_BYTES) }.is_none() {
            die();
        }
    }
}

/// The processor's random numbers. Used wherever the trusted side asks for any.
pub(crate) struct Rdrand;

/// Intel's Digital Random Number Generator guide, 5.2.1: ten failures in a row mean broken hardware.
const RDRAND_TRIES: usize = 10;

impl Rdrand {
    /// In one place, where the gates of `./x image` expect it.
    #[inline(never)]
    fn word() -> u64 {
        for _ in 0..RDRAND_TRIES {
            let mut word = 0;
            // SAFETY: the image is built for processors that have RDRAND (.cargo/config.toml).
            if unsafe { _rdrand64_step(&mut word) } == 1 {
                return word;
            }
        }
        die()
    }
}

impl rand_core::TryRng for Rdrand {
    type Error = core::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let [a, b, c, d, ..] = Self::word().to_le_bytes();
        Ok(u32::from_le_bytes([a, b, c, d]))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(Self::word())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        for chunk in bytes.chunks_mut(8) {
            for (to, from) in chunk.iter_mut().zip(Self::word().to_le_bytes()) {
                *to = from;
            }
        }
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Rdrand {}

/// What the crate `getrandom` calls; libraries that draw by themselves end here.
///
/// # Safety
/// `at` must be valid for writes of `bytes` bytes.
#[unsafe(no_mangle)]
unsafe extern "Rust" fn __getrandom_v03_custom(
    at: *mut u8,
    bytes: usize,
) -> Result<(), getrandom::Error> {
    // SAFETY: the caller's promise; the bytes are made valid before they are borrowed.
    unsafe { at.write_bytes(0, bytes) };
    // SAFETY: as above.
    let bytes = unsafe { core::slice::from_raw_parts_mut(at, bytes) };
    let Ok(()) = rand_core::TryRng::try_fill_bytes(&mut Rdrand, bytes);
    Ok(())
}

const ENCLU_EREPORT: usize = 0;
const ENCLU_EGETKEY: usize = 1;

#[repr(C, align(512))]
struct Aligned<const N: usize>([u8; N]);

/// ENCLU with these operands: RAX as it leaves it.
///
/// # Safety
/// The operands are what the leaf asks for (SDM vol. 3D, 40.4), aligned, and valid for what it reads
/// and writes.
#[inline(never)]
unsafe fn enclu(leaf: usize, rbx: *const u8, rcx: *mut u8, rdx: *mut u8) -> usize {
    let code;
    // SAFETY: the caller's promise. LLVM keeps RBX for itself, so it is exchanged and put back.
    unsafe {
        asm!(
            "xchg rbx, {rbx}",
            "enclu",
            "mov rbx, {rbx}",
            rbx = inout(reg) rbx => _,
            inout("rax") leaf => code,
            in("rcx") rcx,
            in("rdx") rdx,
            options(nostack),
        );
    }
    code
}

/// EGETKEY: `None` where the processor refuses the request.
pub(crate) fn egetkey(request: &[u8; KEYREQUEST_BYTES], key: &mut [u8; 16]) -> Option<()> {
    let (request, mut out) = (Aligned(*request), Aligned([0; 16]));
    let (rbx, rcx) = (request.0.as_ptr(), out.0.as_mut_ptr());
    // SAFETY: aligned, and alive across the instruction.
    let code = unsafe { enclu(ENCLU_EGETKEY, rbx, rcx, ptr::null_mut()) };
    *key = out.0;
    out.0.zeroize();
    // RAX is 0, or an error code.
    (code == 0).then_some(())
}

/// EREPORT: what this enclave is, for the enclave that `target` names.
pub(crate) fn ereport(
    target: &[u8; TARGETINFO_BYTES],
    report_data: &[u8; 64],
) -> [u8; REPORT_BYTES] {
    let (target, mut data) = (Aligned(*target), Aligned(*report_data));
    let mut report = Aligned([0; REPORT_BYTES]);
    let (rbx, rcx, rdx) = (target.0.as_ptr(), data.0.as_mut_ptr(), report.0.as_mut_ptr());
    // SAFETY: aligned, and alive across the instruction.
    unsafe { enclu(ENCLU_EREPORT, rbx, rcx, rdx) };
    report.0
}

/// Nothing runs after this: the flag first, then an illegal instruction, which ends this entry.
fn die() -> ! {
    DEAD.store(true, Ordering::SeqCst);
    // SAFETY: does not return.
    unsafe { asm!("ud2", options(noreturn, nomem, nostack)) }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    die()
}

// The precompiled core library refers to these; nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() -> ! {
    die()
}

#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    die()
}

#[unsafe(no_mangle)]
extern "C" fn abort() -> ! {
    die()
}
