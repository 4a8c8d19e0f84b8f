//! Buffers in which small pieces are gathered.
//!
//! Each thread keeps some that are empty and gives the one that was used last, whose memory is still in the cache. There are two
//! sizes, since a chatty connection has only a frame or two to send: as many large buffers as connections would be as many pages.

use std::{cell::RefCell, fmt};

/// Bytes of a large batch: large enough that a send call is worth its cost, small enough to stay in L1/L2.
pub(super) const LARGE_BYTES: usize = 16 * 1024;

/// Bytes of a small one.
const SMALL_BYTES: usize = 1024;

/// Empty batches that a thread keeps of each size: 1 MiB of the large, 512 KiB of the small ones.
const LARGE_SPARE_MAX: usize = 64;
const SMALL_SPARE_MAX: usize = 512;

thread_local! {
    static SPARE: RefCell<Spare> = const { RefCell::new(Spare { small: Vec::new(), large: Vec::new() }) };
}

struct Spare {
    small: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
}

/// An empty buffer with room for `bytes`.
fn take(bytes: usize) -> Vec<u8> {
    if bytes > LARGE_BYTES {
        return Vec::with_capacity(bytes);
    }
    let (small, size) =
        (bytes <= SMALL_BYTES, if bytes <= SMALL_BYTES { SMALL_BYTES } else { LARGE_BYTES });
    // Without the list (the thread ends) there is always the allocator.
    let spare = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if small { spare.small.pop() } else { spare.large.pop() }
    });
    spare.ok().flatten().unwrap_or_else(|| Vec::with_capacity(size))
}

fn give_back(mut buffer: Vec<u8>) {
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        let (list, max) = match buffer.capacity() {
            SMALL_BYTES => (&mut spare.small, SMALL_SPARE_MAX),
            LARGE_BYTES => (&mut spare.large, LARGE_SPARE_MAX),
            _ => return,
        };
        if list.len() < max {
            buffer.clear();
            list.push(std::mem::take(&mut buffer));
        }
    });
}

/// Gathered bytes. Dropping it gives the buffer to the thread that drops it.
pub struct Batch(Vec<u8>);

impl Batch {
    /// A batch that begins with `bytes`, however many.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut buffer = take(bytes.len());
        buffer.extend_from_slice(bytes);
        Self(buffer)
    }

    /// An empty batch for `bytes` that are about to come, as far as a batch takes them.
    pub(super) fn expecting(bytes: usize) -> Self {
        Self(take(bytes.min(LARGE_BYTES)))
    }

    /// Appends `bytes`; false when they do not fit.
    #[inline]
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        let len = self.0.len() + bytes.len();
        if len > self.0.capacity() {
            if len > LARGE_BYTES {
                return false;
            }
            self.grow(len);
        }
        self.0.extend_from_slice(bytes);
        true
    }

    /// Appends `pieces` while they fit; returns the one that does not.
    #[inline]
    pub(super) fn push_all<'a>(
        &mut self,
        mut pieces: impl Iterator<Item = &'a [u8]>,
    ) -> Option<&'a [u8]> {
        pieces.find(|piece| !self.push(piece))
    }

    /// Makes room for `bytes` more, as far as a batch takes them.
    pub(super) fn expect(&mut self, bytes: usize) {
        let len = (self.0.len() + bytes).min(LARGE_BYTES);
        if len > self.0.capacity() {
            self.grow(len);
        }
    }

    #[cold]
    fn grow(&mut self, len: usize) {
        let mut larger = take(len);
        larger.extend_from_slice(&self.0);
        give_back(std::mem::replace(&mut self.0, larger));
    }

    /// What was gathered.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.0));
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spare_counts() -> (usize, usize) {
        SPARE.with_borrow(|spare| (spare.small.len(), spare.large.len()))
    }

    #[test]
    fn buffers_are_used_again_and_spare_ones_are_bounded() {
        let mut batch = Batch::of(b"abc");
        assert!(batch.push(&[1; SMALL_BYTES]));
        assert_eq!(spare_counts(), (1, 0));
        assert_eq!((batch.bytes().len(), &batch.bytes()[..4]), (SMALL_BYTES + 3, &b"abc\x01"[..]));
        drop(batch);
        assert_eq!(spare_counts(), (1, 1));
        let (small, large) = (Batch::of(b"d"), Batch::expecting(usize::MAX));
        assert_eq!(spare_counts(), (0, 0));
        assert_eq!((small.bytes(), large.bytes()), (&b"d"[..], &b""[..]));
        drop((small, large));
        drop((0..1000).map(|_| (Batch::of(b"e"), Batch::of(&[0; 2000]))).collect::<Vec<_>>());
        assert_eq!(spare_counts(), (SMALL_SPARE_MAX, LARGE_SPARE_MAX));
    }

    #[test]
    fn a_batch_takes_16_kib_and_one_larger_piece_stands_alone() {
        let mut batch = Batch::of(&[0; LARGE_BYTES - 1]);
        assert!(batch.push(&[1]) && !batch.push(&[2]));
        let mut alone = Batch::of(&[0; LARGE_BYTES + 1]);
        assert!(!alone.push(&[1]));
        let kept = spare_counts();
        drop(alone);
        assert_eq!(spare_counts(), kept);
    }
}
