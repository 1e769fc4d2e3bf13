//! TLS's exporter (RFC 8446, 7.5) for a connection without buffers.
//!
//! rustls offers it for its buffered connections only. What it would derive it from it gives to a
//! key log, so each connection has a key log of its own, which takes that one secret.

use alloc::boxed::Box;
use core::fmt;

use once_cell::race::OnceBox;
use rustls::{KeyLog, Tls13CipherSuite, crypto::tls13::OkmBlock};

use crate::error::ChannelError;

/// exporter_master_secret (RFC 8446, 7.1) of one connection.
#[derive(Default)]
pub(crate) struct ExporterSecret(OnceBox<OkmBlock>);

/// Its name in a key log.
const EXPORTER_SECRET: &str = "EXPORTER_SECRET";

impl ExporterSecret {
    /// 32 bytes that both ends of one connection can make and nobody else.
    pub(crate) fn export(
        &self,
        suite: &Tls13CipherSuite,
        label: &[u8],
    ) -> Result<[u8; 32], ChannelError> {
        let secret = self.0.get().ok_or(ChannelError::Internal)?;
        let nothing = suite.common.hash_provider.hash(&[]);
        let nothing = nothing.as_ref();
        let info = HkdfLabel::new(label, nothing, nothing.len())?;
        let derived = suite.hkdf_provider.expander_for_okm(secret).expand_block(&info.parts());

        let mut out = [0; 32];
        let info = HkdfLabel::new(b"exporter", nothing, out.len())?;
        let expander = suite.hkdf_provider.expander_for_okm(&derived);
        expander.expand_slice(&info.parts(), &mut out).map_err(|_| ChannelError::Internal)?;
        Ok(out)
    }
}

impl KeyLog for ExporterSecret {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        if label == EXPORTER_SECRET && secret.len() <= OkmBlock::MAX_LEN {
            // There is one for a connection. A second would not be taken.
            let _ = self.0.set(Box::new(OkmBlock::new(secret)));
        }
    }

    fn will_log(&self, label: &str) -> bool {
        label == EXPORTER_SECRET
    }
}

impl fmt::Debug for ExporterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExporterSecret")
    }
}

/// RFC 8446, 7.1.
struct HkdfLabel<'a> {
    length: [u8; 2],
    label_length: [u8; 1],
    label: &'a [u8],
    context_length: [u8; 1],
    context: &'a [u8],
}

/// Every label begins with it.
const LABEL_HEAD: &[u8] = b"tls13 ";

impl<'a> HkdfLabel<'a> {
    fn new(label: &'a [u8], context: &'a [u8], length: usize) -> Result<Self, ChannelError> {
        let too_long = |_| ChannelError::Internal;
        let label_length = LABEL_HEAD.len().saturating_add(label.len());
        Ok(Self {
            length: u16::try_from(length).map_err(too_long)?.to_be_bytes(),
            label_length: [u8::try_from(label_length).map_err(too_long)?],
            label,
            context_length: [u8::try_from(context.len()).map_err(too_long)?],
            context,
        })
    }

    fn parts(&self) -> [&[u8]; 6] {
        [
            &self.length,
            &self.label_length,
            LABEL_HEAD,
            self.label,
            &self.context_length,
            self.context,
        ]
    }
}
