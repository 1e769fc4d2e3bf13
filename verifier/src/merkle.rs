//! Merkle proofs of RFC 9162, section 2.1: that a leaf is in a tree, that a tree grew from another.
//!
//! Leaves come in as leaf hashes, `Record::hash_of(leaf)`. Sizes and indices count leaves.

use toani_audit::tree::{empty_root, node_hash};
use toani_protocol::Hash;

/// A proof has at most one hash for each level of the tree, and one more for consistency.
pub const PROOF_HASHES_MAX: usize = 65;

/// A proof does not prove what it claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the Merkle proof does not lead to the root")]
pub struct ProofRefused;

/// Verifies as RFC 9162, section 2.1.3.2, prescribes.
pub fn verify_inclusion(
    leaf_hash: &Hash,
    index: u64,
    size: u64,
    proof: &[Hash],
    root: &Hash,
) -> Result<(), ProofRefused> {
    if index >= size {
        return Err(ProofRefused);
    }
    let mut walk = Walk::new(index, size)?;
    let mut hash = *leaf_hash;
    for sibling in proof {
        hash = if walk.sibling_is_left()? {
            node_hash(sibling, &hash)
        } else {
            node_hash(&hash, sibling)
        };
        walk.up();
    }
    if walk.last == 0 && hash == *root { Ok(()) } else { Err(ProofRefused) }
}

/// Verifies as RFC 9162, section 2.1.4.2, prescribes. Two trees of one size need an empty proof
/// and one root; the empty tree is a prefix of any.
pub fn verify_consistency(
    old: u64,
    new: u64,
    proof: &[Hash],
    old_root: &Hash,
    new_root: &Hash,
) -> Result<(), ProofRefused> {
    let trivial = if old == new {
        Some(old_root == new_root && (old > 0 || *old_root == empty_root()))
    } else if old == 0 {
        Some(*old_root == empty_root())
    } else {
        None
    };
    match trivial {
        Some(true) if proof.is_empty() => return Ok(()),
        Some(_) => return Err(ProofRefused),
        None if old > new || proof.is_empty() => return Err(ProofRefused),
        None => {}
    }
    let mut hashes = proof.iter();
    let start = if old.is_power_of_two() { old_root } else { hashes.next().ok_or(ProofRefused)? };
    let mut walk = Walk::new(old.saturating_sub(1), new)?;
    while walk.at & 1 == 1 {
        walk.up();
    }
    let (mut old_hash, mut new_hash) = (*start, *start);
    for sibling in hashes {
        if walk.sibling_is_left()? {
            old_hash = node_hash(sibling, &old_hash);
            new_hash = node_hash(sibling, &new_hash);
        } else {
            new_hash = node_hash(&new_hash, sibling);
        }
        walk.up();
    }
    if walk.last == 0 && old_hash == *old_root && new_hash == *new_root {
        Ok(())
    } else {
        Err(ProofRefused)
    }
}

/// The RFC's `fn` and `sn`: a node and the last node of its level, on the way to the root.
struct Walk {
    at: u64,
    last: u64,
}

impl Walk {
    fn new(at: u64, size: u64) -> Result<Self, ProofRefused> {
        let last = size.checked_sub(1).ok_or(ProofRefused)?;
        Ok(Self { at, last })
    }

    /// Whether the next hash of the proof is a left sibling. Skips the levels on which this node
    /// has none.
    fn sibling_is_left(&mut self) -> Result<bool, ProofRefused> {
        if self.last == 0 {
            return Err(ProofRefused);
        }
        if self.at & 1 == 0 && self.at != self.last {
            return Ok(false);
        }
        while self.at & 1 == 0 && self.at != 0 {
            self.up();
        }
        Ok(true)
    }

    fn up(&mut self) {
        self.at >>= 1;
        self.last >>= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;
    use toani_audit::tree::Frontier;
    use toani_protocol::record::Record;

    fn hex(text: &str) -> Hash {
        Hash::new(HEXLOWER.decode(text.as_bytes()).unwrap().try_into().unwrap())
    }

    /// The test inputs of the Certificate Transparency reference implementation.
    const INPUTS: [&[u8]; 8] = [
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

    /// The tree as section 2.1.1 defines it, by recursion.
    fn naive(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty_root(),
            [one] => *one,
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                node_hash(&naive(left), &naive(right))
            }
        }
    }

    fn naive_path(index: usize, leaves: &[Hash]) -> Vec<Hash> {
        if leaves.len() == 1 {
            return Vec::new();
        }
        let k = leaves.len().next_power_of_two() / 2;
        let (left, right) = leaves.split_at(k);
        let (mut path, other) = if index < k {
            (naive_path(index, left), right)
        } else {
            (naive_path(index - k, right), left)
        };
        path.push(naive(other));
        path
    }

    fn naive_subproof(old: usize, leaves: &[Hash], whole: bool) -> Vec<Hash> {
        if old == leaves.len() {
            return if whole { Vec::new() } else { vec![naive(leaves)] };
        }
        let k = leaves.len().next_power_of_two() / 2;
        let (left, right) = leaves.split_at(k);
        let (mut path, other) = if old <= k {
            (naive_subproof(old, left, whole), right)
        } else {
            (naive_subproof(old - k, right, false), left)
        };
        path.push(naive(other));
        path
    }

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count).map(|i| Hash::of(&i.to_be_bytes())).collect()
    }

    /// Path of leaf 5 in the tree of 8, and consistency of 6 with 8 (CT reference vectors).
    #[test]
    fn the_proofs_of_certificate_transparency() {
        let root = |count| {
            let mut frontier = Frontier::new();
            INPUTS.iter().take(count).for_each(|input| frontier.push(Record::hash_of(input)));
            frontier.root()
        };
        let (six, eight) = (root(6), root(8));
        let shared = [
            hex("ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"),
            hex("d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"),
        ];
        let first = hex("bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b");
        let path = [first, shared[0], shared[1]];
        assert_eq!(verify_inclusion(&Record::hash_of(INPUTS[5]), 5, 8, &path, &eight), Ok(()));
        let first = hex("0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a");
        let proof = [first, shared[0], shared[1]];
        assert_eq!(verify_consistency(6, 8, &proof, &six, &eight), Ok(()));
    }

    #[test]
    fn every_small_proof_as_defined_verifies() {
        for size in 1..=33 {
            let leaves = leaves(size);
            let root = naive(&leaves);
            for index in 0..size {
                let proof = naive_path(index, &leaves);
                for claimed in 0..size + 2 {
                    let verdict = verify_inclusion(
                        &leaves[index],
                        claimed as u64,
                        size as u64,
                        &proof,
                        &root,
                    );
                    assert_eq!(verdict.is_ok(), claimed == index);
                }
            }
            for old in 0..=size {
                let proof = if old > 0 { naive_subproof(old, &leaves, true) } else { Vec::new() };
                let old_root = naive(&leaves[..old]);
                for claimed in 0..size + 2 {
                    let verdict =
                        verify_consistency(claimed as u64, size as u64, &proof, &old_root, &root);
                    assert_eq!(verdict.is_ok(), claimed == old, "{claimed} {old} {size}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn changed_proofs_are_refused(
            size in 1usize..200, pick in any::<prop::sample::Index>(),
            spot in any::<prop::sample::Index>(), how in 0..4,
        ) {
            let leaves = leaves(size);
            let (root, index) = (naive(&leaves), pick.index(size));
            let mut frontier = Frontier::new();
            leaves.iter().for_each(|leaf| frontier.push(*leaf));
            prop_assert_eq!(frontier.root(), root);
            let change = |proof: &mut Vec<Hash>| match how {
                0 => proof.push(Hash::ZERO),
                1 => proof.insert(0, root),
                2 if !proof.is_empty() => {
                    proof.pop();
                }
                _ if !proof.is_empty() => {
                    let at = spot.index(proof.len());
                    proof[at] = Hash::of(proof[at].as_bytes());
                }
                _ => proof.push(root),
            };
            let mut path = naive_path(index, &leaves);
            change(&mut path);
            let mut proof = naive_subproof(index + 1, &leaves, true);
            change(&mut proof);
            let (leaf, old_root) = (leaves[index], naive(&leaves[..=index]));
            let (index, size) = (index as u64, size as u64);
            prop_assert!(verify_inclusion(&leaf, index, size, &path, &root).is_err());
            prop_assert!(verify_consistency(index + 1, size, &proof, &old_root, &root).is_err());
        }

        #[test]
        fn any_proof_ends_in_an_answer(
            a in any::<u64>(), b in any::<u64>(), count in 0usize..70,
        ) {
            let proof = leaves(count);
            let hash = Hash::of(b"x");
            prop_assert!(verify_inclusion(&hash, a, b, &proof, &hash).is_err() || b == 1);
            let _ = verify_consistency(a, b, &proof, &hash, &hash);
        }
    }
}
