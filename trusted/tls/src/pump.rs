//! One TLS connection without a socket: bytes from the peer in, bytes for the peer and frames out.

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::fmt;

use rustls::{
    ClientConfig, ServerConfig,
    client::UnbufferedClientConnection,
    pki_types::{IpAddr, ServerName},
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus},
};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    certificate::PeerCertificate,
    error::{ChannelError, Failure},
    exporter::ExporterSecret,
    frame::{self, Frames, Kind},
};

/// Bytes given to TLS at once: a record and its head.
const STEP_BYTES: usize = 16 * 1024 + 256 + 5;
/// Bytes that TLS may have and not be done with: a handshake message of 64 KiB and two records.
const INBOUND_BYTES_MAX: usize = 64 * 1024 + 2 * STEP_BYTES;
/// What one record adds: head, content type, tag (RFC 8446, 5.2).
const RECORD_OVERHEAD_BYTES: usize = 5 + 1 + 16;
const RECORD_BYTES_MAX: usize = 16 * 1024;

enum Connection {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// The connection, what it has not read yet, and what the peer has not been sent yet.
pub(crate) struct Pump {
    connection: Connection,
    /// Decryption is in place, so this holds plaintext for a while. With room for two records from
    /// the start it is never moved once the handshake is over.
    inbound: Zeroizing<Vec<u8>>,
    pub(crate) output: Vec<u8>,
    pub(crate) frames: Frames,
    exporter: Arc<ExporterSecret>,
    /// The peer has said that nothing more will come.
    pub(crate) closed: bool,
    /// TLS itself has failed. It must not be asked again: it would send a second alert.
    failed: bool,
}

impl Pump {
    /// A client that has written its first flight.
    pub(crate) fn client(mut config: ClientConfig) -> Result<Self, ChannelError> {
        let exporter = Arc::new(ExporterSecret::default());
        config.key_log = exporter.clone();
        // Never sent and never checked: the peer is who its evidence says.
        let name = ServerName::IpAddress(IpAddr::V4([0; 4].into()));
        let connection = UnbufferedClientConnection::new(config.into(), name)?;
        Self::new(Connection::Client(Box::new(connection)), exporter)
    }

    pub(crate) fn server(mut config: ServerConfig) -> Result<Self, ChannelError> {
        let exporter = Arc::new(ExporterSecret::default());
        config.key_log = exporter.clone();
        let connection = UnbufferedServerConnection::new(config.into())?;
        Self::new(Connection::Server(Box::new(connection)), exporter)
    }

    fn new(connection: Connection, exporter: Arc<ExporterSecret>) -> Result<Self, ChannelError> {
        let mut pump = Self {
            connection,
            inbound: Zeroizing::new(Vec::with_capacity(2 * STEP_BYTES)),
            output: Vec::new(),
            frames: Frames::default(),
            exporter,
            closed: false,
            failed: false,
        };
        pump.turn(Write::Nothing)?;
        Ok(pump)
    }

    fn state(&self) -> &rustls::CommonState {
        match &self.connection {
            Connection::Client(connection) => connection,
            Connection::Server(connection) => connection,
        }
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.state().is_handshaking()
    }

    /// The peer's one certificate, which the verifier has accepted.
    pub(crate) fn peer_certificate(&self) -> Result<PeerCertificate<'_>, ChannelError> {
        let der = self.state().peer_certificates().and_then(|certificates| certificates.first());
        let der = der.ok_or(ChannelError::NoCertificate)?;
        PeerCertificate::of_verified(der).ok_or(ChannelError::CertificateShape)
    }

    /// Takes bytes from the peer. What comes after its close_notify is dropped.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        for step in bytes.chunks(STEP_BYTES) {
            if self.inbound.len().saturating_add(step.len()) > INBOUND_BYTES_MAX {
                return Err(ChannelError::TooLarge);
            }
            self.inbound.extend_from_slice(step);
            self.turn(Write::Nothing)?;
            if self.closed {
                break;
            }
        }
        Ok(())
    }

    /// Seals one frame into `output`. The body goes from the caller's bytes into the record and is
    /// sealed there; the head has a record of its own, which costs less than a copy of the body.
    pub(crate) fn send(&mut self, kind: Kind, body: &[u8]) -> Result<(), ChannelError> {
        let head = frame::head(kind, body.len())?;
        self.turn(Write::Plaintext(&head))?;
        if body.is_empty() { Ok(()) } else { self.turn(Write::Plaintext(body)) }
    }

    /// Ends the connection: an alert if TLS has one to send, close_notify otherwise. The bytes are
    /// the last for the peer.
    pub(crate) fn close(mut self) -> Vec<u8> {
        // It has failed already, or ends anyhow: there is nobody to tell.
        let _ = self.turn(Write::CloseNotify);
        self.output
    }

    pub(crate) fn fail(self, error: ChannelError) -> Failure {
        Failure { error, output: self.close() }
    }

    /// Lets TLS do what it can, and then writes.
    fn turn(&mut self, write: Write<'_>) -> Result<(), ChannelError> {
        if self.failed {
            return Err(ChannelError::Closed);
        }
        loop {
            match self.step(write)? {
                Turn::Again => {}
                Turn::Done => return Ok(()),
                Turn::Closed => {
                    self.closed = true;
                    return Ok(());
                }
                Turn::Failed(error) => {
                    // One step more, for the alert that it may have left to send.
                    self.failed = true;
                    let _ = self.step(Write::Nothing);
                    return Err(error);
                }
            }
        }
    }

    fn step(&mut self, write: Write<'_>) -> Result<Turn, ChannelError> {
        let Self { inbound, output, frames, .. } = self;
        let (discard, turn) = match &mut self.connection {
            Connection::Client(c) => step(c.process_tls_records(inbound), write, output, frames),
            Connection::Server(c) => step(c.process_tls_records(inbound), write, output, frames),
        };
        drop_front(inbound, discard);
        turn
    }

    /// The exporter of this connection (RFC 8446, 7.5), without a context.
    pub(crate) fn export(&self, label: &[u8]) -> Result<[u8; 32], ChannelError> {
        let suite = self.state().negotiated_cipher_suite().and_then(|suite| suite.tls13());
        self.exporter.export(suite.ok_or(ChannelError::Internal)?, label)
    }
}

impl fmt::Debug for Pump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pump").field("closed", &self.closed).finish_non_exhaustive()
    }
}

/// What to write once TLS lets us.
#[derive(Clone, Copy)]
enum Write<'a> {
    Nothing,
    Plaintext(&'a [u8]),
    CloseNotify,
}

/// What TLS wants next.
enum Turn {
    Again,
    /// Bytes from the peer; what was to be written is written.
    Done,
    Closed,
    Failed(ChannelError),
}

/// One state of the connection: how many bytes it is done with, and how to go on.
fn step<D>(
    status: UnbufferedStatus<'_, '_, D>,
    write: Write<'_>,
    output: &mut Vec<u8>,
    frames: &mut Frames,
) -> (usize, Result<Turn, ChannelError>) {
    let mut discard = status.discard;
    let state = match status.state {
        Ok(state) => state,
        Err(error) => return (discard, Ok(Turn::Failed(error.into()))),
    };
    let turn = go_on(state, write, output, frames, &mut discard);
    (discard, turn)
}

fn go_on<D>(
    state: ConnectionState<'_, '_, D>,
    write: Write<'_>,
    output: &mut Vec<u8>,
    frames: &mut Frames,
    discard: &mut usize,
) -> Result<Turn, ChannelError> {
    match state {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                let record = record?;
                *discard = discard.saturating_add(record.discard);
                frames.push(record.payload)?;
            }
        }
        ConnectionState::EncodeTlsData(mut data) => {
            append(output, RECORD_BYTES_MAX, |room| match data.encode(room) {
                Err(EncodeError::InsufficientSize(e)) => Err(Some(e.required_size)),
                other => other.map_err(|_| None),
            })?;
        }
        ConnectionState::TransmitTlsData(data) => data.done(),
        ConnectionState::WriteTraffic(mut traffic) => {
            let (estimate, plaintext) = match write {
                Write::Nothing => return Ok(Turn::Done),
                Write::Plaintext(bytes) => (sealed_bytes(bytes.len()), Some(bytes)),
                Write::CloseNotify => (sealed_bytes(2), None),
            };
            append(output, estimate, |room| {
                let written = match plaintext {
                    Some(bytes) => traffic.encrypt(bytes, room),
                    None => traffic.queue_close_notify(room),
                };
                written.map_err(|error| match error {
                    EncryptError::InsufficientSize(e) => Some(e.required_size),
                    EncryptError::EncryptExhausted => None,
                })
            })?;
            return Ok(Turn::Done);
        }
        ConnectionState::BlockedHandshake => {
            return match write {
                Write::Plaintext(_) => Err(ChannelError::Internal),
                Write::Nothing | Write::CloseNotify => Ok(Turn::Done),
            };
        }
        ConnectionState::PeerClosed | ConnectionState::Closed => return Ok(Turn::Closed),
        // Early data is not offered and not accepted.
        _ => return Err(ChannelError::PeerMisbehaved),
    }
    Ok(Turn::Again)
}

/// Bytes of the records that carry this much.
fn sealed_bytes(plaintext: usize) -> usize {
    let records = plaintext.div_ceil(RECORD_BYTES_MAX);
    plaintext.saturating_add(records.saturating_mul(RECORD_OVERHEAD_BYTES))
}

/// Appends what `write` puts into the room it gets. It answers how much that was, or how much room
/// it needs: more than the estimate if TLS has something of its own to say first.
fn append(
    output: &mut Vec<u8>,
    estimate: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> Result<(), ChannelError> {
    let start = output.len();
    let mut room = estimate;
    loop {
        output.resize(start.saturating_add(room), 0);
        match write(output.get_mut(start..).unwrap_or_default()) {
            Ok(written) => {
                output.truncate(start.saturating_add(written));
                return Ok(());
            }
            Err(Some(required)) if required > room => room = required,
            Err(_) => {
                output.truncate(start);
                return Err(ChannelError::Internal);
            }
        }
    }
}

/// Drops bytes from the front, and leaves nothing of them where they were.
fn drop_front(bytes: &mut Vec<u8>, count: usize) {
    let count = count.min(bytes.len());
    let rest = bytes.len().saturating_sub(count);
    bytes.copy_within(count.., 0);
    if let Some(behind) = bytes.get_mut(rest..) {
        behind.zeroize();
    }
    bytes.truncate(rest);
}
