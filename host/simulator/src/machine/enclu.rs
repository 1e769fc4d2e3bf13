//! ENCLU by SIGILL: what the processor would do, done to the interrupted registers.

use std::{
    cell::Cell,
    io,
    mem::MaybeUninit,
    ptr::null_mut,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::{LOADED, Loaded};

const EREPORT: u64 = 0;
const EGETKEY: u64 = 1;
const EENTER: u64 = 2;
const EEXIT: u64 = 4;

const ENCLU: [u8; 3] = [0x0f, 0x01, 0xd7];

/// Room for the handler: it derives keys.
const SIGNAL_STACK_BYTES: usize = 64 * 1024;

pub(super) fn install() -> io::Result<()> {
    for signal in [libc::SIGILL, libc::SIGSEGV] {
        // SAFETY: all fields of the structure may be zero.
        let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        action.sa_sigaction = handle as *const () as usize;
        // On a stack of its own: the interrupted one may be the enclave's.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: the handler has the signature of SA_SIGINFO, and lives as long as the program.
        if unsafe { libc::sigaction(signal, &raw const action, null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Gives this thread a stack for the handler, once.
pub(super) fn own_signal_stack() {
    thread_local! {
        static DONE: Cell<bool> = const { Cell::new(false) };
    }
    if DONE.replace(true) {
        return;
    }
    // Lives as long as the thread, and a runner's threads live as long as the program.
    let memory = Box::leak(vec![0_u64; SIGNAL_STACK_BYTES / 8].into_boxed_slice());
    let stack = libc::stack_t {
        ss_sp: memory.as_mut_ptr().cast(),
        ss_flags: 0,
        ss_size: SIGNAL_STACK_BYTES,
    };
    // SAFETY: the memory is ours for ever.
    let done = unsafe { libc::sigaltstack(&raw const stack, null_mut()) };
    assert_eq!(done, 0, "a thread can always have a signal stack");
}

/// One register of the interrupted thread.
struct Registers<'a>(&'a mut libc::mcontext_t);

impl Registers<'_> {
    fn get(&self, register: libc::c_int) -> u64 {
        let index = usize::try_from(register).unwrap_or(usize::MAX);
        self.0.gregs.get(index).copied().unwrap_or_default().cast_unsigned()
    }

    fn set(&mut self, register: libc::c_int, value: u64) {
        let index = usize::try_from(register).unwrap_or(usize::MAX);
        if let Some(place) = self.0.gregs.get_mut(index) {
            *place = value.cast_signed();
        }
    }

    fn address(&self, register: libc::c_int) -> usize {
        usize::try_from(self.get(register)).unwrap_or_default()
    }
}

extern "C" fn handle(signal: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives a handler of SA_SIGINFO the interrupted thread's context.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let mut registers = Registers(&mut context.uc_mcontext);
    let done = LOADED.get().and_then(|loaded| emulate(loaded, &mut registers));
    if done.is_none() {
        give_up(signal);
    }
}

/// `None` where the processor would fault.
fn emulate(loaded: &Loaded, registers: &mut Registers<'_>) -> Option<()> {
    let at = registers.address(libc::REG_RIP);
    let inside = loaded.mapping.holds(at, ENCLU.len());
    // SAFETY: for SIGILL the instruction at RIP has been fetched, so it can be read. For SIGSEGV it
    // may be RIP itself that is wrong; then this read faults too, and the kernel ends the process.
    let opcode: [u8; 3] = unsafe { std::ptr::with_exposed_provenance::<[u8; 3]>(at).read() };
    if opcode != ENCLU {
        return None;
    }
    registers.set(libc::REG_RIP, at as u64 + 3);
    match registers.get(libc::REG_RAX) {
        EREPORT if inside => ereport(loaded, registers),
        EGETKEY if inside => egetkey(loaded, registers),
        EEXIT if inside => eexit(loaded, registers),
        EENTER if !inside => eenter(loaded, registers),
        _ => None,
    }
}

/// Memory of the enclave that an operand names, aligned as the leaf asks for.
fn operand<const N: usize>(loaded: &Loaded, address: usize, align: usize) -> Option<*mut [u8; N]> {
    let fits = loaded.mapping.holds(address, N) && address.is_multiple_of(align);
    fits.then(|| std::ptr::with_exposed_provenance_mut(address))
}

fn ereport(loaded: &Loaded, registers: &mut Registers<'_>) -> Option<()> {
    let target = operand::<512>(loaded, registers.address(libc::REG_RBX), 512)?;
    let data = operand::<64>(loaded, registers.address(libc::REG_RCX), 128)?;
    let out = operand::<432>(loaded, registers.address(libc::REG_RDX), 512)?;
    // SAFETY: mapped, and the thread that owns these places stands still in its ENCLU.
    let (target, data) = unsafe { (target.read(), data.read()) };
    let report = loaded.processor.ereport(&loaded.identity, &target, &data);
    // SAFETY: as above.
    unsafe { out.write(report) };
    Some(())
}

fn egetkey(loaded: &Loaded, registers: &mut Registers<'_>) -> Option<()> {
    let request = operand::<512>(loaded, registers.address(libc::REG_RBX), 512)?;
    let out = operand::<16>(loaded, registers.address(libc::REG_RCX), 16)?;
    // SAFETY: as in `ereport`.
    let request = unsafe { request.read() };
    let code = match loaded.processor.egetkey(&loaded.identity, &request) {
        Ok(key) => {
            // SAFETY: as in `ereport`.
            unsafe { out.write(key) };
            0
        }
        Err(error) => error as u64,
    };
    registers.set(libc::REG_RAX, code);
    Some(())
}

/// To RBX; RCX gets the AEP. This thread's TCS is free again.
fn eexit(loaded: &Loaded, registers: &mut Registers<'_>) -> Option<()> {
    let tcs = loaded.threads.get(ENTERED.with(Cell::get))?;
    tcs.busy.swap(false, Ordering::AcqRel).then_some(())?;
    registers.set(libc::REG_RIP, registers.get(libc::REG_RBX));
    registers.set(libc::REG_RCX, AEP.with(Cell::get));
    Some(())
}

/// RBX is the TCS, which must be free; RCX the AEP. RAX gets CSSA, RCX the next instruction.
fn eenter(loaded: &Loaded, registers: &mut Registers<'_>) -> Option<()> {
    let tcs = registers.address(libc::REG_RBX);
    let index = loaded.threads.iter().position(|thread| thread.tcs == tcs)?;
    let thread = loaded.threads.get(index)?;
    (!thread.busy.swap(true, Ordering::AcqRel)).then_some(())?;
    ENTERED.with(|entered| entered.set(index));
    AEP.with(|aep| aep.set(registers.get(libc::REG_RCX)));
    registers.set(libc::REG_RCX, registers.get(libc::REG_RIP));
    registers.set(libc::REG_RAX, 0);
    registers.set(libc::REG_RIP, loaded.mapping.base() as u64);
    Some(())
}

thread_local! {
    static ENTERED: Cell<usize> = const { Cell::new(usize::MAX) };
    static AEP: Cell<u64> = const { Cell::new(0) };
}

/// The enclave has panicked (UD2), or something is wrong with it: nothing of it may go on.
fn give_up(signal: libc::c_int) {
    static SAID: AtomicUsize = AtomicUsize::new(0);
    if SAID.fetch_add(1, Ordering::SeqCst) == 0 {
        let said: &[u8] = b"toani-simulator: the enclave is dead\n";
        // SAFETY: a write of bytes that are there; allowed in a handler.
        unsafe { libc::write(2, said.as_ptr().cast(), said.len()) };
    }
    // SAFETY: ends the process; allowed in a handler.
    unsafe { libc::_exit(128 + signal) }
}
