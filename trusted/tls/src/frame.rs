//! Frames inside TLS: one byte for the kind, four for the length, little endian as in the frames
//! of a job, and the body.

use alloc::{collections::VecDeque, vec::Vec};

use toani_protocol::limits::{ATTESTATION_EVIDENCE_BYTES_MAX, MESSAGE_BYTES_MAX};
use zeroize::Zeroizing;

use crate::error::ChannelError;

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Begins a binding: 32 random bytes.
    Nonce,
    /// Fresh evidence for this channel.
    Evidence,
    /// The sender has verified the receiver's evidence.
    Bound,
    /// What the channel is for.
    Message,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Nonce, Self::Evidence, Self::Bound, Self::Message];

    const fn code(self) -> u8 {
        match self {
            Self::Nonce => 1,
            Self::Evidence => 2,
            Self::Bound => 3,
            Self::Message => 4,
        }
    }

    pub(crate) const fn body_bytes_max(self) -> usize {
        match self {
            Self::Nonce => 32,
            Self::Evidence => ATTESTATION_EVIDENCE_BYTES_MAX,
            Self::Bound => 0,
            Self::Message => MESSAGE_BYTES_MAX,
        }
    }
}

pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

pub(crate) const HEAD_BYTES: usize = 5;

/// The head of a frame; an error if the body is larger than its kind may be.
pub(crate) fn head(kind: Kind, body_bytes: usize) -> Result<[u8; HEAD_BYTES], ChannelError> {
    if body_bytes > kind.body_bytes_max() {
        return Err(ChannelError::TooLarge);
    }
    let length = u32::try_from(body_bytes).map_err(|_| ChannelError::TooLarge)?;
    let [a, b, c, d] = length.to_le_bytes();
    Ok([kind.code(), a, b, c, d])
}

/// Cuts a stream of plaintext into frames.
///
/// A body's buffer is made once, at its full size: growing it would leave pieces of plaintext
/// behind. How large a body may be is checked before, and no message is begun before a `Bound`, so
/// that a stranger cannot ask for much. Whether that `Bound` may be there the binding decides,
/// before it hands out anything.
#[derive(Default)]
pub(crate) struct Frames {
    head: Vec<u8>,
    /// The frame being read, and how many bytes it lacks.
    open: Option<(Frame, usize)>,
    /// Whole frames that nobody has taken yet: no more than came in with one call.
    whole: VecDeque<Frame>,
    bound: bool,
}

impl Frames {
    pub(crate) fn take(&mut self) -> Option<Frame> {
        self.whole.pop_front()
    }

    /// The frame is the next to be taken, by another state.
    pub(crate) fn put_back(&mut self, frame: Frame) {
        self.whole.push_front(frame);
    }

    /// Between two frames, none of them waiting.
    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_empty() && self.open.is_none() && self.whole.is_empty()
    }

    pub(crate) fn push(&mut self, mut plaintext: &[u8]) -> Result<(), ChannelError> {
        loop {
            let begun = match self.open.take() {
                None => self.begin(&mut plaintext)?,
                open => open,
            };
            let Some((mut frame, missing)) = begun else {
                return Ok(());
            };
            let (now, later) = plaintext.split_at(missing.min(plaintext.len()));
            plaintext = later;
            frame.body.extend_from_slice(now);
            let missing = missing.saturating_sub(now.len());
            if missing > 0 {
                self.open = Some((frame, missing));
                return Ok(());
            }
            self.bound |= frame.kind == Kind::Bound;
            self.whole.push_back(frame);
        }
    }

    /// Reads a head; None if it is not all there yet.
    fn begin(&mut self, plaintext: &mut &[u8]) -> Result<Option<(Frame, usize)>, ChannelError> {
        let missing = HEAD_BYTES.saturating_sub(self.head.len());
        let (now, later) = plaintext.split_at(missing.min(plaintext.len()));
        *plaintext = later;
        self.head.extend_from_slice(now);
        let &[code, ref length @ ..] = self.head.as_slice() else {
            return Ok(None);
        };
        let kind = Kind::ALL.into_iter().find(|kind| kind.code() == code);
        let kind = kind.ok_or(ChannelError::PeerMisbehaved)?;
        if kind == Kind::Message && !self.bound {
            return Err(ChannelError::UnexpectedMessage);
        }
        let Ok(length) = <[u8; 4]>::try_from(length) else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > kind.body_bytes_max() {
            return Err(ChannelError::TooLarge);
        }
        self.head.clear();
        let body = Zeroizing::new(Vec::with_capacity(length));
        Ok(Some((Frame { kind, body }, length)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: Kind, body: &[u8]) -> Vec<u8> {
        [&head(kind, body.len()).unwrap(), body].concat()
    }

    fn cut(stream: &[u8], piece: usize) -> Result<Vec<(Kind, Vec<u8>)>, ChannelError> {
        let mut frames = Frames::default();
        for piece in stream.chunks(piece) {
            frames.push(piece)?;
        }
        Ok(core::iter::from_fn(|| frames.take()).map(|f| (f.kind, f.body.to_vec())).collect())
    }

    #[test]
    fn frames_come_out_however_the_stream_is_cut() {
        let stream = [
            frame(Kind::Nonce, &[7; 32]),
            frame(Kind::Bound, &[]),
            frame(Kind::Message, b"hello"),
            frame(Kind::Message, &[]),
        ]
        .concat();
        let expected = [
            (Kind::Nonce, alloc::vec![7; 32]),
            (Kind::Bound, Vec::new()),
            (Kind::Message, b"hello".to_vec()),
            (Kind::Message, Vec::new()),
        ];
        for piece in 1..=stream.len() {
            assert_eq!(cut(&stream, piece).unwrap(), expected);
        }
    }

    #[test]
    fn sizes_kinds_and_early_messages_are_refused_at_the_head() {
        let head = |code: u8, length: u32| [&[code][..], &length.to_le_bytes()].concat();
        let refused = |stream: &[u8]| cut(stream, 1).unwrap_err();
        assert_eq!(refused(&head(1, 33)), ChannelError::TooLarge);
        assert_eq!(refused(&head(2, 48 * 1024 + 1)), ChannelError::TooLarge);
        assert_eq!(refused(&head(3, 1)), ChannelError::TooLarge);
        assert_eq!(refused(&[0]), ChannelError::PeerMisbehaved);
        assert_eq!(refused(&[5]), ChannelError::PeerMisbehaved);
        assert_eq!(refused(&[4]), ChannelError::UnexpectedMessage);
        let beyond = [frame(Kind::Bound, &[]), head(4, 16 * 1024 * 1024 + 1)].concat();
        assert_eq!(refused(&beyond), ChannelError::TooLarge);
        assert!(super::head(Kind::Message, MESSAGE_BYTES_MAX + 1).is_err());
    }
}
