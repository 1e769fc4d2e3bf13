//! What a built image may not hold: instructions that trap or lie in an enclave, and anything that
//! a loader would have to resolve.

use std::{collections::BTreeMap, path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};

/// Illegal in an enclave (SDM vol. 3D, 36.6.1), or the host's word: CPUID, time stamps, system
/// calls, I/O, and state that XFRM = 7 does not save. INT3 stands between functions, as padding.
const FORBIDDEN: &[&str] = &[
    "cpuid", "xgetbv", "syscall", "sysenter", "sysret", "rdtsc", "rdtscp", "rdpmc", "int", "into",
    "in", "out", "insb", "insd", "outsb", "outsd", "vmcall", "sgdt", "sidt", "sldt", "str",
];

/// Instructions that stand in few places: so many at most.
const RARE: &[(&str, usize)] = &[("enclu", 3), ("rdrand", 16)];

/// Disassembles the image and reads its dynamic section.
pub(crate) fn pass(image: &Path) -> Result<()> {
    let listing = output("objdump", &["-d", "-M", "intel", "--no-show-raw-insn"], image)?;
    let mut rare = BTreeMap::<&str, usize>::new();
    let mut instructions = 0_usize;
    for line in listing.lines() {
        let Some((at, instruction)) = line.split_once(":\t") else { continue };
        instructions += 1;
        let name = instruction.split_whitespace().next().unwrap_or_default();
        if FORBIDDEN.contains(&name) {
            bail!("the image holds `{name}` at {}", at.trim());
        }
        for (operand, what) in [("zmm", "AVX-512"), ("fs:", "FS"), ("gs:", "GS"), ("tmm", "AMX")] {
            if instruction.contains(operand) {
                bail!("the image uses {what} at {}: {instruction}", at.trim());
            }
        }
        if let Some((name, _)) = RARE.iter().find(|(rare, _)| *rare == name) {
            *rare.entry(name).or_default() += 1;
        }
    }
    ensure!(instructions > 10_000, "objdump has listed {instructions} instructions only");
    for (name, most) in RARE {
        let found = rare.get(name).copied().unwrap_or_default();
        ensure!((1..=*most).contains(&found), "the image holds {found} `{name}`, not 1 to {most}");
    }

    let dynamic = output("readelf", &["-dW"], image)?;
    ensure!(!dynamic.contains("(NEEDED)"), "the image needs a library");
    let symbols = output("readelf", &["--dyn-syms", "-W"], image)?;
    let undefined = symbols.lines().filter(|line| line.contains(" UND ")).count();
    // The first entry of every symbol table is the undefined symbol.
    ensure!(undefined <= 1, "the image has undefined symbols:\n{symbols}");
    let relocations = output("readelf", &["-rW"], image)?;
    let other = relocations
        .lines()
        .find(|line| line.contains("R_X86_64_") && !line.contains("R_X86_64_RELATIVE"));
    ensure!(other.is_none(), "the image has a relocation of another kind: {other:?}");
    Ok(())
}

fn output(program: &str, arguments: &[&str], file: &Path) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .arg(file)
        .output()
        .with_context(|| format!("cannot run {program}; install binutils"))?;
    ensure!(output.status.success(), "{program} refuses {}", file.display());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
