//! Receive blocks and slices of them.
//!
//! ```text
//!  BlockPool ──take──▶ Block (exclusive: a driver receives into it)
//!      ▲                 │ freeze(len)
//!      │                 ▼
//!      └── last drop ── Slice, Slice, Slice …   (shared, read-only, cheap to split and clone)
//! ```
//!
//! A frame is a [`Slice`]; forwarding it queues the slice, and the payload is never copied. When the
//! last slice of a block is gone, on whatever thread, the block goes back to the pool it came from, its
//! reference count included: nothing is allocated for a block that is used again.
//!
//! Memory that a ring lends out for a while (`Lease`) travels the same way: the pool then only
//! gives the counted shell.
//!
//! The pool is a free list with a high-water mark, not a gate: [`BlockPool::take`] always succeeds, and
//! blocks beyond `blocks_max` that come back are freed. What came back last is taken first, since it is
//! still in the cache. How many bytes may be held at all is the matter of the budgets of whoever queues
//! slices.

use std::{
    fmt,
    ops::Deref,
    sync::{Arc, Mutex, TryLockError},
};

use crate::driver::Lease;

struct PoolShared {
    block_bytes: usize,
    blocks_max: usize,
    /// Only ever tried, never waited for: who finds it taken allocates or frees instead.
    free: Mutex<Vec<Arc<Shared>>>,
}

/// A free list of equally sized receive blocks. Cloning shares it.
#[derive(Clone)]
pub struct BlockPool(Arc<PoolShared>);

impl BlockPool {
    /// A pool that keeps at most `blocks_max` (at least one) free blocks of `block_bytes` each.
    #[must_use]
    pub fn new(block_bytes: usize, blocks_max: usize) -> Self {
        let free = Mutex::new(Vec::new());
        Self(Arc::new(PoolShared { block_bytes, blocks_max: blocks_max.max(1), free }))
    }

    /// A block to receive into: a recycled one, or a new one when none is free.
    #[must_use]
    pub fn take(&self) -> Block {
        let mut shared = self.shell();
        if let Some(shell) = Arc::get_mut(&mut shared)
            && shell.memory.is_empty()
        {
            shell.memory = Memory::Own(vec![0; self.0.block_bytes].into_boxed_slice());
        }
        Block(Slice::whole(shared))
    }

    /// A slice of all that `lease` lends; the pool is one of shells, with blocks of zero bytes.
    pub(crate) fn wrap(&self, lease: Lease) -> Slice {
        debug_assert!(self.0.block_bytes == 0, "a pool of shells");
        let mut shared = self.shell();
        if let Some(shell) = Arc::get_mut(&mut shared) {
            shell.memory = Memory::Lent(lease);
        }
        Slice::whole(shared)
    }

    /// A block of its own, recycled with its memory or new without.
    fn shell(&self) -> Arc<Shared> {
        let home = Some(self.clone());
        match self.free(Vec::pop).flatten() {
            Some(mut shared) => {
                if let Some(shell) = Arc::get_mut(&mut shared) {
                    shell.home = home;
                }
                shared
            }
            None => Arc::new(Shared { memory: Memory::default(), home }),
        }
    }

    fn free<T>(&self, work: impl FnOnce(&mut Vec<Arc<Shared>>) -> T) -> Option<T> {
        match self.0.free.try_lock() {
            Ok(mut free) => Some(work(&mut free)),
            Err(TryLockError::Poisoned(free)) => Some(work(&mut free.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Bytes of one block.
    #[must_use]
    pub fn block_bytes(&self) -> usize {
        self.0.block_bytes
    }

    /// Blocks that wait in the free list.
    #[must_use]
    pub fn free_count(&self) -> usize {
        self.free(|free| free.len()).unwrap_or(0)
    }
}

impl fmt::Debug for BlockPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockPool({} × {} bytes free)", self.free_count(), self.block_bytes())
    }
}

enum Memory {
    Own(Box<[u8]>),
    /// Goes back to its ring when it is dropped.
    Lent(Lease),
}

impl Default for Memory {
    fn default() -> Self {
        Self::Own(Box::default())
    }
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Own(memory) => memory,
            Self::Lent(lease) => lease.bytes(),
        }
    }
}

impl Memory {
    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Own(memory) => memory,
            Self::Lent(lease) => lease.bytes_mut(),
        }
    }
}

/// A block's memory, and the pool that it goes back to; none for what stands alone, or lies in the free list.
struct Shared {
    memory: Memory,
    home: Option<BlockPool>,
}

/// Gives up one reference; the last one takes the block home.
fn give_back(mut shared: Arc<Shared>) {
    // Two that let go at the same moment may both find the other: then the memory is freed, which is right too.
    let Some(last) = Arc::get_mut(&mut shared) else { return };
    let Some(home) = last.home.take() else { return };
    if matches!(last.memory, Memory::Lent(_)) {
        last.memory = Memory::default();
    }
    home.free(|free| {
        // A full free list means the burst is over: let the memory go.
        if free.len() < home.0.blocks_max {
            free.push(shared);
        }
    });
}

/// Memory that one owner may write to. Dropping it returns the memory to its pool.
pub struct Block(Slice);

impl Block {
    /// The whole memory, for a receive call.
    pub fn memory_mut(&mut self) -> &mut [u8] {
        self.0.get_mut().unwrap_or_default()
    }

    /// Ends writing: the first `len` bytes become shared and read-only.
    #[must_use]
    pub fn freeze(self, len: usize) -> Slice {
        let mut slice = self.0;
        slice.truncate(len);
        slice
    }
}

/// A read-only range of a shared block.
#[derive(Clone)]
pub struct Slice {
    /// `None` for no bytes at all.
    block: Option<Arc<Shared>>,
    start: u32,
    end: u32,
}

impl Drop for Slice {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            give_back(block);
        }
    }
}

impl Slice {
    /// A slice of its own memory, outside any pool; for tests, control data and small copies.
    #[must_use]
    pub fn copy_from(bytes: &[u8]) -> Self {
        Self::own(bytes.into())
    }

    /// A slice that owns `bytes`, outside any pool.
    #[must_use]
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        Self::own(bytes.into_boxed_slice())
    }

    fn own(memory: Box<[u8]>) -> Self {
        if memory.is_empty() {
            return Self { block: None, start: 0, end: 0 };
        }
        Self::whole(Arc::new(Shared { memory: Memory::Own(memory), home: None }))
    }

    fn whole(shared: Arc<Shared>) -> Self {
        let end = u32::try_from(shared.memory.len()).expect("blocks are below 4 GiB");
        Self { block: Some(shared), start: 0, end }
    }

    /// Cuts off and returns the first `len` bytes (all, if there are fewer).
    #[must_use]
    pub fn split_to(&mut self, len: usize) -> Self {
        let middle = self.start + u32::try_from(len.min(self.len())).expect("within the block");
        let head = Self { block: self.block.clone(), start: self.start, end: middle };
        self.start = middle;
        head
    }

    /// The bytes from `start` to `end` (within the slice, or less comes back).
    #[must_use]
    pub fn range(&self, start: usize, end: usize) -> Self {
        let mut range = self.clone();
        range.advance(start);
        range.truncate(end.saturating_sub(start));
        range
    }

    /// Forgets all but the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.end = self.start + u32::try_from(len.min(self.len())).expect("within the block");
    }

    /// The bytes, to be changed where they are; `None` while another slice of the block exists.
    pub fn get_mut(&mut self) -> Option<&mut [u8]> {
        let block = Arc::get_mut(self.block.as_mut()?)?;
        Some(&mut block.memory.bytes_mut()[self.start as usize..self.end as usize])
    }

    /// Forgets the first `len` bytes (all, if there are fewer).
    pub fn advance(&mut self, len: usize) {
        self.start += u32::try_from(len.min(self.len())).expect("within the block");
    }

    /// The same bytes in memory of their own if they are a small part of their block, or if the block is
    /// lent by a ring that runs low: a slice that may wait for long must not keep a block alive that is many times its size,
    /// nor memory that all connections of a thread receive into.
    #[must_use]
    pub fn compact(self) -> Self {
        let wasteful = self.is_small_part() || self.is_wanted();
        if wasteful { Self::copy_from(&self) } else { self }
    }

    /// Less than a quarter of its block.
    pub(crate) fn is_small_part(&self) -> bool {
        self.len() < self.block_bytes() / 4
    }

    /// Whether it lies in memory of a ring that has lent much of it.
    pub(crate) fn is_wanted(&self) -> bool {
        match self.block.as_deref().map(|block| &block.memory) {
            Some(Memory::Lent(lease)) => lease.is_wanted(),
            Some(Memory::Own(_)) | None => false,
        }
    }

    /// Bytes of its block.
    pub(crate) fn block_bytes(&self) -> usize {
        self.block.as_deref().map_or(0, |block| block.memory.len())
    }

    /// Whether both lie in the same block.
    pub(crate) fn shares_block(&self, other: &Self) -> bool {
        match (&self.block, &other.block) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// Bytes in the slice.
    #[must_use]
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

impl Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.block {
            Some(block) => &block.memory[self.start as usize..self.end as usize],
            None => &[],
        }
    }
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slice({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_returns_to_the_pool_with_the_last_slice() {
        let pool = BlockPool::new(16, 2);
        let mut block = pool.take();
        block.memory_mut()[..3].copy_from_slice(b"abc");
        let mut all = block.freeze(3);
        let head = all.split_to(1);
        assert_eq!((&*head, &*all), (&b"a"[..], &b"bc"[..]));
        drop(all);
        assert_eq!(pool.free_count(), 0);
        drop(head);
        assert_eq!(pool.free_count(), 1);
    }

    #[test]
    fn blocks_beyond_the_mark_are_freed() {
        let pool = BlockPool::new(16, 1);
        drop((pool.take(), pool.take(), pool.take()));
        assert_eq!(pool.free_count(), 1);
    }

    #[test]
    fn a_small_part_of_a_block_lets_the_block_go_and_a_large_one_keeps_it() {
        let pool = BlockPool::new(16, 4);
        let small = pool.take().freeze(3).compact();
        assert_eq!((small.len(), pool.free_count()), (3, 1));
        let large = pool.take().freeze(4).compact();
        assert_eq!((large.len(), pool.free_count()), (4, 0));
    }

    #[test]
    fn lengths_past_the_end_are_clamped() {
        let mut slice = Slice::copy_from(b"abc");
        assert_eq!(slice.split_to(99).len(), 3);
        slice.advance(99);
        assert!(slice.is_empty());
    }
}
