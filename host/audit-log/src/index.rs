//! What is known in memory of the durable entries: where they lie, whose they are, and the tree.
//!
//! Some 80 bytes for each record; a log of ten million costs under a gigabyte.

use std::{collections::HashMap, sync::LazyLock};

use memchr::memmem::Finder;
use toani_audit::tree::node_hash;
use toani_protocol::{
    Hash, TenantId,
    record::{Record, RecordKind},
};

use crate::proofs::Nodes;

static INDEX: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"index\":"));
static PREVIOUS: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"previous\":\""));
static KIND: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"kind\":\""));
static TENANT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"tenant\":\""));

/// The text of a field in canonical JSON: what is between its name and the next `end`.
///
/// The writer needs four fields of a leaf, and parsing all of it costs as much as hashing it. In
/// canonical JSON a quote inside a string is escaped, so that `"name":` can only be a field; and
/// of all objects in a record only the record itself has these four. Whether the leaf is a
/// canonical record at all, and says the same to a parser, the signature thread verifies.
fn field<'a>(leaf: &'a [u8], name: &Finder<'_>, end: &[u8]) -> Option<&'a str> {
    let begin = name.find(leaf)?.checked_add(name.needle().len())?;
    let text = leaf.get(begin..)?;
    let length = text.iter().position(|byte| end.contains(byte))?;
    str::from_utf8(text.get(..length)?).ok()
}

/// One leaf with what places it.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) leaf: Vec<u8>,
    pub(crate) index: u64,
    pub(crate) previous: Hash,
    pub(crate) hash: Hash,
    pub(crate) tenant: Option<TenantId>,
    /// Whether it begins a boot.
    pub(crate) boots: bool,
}

impl Placed {
    /// `None` if this is no record; see [`field`].
    pub(crate) fn read(leaf: Vec<u8>) -> Option<Self> {
        let tenant = field(&leaf, &TENANT, b"\"");
        Some(Self {
            hash: Record::hash_of(&leaf),
            index: field(&leaf, &INDEX, b",}")?.parse().ok()?,
            previous: field(&leaf, &PREVIOUS, b"\"")?.parse().ok()?,
            tenant: match tenant {
                Some(tenant) => Some(TenantId::new(tenant).ok()?),
                None => None,
            },
            boots: field(&leaf, &KIND, b"\"")? == RecordKind::Boot.as_str(),
            leaf,
        })
    }

    /// Whether this is the entry at `index` after the one with this hash.
    pub(crate) fn follows(&self, index: u64, head: &Hash) -> bool {
        self.index == index && self.previous == *head
    }
}

/// The durable entries.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Offset of each entry's frame.
    offsets: Vec<u64>,
    tenants: HashMap<TenantId, Vec<u64>>,
    /// The records that begin a boot.
    boots: Vec<u64>,
    /// `levels[l][i]`: root of the perfect subtree of 2^l leaves that begins at `i * 2^l`.
    levels: Vec<Vec<Hash>>,
}

impl Index {
    pub(crate) fn push(&mut self, offset: u64, placed: Placed) {
        let index = self.size();
        self.offsets.push(offset);
        if let Some(tenant) = placed.tenant {
            self.tenants.entry(tenant).or_default().push(index);
        }
        if placed.boots {
            self.boots.push(index);
        }
        let mut hash = placed.hash;
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            let Some(nodes) = self.levels.get_mut(level) else {
                return;
            };
            let left = nodes.last().copied();
            nodes.push(hash);
            match left {
                Some(left) if nodes.len() % 2 == 0 => hash = node_hash(&left, &hash),
                _ => return,
            }
        }
    }

    pub(crate) fn size(&self) -> u64 {
        u64::try_from(self.offsets.len()).unwrap_or(u64::MAX)
    }

    pub(crate) fn offset(&self, index: u64) -> Option<u64> {
        self.offsets.get(usize::try_from(index).ok()?).copied()
    }

    /// The tenant's records from its `sequence` on.
    pub(crate) fn of_tenant(&self, tenant: &TenantId, sequence: u64, max: usize) -> Vec<u64> {
        let indices = self.tenants.get(tenant).map(Vec::as_slice);
        let from = usize::try_from(sequence).unwrap_or(usize::MAX);
        let indices = indices.and_then(|all| all.get(from..)).unwrap_or_default();
        indices.iter().take(max).copied().collect()
    }

    /// The record that begins the boot of the record at `index`; a birth comes before its own.
    pub(crate) fn boot_of(&self, index: u64) -> Option<u64> {
        let after = self.boots.partition_point(|boot| *boot <= index);
        self.boots.get(after.saturating_sub(1)).copied()
    }

    pub(crate) fn tenant_size(&self, tenant: &TenantId) -> u64 {
        let indices = self.tenants.get(tenant).map_or(0, Vec::len);
        u64::try_from(indices).unwrap_or(u64::MAX)
    }
}

impl Nodes for Index {
    fn node(&self, level: u32, index: u64) -> Option<Hash> {
        let nodes = self.levels.get(usize::try_from(level).ok()?)?;
        nodes.get(usize::try_from(index).ok()?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proofs::root_at;
    use toani_audit::tree::Frontier;

    #[test]
    fn a_leaf_is_placed_by_its_own_fields() {
        let zero = Hash::ZERO;
        let leaf = format!(
            r#"{{"index":7,"kind":"boot","origin":"\\"index\\":9","previous":"{zero}","tenant":"t1","tenant_previous":"x"}}"#
        );
        let placed = Placed::read(leaf.into_bytes()).unwrap();
        assert_eq!((placed.index, placed.previous, placed.boots), (7, zero, true));
        assert_eq!(placed.tenant, TenantId::new("t1").ok());
        for wrong in ["{}", "", r#"{"index":7}"#, r#"{"index":-7,"previous":"x"}"#] {
            assert!(Placed::read(wrong.into()).is_none());
        }
    }

    fn placed(hash: Hash, boots: bool) -> Placed {
        Placed { leaf: Vec::new(), index: 0, previous: Hash::ZERO, hash, tenant: None, boots }
    }

    #[test]
    fn a_boots_record_is_the_last_one_before_its_records() {
        let mut index = Index::default();
        assert_eq!(index.boot_of(0), None);
        // Birth, boot, two records, boot.
        for boots in [false, true, false, false, true] {
            index.push(0, placed(Hash::ZERO, boots));
        }
        let of: Vec<_> = (0..5).map(|at| index.boot_of(at)).collect();
        assert_eq!(of, [Some(1), Some(1), Some(1), Some(1), Some(4)]);
    }

    #[test]
    fn the_kept_tree_is_the_tree() {
        let (mut index, mut frontier) = (Index::default(), Frontier::new());
        for i in 0..300u64 {
            let hash = Hash::of(&i.to_be_bytes());
            index.push(i, placed(hash, false));
            frontier.push(hash);
            assert_eq!(root_at(&index, i + 1), Ok(frontier.root()));
        }
        assert_eq!(index.offset(299), Some(299));
        assert_eq!(index.offset(300), None);
    }
}
