//! What the load sends, and how the other end knows that it is that.
//!
//! Each stream carries the same sequence of pseudo-random bytes, over and over. Its period is at least two frames, so a frame
//! that is lost, doubled, cut short or in the wrong place shows at the next comparison, and so does a frame of another stream
//! whose position differs. Comparing costs about 0.03 s per GB.

use super::yamux::{HEADER_BYTES, Header};

/// The shortest period.
const PERIOD_MIN_BYTES: usize = 8 * 1024;

/// The pattern continues this far past its period, so that most comparisons are one.
const OVERLAP_BYTES: usize = 64 * 1024;

/// Templates are repeated to at least this size, so that one send call is worth its cost.
const TEMPLATE_MIN_BYTES: usize = 128 * 1024;

/// The repeating content of every stream of a flow.
#[derive(Debug)]
pub(crate) struct Pattern {
    period: usize,
    bytes: Vec<u8>,
}

impl Pattern {
    /// For frames of `frame_bytes`, a power of two.
    pub(crate) fn new(frame_bytes: usize) -> Self {
        assert!(frame_bytes.is_power_of_two(), "positions are found by masking");
        let period = PERIOD_MIN_BYTES.max(2 * frame_bytes);
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut bytes: Vec<u8> = Vec::with_capacity(period + OVERLAP_BYTES);
        while bytes.len() < period {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        bytes.extend_from_within(..OVERLAP_BYTES.min(period));
        while bytes.len() < period + OVERLAP_BYTES {
            bytes.extend_from_within(..period);
        }
        Self { period, bytes }
    }

    /// Whether `data` is what belongs at `position` of a stream.
    #[inline]
    pub(crate) fn matches(&self, position: u64, mut data: &[u8]) -> bool {
        let mut at = position as usize & (self.period - 1);
        loop {
            let count = data.len().min(self.bytes.len() - at);
            if data[..count] != self.bytes[at..at + count] {
                return false;
            }
            data = &data[count..];
            if data.is_empty() {
                return true;
            }
            at = (at + count) & (self.period - 1);
        }
    }

    /// The content from its begin on, whole periods of it.
    pub(crate) fn template_of(&self, bytes: usize) -> Vec<u8> {
        self.bytes[..self.period].repeat(bytes.div_ceil(self.period))
    }

    /// One period of `streams` streams in turns, frame by frame, headers included, and repeated until it is long enough. Ids
    /// are 1, 3, 5 …, as a client opens them.
    pub(crate) fn template(&self, streams: usize, frame_bytes: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for frame in self.bytes[..self.period].chunks(frame_bytes) {
            for stream in 0..streams {
                out.extend_from_slice(&Header::data(id_of(stream), frame.len()).encode());
                out.extend_from_slice(frame);
            }
        }
        let once = out.len();
        while out.len() < TEMPLATE_MIN_BYTES {
            out.extend_from_within(..once);
        }
        debug_assert!(out.len().is_multiple_of(streams * (frame_bytes + HEADER_BYTES)));
        out
    }
}

/// The id of a client's stream.
pub(crate) fn id_of(stream: usize) -> u32 {
    1 + 2 * u32::try_from(stream).expect("streams are few")
}

/// Which stream an id means, whether its opener was a client (odd) or a server (even).
pub(crate) fn stream_of(id: u32) -> usize {
    (id.wrapping_sub(1) >> 1) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_matches_at_its_place_and_nowhere_near() {
        for frame_bytes in [64, 1024, 4096, 16 * 1024] {
            let pattern = Pattern::new(frame_bytes);
            let long = pattern.bytes[..pattern.period].repeat(8);
            assert!(pattern.matches(0, &long));
            assert!(pattern.matches(7 * pattern.period as u64 + 100, &long[100..]));
            assert!(!pattern.matches(frame_bytes as u64, &long[..frame_bytes]), "one frame late");
            assert!(!pattern.matches(1, &long[..64]));
        }
    }

    #[test]
    fn ids_and_streams_belong_together() {
        for stream in 0..300 {
            assert_eq!(stream_of(id_of(stream)), stream);
            assert_eq!(stream_of(id_of(stream) + 1), stream, "as a server numbers it");
        }
    }
}
