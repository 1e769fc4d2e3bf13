//! Landlock: no file but in /tmp, no port, nobody to signal, whatever else were to fail. The root is
//! empty and the network has no interface; this holds for what a connector might still find a way to.

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope,
};

/// What may be done in the one folder: nothing is executed, linked or moved between folders, and there
/// is no socket, pipe or device in it.
fn of_a_folder() -> BitFlags<AccessFs> {
    AccessFs::ReadFile
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::ReadDir
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
}

/// That the rules could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error(transparent)]
    Rules(#[from] RulesetError),
    #[error(transparent)]
    Folder(#[from] landlock::PathFdError),
}

/// Forbids this thread, and all that it will start, every file but those in `folder`. Kernels that know more than files
/// (5.13) forbid ports (6.7), and signals and abstract sockets of others (6.12) too.
pub(super) fn forbid_all_but(folder: &str) -> Result<(), Refused> {
    let files = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))?;
    let all = files
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V6))?
        .handle_access(AccessNet::from_all(ABI::V6))?
        .scope(Scope::from_all(ABI::V6))?;
    // One rule: nothing else of it is allowed.
    let folder = PathBeneath::new(PathFd::new(folder)?, of_a_folder());
    all.create()?.add_rule(folder)?.restrict_self()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File, io::ErrorKind, net::TcpListener, os::unix::fs::PermissionsExt, process::Command,
    };

    use super::*;

    #[test]
    fn what_is_not_forbidden_otherwise_is_forbidden_by_this() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let tries = move || {
            let opened = File::open("/").map(drop).map_err(|error| error.kind());
            let connected = std::net::TcpStream::connect(address).map(drop);
            (opened, connected.map_err(|error| error.kind()))
        };
        assert_eq!(tries(), (Ok(()), Ok(())));
        let folder = tempfile::tempdir().unwrap();
        let within = folder.path().join("file");
        // Of one thread alone.
        let restricted = std::thread::spawn(move || {
            forbid_all_but(folder.path().to_str().unwrap()).unwrap();
            File::create(&within).unwrap();
            std::fs::set_permissions(&within, PermissionsExt::from_mode(0o755)).unwrap();
            let ran = Command::new(&within).status().map(drop);
            (tries(), ran.map_err(|error| error.kind()))
        });
        let denied = Err(ErrorKind::PermissionDenied);
        let ((opened, connected), ran) = restricted.join().unwrap();
        assert_eq!((opened, ran), (denied, denied));
        // From 6.7 on; an older kernel has an empty network namespace to say the same.
        let known = rustix::system::uname().release().to_string_lossy().into_owned();
        let mut numbers = known.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
        if (numbers.next(), numbers.next()) >= (Some(6), Some(7)) {
            assert_eq!(connected, denied);
        }
        assert_eq!(tries(), (Ok(()), Ok(())), "the others are as before");
    }
}
