//! Dial objects on mux streams (`wire.md §4.1`), and the ping marker in their place (`§3.5`).

use std::fmt;

use crate::{
    noise::{NoiseError, OVERHEAD_BYTES, ObjectOpener, Sealer},
    pool::Slice,
    stream::{Prefixed, TooLong},
};

/// What a G26 client writes on a stream of its own, and is answered with, to see that the session
/// lives.
pub const PING_MARKER: [u8; 2] = [0, 0];

/// Sealed bytes of the longest request or answer that is taken; genuine ones stay below 2 KiB. So a session that begins all
/// its 2,048 streams and ends no request holds 32 MiB of a relay, and no more than it has sent.
pub const DIAL_OBJECT_MAX_BYTES: usize = 16 * 1024;

/// Bytes of the longest sealed object, the greatest value of its length field.
pub const OBJECT_MAX_BYTES: usize = u16::MAX as usize;

/// Bytes that a sealed object on a stream is longer than the signed one: its length field and the session cipher.
pub const OBJECT_OVERHEAD_BYTES: usize = size_of::<u16>() + OVERHEAD_BYTES;

/// Why an object could not be read or written. An error of the stream, not of its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectFrameError {
    /// Longer than a length field can say, or than this reader was told to take.
    #[error("dial object of {len} sealed bytes, the most is {max}")]
    TooLong {
        /// Bytes of the sealed object.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// It does not open, or is a repetition.
    #[error("dial object: {0}")]
    Noise(#[from] NoiseError),
}

/// What a stream begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// The liveness ping: answer with [`PING_MARKER`] and close the stream.
    Ping,
    /// A signed object, opened and not looked at.
    Signed(Vec<u8>),
}

/// Gathers one object at a time. Memory grows as bytes arrive and goes with the object.
pub struct ObjectReader {
    frame: Prefixed,
    max: usize,
}

impl ObjectReader {
    /// Takes objects up to [`OBJECT_MAX_BYTES`].
    #[must_use]
    pub const fn new() -> Self {
        Self::with_max(OBJECT_MAX_BYTES)
    }

    /// Takes objects whose length field is at most `max`; genuine ones stay below 2 KiB.
    #[must_use]
    pub const fn with_max(max: usize) -> Self {
        Self { frame: Prefixed::new(max), max }
    }

    /// Consumes the bytes of one object and opens it; `None` while it is incomplete. What lies
    /// behind the object stays in `input`: a request has nothing behind it, the data of the stream
    /// may follow a response.
    pub fn read(
        &mut self,
        input: &mut Slice,
        opener: &mut ObjectOpener,
    ) -> Result<Option<Object>, ObjectFrameError> {
        let max = self.max;
        match self.frame.fill(input) {
            Err(TooLong(len)) => Err(ObjectFrameError::TooLong { len, max }),
            Ok(false) => Ok(None),
            Ok(true) => {
                let mut frame = std::mem::replace(&mut self.frame, Prefixed::new(max));
                match frame.body() {
                    [] => Ok(Some(Object::Ping)),
                    body => Ok(Some(Object::Signed(opener.open(body)?))),
                }
            }
        }
    }

    /// Bytes held for an incomplete object.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.frame.len()
    }
}

impl Default for ObjectReader {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ObjectReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectReader(holds {} bytes)", self.held_bytes())
    }
}

/// Appends `signed` to `out`, sealed and behind its length. On an error nothing is appended.
pub fn write_object(
    sealer: &mut Sealer,
    signed: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), ObjectFrameError> {
    let len = signed.len() + OVERHEAD_BYTES;
    let length =
        u16::try_from(len).map_err(|_| ObjectFrameError::TooLong { len, max: OBJECT_MAX_BYTES })?;
    let start = out.len();
    out.extend_from_slice(&length.to_be_bytes());
    sealer.seal(signed, out).inspect_err(|_| out.truncate(start))?;
    Ok(())
}
