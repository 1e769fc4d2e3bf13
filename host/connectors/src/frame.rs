//! Frames between supervisor and connector: a 32-bit little-endian length and so many bytes.

use std::io::{self, Read, Write};

use toani_protocol::{
    job::{ConnectorFrame, ConnectorReply, FRAME_PREFIX_BYTES},
    limits::FRAME_BYTES_MAX,
    wire,
};
use zeroize::Zeroizing;

/// Reads the one job. Nothing is allocated before the length has been checked.
///
/// # Errors
/// The stream ended early, or what it held is no job within its limit.
pub fn read_job(mut input: impl Read) -> io::Result<ConnectorFrame> {
    let mut prefix = [0; FRAME_PREFIX_BYTES];
    input.read_exact(&mut prefix)?;
    let length = usize::try_from(u32::from_le_bytes(prefix)).unwrap_or(usize::MAX);
    if length > FRAME_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = Zeroizing::new(vec![0; length]);
    input.read_exact(&mut bytes)?;
    wire::decode(&bytes, FRAME_BYTES_MAX).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Writes the one reply and wipes its encoding.
///
/// # Errors
/// The supervisor is gone, or the reply is larger than a frame may be.
pub fn write_reply(mut output: impl Write, reply: &ConnectorReply) -> io::Result<()> {
    let reply = Zeroizing::new(wire::encode(reply).map_err(|_| io::ErrorKind::InvalidData)?);
    if reply.len() > FRAME_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let length = u32::try_from(reply.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut frame = Zeroizing::new(Vec::with_capacity(FRAME_PREFIX_BYTES + reply.len()));
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&reply);
    output.write_all(&frame)?;
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use toani_protocol::job::{Job, JobEnd};

    fn framed(bytes: &[u8]) -> Vec<u8> {
        let mut frame = u32::try_from(bytes.len()).unwrap().to_le_bytes().to_vec();
        frame.extend_from_slice(bytes);
        frame
    }

    #[test]
    fn a_job_comes_through() {
        let job = Job { plan: b"{}".to_vec(), credential: b"secret".to_vec() };
        let frame = framed(&wire::encode(&job).unwrap());
        assert_eq!(read_job(frame.as_slice()).unwrap(), job);
        for cut in 0..frame.len() {
            assert!(read_job(&frame[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn a_length_beyond_the_limit_allocates_nothing() {
        let error = read_job([0xff; 64].as_slice()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_reply_is_one_frame() {
        let mut out = Vec::new();
        write_reply(&mut out, &JobEnd::TimedOut).unwrap();
        assert_eq!(out, framed(&wire::encode(&JobEnd::TimedOut).unwrap()));
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = read_job(bytes.as_slice());
            let _ = read_job(framed(&bytes).as_slice());
        }
    }
}
