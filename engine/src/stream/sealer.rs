//! Cuts what the application writes into sealed frames.

use super::{FRAME_MAX_BYTES, FRAME_PLAINTEXT_MAX_BYTES, LENGTH_BYTES};
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

    /// Writes `plaintext` over the beginning of `out` as full frames and a rest, [`sealed_len`] bytes in all, and
    /// returns that number. Fails when the counters are used up: the stream is then at its end, and of this write nothing
    /// may be sent.
    ///
    /// # Panics
    ///
    /// If `out` is shorter.
    pub fn write_to(&mut self, plaintext: &[u8], out: &mut [u8]) -> Result<usize, NoiseError> {
        let (out, _) = out.split_at_mut(sealed_len(plaintext.len()));
        let parts = plaintext.chunks(FRAME_PLAINTEXT_MAX_BYTES);
        for (part, frame) in parts.zip(out.chunks_mut(FRAME_MAX_BYTES)) {
            let length = u16::try_from(part.len() + OVERHEAD_BYTES).expect("a frame is below 4096");
            let (head, body) = frame.split_at_mut(LENGTH_BYTES);
            head.copy_from_slice(&length.to_be_bytes());
            self.0.seal_to(part, body)?;
        }
        Ok(out.len())
    }

    /// The same at the end of `out`; on an error `out` is as before.
    pub fn write(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), NoiseError> {
        let start = out.len();
        out.resize(start + sealed_len(plaintext.len()), 0);
        let written = self.write_to(plaintext, &mut out[start..]);
        written.map(drop).inspect_err(|_| out.truncate(start))
    }
}
