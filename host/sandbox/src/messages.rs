//! Between gateway and supervisor: frames of a 32-bit little-endian length and postcard.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use toani_protocol::{
    job::{FRAME_PREFIX_BYTES, SandboxHello, SealedJob, SealedOutcome},
    limits::FRAME_BYTES_MAX,
    wire,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The largest message: a sealed frame and what is said about it.
pub const MESSAGE_BYTES_MAX: usize = FRAME_BYTES_MAX + 4 * 1024;
/// Executions at once. What exceeds it waits in the stream.
pub const EXECUTIONS_AT_ONCE_MAX: usize = 256;

/// Gateway to supervisor: an execution, under a number that the answer repeats.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    pub id: u64,
    pub job: SealedJob,
}

/// Supervisor to gateway.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// First of all: the supervisor is ready.
    Hello(SandboxHello),
    /// First and last: it cannot isolate here. A sentence that says what to allow.
    CannotStart(String),
    Outcome {
        id: u64,
        outcome: SealedOutcome,
    },
    /// The job was not run, and no connection was opened for it.
    Refused {
        id: u64,
        reason: Refusal,
    },
}

/// Why a job was not run. Without its key there is no sealed outcome that could say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    #[error("the job is not sealed to this life of the supervisor, or was changed")]
    NotForUs,
    #[error("this job came before in this life of the supervisor")]
    SeenBefore,
    #[error("the supervisor's memory of jobs is full: start it anew")]
    MemoryFull,
}

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the other side closed the stream")]
    Closed,
    #[error("a frame is larger than its limit, or not of its form")]
    Malformed,
    #[error("the stream failed: {0}")]
    Io(#[from] std::io::Error),
}

/// Reads one message. A length beyond the limit allocates nothing.
///
/// # Errors
/// See [`FrameError`]; the stream cannot be used afterwards.
pub async fn read<T: DeserializeOwned>(
    input: &mut (impl AsyncRead + Unpin),
) -> Result<T, FrameError> {
    let mut prefix = [0; FRAME_PREFIX_BYTES];
    match input.read_exact(&mut prefix).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            return Err(FrameError::Closed);
        }
        Err(error) => return Err(error.into()),
    }
    let length = usize::try_from(u32::from_le_bytes(prefix)).map_err(|_| FrameError::Malformed)?;
    if length > MESSAGE_BYTES_MAX {
        return Err(FrameError::Malformed);
    }
    let mut bytes = vec![0; length];
    input.read_exact(&mut bytes).await?;
    wire::decode(&bytes, MESSAGE_BYTES_MAX).map_err(|_| FrameError::Malformed)
}

/// Encodes one message with its prefix.
///
/// # Errors
/// The message is larger than a frame may be.
pub fn frame<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let bytes = wire::encode(message).map_err(|_| FrameError::Malformed)?;
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(FrameError::Malformed);
    }
    let length = u32::try_from(bytes.len()).map_err(|_| FrameError::Malformed)?;
    Ok([length.to_le_bytes().as_slice(), &bytes].concat())
}

/// Writes one message.
///
/// # Errors
/// See [`FrameError`].
pub async fn write<T: Serialize>(
    output: &mut (impl AsyncWrite + Unpin),
    message: &T,
) -> Result<(), FrameError> {
    output.write_all(&frame(message)?).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn a_message_comes_through_and_a_cut_one_does_not() {
        let message = Message::Refused { id: 7, reason: Refusal::SeenBefore };
        let bytes = frame(&message).unwrap();
        assert_eq!(block(read::<Message>(&mut bytes.as_slice())).unwrap(), message);
        for cut in 0..bytes.len() {
            assert!(block(read::<Message>(&mut &bytes[..cut])).is_err(), "{cut}");
        }
    }

    #[test]
    fn a_length_beyond_the_limit_allocates_nothing() {
        let end = block(read::<Message>(&mut [0xff; 64].as_slice()));
        assert!(matches!(end, Err(FrameError::Malformed)));
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let mut framed = u32::try_from(bytes.len()).unwrap().to_le_bytes().to_vec();
            framed.extend_from_slice(&bytes);
            for input in [&bytes, &framed] {
                let _ = block(read::<Message>(&mut input.as_slice()));
                let _ = block(read::<Request>(&mut input.as_slice()));
            }
        }
    }
}
