//! Finding frames in a stream of slices: headers that may be cut anywhere, payloads that pass
//! through.

use super::{Event, StreamId, plain::PlainFrame};
use crate::pool::{SendQueue, Slice};

/// What can be sent as payload: a slice, which may be referenced, or bytes, which must be copied.
pub(super) trait Payload {
    /// Bytes of it.
    fn len(&self) -> usize;
    /// Cuts off and queues the first `len` bytes.
    fn push_front(&mut self, len: usize, queue: &mut SendQueue);
}

impl Payload for Slice {
    fn len(&self) -> usize {
        self.len()
    }

    fn push_front(&mut self, len: usize, queue: &mut SendQueue) {
        queue.push_slice(self.split_to(len));
    }
}

impl Payload for &[u8] {
    fn len(&self) -> usize {
        (**self).len()
    }

    fn push_front(&mut self, len: usize, queue: &mut SendQueue) {
        let (front, rest) = self.split_at(len);
        queue.push_bytes(front);
        *self = rest;
    }
}

/// Collects a header of `N` bytes. One that lies whole in the input never touches the buffer's
/// state.
#[derive(Debug)]
pub(super) struct HeaderBuffer<const N: usize> {
    bytes: [u8; N],
    filled: usize,
}

impl<const N: usize> HeaderBuffer<N> {
    pub(super) fn new() -> Self {
        Self { bytes: [0; N], filled: 0 }
    }

    /// Whether nothing of a header is held.
    pub(super) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// The next header, or `None` when `input` ended before it; then `input` is empty.
    pub(super) fn take(&mut self, input: &mut Slice) -> Option<[u8; N]> {
        if self.filled == 0
            && let Some(whole) = input.first_chunk::<N>()
        {
            let header = *whole;
            input.advance(N);
            return Some(header);
        }
        let missing = &mut self.bytes[self.filled..];
        let len = missing.len().min(input.len());
        missing[..len].copy_from_slice(&input[..len]);
        input.advance(len);
        self.filled += len;
        if self.filled < N {
            return None;
        }
        self.filled = 0;
        Some(self.bytes)
    }
}

/// The payload of the frame at hand, of which some has not arrived yet.
#[derive(Debug)]
pub(super) struct Body {
    /// The stream of the frame.
    pub(super) id: StreamId,
    /// Bytes still to come.
    pub(super) left: u32,
    /// Whether they go to the caller or are dropped.
    kept: bool,
}

impl Body {
    /// `length` bytes for the caller.
    pub(super) fn keeping(id: StreamId, length: u32) -> Self {
        Self { id, left: length, kept: true }
    }

    /// `length` bytes that nobody wants.
    pub(super) fn dropping(id: StreamId, length: u32) -> Self {
        Self { id, left: length, kept: false }
    }

    /// Whether the payload goes to the caller.
    pub(super) fn is_kept(&self) -> bool {
        self.kept
    }

    /// What is still to come for the caller.
    pub(super) fn rest(&self) -> Option<PlainFrame> {
        (self.kept && self.left > 0).then_some(PlainFrame { id: self.id, len: self.left })
    }

    /// Drops the rest.
    pub(super) fn cancel(&mut self) {
        self.kept = false;
    }

    /// As much of the payload as `input` holds, if it is for the caller; else it is added to
    /// `dropped_bytes`. `None` when all is done or `input` is used up.
    pub(super) fn next(&mut self, input: &mut Slice, dropped_bytes: &mut u64) -> Option<Event> {
        if self.left == 0 || input.is_empty() {
            return None;
        }
        let piece = input.split_to(self.left as usize);
        self.left -= u32::try_from(piece.len()).expect("split off at most what is left");
        if self.kept {
            return Some(Event::Data(self.id, piece));
        }
        *dropped_bytes += piece.len() as u64;
        None
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_found_at_every_cut() {
        for cut in 0..=5 {
            let mut buffer = HeaderBuffer::<4>::new();
            let mut first = Slice::copy_from(&b"abcde"[..cut]);
            let mut second = Slice::copy_from(&b"abcde"[cut..]);
            let header = buffer.take(&mut first).or_else(|| buffer.take(&mut second));
            assert_eq!(header, Some(*b"abcd"));
            assert_eq!(first.len() + second.len(), 1);
            assert_eq!(buffer.take(&mut first).or_else(|| buffer.take(&mut second)), None);
        }
    }

    #[test]
    fn a_cancelled_body_is_counted_to_its_end_and_no_further() {
        let mut body = Body::keeping(StreamId(7), 5);
        let mut dropped = 0;
        let mut input = Slice::copy_from(b"abc");
        assert!(matches!(
            body.next(&mut input, &mut dropped),
            Some(Event::Data(StreamId(7), piece)) if *piece == *b"abc"
        ));
        body.cancel();
        let mut input = Slice::copy_from(b"defg");
        assert!(body.next(&mut input, &mut dropped).is_none());
        assert_eq!((&*input, body.left, dropped), (&b"fg"[..], 0, 2));
        assert!(body.next(&mut input, &mut dropped).is_none());
        assert_eq!(input.len(), 2);
    }
}
