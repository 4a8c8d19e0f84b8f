//! The session handshake over a byte stream (`wire.md §2.3`, `§2.4`), as a state machine.

use crate::{
    identity::{PublicKey, SecretKey},
    noise::{NoiseError, ObjectOpener, Sealer},
    pool::Slice,
};

/// STUB: helper extends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// Noise failed.
    #[error("session handshake: {0}")]
    Noise(#[from] NoiseError),
    /// More bytes than the handshake has (error 203), at the initiator.
    #[error("bytes behind the session handshake")]
    TrailingBytes,
}

/// What a finished handshake gives.
pub struct Established {
    /// The peer's identity.
    pub remote: PublicKey,
    /// Seals objects for the peer.
    pub sealer: Sealer,
    /// Opens objects of the peer.
    pub opener: ObjectOpener,
    /// Bytes that came behind the handshake: the first of the mux (server side; empty at a client).
    pub rest: Slice,
}

/// Progress of a handshake.
pub enum Step {
    /// More bytes are needed.
    Pending,
    /// Done.
    Done(Box<Established>),
}

/// XK over a byte stream in either role. Holds at most one incomplete message (a few KiB, grown as bytes arrive).
pub struct SessionHandshake {}

impl SessionHandshake {
    /// Client side. The first message is appended to `out` at once.
    #[must_use]
    pub fn initiator(
        _local: &SecretKey,
        _server: PublicKey,
        _ephemeral: SecretKey,
        _out: &mut Vec<u8>,
    ) -> Self {
        todo!()
    }
    /// Server side.
    #[must_use]
    pub fn responder(_local: &SecretKey, _ephemeral: SecretKey) -> Self {
        todo!()
    }
    /// Feeds received bytes (any cut); appends what must be sent to `out`.
    pub fn receive(&mut self, _data: Slice, _out: &mut Vec<u8>) -> Result<Step, HandshakeError> {
        todo!()
    }
}
