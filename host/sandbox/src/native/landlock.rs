//! Landlock: no file, no port, nobody to signal, whatever else were to fail. The root is empty and
//! the network has no interface; this holds for what a connector might still find a way to.

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetError,
    Scope,
};

/// Forbids this thread, and all that it will start, every file. Kernels that know more than files
/// (5.13) forbid ports (6.7), and signals and abstract sockets of others (6.12) too.
pub(super) fn forbid() -> Result<(), RulesetError> {
    let files = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))?;
    let all = files
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V6))?
        .handle_access(AccessNet::from_all(ABI::V6))?
        .scope(Scope::from_all(ABI::V6))?;
    // No rule: nothing of it is allowed.
    all.create()?.restrict_self().map(drop)
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::ErrorKind, net::TcpListener};

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
        // Of one thread alone.
        let restricted = std::thread::spawn(move || {
            forbid().unwrap();
            tries()
        });
        let denied = Err(ErrorKind::PermissionDenied);
        let (opened, connected) = restricted.join().unwrap();
        assert_eq!(opened, denied);
        // From 6.7 on; an older kernel has an empty network namespace to say the same.
        let known = rustix::system::uname().release().to_string_lossy().into_owned();
        let mut numbers = known.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
        if (numbers.next(), numbers.next()) >= (Some(6), Some(7)) {
            assert_eq!(connected, denied);
        }
        assert_eq!(tries(), (Ok(()), Ok(())), "the others are as before");
    }
}
