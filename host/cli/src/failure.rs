//! Failures that have an exit code of their own. All others exit with 5.

use std::fmt;

/// A failure with its exit code.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The plane or a person said no.
    Refused {
        code: String,
        detail: String,
    },
    Usage(String),
    /// The plane does not answer.
    Unreachable(String),
    /// Nobody approved in time.
    Waited(String),
}

impl Failure {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { .. } => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
            Self::Waited(_) => 4,
        }
    }

    /// A stable code for machines.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::Refused { code, .. } => code,
            Self::Usage(_) => "usage",
            Self::Unreachable(_) => "unreachable",
            Self::Waited(_) => "waited_too_long",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { code, detail } => write!(f, "{detail} ({code})"),
            Self::Usage(text) | Self::Unreachable(text) | Self::Waited(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Failure {}
