//! Whether a built program wipes: libsodium's `sodium_memzero` is in it, does what it should, and is
//! called. A wipe that an optimiser took out, or that came from another crate, shows here.

use std::{
    io::{BufRead as _, BufReader},
    ops::Range,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

/// The C function; in the image, which has no symbols, a section of this name (image/enclave.ld).
const WIPE: &str = "sodium_memzero";
/// What it calls itself: memset, and then the function that no optimiser sees through.
const CALLS_OF_THE_WIPE: usize = 2;

/// Fails if the program does not wipe.
pub(crate) fn is_there(program: &Path) -> Result<()> {
    let found = find(program).with_context(|| format!("{} does not wipe", program.display()))?;
    eprintln!("x: {} wipes in {found} places", program.display());
    Ok(())
}

/// How many places call the wipe: thousands in the image, where all is inlined; a few in a program.
fn find(program: &Path) -> Result<usize> {
    let headers = tool("objdump", &["--section-headers", "--syms", "--wide"], program)?;
    let wipe = lines_of(headers, place_of)?.into_iter().next();
    let wipe = wipe.with_context(|| format!("{WIPE} is not in it"))?;
    // Calls of what was compiled elsewhere go through a word that is relocated when it is loaded.
    let relocations = tool("readelf", &["--relocs", "--wide"], program)?;
    let pointers = lines_of(relocations, |line| pointer_to(line, wipe.start))?;
    let (mut callers, mut calls_of_the_wipe) = (0, 0);
    for line in tool("objdump", &["--disassemble", "--no-show-raw-insn"], program)? {
        let line = line?;
        let Some(instruction) = Instruction::read(&line) else { continue };
        let within = wipe.contains(&instruction.address);
        calls_of_the_wipe += usize::from(within && instruction.calls);
        let aims = |to: u64| to == wipe.start || pointers.contains(&to);
        callers += usize::from(instruction.target.is_some_and(aims));
    }
    ensure!(
        calls_of_the_wipe == CALLS_OF_THE_WIPE,
        "{WIPE} makes {calls_of_the_wipe} calls, not {CALLS_OF_THE_WIPE}"
    );
    ensure!(callers > 0, "nothing calls {WIPE}");
    Ok(callers)
}

type Lines = Box<dyn Iterator<Item = std::io::Result<String>>>;

/// What a tool of binutils says of a program, line by line: a disassembly is too much to hold.
fn tool(name: &str, arguments: &[&str], program: &Path) -> Result<Lines> {
    let child = Command::new(name)
        .args(arguments)
        .arg(program)
        .env("LC_ALL", "C")
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {name}; install it (apt-get install binutils)"))?;
    let Some(output) = child.stdout else { bail!("{name} says nothing") };
    Ok(Box::new(BufReader::new(output).lines()))
}

fn lines_of<T>(lines: Lines, read: impl Fn(&str) -> Option<T>) -> Result<Vec<T>> {
    lines.filter_map(|line| line.map(|line| read(&line)).transpose()).map(|it| Ok(it?)).collect()
}

fn hex(word: &str) -> Option<u64> {
    u64::from_str_radix(word.trim_start_matches("0x"), 16).ok()
}

/// Where the wipe is, by a line of symbols, `ADDRESS l F .text SIZE .hidden NAME`, or of sections,
/// `INDEX .text.NAME SIZE ADDRESS ..`.
fn place_of(line: &str) -> Option<Range<u64>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (start, bytes) = match words.as_slice() {
        [start, _, "F", _, bytes, .., name] if *name == WIPE => (hex(start)?, hex(bytes)?),
        [_, name, bytes, start, ..] if name.strip_prefix(".text.") == Some(WIPE) => {
            (hex(start)?, hex(bytes)?)
        }
        _ => return None,
    };
    (bytes > 0).then(|| start..start.saturating_add(bytes))
}

/// The word's address in a line of relocations, `OFFSET INFO R_X86_64_RELATIVE ADDEND`.
fn pointer_to(line: &str, wipe: u64) -> Option<u64> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        [offset, _, "R_X86_64_RELATIVE", addend] if hex(addend) == Some(wipe) => hex(offset),
        _ => None,
    }
}

/// One line of a disassembly: `ADDRESS: MNEMONIC OPERANDS # POINTER`.
#[derive(Debug, PartialEq)]
struct Instruction {
    address: u64,
    calls: bool,
    /// Where a call, or the jump of a tail call, goes; or the word that says where.
    target: Option<u64>,
}

impl Instruction {
    fn read(line: &str) -> Option<Self> {
        let (address, instruction) = line.split_once(":\t")?;
        let address = hex(address.trim())?;
        let (mnemonic, operands) = instruction.split_once(' ').unwrap_or((instruction, ""));
        let named = match operands.split_once('#') {
            Some((_, pointer)) => pointer,
            None => operands,
        };
        let target = named.split_whitespace().next().and_then(hex);
        let calls = mnemonic == "call";
        Some(Self { address, calls, target: target.filter(|_| calls || mnemonic == "jmp") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wipe_is_found_by_symbol_and_by_section() {
        let symbol =
            "0000000000001150 l     F .text\t0000000000000037              .hidden sodium_memzero";
        assert_eq!(place_of(symbol), Some(0x1150..0x1187));
        let other = "0000000000001150 l     F .text\t0000000000000037              sodium_memcmp";
        assert_eq!(place_of(other), None);
        let section = "  1 .text.sodium_memzero 00000037  0000000000000150  0000000000000150  00001150  2**4  CONTENTS, ALLOC, LOAD, READONLY, CODE";
        assert_eq!(place_of(section), Some(0x150..0x187));
        assert_eq!(place_of(&section.replace("00000037", "00000000")), None);
    }

    #[test]
    fn calls_are_read_in_each_form() {
        let target = |line: &str| Instruction::read(line).and_then(|read| read.target);
        assert_eq!(target("   57:\tcall   0x150"), Some(0x150));
        assert_eq!(target("   57:\tcall   150 <sodium_memzero>"), Some(0x150));
        assert_eq!(target("   57:\tjmp    150 <sodium_memzero>"), Some(0x150));
        assert_eq!(target("   57:\tcall   *0x1000a8(%rip)        # 0x22b100"), Some(0x22b100));
        assert_eq!(target("   57:\tmov    0x1000a8(%rip),%rax        # 0x22b100"), None);
        assert_eq!(target("   57:\tcall   *%rax"), None);
        assert_eq!(Instruction::read("0000000000000150 <sodium_memzero>:"), None);
        let relative =
            "000000000022b100  0000000000000008 R_X86_64_RELATIVE                         150";
        assert_eq!(pointer_to(relative, 0x150), Some(0x22b100));
        assert_eq!(pointer_to(relative, 0x15), None);
    }

    #[test]
    fn a_program_without_the_wipe_is_refused() {
        // The C compiler's linker is on every machine that builds this, and wipes nothing.
        let refused = is_there(Path::new("/usr/bin/ld")).unwrap_err();
        assert!(format!("{refused:#}").contains("sodium_memzero is not in it"), "{refused:#}");
    }
}
