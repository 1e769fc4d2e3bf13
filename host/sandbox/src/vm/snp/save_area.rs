//! The registers of a processor before its first instruction, in the page that holds them (AMD,
//! APM volume 2, 15.34 and table B-4: the VMSA), as QEMU and KVM set them.

use super::firmware::PAGE_BYTES;

/// Where the first processor begins, as any x86 does.
pub(super) const RESET: u32 = 0xffff_fff0;

/// CPUID 1 EAX of the processors that QEMU names: it stands in EDX after a reset.
pub(super) fn signature(processor: &str) -> Option<u32> {
    // A version changes features, and not the signature.
    let line = match processor.rsplit_once("-v") {
        Some((line, version)) if version.parse::<u8>().is_ok() => line,
        _ => processor,
    };
    let (family, model, stepping) = match line {
        "EPYC" | "EPYC-IBPB" => (0x17, 0x01, 2),
        "EPYC-Rome" => (0x17, 0x31, 0),
        "EPYC-Milan" => (0x19, 0x01, 1),
        "EPYC-Genoa" => (0x19, 0x11, 0),
        "EPYC-Turin" => (0x1a, 0x00, 0),
        _ => return None,
    };
    Some(cpuid(family, model, stepping))
}

/// Families above 15 are 15 and an extension.
const fn cpuid(family: u32, model: u32, stepping: u32) -> u32 {
    let extension = family - 0xf;
    extension << 20 | (model >> 4) << 16 | 0xf << 8 | (model & 0xf) << 4 | stepping
}

/// A segment register: where it stands, its selector, its attributes, its base.
type Segment = (usize, u16, u16, u64);

/// The page of a processor that begins at `start`.
pub(super) fn page(start: u32, signature: u32, features: u64) -> Vec<u8> {
    let mut page = vec![0; PAGE_BYTES];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = at.checked_add(bytes.len()).and_then(|end| page.get_mut(at..end)) {
            place.copy_from_slice(bytes);
        }
    };
    let code_base = u64::from(start & 0xffff_0000);
    let segments: [Segment; 10] = [
        (0x00, 0, 0x93, 0),              // ES
        (0x10, 0xf000, 0x9b, code_base), // CS
        (0x20, 0, 0x93, 0),              // SS
        (0x30, 0, 0x93, 0),              // DS
        (0x40, 0, 0x93, 0),              // FS
        (0x50, 0, 0x93, 0),              // GS
        (0x60, 0, 0, 0),                 // GDTR
        (0x70, 0, 0x82, 0),              // LDTR
        (0x80, 0, 0, 0),                 // IDTR
        (0x90, 0, 0x8b, 0),              // TR
    ];
    for (at, selector, attributes, base) in segments {
        put(at, &selector.to_le_bytes());
        put(at + 2, &attributes.to_le_bytes());
        put(at + 4, &0xffff_u32.to_le_bytes());
        put(at + 8, &base.to_le_bytes());
    }
    let registers: [(usize, u64); 12] = [
        (0x0d0, 0x1000),                    // EFER: SVME
        (0x148, 0x40),                      // CR4: MCE
        (0x158, 0x10),                      // CR0: ET
        (0x160, 0x400),                     // DR7
        (0x168, 0xffff_0ff0),               // DR6
        (0x170, 0x2),                       // RFLAGS
        (0x178, u64::from(start & 0xffff)), // RIP
        (0x268, 0x0007_0406_0007_0406),     // PAT
        (0x310, u64::from(signature)),      // RDX
        (0x3b0, features),                  // SEV_FEATURES
        (0x3e8, 0x1),                       // XCR0
        (0x408, 0x1f80),                    // MXCSR
    ];
    for (at, value) in registers {
        put(at, &value.to_le_bytes());
    }
    put(0x410, &0x37f_u16.to_le_bytes()); // x87 control word
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_known_by_line_and_version() {
        assert_eq!(signature("EPYC-v4"), Some(0x0080_0f12));
        assert_eq!(signature("EPYC"), signature("EPYC-v1"));
        assert_eq!(signature("EPYC-Milan-v2"), Some(0x00a0_0f11));
        assert_eq!(signature("EPYC-Genoa"), Some(0x00a1_0f10));
        assert_eq!(signature("EPYC-vx"), None);
        assert_eq!(signature("host"), None);
    }
}
