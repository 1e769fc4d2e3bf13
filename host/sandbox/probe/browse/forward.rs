//! A proxy on loopback that leads to the doors: each connection takes one.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::net::UnixStream,
};

const HEAD_BYTES_MAX: usize = 8192;

/// Until no door is left.
pub(crate) fn serve(proxy: &TcpListener, doors: Vec<UnixStream>) -> io::Result<()> {
    for door in doors {
        let (client, _) = proxy.accept()?;
        std::thread::spawn(move || forward(client, door));
    }
    Ok(())
}

fn forward(mut client: TcpStream, mut door: UnixStream) -> io::Result<()> {
    let head = head(&mut client)?;
    let asked = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
    let answer = ask(&mut door, asked.ok_or(io::ErrorKind::InvalidData)?)?;
    client.write_all(&answer)?;
    let (mut client_in, mut door_out) = (client.try_clone()?, door.try_clone()?);
    std::thread::spawn(move || {
        let _ = io::copy(&mut client_in, &mut door_out);
        let _ = door_out.shutdown(Shutdown::Write);
    });
    io::copy(&mut door, &mut client)?;
    client.shutdown(Shutdown::Both)
}

/// Asks a door for an endpoint; its answer, to the empty line.
pub(crate) fn ask(door: &mut UnixStream, endpoint: &str) -> io::Result<Vec<u8>> {
    door.write_all(format!("CONNECT {endpoint} HTTP/1.1\r\n\r\n").as_bytes())?;
    Ok(head(door)?.into_bytes())
}

fn head(stream: &mut impl Read) -> io::Result<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= HEAD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        stream.read_exact(&mut byte)?;
        head.extend_from_slice(&byte);
    }
    String::from_utf8(head).map_err(io::Error::other)
}
