//! Control groups: what bounds a container's memory and processes, and names all that it has
//! started. Versions 1 and 2, and of them two controllers; a runtime that does this by itself
//! makes a group in every hierarchy for every container.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

mod places;
mod room;

use places::places;

use crate::share::Share;

/// Longest time from SIGKILL to the end of all processes of a group, and to its removal.
const END: Duration = Duration::from_secs(3);
const REMOVAL_PAUSE: Duration = Duration::from_millis(2);
const PASSED_ON: &str = "+memory +pids";

/// What a group may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) memory_bytes: u64,
    /// Threads of the host, of which one in the container may be several.
    pub(crate) threads: u32,
}

/// No groups can be made here.
#[derive(Debug, thiserror::Error)]
#[error(
    "no control group can be made ({}: {why}), and without one a container's memory has no limit: \
     start toani as root, or in a delegated group (systemd-run --user --scope -p Delegate=yes toani \
     serve; in a service Delegate=yes)", at.display()
)]
pub struct NoGroups {
    at: PathBuf,
    why: io::Error,
}

/// The group of one supervisor, under which its containers have theirs.
#[derive(Debug)]
pub(crate) struct Groups {
    hierarchies: Vec<Hierarchy>,
}

/// One folder with the control files of some of the controllers.
#[derive(Debug, Clone)]
struct Hierarchy {
    folder: PathBuf,
    version: Version,
    controllers: &'static [&'static str],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Groups {
    /// Makes the group `name` where this process may. All groups in it have `share` together.
    pub(crate) fn create(name: &str, share: Share) -> Result<Self, NoGroups> {
        let places = places().map_err(|why| NoGroups { at: "/proc/self".into(), why })?;
        // Dropped, and with it removed, if one of the hierarchies refuses.
        let mut groups = Self { hierarchies: Vec::new() };
        for (within, version, controllers) in places {
            let mut refused = NoGroups { at: PathBuf::new(), why: io::ErrorKind::NotFound.into() };
            let mut create = |parent: &PathBuf| {
                let made = Hierarchy::create(parent, name, version, controllers);
                made.map_err(|why| refused = NoGroups { at: parent.clone(), why }).ok()
            };
            let mut made = within.iter().find_map(&mut create);
            if let (None, Version::Two, Some(own)) = (&made, version, within.first()) {
                made = room::make(own).ok().and_then(|()| create(own));
            }
            let made = made.ok_or(refused)?;
            groups.hierarchies.push(made.clone());
            let limited = made.limit_memory(share.memory_bytes());
            limited.map_err(|why| NoGroups { at: made.folder, why })?;
        }
        Ok(groups)
    }

    /// Says whether nothing is left of them, which is so once no container has its group in them.
    pub(crate) fn remove(&self) -> bool {
        // All of them, also if one stays.
        let removed: Vec<bool> = self.hierarchies.iter().map(Hierarchy::remove).collect();
        removed.into_iter().all(|removed| removed)
    }

    /// What is to be removed after this process, should it not come to that.
    pub(crate) fn folders(&self) -> impl Iterator<Item = &Path> {
        self.hierarchies.iter().map(|hierarchy| hierarchy.folder.as_path())
    }

    /// Ends and removes the groups in this folder and itself. Says whether nothing is left of it.
    pub(crate) fn sweep(folder: &Path) -> bool {
        let children = fs::read_dir(folder).into_iter().flatten().flatten();
        let children = children.map(|entry| entry.path()).filter(|path| path.is_dir());
        for folder in children.chain([folder.to_path_buf()]).collect::<Vec<_>>() {
            // Only its processes and its folder count here, which each version has alike.
            let hierarchy = Hierarchy { folder, version: Version::One, controllers: &[] };
            drop(Group::of(vec![hierarchy]));
        }
        !folder.exists()
    }

    /// A group of one container.
    pub(crate) fn group(&self, name: &str, limits: Limits) -> io::Result<Group> {
        // Dropped, and with it removed, if one of the steps fails.
        let mut group = Group::of(Vec::new());
        for parent in &self.hierarchies {
            let child = Hierarchy { folder: parent.folder.join(name), ..parent.clone() };
            fs::create_dir(&child.folder)?;
            group.hierarchies.push(child.clone());
            child.limit(limits)?;
        }
        Ok(group)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for hierarchy in self.hierarchies.iter().filter(|hierarchy| !hierarchy.remove()) {
            crate::supervisor::log(&format!("{} stays behind", hierarchy.folder.display()));
        }
    }
}

impl Hierarchy {
    fn create(
        parent: &Path,
        name: &str,
        version: Version,
        controllers: &'static [&'static str],
    ) -> io::Result<Self> {
        // In version 2 a group's children have what it passes on. The parent may do so already.
        let pass_on = |folder: &Path| fs::write(folder.join("cgroup.subtree_control"), PASSED_ON);
        let above = if version == Version::Two { pass_on(parent) } else { Ok(()) };
        let folder = parent.join(name);
        fs::create_dir(&folder)?;
        let hierarchy = Self { folder, version, controllers };
        if version == Version::Two && pass_on(&hierarchy.folder).is_err() {
            hierarchy.remove();
            return Err(above.err().unwrap_or_else(|| io::ErrorKind::Unsupported.into()));
        }
        Ok(hierarchy)
    }

    fn limit(&self, limits: Limits) -> io::Result<()> {
        let Limits { memory_bytes, threads } = limits;
        self.limit_memory(memory_bytes)?;
        if self.has("memory") && self.version == Version::Two {
            // A container ends as a whole. In version 1 one of its processes does, and it with it.
            self.set("memory.oom.group", 1)?;
        }
        if self.has("pids") { self.set("pids.max", threads.into()) } else { Ok(()) }
    }

    /// Does nothing where the hierarchy has another controller.
    fn limit_memory(&self, bytes: u64) -> io::Result<()> {
        match (self.has("memory"), self.version) {
            (false, _) => Ok(()),
            (true, Version::One) => {
                self.set("memory.limit_in_bytes", bytes)?;
                // Where the kernel does not count swap, the group is kept from it.
                let with_swap = self.set("memory.memsw.limit_in_bytes", bytes);
                with_swap.or_else(|_| self.set("memory.swappiness", 0))
            }
            (true, Version::Two) => {
                self.set("memory.max", bytes)?;
                self.set("memory.swap.max", 0).or_else(not_found)
            }
        }
    }

    /// A thread that moves itself is there at once. For a process the kernel holds up whatever forks
    /// or ends on the machine, which takes a grace period; version 2 moves processes only.
    fn entrance(&self) -> PathBuf {
        self.folder.join(match self.version {
            Version::One => "tasks",
            Version::Two => "cgroup.procs",
        })
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.contains(&controller)
    }

    /// Writes a limit, and believes it when it can be read again.
    fn set(&self, file: &str, value: u64) -> io::Result<()> {
        let path = self.folder.join(file);
        fs::write(&path, value.to_string())?;
        let read = fs::read_to_string(&path)?;
        if read.trim() == value.to_string() {
            return Ok(());
        }
        let why = format!("{} is {} and not {value}", path.display(), read.trim());
        Err(io::Error::other(why))
    }

    fn processes(&self) -> Vec<Pid> {
        processes(&self.folder)
    }

    /// Says whether it is gone; what did not end keeps it.
    fn remove(&self) -> bool {
        fs::remove_dir(&self.folder).is_ok() || !self.folder.exists()
    }
}

/// Those in the group of this folder, and not in one below it.
fn processes(folder: &Path) -> Vec<Pid> {
    let listed = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    let numbers = listed.lines().filter_map(|line| line.parse().ok());
    numbers.filter_map(Pid::from_raw).collect()
}

fn not_found(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// The group of one container. Dropping it kills all that is in it, waits for their end and
/// removes it; who must not wait drops it elsewhere.
#[derive(Debug)]
pub(crate) struct Group {
    hierarchies: Vec<Hierarchy>,
}

impl Group {
    fn of(hierarchies: Vec<Hierarchy>) -> Self {
        Self { hierarchies }
    }

    /// Its folder, or one of them.
    pub(crate) fn name(&self) -> String {
        let first = self.folders().next().map(|folder| folder.display().to_string());
        first.unwrap_or_default()
    }

    pub(crate) fn folders(&self) -> impl Iterator<Item = &Path> {
        self.hierarchies.iter().map(|hierarchy| hierarchy.folder.as_path())
    }

    /// Files into which a process of one thread writes 0 to be in it.
    pub(crate) fn entrances(&self) -> impl Iterator<Item = PathBuf> {
        self.hierarchies.iter().map(Hierarchy::entrance)
    }

    /// The same, opened by whoever may, for a process that may not.
    pub(crate) fn open_entrances(&self) -> io::Result<Vec<OwnedFd>> {
        let open = |file| Ok(fs::File::options().write(true).open(file)?.into());
        self.entrances().map(open).collect()
    }

    /// Processes that are in it.
    pub(crate) fn processes(&self) -> usize {
        let counts = self.hierarchies.iter().map(|hierarchy| hierarchy.processes().len());
        // All are in each of them, once they have entered.
        counts.min().unwrap_or(0)
    }

    /// Sends SIGKILL to everybody; whoever is started meanwhile is met by the next round.
    fn end(&self) {
        let until = Instant::now() + END;
        for hierarchy in &self.hierarchies {
            loop {
                let processes = hierarchy.processes();
                if processes.is_empty() {
                    break;
                }
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return;
                }
                kill_and_wait(hierarchy, &processes, left);
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let until = Instant::now() + END;
        while Instant::now() < until {
            self.end();
            if self.hierarchies.iter().all(Hierarchy::remove) {
                return;
            }
            // Between the last process's end and its leaving the group there is nothing that
            // version 1 could be asked to wait for.
            std::thread::sleep(REMOVAL_PAUSE);
        }
        crate::supervisor::log(&format!(
            "{} stays behind, for what is in it did not end after SIGKILL; the next start clears it away",
            self.name()
        ));
    }
}

/// Returns when these have ended, or the time is up.
fn kill_and_wait(group: &Hierarchy, processes: &[Pid], wait: Duration) {
    let open = |pid: &Pid| Some((*pid, pidfd_open(*pid, PidfdFlags::empty()).ok()?));
    let mut processes: Vec<(Pid, OwnedFd)> = processes.iter().filter_map(open).collect();
    // A number may have become somebody else's before it was opened; that one is not in the group.
    let still = group.processes();
    processes.retain(|(pid, _)| still.contains(pid));
    for (_, process) in &processes {
        // That it has ended already is as good.
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
    let until = Instant::now() + wait;
    for (_, process) in &processes {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or_default();
        let _ = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&left));
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// Needs the right to make groups, like the driver that uses them.
    #[test]
    fn what_is_in_a_group_ends_with_it() {
        let name = format!("toani-test-{}", std::process::id());
        let groups = Groups::create(&name, Share::default()).unwrap();
        let limits = Limits { memory_bytes: 64 << 20, threads: 8 };
        let group = groups.group("one", limits).unwrap();
        let folders: Vec<_> = group.folders().map(Path::to_path_buf).collect();
        let mut sleeping = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        assert_eq!(group.processes(), 0);
        for folder in &folders {
            fs::write(folder.join("cgroup.procs"), sleeping.id().to_string()).unwrap();
        }
        assert_eq!(group.processes(), 1);
        drop(group);
        // By the signal that nobody can catch.
        let status = sleeping.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
        assert!(folders.iter().all(|folder| !folder.exists()));
        let own: Vec<_> = groups.folders().map(Path::to_path_buf).collect();
        drop(groups);
        assert!(own.iter().all(|folder| !folder.exists()));
    }

    #[test]
    fn what_a_killed_supervisor_left_is_swept() {
        let name = format!("toani-left-{}", std::process::id());
        let groups = Groups::create(&name, Share::default()).unwrap();
        let limits = Limits { memory_bytes: 64 << 20, threads: 8 };
        let group = groups.group("one", limits).unwrap();
        let folders: Vec<_> = group.folders().map(Path::to_path_buf).collect();
        let mut sleeping = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        for folder in &folders {
            fs::write(folder.join("cgroup.procs"), sleeping.id().to_string()).unwrap();
        }
        let parents: Vec<_> = groups.folders().map(Path::to_path_buf).collect();
        // As if nobody had been there to drop them.
        std::mem::forget((groups, group));
        assert!(parents.iter().all(|folder| Groups::sweep(folder)));
        assert!(folders.iter().all(|folder| !folder.exists()));
        let status = sleeping.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    }
}
