//! How handles reach the machine: commands through the driver's mailbox, and a list of streams that
//! want attention.
//!
//! ```text
//!   stream ──mark──▶ dirty list ──┐
//!   stream ──mark──▶ dirty list ──┼─ the first also posts Command::Wake ─▶ machine drains the whole list
//!   stream ──mark──▶ dirty list ──┘
//! ```
//!
//! A stream is in the list at most once and one `Wake` is under way at most, so a thousand busy
//! streams cost the mailbox one entry, and the list is bounded by the number of streams.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam::queue::SegQueue;

use super::machine::{Command, DialId};
use crate::{
    driver::{Mailbox, PostError},
    io::ConnId,
    mux::StreamId,
    pool::BlockPool,
    stream::FRAME_MAX_BYTES,
};

/// Bytes of the blocks that streams seal into: one write at most.
pub(crate) const SEAL_BLOCK_BYTES: usize = 16 * FRAME_MAX_BYTES;

/// Free blocks that a client keeps for all of its streams: 2 MiB, as much as eight full windows.
const SEAL_BLOCKS_MAX: usize = 32;

/// A stream of one connection.
pub(crate) type StreamKey = (ConnId, StreamId);

/// Where commands for a machine go: a driver's mailbox, or a queue of a simulation.
pub trait Post: Send + Sync + 'static {
    /// Posts a command, or gives it back.
    fn post(&self, command: Command) -> Result<(), PostError<Command>>;
    /// Posts a command whose number is bounded by the guards that post them; never refused.
    fn post_release(&self, command: Command);
}

impl Post for Mailbox<Command> {
    fn post(&self, command: Command) -> Result<(), PostError<Command>> {
        Self::post(self, command)
    }

    fn post_release(&self, command: Command) {
        Self::post_release(self, command);
    }
}

/// The handles' side of a machine.
pub struct EngineLink {
    post: Box<dyn Post>,
    blocks: BlockPool,
    dirty: SegQueue<StreamKey>,
    wake_posted: AtomicBool,
    next_dial: AtomicU64,
}

impl EngineLink {
    /// A link that posts to `post`.
    #[must_use]
    pub fn new(post: impl Post) -> Self {
        Self {
            post: Box::new(post),
            blocks: BlockPool::new(SEAL_BLOCK_BYTES, SEAL_BLOCKS_MAX),
            dirty: SegQueue::new(),
            wake_posted: AtomicBool::new(false),
            next_dial: AtomicU64::new(0),
        }
    }

    /// Posts a command, or gives it back when the mailbox is full or the engine has stopped.
    pub fn post(&self, command: Command) -> Result<(), PostError<Command>> {
        self.post.post(command)
    }

    /// Posts a command that frees something.
    pub fn post_release(&self, command: Command) {
        self.post.post_release(command);
    }

    /// A number for a dial, unique for this machine.
    pub fn next_dial_id(&self) -> DialId {
        DialId(self.next_dial.fetch_add(1, Ordering::Relaxed))
    }

    /// Memory to seal into: whoever sends it, on the engine's thread, gives it back.
    pub(crate) fn blocks(&self) -> &BlockPool {
        &self.blocks
    }

    /// Puts a stream on the list; its own flag must say that it is not there already.
    pub(crate) fn mark(&self, key: StreamKey) {
        self.dirty.push(key);
        if !self.wake_posted.swap(true, Ordering::AcqRel) {
            self.post.post_release(Command::Wake);
        }
    }

    /// Machine side, once per `Wake`, before the list is drained: marks from here on post again.
    pub(crate) fn begin_drain(&self) {
        self.wake_posted.swap(false, Ordering::AcqRel);
    }

    /// Machine side: the next stream of the list.
    pub(crate) fn next_marked(&self) -> Option<StreamKey> {
        self.dirty.pop()
    }
}
