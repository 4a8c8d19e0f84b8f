//! Receive buffers that all connections of a thread share: the kernel picks as many as it needs when bytes have arrived.
//!
//! ```text
//!   entries (read by the kernel)   [addr len id] [addr len id] … tail ─▶
//!   memory                         │ chunk 0 │ chunk 1 │ chunk 2 │ chunk 3 │ …   ([`Arena`])
//!                                  ╰── one receive: one slice ──╯    ╰ another
//! ```
//!
//! Chunks are provided in the order in which they lie, going round and leaving out those that are still lent. So the buffers of
//! one receive mostly lie side by side and become one slice.
//!
//! A slice that is kept (queued to a slow peer) keeps its chunks. From three quarters lent on, what is received is copied into
//! memory of its own, and its chunks are free at once: the last quarter never leaves the circle, and no reader of
//! slices, however slow, can starve the ring for longer than a turn.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    collections::VecDeque,
    io,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use io_uring::{IoUring, types::BufRingEntry};

use crate::{
    driver::{DriverStats, arena::Arena},
    pool::{BlockPool, Slice},
};

/// The buffer group; a ring has one.
pub(super) const GROUP: u16 = 0;

/// The kernel wants the entries at the start of a page.
const PAGE_BYTES: usize = 4096;

/// The most entries a buffer ring can have.
const COUNT_MAX: u16 = 1 << 15;

/// A receive becomes slices of at most this many bytes. Whoever gets one can write to it as long as it refers to it alone, so a
/// relay can rewrite this much at a time, as much as it plans at once; and whoever keeps one keeps no more than this.
const SLICE_BYTES_MAX: usize = 64 * 1024;

/// Counted shells of slices that are kept for the next ones; 64 bytes each.
const SHELLS_MAX: usize = 1024;

/// Entries in memory that the kernel reads.
struct Entries {
    start: NonNull<BufRingEntry>,
    layout: Layout,
}

impl Entries {
    fn new(count: usize) -> Self {
        let layout = Layout::array::<BufRingEntry>(count)
            .and_then(|layout| layout.align_to(PAGE_BYTES))
            .expect("at most 2^15 entries of 16 bytes");
        // SAFETY: the layout is not empty, since there is at least one entry.
        let memory = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(memory.cast()).unwrap_or_else(|| handle_alloc_error(layout));
        Self { start, layout }
    }
}

impl Drop for Entries {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout. The kernel has pinned the pages it reads.
        unsafe { dealloc(self.start.as_ptr().cast(), self.layout) }
    }
}

pub(super) struct BufferRing {
    entries: Entries,
    arena: Arc<Arena>,
    shells: BlockPool,
    mask: u16,
    tail: u16,
    /// The chunk of each entry.
    chunks: Box<[u16]>,
    /// The entry of each chunk.
    places: Box<[u16]>,
    /// Entries that the kernel has.
    provided: usize,
    /// Where the next sweep begins.
    cursor: usize,
}

impl BufferRing {
    /// Registers `count` buffers of `buffer_bytes` with `ring`, whose kernel may write to them from now on.
    ///
    /// The caller keeps the result until no receive of `ring` is in flight.
    pub(super) fn new(ring: &IoUring, count: u16, buffer_bytes: usize) -> io::Result<Self> {
        let count = count.clamp(1, COUNT_MAX).next_power_of_two();
        let entries = Entries::new(usize::from(count));
        // SAFETY: `entries` holds `count` entries at the start of a page, and outlives the
        // registration: it is dropped after the ring, or after every receive has ended.
        unsafe {
            let start = entries.start.as_ptr() as u64;
            ring.submitter().register_buf_ring_with_flags(start, count, GROUP, 0)?;
        }
        let mut buffers = Self {
            entries,
            arena: Arena::new(usize::from(count), buffer_bytes),
            shells: BlockPool::new(0, SHELLS_MAX),
            mask: count - 1,
            tail: 0,
            chunks: vec![0; usize::from(count)].into(),
            places: vec![0; usize::from(count)].into(),
            provided: 0,
            cursor: 0,
        };
        buffers.provide();
        Ok(buffers)
    }

    /// Provides every chunk that is free. Call once a turn, and before a receive that found no buffer is begun anew.
    pub(super) fn provide(&mut self) {
        if self.provided == self.chunks.len() {
            return;
        }
        let arena = Arc::clone(&self.arena);
        arena.sweep(self.cursor, |chunk| self.provide_chunk(chunk));
        // SAFETY: the tail lies in the first entry's unused field, which `set_*` leaves alone.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.start.as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }

    fn provide_chunk(&mut self, chunk: usize) {
        let place = self.tail & self.mask;
        // SAFETY: `place` is within the entries, and the kernel does not read it before the tail passes it: there are as many
        // entries as chunks, and each chunk is in one entry at most. The chunk was free, so nobody but the kernel touches
        // it from now on; it lives in `arena`.
        unsafe {
            let entry = &mut *self.entries.start.as_ptr().add(usize::from(place));
            entry.set_addr(self.arena.address(chunk));
            entry.set_len(self.arena.chunk_bytes() as u32);
            entry.set_bid(chunk as u16);
        }
        self.tail = self.tail.wrapping_add(1);
        self.chunks[usize::from(place)] = chunk as u16;
        self.places[chunk] = place;
        self.provided += 1;
        self.cursor = chunk + 1;
    }

    /// Takes `len` received bytes out of the buffers from `first` on, in the order in which they were provided.
    pub(super) fn take(&mut self, first: u16, len: usize, slices: &mut VecDeque<Slice>) {
        let chunk_bytes = self.arena.chunk_bytes();
        let mut left = len.div_ceil(chunk_bytes).min(self.provided);
        let mut bytes = len;
        let mut place = self.places[usize::from(first)];
        self.provided -= left;
        while left > 0 {
            let start = usize::from(self.chunks[usize::from(place)]);
            let (mut count, most) = (0, (SLICE_BYTES_MAX / chunk_bytes).clamp(1, left));
            while count < most && usize::from(self.chunks[usize::from(place)]) == start + count {
                count += 1;
                place = (place + 1) & self.mask;
            }
            left -= count;
            let part = bytes.min(count * chunk_bytes);
            bytes -= part;
            slices.push_back(self.slice(start, part));
        }
    }

    fn slice(&self, first: usize, len: usize) -> Slice {
        // SAFETY: the kernel's completion says that it has filled these chunks and given them up, and their entries are ours
        // again; they are in no lease, since only this makes leases, once for each time that they were provided.
        let lease = unsafe { self.arena.lend(first, len) };
        let low = self.arena.lent_count() > self.arena.count() / 4 * 3;
        if low { Slice::copy_from(lease.bytes()) } else { self.shells.wrap(lease) }
    }

    /// Tells how much is lent.
    pub(super) fn tell(&self, stats: &DriverStats) {
        stats.buffers_count.store(self.arena.count(), Ordering::Relaxed);
        stats.buffers_lent.store(self.arena.lent_count(), Ordering::Relaxed);
    }

    /// Takes back a buffer that a completion names although nothing came.
    pub(super) fn take_back(&mut self, chunk: u16) {
        self.provided -= 1;
        self.arena.release(usize::from(chunk), 1);
    }
}
