//! Opens the frames of a stream into the application's buffer.

use std::{fmt, ops::Range};

use super::{FRAME_BODY_MAX_BYTES, Prefixed, TooLong};
use crate::{
    noise::{NoiseError, OVERHEAD_BYTES, StreamOpener},
    pool::Slice,
};

/// Why a stream's data ends here. Final for the direction; the session and other streams go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A length field above the limit.
    #[error(
        "stream frame of {0} bytes, the most is {FRAME_BODY_MAX_BYTES}: not a stream of frames"
    )]
    TooLong(usize),
    /// The frame is too short, repeated, reordered or forged.
    #[error("stream frame: {0}")]
    Noise(#[from] NoiseError),
    /// The stream ended inside a frame.
    #[error("the stream ended {0} bytes into a frame: it was cut short on the way")]
    Truncated(usize),
}

impl From<TooLong> for FrameError {
    fn from(TooLong(len): TooLong) -> Self {
        Self::TooLong(len)
    }
}

/// Opens one direction of a stream. Holds at most one frame, whose memory is kept for the next.
pub struct FrameOpener {
    opener: StreamOpener,
    /// A frame that is not whole yet; or one that is open and not read to its end.
    frame: Prefixed,
    /// Where in the frame's body the plaintext lies that was not read yet.
    unread: Range<usize>,
    failed: Option<FrameError>,
}

impl FrameOpener {
    /// From the key we receive with, of the stream's own handshake.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self {
            opener: StreamOpener::new(key),
            frame: Prefixed::new(FRAME_BODY_MAX_BYTES),
            unread: 0..0,
            failed: None,
        }
    }

    /// Fills `out` with plaintext and consumes the bytes of `input` it is made of, and returns how
    /// much was filled. Call it until it returns 0 (for an `out` that is not empty): then `input`
    /// is used up and no plaintext and no error is waiting.
    ///
    /// A frame that lies whole in `input` and whose plaintext has room in `out` is decrypted from
    /// the one to the other. An error comes after all plaintext before it, and is final.
    pub fn read(&mut self, input: &mut Slice, out: &mut [u8]) -> Result<usize, FrameError> {
        let mut filled = 0;
        loop {
            filled += self.take_unread(&mut out[filled..]);
            let room = &mut out[filled..];
            if room.is_empty() {
                return Ok(filled);
            }
            let next = self.failed.map_or_else(|| self.open_next(input, room), Err);
            match next {
                Ok(Some(len)) => filled += len,
                Ok(None) => return Ok(filled),
                Err(error) => {
                    self.failed = Some(error);
                    return if filled > 0 { Ok(filled) } else { Err(error) };
                }
            }
        }
    }

    /// To be called when the peer's direction has ended: an error if it ended inside a frame.
    pub fn finish(&self) -> Result<(), FrameError> {
        match self.failed {
            Some(error) => Err(error),
            None if self.has_unread() || self.frame.len() == 0 => Ok(()),
            None => Err(FrameError::Truncated(self.frame.len())),
        }
    }

    /// Whether plaintext waits here that the next [`read`](Self::read) returns without any input.
    #[must_use]
    pub fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Opens the next frame, into `room` if it fits and else in here; `None` if there is no whole
    /// frame.
    fn open_next(
        &mut self,
        input: &mut Slice,
        room: &mut [u8],
    ) -> Result<Option<usize>, FrameError> {
        let fits = |body: &[u8]| body.len() <= room.len() + OVERHEAD_BYTES;
        if let Some(body) = self.frame.peek(input)?.filter(|body| fits(body)) {
            let consumed = size_of::<u16>() + body.len();
            let len = self.opener.open_into(body, room)?;
            input.advance(consumed);
            return Ok(Some(len));
        }
        if !self.frame.fill(input)? {
            return Ok(None);
        }
        let body = self.frame.body();
        if fits(body) {
            let len = self.opener.open_into(body, room)?;
            self.frame.clear();
            return Ok(Some(len));
        }
        // The plaintext stands behind the counter.
        let len = self.opener.open_in_place(body)?.len();
        self.unread = size_of::<u64>()..size_of::<u64>() + len;
        Ok(Some(0))
    }

    fn take_unread(&mut self, out: &mut [u8]) -> usize {
        let len = self.unread.len().min(out.len());
        if len > 0 {
            let from = self.unread.start;
            out[..len].copy_from_slice(&self.frame.body()[from..from + len]);
            self.unread.start += len;
            if self.unread.is_empty() {
                self.frame.clear();
            }
        }
        len
    }
}

impl fmt::Debug for FrameOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { opener, frame, unread, failed } = self;
        let (held, unread) = (frame.len(), unread.len());
        write!(f, "FrameOpener({opener:?}, holds {held}, unread {unread}, failed {failed:?})")
    }
}

#[cfg(test)]
mod tests;
