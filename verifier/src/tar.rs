//! The archive: POSIX ustar, with exactly one encoding of any set of files.
//!
//! Regular files only, mode 0644, owner 0, time 0, names in the order of their bytes, each of 1
//! to 100 of `A-Z a-z 0-9 . _ - /`, two zero blocks at the end and nothing after them.

use std::collections::BTreeMap;

const BLOCK: usize = 512;
const NAME_BYTES_MAX: usize = 100;
/// Eleven octal digits hold more; no bundle needs it.
const FILE_BYTES_MAX: usize = 0x7fff_ffff;

/// The archive is not in its one encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the archive is not in its one encoding")]
pub struct TarError;

/// Writes the files.
pub fn write(files: &BTreeMap<String, Vec<u8>>) -> Result<Vec<u8>, TarError> {
    let mut out = Vec::new();
    for (name, content) in files {
        out.extend_from_slice(&header(name, content.len())?);
        out.extend_from_slice(content);
        out.resize(out.len().saturating_add(padding(content.len())), 0);
    }
    out.resize(out.len().saturating_add(2 * BLOCK), 0);
    Ok(out)
}

/// Reads the files. What this accepts is, byte for byte, what [`write()`] makes of it.
pub fn parse(archive: &[u8]) -> Result<BTreeMap<&str, &[u8]>, TarError> {
    let mut files = BTreeMap::new();
    let mut rest = archive;
    while let Some((block, tail)) = rest.split_at_checked(BLOCK) {
        if block.first() == Some(&0) {
            break;
        }
        let name = text(block.get(..NAME_BYTES_MAX).ok_or(TarError)?)?;
        let size = octal(block.get(124..135).ok_or(TarError)?)?;
        if header(name, size)?.as_slice() != block {
            return Err(TarError);
        }
        let (content, tail) = tail.split_at_checked(size).ok_or(TarError)?;
        let (fill, tail) = tail.split_at_checked(padding(size)).ok_or(TarError)?;
        let sorted = files.last_key_value().is_none_or(|(last, _): (&&str, _)| *last < name);
        if !sorted || fill.iter().any(|byte| *byte != 0) {
            return Err(TarError);
        }
        files.insert(name, content);
        rest = tail;
    }
    if rest.len() == 2 * BLOCK && rest.iter().all(|byte| *byte == 0) {
        Ok(files)
    } else {
        Err(TarError)
    }
}

fn padding(size: usize) -> usize {
    size.next_multiple_of(BLOCK).saturating_sub(size)
}

fn is_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed)
}

/// The field up to its first zero byte; the comparison with [`header`] checks what follows.
fn text(field: &[u8]) -> Result<&str, TarError> {
    let length = field.iter().position(|byte| *byte == 0);
    let bytes = field.get(..length.unwrap_or(field.len())).ok_or(TarError)?;
    core::str::from_utf8(bytes).map_err(|_| TarError)
}

fn octal(digits: &[u8]) -> Result<usize, TarError> {
    digits.iter().try_fold(0usize, |sum, digit| match digit {
        b'0'..=b'7' => sum
            .checked_mul(8)
            .and_then(|sum| sum.checked_add(usize::from(digit & 7)))
            .ok_or(TarError),
        _ => Err(TarError),
    })
}

fn put(block: &mut [u8; BLOCK], at: usize, bytes: &[u8]) {
    for (slot, byte) in block.iter_mut().skip(at).zip(bytes) {
        *slot = *byte;
    }
}

/// One file's header block (POSIX.1-1988, ustar).
fn header(name: &str, size: usize) -> Result<[u8; BLOCK], TarError> {
    if !is_name(name) || size > FILE_BYTES_MAX {
        return Err(TarError);
    }
    let mut block = [0; BLOCK];
    put(&mut block, 0, name.as_bytes());
    put(&mut block, 100, b"0000644");
    put(&mut block, 108, b"0000000");
    put(&mut block, 116, b"0000000");
    put(&mut block, 124, format!("{size:011o}").as_bytes());
    put(&mut block, 136, b"00000000000");
    put(&mut block, 148, b"        ");
    put(&mut block, 156, b"0");
    put(&mut block, 257, b"ustar\x0000");
    put(&mut block, 329, b"0000000");
    put(&mut block, 337, b"0000000");
    let sum = block.iter().fold(0u32, |sum, byte| sum.saturating_add(u32::from(*byte)));
    put(&mut block, 148, format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn files() -> impl Strategy<Value = BTreeMap<String, Vec<u8>>> {
        let content = prop::collection::vec(any::<u8>(), 0..1200);
        prop::collection::btree_map("[a-z0-9./_-]{1,20}", content, 0..6)
    }

    #[test]
    fn names_and_order_are_strict() {
        for bad in ["", "a b", "ä", "a\n", &"a".repeat(101)] {
            assert!(write(&BTreeMap::from([(bad.into(), Vec::new())])).is_err());
        }
        let one = |name: &str| write(&BTreeMap::from([(name.into(), Vec::new())])).unwrap();
        let (a, b) = (one("a"), one("b"));
        assert!(parse(&[&a[..512], &b].concat()).is_ok());
        assert!(parse(&[&b[..512], &a].concat()).is_err());
        assert!(parse(&[&a[..512], &a].concat()).is_err());
        assert_eq!(parse(&[0; 1024]), Ok(BTreeMap::new()));
        assert!(parse(&[0; 512]).is_err());
        assert!(parse(&[0; 1536]).is_err());
    }

    #[test]
    fn other_people_read_it() {
        let files = BTreeMap::from([
            ("a.txt".into(), b"alpha\n".to_vec()),
            ("d/b.txt".into(), std::vec![b'x'; 513]),
        ]);
        let folder = std::env::temp_dir().join(std::format!("toani-tar-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("x.tar"), write(&files).unwrap()).unwrap();
        let status = std::process::Command::new("tar")
            .args(["-xf", "x.tar"])
            .current_dir(&folder)
            .status()
            .unwrap();
        assert!(status.success());
        for (name, content) in &files {
            assert_eq!(&std::fs::read(folder.join(name)).unwrap(), content);
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    proptest! {
        #[test]
        fn what_is_accepted_encodes_to_itself(
            files in files(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
        ) {
            let archive = write(&files).unwrap();
            let read = parse(&archive).unwrap();
            prop_assert_eq!(read.len(), files.len());
            prop_assert!(files.iter().all(|(name, content)| read[name.as_str()] == content));
            let mut changed = archive.clone();
            changed[at.index(archive.len())] = byte;
            if let Ok(read) = parse(&changed) {
                let again = read.iter().map(|(n, c)| ((*n).into(), c.to_vec())).collect();
                prop_assert_eq!(write(&again).unwrap(), changed);
            }
            let cut = at.index(archive.len());
            prop_assert!(parse(&archive[..cut]).is_err());
        }
    }
}
