//! The session handshake over a byte stream (`wire.md §2.3`, `§2.4`).

use std::fmt;

use crate::{
    identity::{PublicKey, SecretKey},
    noise::{Handshake, MESSAGE_MAX_BYTES, NoiseError, ObjectOpener, Sealer},
    pool::Slice,
    stream::{Prefixed, TooLong},
};

/// Why a session handshake failed. The connection is of no more use; close it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// A length field above the limit.
    #[error(
        "session handshake message of {0} bytes, the most is {MESSAGE_MAX_BYTES}: \
         the peer does not speak DMSG"
    )]
    TooLong(usize),
    /// Noise failed.
    #[error("session handshake: {0}")]
    Noise(#[from] NoiseError),
    /// More bytes than the handshake has (error 203), at the initiator.
    #[error("bytes behind the session handshake: the server spoke before the handshake's end")]
    TrailingBytes,
    /// Bytes for a handshake that is done or has failed.
    #[error("the session handshake is over")]
    Over,
}

impl HandshakeError {
    /// The code of `wire.md §4.9`, where there is one.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        matches!(self, Self::TrailingBytes).then_some(203)
    }
}

impl From<TooLong> for HandshakeError {
    fn from(TooLong(len): TooLong) -> Self {
        Self::TooLong(len)
    }
}

/// What a finished handshake gives.
#[derive(Debug)]
pub struct Established {
    /// The peer's identity.
    pub remote: PublicKey,
    /// The hash over the whole handshake, the same on both sides and unique to the session.
    pub handshake_hash: [u8; 32],
    /// Seals objects for the peer.
    pub sealer: Sealer,
    /// Opens objects of the peer.
    pub opener: ObjectOpener,
    /// Bytes that came behind the handshake: the first of the mux (server side; empty at a client).
    pub rest: Slice,
}

/// Progress of a handshake.
#[derive(Debug)]
pub enum Step {
    /// More bytes are needed.
    Pending,
    /// Done.
    Done(Box<Established>),
}

/// XK over a byte stream in either role. Holds at most one incomplete message (a few KiB, grown as
/// bytes arrive).
pub struct SessionHandshake {
    /// `None` when it is over.
    noise: Option<Box<Handshake>>,
    message: Prefixed,
    is_initiator: bool,
}

impl SessionHandshake {
    /// Client side. The first message is appended to `out` at once.
    #[must_use]
    pub fn initiator(
        local: &SecretKey,
        server: PublicKey,
        ephemeral: SecretKey,
        out: &mut Vec<u8>,
    ) -> Self {
        let mut noise = Handshake::xk_initiator(local, server, ephemeral);
        write_framed(&mut noise, out).expect("the initiator begins, and an empty payload fits");
        Self::new(noise, true)
    }

    /// Server side.
    #[must_use]
    pub fn responder(local: &SecretKey, ephemeral: SecretKey) -> Self {
        Self::new(Handshake::xk_responder(local, ephemeral), false)
    }

    fn new(noise: Handshake, is_initiator: bool) -> Self {
        let message = Prefixed::new(MESSAGE_MAX_BYTES);
        Self { noise: Some(Box::new(noise)), message, is_initiator }
    }

    /// Feeds received bytes (any cut); appends what must be sent to `out`. After an error, or when
    /// done, the handshake is over.
    pub fn receive(&mut self, mut data: Slice, out: &mut Vec<u8>) -> Result<Step, HandshakeError> {
        let mut noise = self.noise.take().ok_or(HandshakeError::Over)?;
        while !noise.is_finished() {
            if !self.message.fill(&mut data)? {
                self.noise = Some(noise);
                return Ok(Step::Pending);
            }
            // Whatever the payload is, it is in the transcript now, and nothing we know (§2.6).
            noise.read_message(self.message.body())?;
            self.message.clear();
            if self.is_initiator && !data.is_empty() {
                return Err(HandshakeError::TrailingBytes);
            }
            if noise.is_our_turn() {
                write_framed(&mut noise, out)?;
            }
        }
        Ok(Step::Done(Box::new(establish(*noise, data))))
    }
}

fn write_framed(noise: &mut Handshake, out: &mut Vec<u8>) -> Result<(), NoiseError> {
    let mut message = Vec::new();
    noise.write_message(&[], &mut message)?;
    let length = u16::try_from(message.len()).expect("a message is at most 4094 bytes");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&message);
    Ok(())
}

fn establish(noise: Handshake, rest: Slice) -> Established {
    let remote = noise.remote_static().expect("XK tells both sides the other's key");
    let keys = noise.into_keys();
    Established {
        remote,
        handshake_hash: keys.handshake_hash,
        sealer: Sealer::new(&keys.send),
        opener: ObjectOpener::new(&keys.recv),
        rest,
    }
}

impl fmt::Debug for SessionHandshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionHandshake({:?}, holds {} bytes)", self.noise, self.message.len())
    }
}
