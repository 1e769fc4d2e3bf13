//! What crosses a lane, either way: one byte that says what follows, a length, that many bytes.

use toani_protocol::limits::MESSAGE_BYTES_MAX;

/// Kind and 32-bit little-endian length.
pub const PREFIX_BYTES: usize = 5;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A call into the image; its reply.
    Call,
    /// Asks for the TARGETINFO of who quotes; gives it.
    Target,
    /// A report to quote; the evidence.
    Quote,
    /// A sentence why there is none.
    Refused,
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Self::Call => 0,
            Self::Target => 1,
            Self::Quote => 2,
            Self::Refused => 3,
        }
    }
}

/// `None` for a body that is larger than a message.
pub fn prefix(kind: Kind, length: usize) -> Option<[u8; PREFIX_BYTES]> {
    if length > MESSAGE_BYTES_MAX {
        return None;
    }
    let [a, b, c, d] = u32::try_from(length).ok()?.to_le_bytes();
    Some([kind.code(), a, b, c, d])
}

/// `None` for a kind that there is not, or a length beyond a message's.
pub fn read_prefix([kind, length @ ..]: [u8; PREFIX_BYTES]) -> Option<(Kind, usize)> {
    let kind = [Kind::Call, Kind::Target, Kind::Quote, Kind::Refused]
        .into_iter()
        .find(|known| known.code() == kind)?;
    let length = usize::try_from(u32::from_le_bytes(length)).ok()?;
    (length <= MESSAGE_BYTES_MAX).then_some((kind, length))
}
