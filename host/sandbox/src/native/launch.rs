//! The launcher: a process with one thread and no secrets that starts containers.
//!
//! For each order it copies itself twice. The first copy enters new namespaces; the second is the
//! first process in them, gives up everything else and becomes the connector. The kernel reaps
//! both, and the supervisor holds a descriptor of the second, which no other process can become.

use std::{
    convert::Infallible,
    ffi::CString,
    fs::File,
    io::Write,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{Mode, mkdir},
    io::fcntl_dupfd_cloexec,
    mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, mount_remount,
        unmount,
    },
    process::{
        DumpableBehavior, Gid, PidfdFlags, Resource, Rlimit, Uid, chdir, getegid, geteuid, getpid,
        pidfd_open, pivot_root, set_dumpable_behavior, setrlimit, setsid, umask,
    },
    thread::{
        CapabilitiesSecureBits, CapabilitySet, CapabilitySets, UnshareFlags,
        clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
        set_capabilities_secure_bits, set_no_new_privs, set_thread_groups, set_thread_res_gid,
        set_thread_res_uid,
    },
};
use seccompiler::BpfProgram;
use toani_protocol::limits::EXECUTION_MS_MAX;

use super::{
    landlock,
    order::{Limits, Order, Report},
    seccomp,
    step::{At, Step, StepFailed},
    sys::{self, Side},
};
use crate::{
    confinement::{REPORT, Runs},
    driver::{DOOR_FD, NOBODY},
    lifeline,
};

/// From where it is executed; closed by that.
const EXEC_FD: i32 = 4;
/// Copies of descriptors go here while the low numbers are arranged.
const SPARE_FD: i32 = 16;
const OPEN_FILES_MAX: u64 = 32;
/// Files and folders in /tmp, itself among them.
const TMP_FILES_MAX: u32 = 1_024;
/// Processor time, beyond the longest execution.
const CPU_S_EXTRA: u64 = 5;

struct Launcher {
    /// Of the launcher's own process, which is the parent of all that it starts.
    own: OwnedFd,
    control: OwnedFd,
    connector: OwnedFd,
    null: OwnedFd,
    filter: BpfProgram,
}

/// The launcher's main: orders come on descriptor 0, the connector's program is descriptor 1.
///
/// # Errors
/// What the launcher needs is not there.
pub fn launcher() -> anyhow::Result<()> {
    lifeline::follow(rustix::stdio::stdin())?;
    sys::reap_children(true)?;
    let launcher = Launcher {
        own: pidfd_open(getpid(), PidfdFlags::empty())?,
        control: rustix::stdio::stdin().try_clone_to_owned()?,
        connector: rustix::stdio::stdout().try_clone_to_owned()?,
        null: File::options().read(true).write(true).open("/dev/null")?.into(),
        filter: seccomp::filter(EXEC_FD)?,
    };
    while let Some(order) = Order::receive(launcher.control.as_fd())? {
        match sys::clone(false).at(Step::Clone) {
            Ok(Side::Caller(_)) => {}
            Ok(Side::New) => {
                launcher.start(order);
                std::process::exit(1);
            }
            Err(failed) => Report::send_failure(order.report.as_fd(), failed),
        }
    }
    Ok(())
}

impl Launcher {
    /// Returns only to report that it failed.
    fn start(&self, mut order: Order) {
        // Where the report stands, the connector's descriptors may have to go.
        let moved = fcntl_dupfd_cloexec(&order.report, SPARE_FD).at(Step::Descriptors);
        let Err(failed) = moved.and_then(|report| {
            order.report = report;
            self.enter(&order)
        });
        Report::send_failure(order.report.as_fd(), failed);
    }

    /// The first copy: the container's control group, new namespaces, then the second copy.
    fn enter(&self, order: &Order) -> Result<Infallible, StepFailed> {
        enter_groups(&order.groups).at(Step::ControlGroup)?;
        become_nobody().at(Step::OutsideUser)?;
        let (user, group) = (geteuid().as_raw(), getegid().as_raw());
        sys::unshare(UnshareFlags::NEWUSER).at(Step::UserNamespace)?;
        map_user(user, group).at(Step::UserMap)?;
        sys::unshare(
            UnshareFlags::NEWNS
                | UnshareFlags::NEWPID
                | UnshareFlags::NEWNET
                | UnshareFlags::NEWIPC
                | UnshareFlags::NEWUTS
                | UnshareFlags::NEWCGROUP,
        )
        .at(Step::Namespaces)?;
        match sys::clone(true).at(Step::Clone)? {
            Side::New => self.become_connector(order),
            Side::Caller(process) => {
                Report::send_process(order.report.as_fd(), &process).at(Step::Clone)?;
                std::process::exit(0);
            }
        }
    }

    /// The second copy: process 1 of the container.
    fn become_connector(&self, order: &Order) -> Result<Infallible, StepFailed> {
        setsid().at(Step::Session)?;
        // The supervisor kills the launcher by its own end, and that kills this process.
        lifeline::follow_process(&self.own).at(Step::Launcher)?;
        sys::reap_children(false).at(Step::Session)?;
        umask(Mode::from_raw_mode(0o077));
        empty_root(order.limits).at(Step::Root)?;
        rustix::system::sethostname(b"sandbox").at(Step::HostName)?;
        rustix::system::setdomainname(b"").at(Step::HostName)?;
        self.arrange_descriptors(order).at(Step::Descriptors)?;
        limit(order.limits).at(Step::Limits)?;
        drop_capabilities().at(Step::Capabilities)?;
        set_no_new_privs(true).at(Step::NoNewPrivileges)?;
        landlock::forbid_all_but("/tmp")
            .map_err(|_| rustix::io::Errno::OPNOTSUPP)
            .at(Step::Landlock)?;
        let argument = match order.runs {
            Runs::Report => {
                Some(CString::new(REPORT).map_err(std::io::Error::from).at(Step::Exec)?)
            }
            Runs::Connector => {
                seccompiler::apply_filter(&self.filter)
                    .map_err(|_| rustix::io::Errno::INVAL)
                    .at(Step::Filter)?;
                None
            }
        };
        Err(sys::execute(EXEC_FD, c"toani-connector", argument.as_deref())).at(Step::Exec)
    }

    /// 0 and 1 the job's stream, 2 nothing, 3 the door, 4 the program. The rest is closed by exec.
    fn arrange_descriptors(&self, order: &Order) -> std::io::Result<()> {
        let job = fcntl_dupfd_cloexec(&order.job, SPARE_FD)?;
        let door = fcntl_dupfd_cloexec(&order.door, SPARE_FD)?;
        let null = fcntl_dupfd_cloexec(&self.null, SPARE_FD)?;
        let connector = fcntl_dupfd_cloexec(&self.connector, SPARE_FD)?;
        sys::place(&job, 0, false)?;
        sys::place(&job, 1, false)?;
        sys::place(&null, 2, false)?;
        sys::place(&door, DOOR_FD, false)?;
        sys::place(&connector, EXEC_FD, true)?;
        sys::close_on_exec_from(EXEC_FD.unsigned_abs())
    }
}

/// From here on whatever this process and its children use counts as the container's.
fn enter_groups(groups: &[OwnedFd]) -> std::io::Result<()> {
    for group in groups {
        rustix::io::write(group, b"0")?;
    }
    // Where all of the machine's memory is used up, a container goes before the plane.
    write_to("/proc/self/oom_score_adj", "1000")
}

/// As root: no groups, and user 65534 outside as well. A user namespace of root's would own root's
/// files.
fn become_nobody() -> rustix::io::Result<()> {
    if geteuid().is_root() {
        let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        set_thread_groups(&[])?;
        set_thread_res_gid(group, group, group)?;
        set_thread_res_uid(user, user, user)?;
        // Else /proc/self, where the maps are, belongs to root. There is no secret here yet.
        set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    }
    Ok(())
}

/// One user and one group exist inside, and both are 65534.
fn map_user(user: u32, group: u32) -> std::io::Result<()> {
    write_to("/proc/self/setgroups", "deny")?;
    write_to("/proc/self/uid_map", &format!("{NOBODY} {user} 1"))?;
    write_to("/proc/self/gid_map", &format!("{NOBODY} {group} 1"))
}

fn write_to(path: &str, text: &str) -> std::io::Result<()> {
    File::options().write(true).open(path)?.write_all(text.as_bytes())
}

/// A root with nothing in it but /tmp, to which nothing can be added, and no way back to the old one.
fn empty_root(limits: Limits) -> std::io::Result<()> {
    // Any folder that surely exists: it is only where the new root hangs until it is the root.
    const HERE: &str = "/proc";
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("none", HERE, "tmpfs", flags, c"size=4k,nr_inodes=2,mode=0555")?;
    chdir(HERE)?;
    mkdir("tmp", Mode::empty())?;
    // In memory, which counts as the container's, and gone with its mount namespace. A size of
    // nothing would be no limit.
    let (access, size) = match limits.tmp_mib() {
        0 => (MountFlags::RDONLY, "4k".to_owned()),
        mib => (MountFlags::empty(), format!("{mib}m")),
    };
    let options = CString::new(format!("size={size},nr_inodes={TMP_FILES_MAX},mode=1777"))?;
    mount("none", "tmp", "tmpfs", flags | access, options.as_c_str())?;
    mount_remount(".", flags | MountFlags::RDONLY, c"")?;
    // With both the same, the old root ends up on top of the new one, and is taken off.
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    Ok(chdir("/")?)
}

fn limit(limits: Limits) -> rustix::io::Result<()> {
    let memory = limits.memory_bytes();
    let cpu_s = u64::from(EXECUTION_MS_MAX / 1000).saturating_add(CPU_S_EXTRA);
    for (resource, most) in [
        // Not what it uses, which is its group's limit, but what it could: below it a program is told
        // that there is no more.
        (Resource::As, memory),
        (Resource::Data, memory),
        (Resource::Nproc, limits.processes()),
        (Resource::Nofile, OPEN_FILES_MAX),
        (Resource::Cpu, cpu_s),
        (Resource::Core, 0),
        (Resource::Fsize, limits.file_bytes()),
        (Resource::Memlock, 0),
        (Resource::Msgqueue, 0),
        (Resource::Sigpending, 0),
        (Resource::Rtprio, 0),
    ] {
        let rlimit = Rlimit { current: Some(most), maximum: Some(most) };
        setrlimit(resource, rlimit)?;
    }
    Ok(())
}

/// None in any set, none to be had again.
fn drop_capabilities() -> rustix::io::Result<()> {
    let bits = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_SETUID_FIXUP
        | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
        | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    set_capabilities_secure_bits(bits)?;
    for number in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            // Beyond the kernel's last one.
            Err(rustix::io::Errno::INVAL) if number > 0 => break,
            Err(errno) => return Err(errno),
        }
    }
    clear_ambient_capability_set()?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, none)
}
