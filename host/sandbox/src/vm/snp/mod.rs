//! The launch digest that SEV-SNP firmware measures of a guest that QEMU boots with
//! `kernel-hashes=on` (AMD, publication 56860, LAUNCH_DIGEST and PAGE_INFO).
//!
//! ```text
//!   OVMF, page by page ─▶ the pages that it asks for, one of them with the SHA-256 of kernel,
//!   initrd and command line ─▶ the first registers of each processor
//! ```
//!
//! Checked against published digests, and not yet against such hardware.

mod firmware;
mod save_area;

use sha2::{Digest as _, Sha256, Sha384};
use toani_protocol::{ids::Hash, instance::LaunchDigest};

pub use self::firmware::FirmwareError;
use self::firmware::{Firmware, PAGE_BYTES, Section, SectionKind};

/// Of a digest's step: the digest before, the contents' hash, and 16 bytes about the page.
const STEP_BYTES: u16 = 0x70;
/// Where registers are said to be: the highest page below 2^48.
const REGISTERS_ADDRESS: u64 = 0xffff_ffff_f000;

/// PAGE_TYPE.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
enum Page {
    Normal = 1,
    Registers = 2,
    Zero = 3,
    Secrets = 5,
    Cpuid = 6,
}

/// What is measured besides the firmware.
#[derive(Debug, Clone)]
pub(super) struct Launch<'a> {
    pub(super) kernel: Hash,
    pub(super) initrd: Hash,
    /// Without a zero byte at its end.
    pub(super) command_line: &'a str,
    pub(super) processors: u32,
    /// As QEMU names it.
    pub(super) processor: &'a str,
    /// SEV_FEATURES of each processor.
    pub(super) features: u64,
}

/// SNP active, nothing else: what QEMU asks for on its own.
pub(super) const FEATURES: u64 = 1;

/// The launch digest of a guest with this OVMF.
///
/// # Errors
/// The firmware cannot measure a kernel, or the processor is not known.
pub(super) fn launch_digest(
    firmware: &[u8],
    launch: &Launch<'_>,
) -> Result<LaunchDigest, FirmwareError> {
    let firmware = Firmware::parse(firmware)?;
    let mut measured = Measured([0; 48]);
    measured.contents(firmware.address(), firmware.bytes);
    measured.rest(&firmware, launch)?;
    Ok(measured.0)
}

struct Measured(LaunchDigest);

impl Measured {
    fn step(&mut self, page: Page, address: u64, contents: [u8; 48]) {
        // No initial migration image, no rights for lower levels.
        let [low, high] = STEP_BYTES.to_le_bytes();
        let about = [low, high, page as u8, 0, 0, 0, 0, 0];
        let hash = Sha384::new_with_prefix(self.0).chain_update(contents).chain_update(about);
        self.0 = hash.chain_update(address.to_le_bytes()).finalize().into();
    }

    fn contents(&mut self, address: u64, bytes: &[u8]) {
        for (address, page) in pages(address).zip(bytes.chunks(PAGE_BYTES)) {
            self.step(Page::Normal, address, Sha384::digest(page).into());
        }
    }

    /// Everything after the firmware's own bytes.
    fn rest(&mut self, firmware: &Firmware<'_>, launch: &Launch<'_>) -> Result<(), FirmwareError> {
        for Section { kind, address, length } in &firmware.sections {
            let address = u64::from(*address);
            match kind {
                SectionKind::Memory | SectionKind::Caa => {
                    for page in pages(address).take(length.div_ceil(PAGE_BYTES)) {
                        self.step(Page::Zero, page, [0; 48]);
                    }
                }
                SectionKind::Secrets => self.step(Page::Secrets, address, [0; 48]),
                SectionKind::Cpuid => self.step(Page::Cpuid, address, [0; 48]),
                SectionKind::KernelHashes => {
                    self.contents(address, &hashes_page(firmware.hashes_offset, launch));
                }
            }
        }
        let signature = save_area::signature(launch.processor)
            .ok_or_else(|| FirmwareError::Processor(launch.processor.to_owned()))?;
        for number in 0..launch.processors {
            let at = if number == 0 { save_area::RESET } else { firmware.other_processors };
            let registers = save_area::page(at, signature, launch.features);
            self.step(Page::Registers, REGISTERS_ADDRESS, Sha384::digest(registers).into());
        }
        Ok(())
    }
}

fn pages(address: u64) -> impl Iterator<Item = u64> {
    (address..).step_by(PAGE_BYTES)
}

/// 9438d606-4f22-4cc9-b479-a793d411fd21, and so on, as they stand in memory.
const TABLE: [u8; 16] = guid(0x9438_d606, 0x4f22, 0x4cc9, 0xb479_a793_d411_fd21);
const KERNEL: [u8; 16] = guid(0x4de7_9437, 0xabd2, 0x427f, 0xb835_d5b1_72d2_045b);
const INITRD: [u8; 16] = guid(0x44ba_f731, 0x3a2f, 0x4bd7, 0x9af1_41e2_9169_781d);
const COMMAND_LINE: [u8; 16] = guid(0x97d0_2dd8, 0xbd20, 0x4c94, 0xaa78_e771_4d36_ab2a);
const ENTRY_BYTES: u16 = 16 + 2 + 32;
const TABLE_BYTES: u16 = 16 + 2 + 3 * ENTRY_BYTES;

/// QEMU's table of hashes in a page of its own, where the firmware looks for it.
fn hashes_page(offset: usize, launch: &Launch<'_>) -> Vec<u8> {
    let command_line = Sha256::new_with_prefix(launch.command_line).chain_update([0]).finalize();
    let mut page = vec![0; offset];
    page.extend_from_slice(&TABLE);
    page.extend_from_slice(&TABLE_BYTES.to_le_bytes());
    for (name, hash) in [
        (COMMAND_LINE, command_line.as_slice()),
        (INITRD, launch.initrd.as_bytes().as_slice()),
        (KERNEL, launch.kernel.as_bytes().as_slice()),
    ] {
        page.extend_from_slice(&name);
        page.extend_from_slice(&ENTRY_BYTES.to_le_bytes());
        page.extend_from_slice(hash);
    }
    page.resize(PAGE_BYTES, 0);
    page
}

/// A GUID as firmware stores it: its first three parts little-endian.
const fn guid(a: u32, b: u16, c: u16, d: u64) -> [u8; 16] {
    let ([a0, a1, a2, a3], [b0, b1], [c0, c1]) =
        (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
    let [d0, d1, d2, d3, d4, d5, d6, d7] = d.to_be_bytes();
    [a0, a1, a2, a3, b0, b1, c0, c1, d0, d1, d2, d3, d4, d5, d6, d7]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Published by the projects sev-snp-measure and sev with their tests, for the AmdSev build of
    /// OVMF: of its own bytes, and of guests with empty kernel and initrd.
    const OVMF: &str = "086e2e9149ebf45abdc3445fba5b2da8270bdbb04094d7a2c37faaa4b24af3aa\
                        16aff8c374c2a55c467a50da6d466b74";
    const PUBLISHED: &[(&str, u32, u64, &str)] = &[
        (
            "",
            1,
            0x1,
            "ddc5224521617a536ee7ce9dd6224d1b58a8d4fda1c741f3ac99fc4bfa04ba6e\
             9fc98646d4a07a9079397fa3852819b5",
        ),
        (
            "",
            1,
            0x21,
            "329c8ce0972ae52343b64d34a434a86f245dfd74f5ed7aae15d22efc78fb9683\
             632b9b50e4e1d7fa41179ef98a7ef198",
        ),
        (
            "console=ttyS0 loglevel=7",
            1,
            0x1,
            "6d287813eb5222d770f75005c664e34c204f385ce832cc2ce7d0d6f354454362\
             f390ef83a92046c042e706363b4b08fa",
        ),
        (
            "",
            4,
            0x1,
            "5061fffb019493a903613d56d54b94912a1a2f9e4502385f5c194616753720a9\
             2441310ba6c4933de877c36e23046ad5",
        ),
        (
            "",
            4,
            0x21,
            "4953b1fb416fa874980e8442b3706d345926d5f38879134e00813c5d7abcbe78\
             eafe7b422907be0b4698e2414a631942",
        ),
    ];

    fn bytes(hex: &str) -> LaunchDigest {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
        let bytes: Vec<u8> = digits.chunks(2).map(|pair| byte(pair).unwrap()).collect();
        bytes.try_into().unwrap()
    }

    fn launch(command_line: &str, processors: u32, features: u64) -> Launch<'_> {
        let nothing = Hash::of(b"");
        let (kernel, initrd, processor) = (nothing, nothing, "EPYC-v4");
        Launch { kernel, initrd, command_line, processors, processor, features }
    }

    #[test]
    fn published_digests_come_out() {
        let firmware = firmware::tests::amd_sev();
        let firmware = Firmware::parse(&firmware).unwrap();
        for (command_line, processors, features, expected) in PUBLISHED {
            let mut measured = Measured(bytes(OVMF));
            measured.rest(&firmware, &launch(command_line, *processors, *features)).unwrap();
            assert_eq!(measured.0, bytes(expected), "{command_line:?} {processors} {features:#x}");
        }
    }

    /// Of the whole of our own stand-in, by the crate sev 8.0.0.
    #[test]
    fn another_program_finds_the_same_digest() {
        let digest = launch_digest(&firmware::tests::amd_sev(), &launch("quiet", 2, FEATURES));
        let expected = "fe3948a6f1344f202f1fd347196a94e05bdbab5c0fe821539ba6f1da6bcbf409\
                        6565b0cc3edcf6603a4f14ab618a20cf";
        assert_eq!(digest.unwrap(), bytes(expected));
    }

    #[test]
    fn everything_that_is_booted_is_in_it() {
        let firmware = firmware::tests::amd_sev();
        let first = launch_digest(&firmware, &launch("quiet", 1, FEATURES)).unwrap();
        let kernel = Launch { kernel: Hash::of(b"k"), ..launch("quiet", 1, FEATURES) };
        let initrd = Launch { initrd: Hash::of(b"i"), ..launch("quiet", 1, FEATURES) };
        let milan = Launch { processor: "EPYC-Milan", ..launch("quiet", 1, FEATURES) };
        let mut other_firmware = firmware.clone();
        other_firmware[0] ^= 1;
        for other in [
            launch_digest(&firmware, &kernel),
            launch_digest(&firmware, &initrd),
            launch_digest(&firmware, &milan),
            launch_digest(&firmware, &launch("quiet ", 1, FEATURES)),
            launch_digest(&firmware, &launch("quiet", 2, FEATURES)),
            launch_digest(&other_firmware, &launch("quiet", 1, FEATURES)),
        ] {
            assert_ne!(other.unwrap(), first);
        }
        let unknown = Launch { processor: "host", ..launch("quiet", 1, FEATURES) };
        assert!(matches!(launch_digest(&firmware, &unknown), Err(FirmwareError::Processor(_))));
    }
}
