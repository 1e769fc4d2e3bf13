//! Proofs from the stored tree (RFC 9162, section 2.1). toani-audit verifies them.

use toani_audit::tree::{empty_root, node_hash};
use toani_protocol::Hash;

/// Stored hashes of perfect subtrees.
pub(crate) trait Nodes {
    /// Root over the leaves `index * 2^level .. (index + 1) * 2^level`, if all of them are there.
    fn node(&self, level: u32, index: u64) -> Option<Hash>;
}

impl<F: Fn(u32, u64) -> Option<Hash>> Nodes for F {
    fn node(&self, level: u32, index: u64) -> Option<Hash> {
        self(level, index)
    }
}

/// A proof cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    #[error("the tree is not as large as that")]
    Range,
    #[error("a node of the tree is missing in the store")]
    Missing,
}

/// Root of the tree over the first `size` leaves.
pub(crate) fn root_at(nodes: &dyn Nodes, size: u64) -> Result<Hash, ProofError> {
    range_root(nodes, 0, size)
}

/// Proof that the leaf at `index` is in the tree of `size` leaves (RFC 9162, section 2.1.3.1).
pub(crate) fn inclusion_proof(
    nodes: &dyn Nodes,
    index: u64,
    size: u64,
) -> Result<Vec<Hash>, ProofError> {
    if index >= size {
        return Err(ProofError::Range);
    }
    let (mut low, mut high) = (0, size);
    let mut path = Vec::new();
    while let Some(middle) = split(low, high) {
        if index < middle {
            path.push(range_root(nodes, middle, high)?);
            high = middle;
        } else {
            path.push(range_root(nodes, low, middle)?);
            low = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// Proof that the tree of `old` leaves is a prefix of the one of `new` (RFC 9162, section
/// 2.1.4.1). Empty where both are the same or the old one is empty.
pub(crate) fn consistency_proof(
    nodes: &dyn Nodes,
    old: u64,
    new: u64,
) -> Result<Vec<Hash>, ProofError> {
    if old > new {
        return Err(ProofError::Range);
    }
    if old == 0 || old == new {
        return Ok(Vec::new());
    }
    let (mut low, mut high) = (0, new);
    let mut path = Vec::new();
    while old < high {
        let Some(middle) = split(low, high) else {
            break;
        };
        if old <= middle {
            path.push(range_root(nodes, middle, high)?);
            high = middle;
        } else {
            path.push(range_root(nodes, low, middle)?);
            low = middle;
        }
    }
    // Without a step to the right, the old tree itself is the subtree, and its root is known.
    if low > 0 {
        path.push(range_root(nodes, low, high)?);
    }
    path.reverse();
    Ok(path)
}

/// Where the RFC splits the leaves `low..high`: after the largest power of two below their number.
fn split(low: u64, high: u64) -> Option<u64> {
    let last = high.checked_sub(low)?.checked_sub(1)?;
    let left = 1u64.checked_shl(last.checked_ilog2()?)?;
    low.checked_add(left)
}

/// Root over `low..high`, where `low` is a multiple of the size of the subtree.
fn range_root(nodes: &dyn Nodes, low: u64, high: u64) -> Result<Hash, ProofError> {
    let mut peaks = Vec::new();
    let mut at = low;
    while let Some(level) = high.saturating_sub(at).checked_ilog2() {
        let width = 1u64.checked_shl(level).ok_or(ProofError::Range)?;
        let index = at.checked_shr(level).ok_or(ProofError::Range)?;
        peaks.push(nodes.node(level, index).ok_or(ProofError::Missing)?);
        at = at.checked_add(width).ok_or(ProofError::Range)?;
    }
    // Subtrees are joined from the right, as the tree of the RFC is shaped.
    let mut peaks = peaks.iter().rev();
    let Some(last) = peaks.next() else {
        return Ok(empty_root());
    };
    Ok(peaks.fold(*last, |right, left| node_hash(left, &right)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use toani_audit::tree::Frontier;
    use toani_protocol::record::Record;
    use toani_verify::merkle::{verify_consistency, verify_inclusion};

    fn root(leaves: &[Hash]) -> Hash {
        let mut tree = Frontier::new();
        leaves.iter().for_each(|leaf| tree.push(*leaf));
        tree.root()
    }

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count).map(|i| Hash::of(&i.to_be_bytes())).collect()
    }

    fn nodes(leaves: &[Hash]) -> impl Fn(u32, u64) -> Option<Hash> + '_ {
        move |level, index| {
            let low = usize::try_from(index).ok()? << level;
            leaves.get(low..low + (1 << level)).map(root)
        }
    }

    /// The test inputs of the Certificate Transparency reference implementation, and its proofs:
    /// the path of leaf 5 in the tree of 8, and consistency of 6 with 8.
    #[test]
    fn the_proofs_of_certificate_transparency() {
        let inputs: [&[u8]; 8] = [
            b"",
            &[0x00],
            &[0x10],
            &[0x20, 0x21],
            &[0x30, 0x31],
            &[0x40, 0x41, 0x42, 0x43],
            &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
            &[
                0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d,
                0x6e, 0x6f,
            ],
        ];
        let leaves: Vec<Hash> = inputs.iter().map(|input| Record::hash_of(input)).collect();
        let nodes = nodes(&leaves);
        let shared = [
            "sha256:ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "sha256:d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ];
        let texts = |proof: Vec<Hash>| proof.iter().map(Hash::to_string).collect::<Vec<_>>();
        let path = texts(inclusion_proof(&nodes, 5, 8).unwrap());
        assert_eq!(
            path[0],
            "sha256:bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
        );
        assert_eq!(path[1..], shared);
        let proof = texts(consistency_proof(&nodes, 6, 8).unwrap());
        assert_eq!(
            proof[0],
            "sha256:0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
        );
        assert_eq!(proof[1..], shared);
    }

    /// Both sides agree for every small tree. A proof that leads to the root is the only one.
    #[test]
    fn every_small_proof_verifies() {
        for size in 1..=33 {
            let leaves = leaves(size);
            let (nodes, whole, count) = (nodes(&leaves), root(&leaves), size as u64);
            for (leaf, index) in leaves.iter().zip(0..) {
                let proof = inclusion_proof(&nodes, index, count).unwrap();
                assert_eq!(verify_inclusion(leaf, index, count, &proof, &whole), Ok(()));
            }
            for old in 0..=size {
                let proof = consistency_proof(&nodes, old as u64, count).unwrap();
                let old_root = root(&leaves[..old]);
                let verdict = verify_consistency(old as u64, count, &proof, &old_root, &whole);
                assert_eq!(verdict, Ok(()));
            }
            assert_eq!(inclusion_proof(&nodes, count, count), Err(ProofError::Range));
            assert_eq!(inclusion_proof(&nodes, 0, count + 1), Err(ProofError::Missing));
            assert_eq!(consistency_proof(&nodes, count + 1, count), Err(ProofError::Range));
        }
    }

    proptest! {
        #[test]
        fn changed_proofs_are_refused(
            size in 1usize..200, pick in any::<prop::sample::Index>(),
            spot in any::<prop::sample::Index>(), how in 0..4,
        ) {
            let leaves = leaves(size);
            let (nodes, whole) = (nodes(&leaves), root(&leaves));
            let index = pick.index(size);
            prop_assert_eq!(root_at(&nodes, size as u64), Ok(whole));
            let change = |proof: &mut Vec<Hash>| match how {
                0 => proof.push(Hash::ZERO),
                1 => proof.insert(0, whole),
                2 if !proof.is_empty() => {
                    proof.pop();
                }
                _ if !proof.is_empty() => {
                    let at = spot.index(proof.len());
                    proof[at] = Hash::of(proof[at].as_bytes());
                }
                _ => proof.push(whole),
            };
            let old_root = root(&leaves[..=index]);
            let (leaf, index, size) = (leaves[index], index as u64, size as u64);
            let mut proof = inclusion_proof(&nodes, index, size).unwrap();
            change(&mut proof);
            prop_assert!(verify_inclusion(&leaf, index, size, &proof, &whole).is_err());
            let mut proof = consistency_proof(&nodes, index + 1, size).unwrap();
            change(&mut proof);
            prop_assert!(verify_consistency(index + 1, size, &proof, &old_root, &whole).is_err());
        }
    }
}
