//! The objects of a stream dial, and their encodings (`wire.md §4`, `§5.3`, `§6.1`).
//!
//! ```text
//!   signed object            object.rs         how its fields are written
//!   ┌───────────────┬─────┐  StreamRequest     request.rs    ┐
//!   │ signature, 65 │ gob │  StreamResponse    response.rs   ├ gob/
//!   └───────────────┴─────┘  PeerAnnounce      announce.rs   ┘
//! ```
//!
//! Pure: bytes in, values or typed errors out. Framing and the session's encryption around a
//! signed object (`wire.md §4.1`) are the session's business, and so is everything that compares
//! an object with the state of a session.
//!
//! Invariants: nothing here panics, loops or allocates more than a small multiple of its input,
//! whatever the input; received bytes are kept as they came and never encoded anew for
//! verification or forwarding.

mod addr;
mod announce;
mod error_code;
mod gob;
mod object;
mod raw;
mod request;
mod response;

pub use addr::{Addr, AddrError, EPHEMERAL_PORT_FIRST, Port, WireAddr};
pub use announce::PeerAnnounce;
pub use error_code::ErrorCode;
pub use gob::GobError;
pub use object::{ObjectError, SignedObject};
pub(crate) use raw::{KeyBytes, RawRequest};
pub use request::StreamRequest;
pub use response::StreamResponse;

/// Which generation's type definitions an encoder sends (`wire.md §0`, `§4.2`), oldest first.
///
/// All generations decode each other's objects; an object encoded for an older one leaves out the
/// fields that one does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dialect {
    /// skycoin/dmsg of 2023.
    G23,
    /// skycoin/dmsg of late 2024: what this engine speaks.
    G24,
    /// skycoin/skywire of 2026.
    G26,
}

impl Dialect {
    /// All dialects, oldest first; each stands at the index `dialect as usize`.
    pub const ALL: [Self; 3] = [Self::G23, Self::G24, Self::G26];
}

#[cfg(test)]
mod tests;
