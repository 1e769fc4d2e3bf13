//! Version 2 lets a group pass controllers on, or have processes in it, and not both. A service manager
//! that delegates a group starts the plane in it. So the plane moves into a group of its own there, and
//! leaves the delegated one free for its containers'.

use std::{fs, io, path::Path};

use rustix::fs::{Access, access};

use super::processes;

/// The group of all that was in the delegated one: gateway, enclave and supervisor.
const PLANE: &str = "plane";
/// Whoever is moved may just have started another one.
const ROUNDS_MAX: usize = 8;

/// Moves all processes of the group `own` into one below it, if it is this user's to divide.
pub(super) fn make(own: &Path) -> io::Result<()> {
    for file in ["cgroup.procs", "cgroup.subtree_control"] {
        access(own.join(file), Access::WRITE_OK)?;
    }
    let plane = own.join(PLANE);
    match fs::create_dir(&plane) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    for _ in 0..ROUNDS_MAX {
        let left = processes(own);
        if left.is_empty() {
            return Ok(());
        }
        for process in left {
            // One that has ended meanwhile is in no group; who may not be moved is met again.
            let _ = fs::write(plane.join("cgroup.procs"), process.as_raw_pid().to_string());
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::cgroup::places::own_group_2;

    /// In a real hierarchy, where there is one and a group can be made: without controllers it does.
    #[test]
    fn what_is_in_a_delegated_group_moves_below_it() {
        let Some(within) = own_group_2() else { return };
        let own = within.join(format!("toani-room-{}", std::process::id()));
        if fs::create_dir(&own).is_err() {
            return;
        }
        let mut sleeping: Vec<_> = (0..2)
            .map(|_| Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap())
            .collect();
        for process in &sleeping {
            fs::write(own.join("cgroup.procs"), process.id().to_string()).unwrap();
        }
        assert_eq!(processes(&own).len(), 2);
        make(&own).unwrap();
        assert_eq!((processes(&own).len(), processes(&own.join(PLANE)).len()), (0, 2));
        // A supervisor that is started again finds the room made.
        make(&own).unwrap();
        for process in &mut sleeping {
            process.kill().unwrap();
            process.wait().unwrap();
        }
        fs::remove_dir(own.join(PLANE)).unwrap();
        fs::remove_dir(&own).unwrap();
    }

    #[test]
    fn a_group_that_is_not_ours_to_divide_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        // It has processes, and nothing to pass controllers on with.
        fs::write(folder.path().join("cgroup.procs"), "1\n").unwrap();
        assert!(make(folder.path()).is_err());
        assert!(!folder.path().join(PLANE).exists());
        // Nor does one whose processes stay come to an end without a word.
        fs::write(folder.path().join("cgroup.subtree_control"), "").unwrap();
        assert_eq!(make(folder.path()).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
    }
}
