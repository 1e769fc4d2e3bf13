//! How a channel ends. Closed enums with stable texts; nothing of what a peer sent is in them.

use alloc::vec::Vec;

use rustls::Error;

/// Evidence that the caller's check does not accept. Its reason stays with the check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the evidence is refused")]
pub struct Refused;

/// Why a channel ended, or never was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    #[error("the peer broke the protocol")]
    PeerMisbehaved,
    #[error("the peer offers no version, suite, group or signature that is spoken here")]
    PeerIncompatible,
    #[error("the peer gave up the connection")]
    PeerAborted,
    #[error("the peer closed the connection before the channel was bound")]
    Closed,
    #[error("the peer shows no certificate")]
    NoCertificate,
    #[error("the peer's certificate is not one of an attested side, or its signature is wrong")]
    CertificateShape,
    #[error("the evidence in the peer's certificate is refused")]
    CertificateRefused,
    #[error("the peer's evidence for this channel is refused")]
    ChannelRefused,
    #[error("the peer sent a message where none may be")]
    UnexpectedMessage,
    #[error("a message is larger than its maximum")]
    TooLarge,
    #[error("evidence was given that was not asked for")]
    UnexpectedEvidence,
    #[error("no random bytes could be drawn")]
    NoRandomness,
    #[error("signing or sealing failed on this side")]
    Internal,
}

impl From<Error> for ChannelError {
    fn from(error: Error) -> Self {
        match error {
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::InvalidCertificate(_) => Self::CertificateShape,
            Error::PeerIncompatible(_) => Self::PeerIncompatible,
            Error::AlertReceived(_) => Self::PeerAborted,
            Error::PeerSentOversizedRecord => Self::TooLarge,
            Error::FailedToGetRandomBytes => Self::NoRandomness,
            Error::EncryptError | Error::General(_) => Self::Internal,
            _ => Self::PeerMisbehaved,
        }
    }
}

/// The end of a channel. Whatever failed was given by value: there is nothing left to use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Failure {
    pub error: ChannelError,
    /// The last bytes for the peer: an alert, or nothing.
    pub output: Vec<u8>,
}

impl From<ChannelError> for Failure {
    fn from(error: ChannelError) -> Self {
        Self { error, output: Vec::new() }
    }
}

/// Evidence that fits into no certificate, or a key that cannot sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("the evidence is larger than its maximum")]
    TooLarge,
    #[error("signing failed")]
    Signing,
}
