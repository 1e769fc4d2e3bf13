//! Runs in the connector's place in a root file system with a browser: opens all doors, tries what
//! even a browser must not do, takes all that there is, or lets the browser fill in a form, as the job's
//! credential says. Its reply is what came of it.

#[path = "../calls.rs"]
mod calls;
mod doors;
mod forward;
mod greedy;

use std::{
    fs::File,
    io::{self, Read, Write},
    net::TcpListener,
    os::{fd::AsFd, unix::net::UnixStream},
    process::{Command, Stdio},
};

use toani_protocol::{
    canonical,
    job::{CONNECTOR_WAITS, Job, JobEnd},
    limits::DOCUMENT_BYTES_MAX,
    plan::Plan,
    wire,
};

/// Signs in by a form, and asks for another host.
const VISIT: &str = include_str!("visit.js");

fn main() -> io::Result<()> {
    if std::env::args_os().nth(1).is_some_and(|word| word == greedy::STAY) {
        greedy::stay();
    }
    if std::env::args_os().count() > 1 {
        return io::stdout().write_all(toani_connectors::confinement::report().as_bytes());
    }
    let mut stream = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let doors = doors::take()?;
    stream.write_all(&[CONNECTOR_WAITS])?;
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix)?;
    let mut job = vec![0; usize::try_from(u32::from_le_bytes(prefix)).unwrap_or(0)];
    stream.read_exact(&mut job)?;
    let job: Job = wire::decode(&job, job.len()).map_err(io::Error::other)?;
    let plan: Plan = canonical::decode(&job.plan, DOCUMENT_BYTES_MAX).map_err(io::Error::other)?;

    let body = match job.credential.as_slice() {
        b"doors" => open_all(doors, &plan)?,
        b"tries" => with_a_door(doors, &plan, tries)?,
        b"forks" => with_a_door(doors, &plan, greedy::forks)?,
        b"tmp" => with_a_door(doors, &plan, greedy::tmp)?,
        b"memory" => with_a_door(doors, &plan, greedy::memory)?,
        _ => visit(doors, &plan)?,
    };
    let reply = wire::encode(&JobEnd::Response { status: 200, body }).unwrap_or_default();
    stream.write_all(&u32::try_from(reply.len()).unwrap_or(0).to_le_bytes())?;
    stream.write_all(&reply)
}

/// What each door answers.
fn open_all(doors: Vec<UnixStream>, plan: &Plan) -> io::Result<Vec<u8>> {
    let mut answers = Vec::new();
    for mut door in doors {
        answers.extend(forward::ask(&mut door, &plan.endpoint.to_string())?);
    }
    Ok(answers)
}

/// After one door's answer: without a connection no reply counts.
fn with_a_door(
    mut doors: Vec<UnixStream>,
    plan: &Plan,
    act: impl FnOnce() -> String,
) -> io::Result<Vec<u8>> {
    let door = doors.first_mut().ok_or(io::ErrorKind::NotFound)?;
    forward::ask(door, &plan.endpoint.to_string())?;
    // Some of them are closed below.
    std::mem::forget(doors);
    Ok(act().into_bytes())
}

/// One line for each.
fn tries() -> String {
    // A copy of this process would answer as well.
    let tries = calls::tries_but(&["clone", "clone3"]);
    tries.into_iter().map(|(name, errno)| format!("{name} {errno}\n")).collect()
}

/// What the browser's script says.
fn visit(doors: Vec<UnixStream>, plan: &Plan) -> io::Result<Vec<u8>> {
    let proxy = TcpListener::bind("127.0.0.1:0")?;
    let address = proxy.local_addr()?;
    std::thread::spawn(move || forward::serve(&proxy, doors));
    let page = format!("https://{}{}", plan.endpoint, plan.path);
    let node = Command::new("/usr/bin/node")
        .args(["-e", VISIT, &page, &format!("http://{address}")])
        .env("HOME", "/tmp")
        .stdin(Stdio::null())
        .output()?;
    Ok([node.stdout, node.stderr].concat())
}
