//! Receive buffers that all connections of a thread share: the kernel picks one when bytes have
//! arrived.
//!
//! ```text
//!   entries (read by the kernel)   [addr len id] [addr len id] … tail ─▶
//!   blocks  (by id)                 Block         Block        …
//!                                     │ received: large ─▶ leaves as a Slice, a fresh block takes its place
//!                                     └────────── small ─▶ copied out, the same block is provided again
//! ```
//!
//! Either way the buffer is back with the kernel before the completion is handled, so the ring is
//! empty only while completions wait to be taken, and no slow reader of slices can starve it.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    io,
    ptr::NonNull,
    sync::atomic::{AtomicU16, Ordering},
};

use io_uring::{IoUring, types::BufRingEntry};

use crate::pool::{Block, BlockPool, Slice};

/// The buffer group; a ring has one.
pub(super) const GROUP: u16 = 0;

/// The kernel wants the entries at the start of a page.
const PAGE_BYTES: usize = 4096;

/// The most entries a buffer ring can have.
const COUNT_MAX: u16 = 1 << 15;

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
    mask: u16,
    tail: u16,
    blocks: Vec<Block>,
    pool: BlockPool,
}

impl BufferRing {
    /// Registers `count` blocks of `pool` with `ring`, whose kernel may write to them from now on.
    ///
    /// The caller keeps the result until no receive of `ring` is in flight.
    pub(super) fn new(ring: &IoUring, count: u16, pool: BlockPool) -> io::Result<Self> {
        let count = count.clamp(1, COUNT_MAX).next_power_of_two();
        let entries = Entries::new(usize::from(count));
        // SAFETY: `entries` holds `count` entries at the start of a page, and outlives the
        // registration: it is dropped after the ring, or after every receive has ended.
        unsafe {
            let start = entries.start.as_ptr() as u64;
            ring.submitter().register_buf_ring_with_flags(start, count, GROUP, 0)?;
        }
        let blocks = (0..count).map(|_| pool.take()).collect();
        let mut buffers = Self { entries, mask: count - 1, tail: 0, blocks, pool };
        for id in 0..count {
            buffers.provide(id);
        }
        Ok(buffers)
    }

    /// Takes `len` received bytes out of buffer `id` and provides the buffer again.
    pub(super) fn take(&mut self, id: u16, len: usize) -> Slice {
        let block = &mut self.blocks[usize::from(id)];
        let slice = if len <= self.pool.block_bytes() / 4 {
            Slice::copy_from(&block.memory_mut()[..len])
        } else {
            std::mem::replace(block, self.pool.take()).freeze(len)
        };
        self.provide(id);
        slice
    }

    /// Provides buffer `id` again; what it holds is dropped.
    pub(super) fn provide(&mut self, id: u16) {
        let memory = self.blocks[usize::from(id)].memory_mut();
        let (address, len) = (memory.as_mut_ptr() as u64, memory.len() as u32);
        let slot = usize::from(self.tail & self.mask);
        // SAFETY: `slot` is within the entries, and the kernel does not read it before the tail
        // passes it. The tail lies in the first entry's unused field, which `set_*` leaves alone.
        // The block's memory is on the heap, is not touched by us while the kernel owns it, and
        // lives in `blocks`.
        unsafe {
            let entry = &mut *self.entries.start.as_ptr().add(slot);
            entry.set_addr(address);
            entry.set_len(len);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(self.entries.start.as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }
}
