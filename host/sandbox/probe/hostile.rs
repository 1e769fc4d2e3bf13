//! What a connector does that means harm, by the last word of its credential.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::net::UnixStream,
};

static CHUNK: [u8; 64 * 1024] = [b'x'; 64 * 1024];

/// Before an answer.
pub(crate) fn act(job: &[u8], stream: &mut File, door: &mut UnixStream) -> io::Result<()> {
    let asked = |word: &str| job.ends_with(word.as_bytes());
    match () {
        () if asked("spin") => spin(),
        () if asked("silent") => loop {
            std::thread::park();
        },
        () if asked("memory") => {
            let mut all = Vec::new();
            loop {
                all.push(vec![1u8; 1 << 20]);
            }
        }
        () if asked("garbage") => stream.write_all(b"\x04\0\0\0\xff\xff\xff\xff"),
        () if asked("giant") => {
            // The largest length that there is, and as much of it as is taken.
            stream.write_all(&u32::MAX.to_le_bytes())?;
            flood(stream)
        }
        () if asked("flood") => flood(stream),
        () if asked("door") => flood(door),
        () if asked("dies") => std::process::abort(),
        () => Ok(()),
    }
}

/// After one.
pub(crate) fn stay(job: &[u8]) {
    if job.ends_with(b"hang") {
        spin()
    }
}

fn spin() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

fn flood(to: &mut impl Write) -> io::Result<()> {
    loop {
        to.write_all(&CHUNK)?;
    }
}
