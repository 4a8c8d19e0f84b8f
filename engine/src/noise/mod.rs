//! Noise XK and KK as DMSG speaks them (`wire.md §2`), and the ciphers that come out.

use zeroize::Zeroizing;

use crate::identity::{PublicKey, SecretKey};

/// STUB: helper extends. Why a handshake or a ciphertext failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoiseError {
    /// Tag mismatch.
    #[error("decryption failed")]
    Decrypt,
}

/// A handshake in progress, either pattern, either role.
pub struct Handshake {}

impl Handshake {
    /// Session, client side: the server's key is known.
    #[must_use]
    pub fn xk_initiator(_local: &SecretKey, _remote: PublicKey, _ephemeral: SecretKey) -> Self {
        todo!()
    }
    /// Session, server side.
    #[must_use]
    pub fn xk_responder(_local: &SecretKey, _ephemeral: SecretKey) -> Self {
        todo!()
    }
    /// Stream, dialling side.
    #[must_use]
    pub fn kk_initiator(_local: &SecretKey, _remote: PublicKey, _ephemeral: SecretKey) -> Self {
        todo!()
    }
    /// Stream, accepting side.
    #[must_use]
    pub fn kk_responder(_local: &SecretKey, _remote: PublicKey, _ephemeral: SecretKey) -> Self {
        todo!()
    }
    /// Appends the next message (bare, without length) to `out`.
    pub fn write_message(&mut self, _payload: &[u8], _out: &mut Vec<u8>) -> Result<(), NoiseError> {
        todo!()
    }
    /// Processes the peer's next message and returns its payload (any payload is taken).
    pub fn read_message(&mut self, _message: &[u8]) -> Result<Vec<u8>, NoiseError> {
        todo!()
    }
    /// Whether this side has the turn to write.
    #[must_use]
    pub fn is_our_turn(&self) -> bool {
        todo!()
    }
    /// Whether all messages are through.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        todo!()
    }
    /// The peer's static key, once known.
    #[must_use]
    pub fn remote_static(&self) -> Option<PublicKey> {
        todo!()
    }
    /// The keys, for each direction as seen from this side. Panics unless finished.
    #[must_use]
    pub fn into_keys(self) -> TransportKeys {
        todo!()
    }
}

/// What a finished handshake gives. XK's swapped split is settled here (`wire.md §2.1`).
pub struct TransportKeys {
    /// Key of what we send.
    pub send: Zeroizing<[u8; 32]>,
    /// Key of what we receive.
    pub recv: Zeroizing<[u8; 32]>,
    /// The final handshake hash.
    pub handshake_hash: [u8; 32],
}

/// Bytes a ciphertext is longer than its plaintext: counter 8, tag 16.
pub const OVERHEAD_BYTES: usize = 24;

/// Seals with a counter that starts at 1 and never repeats (`wire.md §2.2`). Used for session objects and stream frames.
pub struct Sealer {}

impl Sealer {
    /// From a key of [`TransportKeys`].
    #[must_use]
    pub fn new(_key: &[u8; 32]) -> Self {
        todo!()
    }
    /// Appends `counter || AEAD(plaintext)` to `out`.
    pub fn seal(&mut self, _plaintext: &[u8], _out: &mut Vec<u8>) -> Result<(), NoiseError> {
        todo!()
    }
}

/// Opens the ciphertexts of one stream: counters must grow, gaps are allowed. A failure changes no state.
pub struct StreamOpener {}

impl StreamOpener {
    /// From a key of [`TransportKeys`].
    #[must_use]
    pub fn new(_key: &[u8; 32]) -> Self {
        todo!()
    }
    /// Decrypts in place and returns the plaintext within `ciphertext`.
    pub fn open_in_place<'a>(
        &mut self,
        _ciphertext: &'a mut [u8],
    ) -> Result<&'a mut [u8], NoiseError> {
        todo!()
    }
}

/// Opens session objects: any order within a window of 1024 (`wire.md §2.2`, G26).
pub struct ObjectOpener {}

impl ObjectOpener {
    /// From a key of [`TransportKeys`].
    #[must_use]
    pub fn new(_key: &[u8; 32]) -> Self {
        todo!()
    }
    /// Decrypts.
    pub fn open(&mut self, _ciphertext: &[u8]) -> Result<Vec<u8>, NoiseError> {
        todo!()
    }
}
