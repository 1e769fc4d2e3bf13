//! Runs in the connector's place and tries what a connector must not be able to do. Its reply is
//! one line for each try: a name, and 0 or the error's number. The credential may ask for worse.

mod below;
mod calls;
mod hostile;

use std::{
    fmt::Write as _,
    fs::File,
    io::{Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
};

use toani_connectors::{confinement, inherited};
use toani_protocol::{
    job::{CONNECTOR_WAITS, JobEnd},
    wire,
};

fn main() -> std::io::Result<()> {
    if std::env::args_os().count() > 1 {
        let report = confinement::report() + &below::report();
        return std::io::stdout().write_all(report.as_bytes());
    }
    let mut stream = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    stream.write_all(&[CONNECTOR_WAITS])?;
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix)?;
    let length = usize::try_from(u32::from_le_bytes(prefix)).unwrap_or(0);
    let mut job = vec![0; length];
    stream.read_exact(&mut job)?;

    // The door is opened as the plan says: without a connection no answer counts.
    let mut door = inherited::take_door().ok_or(std::io::ErrorKind::NotFound)?;
    let answer = open(&mut door, &job)?;
    hostile::act(&job, &mut stream, &mut door)?;
    reply(&mut stream, format!("door {answer}\n") + &report())?;
    // After an answer that would be one.
    hostile::stay(&job);
    Ok(())
}

/// Asks for what stands in the plan between CONNECT and a bar.
fn open(door: &mut UnixStream, job: &[u8]) -> std::io::Result<String> {
    let line = job.windows(8).position(|part| part == b"CONNECT ");
    let line = job.get(line.unwrap_or(job.len())..).unwrap_or_default();
    let end = line.iter().position(|byte| *byte == b'|').unwrap_or(0);
    door.write_all(line.get(..end).unwrap_or_default())?;
    door.write_all(b" HTTP/1.1\r\n\r\n")?;
    let mut answer = [0; 12];
    door.read_exact(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn report() -> String {
    let environment: Vec<_> =
        std::env::vars().map(|(name, value)| format!("{name}={value}")).collect();
    let mut report = format!("environment {}\n", environment.join(","));
    let _ = writeln!(report, "arguments {}", std::env::args_os().count());
    for (name, errno) in calls::tries_but(&[]) {
        let _ = writeln!(report, "{name} {errno}");
    }
    report
}

fn reply(stream: &mut File, body: String) -> std::io::Result<()> {
    let reply = wire::encode(&JobEnd::Response { status: 200, body: body.into_bytes() })
        .unwrap_or_default();
    let length = u32::try_from(reply.len()).unwrap_or(0);
    stream.write_all(&length.to_le_bytes())?;
    stream.write_all(&reply)
}
