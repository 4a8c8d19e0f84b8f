//! Cuts what the application writes into sealed frames.

use super::{FRAME_PLAINTEXT_MAX_BYTES, LENGTH_BYTES};
use crate::noise::{NoiseError, OVERHEAD_BYTES, Sealer};

/// Bytes on the wire of one write of `plaintext_len` bytes.
#[must_use]
pub const fn sealed_len(plaintext_len: usize) -> usize {
    let frames = plaintext_len.div_ceil(FRAME_PLAINTEXT_MAX_BYTES);
    plaintext_len + frames * (LENGTH_BYTES + OVERHEAD_BYTES)
}

/// Seals one direction of a stream.
#[derive(Debug)]
pub struct FrameSealer(Sealer);

impl FrameSealer {
    /// From the key we send with, of the stream's own handshake.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self(Sealer::new(key))
    }

    /// Appends `plaintext` to `out` as full frames and a rest; nothing for an empty one. Fails when
    /// the counters are used up; the stream is then at its end, and `out` holds the frames before
    /// that.
    pub fn write(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), NoiseError> {
        out.reserve(sealed_len(plaintext.len()));
        for part in plaintext.chunks(FRAME_PLAINTEXT_MAX_BYTES) {
            let start = out.len();
            let length = u16::try_from(part.len() + OVERHEAD_BYTES).expect("a frame is below 4096");
            out.extend_from_slice(&length.to_be_bytes());
            if let Err(error) = self.0.seal(part, out) {
                out.truncate(start);
                return Err(error);
            }
        }
        Ok(())
    }
}
