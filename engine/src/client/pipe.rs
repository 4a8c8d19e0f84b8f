//! The two pipes between a stream's handle and the machine. Both carry ciphertext only.
//!
//! ```text
//!   machine ──push──▶ inbound  ──poll_take──▶ handle     bounded by the mux window, or INBOUND_HOLD_BYTES
//!   machine ◀──pop── outbound ◀──poll_room, push── handle     bounded by OUTBOUND_MAX_BYTES
//! ```
//!
//! Each side works under a lock held for a few instructions and never over an await; only the
//! methods here touch it. A pipe ends once: with the peer's FIN (inbound only), or with a
//! [`StreamEnd`] in both directions. What arrived before a FIN can still be read; what arrived
//! before a reset is dropped with it.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::{
    error::StreamEnd,
    lease::Lease,
    link::{EngineLink, StreamKey},
};
use crate::{
    mux::{INITIAL_WINDOW_BYTES, MuxKind},
    pool::{
        BlockPool, Slice, StreamUse,
        pins::{Pinned, Pins},
    },
};

/// Unread bytes of one stream at which its session is no longer read, where the mux has no window to
/// slow the peer down (smux v1). One yamux window.
const INBOUND_HOLD_BYTES: usize = 256 * 1024;

/// The session is read again when a held stream has fallen to this. More than one step of
/// [`Pipe::poll_take`], so that the machine is woken below it.
const INBOUND_LOW_BYTES: usize = INBOUND_HOLD_BYTES / 2;

/// Bytes of one stream that may wait unread where no window bounds them; above it the stream is
/// reset. Wider than what is still under way when the session is no longer read: one receive of
/// io_uring can bring all of its 2 MiB of buffers.
pub(crate) const INBOUND_MAX_BYTES: usize = 4 * 1024 * 1024;

/// Sealed bytes of one stream that may wait for the machine; a writer pends above it. One yamux
/// window: more could not be sent anyway.
pub(crate) const OUTBOUND_MAX_BYTES: usize = 256 * 1024;

/// A pending writer is woken when the pipe has fallen to this.
const OUTBOUND_LOW_BYTES: usize = OUTBOUND_MAX_BYTES / 2;

/// Received pieces up to this many bytes are copied together, so that a slow reader of small frames
/// does not hold a whole receive block for each.
const GATHER_MAX_BYTES: usize = 4096;

/// Bytes of one gathered piece.
const GATHERED_BYTES: usize = 16 * 1024;

enum Piece {
    Shared(Pinned),
    Gathered(Vec<u8>),
}

impl Piece {
    fn pinned(&self) -> Option<&Pinned> {
        match self {
            Self::Shared(pinned) => Some(pinned),
            Self::Gathered(_) => None,
        }
    }
}

#[derive(Default)]
struct Inbound {
    pieces: VecDeque<Piece>,
    bytes: usize,
    pins: Pins,
    /// Bytes the handle took and the machine has not granted again yet.
    taken: u32,
    finished: bool,
    reader: Option<Waker>,
}

impl Inbound {
    /// Adds a piece that is too large to be gathered. The memory of a ring that has lent much of it is for what is read soon: a
    /// reader who waits.
    fn share(&mut self, slice: Slice) {
        let stays = self.reader.is_none() && slice.is_wanted();
        let slice = if stays { Slice::copy_from(&slice) } else { slice };
        let last = self.pieces.iter().rev().take(2).find_map(Piece::pinned);
        let pinned = self.pins.admit(slice, last);
        self.pieces.push_back(Piece::Shared(pinned));
    }

    /// Takes the next piece.
    fn pop(&mut self) -> Option<Slice> {
        match self.pieces.pop_front()? {
            Piece::Shared(pinned) => {
                self.pins.release(&pinned);
                Some(pinned.into_slice())
            }
            Piece::Gathered(bytes) => Some(Slice::from_vec(bytes)),
        }
    }

    /// Drops what waits.
    fn clear(&mut self) {
        (self.pieces, self.bytes, self.pins) = Default::default();
    }
}

#[derive(Default)]
struct Outbound {
    chunks: VecDeque<Slice>,
    bytes: usize,
    /// The handle wants a FIN behind the chunks.
    finish: bool,
    /// The machine has sent it.
    finished: bool,
    writer: Option<Waker>,
}

/// What the machine finds when it looks at a pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutboundState {
    /// Bytes that wait.
    pub(crate) waiting: usize,
    /// A FIN shall follow them.
    pub(crate) finish: bool,
}

/// Both pipes of one stream, and what the stream holds.
pub(crate) struct Pipe {
    key: StreamKey,
    link: Arc<EngineLink>,
    lease: Arc<Lease>,
    grant_step: u32,
    inbound_hold: usize,
    inbound_max: usize,
    marked: AtomicBool,
    dropped: AtomicBool,
    reclaimed: AtomicBool,
    inbound: Mutex<Inbound>,
    outbound: Mutex<Outbound>,
    end: Mutex<Option<StreamEnd>>,
}

/// For both sides.
impl Pipe {
    pub(crate) fn new(
        key: StreamKey,
        mux: MuxKind,
        link: Arc<EngineLink>,
        lease: Arc<Lease>,
    ) -> Arc<Self> {
        // Credit is given back in steps, so that a reader of small messages does not wake the
        // machine for each. The mux holds back up to half a window more; step and half together
        // stay below the window (smux v2: 64 KiB).
        let (grant_step, inbound_hold, inbound_max) = match mux {
            // What the mux lets pass at once, so that the machine is woken once for each update.
            MuxKind::Yamux => (INITIAL_WINDOW_BYTES / 2, usize::MAX, usize::MAX),
            MuxKind::SmuxV2 => (16 * 1024, usize::MAX, INBOUND_MAX_BYTES),
            MuxKind::SmuxV1 => (64 * 1024, INBOUND_HOLD_BYTES, INBOUND_MAX_BYTES),
        };
        let usage = Arc::clone(lease.usage());
        usage.set_tag(key.0.to_u64());
        let pipe = Arc::new(Self {
            key,
            link,
            lease,
            grant_step,
            inbound_hold,
            inbound_max,
            marked: AtomicBool::new(false),
            dropped: AtomicBool::new(false),
            reclaimed: AtomicBool::new(false),
            inbound: Mutex::default(),
            outbound: Mutex::default(),
            end: Mutex::default(),
        });
        let weak = Arc::downgrade(&pipe);
        usage.on_reclaim(move |unread_for| {
            if let Some(pipe) = weak.upgrade() {
                pipe.reclaim(unread_for);
            }
        });
        pipe
    }

    /// The record of the stream's use.
    pub(crate) fn usage(&self) -> &Arc<StreamUse> {
        self.lease.usage()
    }

    /// The pool took the stream's place back: the port is free at once, the holder's next call says
    /// why, and the machine resets the stream.
    fn reclaim(&self, unread_for: Duration) {
        self.end(StreamEnd::Reclaimed(unread_for));
        self.reclaimed.store(true, Ordering::Release);
        self.mark();
    }

    /// Why the stream ended, if it did other than by FIN.
    pub(crate) fn end_reason(&self) -> Option<StreamEnd> {
        lock(&self.end).clone()
    }

    fn mark(&self) {
        if !self.marked.swap(true, Ordering::AcqRel) {
            self.link.mark(self.key);
        }
    }
}

/// For the handle.
impl Pipe {
    /// The next ciphertext; `None` after the peer's FIN.
    pub(crate) fn poll_take(&self, cx: &Context<'_>) -> Poll<Result<Option<Slice>, StreamEnd>> {
        let mut inbound = lock(&self.inbound);
        if let Some(end) = self.end_reason() {
            return Poll::Ready(Err(end));
        }
        let slice = match inbound.pop() {
            Some(slice) => slice,
            None if inbound.finished => return Poll::Ready(Ok(None)),
            None => {
                register(&mut inbound.reader, cx);
                if let Some(usage) = self.lease.followed() {
                    usage.set_busy();
                }
                return Poll::Pending;
            }
        };
        inbound.bytes -= slice.len();
        inbound.taken =
            inbound.taken.saturating_add(u32::try_from(slice.len()).unwrap_or(u32::MAX));
        let grant = inbound.taken >= self.grant_step && !inbound.finished;
        if let Some(usage) = self.lease.followed() {
            // Under the lock, or what the machine notes of the next piece may come in between.
            if inbound.pieces.is_empty() {
                usage.set_busy()
            } else {
                usage.set_unread()
            };
        }
        drop(inbound);
        if grant {
            self.mark();
        }
        Poll::Ready(Ok(Some(slice)))
    }

    /// Where the memory of large chunks comes from.
    pub(crate) fn blocks(&self) -> &BlockPool {
        self.link.blocks()
    }

    /// Ready when the pipe takes another chunk.
    pub(crate) fn poll_room(&self, cx: &Context<'_>) -> Poll<Result<(), StreamEnd>> {
        let mut outbound = lock(&self.outbound);
        if let Some(end) = self.end_reason() {
            return Poll::Ready(Err(end));
        }
        if outbound.finish {
            return Poll::Ready(Err(StreamEnd::Closed));
        }
        if outbound.bytes >= OUTBOUND_MAX_BYTES {
            register(&mut outbound.writer, cx);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Hands sealed bytes to the machine; the caller asked [`Pipe::poll_room`] before.
    pub(crate) fn push_outbound(&self, chunk: Slice) {
        let mut outbound = lock(&self.outbound);
        outbound.bytes += chunk.len();
        outbound.chunks.push_back(chunk);
        drop(outbound);
        self.mark();
    }

    /// Asks for a FIN behind what was pushed; ready when the machine has sent it.
    pub(crate) fn poll_finish(&self, cx: &Context<'_>) -> Poll<Result<(), StreamEnd>> {
        let mut outbound = lock(&self.outbound);
        if outbound.finished {
            return Poll::Ready(Ok(()));
        }
        if let Some(end) = self.end_reason() {
            return Poll::Ready(Err(end));
        }
        register(&mut outbound.writer, cx);
        let first = !std::mem::replace(&mut outbound.finish, true);
        drop(outbound);
        if first {
            self.mark();
        }
        Poll::Pending
    }

    /// The handle is gone: port and place are free at once, the machine sends what waits and a FIN.
    pub(crate) fn drop_handle(&self) {
        self.lease.release();
        lock(&self.outbound).finish = true;
        lock(&self.inbound).clear();
        self.dropped.store(true, Ordering::Release);
        self.mark();
    }
}

/// For the machine.
impl Pipe {
    /// Takes the stream off the dirty list; call before looking at anything below.
    pub(crate) fn unmark(&self) {
        self.marked.swap(false, Ordering::AcqRel);
    }

    /// Whether the pool took the stream back, so that it is to be reset.
    pub(crate) fn is_reclaimed(&self) -> bool {
        self.reclaimed.load(Ordering::Acquire)
    }

    /// Whether the handle is gone.
    pub(crate) fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::Acquire)
    }

    /// Hands ciphertext to the reader, who is woken with `wakes`. True when so much waits that the session is to be held;
    /// `Err` with the bound when too much does.
    pub(crate) fn push_inbound(&self, slice: Slice, wakes: &mut Wakes) -> Result<bool, usize> {
        if self.is_dropped() {
            return Ok(false);
        }
        let mut inbound = lock(&self.inbound);
        inbound.bytes += slice.len();
        if inbound.bytes > self.inbound_max {
            return Err(self.inbound_max);
        }
        let hold = inbound.bytes > self.inbound_hold;
        match inbound.pieces.back_mut() {
            _ if slice.len() > GATHER_MAX_BYTES => inbound.share(slice),
            Some(Piece::Gathered(bytes)) if bytes.len() + slice.len() <= GATHERED_BYTES => {
                bytes.extend_from_slice(&slice);
            }
            _ => inbound.pieces.push_back(Piece::Gathered(slice.to_vec())),
        }
        wakes.0.extend(inbound.reader.take());
        self.note_arrival(&inbound);
        Ok(hold)
    }

    /// Tells the pool that there is something to read; under the lock, so that the reader's own news come before or after.
    fn note_arrival(&self, _inbound: &MutexGuard<'_, Inbound>) {
        if let Some(usage) = self.lease.followed() {
            usage.note_arrival();
        }
    }

    /// Bytes that wait unread.
    pub(crate) fn unread_bytes(&self) -> usize {
        lock(&self.inbound).bytes
    }

    /// Whether so little waits that a held session may be read again.
    pub(crate) fn is_low(&self) -> bool {
        self.unread_bytes() <= INBOUND_LOW_BYTES
    }

    /// The peer sent FIN.
    pub(crate) fn finish_inbound(&self) {
        let mut inbound = lock(&self.inbound);
        inbound.finished = true;
        self.note_arrival(&inbound);
        wake(inbound.reader.take(), inbound);
    }

    /// Bytes the peer may send again, by whole steps.
    pub(crate) fn take_grant(&self) -> u32 {
        let mut inbound = lock(&self.inbound);
        if inbound.taken < self.grant_step { 0 } else { std::mem::take(&mut inbound.taken) }
    }

    /// What waits to be sent.
    pub(crate) fn outbound_state(&self) -> OutboundState {
        let outbound = lock(&self.outbound);
        OutboundState { waiting: outbound.bytes, finish: outbound.finish }
    }

    /// Takes up to `bytes_max` bytes to send, at most one chunk.
    pub(crate) fn pop_outbound(&self, bytes_max: usize) -> Option<Slice> {
        let mut outbound = lock(&self.outbound);
        let first = outbound.chunks.front_mut()?;
        let chunk = first.split_to(bytes_max);
        if first.is_empty() {
            outbound.chunks.pop_front();
        }
        outbound.bytes -= chunk.len();
        if outbound.bytes <= OUTBOUND_LOW_BYTES && !outbound.finish {
            wake(outbound.writer.take(), outbound);
        }
        Some(chunk)
    }

    /// The FIN is out.
    pub(crate) fn note_finished(&self) {
        let mut outbound = lock(&self.outbound);
        outbound.finished = true;
        wake(outbound.writer.take(), outbound);
    }

    /// The stream is over in both directions; reader and writer learn why. Only the first reason
    /// stands.
    pub(crate) fn end(&self, why: StreamEnd) {
        self.lease.release();
        lock(&self.end).get_or_insert(why);
        let mut inbound = lock(&self.inbound);
        inbound.clear();
        wake(inbound.reader.take(), inbound);
        let mut outbound = lock(&self.outbound);
        outbound.chunks.clear();
        outbound.bytes = 0;
        wake(outbound.writer.take(), outbound);
    }

    /// Both directions ended with FIN: nothing more will happen on the wire.
    pub(crate) fn close(&self) {
        self.lease.release();
    }
}

/// Readers to wake when all that was received at once is in the pipes. A reader that was woken for the first of several
/// frames would take it, sleep, and be woken for each of the others.
#[derive(Debug, Default)]
pub(crate) struct Wakes(Vec<Waker>);

impl Wakes {
    pub(crate) fn wake_all(&mut self) {
        self.0.drain(..).for_each(Waker::wake);
    }
}

/// A poisoned pipe is still whole: nothing below panics between two writes.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes after the lock is released, so that the woken thread does not run into it.
fn wake<T>(waker: Option<Waker>, guard: MutexGuard<'_, T>) {
    drop(guard);
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn register(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}

#[cfg(test)]
impl Pipe {
    /// Whether somebody is at the inbound pipe now.
    pub(crate) fn is_inbound_locked(&self) -> bool {
        self.inbound.try_lock().is_err()
    }
}
