//! What OVMF says of itself: a table at its end, from the last entry to the first, and in it where
//! its description of the pages is that SEV-SNP has to prepare (edk2, OvmfPkg/ResetVector:
//! Ia16/ResetVectorVtf0.asm and X64/OvmfSevMetadata.asm).

use super::guid;

pub(super) const PAGE_BYTES: usize = 4096;

/// Bytes behind the table, up to the end.
const BEHIND_BYTES: usize = 32;
/// An entry ends in its length, which counts itself and the name, and its name.
const ENTRY_END_BYTES: usize = 2 + 16;

const FOOTER: [u8; 16] = guid(0x96b5_82de, 0x1fb2, 0x45f7, 0xbaea_a366_c55a_082d);
const HASH_TABLE: [u8; 16] = guid(0x7255_371f, 0x3a3b, 0x4b04, 0x927b_1da6_efa8_d454);
const RESET_BLOCK: [u8; 16] = guid(0x00f7_71de, 0x1a7e, 0x4fcb, 0x890e_68c7_7e2f_b44e);
const METADATA: [u8; 16] = guid(0xdc88_6566, 0x984a, 0x4798, 0xa75e_5585_a7bf_67cc);

const SIGNATURE: &[u8; 4] = b"ASEV";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 16;
const SECTION_BYTES: usize = 12;
/// OVMF has seven.
const SECTIONS_MAX: usize = 64;
/// Of one section: OVMF's are far below.
const SECTION_LENGTH_MAX: usize = 256 * 1024 * 1024;
const FIRMWARE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A firmware of which no launch digest can be computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FirmwareError {
    #[error("the firmware is no OVMF: it does not end as one does")]
    NotOvmf,
    #[error("the firmware is an OVMF without metadata for SEV-SNP; the AmdSev build has them")]
    NoSnp,
    #[error(
        "the firmware knows SEV-SNP and does not measure kernel, initrd and command line; OVMF's \
         AmdSev build does"
    )]
    NoKernelHashes,
    #[error("the firmware's metadata for SEV-SNP are not of the form that is known")]
    Metadata,
    #[error("{0:?} is no processor whose registers are known; EPYC-v4 is one")]
    Processor(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SectionKind {
    Memory,
    Secrets,
    Cpuid,
    /// Of a secure VM service module.
    Caa,
    KernelHashes,
}

/// Pages that are there, and measured, before the first instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) kind: SectionKind,
    pub(super) address: u32,
    pub(super) length: usize,
}

#[derive(Debug)]
pub(super) struct Firmware<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) sections: Vec<Section>,
    /// Of the table of hashes in its page.
    pub(super) hashes_offset: usize,
    /// Where all processors but the first begin.
    pub(super) other_processors: u32,
}

impl<'a> Firmware<'a> {
    /// Only what measures a kernel is taken: any other would let one in that nobody has measured.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, FirmwareError> {
        if bytes.len() > FIRMWARE_BYTES_MAX || !bytes.len().is_multiple_of(PAGE_BYTES) {
            return Err(FirmwareError::NotOvmf);
        }
        let table = Table::of(bytes).ok_or(FirmwareError::NotOvmf)?;
        let number = |name| first_u32(table.entry(name)?);
        let from_end = number(METADATA).ok_or(FirmwareError::NoSnp)?;
        let sections = sections(bytes, from_end)?;
        let hashes = number(HASH_TABLE).filter(|address| *address != 0);
        let page = sections.iter().find(|section| section.kind == SectionKind::KernelHashes);
        let (Some(hashes), Some(page)) = (hashes, page) else {
            return Err(FirmwareError::NoKernelHashes);
        };
        if page.length != PAGE_BYTES {
            return Err(FirmwareError::Metadata);
        }
        let hashes_offset =
            usize::try_from(hashes).map_err(|_| FirmwareError::Metadata)? % PAGE_BYTES;
        if hashes_offset > PAGE_BYTES - usize::from(super::TABLE_BYTES) {
            return Err(FirmwareError::Metadata);
        }
        let other_processors = number(RESET_BLOCK).ok_or(FirmwareError::NoSnp)?;
        Ok(Self { bytes, sections, hashes_offset, other_processors })
    }

    /// It ends at 4 GiB.
    pub(super) fn address(&self) -> u64 {
        let length = u64::try_from(self.bytes.len()).unwrap_or_default();
        (1 << 32) - length
    }
}

/// The entries, without the footer.
struct Table<'a>(&'a [u8]);

impl<'a> Table<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let end = bytes.len().checked_sub(BEHIND_BYTES)?;
        let (_, footer) = Self(bytes.get(..end)?).last()?;
        // Its length is the whole table's, and its data are the entries.
        (footer.name == FOOTER).then_some(Self(footer.data))
    }

    fn entry(&self, name: [u8; 16]) -> Option<&'a [u8]> {
        let mut rest = Self(self.0);
        while let Some((before, last)) = rest.last() {
            if last.name == name {
                return Some(last.data);
            }
            rest = Self(before);
        }
        None
    }

    /// The last entry and what is before it.
    fn last(&self) -> Option<(&'a [u8], Entry<'a>)> {
        let (_, end) = self.0.split_at_checked(self.0.len().checked_sub(ENTRY_END_BYTES)?)?;
        let (length, name) = end.split_at_checked(2)?;
        let length = usize::from(u16::from_le_bytes(length.try_into().ok()?));
        let data = length.checked_sub(ENTRY_END_BYTES)?;
        let (before, whole) = self.0.split_at_checked(self.0.len().checked_sub(length)?)?;
        Some((before, Entry { name: name.try_into().ok()?, data: whole.get(..data)? }))
    }
}

struct Entry<'a> {
    name: [u8; 16],
    /// What stands before its length and name.
    data: &'a [u8],
}

fn first_u32(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn sections(bytes: &[u8], from_end: u32) -> Result<Vec<Section>, FirmwareError> {
    let start = usize::try_from(from_end).ok().and_then(|offset| bytes.len().checked_sub(offset));
    let (header, rest) = start
        .and_then(|start| bytes.get(start..)?.split_at_checked(HEADER_BYTES))
        .ok_or(FirmwareError::Metadata)?;
    let word = |at: usize| header.get(at..).and_then(first_u32);
    let count = word(12).and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
    if !header.starts_with(SIGNATURE) || word(8) != Some(VERSION) || count > SECTIONS_MAX {
        return Err(FirmwareError::Metadata);
    }
    let listed = rest.get(..count * SECTION_BYTES).ok_or(FirmwareError::Metadata)?;
    listed.chunks(SECTION_BYTES).map(section).collect::<Option<_>>().ok_or(FirmwareError::Metadata)
}

fn section(bytes: &[u8]) -> Option<Section> {
    let address = first_u32(bytes)?;
    let length = usize::try_from(first_u32(bytes.get(4..)?)?).ok()?;
    let kind = match first_u32(bytes.get(8..)?)? {
        1 => SectionKind::Memory,
        2 => SectionKind::Secrets,
        3 => SectionKind::Cpuid,
        4 => SectionKind::Caa,
        0x10 => SectionKind::KernelHashes,
        _ => return None,
    };
    (length <= SECTION_LENGTH_MAX).then_some(Section { kind, address, length })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sections of the AmdSev build for which digests were published.
    const SECTIONS: [(u32, u32, u32); 7] = [
        (0x80_0000, 0x9000, 1),
        (0x80_a000, 0x3000, 1),
        (0x80_d000, 0x1000, 2),
        (0x80_e000, 0x1000, 3),
        (0x80_f000, 0x1000, 4),
        (0x81_0000, 0x1000, 0x10),
        (0x81_1000, 0xf000, 1),
    ];

    fn entry(name: [u8; 16], data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(data.len() + ENTRY_END_BYTES).unwrap();
        [data, &length.to_le_bytes(), &name].concat()
    }

    /// A firmware with nothing in it but what such a build says of itself.
    pub(in super::super) fn amd_sev() -> Vec<u8> {
        build(&SECTIONS, 0x81_0c00)
    }

    fn build(sections: &[(u32, u32, u32)], hashes: u32) -> Vec<u8> {
        let mut metadata = Vec::new();
        metadata.extend_from_slice(SIGNATURE);
        let length = u32::try_from(HEADER_BYTES + sections.len() * SECTION_BYTES).unwrap();
        for word in [length, VERSION, u32::try_from(sections.len()).unwrap()] {
            metadata.extend_from_slice(&word.to_le_bytes());
        }
        for (address, length, kind) in sections {
            for word in [address, length, kind] {
                metadata.extend_from_slice(&word.to_le_bytes());
            }
        }
        let mut entries = entry(METADATA, &1024_u32.to_le_bytes());
        entries.extend(entry(HASH_TABLE, &[hashes.to_le_bytes(), 1024_u32.to_le_bytes()].concat()));
        entries.extend(entry(RESET_BLOCK, &0x80_b004_u32.to_le_bytes()));
        let table = u16::try_from(entries.len() + ENTRY_END_BYTES).unwrap();
        entries.extend_from_slice(&table.to_le_bytes());
        entries.extend_from_slice(&FOOTER);

        let mut firmware = vec![0xff; PAGE_BYTES];
        let end = PAGE_BYTES - BEHIND_BYTES;
        firmware[PAGE_BYTES - 1024..][..metadata.len()].copy_from_slice(&metadata);
        firmware[end - entries.len()..end].copy_from_slice(&entries);
        firmware
    }

    #[test]
    fn what_it_says_of_itself_is_read() {
        let bytes = amd_sev();
        let firmware = Firmware::parse(&bytes).unwrap();
        assert_eq!(firmware.sections.len(), 7);
        assert_eq!(firmware.hashes_offset, 0xc00);
        assert_eq!(firmware.other_processors, 0x80_b004);
        assert_eq!(firmware.address(), 0xffff_f000);
    }

    #[test]
    fn one_that_does_not_measure_a_kernel_is_refused() {
        let refused = |bytes: &[u8]| Firmware::parse(bytes).unwrap_err();
        let without: Vec<_> = SECTIONS.into_iter().filter(|(.., kind)| *kind != 0x10).collect();
        assert_eq!(refused(&build(&without, 0x81_0c00)), FirmwareError::NoKernelHashes);
        assert_eq!(refused(&build(&SECTIONS, 0)), FirmwareError::NoKernelHashes);
        assert_eq!(refused(&build(&SECTIONS, 0x81_0fff)), FirmwareError::Metadata);
        assert_eq!(refused(&build(&[(0, 4096, 9)], 0x81_0c00)), FirmwareError::Metadata);
        assert_eq!(refused(&vec![0xff; PAGE_BYTES]), FirmwareError::NotOvmf);
        assert_eq!(refused(b""), FirmwareError::NotOvmf);
        let mut no_metadata = amd_sev();
        let at = no_metadata.windows(16).position(|part| part == METADATA).unwrap();
        no_metadata[at] ^= 1;
        assert_eq!(refused(&no_metadata), FirmwareError::NoSnp);
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(
            places in prop::collection::vec((0..PAGE_BYTES, any::<u8>()), 0..64),
            tail in 0..2 * PAGE_BYTES,
        ) {
            let mut bytes = amd_sev();
            for (at, byte) in places {
                bytes[at] = byte;
            }
            let _ = Firmware::parse(&bytes);
            let _ = Firmware::parse(bytes.get(tail..).unwrap_or_default());
        }

        /// Where the tables are, which random places seldom hit.
        #[test]
        fn any_table_ends_in_an_answer(
            places in prop::collection::vec((PAGE_BYTES - 160..PAGE_BYTES, any::<u8>()), 0..4),
            more in prop::collection::vec((PAGE_BYTES - 1024..PAGE_BYTES - 900, any::<u8>()), 0..4),
        ) {
            let mut bytes = amd_sev();
            for (at, byte) in places.into_iter().chain(more) {
                bytes[at] = byte;
            }
            let _ = Firmware::parse(&bytes);
        }
    }
}
