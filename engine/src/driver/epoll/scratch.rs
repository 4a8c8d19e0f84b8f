//! The blocks that every read of a thread goes into.
//!
//! ```text
//!   one read   │ 16 KiB │ 48 KiB │       192 KiB       │
//!                 ╰ what a chatty connection sends: a block of 4 pages, free again at once
//! ```
//!
//! A block leaves with what was received and the pool gives another. Where a read ends early in a block, its bytes move to a
//! block of the smallest size that holds them: what one read brings takes at most a few times its size, and most bytes are not
//! copied. What small parts of it may keep the block alive is the matter of `pool::pins`.

use std::io::IoSliceMut;

use crate::pool::{Block, BlockPool, Slice};

/// Bytes of the blocks of a read; 256 KiB, what one connection may receive in a turn.
const CLASSES_BYTES: [usize; 3] = [16 * 1024, 48 * 1024, 192 * 1024];

/// Bytes of one read at most.
pub(super) const READ_BYTES: usize = CLASSES_BYTES[0] + CLASSES_BYTES[1] + CLASSES_BYTES[2];

/// Free blocks of each size kept: 1, 1.5 and 3 MiB.
const FREE_BLOCKS_MAX: [usize; 3] = [64, 32, 16];

pub(super) struct Scratch {
    pools: [BlockPool; 3],
    blocks: [Block; 3],
}

impl Scratch {
    pub(super) fn new() -> Self {
        let pools: [_; 3] =
            std::array::from_fn(|i| BlockPool::new(CLASSES_BYTES[i], FREE_BLOCKS_MAX[i]));
        let blocks = pools.each_ref().map(BlockPool::take);
        Self { pools, blocks }
    }

    /// Where to read into.
    pub(super) fn memory(&mut self) -> [IoSliceMut<'_>; 3] {
        self.blocks.each_mut().map(|block| IoSliceMut::new(block.memory_mut()))
    }

    /// What a read of `len` bytes in all has put into the `index`th block.
    pub(super) fn take(&mut self, index: usize, len: usize) -> Option<Slice> {
        let before: usize = CLASSES_BYTES[..index].iter().sum();
        let part = len.saturating_sub(before).min(*CLASSES_BYTES.get(index)?);
        if part == 0 {
            return None;
        }
        let smaller = CLASSES_BYTES[..index].iter().position(|size| part <= *size);
        if let Some(class) = smaller {
            let mut block = self.pools[class].take();
            block.memory_mut()[..part].copy_from_slice(&self.blocks[index].memory_mut()[..part]);
            return Some(block.freeze(part));
        }
        let fresh = self.pools[index].take();
        Some(std::mem::replace(&mut self.blocks[index], fresh).freeze(part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_of_any_length_comes_out_whole_and_in_order() {
        let mut scratch = Scratch::new();
        for len in [1, 16_384, 16_385, 40_000, 65_536, 65_537, 70_000, 130_000, READ_BYTES] {
            let bytes: Vec<_> = (0..len).map(|i| (i % 251) as u8).collect();
            let mut rest = &bytes[..];
            for mut memory in scratch.memory() {
                let (part, after) = rest.split_at(rest.len().min(memory.len()));
                memory[..part.len()].copy_from_slice(part);
                rest = after;
            }
            let slices = (0..).map_while(|index| scratch.take(index, len));
            assert_eq!(slices.fold(Vec::new(), |all, slice| [&all[..], &slice].concat()), bytes);
        }
    }

    #[test]
    fn a_block_that_is_done_with_is_the_next_one() {
        let mut scratch = Scratch::new();
        let addresses: Vec<_> = (0..4).map(|_| scratch.take(0, 64).map(|s| s.as_ptr())).collect();
        assert_eq!(addresses[0], addresses[2], "two blocks take turns");
        assert_eq!(addresses[1], addresses[3]);
    }
}
