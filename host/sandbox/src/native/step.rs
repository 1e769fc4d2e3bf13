//! The steps of isolation, by name: which one the kernel refused, and what to allow.

use rustix::io::Errno;

/// One step on the way into the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Step {
    Descriptors = 1,
    OutsideUser,
    UserNamespace,
    UserMap,
    Namespaces,
    Clone,
    Session,
    Root,
    HostName,
    Limits,
    Capabilities,
    NoNewPrivileges,
    Landlock,
    Filter,
    Exec,
    ControlGroup,
    Launcher,
}

impl Step {
    const ALL: [Self; 17] = [
        Self::Descriptors,
        Self::OutsideUser,
        Self::UserNamespace,
        Self::UserMap,
        Self::Namespaces,
        Self::Clone,
        Self::Session,
        Self::Root,
        Self::HostName,
        Self::Limits,
        Self::Capabilities,
        Self::NoNewPrivileges,
        Self::Landlock,
        Self::Filter,
        Self::Exec,
        Self::ControlGroup,
        Self::Launcher,
    ];

    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.byte() == byte)
    }

    pub(super) const fn byte(self) -> u8 {
        self as u8
    }

    const fn action(self) -> &'static str {
        match self {
            Self::Descriptors => "arranging descriptors",
            Self::OutsideUser => "becoming user 65534",
            Self::UserNamespace => "making a user namespace",
            Self::UserMap => "mapping user 65534 into the user namespace",
            Self::Namespaces => "making mount, pid, network, ipc, uts and cgroup namespaces",
            Self::Clone => "starting the container's first process",
            Self::Session => "starting a session",
            Self::Root => "making an empty root",
            Self::HostName => "setting the host name",
            Self::Limits => "setting resource limits",
            Self::Capabilities => "dropping capabilities",
            Self::NoNewPrivileges => "forbidding new privileges",
            Self::Landlock => "forbidding files by Landlock",
            Self::Filter => "installing the system call filter",
            Self::Exec => "executing the connector",
            Self::ControlGroup => "entering the control group",
            Self::Launcher => "following the launcher into its end",
        }
    }

    /// What an administrator can do about it.
    const fn advice(self, errno: Errno) -> &'static str {
        match (self, errno) {
            (Self::UserNamespace, Errno::NOSPC | Errno::USERS) => {
                "raise the sysctl user.max_user_namespaces"
            }
            (Self::Namespaces, Errno::NOSPC | Errno::USERS) => {
                "raise the sysctls user.max_{mnt,pid,net,ipc,uts,cgroup}_namespaces"
            }
            (Self::UserNamespace | Self::UserMap | Self::Namespaces | Self::Root, _) => {
                "allow unprivileged user namespaces: sysctl kernel.unprivileged_userns_clone=1 \
                 (Debian), kernel.apparmor_restrict_unprivileged_userns=0 or an AppArmor profile \
                 with `userns` for toani-sandbox (Ubuntu 24.04), user.max_user_namespaces above \
                 0; in a container, a seccomp profile that lets unshare, clone, mount and \
                 pivot_root through"
            }
            (Self::OutsideUser, _) => {
                "start toani as an ordinary user, or leave root CAP_SETUID and CAP_SETGID"
            }
            (Self::Landlock, _) => {
                "use a kernel of at least 5.13 with CONFIG_SECURITY_LANDLOCK, and `landlock` among \
                 its lsm= (see /sys/kernel/security/lsm)"
            }
            (Self::ControlGroup, _) => {
                "start toani as root, or in a delegated group (systemd-run --user --scope -p \
                 Delegate=yes toani serve)"
            }
            (Self::Filter, _) => "use a kernel with CONFIG_SECCOMP_FILTER",
            (Self::Exec, Errno::NOENT) => {
                "the connector is not linked statically: build it with `cargo rustc -p \
                 toani-connectors --bin toani-connector -- -C target-feature=+crt-static`"
            }
            (Self::Exec, Errno::ACCESS | Errno::PERM) => {
                "allow executable memory files: sysctl vm.memfd_noexec=0 or 1"
            }
            (Self::Descriptors, Errno::NOSYS | Errno::INVAL) => "use a kernel of at least 5.11",
            _ => "see the kernel's log; nothing runs without this step",
        }
    }
}

/// The kernel refused a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{} failed ({errno}): {}", step.action(), step.advice(*errno))]
pub(super) struct StepFailed {
    pub(super) step: Step,
    pub(super) errno: Errno,
}

/// Names the step that an error belongs to.
pub(super) trait At<T> {
    fn at(self, step: Step) -> Result<T, StepFailed>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, step: Step) -> Result<T, StepFailed> {
        self.map_err(|errno| StepFailed { step, errno })
    }
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, step: Step) -> Result<T, StepFailed> {
        self.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)).at(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_travel_as_bytes() {
        for step in Step::ALL {
            assert_eq!(Step::from_byte(step.byte()), Some(step));
        }
        assert_eq!(Step::from_byte(0), None);
        assert_eq!(Step::from_byte(18), None);
    }

    #[test]
    fn an_error_says_what_to_allow() {
        let text = StepFailed { step: Step::UserNamespace, errno: Errno::PERM };
        assert!(text.to_string().contains("kernel.unprivileged_userns_clone"));
    }
}
