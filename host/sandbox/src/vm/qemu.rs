//! How QEMU is started: its arguments, its descriptors, its end.
//!
//! The arguments for SEV-SNP are tested as a list; they have not yet been run on such hardware.

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{net::UnixStream as StdStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use rustix::{
    io::{FdFlags, fcntl_setfd},
    process::{Signal, getppid, set_parent_process_death_signal},
    thread::set_no_new_privs,
};
use tokio::{net::UnixStream, sync::oneshot};

use super::{image::GuestImage, privileges, vsock::Vsock};
use crate::{
    guest::{CHANNEL_PORT, REPORT_PORT},
    lifeline::Orphan,
};

/// The argument that makes `toani-sandbox` become QEMU.
pub const LAUNCHER_MODE: &str = "vm-launcher";

/// GUEST_POLICY: SMT allowed, and bit 17, which is always set. No debugging, no migration.
const SNP_POLICY: &str = "0x30000";
/// Where the C-bit of all SEV-SNP processors so far is, and what it takes from addresses.
const SNP_ADDRESSES: &str = "cbitpos=51,reduced-phys-bits=1";

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    Kvm,
    /// An emulator: works everywhere, and is many times slower.
    Tcg,
}

impl Accelerator {
    /// As QEMU names it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// What protects the guest from its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protection {
    None,
    /// SEV-SNP, from this firmware on. Needs QEMU 9.1.
    Snp {
        firmware: PathBuf,
    },
}

/// A machine, without what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    pub accelerator: Accelerator,
    pub protection: Protection,
    pub memory_mib: u32,
    pub processors: u32,
    /// As QEMU names it. It is measured.
    pub snp_processor: String,
}

/// The descriptors that QEMU inherits, by number.
#[derive(Debug, Clone, Copy)]
struct Numbers {
    kernel: i32,
    initrd: i32,
    /// Where there is one.
    firmware: Option<i32>,
    console: i32,
    channel: ChannelNumber,
    report: i32,
}

/// How the gateway's stream goes into the guest.
#[derive(Debug, Clone, Copy)]
enum ChannelNumber {
    Port(i32),
    /// By the kernel's device, for a guest of this number. Not yet run.
    Vsock {
        device: i32,
        guest: u32,
    },
}

/// All arguments but the program's own name.
fn arguments(machine: &Machine, numbers: Numbers, command_line: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut put = |words: &[&str]| all.extend(words.iter().map(|word| (*word).to_owned()));
    let memory = format!("{}M", machine.memory_mib);
    // A guest that starts again would not be the one that was started.
    put(&["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
    put(&["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]);
    put(&["-name", "toani-guest", "-m", &memory, "-smp", &machine.processors.to_string()]);
    let devices = match &machine.protection {
        Protection::None => {
            let processor = match machine.accelerator {
                Accelerator::Kvm => "host",
                Accelerator::Tcg => "max",
            };
            let accelerator = machine.accelerator.as_str();
            put(&[
                "-machine",
                "q35,usb=off,smm=off,vmport=off,dump-guest-core=off",
                "-accel",
                accelerator,
            ]);
            put(&["-cpu", processor]);
            "disable-legacy=on"
        }
        Protection::Snp { .. } => {
            let object = format!(
                "sev-snp-guest,id=sev0,{SNP_ADDRESSES},kernel-hashes=on,policy={SNP_POLICY}"
            );
            let ram = format!("memory-backend-memfd,id=ram0,size={memory},share=true,prealloc=off");
            put(&[
                "-machine",
                "q35,confidential-guest-support=sev0,memory-backend=ram0,vmport=off,dump-guest-core=off",
            ]);
            put(&["-accel", "kvm", "-cpu", &machine.snp_processor]);
            put(&["-object", &object, "-object", &ram]);
            // Memory that both sides may see is asked for, instead of all of it being so.
            "disable-legacy=on,iommu_platform=on"
        }
    };
    if let Some(firmware) = numbers.firmware {
        put(&["-bios", &inherited(firmware)]);
    }
    put(&["-kernel", &inherited(numbers.kernel), "-initrd", &inherited(numbers.initrd)]);
    put(&["-append", command_line]);
    put(&["-chardev", &socket("console", numbers.console), "-serial", "chardev:console"]);
    put(&["-device", &format!("virtio-serial-pci,id=serial,max_ports=3,{devices}")]);
    let mut ports = vec![(2, "report", numbers.report, REPORT_PORT)];
    match numbers.channel {
        ChannelNumber::Port(number) => ports.insert(0, (1, "channel", number, CHANNEL_PORT)),
        ChannelNumber::Vsock { device, guest } => {
            let device = format!("vhost-vsock-pci,guest-cid={guest},vhostfd={device},{devices}");
            put(&["-device", &device]);
        }
    }
    for (place, id, number, name) in ports {
        let port = format!("virtserialport,bus=serial.0,nr={place},chardev={id},name={name}");
        put(&["-chardev", &socket(id, number), "-device", &port]);
    }
    // Addresses are the door's business, in the guest.
    put(&["-netdev", "user,id=net,ipv6=off,restrict=off"]);
    put(&["-device", &format!("virtio-net-pci,netdev=net,romfile=,{devices}")]);
    all
}

fn inherited(number: i32) -> String {
    format!("/proc/self/fd/{number}")
}

fn socket(id: &str, number: i32) -> String {
    format!("socket,id={id},fd={number}")
}

/// Where the guest's supervisor will speak.
#[derive(Debug)]
pub(super) enum Channel {
    Port(UnixStream),
    /// To the guest of this number, once it listens.
    Vsock(u32),
}

/// A QEMU that runs. It dies with this process.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) console: UnixStream,
    pub(super) channel: Channel,
    pub(super) report: UnixStream,
    /// How it ended; closed without a word if it could not be started.
    pub(super) ended: oneshot::Receiver<ExitStatus>,
}

/// Starts QEMU with a guest, as a member of these groups.
pub(super) fn start(
    qemu: &Path,
    machine: &Machine,
    image: &GuestImage,
    groups: String,
    vsock: Option<&Vsock>,
) -> io::Result<Running> {
    let (console, their_console) = pair()?;
    let (port, their_port) = pair()?;
    let (report, their_report) = pair()?;
    let inherit = |descriptor: BorrowedFd<'_>| {
        fcntl_setfd(descriptor, FdFlags::empty()).map(|()| descriptor.as_raw_fd())
    };
    let (channel, number) = match vsock {
        Some(vsock) => {
            let (device, guest) = (inherit(vsock.device())?, vsock.guest);
            (Channel::Vsock(guest), ChannelNumber::Vsock { device, guest })
        }
        None => (Channel::Port(port), ChannelNumber::Port(inherit(their_port.as_fd())?)),
    };
    let numbers = Numbers {
        kernel: inherit(image.kernel())?,
        initrd: inherit(image.initrd())?,
        firmware: image.firmware().map(inherit).transpose()?,
        console: inherit(their_console.as_fd())?,
        channel: number,
        report: inherit(their_report.as_fd())?,
    };
    let mut command = Command::new("/proc/self/exe");
    command
        .arg(LAUNCHER_MODE)
        .arg(std::process::id().to_string())
        .arg(groups)
        .arg(qemu)
        .args(arguments(machine, numbers, &image.command_line))
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let ended = spawn(command, [their_console, their_port, their_report])?;
    Ok(Running { console, channel, report, ended })
}

fn pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = StdStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs.into()))
}

/// On a thread that lives as long as it does: QEMU is killed when the thread that started it ends.
/// Returns when it is started.
fn spawn(mut command: Command, theirs: [OwnedFd; 3]) -> io::Result<oneshot::Receiver<ExitStatus>> {
    let (started, start) = std::sync::mpsc::sync_channel(1);
    let (end, ended) = oneshot::channel();
    std::thread::Builder::new().name("qemu".into()).spawn(move || {
        let child = command.spawn();
        // Else our copies would keep its streams open.
        drop(theirs);
        match child {
            Ok(mut child) => {
                let _ = started.send(Ok(()));
                if let Ok(status) = child.wait() {
                    // Nobody may wait any more.
                    let _ = end.send(status);
                }
            }
            Err(error) => {
                let _ = started.send(Err(error));
            }
        }
    })?;
    start.recv().map_err(io::Error::other)??;
    Ok(ended)
}

/// Becomes QEMU, from its parent's number, a list of groups and QEMU's own words: a process of its own,
/// without root's rights, that asks to be killed with the one that started it, which QEMU itself does
/// not.
///
/// # Errors
/// It cannot be executed.
pub fn launcher(words: &[std::ffi::OsString]) -> io::Result<std::convert::Infallible> {
    let [parent, groups, program, arguments @ ..] = words else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // First: the wish to be killed goes with the user that had it.
    privileges::give_up(groups)?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // One that was gone before is not noticed by that.
    let living = getppid().map(|living| living.as_raw_pid().to_string());
    if living.as_deref() != parent.to_str() {
        return Err(io::Error::other(Orphan));
    }
    set_no_new_privs(true)?;
    Err(Command::new(program).args(arguments).exec())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBERS: Numbers = Numbers {
        kernel: 5,
        initrd: 6,
        firmware: None,
        console: 7,
        channel: ChannelNumber::Port(8),
        report: 9,
    };

    fn machine(protection: Protection) -> Machine {
        Machine {
            accelerator: Accelerator::Tcg,
            protection,
            memory_mib: 768,
            processors: 1,
            snp_processor: "EPYC-v4".into(),
        }
    }

    fn value<'a>(all: &'a [String], name: &str) -> Vec<&'a str> {
        let pairs = all.windows(2).filter(|pair| pair[0] == name);
        pairs.map(|pair| pair[1].as_str()).collect()
    }

    #[test]
    fn a_machine_has_two_ports_a_network_and_nothing_else() {
        let all = arguments(&machine(Protection::None), NUMBERS, "quiet panic=-1");
        assert_eq!(value(&all, "-kernel"), ["/proc/self/fd/5"]);
        assert_eq!(value(&all, "-initrd"), ["/proc/self/fd/6"]);
        assert_eq!(value(&all, "-append"), ["quiet panic=-1"]);
        assert_eq!(value(&all, "-accel"), ["tcg"]);
        assert_eq!(
            value(&all, "-device"),
            [
                "virtio-serial-pci,id=serial,max_ports=3,disable-legacy=on",
                "virtserialport,bus=serial.0,nr=1,chardev=channel,name=toani.channel",
                "virtserialport,bus=serial.0,nr=2,chardev=report,name=toani.report",
                "virtio-net-pci,netdev=net,romfile=,disable-legacy=on",
            ]
        );
        assert!(all.contains(&"-nodefaults".into()) && all.contains(&"-no-user-config".into()));
        assert!(value(&all, "-bios").is_empty() && value(&all, "-object").is_empty());
    }

    #[test]
    fn over_vsock_there_is_a_device_in_the_ports_place() {
        let channel = ChannelNumber::Vsock { device: 11, guest: 77 };
        let numbers = Numbers { channel, ..NUMBERS };
        let all = arguments(&machine(Protection::None), numbers, "quiet");
        let devices = value(&all, "-device");
        let vsock = "vhost-vsock-pci,guest-cid=77,vhostfd=11,disable-legacy=on";
        assert!(devices.contains(&vsock), "{devices:?}");
        assert!(devices.iter().any(|device| device.ends_with("name=toani.report")));
        assert!(!all.iter().any(|word| word.contains("toani.channel")));
        let snp = machine(Protection::Snp { firmware: "/f".into() });
        let all = arguments(&snp, Numbers { firmware: Some(4), ..numbers }, "quiet");
        let protected = format!("{vsock},iommu_platform=on");
        assert!(value(&all, "-device").contains(&protected.as_str()));
    }

    #[test]
    fn sev_snp_measures_what_is_booted() {
        let protection = Protection::Snp { firmware: "/ovmf/OVMF.amdsev.fd".into() };
        let numbers = Numbers { firmware: Some(4), ..NUMBERS };
        let all = arguments(&machine(protection), numbers, "quiet");
        assert_eq!(
            value(&all, "-machine"),
            [
                "q35,confidential-guest-support=sev0,memory-backend=ram0,vmport=off,dump-guest-core=off"
            ]
        );
        assert_eq!(
            value(&all, "-object"),
            [
                "sev-snp-guest,id=sev0,cbitpos=51,reduced-phys-bits=1,kernel-hashes=on,\
                 policy=0x30000",
                "memory-backend-memfd,id=ram0,size=768M,share=true,prealloc=off",
            ]
        );
        assert_eq!(value(&all, "-bios"), ["/proc/self/fd/4"]);
        assert_eq!((value(&all, "-accel"), value(&all, "-cpu")), (vec!["kvm"], vec!["EPYC-v4"]));
        let virtio: Vec<_> =
            value(&all, "-device").into_iter().filter(|d| d.contains("-pci")).collect();
        assert_eq!(virtio.len(), 2);
        assert!(
            virtio.iter().all(|device| device.ends_with("disable-legacy=on,iommu_platform=on"))
        );
    }
}
