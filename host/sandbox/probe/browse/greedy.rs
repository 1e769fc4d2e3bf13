//! Takes all that there is of something.

use std::{
    fs::File,
    io::Write,
    process::{Child, Command},
};

/// Makes a copy of this program stay.
pub(crate) const STAY: &str = "stay";

static CHUNK: [u8; 1 << 20] = [b'x'; 1 << 20];

pub(crate) fn stay() -> ! {
    loop {
        std::thread::park();
    }
}

/// Starts copies of this program until no more come.
pub(crate) fn forks() -> String {
    let mut all: Vec<Child> = Vec::new();
    loop {
        match Command::new("/toani-connector").arg(STAY).spawn() {
            Ok(child) => all.push(child),
            Err(error) => return format!("{} {}", all.len(), error.raw_os_error().unwrap_or(-1)),
        }
    }
}

/// Writes until nothing fits.
pub(crate) fn tmp() -> String {
    let mut file = match File::create("/tmp/all") {
        Ok(file) => file,
        Err(error) => return error.to_string(),
    };
    let mut mib = 0u32;
    loop {
        match file.write_all(&CHUNK) {
            Ok(()) => mib += 1,
            Err(error) => return format!("{mib} {}", error.raw_os_error().unwrap_or(-1)),
        }
    }
}

/// Until it is ended.
pub(crate) fn memory() -> String {
    let mut all = Vec::new();
    loop {
        all.push(CHUNK.to_vec());
    }
}
