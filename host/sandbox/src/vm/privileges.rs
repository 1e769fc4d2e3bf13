//! What QEMU may do on this machine. Where root starts it, it is a user of its own, whom nothing else
//! belongs to: a guest that breaks out of its machine has no more than the devices that it had before,
//! and who is nobody else, as containers are, does not read its memory. Where an ordinary user starts
//! it, it is that user. Either way it has no capability.

use std::{ffi::OsStr, io, os::unix::fs::MetadataExt, path::Path};

use rustix::{
    process::{Gid, Uid, geteuid},
    thread::{
        CapabilitySet, CapabilitySets, clear_ambient_capability_set, set_capabilities,
        set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};

use super::{Accelerator, KVM_DEVICE, Machine, Protection, SEV_DEVICE};

/// QEMU's user and group: between those that service managers give away and nobody's.
const OWN: u32 = 65_533;

/// Read and write, for a group and for others.
const GROUP_MAY: u32 = 0o060;
const OTHERS_MAY: u32 = 0o006;

/// QEMU may not open what it needs.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("{0}: {1}")]
    Missing(&'static str, io::Error),
    #[error(
        "{0} is root's alone, and QEMU does not run as root: give it to a group that is not root's \
         (chgrp kvm {0}; chmod 660 {0})"
    )]
    RootsAlone(&'static str),
}

/// The groups, by number, that let somebody who is nobody else open what this machine needs.
pub(super) fn groups(machine: &Machine) -> Result<String, DeviceError> {
    if !geteuid().is_root() {
        return Ok(String::new());
    }
    let is_snp = machine.protection != Protection::None;
    let needed =
        [(KVM_DEVICE, is_snp || machine.accelerator == Accelerator::Kvm), (SEV_DEVICE, is_snp)];
    let mut groups = Vec::new();
    for (device, _) in needed.into_iter().filter(|(_, needed)| *needed) {
        let about = Path::new(device).metadata();
        let about = about.map_err(|error| DeviceError::Missing(device, error))?;
        match opened_by(about.mode(), about.gid()) {
            Opened::Anybody => {}
            Opened::Group(group) => groups.push(group.to_string()),
            Opened::Root => return Err(DeviceError::RootsAlone(device)),
        }
    }
    Ok(groups.join(","))
}

#[derive(Debug, PartialEq, Eq)]
enum Opened {
    Anybody,
    Group(u32),
    Root,
}

fn opened_by(mode: u32, group: u32) -> Opened {
    // A member of the group has the group's rights, whatever the others have.
    match (mode & OTHERS_MAY == OTHERS_MAY, mode & GROUP_MAY == GROUP_MAY) {
        (true, _) => Opened::Anybody,
        (false, true) if group != 0 => Opened::Group(group),
        _ => Opened::Root,
    }
}

/// As root: becomes QEMU's user, with these groups. As anybody: gives up what can be given up. There is
/// one thread yet.
pub(super) fn give_up(groups: &OsStr) -> io::Result<()> {
    if geteuid().is_root() {
        let (user, group) = (Uid::from_raw(OWN), Gid::from_raw(OWN));
        set_thread_groups(&parsed(groups)?)?;
        set_thread_res_gid(group, group, group)?;
        set_thread_res_uid(user, user, user)?;
    }
    // A service manager may have given some to the plane.
    clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    Ok(set_capabilities(None, none)?)
}

fn parsed(groups: &OsStr) -> io::Result<Vec<Gid>> {
    let words = groups.to_str().ok_or(io::ErrorKind::InvalidInput)?.split(',');
    let number = |word: &str| match word.parse() {
        Ok(0) | Err(_) => Err(io::ErrorKind::InvalidInput.into()),
        Ok(number) => Ok(Gid::from_raw(number)),
    };
    words.filter(|word| !word.is_empty()).map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_opened_by_way_of_its_group_and_never_of_roots() {
        assert_eq!(opened_by(0o666, 0), Opened::Anybody);
        assert_eq!(opened_by(0o660, 108), Opened::Group(108));
        for (mode, group) in [(0o660, 0), (0o600, 108), (0o640, 108), (0o664, 0)] {
            assert_eq!(opened_by(mode, group), Opened::Root, "{mode:o} {group}");
        }
        let error = DeviceError::RootsAlone(KVM_DEVICE).to_string();
        assert!(error.contains("chgrp kvm /dev/kvm"), "{error}");
    }

    #[test]
    fn groups_are_numbers_and_none_is_roots() {
        let numbers = |text: &str| parsed(text.as_ref());
        assert_eq!(numbers("").unwrap(), []);
        assert_eq!(numbers("108,27").unwrap(), [Gid::from_raw(108), Gid::from_raw(27)]);
        assert!(numbers("0").is_err() && numbers("kvm").is_err() && numbers("-1").is_err());
    }

    #[test]
    fn an_emulator_needs_no_device() {
        let machine = Machine { accelerator: Accelerator::Tcg, ..Machine::usual(Protection::None) };
        assert_eq!(groups(&machine).unwrap(), "");
    }
}
