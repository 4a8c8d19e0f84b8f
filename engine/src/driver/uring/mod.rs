//! The driver on io_uring: one ring per thread, one enter per turn.
//!
//! ```text
//!  enter: submit, wait ─▶ completions ─▶ verbs due, timers ─▶ changed connections ─▶ sends ─┐
//!    ▲                                                                                      │
//!    └──────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Listeners accept and connections receive by one request each until it is cancelled (multishot),
//! into buffers that all connections share. A connection has one send in flight, whose memory it
//! owns. What the kernel cannot do ([`Features`]) is replaced by the one-shot operation; without
//! io_uring at all there is [`super::epoll`].
//!
//! Invariants:
//! - a [`Conn`] is dropped, and its descriptor closed, only after the last completion of its last
//!   operation. So no operation ever points into freed memory or at a descriptor with a new
//!   meaning;
//! - a connection that could receive but has no receive in flight is in `listed`;
//! - when a turn ends, every receive buffer that is not lent is back with the kernel.

mod accept;
mod buffers;
mod conn;
mod features;
mod ops;
mod ring;
mod stream;

use std::{
    collections::VecDeque,
    io,
    net::{SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use io_uring::{IoUring, opcode, squeue};

pub use self::features::{Features, Unavailable, UringConfig, probe};
use self::{
    buffers::BufferRing,
    conn::{Armed, Conn, Phase, Sending},
    ops::{Kind, Op},
    ring::{Completion, Ring},
};
use super::{
    host::Host,
    sys::{self, SpareFd},
};
use crate::{
    io::{Action, CloseMode, Closed, ConnId, Machine},
    pool::BlockPool,
};

/// How long the end of a driver waits for operations it has cancelled. The kernel needs
/// microseconds; past this their memory is leaked, which is the lesser evil.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);

/// A receive block where connections have their own.
const OWN_BLOCK_BYTES: usize = 16 * 1024;

/// Of those, free ones kept: 2 MiB.
const FREE_BLOCKS_MAX: usize = 128;

/// Memory of ended sends kept for the next ones: 1 KiB each.
const FREE_SENDINGS_MAX: usize = 256;

/// A ring that waits for its machine. Must run on the thread that made it.
pub(super) struct Setup {
    ring: IoUring,
    features: Features,
    config: UringConfig,
    listeners: Vec<TcpListener>,
}

impl Setup {
    pub(super) fn new(config: UringConfig) -> Result<Self, Unavailable> {
        let (ring, features) = ring::open(&config)?;
        Ok(Self { ring, features, config, listeners: Vec::new() })
    }

    /// Gives the listeners, blocking ones: a ring would report "would block" on others instead of
    /// waiting.
    pub(super) fn listen(&mut self, listeners: Vec<TcpListener>) -> io::Result<()> {
        listeners.iter().try_for_each(|listener| listener.set_nonblocking(false))?;
        self.listeners = listeners;
        Ok(())
    }
}

struct Listener {
    socket: TcpListener,
    accept: Armed,
}

/// The ring comes first so that it is dropped first, before the memory its operations may name.
struct Driver<M: Machine> {
    ring: Ring,
    host: Host<M>,
    features: Features,
    listeners: Vec<Listener>,
    mailbox: Armed,
    conns: Vec<Option<Conn>>,
    buffers: Option<BufferRing>,
    pool: BlockPool,
    /// Memory for sends, the last used first.
    #[expect(clippy::vec_box, reason = "the kernel points into them, so they stay where they are")]
    free_sendings: Vec<Box<Sending>>,
    /// Connections to look at before the turn ends.
    listed: VecDeque<ConnId>,
    completions: VecDeque<Completion>,
    spare: SpareFd,
    /// The listeners rest until then.
    rest_until: Option<Instant>,
    /// The driver is being dropped: no operation is renewed.
    dropping: bool,
}

/// Runs the machine until it asks to stop.
pub(super) fn run<M: Machine>(host: Host<M>, setup: Setup) -> io::Result<()> {
    let mut driver = Driver::new(host, setup);
    driver.arm_mailbox();
    driver.arm_listeners();
    while !driver.is_done() {
        driver.turn()?;
    }
    Ok(())
}

impl<M: Machine> Driver<M> {
    fn new(host: Host<M>, setup: Setup) -> Self {
        let Setup { ring, mut features, config, listeners } = setup;
        let UringConfig { mut buffers_count, mut buffer_bytes, .. } = config;
        if !features.bundles {
            (buffers_count, buffer_bytes) = (buffers_count.div_ceil(4), buffer_bytes * 4);
        }
        let buffers = features
            .buffer_ring
            .then(|| BufferRing::new(&ring, buffers_count, buffer_bytes))
            .and_then(|made| {
                made.inspect_err(|e| tracing::warn!("receiving without shared buffers: {e}")).ok()
            });
        features.buffer_ring = buffers.is_some();
        features.multishot_recv &= features.buffer_ring;
        features.bundles &= features.multishot_recv;
        let pool = BlockPool::new(OWN_BLOCK_BYTES, FREE_BLOCKS_MAX);
        tracing::debug!(?features, "io_uring is set up");
        let listeners =
            listeners.into_iter().map(|socket| Listener { socket, accept: Armed::No }).collect();
        Self {
            ring: Ring::new(ring),
            host,
            features,
            listeners,
            mailbox: Armed::No,
            conns: Vec::new(),
            buffers,
            pool,
            free_sendings: Vec::new(),
            listed: VecDeque::new(),
            completions: VecDeque::new(),
            spare: SpareFd::new(),
            rest_until: None,
            dropping: false,
        }
    }

    fn is_done(&self) -> bool {
        self.host.is_done() && self.listeners.iter().all(|l| l.accept == Armed::No)
    }

    fn turn(&mut self) -> io::Result<()> {
        let timeout = self.host.sleep_time(!self.listed.is_empty(), self.rest_until);
        self.ring.wait(timeout)?;
        self.host.inbox.awake();
        self.host.tick();
        self.complete_all();
        self.host.run_due();
        self.carry_out();
        if let Some(buffers) = &mut self.buffers {
            buffers.provide();
            buffers.tell(&self.host.stats);
        }
        for _ in 0..self.listed.len() {
            if let Some(id) = self.listed.pop_front() {
                self.look(id);
            }
        }
        while let Some(id) = self.host.io.next_dirty() {
            self.send(id);
        }
        while let Some(id) = self.host.next_flush_end() {
            self.abort(id);
        }
        if self.rest_until.is_some_and(|at| at <= self.host.io.now()) {
            self.rest_until = None;
            self.arm_listeners();
        }
        if self.host.begins_to_stop() {
            for index in 0..self.listeners.len() {
                self.cancel_accept(index);
            }
            self.carry_out();
        }
        Ok(())
    }

    fn conn(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.conns.get_mut(id.index())?.as_mut().filter(|conn| conn.id == id)
    }

    fn insert(&mut self, conn: Conn) {
        let index = conn.id.index();
        if self.conns.len() <= index {
            self.conns.resize_with(index + 1, || None);
        }
        self.conns[index] = Some(conn);
    }

    /// Has the connection looked at before the turn ends, or in the next one.
    fn list(&mut self, id: ConnId) {
        if let Some(conn) = self.conn(id)
            && !std::mem::replace(&mut conn.listed, true)
        {
            self.listed.push_back(id);
        }
    }

    /// Does what the machine has asked for.
    fn carry_out(&mut self) {
        while let Some(action) = self.host.io.next_action() {
            match action {
                Action::Connect(id, to) => {
                    if let Err(error) = self.connect(id, to) {
                        self.host.end(id, Closed::Error(error));
                    }
                }
                Action::Close(id, mode) => self.close(id, mode),
                Action::Pause(id) | Action::Resume(id) => self.list(id),
            }
        }
    }

    fn connect(&mut self, id: ConnId, to: SocketAddr) -> io::Result<()> {
        if self.host.is_stopping() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let socket = sys::stream_socket(to, false, &self.host.sockets)?;
        let mut conn = Conn::new(id, socket.into(), Phase::Connecting);
        let address = conn.address.insert(Box::new(to.into()));
        let (start, len) = (address.as_ptr(), address.len());
        let entry = opcode::Connect::new(conn.fd(), start.cast(), len).build();
        self.insert(conn);
        // SAFETY: the connection owns the descriptor and the boxed address, and outlives the
        // operation.
        unsafe { self.submit(id, Kind::Connect, entry) };
        Ok(())
    }

    fn close(&mut self, id: ConnId, mode: CloseMode) {
        let Some(conn) = self.conn(id) else { return };
        if mode == CloseMode::Abort || !conn.is_open() {
            return self.abort(id);
        }
        conn.phase = Phase::Flushing;
        conn.held.clear();
        self.host.flush_begins(id);
        self.list(id);
        self.send(id);
    }

    fn abort(&mut self, id: ConnId) {
        if let Some(conn) = self.conn(id) {
            sys::reset_on_close(&conn.stream);
            self.end(id, Closed::ByUs);
        }
    }

    /// Begins the end: what is in flight is cancelled, `closed` follows when the kernel has let go
    /// of it.
    fn end(&mut self, id: ConnId, why: Closed) {
        let Some(conn) = self.conn(id).filter(|conn| !conn.is_ending()) else { return };
        conn.phase = Phase::Ending(why);
        conn.held.clear();
        for kind in [Kind::Recv, Kind::Send, Kind::Connect, Kind::Watch] {
            self.cancel(id, kind);
        }
        self.finish(id);
    }

    /// Closes the descriptor of an ending connection once nothing of it is in flight.
    fn finish(&mut self, id: ConnId) {
        let Some(conn) = self.conn(id) else { return };
        if conn.outstanding > 0 || !conn.is_ending() {
            return;
        }
        let conn = self.conns[id.index()].take();
        if let Some(Conn { phase: Phase::Ending(why), .. }) = conn {
            self.host.end(id, why);
        }
        if self.rest_until.is_some() {
            // There is a descriptor again.
            self.rest_until = Some(self.host.io.now());
        }
    }

    /// Submits an operation of a connection.
    ///
    /// # Safety
    /// What `entry` names belongs to the connection and stays in place until the operation has
    /// completed.
    unsafe fn submit(&mut self, id: ConnId, kind: Kind, entry: squeue::Entry) {
        let Some(conn) = self.conn(id) else { return };
        conn.outstanding += 1;
        if !kind.is_cancel() {
            *conn.armed(kind) = Armed::Yes;
        }
        let name = Op::new(kind, id.index()).encode();
        // SAFETY: promised by the caller; the connection lives until `outstanding` is zero.
        unsafe { self.ring.push(entry.user_data(name)) };
    }

    /// Cancels the operation of `kind` if there is one; its completion comes in any case.
    fn cancel(&mut self, id: ConnId, kind: Kind) {
        let Some(conn) = self.conn(id) else { return };
        if *conn.armed(kind) == Armed::Yes {
            *conn.armed(kind) = Armed::Cancelling;
            self.submit_cancel(id, Op::new(kind, id.index()));
        }
    }

    fn submit_cancel(&mut self, id: ConnId, op: Op) {
        let entry = opcode::AsyncCancel::new(op.encode()).build();
        // SAFETY: a cancellation names no descriptor and no memory.
        unsafe { self.submit(id, op.counterpart().kind, entry) };
    }
}

/// Completions.
impl<M: Machine> Driver<M> {
    fn complete_all(&mut self) {
        self.ring.take_completions(&mut self.completions);
        while let Some(completion) = self.completions.pop_front() {
            self.complete(completion);
        }
    }

    fn complete(&mut self, completion: Completion) {
        let Some(op) = Op::decode(completion.user_data) else { return };
        match op.kind {
            Kind::Mailbox => {
                self.host.inbox.clear_signal();
                self.mailbox = Armed::No;
                if !self.dropping {
                    self.arm_mailbox();
                }
            }
            Kind::Accept => self.complete_accept(op.index, completion),
            Kind::CancelMailbox | Kind::CancelAccept => {}
            _ => self.complete_conn(op, completion),
        }
    }

    fn complete_conn(&mut self, op: Op, completion: Completion) {
        let Some(conn) = self.conns.get_mut(op.index).and_then(Option::as_mut) else { return };
        let id = conn.id;
        if !completion.is_followed() {
            conn.outstanding -= 1;
            if !op.kind.is_cancel() {
                *conn.armed(op.kind) = Armed::No;
            }
        }
        match op.kind {
            Kind::Recv => self.complete_recv(id, completion),
            Kind::Send => self.complete_send(id, completion),
            Kind::Connect => self.complete_connect(id, completion),
            Kind::Watch => self.complete_watch(id),
            // Too late is no failure: then the operation's own completion is on its way. But one
            // that was just about to renew itself is to be cancelled again.
            _ if completion.result < 0 && *conn.armed(op.kind) == Armed::Cancelling => {
                self.submit_cancel(id, op.counterpart());
            }
            _ => {}
        }
        self.finish(id);
    }

    fn complete_connect(&mut self, id: ConnId, completion: Completion) {
        let Some(conn) = self.conn(id) else { return };
        conn.address = None;
        match completion.outcome() {
            _ if conn.is_ending() => {}
            Ok(_) => {
                conn.phase = Phase::Open;
                self.list(id);
                self.host.machine.connected(&mut self.host.io, id);
                self.carry_out();
            }
            Err(error) => self.end(id, Closed::Error(error)),
        }
    }
}

impl<M: Machine> Drop for Driver<M> {
    /// Waits until the kernel has let go of everything, on every way out: done, failed or
    /// panicking. No verb runs.
    fn drop(&mut self) {
        self.dropping = true;
        let ids: Vec<_> = self.conns.iter().flatten().map(|conn| conn.id).collect();
        ids.into_iter().for_each(|id| self.abort(id));
        (0..self.listeners.len()).for_each(|index| self.cancel_accept(index));
        if self.mailbox == Armed::Yes {
            self.push_cancel(Op::new(Kind::Mailbox, 0));
        }
        let deadline = Instant::now() + CANCEL_TIMEOUT;
        loop {
            self.complete_all();
            if self.ring.in_flight() == 0 {
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.ring.wait(Some(left)).is_err() {
                break;
            }
        }
        tracing::error!("the kernel holds on to cancelled operations: their memory is leaked");
        std::mem::forget(std::mem::take(&mut self.conns));
        std::mem::forget(self.buffers.take());
    }
}
