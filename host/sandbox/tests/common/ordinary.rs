//! A supervisor of a user who is nobody special, and the control groups that such a user may be given.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use toani_sandbox::{DriverKind, SupervisorPaths};

use super::{WAIT, connector, gvisor, root_of};

/// A folder with all that a supervisor needs, for a user who is nobody special.
pub(crate) struct Ordinary {
    pub(crate) folder: tempfile::TempDir,
}

pub(crate) const ORDINARY: u32 = 1234;

impl Ordinary {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let DriverKind::Gvisor { runsc, .. } = gvisor() else { unreachable!() };
        let connector = connector();
        let root = root_of(&gvisor(), &connector);
        let sandbox = Path::new(env!("CARGO_BIN_EXE_toani-sandbox"));
        for (from, name) in
            [(sandbox, "sandbox"), (&runsc, "runsc"), (&root, "root"), (&connector, "connector")]
        {
            std::fs::copy(from, folder.path().join(name)).unwrap();
        }
        super::enclave::authority().snp_root().unwrap();
        let machine = folder.path().join("machine");
        std::fs::create_dir(&machine).unwrap();
        for entry in std::fs::read_dir(super::enclave::machine()).unwrap().flatten() {
            let to = machine.join(entry.file_name());
            std::fs::copy(entry.path(), &to).unwrap();
            std::os::unix::fs::chown(&to, Some(ORDINARY), Some(ORDINARY)).unwrap();
        }
        std::os::unix::fs::chown(&machine, Some(ORDINARY), Some(ORDINARY)).unwrap();
        Self { folder }
    }

    /// A supervisor of that user, in these control groups.
    pub(crate) fn paths(&self, driver: &DriverKind, groups: &[PathBuf]) -> SupervisorPaths {
        let supervisor = self.folder.path().join("supervisor");
        let script = format!(
            "#!/bin/sh\n{}exec setpriv --reuid {ORDINARY} --regid {ORDINARY} --clear-groups {} \"$@\"\n",
            enter(groups),
            self.folder.path().join("sandbox").display()
        );
        std::fs::write(&supervisor, script).unwrap();
        std::fs::set_permissions(&supervisor, PermissionsExt::from_mode(0o755)).unwrap();
        let own = |name| self.folder.path().join(name);
        let (driver, root_file_system) = match driver {
            DriverKind::Native => (DriverKind::Native, own("connector")),
            _ => (DriverKind::Gvisor { runsc: own("runsc"), browser: None }, own("root")),
        };
        SupervisorPaths {
            supervisor,
            driver,
            root_file_system,
            memory_mib: None,
            simulated_chip: Some(self.folder.path().join("machine")),
        }
    }
}

/// Lines of a script that move it into these groups.
pub(crate) fn enter(groups: &[PathBuf]) -> String {
    groups.iter().map(|group| format!("echo $$ >{}/cgroup.procs\n", group.display())).collect()
}

/// Groups that belong to a user, as a service manager delegates them.
pub(crate) struct Delegated(pub(crate) Vec<PathBuf>);

impl Delegated {
    pub(crate) fn to(user: u32) -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("toani-delegated-{}-{number}", std::process::id());
        let within = |list: &str| super::group_of("self", list).map(|group| group.join(&name));
        let groups: Vec<_> = match (within("memory"), within("pids")) {
            (Some(memory), Some(pids)) => vec![memory, pids],
            _ => vec![within("").unwrap()],
        };
        for group in &groups {
            std::fs::create_dir(group).unwrap();
            for entry in std::fs::read_dir(group).unwrap().flatten() {
                std::os::unix::fs::chown(entry.path(), Some(user), Some(user)).unwrap();
            }
            std::os::unix::fs::chown(group, Some(user), Some(user)).unwrap();
        }
        Self(groups)
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        // What a supervisor has started ends with it, and may leave a moment later.
        let left = |group: &&PathBuf| group.exists() && std::fs::remove_dir(group).is_err();
        let until = Instant::now() + WAIT;
        while self.0.iter().any(|group| left(&group)) && Instant::now() < until {
            std::thread::yield_now();
        }
    }
}
