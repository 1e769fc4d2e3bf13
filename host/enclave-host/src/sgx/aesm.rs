//! Intel's AESM service, which has reports quoted: protobuf over a Unix socket, each message after
//! its length in four bytes, little-endian (linux-sgx, psw/ae/common/proto/messages.proto).

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use prost::Message;

const SOCKET: &str = "/var/run/aesmd/aesm.socket";
const TIMEOUT: Duration = Duration::from_secs(30);
const TIMEOUT_US: u32 = 30_000_000;
const ANSWER_BYTES_MAX: u32 = 1 << 20;
/// ECDSA with P-256, in `sgx_ql_att_key_id_t`: `algorithm_id` at offset 38 + 4 * 32 + 32 + 4.
const KEY_ID_BYTES: usize = 256;
const KEY_ID_ALGORITHM: usize = 184;
const ECDSA_P256: u8 = 2;

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, optional, tag = "15")]
    init_quote: Option<InitQuote>,
    #[prost(message, optional, tag = "16")]
    quote_size: Option<QuoteSize>,
    #[prost(message, optional, tag = "17")]
    quote: Option<Quote>,
    #[prost(message, optional, tag = "21")]
    key_count: Option<KeyCount>,
    #[prost(message, optional, tag = "22")]
    keys: Option<Keys>,
}

#[derive(Clone, PartialEq, Message)]
struct InitQuote {
    #[prost(bytes = "vec", optional, tag = "1")]
    key_id: Option<Vec<u8>>,
    #[prost(bool, required, tag = "3")]
    wants_public_key: bool,
    #[prost(uint64, optional, tag = "4")]
    buffer_bytes: Option<u64>,
    #[prost(uint32, optional, tag = "9")]
    timeout_us: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
struct QuoteSize {
    #[prost(bytes = "vec", optional, tag = "1")]
    key_id: Option<Vec<u8>>,
    #[prost(uint32, optional, tag = "9")]
    timeout_us: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
struct Quote {
    #[prost(bytes = "vec", required, tag = "1")]
    report: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "2")]
    key_id: Option<Vec<u8>>,
    #[prost(uint32, required, tag = "4")]
    buffer_bytes: u32,
    #[prost(uint32, optional, tag = "9")]
    timeout_us: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyCount {
    #[prost(uint32, optional, tag = "9")]
    timeout_us: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
struct Keys {
    #[prost(uint32, required, tag = "1")]
    buffer_bytes: u32,
    #[prost(uint32, optional, tag = "9")]
    timeout_us: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(message, optional, tag = "15")]
    init_quote: Option<Answer>,
    #[prost(message, optional, tag = "16")]
    quote_size: Option<Number>,
    #[prost(message, optional, tag = "17")]
    quote: Option<Answer>,
    #[prost(message, optional, tag = "21")]
    key_count: Option<Number>,
    #[prost(message, optional, tag = "22")]
    keys: Option<Answer>,
}

/// The part that all answers with bytes have in common.
#[derive(Clone, PartialEq, Message)]
struct Answer {
    #[prost(uint32, required, tag = "1")]
    error: u32,
    #[prost(bytes = "vec", optional, tag = "2")]
    bytes: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct Number {
    #[prost(uint32, required, tag = "1")]
    error: u32,
    #[prost(uint32, optional, tag = "2")]
    number: Option<u32>,
}

/// AESM with the id of its ECDSA key.
#[derive(Debug)]
pub(super) struct Aesm {
    key_id: Vec<u8>,
}

impl Aesm {
    /// Asks for the keys that it has.
    pub(super) fn connect() -> Result<Self> {
        let count = KeyCount { timeout_us: Some(TIMEOUT_US) };
        let count =
            number(ask(Request { key_count: Some(count), ..Request::default() })?.key_count)?;
        let buffer_bytes = count.saturating_mul(u32::try_from(KEY_ID_BYTES)?);
        let keys = Keys { buffer_bytes, timeout_us: Some(TIMEOUT_US) };
        let keys = bytes(ask(Request { keys: Some(keys), ..Request::default() })?.keys)?;
        let ecdsa = |key: &&[u8]| key.get(KEY_ID_ALGORITHM) == Some(&ECDSA_P256);
        let key_id = keys.chunks_exact(KEY_ID_BYTES).find(ecdsa);
        let key_id = key_id.context("AESM has no ECDSA key; install the DCAP quote provider")?;
        Ok(Self { key_id: key_id.to_vec() })
    }

    /// TARGETINFO of the quoting enclave.
    pub(super) fn target_info(&self) -> Result<Vec<u8>> {
        let init = InitQuote {
            key_id: Some(self.key_id.clone()),
            wants_public_key: false,
            buffer_bytes: None,
            timeout_us: Some(TIMEOUT_US),
        };
        bytes(ask(Request { init_quote: Some(init), ..Request::default() })?.init_quote)
    }

    pub(super) fn quote(&self, report: &[u8]) -> Result<Vec<u8>> {
        let key_id = Some(self.key_id.clone());
        let timeout_us = Some(TIMEOUT_US);
        let size = QuoteSize { key_id: key_id.clone(), timeout_us };
        let size = ask(Request { quote_size: Some(size), ..Request::default() })?.quote_size;
        let buffer_bytes = number(size)?;
        let quote = Quote { report: report.to_vec(), key_id, buffer_bytes, timeout_us };
        bytes(ask(Request { quote: Some(quote), ..Request::default() })?.quote)
    }
}

fn number(answer: Option<Number>) -> Result<u32> {
    match answer {
        Some(Number { error: 0, number: Some(number) }) => Ok(number),
        Some(Number { error, .. }) => bail!("AESM refuses with error {error}"),
        None => bail!("AESM does not know the request; is it of version 2.8 or newer?"),
    }
}

fn bytes(answer: Option<Answer>) -> Result<Vec<u8>> {
    match answer {
        Some(Answer { error: 0, bytes: Some(bytes) }) => Ok(bytes),
        Some(Answer { error, .. }) => bail!("AESM refuses with error {error}"),
        None => bail!("AESM does not know the request; is it of version 2.8 or newer?"),
    }
}

/// One request on a connection of its own, as the service wants it.
fn ask(request: Request) -> Result<Response> {
    let mut socket = UnixStream::connect(SOCKET).with_context(|| {
        format!("cannot reach AESM at {SOCKET}; it has reports quoted: install and start aesmd")
    })?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.set_write_timeout(Some(TIMEOUT))?;
    exchange(&mut socket, &request)
}

fn exchange(socket: &mut (impl Read + Write), request: &Request) -> Result<Response> {
    let message = request.encode_to_vec();
    socket.write_all(&u32::try_from(message.len())?.to_le_bytes())?;
    socket.write_all(&message)?;
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > ANSWER_BYTES_MAX {
        bail!("AESM's answer is too large");
    }
    let mut answer = vec![0; usize::try_from(length)?];
    socket.read_exact(&mut answer)?;
    Response::decode(answer.as_slice()).context("AESM's answer is malformed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exchange_has_the_services_frames() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let service = std::thread::spawn(move || {
            let mut length = [0; 4];
            theirs.read_exact(&mut length).unwrap();
            let mut request = vec![0; usize::try_from(u32::from_le_bytes(length)).unwrap()];
            theirs.read_exact(&mut request).unwrap();
            // Field 17, quote: errorCode 0, quote "q".
            let answer = [0x8a, 0x01, 0x05, 0x08, 0x00, 0x12, 0x01, b'q'];
            theirs.write_all(&8_u32.to_le_bytes()).unwrap();
            theirs.write_all(&answer).unwrap();
            request
        });
        let quote =
            Quote { report: vec![7], key_id: Some(vec![9]), buffer_bytes: 3, timeout_us: Some(1) };
        let request = Request { quote: Some(quote), ..Request::default() };
        let response = exchange(&mut ours, &request).unwrap();
        assert_eq!(bytes(response.quote).unwrap(), b"q");
        let sent = service.join().unwrap();
        assert_eq!(sent, [0x8a, 0x01, 0x0a, 0x0a, 1, 7, 0x12, 1, 9, 0x20, 3, 0x48, 1]);
        assert!(bytes(Some(Answer { error: 0x1000_0001, bytes: None })).is_err());
    }
}
