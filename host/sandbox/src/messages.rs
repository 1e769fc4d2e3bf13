//! Between gateway and supervisor: frames of a 32-bit little-endian length and postcard. What the
//! channel carries is inside, and nobody on this way can read or change it.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use toani_protocol::{
    ids::BootId, job::FRAME_PREFIX_BYTES, limits::DOCUMENT_BYTES_MAX, sign::PublicKey, wire,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The largest message: a connection's beginning with a manifest and an admission list.
pub const MESSAGE_BYTES_MAX: usize = 2 * DOCUMENT_BYTES_MAX + 4 * 1024;
/// Bytes of a channel in one message.
pub const CHUNK_BYTES_MAX: usize = 256 * 1024;
/// Executions at once. What exceeds it waits.
pub const EXECUTIONS_AT_ONCE_MAX: usize = 256;

/// Gateway to supervisor.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum ToSupervisor {
    /// Begins a connection; the one before ends.
    Connect(Box<Connect>),
    /// A newer `Signed<AdmissionList>`.
    Admission(Vec<u8>),
    /// What the enclave sent on a connection.
    Bytes { connection: u64, bytes: Vec<u8> },
}

/// What it takes to judge an enclave. The gateway says it; signatures and evidence prove it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Connect {
    /// The gateway's name for the connection.
    pub connection: u64,
    /// Canonical: its hash is the instance that both sides have to prove to be of.
    pub manifest: Vec<u8>,
    /// Canonical `Signed<AdmissionList>` of the manifest's operators.
    pub admission: Vec<u8>,
    pub boot: EnclaveBoot,
}

/// What the enclave's evidence vouches for beside its channel key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EnclaveBoot {
    pub boot: BootId,
    pub chain_key: PublicKey,
    pub intake_key: [u8; 32],
}

/// Supervisor to gateway.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum FromSupervisor {
    /// First of all: the supervisor is ready, and has this launch digest.
    Ready { launch_digest: Vec<u8> },
    /// First and last: it cannot work here. A sentence that says what is missing.
    CannotStart(String),
    /// For the enclave.
    Bytes { connection: u64, bytes: Vec<u8> },
    /// A connection is over, and why.
    Ended { connection: u64, why: String },
    /// Whether jobs wait for containers, and for too long: no more of them should come now.
    Exhausted(bool),
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
        let message = FromSupervisor::Bytes { connection: 7, bytes: vec![1, 2, 3] };
        let bytes = frame(&message).unwrap();
        assert_eq!(block(read::<FromSupervisor>(&mut bytes.as_slice())).unwrap(), message);
        for cut in 0..bytes.len() {
            assert!(block(read::<FromSupervisor>(&mut &bytes[..cut])).is_err(), "{cut}");
        }
    }

    #[test]
    fn a_length_beyond_the_limit_allocates_nothing() {
        let end = block(read::<FromSupervisor>(&mut [0xff; 64].as_slice()));
        assert!(matches!(end, Err(FrameError::Malformed)));
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let mut framed = u32::try_from(bytes.len()).unwrap().to_le_bytes().to_vec();
            framed.extend_from_slice(&bytes);
            for input in [&bytes, &framed] {
                let _ = block(read::<FromSupervisor>(&mut input.as_slice()));
                let _ = block(read::<ToSupervisor>(&mut input.as_slice()));
            }
        }
    }
}
