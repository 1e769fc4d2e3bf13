//! A cpio archive in the `newc` format, as the kernel unpacks it (Documentation/driver-api/
//! early-userspace/buffer-format.rst): the same entries give the same bytes, on any day, of anyone.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";
const ALIGNMENT: usize = 4;

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const LINK: u32 = 0o120_777;

#[derive(Debug)]
enum Entry {
    Folder,
    File { mode: u32, bytes: Vec<u8> },
    Link(String),
}

/// What goes into the archive, by path without a leading slash. The order is the paths' own.
#[derive(Debug, Default)]
pub(super) struct Archive(BTreeMap<String, Entry>);

impl Archive {
    pub(super) fn folder(&mut self, path: &str) {
        self.above(path);
        self.0.insert(path.to_owned(), Entry::Folder);
    }

    pub(super) fn program(&mut self, path: &str, bytes: Vec<u8>) {
        self.above(path);
        self.0.insert(path.to_owned(), Entry::File { mode: PROGRAM, bytes });
    }

    pub(super) fn file(&mut self, path: &str, bytes: Vec<u8>) {
        self.above(path);
        self.0.insert(path.to_owned(), Entry::File { mode: FILE, bytes });
    }

    pub(super) fn link(&mut self, path: &str, to: &str) {
        self.above(path);
        self.0.insert(path.to_owned(), Entry::Link(to.to_owned()));
    }

    /// The folders that a path stands in come before it: the kernel makes none by itself.
    fn above(&mut self, path: &str) {
        for (end, _) in path.match_indices('/') {
            self.0.entry(path[..end].to_owned()).or_insert(Entry::Folder);
        }
    }

    /// All of it, owned by root and of no time.
    pub(super) fn bytes(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        for (number, (path, entry)) in (1..).zip(&self.0) {
            let (mode, content): (u32, &[u8]) = match entry {
                Entry::Folder => (FOLDER, &[]),
                Entry::File { mode, bytes } => (*mode, bytes),
                Entry::Link(to) => (LINK, to.as_bytes()),
            };
            append(&mut out, number, path, mode, content)?;
        }
        append(&mut out, 0, TRAILER, 0, &[])?;
        Ok(out)
    }
}

fn append(out: &mut Vec<u8>, inode: u32, path: &str, mode: u32, content: &[u8]) -> Result<()> {
    let size = u32::try_from(content.len()).with_context(|| format!("{path} is too large"))?;
    let name_size = u32::try_from(path.len() + 1).context("a path is too long")?;
    let links = 1;
    // Inode, mode, user, group, links, time, size, four device numbers, name's size, checksum.
    let fields = [inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
    out.extend_from_slice(MAGIC.as_bytes());
    for field in fields {
        out.extend_from_slice(format!("{field:08X}").as_bytes());
    }
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(content);
    pad(out);
    Ok(())
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_does_not_depend_on_the_order_in_which_it_was_filled() {
        let mut one = Archive::default();
        one.file("etc/hosts", b"127.0.0.1 localhost\n".to_vec());
        one.program("init", b"#!".to_vec());
        let mut other = Archive::default();
        other.program("init", b"#!".to_vec());
        other.folder("etc");
        other.file("etc/hosts", b"127.0.0.1 localhost\n".to_vec());
        let bytes = one.bytes().unwrap();
        assert_eq!(bytes, other.bytes().unwrap());
        assert!(bytes.starts_with(b"070701"));
        assert_eq!(bytes.len() % ALIGNMENT, 0);
    }

    /// The form of an entry, by hand.
    #[test]
    fn an_entry_has_the_form_that_the_kernel_reads() {
        let mut archive = Archive::default();
        archive.link("etc/resolv.conf", "/run/resolv.conf");
        let bytes = archive.bytes().unwrap();
        let folder = "07070100000001000041ED000000000000000000000001000000000000000000000000000000\
                      00000000000000000000000004\
                      00000000etc\0";
        assert!(bytes.starts_with(folder.as_bytes()), "{}", String::from_utf8_lossy(&bytes));
        let second = folder.len().next_multiple_of(ALIGNMENT);
        assert!(bytes[second..].starts_with(b"070701000000020000A1FF"));
        let trailer = b"TRAILER!!!\0";
        assert!(bytes.windows(trailer.len()).any(|part| part == trailer));
    }
}
