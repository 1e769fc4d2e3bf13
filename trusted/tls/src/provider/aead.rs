//! Record protection (RFC 8446, 5.2 and 5.3), in place.

use alloc::boxed::Box;
use core::marker::PhantomData;

use aes_gcm::{
    Aes256Gcm, KeyInit, Nonce as AeadNonce, Tag,
    aead::{AeadInOut, consts::U12},
};
use chacha20poly1305::ChaCha20Poly1305;
use rustls::{
    ConnectionTrafficSecrets, ContentType, Error, ProtocolVersion,
    crypto::cipher::{
        AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter,
        Nonce, OutboundOpaqueMessage, OutboundPlainMessage, PrefixedPayload, Tls13AeadAlgorithm,
        UnsupportedOperationError, make_tls13_aad,
    },
};

pub(super) const AES_256_GCM: &dyn Tls13AeadAlgorithm = &Aead::<Aes256Gcm>(PhantomData);
pub(super) const CHACHA20_POLY1305: &dyn Tls13AeadAlgorithm =
    &Aead::<ChaCha20Poly1305>(PhantomData);

/// Of both algorithms.
const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 16;

struct Aead<A>(PhantomData<fn() -> A>);

/// One direction's key. The cipher zeroes itself when dropped.
struct RecordKey<A> {
    /// None if rustls gave a key of another length: then nothing is sealed or opened.
    cipher: Option<A>,
    iv: Iv,
}

impl<A: KeyInit> RecordKey<A> {
    fn new(key: &AeadKey, iv: Iv) -> Self {
        Self { cipher: A::new_from_slice(key.as_ref()).ok(), iv }
    }
}

impl<A> Tls13AeadAlgorithm for Aead<A>
where
    A: AeadInOut<NonceSize = U12> + KeyInit + Send + Sync + 'static,
{
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        Box::new(RecordKey::<A>::new(&key, iv))
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        Box::new(RecordKey::<A>::new(&key, iv))
    }

    fn key_len(&self) -> usize {
        KEY_BYTES
    }

    /// Traffic keys do not leave.
    fn extract_keys(
        &self,
        _: AeadKey,
        _: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        Err(UnsupportedOperationError)
    }
}

impl<A> MessageEncrypter for RecordKey<A>
where
    A: AeadInOut<NonceSize = U12> + Send + Sync,
{
    fn encrypt(
        &mut self,
        message: OutboundPlainMessage<'_>,
        sequence: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        let cipher = self.cipher.as_ref().ok_or(Error::EncryptError)?;
        let length = self.encrypted_payload_len(message.payload.len());
        // Room for all of it, so that no plaintext is left behind by a move.
        let mut payload = PrefixedPayload::with_capacity(length);
        payload.extend_from_chunks(&message.payload);
        payload.extend_from_slice(&[message.typ.into()]);
        let nonce = AeadNonce::from(Nonce::new(&self.iv, sequence).0);
        let tag = cipher
            .encrypt_inout_detached(&nonce, &make_tls13_aad(length), payload.as_mut().into())
            .map_err(|_| Error::EncryptError)?;
        payload.extend_from_slice(&tag);
        let kind = ContentType::ApplicationData;
        Ok(OutboundOpaqueMessage::new(kind, ProtocolVersion::TLSv1_2, payload))
    }

    /// The content, its type, the tag.
    fn encrypted_payload_len(&self, payload: usize) -> usize {
        payload.saturating_add(1).saturating_add(TAG_BYTES)
    }
}

impl<A> MessageDecrypter for RecordKey<A>
where
    A: AeadInOut<NonceSize = U12> + Send + Sync,
{
    fn decrypt<'a>(
        &mut self,
        mut message: InboundOpaqueMessage<'a>,
        sequence: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let cipher = self.cipher.as_ref().ok_or(Error::DecryptError)?;
        let nonce = AeadNonce::from(Nonce::new(&self.iv, sequence).0);
        let aad = make_tls13_aad(message.payload.len());
        let (content, tag) =
            message.payload.split_last_chunk_mut::<TAG_BYTES>().ok_or(Error::DecryptError)?;
        let length = content.len();
        let tag = Tag::try_from(tag.as_slice()).map_err(|_| Error::DecryptError)?;
        cipher
            .decrypt_inout_detached(&nonce, &aad, content.into(), &tag)
            .map_err(|_| Error::DecryptError)?;
        message.payload.truncate(length);
        message.into_tls13_unpadded_message()
    }
}
