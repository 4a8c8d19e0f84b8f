//! The two things a session's Noise keys are for: the handshake itself (`wire.md §2.4`) and the
//! dial objects on its mux streams (`wire.md §4.1`), both as state machines over slices of any cut.
//!
//! ```text
//!   TCP     | u16 | XK 1 | ─▶   ◀─ | u16 | XK 2 |   | u16 | XK 3 | ─▶   then the mux, in the clear
//!   stream  | u16 | counter | sealed( signature | gob ) |     or 00 00, the liveness ping
//! ```
//!
//! Timeouts are the caller's, as is the pause a client makes after the third message (`§2.4`). What
//! stands in an object is read by [`wire`](crate::wire).

mod handshake;
mod object;

pub use handshake::{Established, HandshakeError, SessionHandshake, Step};
pub use object::{
    DIAL_OBJECT_MAX_BYTES, OBJECT_MAX_BYTES, OBJECT_OVERHEAD_BYTES, Object, ObjectFrameError,
    ObjectReader, PING_MARKER, write_object,
};

#[cfg(test)]
mod tests;
