//! The client as a state machine: sessions to servers, dials, inbound handshakes, streams.
//!
//! ```text
//!   ClientMachine
//!     servers   key  ─▶ Server    address, back-off, quiet time, the session in use         (servers.rs)
//!     sessions  conn ─▶ Session   Connecting ▶ Handshaking ▶ Quiet ▶ Up { mux, streams }    (session.rs, liveness.rs)
//!                                  streams: Dialing ▶ Open, Inbound ▶ Open                  (streams.rs)
//!     dials     id   ─▶ Dial      tries one server after the other                          (dial.rs, dial/)
//!                                  inbound requests                                         (accept.rs)
//!     peers, tickets              what makes the next handshake cheaper, or needless          (tickets.rs)
//! ```
//!
//! Pure: bytes, commands and the time come in through [`Machine`], and it runs unchanged on
//! io_uring, epoll and in simulated time. Host names, directories and the application's tasks are
//! outside: candidates of a dial come resolved, and streams leave as handles whose pipes the
//! machine feeds.
//!
//! Scope of errors: what is wrong with a stream ends the stream. Only the mux's rules, silence and
//! the connection end a session.

mod accept;
mod backoff;
mod dial;
mod liveness;
mod moving;
mod servers;
mod session;
mod streams;
mod tickets;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

pub use dial::{DialId, DialRequest, Purpose};
pub use liveness::{KEEP_ALIVE_INTERVAL, PONG_TIMEOUT};
pub use moving::MOVE_INTERVAL;
pub use servers::ServerTarget;
pub use session::{QUIET_MAX, QUIET_MIN};
pub use streams::{HOLD_MAX, LINGER};
pub use tickets::TICKET_LIFETIME;

use self::{
    dial::{Dial, Patience},
    servers::Server,
    session::Session,
    tickets::Tickets,
};
use super::{
    config::ClientConfig,
    error::{DialError, SessionEnd},
    link::{EngineLink, StreamKey},
    listener::Listeners,
    pipe::Wakes,
    stats::{Board, ClientStats},
};
use crate::{
    identity::{PublicKey, SecretKey},
    io::{CloseMode, Closed, ConnId, Io, Machine},
    noise::{Nonce, Peers},
    pool::{PortPool, Slice, StreamPool},
    timers::TimerQueue,
};

/// How long closing sessions may take to send their rest when the client closes. Much shorter than
/// the driver's own limit, since `Client::close` promises 2 s with the entry's withdrawal before.
pub const CLOSE_FLUSH: Duration = Duration::from_millis(300);

/// What others may tell the machine.
#[derive(Debug)]
pub enum Command {
    /// The servers to hold sessions with; replaces the list before.
    Servers(Vec<ServerTarget>),
    /// Dial a peer, or ask a server for our address.
    Dial(Box<DialRequest>),
    /// Nobody waits for this dial any more.
    CancelDial(DialId),
    /// Streams are on the dirty list.
    Wake,
    /// End everything, then stop the driver.
    Close,
}

/// What the machine shares with the handles.
#[derive(Debug)]
pub struct Shared {
    /// Ports of listeners and dialled streams.
    pub ports: PortPool,
    /// The limit of streams.
    pub permits: StreamPool,
    /// Who listens.
    pub listeners: Listeners,
    /// Counters and sessions.
    pub board: Board,
}

impl Shared {
    /// Everything free, nothing counted.
    #[must_use]
    pub fn new(permits: StreamPool) -> Arc<Self> {
        Arc::new(Self {
            ports: PortPool::new(),
            permits,
            listeners: Listeners::default(),
            board: Board::default(),
        })
    }

    /// What is counted.
    #[must_use]
    pub fn stats(&self) -> ClientStats {
        let streams = self.permits.counts();
        ClientStats {
            streams: streams.used,
            streams_peak: streams.used_peak,
            streams_waiting: streams.waiting,
            streams_reclaimed: streams.reclaimed,
            ports_used: self.ports.used_count(),
            ..self.board.snapshot()
        }
    }
}

/// What a deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// Open the sessions that are wanted.
    Maintain,
    /// Look whether another server has much more room.
    Move,
    /// A connection's or handshake's limit, or the end of its quiet time.
    Session(ConnId),
    /// Send a ping.
    KeepAlive(ConnId),
    /// The answer to a ping is overdue.
    Pong(ConnId),
    /// A dial's time is over.
    Dial(DialId),
    /// A try's time is over.
    Try(DialId),
    /// A request waits for long enough to send another beside it.
    Hedge(DialId),
    /// An inbound request is overdue.
    Inbound(StreamKey),
    /// A stream whose handle is gone did not end by itself.
    Linger(StreamKey),
    /// Look whether a stream was idle too long.
    Idle(StreamKey),
    /// A stream's reader has held up its session for too long.
    Hold(StreamKey),
    /// The connections had their time to flush.
    Stop,
}

/// See the module.
pub struct ClientMachine {
    config: ClientConfig,
    key: PublicKey,
    link: Arc<EngineLink>,
    shared: Arc<Shared>,
    timers: TimerQueue<Timer>,
    servers: BTreeMap<PublicKey, Server>,
    sessions: BTreeMap<ConnId, Session>,
    dials: BTreeMap<DialId, Dial>,
    /// Which peers are left alone for a while.
    patience: Patience,
    /// Whom we had handshakes with.
    peers: Peers,
    /// Whom we dial without a handshake, and who dials us so.
    tickets: Tickets,
    /// [`Timer::Move`] is set, since there are more servers than we hold sessions with.
    looks_around: bool,
    /// Empty between verbs.
    wakes: Wakes,
    /// Connections that still flush, once the client closes.
    closing: Option<BTreeSet<ConnId>>,
}

impl ClientMachine {
    /// A machine without servers; [`Command::Servers`] makes it start.
    #[must_use]
    pub fn new(config: ClientConfig, link: Arc<EngineLink>, shared: Arc<Shared>) -> Self {
        Self {
            key: config.secret_key.public_key(),
            config: config.bounded(),
            link,
            shared,
            timers: TimerQueue::new(),
            servers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            dials: BTreeMap::new(),
            patience: Patience::default(),
            peers: Peers::default(),
            tickets: Tickets::default(),
            looks_around: false,
            wakes: Wakes::default(),
            closing: None,
        }
    }

    /// Dials, streams and timers that are held; all zero when nothing is going on. For tests.
    #[must_use]
    pub fn held_counts(&self) -> (usize, usize, usize) {
        let streams = self.sessions.values().filter_map(Session::up).map(|up| up.streams.len());
        (self.dials.len(), streams.sum(), self.timers.len())
    }

    /// Ends every verb.
    fn settle(&mut self, io: &mut Io) {
        self.wakes.wake_all();
        if let Some(at) = self.timers.next_at() {
            io.wake_at(at);
        }
    }

    fn on_timer(&mut self, io: &mut Io, timer: Timer) {
        match timer {
            Timer::Maintain => {
                self.sweep_tickets(io);
                self.maintain(io);
            }
            Timer::Move => self.consider_move(io),
            Timer::Session(conn) => self.session_due(io, conn),
            Timer::KeepAlive(conn) => {
                self.sweep_tickets(io);
                self.keep_alive(io, conn);
            }
            Timer::Pong(conn) => self.pong_due(io, conn),
            Timer::Dial(id) => self.dial_due(io, id),
            Timer::Try(id) => self.try_due(io, id),
            Timer::Hedge(id) => self.hedge_due(io, id),
            Timer::Inbound(key) => self.refuse(io, key, "timed_out"),
            Timer::Linger(key) => self.linger_due(io, key),
            Timer::Idle(key) => self.idle_due(io, key),
            Timer::Hold(key) => self.hold_due(io, key),
            Timer::Stop => self.stop(io),
        }
    }

    fn close(&mut self, io: &mut Io) {
        if self.closing.is_some() {
            return;
        }
        self.shared.listeners.close();
        let conns: BTreeSet<ConnId> = self.sessions.keys().copied().collect();
        self.closing = Some(conns.clone());
        for id in self.dials.keys().copied().collect::<Vec<_>>() {
            self.fail_dial(io, id, DialError::Closed);
        }
        for conn in conns {
            self.say_go_away(io, conn);
            self.end_session(io, conn, SessionEnd::ClientClosed, Some(CloseMode::Flush));
        }
        self.timers = TimerQueue::new();
        self.timers.set(Timer::Stop, io.now() + CLOSE_FLUSH);
        self.stop_when_flushed(io);
    }

    /// The time to flush is over.
    fn stop(&mut self, io: &mut Io) {
        for conn in self.closing.iter().flatten() {
            io.close(*conn, CloseMode::Abort);
        }
        io.stop();
    }

    fn stop_when_flushed(&self, io: &mut Io) {
        if self.closing.as_ref().is_some_and(BTreeSet::is_empty) {
            io.stop();
        }
    }

    fn sweep_tickets(&mut self, io: &Io) {
        let left = self.tickets.sweep(io.now());
        self.shared.board.tickets.store(left, Ordering::Relaxed);
    }

    fn nonce(io: &mut Io) -> Nonce {
        let mut nonce = Nonce::default();
        io.random(&mut nonce);
        nonce
    }

    /// A key pair for one handshake.
    fn ephemeral(io: &mut Io) -> SecretKey {
        let mut bytes = zeroize::Zeroizing::new([0; SecretKey::LEN]);
        loop {
            io.random(&mut *bytes);
            // Fails for about one draw in 2^128.
            if let Ok(key) = SecretKey::from_bytes(&*bytes) {
                return key;
            }
        }
    }
}

/// However the machine ends, nobody waits for it any more. Dials end with their reply channels.
impl Drop for ClientMachine {
    fn drop(&mut self) {
        self.wakes.wake_all();
        self.shared.listeners.close();
        for (conn, session) in std::mem::take(&mut self.sessions) {
            self.abandon(conn, session);
        }
        self.shared.board.sessions.send_replace(Vec::new());
        self.shared.board.stopped.send_replace(true);
    }
}

impl Machine for ClientMachine {
    type Command = Command;

    fn accepted(&mut self, io: &mut Io, conn: ConnId, _peer: SocketAddr) {
        // A client has no listener; a driver that hands it a connection is told so by the
        // connection's end.
        io.close(conn, CloseMode::Abort);
    }

    fn connected(&mut self, io: &mut Io, conn: ConnId) {
        self.begin_handshake(io, conn);
        self.settle(io);
    }

    fn received(&mut self, io: &mut Io, conn: ConnId, data: Slice) {
        self.session_received(io, conn, data);
        self.settle(io);
    }

    fn writable(&mut self, io: &mut Io, conn: ConnId) {
        self.session_writable(io, conn);
        self.settle(io);
    }

    fn closed(&mut self, io: &mut Io, conn: ConnId, why: Closed) {
        self.session_closed(io, conn, &why);
        if let Some(conns) = &mut self.closing {
            conns.remove(&conn);
            self.stop_when_flushed(io);
        }
        self.settle(io);
    }

    fn command(&mut self, io: &mut Io, command: Command) {
        match command {
            Command::Servers(targets) => self.set_servers(io, targets),
            Command::Dial(request) => self.dial(io, *request),
            Command::CancelDial(id) => self.cancel_dial(io, id),
            Command::Wake => self.drain_marked(io),
            Command::Close => self.close(io),
        }
        self.settle(io);
    }

    fn timeout(&mut self, io: &mut Io) {
        let now = io.now();
        while let Some(timer) = self.timers.pop_due(now) {
            self.on_timer(io, timer);
        }
        self.settle(io);
    }
}
