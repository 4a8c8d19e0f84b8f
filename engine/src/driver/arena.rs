//! Receive memory that a ring lends out.
//!
//! ```text
//!   memory   │ chunk 0 │ chunk 1 │ chunk 2 │ chunk 3 │ …
//!   whose      kernel    ╰─── a Lease ───╯   free
//! ```
//!
//! One piece of memory, cut into equal chunks. A chunk is with the kernel, which may write to it; or part of one [`Lease`], which
//! alone may touch it; or free. The driver moves chunks from free to the kernel and from there to leases; a lease that is
//! dropped, on whatever thread, sets its chunks free. The memory lives as long as the driver or any lease does.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

/// Chunks start at the start of a page, so that no two of them share a cache line.
const PAGE_BYTES: usize = 4096;

/// The memory and who has what of it.
pub(super) struct Arena {
    start: NonNull<u8>,
    layout: Layout,
    chunk_bytes: usize,
    count: usize,
    /// A bit for each chunk that is free.
    free: Box<[AtomicU64]>,
    /// Chunks in leases.
    lent: AtomicUsize,
}

// SAFETY: the memory is touched only by the kernel and through leases, and no chunk is in two of these hands at a time; all
// else is atomic or never changes.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// `count` free chunks of `chunk_bytes`.
    pub(super) fn new(count: usize, chunk_bytes: usize) -> Arc<Self> {
        let (count, chunk_bytes) = (count.max(1), chunk_bytes.max(1));
        let layout = Layout::array::<u8>(count * chunk_bytes)
            .and_then(|layout| layout.align_to(PAGE_BYTES))
            .expect("a configuration is far below the address space");
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout));
        let words = (0..count.div_ceil(64)).map(|word| {
            let bits = (count - word * 64).min(64);
            AtomicU64::new(u64::MAX >> (64 - bits))
        });
        let (free, lent) = (words.collect(), AtomicUsize::new(0));
        Arc::new(Self { start, layout, chunk_bytes, count, free, lent })
    }

    pub(super) fn chunk_bytes(&self) -> usize {
        self.chunk_bytes
    }

    /// Where a chunk begins, for the kernel.
    pub(super) fn address(&self, chunk: usize) -> u64 {
        debug_assert!(chunk < self.count);
        self.start.as_ptr() as u64 + (chunk * self.chunk_bytes) as u64
    }

    /// Takes every free chunk from `cursor` on, once around, and hands it to `take`.
    pub(super) fn sweep(&self, cursor: usize, mut take: impl FnMut(usize)) {
        let words = self.free.len();
        let (first, below) = (cursor / 64 % words, (1u64 << (cursor % 64)) - 1);
        // The first word comes twice: its upper part at the start, its lower part at the end.
        for step in 0..=words {
            let word = (first + step) % words;
            let wanted = match step {
                0 => !below,
                _ if step == words => below,
                _ => u64::MAX,
            };
            if self.free[word].load(Ordering::Relaxed) & wanted == 0 {
                continue;
            }
            // What the lease's owner did with the chunks comes before what the kernel does.
            let mut bits = self.free[word].fetch_and(!wanted, Ordering::Acquire) & wanted;
            while bits != 0 {
                take(word * 64 + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
    }

    /// Sets chunks free that the kernel has given up.
    pub(super) fn release(&self, first: usize, count: usize) {
        let mut chunk = first;
        let end = first + count;
        while chunk < end {
            let bits = (64 - chunk % 64).min(end - chunk);
            let mask = (u64::MAX >> (64 - bits)) << (chunk % 64);
            self.free[chunk / 64].fetch_or(mask, Ordering::Release);
            chunk += bits;
        }
    }

    /// The first `len` bytes of the chunks from `first` on.
    ///
    /// # Safety
    /// The kernel has filled them and given up all the chunks that they lie in, which are neither free nor in a lease.
    pub(super) unsafe fn lend(self: &Arc<Self>, first: usize, len: usize) -> Lease {
        let count = len.div_ceil(self.chunk_bytes);
        debug_assert!(first + count <= self.count);
        self.lent.fetch_add(count, Ordering::Relaxed);
        Lease { arena: Arc::clone(self), first: first as u32, len: len as u32 }
    }

    /// Chunks in leases.
    pub(super) fn lent_count(&self) -> usize {
        self.lent.load(Ordering::Relaxed)
    }

    /// Chunks in all.
    pub(super) fn count(&self) -> usize {
        self.count
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout; no lease is left, and the driver has let go of it, which it does after
        // the kernel has.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

/// Received bytes in memory that a ring lends; dropping it gives the memory back.
pub(crate) struct Lease {
    arena: Arc<Arena>,
    first: u32,
    len: u32,
}

impl Lease {
    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    fn start(&self) -> *mut u8 {
        // SAFETY: `lend` was told chunks within the memory.
        unsafe { self.arena.start.as_ptr().add(self.first as usize * self.arena.chunk_bytes) }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: initialised memory within the arena, which nobody else touches while the lease exists.
        unsafe { std::slice::from_raw_parts(self.start(), self.len()) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the lease is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.len()) }
    }

    /// Whether so much of the memory is lent that what may be kept for long is better copied: half of it.
    pub(crate) fn is_wanted(&self) -> bool {
        self.arena.lent_count() > self.arena.count / 2
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let count = self.len().div_ceil(self.arena.chunk_bytes);
        self.arena.lent.fetch_sub(count, Ordering::Relaxed);
        self.arena.release(self.first as usize, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn swept(arena: &Arena, cursor: usize) -> Vec<usize> {
        let mut chunks = Vec::new();
        arena.sweep(cursor, |chunk| chunks.push(chunk));
        chunks
    }

    #[test]
    fn every_chunk_is_taken_once_in_order_from_the_cursor_on() {
        for (count, cursor) in [(1, 0), (2, 1), (64, 63), (100, 70), (128, 64), (256, 17)] {
            let arena = Arena::new(count, 16);
            let expected: Vec<_> = (cursor..count).chain(0..cursor).collect();
            assert_eq!(swept(&arena, cursor), expected);
            assert!(swept(&arena, 0).is_empty());
        }
    }

    #[test]
    fn a_lease_gives_back_exactly_its_chunks() {
        let arena = Arena::new(200, 16);
        swept(&arena, 0);
        // SAFETY: nobody else has these chunks.
        let mut lease = unsafe { arena.lend(60, 70 * 16 - 3) };
        lease.bytes_mut().fill(7);
        assert_eq!((lease.bytes().len(), arena.lent_count()), (70 * 16 - 3, 70));
        assert!(swept(&arena, 0).is_empty());
        std::thread::spawn(move || drop(lease)).join().expect("no panic");
        assert_eq!(arena.lent_count(), 0);
        assert_eq!(swept(&arena, 0), (60..130).collect::<Vec<_>>());
    }

    #[test]
    fn a_lease_is_wanted_back_when_more_than_half_is_lent() {
        let arena = Arena::new(4, 16);
        swept(&arena, 0);
        // SAFETY: nobody else has these chunks.
        let (first, second) = unsafe { (arena.lend(0, 32), arena.lend(2, 1)) };
        assert!(first.is_wanted() && second.is_wanted());
        drop(second);
        assert!(!first.is_wanted());
    }
}
