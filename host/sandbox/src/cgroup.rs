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

/// Where the kernel says which hierarchies there are, and where this process is in them.
const MOUNTS: &str = "/proc/self/mountinfo";
const OWN: &str = "/proc/self/cgroup";
const CONTROLLERS: [&str; 2] = ["memory", "pids"];
/// Longest time from SIGKILL to the end of all processes of a group.
const END: Duration = Duration::from_secs(5);

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
    "no control group for {controller} can be made ({why}), and without one a container's memory \
     has no limit: start toani as root, or in a delegated group (systemd-run --user --scope -p \
     Delegate=yes toani serve)"
)]
pub struct NoGroups {
    controller: &'static str,
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
    /// Makes the group `name` where this process may.
    pub(crate) fn create(name: &str) -> Result<Self, NoGroups> {
        let mut hierarchies = Vec::new();
        for (within, version, controllers) in places()? {
            let made = within.iter().find_map(|parent| {
                let folder = parent.join(name);
                fs::create_dir(&folder).ok()?;
                let hierarchy = Hierarchy { folder, version, controllers };
                match hierarchy.enable() {
                    Ok(()) => Some(hierarchy),
                    Err(_) => {
                        hierarchy.remove();
                        None
                    }
                }
            });
            let denied = || NoGroups {
                controller: controllers.first().unwrap_or(&"memory"),
                why: io::ErrorKind::PermissionDenied.into(),
            };
            hierarchies.push(made.ok_or_else(denied)?);
        }
        Ok(Self { hierarchies })
    }

    /// Ends and removes what a supervisor of this name has left behind.
    pub(crate) fn sweep(name: &str) {
        for (within, version, controllers) in places().unwrap_or_default() {
            for folder in within.iter().map(|parent| parent.join(name)) {
                let left = fs::read_dir(&folder).into_iter().flatten().flatten();
                let left = left.map(|entry| entry.path()).filter(|path| path.is_dir());
                for folder in left.chain([folder.clone()]).collect::<Vec<_>>() {
                    let group = Group::of(vec![Hierarchy { folder, version, controllers }]);
                    drop(group);
                }
            }
        }
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
        self.hierarchies.iter().for_each(Hierarchy::remove);
    }
}

impl Hierarchy {
    /// In version 2 a group's children have what it passes on.
    fn enable(&self) -> io::Result<()> {
        match self.version {
            Version::One => Ok(()),
            Version::Two => fs::write(self.folder.join("cgroup.subtree_control"), "+memory +pids"),
        }
    }

    fn limit(&self, limits: Limits) -> io::Result<()> {
        let Limits { memory_bytes, threads } = limits;
        for controller in self.controllers {
            match (*controller, self.version) {
                ("memory", Version::One) => {
                    self.set("memory.limit_in_bytes", memory_bytes)?;
                    // Not on every kernel: where there is no swap there is no such file.
                    let with_swap = self.set("memory.memsw.limit_in_bytes", memory_bytes);
                    with_swap.or_else(not_found)?;
                }
                ("memory", Version::Two) => {
                    self.set("memory.max", memory_bytes)?;
                    self.set("memory.swap.max", 0).or_else(not_found)?;
                    self.set("memory.oom.group", 1)?;
                }
                _ => self.set("pids.max", threads.into())?,
            }
        }
        Ok(())
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
        let listed = fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default();
        let numbers = listed.lines().filter_map(|line| line.parse().ok());
        numbers.filter_map(Pid::from_raw).collect()
    }

    fn remove(&self) {
        // It may never have been there, or hold what did not end; then the next sweep finds it.
        let _ = fs::remove_dir(&self.folder);
    }
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

    /// Where a process writes its number to be in it.
    pub(crate) fn folders(&self) -> impl Iterator<Item = &Path> {
        self.hierarchies.iter().map(|hierarchy| hierarchy.folder.as_path())
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
                    crate::supervisor::log("a container did not end after SIGKILL");
                    return;
                }
                kill_and_wait(&processes, left);
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
        self.hierarchies.iter().for_each(Hierarchy::remove);
    }
}

/// Returns when these have ended, or the time is up.
fn kill_and_wait(processes: &[Pid], wait: Duration) {
    // By descriptors: a number may belong to somebody else by the time that it is used.
    let open = |pid: &Pid| pidfd_open(*pid, PidfdFlags::empty()).ok();
    let processes: Vec<OwnedFd> = processes.iter().filter_map(open).collect();
    for process in &processes {
        // That it has ended already is as good.
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
    let until = Instant::now() + wait;
    for process in &processes {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let _ = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&timeout));
    }
}

/// Folders in which this process may be allowed to make a group, the nearest first.
type Places = Vec<(Vec<PathBuf>, Version, &'static [&'static str])>;

fn places() -> Result<Places, NoGroups> {
    let failed = |why| NoGroups { controller: "memory", why };
    let mounts = fs::read_to_string(MOUNTS).map_err(failed)?;
    let own = fs::read_to_string(OWN).map_err(failed)?;
    let ones: Vec<_> = CONTROLLERS
        .iter()
        .zip([&CONTROLLERS[..1], &CONTROLLERS[1..]])
        .filter_map(|(name, one)| Some((version_1(&mounts, &own, name)?, Version::One, one)))
        .collect();
    if ones.len() == CONTROLLERS.len() {
        return Ok(ones);
    }
    match version_2(&mounts, &own) {
        Some(two) => Ok(vec![(two, Version::Two, &CONTROLLERS)]),
        None => {
            let why = io::Error::new(io::ErrorKind::NotFound, "no hierarchy is mounted");
            Err(NoGroups { controller: "memory", why })
        }
    }
}

/// The own group of a hierarchy with this controller, then the groups above it.
fn version_1(mounts: &str, own: &str, controller: &str) -> Option<Vec<PathBuf>> {
    let has = |list: &str| list.split(',').any(|one| one == controller);
    let group = own.lines().find_map(|line| {
        let (list, path) = line.split_once(':')?.1.split_once(':')?;
        has(list).then_some(path)
    })?;
    let mount = mounts.lines().filter_map(mount).find(|mount| {
        mount.kind == "cgroup" && mount.options.split(',').any(|option| option == controller)
    })?;
    Some(mount.upwards(group))
}

fn version_2(mounts: &str, own: &str) -> Option<Vec<PathBuf>> {
    let group = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mount = mounts.lines().filter_map(mount).find(|mount| mount.kind == "cgroup2")?;
    Some(mount.upwards(group))
}

/// One line of mountinfo (proc_pid_mountinfo(5)).
struct Mount<'a> {
    /// Which part of the hierarchy is mounted.
    root: &'a str,
    at: &'a str,
    kind: &'a str,
    options: &'a str,
}

fn mount(line: &str) -> Option<Mount<'_>> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let (root, at) = (mount.next()?, mount.next()?);
    let mut file_system = file_system.split(' ');
    let (kind, options) = (file_system.next()?, file_system.nth(1)?);
    Some(Mount { root, at, kind, options })
}

impl Mount<'_> {
    /// The folder of `group`, then the ones above it up to where it is mounted.
    fn upwards(&self, group: &str) -> Vec<PathBuf> {
        let within = group.strip_prefix(self.root.trim_end_matches('/')).unwrap_or("");
        let top = Path::new(self.at);
        let own = top.join(within.trim_start_matches('/'));
        own.ancestors().take_while(|path| path.starts_with(top)).map(Path::to_path_buf).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    const MOUNTS: &str = "\
25 20 0:22 / /sys rw,nosuid - sysfs sysfs rw
30 25 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
34 30 0:30 /docker/abc /sys/fs/cgroup/memory ro,nosuid master:15 - cgroup cgroup rw,memory
35 30 0:31 / /sys/fs/cgroup/pids ro,nosuid - cgroup cgroup rw,pids
36 30 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
";
    const OWN: &str = "8:pids:/a/b\n4:memory:/docker/abc/x\n0::/user.slice/app.slice/run.scope\n";

    fn paths(paths: &[&str]) -> Option<Vec<PathBuf>> {
        Some(paths.iter().map(PathBuf::from).collect())
    }

    #[test]
    fn groups_are_looked_for_from_the_own_one_upwards() {
        let memory = ["/sys/fs/cgroup/memory/x", "/sys/fs/cgroup/memory"];
        assert_eq!(version_1(MOUNTS, OWN, "memory"), paths(&memory));
        let pids = ["/sys/fs/cgroup/pids/a/b", "/sys/fs/cgroup/pids/a", "/sys/fs/cgroup/pids"];
        assert_eq!(version_1(MOUNTS, OWN, "pids"), paths(&pids));
        assert_eq!(version_1(MOUNTS, OWN, "cpu"), None);
        let two = version_2(MOUNTS, OWN).unwrap();
        assert_eq!(two.len(), 4);
        assert_eq!(two[0], Path::new("/sys/fs/cgroup/unified/user.slice/app.slice/run.scope"));
        assert_eq!(version_2("", OWN), None);
    }

    /// Needs the right to make groups, like the driver that uses them.
    #[test]
    fn what_is_in_a_group_ends_with_it() {
        let name = format!("toani-test-{}", std::process::id());
        let groups = Groups::create(&name).unwrap();
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
        drop(groups);
        Groups::sweep(&name);
    }

    #[test]
    fn what_a_killed_supervisor_left_is_swept() {
        let name = format!("toani-left-{}", std::process::id());
        let groups = Groups::create(&name).unwrap();
        let limits = Limits { memory_bytes: 64 << 20, threads: 8 };
        let group = groups.group("one", limits).unwrap();
        let folders: Vec<_> = group.folders().map(Path::to_path_buf).collect();
        // As if nobody had been there to drop them.
        std::mem::forget((groups, group));
        Groups::sweep(&name);
        let parents = folders.iter().map(|folder| folder.parent().unwrap());
        assert!(folders.iter().map(PathBuf::as_path).chain(parents).all(|path| !path.exists()));
    }
}
