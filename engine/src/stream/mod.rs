//! The end-to-end encryption of a stream's data, between the two clients (`wire.md §2.3`, `§4.6`).
//!
//! ```text
//!   write ──FrameSealer──▶ | u16 length | u64 counter | ciphertext | tag | …
//!                             ≤ 4094: plaintext ≤ 4070 per frame
//!                          … any cut ──FrameOpener──▶ read
//! ```
//!
//! The two directions of a stream are independent. Closing, credit and the order of streams are the
//! mux's; there is no end of stream inside the encryption, so a relay can cut one short at a
//! frame's edge.

mod opener;
mod prefixed;
mod sealer;

pub use opener::{FrameError, FrameOpener};
pub(crate) use prefixed::{Prefixed, TooLong};
pub use sealer::{FrameSealer, sealed_len};

use crate::noise::OVERHEAD_BYTES;

/// Bytes of the length in front of a frame.
const LENGTH_BYTES: usize = size_of::<u16>();

/// Bytes of the longest frame, its length field included: what deployed readers have room for.
pub const FRAME_MAX_BYTES: usize = 4096;

/// The greatest value of a frame's length field.
pub const FRAME_BODY_MAX_BYTES: usize = FRAME_MAX_BYTES - LENGTH_BYTES;

/// Bytes of plaintext in a full frame: 4070.
pub const FRAME_PLAINTEXT_MAX_BYTES: usize = FRAME_BODY_MAX_BYTES - OVERHEAD_BYTES;
