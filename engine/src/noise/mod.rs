//! Noise XK and KK as DMSG speaks them (`wire.md §2`), and the ciphers that come out.
//!
//! ```text
//!   Handshake ──write_message, read_message──▶ … ──into_keys──▶ TransportKeys
//!   XK: a session                                                 ├──▶ Sealer: what we send
//!   KK: a stream                                                  ├──▶ StreamOpener: in order
//!                                                                 └──▶ ObjectOpener: any order
//!   Ticket ──request, answer──▶ TransportKeys: a stream, dialled again without the curve (an extension)
//! ```
//!
//! Messages and ciphertexts are bare here; the length in front of them is put and read by
//! [`session`](crate::session) and [`stream`](crate::stream). Ephemeral keys are arguments, so
//! nothing in here draws randomness.
//!
//! Invariants: a counter seals once; what does not authenticate changes no state; a handshake that
//! failed stays failed; every key of a peer has been checked by
//! [`PublicKey`](crate::identity::PublicKey).

mod aead;
mod handshake;
mod hybrid;
mod kdf;
mod peer;
mod recent;
mod resume;
mod symmetric;
mod transport;
mod window;

pub(crate) use handshake::begins_with_a_key;
pub use handshake::{Handshake, MESSAGE_MAX_BYTES, PAYLOAD_MAX_BYTES, TransportKeys};
pub(crate) use peer::{Peer, Peers};
#[cfg(test)]
pub(crate) use recent::RECENT_MAX;
pub(crate) use recent::Recent;
pub use resume::{GRANT, Nonce, OFFER, ResumeRequest, Resumed, Resumption, Ticket, TicketId};
pub use transport::{OVERHEAD_BYTES, ObjectOpener, Sealer, StreamOpener};

use crate::identity::KeyError;

/// Why a handshake message or a ciphertext was not taken, or could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoiseError {
    /// The tag does not match: another key, another transcript, or changed bytes.
    #[error("decryption failed: the peer used another key, or the bytes were changed on the way")]
    Decrypt,
    /// A handshake message ends before its last field.
    #[error("handshake message of {0} bytes is cut short")]
    MessageTooShort(usize),
    /// A handshake message, or one that would carry this payload, does not fit a frame.
    #[error("handshake message or payload of {0} bytes, a message has at most {MESSAGE_MAX_BYTES}")]
    MessageTooLong(usize),
    /// A key in a handshake message is no public key.
    #[error("handshake message carries an invalid key: {0}")]
    InvalidKey(#[from] KeyError),
    /// Write when it is the peer's turn, read when it is ours, or either after the last message.
    #[error("handshake message out of turn")]
    OutOfTurn,
    /// The handshake failed before and cannot go on; start a new one.
    #[error("the handshake has failed already")]
    HandshakeOver,
    /// An answer to a dial by ticket that is neither the peer's word nor that it knows no such ticket.
    #[error("{0} bytes answer a dial by ticket, and are no answer that is known here")]
    ResumeMalformed(usize),
    /// Shorter than a counter and a tag.
    #[error("ciphertext of {0} bytes, the least is {OVERHEAD_BYTES}")]
    CiphertextTooShort(usize),
    /// Counter 0, which no sender uses.
    #[error("ciphertext with counter 0, the first is 1")]
    CounterZero,
    /// On a stream, a counter that does not grow: a repeated or overtaken frame.
    #[error("stream frame with counter {counter} after {last}: repeated or reordered")]
    CounterNotGreater {
        /// Of the refused frame.
        counter: u64,
        /// Of the last frame that was taken.
        last: u64,
    },
    /// On a session, a counter that was seen.
    #[error("session object with counter {0} for the second time")]
    CounterSeen(u64),
    /// On a session, a counter too far behind to know whether it was seen.
    #[error("session object with counter {counter} is too far behind {newest}")]
    CounterTooOld {
        /// Of the refused object.
        counter: u64,
        /// The greatest that was taken.
        newest: u64,
    },
    /// All counters of the key are used up; a new session or stream gets a new key.
    #[error("all counters of this key are used up, dial again")]
    CountersExhausted,
}

#[cfg(test)]
mod tests;
