//! What the runtime is told of a container. The job and the door come in by descriptors.
//!
//! A stanza that is spelled wrongly or ignored is no error to a runtime; that each is in force is
//! asked from inside, see `confinement`.

use std::{collections::BTreeMap, fs, io, path::Path};

use serde_json::{Value, json};
use toani_protocol::policy::RootName;

use crate::{
    confinement::{REPORT, Runs},
    driver::{Kind, NOBODY, Size},
    root::PROGRAM,
    syscalls::{self, Allowed, Condition},
    workspace::Workspace,
};

const CAPABILITY_SETS: [&str; 5] = ["bounding", "effective", "permitted", "inheritable", "ambient"];
/// All but that of users, which the runtime makes by itself.
const NAMESPACES: [&str; 5] = ["pid", "network", "ipc", "uts", "mount"];

/// What is allowed to what a root file system holds.
struct Allows {
    open_files: u32,
    calls: &'static [Allowed],
}

impl Allows {
    fn of(root_file_system: RootName) -> Self {
        match root_file_system {
            RootName::Connector => Self { open_files: 32, calls: syscalls::CONNECTOR },
            RootName::Browser => Self { open_files: 4096, calls: syscalls::BROWSER },
        }
    }
}

/// Makes `folder` a bundle.
pub(super) fn write(
    folder: &Path,
    workspace: &Workspace,
    kind: Kind,
    runs: Runs,
) -> io::Result<()> {
    fs::write(folder.join("config.json"), config(workspace, kind, runs).to_string())
}

/// The runtime specification's config.json, version 1.0.2.
fn config(workspace: &Workspace, kind: Kind, runs: Runs) -> Value {
    let Kind { root_file_system, size } = kind;
    let Allows { open_files, calls } = Allows::of(root_file_system);
    let program = format!("/{PROGRAM}");
    let mut linux = json!({
        "namespaces": NAMESPACES.map(|kind| json!({ "type": kind })),
        // The container's own view; that it holds is the group's business.
        "resources": { "memory": { "limit": u64::from(size.memory_mib) << 20 } },
    });
    let args = match runs {
        Runs::Connector => {
            linux["seccomp"] = seccomp(calls);
            json!([program])
        }
        Runs::Report => json!([program, REPORT]),
    };
    let limit = |kind: &str, most: u64| json!({ "type": kind, "hard": most, "soft": most });
    json!({
        "ociVersion": "1.0.2",
        "hostname": "sandbox",
        // The image stands in the place of the folder.
        "root": { "path": workspace.nothing(), "readonly": true },
        "annotations": {
            "dev.gvisor.spec.rootfs.type": "erofs",
            "dev.gvisor.spec.rootfs.source": workspace.root(root_file_system),
        },
        "process": {
            "terminal": false,
            "user": { "uid": NOBODY, "gid": NOBODY, "additionalGids": [NOBODY] },
            "args": args,
            // Else the runtime looks into the root file system for one.
            "env": ["HOME=/"],
            "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": CAPABILITY_SETS.map(|set| (set, [""; 0])).into_iter().collect::<BTreeMap<_, _>>(),
            "rlimits": [
                limit("RLIMIT_NOFILE", open_files.into()),
                limit("RLIMIT_NPROC", size.processes.into()),
                limit("RLIMIT_CORE", 0),
                limit("RLIMIT_MEMLOCK", u64::from(size.memory_mib) << 20),
            ],
        },
        "mounts": [{
            "destination": "/tmp",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": tmp_options(size),
        }],
        "linux": linux,
    })
}

/// A size of nothing is no limit to the runtime: then nothing can be written.
fn tmp_options(size: Size) -> Vec<String> {
    let sized = match size.tmp_mib {
        0 => ["size=4k".to_owned(), "ro".to_owned()],
        mib => [format!("size={mib}m"), "rw".to_owned()],
    };
    ["nosuid", "nodev", "noexec", "mode=1777"].map(str::to_owned).into_iter().chain(sized).collect()
}

fn seccomp(calls: &'static [Allowed]) -> Value {
    let rules: Vec<_> = calls.iter().flat_map(rules).collect();
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::EPERM,
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": rules,
    })
}

/// One rule for each list of conditions, any of which is enough.
fn rules(allowed: &'static Allowed) -> impl Iterator<Item = Value> {
    let always: &[&[Condition]] = &[&[]];
    let when = if allowed.when.is_empty() { always } else { allowed.when };
    when.iter().map(|all| {
        let conditions: Vec<_> = all.iter().map(condition).collect();
        json!({ "names": [allowed.name], "action": "SCMP_ACT_ALLOW", "args": conditions })
    })
}

fn condition(condition: &Condition) -> Value {
    match *condition {
        Condition::Is(argument, value) => {
            json!({ "index": argument, "value": value, "op": "SCMP_CMP_EQ" })
        }
        Condition::Null(argument) => json!({ "index": argument, "value": 0, "op": "SCMP_CMP_EQ" }),
        Condition::Without(argument, bits) => json!({
            "index": argument, "value": bits, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ",
        }),
    }
}
