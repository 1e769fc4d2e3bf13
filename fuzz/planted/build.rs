//! Copies the enclave's sources and plants the bugs of bugs.rs in the copy, each behind its switch.
//! The enclave itself has no such switch.
#![allow(clippy::expect_used, reason = "a build that cannot plant its bugs has to stop")]

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

#[path = "bugs.rs"]
mod bugs;

use bugs::{BUGS, Change, PLANTED};

fn read(folder: &Path, below: &Path, files: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(folder.join(below)).expect("the enclave's sources") {
        let entry = entry.expect("a folder's entry");
        let path = below.join(entry.file_name());
        if entry.file_type().expect("a file's type").is_dir() {
            read(folder, &path, files);
        } else {
            let text = fs::read_to_string(entry.path()).expect("a source file");
            files.insert(path, text);
        }
    }
}

fn plant(files: &mut BTreeMap<PathBuf, String>, name: &str, number: usize, change: &Change) {
    let Change { file, right, wrong } = change;
    let text = files.get_mut(Path::new(file));
    let text = text.unwrap_or_else(|| panic!("{name}: there is no {file}"));
    let places = text.matches(right).count();
    assert!(
        places == 1,
        "{name}: its place is there {places} times in trusted/enclave/src/{file}, and has to be \
         there once; fuzz/planted/bugs.rs has to follow the enclave:\n{right}"
    );
    let wrong = wrong.replace(PLANTED, &format!("crate::is_planted({number})"));
    *text = text.replace(right, &wrong);
}

fn main() {
    let folder = Path::new("../../trusted/enclave/src");
    println!("cargo::rerun-if-changed={}", folder.display());
    println!("cargo::rerun-if-changed=bugs.rs");
    println!("cargo::rerun-if-changed=build.rs");
    let mut files = BTreeMap::new();
    read(folder, Path::new(""), &mut files);
    for (i, bug) in BUGS.iter().enumerate() {
        bug.changes.iter().for_each(|change| plant(&mut files, bug.name, i + 1, change));
    }
    // What an included file cannot have: attributes and documentation of the crate.
    let root = files.get_mut(Path::new("lib.rs")).expect("the enclave's root");
    let items = root.find("extern crate").expect("the first item of the enclave's root");
    root.drain(..items);
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says where"));
    for (path, text) in files {
        let path = out.join(path);
        fs::create_dir_all(path.parent().expect("a file's folder")).expect("a folder");
        fs::write(path, text).expect("a copy");
    }
}
