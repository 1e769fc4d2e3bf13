//! How one entry lies in the file.
//!
//! ```text
//! "tle1" | u32 length | u64 index | u64 durable | u32 crc | leaf
//! ```
//!
//! Little-endian. The CRC-32 is over all that is before it, and the leaf. `durable` is how many
//! entries were known to be durable when this one was written: with it, recovery can tell an entry
//! that was torn before anybody relied on it from one that was damaged afterwards.

use crc32fast::Hasher;
use toani_protocol::limits::RECORD_BYTES_MAX;

pub(crate) const FILE_HEADER: &[u8; 16] = b"toani-log/1\n\0\0\0\0";
pub(crate) const HEADER_BYTES: usize = 28;
const MAGIC: &[u8; 4] = b"tle1";

/// The fixed part of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) length: usize,
    pub(crate) index: u64,
    pub(crate) durable: u64,
    crc: u32,
}

impl Header {
    /// `None` where no entry begins.
    pub(crate) fn read(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (index, rest) = rest.split_first_chunk()?;
        let (durable, rest) = rest.split_first_chunk()?;
        let (crc, _) = rest.split_first_chunk()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        (magic == MAGIC && (1..=RECORD_BYTES_MAX).contains(&length)).then_some(Self {
            length,
            index: u64::from_le_bytes(*index),
            durable: u64::from_le_bytes(*durable),
            crc: u32::from_le_bytes(*crc),
        })
    }

    /// Whether this is the leaf that was written under this header.
    pub(crate) fn fits(&self, leaf: &[u8]) -> bool {
        let length = u32::try_from(leaf.len()).ok();
        leaf.len() == self.length
            && length.is_some_and(|length| {
                checksum(&prefix(length, self.index, self.durable), leaf) == self.crc
            })
    }
}

fn prefix(length: u32, index: u64, durable: u64) -> [u8; 24] {
    let mut prefix = [0; 24];
    let fields = MAGIC
        .iter()
        .copied()
        .chain(length.to_le_bytes())
        .chain(index.to_le_bytes())
        .chain(durable.to_le_bytes());
    for (slot, byte) in prefix.iter_mut().zip(fields) {
        *slot = byte;
    }
    prefix
}

fn checksum(prefix: &[u8], leaf: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(prefix);
    hasher.update(leaf);
    hasher.finalize()
}

/// Adds one entry to a batch. A leaf has 1 to `RECORD_BYTES_MAX` bytes; others are left out, and
/// the caller has refused them before.
pub(crate) fn write(batch: &mut Vec<u8>, index: u64, durable: u64, leaf: &[u8]) {
    let Ok(length) = u32::try_from(leaf.len()) else {
        return;
    };
    let prefix = prefix(length, index, durable);
    batch.extend_from_slice(&prefix);
    batch.extend_from_slice(&checksum(&prefix, leaf).to_le_bytes());
    batch.extend_from_slice(leaf);
}

/// Bytes of an entry with a leaf of this length.
pub(crate) fn bytes_of(length: usize) -> u64 {
    u64::try_from(HEADER_BYTES.saturating_add(length)).unwrap_or(u64::MAX)
}

/// Whole entries anywhere in damaged bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) entries: u64,
    /// The most that any of them knew to be durable.
    pub(crate) durable: u64,
}

/// Looks for whole entries at any offset.
pub(crate) fn search(bytes: &[u8]) -> Found {
    let mut found = Found::default();
    let mut rest = bytes;
    while let Some(head) = rest.first_chunk::<HEADER_BYTES>() {
        let entry = Header::read(head).and_then(|header| {
            let leaf = rest.get(HEADER_BYTES..HEADER_BYTES + header.length)?;
            header.fits(leaf).then_some(header)
        });
        let step = match entry {
            Some(header) => {
                found.entries += 1;
                found.durable = found.durable.max(header.durable);
                HEADER_BYTES + header.length
            }
            None => 1,
        };
        rest = rest.get(step..).unwrap_or_default();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_entry_comes_back_and_no_changed_byte_does() {
        let mut batch = Vec::new();
        write(&mut batch, 7, 5, b"leaf");
        let read = |batch: &[u8]| {
            let header = Header::read(batch.first_chunk().unwrap())?;
            header.fits(&batch[HEADER_BYTES..]).then_some(header)
        };
        let header = read(&batch).unwrap();
        assert_eq!((header.length, header.index, header.durable), (4, 7, 5));
        for at in 0..batch.len() {
            for bit in 0..8 {
                let mut changed = batch.clone();
                changed[at] ^= 1 << bit;
                assert_eq!(read(&changed), None);
            }
        }
    }

    proptest! {
        #[test]
        fn whole_entries_are_found_behind_any_damage(
            damage in prop::collection::vec(any::<u8>(), 0..100), cut in 1usize..10,
        ) {
            let mut bytes = damage;
            write(&mut bytes, 1, 1, b"first");
            write(&mut bytes, 2, 1, b"second");
            prop_assert_eq!(search(&bytes), Found { entries: 2, durable: 1 });
            let torn = &bytes[..bytes.len() - cut];
            prop_assert_eq!(search(torn), Found { entries: 1, durable: 1 });
        }
    }
}
