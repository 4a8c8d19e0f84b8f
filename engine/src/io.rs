//! The verbs between a state machine and the driver that runs it.
//!
//! ```text
//!            accepted · connected · received · writable · closed · command · timeout
//!   driver ───────────────────────────────────────────────────────────────────────▶ Machine
//!          ◀─────────────────────────────────────────────────────────────────────── Io
//!            send queues · connect · close · pause/resume · wake_at · stop
//! ```
//!
//! A [`Machine`] (the relay, the client) owns protocol state only. Each verb gets an [`Io`], into which it
//! writes what shall happen; the driver carries it out after the verb returns, and batches as it likes. Time and
//! randomness are arguments: `io.now()`, `io.unix_nanos()`, `io.random()`. So the same machine runs on
//! io_uring, on epoll, and in simulated time with a seed that replays.
//!
//! Rules every driver keeps:
//! - verbs of one machine never run at the same time;
//! - `closed` comes exactly once for each connection that was `accepted` or asked for with
//!   [`Io::connect`], also after the machine's own [`Io::close`]; after it the [`ConnId`] is dead, and using it does nothing;
//! - bytes arrive in order, in slices of any length; nothing is received while a connection is paused
//!   (a slice or two already under way may still come);
//! - `writable` comes when a send queue that had more than [`SEND_HIGH_BYTES`] falls to [`SEND_LOW_BYTES`] or below;
//! - `timeout` comes at or after the last [`Io::wake_at`] time; the machine asks again each time.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::pool::{SendQueue, Slice};

/// A send queue above this many bytes is full: its owner stops producing until `writable`.
/// Twice the largest yamux window would let one stream fill it; half of one keeps latency low and still covers a send call.
pub const SEND_HIGH_BYTES: usize = 128 * 1024;

/// A send queue at or below this has room again.
pub const SEND_LOW_BYTES: usize = 32 * 1024;

/// A connection of one driver. Never reused: the generation tells a recycled slot from its former user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    index: u32,
    generation: u32,
}

impl ConnId {
    /// No connection: no driver gets this far.
    pub(crate) const NONE: Self = Self { index: u32::MAX, generation: u32::MAX };

    /// The slot, for tables that run parallel to the driver's.
    #[must_use]
    pub fn index(self) -> usize {
        self.index as usize
    }

    /// Slot and user in one number.
    pub(crate) fn to_u64(self) -> u64 {
        u64::from(self.index) << 32 | u64::from(self.generation)
    }

    /// Which user of the slot this is.
    #[must_use]
    pub fn generation(self) -> u32 {
        self.generation
    }
}

/// How a machine closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseMode {
    /// Send what is queued (for at most [`FLUSH_TIMEOUT`]), then close.
    Flush,
    /// Close at once and drop what is queued.
    Abort,
}

/// How long a flushing connection may take to send its rest.
pub const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a connection is gone.
#[derive(Debug)]
pub enum Closed {
    /// The peer closed its side.
    ByPeer,
    /// The machine asked for it.
    ByUs,
    /// The kernel reported an error: refused, reset, timed out, no descriptor left …
    Error(io::Error),
}

/// A protocol state machine that a driver runs.
pub trait Machine {
    /// What other threads may post to it.
    type Command: Send + 'static;

    /// A peer connected to a listener.
    fn accepted(&mut self, io: &mut Io, conn: ConnId, peer: SocketAddr);
    /// A connection asked for with [`Io::connect`] is up.
    fn connected(&mut self, io: &mut Io, conn: ConnId);
    /// Bytes arrived; never an empty slice.
    fn received(&mut self, io: &mut Io, conn: ConnId, data: Slice);
    /// The send queue has room again.
    fn writable(&mut self, io: &mut Io, conn: ConnId);
    /// The connection is gone.
    fn closed(&mut self, io: &mut Io, conn: ConnId, why: Closed);
    /// Another thread posted this.
    fn command(&mut self, io: &mut Io, command: Self::Command);
    /// The time asked for with [`Io::wake_at`] has come.
    fn timeout(&mut self, io: &mut Io);
}

/// What a machine asks its driver to do with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Open a TCP connection.
    Connect(ConnId, SocketAddr),
    /// Close it.
    Close(ConnId, CloseMode),
    /// Receive nothing more for now.
    Pause(ConnId),
    /// Receive again.
    Resume(ConnId),
}

/// A source of random bytes: the system's in production, seeded in simulation.
pub type RandomSource = Box<dyn FnMut(&mut [u8]) + Send>;

#[derive(Default)]
struct Slot {
    generation: u32,
    live: bool,
    closing: bool,
    paused: bool,
    dirty: bool,
    above_high: bool,
    queue: SendQueue,
}

/// Where a machine leaves its answers, and where it reads time and randomness.
///
/// The methods of the first group are for machines, those of the second for drivers.
pub struct Io {
    now: Instant,
    unix_nanos: i64,
    random: RandomSource,
    slots: Vec<Slot>,
    free: Vec<u32>,
    dirty: Vec<ConnId>,
    actions: VecDeque<Action>,
    wake_at: Option<Instant>,
    stopped: bool,
}

/// For machines.
impl Io {
    /// The monotonic time of this verb.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Wall-clock time, Unix nanoseconds; only for signed timestamps.
    #[must_use]
    pub fn unix_nanos(&self) -> i64 {
        self.unix_nanos
    }

    /// Fills `bytes` with randomness.
    pub fn random(&mut self, bytes: &mut [u8]) {
        (self.random)(bytes);
    }

    /// The send queue of `conn`; `None` when it is closed or closing, and then there is nothing to send.
    pub fn queue(&mut self, conn: ConnId) -> Option<&mut SendQueue> {
        let slot = self.slots.get_mut(conn.index())?;
        if !slot.live || slot.closing || slot.generation != conn.generation {
            return None;
        }
        if !slot.dirty {
            slot.dirty = true;
            self.dirty.push(conn);
        }
        Some(&mut slot.queue)
    }

    /// Bytes queued on `conn`, not yet taken by the kernel. Zero when it is gone.
    #[must_use]
    pub fn queued_bytes(&self, conn: ConnId) -> usize {
        self.slot(conn).map_or(0, |slot| slot.queue.len())
    }

    /// Whether the send queue of `conn` is at its mark: stop producing until `writable`.
    pub fn is_full(&mut self, conn: ConnId) -> bool {
        self.slot_mut(conn).is_some_and(|slot| {
            slot.above_high |= slot.queue.len() > SEND_HIGH_BYTES;
            slot.above_high
        })
    }

    /// Whether `conn` is there and its send queue below its mark; the opposite of [`Io::is_full`] for a connection that is open.
    #[inline]
    pub fn has_room(&mut self, conn: ConnId) -> bool {
        self.slot_mut(conn).is_some_and(|slot| {
            slot.above_high |= slot.queue.len() > SEND_HIGH_BYTES;
            !slot.above_high && !slot.closing
        })
    }

    /// Opens a TCP connection; `connected` or `closed` tells how it went.
    pub fn connect(&mut self, to: SocketAddr) -> ConnId {
        let conn = self.add_conn();
        self.actions.push_back(Action::Connect(conn, to));
        conn
    }

    /// Closes `conn`; nothing more can be queued, `closed` follows. A flush that lasts too long can be ended by an abort.
    pub fn close(&mut self, conn: ConnId, mode: CloseMode) {
        if let Some(slot) = self.slot_mut(conn)
            && (!slot.closing || mode == CloseMode::Abort)
        {
            slot.closing = true;
            if mode == CloseMode::Abort {
                slot.queue.clear();
            }
            self.actions.push_back(Action::Close(conn, mode));
        }
    }

    /// Stops receiving from `conn`.
    pub fn pause(&mut self, conn: ConnId) {
        if let Some(slot) = self.slot_mut(conn)
            && !std::mem::replace(&mut slot.paused, true)
        {
            self.actions.push_back(Action::Pause(conn));
        }
    }

    /// Receives from `conn` again.
    pub fn resume(&mut self, conn: ConnId) {
        if let Some(slot) = self.slot_mut(conn)
            && std::mem::replace(&mut slot.paused, false)
        {
            self.actions.push_back(Action::Resume(conn));
        }
    }

    /// Asks for `timeout` at `at`, or earlier if an earlier wish stands.
    pub fn wake_at(&mut self, at: Instant) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Asks the driver to close every connection and return.
    pub fn stop(&mut self) {
        self.stopped = true;
    }
}

/// For drivers.
impl Io {
    /// An `Io` with a source of randomness and its first time.
    #[must_use]
    pub fn new(random: RandomSource, now: Instant, unix_nanos: i64) -> Self {
        Self {
            now,
            unix_nanos,
            random,
            slots: Vec::new(),
            free: Vec::new(),
            dirty: Vec::new(),
            actions: VecDeque::new(),
            wake_at: None,
            stopped: false,
        }
    }

    /// Sets the time of the verbs that follow.
    pub fn set_time(&mut self, now: Instant, unix_nanos: i64) {
        self.now = now;
        self.unix_nanos = unix_nanos;
    }

    /// A slot for an accepted connection.
    pub fn add_conn(&mut self) -> ConnId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).expect("descriptors are far below 2^32")
        });
        let slot = &mut self.slots[index as usize];
        slot.live = true;
        ConnId { index, generation: slot.generation }
    }

    /// Frees the slot; call right before the verb `closed`.
    pub fn remove_conn(&mut self, conn: ConnId) {
        if self.slot(conn).is_some() {
            let generation = conn.generation.wrapping_add(1);
            self.slots[conn.index()] = Slot { generation, ..Slot::default() };
            self.free.push(conn.index);
        }
    }

    /// The next thing to do with a connection.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next connection whose send queue was touched since it was last returned here.
    pub fn next_dirty(&mut self) -> Option<ConnId> {
        while let Some(conn) = self.dirty.pop() {
            if let Some(slot) = self.slot_mut(conn) {
                slot.dirty = false;
                slot.above_high |= slot.queue.len() > SEND_HIGH_BYTES;
                return Some(conn);
            }
        }
        None
    }

    /// The send queue, also of a closing connection.
    pub fn driver_queue(&mut self, conn: ConnId) -> Option<&mut SendQueue> {
        self.slot_mut(conn).map(|slot| &mut slot.queue)
    }

    /// Call after bytes of `conn` were sent: true when the verb `writable` is due.
    pub fn note_sent(&mut self, conn: ConnId) -> bool {
        self.slot_mut(conn).is_some_and(|slot| {
            let room = slot.above_high && slot.queue.len() <= SEND_LOW_BYTES;
            slot.above_high &= !room;
            room && !slot.closing
        })
    }

    /// Whether `conn` is there and the machine has not closed it.
    #[must_use]
    pub fn is_open(&self, conn: ConnId) -> bool {
        self.slot(conn).is_some_and(|slot| !slot.closing)
    }

    /// Connections whose `closed` has not been delivered.
    #[must_use]
    pub fn conn_count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether `conn` is paused.
    #[must_use]
    pub fn is_paused(&self, conn: ConnId) -> bool {
        self.slot(conn).is_some_and(|slot| slot.paused)
    }

    /// Takes the time asked for; after it, `timeout` is due.
    pub fn take_wake_at(&mut self) -> Option<Instant> {
        self.wake_at.take()
    }

    /// The time asked for.
    #[must_use]
    pub fn wake_time(&self) -> Option<Instant> {
        self.wake_at
    }

    /// Whether the machine asked to stop.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Every connection that is still open.
    #[must_use]
    pub fn live_conns(&self) -> Vec<ConnId> {
        (0u32..)
            .zip(&self.slots)
            .filter(|(_, slot)| slot.live)
            .map(|(index, slot)| ConnId { index, generation: slot.generation })
            .collect()
    }

    fn slot(&self, conn: ConnId) -> Option<&Slot> {
        self.slots.get(conn.index()).filter(|s| s.live && s.generation == conn.generation)
    }

    fn slot_mut(&mut self, conn: ConnId) -> Option<&mut Slot> {
        self.slots.get_mut(conn.index()).filter(|s| s.live && s.generation == conn.generation)
    }
}
