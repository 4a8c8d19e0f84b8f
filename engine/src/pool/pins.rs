//! What slices that wait keep alive beyond their own bytes.
//!
//! ```text
//!   block    │·······│4 KiB│··················│      a slice keeps all of it
//! ```
//!
//! Where a slice is a good part of its block, that costs little. Of those that are not, a few may keep their blocks, so that what
//! is worked off soon is never copied; beyond [`PINNED_BYTES_MAX`] they are copied. So a queue of slices keeps alive at most four
//! times its bytes, and that much more, whatever the sizes in which a peer sends.

use super::Slice;

/// Bytes of blocks that small parts of them may keep alive in one queue: two of the largest receive blocks, and as many parts of
/// these as come in a row.
pub(crate) const PINNED_BYTES_MAX: usize = 512 * 1024;

/// The account of one queue.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    bytes: usize,
}

/// A slice in a queue.
#[derive(Debug)]
pub struct Pinned {
    slice: Slice,
    /// What it has in the account.
    bytes: u32,
}

impl Pins {
    /// Takes a slice into the queue. `last` is the one before it, with which it may share a block.
    pub(crate) fn admit(&mut self, slice: Slice, last: Option<&Pinned>) -> Pinned {
        if !slice.is_small_part() || last.is_some_and(|last| last.slice.shares_block(&slice)) {
            return Pinned { slice, bytes: 0 };
        }
        let bytes = slice.block_bytes();
        if self.bytes + bytes > PINNED_BYTES_MAX {
            return Pinned { slice: Slice::copy_from(&slice), bytes: 0 };
        }
        self.bytes += bytes;
        Pinned { slice, bytes: u32::try_from(bytes).expect("below the bound") }
    }

    /// Lets a slice out of the queue.
    pub(crate) fn release(&mut self, pinned: &Pinned) {
        self.bytes -= pinned.bytes as usize;
    }
}

impl Pinned {
    pub(crate) fn slice(&self) -> &Slice {
        &self.slice
    }

    pub(crate) fn into_slice(self) -> Slice {
        self.slice
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::BlockPool;

    const BLOCK_BYTES: usize = 192 * 1024;

    #[test]
    fn small_parts_of_many_blocks_keep_few_blocks_and_a_place_comes_back() {
        let pool = BlockPool::new(BLOCK_BYTES, 64);
        let mut pins = Pins::default();
        let part = |pins: &mut Pins| pins.admit(pool.take().freeze(4200), None);
        let blocks: Vec<_> = (0..64).map(|_| pool.take()).collect();
        drop(blocks);
        let mut kept: Vec<_> = (0..64).map(|_| part(&mut pins)).collect();
        let (most, held) = (PINNED_BYTES_MAX / BLOCK_BYTES, 64 - pool.free_count());
        assert_eq!(
            (held, kept.iter().map(|kept| kept.slice().len()).sum::<usize>()),
            (most, 64 * 4200)
        );
        pins.release(&kept.remove(0));
        kept.push(part(&mut pins));
        assert_eq!((64 - pool.free_count(), pins.bytes), (most, most * BLOCK_BYTES));
        kept.drain(..).for_each(|kept| pins.release(&kept));
        assert_eq!((pool.free_count(), pins.bytes), (64, 0));
    }

    #[test]
    fn a_block_in_small_parts_in_a_row_counts_once_and_one_in_large_parts_does_not() {
        let pool = BlockPool::new(BLOCK_BYTES, 4);
        let (mut pins, mut kept) = (Pins::default(), Vec::new());
        for part_bytes in [16 * 1024, 64 * 1024] {
            let mut block = pool.take().freeze(BLOCK_BYTES);
            while !block.is_empty() {
                let part = pins.admit(block.split_to(part_bytes), kept.last());
                kept.push(part);
            }
        }
        assert_eq!((pool.free_count(), pins.bytes), (0, BLOCK_BYTES));
    }
}
