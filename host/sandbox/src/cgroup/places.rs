//! Where control groups can be made: read from what the kernel says of this process.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::Version;

/// Which hierarchies there are, and where this process is in them.
const MOUNTS: &str = "/proc/self/mountinfo";
const OWN: &str = "/proc/self/cgroup";
const CONTROLLERS: [&str; 2] = ["memory", "pids"];

/// Folders in which this process may be allowed to make a group, the nearest first.
pub(super) type Places = Vec<(Vec<PathBuf>, Version, &'static [&'static str])>;

pub(super) fn places() -> io::Result<Places> {
    let mounts = fs::read_to_string(MOUNTS)?;
    let own = fs::read_to_string(OWN)?;
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
        None => Err(io::Error::new(io::ErrorKind::NotFound, "no hierarchy is mounted")),
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

/// This process's own group in version 2, if that is mounted at all.
#[cfg(test)]
pub(super) fn own_group_2() -> Option<PathBuf> {
    let (mounts, own) = (fs::read_to_string(MOUNTS).ok()?, fs::read_to_string(OWN).ok()?);
    version_2(&mounts, &own)?.into_iter().next()
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
}
