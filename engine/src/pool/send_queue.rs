//! What waits to be sent on one connection.
//!
//! Small pieces are gathered by one copy into a batch, large ones are referenced: measurably the
//! faster way for each (`docs/performance-log.md`). A driver takes segments off the front,
//! keeps them alive until the kernel is done, and puts back what was not sent.
//!
//! Batches are recycled, so that a queue in steady flow allocates nothing and one that is empty holds nothing.

use std::collections::VecDeque;

use super::{
    Slice,
    batch::Batch,
    pins::{Pinned, Pins},
};

/// Payloads up to this many bytes are copied into the batch, larger ones are referenced.
/// The crossing point measured for the relay lies near 2 KiB.
pub const COPY_MAX_BYTES: usize = 2048;

/// A contiguous piece of what is to be sent.
#[derive(Debug)]
pub enum Segment {
    /// Gathered small pieces and frame headers.
    Batch(Batch),
    /// A referenced range of a receive block.
    Slice(Pinned),
}

impl Segment {
    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Batch(batch) => batch.bytes(),
            Self::Slice(pinned) => pinned.slice(),
        }
    }

    fn pinned(&self) -> Option<&Pinned> {
        match self {
            Self::Slice(pinned) => Some(pinned),
            Self::Batch(_) => None,
        }
    }
}

/// The outgoing bytes of one connection, in order.
#[derive(Debug, Default)]
pub struct SendQueue {
    segments: VecDeque<Segment>,
    /// Bytes of the first segment that are sent already.
    head_sent: usize,
    len: usize,
    /// Of `len`, what [`SendQueue::take_segments`] gave out and [`SendQueue::settle`] has not taken back.
    taken: usize,
    /// The queue was cleared meanwhile: nothing of it comes back.
    forget_taken: bool,
    /// Those of `taken` included.
    pins: Pins,
}

impl SendQueue {
    /// Queues a copy of `bytes`.
    pub fn push_bytes(&mut self, bytes: &[u8]) {
        self.len += bytes.len();
        if let Some(Segment::Batch(batch)) = self.segments.back_mut()
            && batch.push(bytes)
        {
            return;
        }
        if !bytes.is_empty() {
            self.segments.push_back(Segment::Batch(Batch::of(bytes)));
        }
    }

    /// Queues `slice`: copied when small, referenced when large, unless the account of `pins.rs` is against it.
    pub fn push_slice(&mut self, slice: Slice) {
        if slice.len() <= COPY_MAX_BYTES {
            self.push_bytes(&slice);
        } else {
            // Room that was made and then not used is no segment.
            self.segments.pop_back_if(|last| last.as_bytes().is_empty());
            self.len += slice.len();
            // Between two slices there may be a batch, of headers.
            let last = self.segments.iter().rev().take(2).find_map(Segment::pinned);
            let pinned = self.pins.admit(slice, last);
            self.segments.push_back(Segment::Slice(pinned));
        }
    }

    /// Makes room for small pieces of `bytes` in all that are about to be pushed.
    pub fn reserve(&mut self, bytes: usize) {
        match self.segments.back_mut() {
            Some(Segment::Batch(batch)) => batch.expect(bytes),
            _ if bytes > 0 => self.segments.push_back(Segment::Batch(Batch::expecting(bytes))),
            _ => {}
        }
    }

    /// Queues copies of many small pieces.
    pub fn push_all<'a>(&mut self, mut pieces: impl Iterator<Item = &'a [u8]>) {
        let mut next = pieces.next();
        while let Some(piece) = next {
            self.push_bytes(piece);
            next = match self.segments.back_mut() {
                Some(Segment::Batch(batch)) => {
                    let before = batch.bytes().len();
                    let rest = batch.push_all(&mut pieces);
                    self.len += batch.bytes().len() - before;
                    rest
                }
                _ => pieces.next(),
            };
        }
    }

    /// Bytes that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first pieces in order, for a vectored send.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let mut skip = self.head_sent;
        self.segments.iter().map(move |segment| &segment.as_bytes()[std::mem::take(&mut skip)..])
    }

    /// Removes the first `sent` bytes.
    pub fn advance(&mut self, mut sent: usize) {
        debug_assert!(sent <= self.len, "more sent than was queued");
        self.len = self.len.saturating_sub(sent);
        while let Some(first) = self.segments.front() {
            let left = first.as_bytes().len() - self.head_sent;
            if sent < left {
                self.head_sent += sent;
                return;
            }
            sent -= left;
            self.head_sent = 0;
            if let Some(Segment::Slice(pinned)) = self.segments.pop_front() {
                self.pins.release(&pinned);
            }
        }
    }

    /// Moves up to `count_max` segments to the end of `segments`, which is empty, for a send whose memory must stay in place.
    /// Returns how many bytes of the first are sent already. They leave the queue's account only with [`SendQueue::settle`].
    pub fn take_segments(&mut self, segments: &mut Vec<Segment>, count_max: usize) -> usize {
        debug_assert!(self.taken == 0 && segments.is_empty(), "one send at a time");
        let count = count_max.min(self.segments.len());
        segments.extend(self.segments.drain(..count));
        let head_sent = std::mem::take(&mut self.head_sent);
        self.taken = segments.iter().map(|s| s.as_bytes().len()).sum::<usize>() - head_sent;
        head_sent
    }

    /// Ends a send begun with [`SendQueue::take_segments`]: `sent` bytes went out, `head_sent` is what that call returned,
    /// and whatever of `segments` was not sent goes back to the front. `segments` is empty afterwards.
    pub fn settle(&mut self, segments: &mut Vec<Segment>, head_sent: usize, sent: usize) {
        let taken = std::mem::take(&mut self.taken);
        if std::mem::take(&mut self.forget_taken) {
            return segments.clear();
        }
        if sent == taken {
            self.len -= taken;
            segments.iter().filter_map(Segment::pinned).for_each(|sent| self.pins.release(sent));
            return segments.clear();
        }
        for segment in segments.drain(..).rev() {
            self.segments.push_front(segment);
        }
        self.head_sent = head_sent;
        self.advance(sent);
    }

    /// Bytes that [`SendQueue::move_front`] can move at once: those of the first segment, at most `bytes_max`.
    #[must_use]
    pub fn front_len(&self, bytes_max: usize) -> usize {
        let first =
            self.segments.front().map_or(0, |first| first.as_bytes().len() - self.head_sent);
        first.min(bytes_max)
    }

    /// Moves the first `bytes`, at most [`SendQueue::front_len`], to the end of `to`: by reference where they are many and fill
    /// their segment.
    pub fn move_front(&mut self, bytes: usize, to: &mut Self) {
        debug_assert!(bytes <= self.front_len(bytes), "within the first segment");
        let is_whole = |first: &mut Segment| {
            let is_batch = matches!(first, Segment::Batch(batch) if batch.bytes().len() == bytes);
            is_batch && self.head_sent == 0 && bytes > COPY_MAX_BYTES
        };
        if let Some(batch) = self.segments.pop_front_if(is_whole) {
            to.segments.push_back(batch);
            to.len += bytes;
            self.len -= bytes;
            return;
        }
        match self.segments.front() {
            Some(Segment::Slice(pinned)) => {
                to.push_slice(pinned.slice().range(self.head_sent, self.head_sent + bytes));
            }
            Some(Segment::Batch(batch)) => {
                to.push_bytes(&batch.bytes()[self.head_sent..self.head_sent + bytes]);
            }
            None => {}
        }
        self.advance(bytes);
    }

    /// Drops everything; what a send has taken does not come back.
    pub fn clear(&mut self) {
        let forget_taken = self.taken > 0 || self.forget_taken;
        *self = Self { forget_taken, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{BlockPool, pins::PINNED_BYTES_MAX};

    fn flat(queue: &SendQueue) -> Vec<u8> {
        queue.pieces().flatten().copied().collect()
    }

    #[test]
    fn small_pieces_share_a_segment_and_large_ones_do_not() {
        let mut queue = SendQueue::default();
        queue.push_bytes(b"head");
        queue.push_slice(Slice::copy_from(b"er"));
        queue.push_slice(Slice::from_vec(vec![7; COPY_MAX_BYTES + 1]));
        assert_eq!(queue.pieces().count(), 2);
        assert_eq!(queue.len(), 6 + COPY_MAX_BYTES + 1);
    }

    /// As a peer could send that means to use up memory: a little of each receive block for somebody who does not read.
    #[test]
    fn what_waits_keeps_few_blocks_and_gives_them_back_however_it_leaves() {
        let pool = BlockPool::new(192 * 1024, 64);
        drop((0..64).map(|_| pool.take()).collect::<Vec<_>>());
        let fill = |queue: &mut SendQueue| {
            for _ in 0..62 {
                queue.push_bytes(b"a header");
                queue.push_slice(pool.take().freeze(COPY_MAX_BYTES + 50));
            }
            assert_eq!(64 - pool.free_count(), PINNED_BYTES_MAX / pool.block_bytes());
        };
        let mut queue = SendQueue::default();
        for sent_at_once in [true, false] {
            fill(&mut queue);
            let mut segments = Vec::new();
            let (all, head) = (queue.len(), queue.take_segments(&mut segments, 1000));
            let sent = if sent_at_once { all } else { 3000 };
            queue.settle(&mut segments, head, sent);
            queue.advance(all - sent);
            assert!(queue.is_empty() && pool.free_count() == 64);
        }
        fill(&mut queue);
        queue.clear();
        assert_eq!(pool.free_count(), 64);
        fill(&mut queue);
    }

    #[test]
    fn room_that_was_made_for_nothing_does_not_stand_in_the_way() {
        let mut queue = SendQueue::default();
        queue.reserve(100);
        queue.push_slice(Slice::from_vec(vec![7; COPY_MAX_BYTES + 1]));
        queue.push_bytes(b"abc");
        assert_eq!((queue.pieces().count(), queue.front_len(5)), (2, 5));
    }

    #[test]
    fn short_sends_resume_at_the_right_byte() {
        let mut queue = SendQueue::default();
        let large: Vec<u8> = (0..5000).map(|i| i as u8).collect();
        queue.push_bytes(b"abc");
        queue.push_slice(Slice::from_vec(large.clone()));
        let mut expected = b"abc".to_vec();
        expected.extend(&large);
        let mut seen = Vec::new();
        while !queue.is_empty() {
            seen.push(flat(&queue)[0]);
            queue.advance(1);
        }
        assert_eq!(seen, expected);
    }

    #[test]
    fn moved_pieces_are_the_bytes_in_order() {
        for bytes_max in [1, 3, 1000, usize::MAX] {
            let (mut queue, mut to) = (SendQueue::default(), SendQueue::default());
            let large: Vec<u8> = (0..5000).map(|i| i as u8).collect();
            let expected = [b"abc", &large[..], b"xyz", &[7; 3000][..]].concat();
            queue.push_bytes(b"abc");
            queue.push_slice(Slice::from_vec(large));
            queue.push_bytes(b"xyz");
            queue.push_bytes(&[7; 3000]);
            while !queue.is_empty() {
                let len = queue.front_len(bytes_max);
                assert!(len > 0 && len <= bytes_max);
                queue.move_front(len, &mut to);
                assert_eq!(queue.len() + to.len(), expected.len());
            }
            assert_eq!(flat(&to), expected);
            assert_eq!((queue.front_len(1), queue.pieces().count()), (0, 0));
        }
    }

    #[test]
    fn segments_in_flight_come_back_when_the_send_was_short() {
        let mut queue = SendQueue::default();
        queue.push_bytes(b"abcdef");
        queue.advance(1);
        let mut segments = Vec::new();
        let head = queue.take_segments(&mut segments, 8);
        queue.push_bytes(b"ghi");
        queue.settle(&mut segments, head, 2);
        assert_eq!(flat(&queue), b"defghi");
        assert_eq!(queue.len(), 6);
    }

    #[test]
    fn nothing_comes_back_to_a_queue_that_was_cleared_meanwhile() {
        let mut queue = SendQueue::default();
        queue.push_bytes(b"abcdef");
        let mut segments = Vec::new();
        let head = queue.take_segments(&mut segments, 8);
        queue.clear();
        queue.push_bytes(b"next");
        queue.settle(&mut segments, head, 2);
        assert_eq!(flat(&queue), b"next");
        assert_eq!(queue.len(), 4);
    }
}
