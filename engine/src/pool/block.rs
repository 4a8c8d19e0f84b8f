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
//! last slice of a block is gone, on whatever thread, its memory goes back to the pool it came from.
//!
//! The pool is a free list with a high-water mark, not a gate: [`BlockPool::take`] always succeeds, and
//! blocks beyond `blocks_max` that come back are freed. How many bytes may be held at all is the
//! matter of the budgets of whoever queues slices.

use std::{fmt, ops::Deref, sync::Arc};

use crossbeam::queue::ArrayQueue;

struct PoolShared {
    block_bytes: usize,
    free: ArrayQueue<Box<[u8]>>,
}

/// A free list of equally sized receive blocks. Cloning shares it.
#[derive(Clone)]
pub struct BlockPool(Arc<PoolShared>);

impl BlockPool {
    /// A pool that keeps at most `blocks_max` (at least one) free blocks of `block_bytes` each.
    #[must_use]
    pub fn new(block_bytes: usize, blocks_max: usize) -> Self {
        Self(Arc::new(PoolShared { block_bytes, free: ArrayQueue::new(blocks_max.max(1)) }))
    }

    /// A block to receive into: a recycled one, or a new one when none is free.
    #[must_use]
    pub fn take(&self) -> Block {
        let memory =
            self.0.free.pop().unwrap_or_else(|| vec![0; self.0.block_bytes].into_boxed_slice());
        Block { memory, home: Some(self.clone()) }
    }

    /// Bytes of one block.
    #[must_use]
    pub fn block_bytes(&self) -> usize {
        self.0.block_bytes
    }

    /// Blocks that wait in the free list.
    #[must_use]
    pub fn free_count(&self) -> usize {
        self.0.free.len()
    }
}

impl fmt::Debug for BlockPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockPool({} × {} bytes free)", self.free_count(), self.block_bytes())
    }
}

/// Memory that one owner may write to. Dropping it returns the memory to its pool.
pub struct Block {
    memory: Box<[u8]>,
    home: Option<BlockPool>,
}

impl Block {
    /// The whole memory, for a receive call.
    pub fn memory_mut(&mut self) -> &mut [u8] {
        &mut self.memory
    }

    /// Ends writing: the first `len` bytes become shared and read-only.
    #[must_use]
    pub fn freeze(self, len: usize) -> Slice {
        let end = u32::try_from(len.min(self.memory.len())).expect("blocks are below 4 GiB");
        Slice { block: Arc::new(self), start: 0, end }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            // A full free list means the burst is over: let the memory go.
            drop(home.0.free.push(std::mem::take(&mut self.memory)));
        }
    }
}

/// A read-only range of a shared block.
#[derive(Clone)]
pub struct Slice {
    block: Arc<Block>,
    start: u32,
    end: u32,
}

impl Slice {
    /// A slice of its own memory, outside any pool; for tests, control data and small copies.
    #[must_use]
    pub fn copy_from(bytes: &[u8]) -> Self {
        Block { memory: bytes.into(), home: None }.freeze(bytes.len())
    }

    /// A slice that owns `bytes`, outside any pool.
    #[must_use]
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        let len = bytes.len();
        Block { memory: bytes.into_boxed_slice(), home: None }.freeze(len)
    }

    /// Cuts off and returns the first `len` bytes (all, if there are fewer).
    #[must_use]
    pub fn split_to(&mut self, len: usize) -> Self {
        let middle = self.start + u32::try_from(len.min(self.len())).expect("within the block");
        let head = Self { block: Arc::clone(&self.block), start: self.start, end: middle };
        self.start = middle;
        head
    }

    /// The bytes from `start` to `end` (within the slice, or less comes back).
    #[must_use]
    pub fn range(&self, start: usize, end: usize) -> Self {
        let mut range = self.clone();
        range.advance(start);
        range.split_to(end.saturating_sub(start))
    }

    /// The bytes, to be changed where they are; `None` while another slice of the block exists.
    pub fn get_mut(&mut self) -> Option<&mut [u8]> {
        let block = Arc::get_mut(&mut self.block)?;
        Some(&mut block.memory[self.start as usize..self.end as usize])
    }

    /// Forgets the first `len` bytes (all, if there are fewer).
    pub fn advance(&mut self, len: usize) {
        self.start += u32::try_from(len.min(self.len())).expect("within the block");
    }

    /// The same bytes in memory of their own if they are less than a quarter of their block: a slice that may wait for
    /// long must not keep a block alive that is many times its size.
    #[must_use]
    pub fn compact(self) -> Self {
        if self.len() < self.block.memory.len() / 4 { Self::copy_from(&self) } else { self }
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
        &self.block.memory[self.start as usize..self.end as usize]
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
