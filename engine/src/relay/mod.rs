//! The relay: what a DMSG server does with its sessions, as a pure state machine (`wire.md §3`, `§4.7`, `§5.1`).
//!
//! ```text
//!  client A ── session ──┐                          ┌── session ── client B
//!                        ▼                          ▼
//!        Request ─check─▶ Dialing ── Deliver ──▶ Answer
//!                           │  ◀──── Accepted ─────  │
//!                           ▼                        ▼
//!                        Relaying ◀─ Data·Credit ─▶ Relaying        (two halves, one per session)
//! ```
//!
//! One [`Relay`] is one worker core: it owns its sessions and shares with the other cores only the
//! [`Cores`] table (who is where, asked once per dial) and the lanes between them. The two halves of a relayed
//! stream speak to each other in [`StreamMsg`]s, by a direct call on one core and through a lane across two, so
//! that the rules exist once.
//!
//! Invariants:
//! - credit is forwarded, not granted: what one half may receive is what the other half's peer allowed, so the
//!   relay owns no stream buffers. What the far connection cannot take at once waits in its half,
//!   counted against [`RelayLimits`];
//! - an error of a stream ends that stream, an error of a session ends that session, nothing else;
//! - requests and responses pass unchanged; only the session cipher around them is new.
//!
//! Files: `admission.rs` who may begin a handshake · `session.rs` handshake and frames of one connection · `budget.rs`
//! what a peer may send beside data · `dial.rs` requests and responses · `forward.rs` data and credit · `runs.rs` the
//! same for frames that need no decision, by the block · `waiting.rs` what cannot be sent yet · `ends.rs` how streams
//! end · `stream.rs` the two halves · `cores.rs` who is where · `lanes.rs` between cores · `census.rs` who is carried, and
//! how hard · `limits.rs` · `stats.rs`.

mod admission;
mod budget;
mod census;
mod cores;
mod dial;
mod ends;
mod forward;
mod lanes;
mod limits;
mod runs;
mod session;
mod stats;
mod stream;
mod waiting;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed, mpsc::SyncSender},
};

pub use census::ClientInfo;
pub use cores::{Cores, SessionRef};
pub use lanes::{LANE_HIGH_BYTES, LANE_LOW_BYTES};
pub use limits::RelayLimits;
pub use stats::{RefuseReason, SessionEnd, Stats};
pub use stream::{Command, Delivery, StreamMsg, StreamRef};

use crate::{
    identity::{PublicKey, SecretKey},
    io::{Closed, ConnId, Io, Machine},
    mux::StreamId,
    pool::Slice,
    timers::TimerHeap,
};
use admission::{AddressRate, AddressSessions};
use lanes::Outbox;
use runs::Plan;
use session::Session;
use stream::{Half, Stage};
use waiting::SpareQueues;

/// What a relay is built with.
#[derive(Clone)]
pub struct RelayConfig {
    /// The server's identity.
    pub secret_key: SecretKey,
    /// Its bounds.
    pub limits: RelayLimits,
    /// Hears the key of each session that comes up; what does not fit is dropped. For [`Command::MuxHint`].
    pub newcomers: Option<SyncSender<PublicKey>>,
}

/// One worker core of a relay server. Runs on any driver.
pub struct Relay {
    secret_key: SecretKey,
    public_key: PublicKey,
    limits: RelayLimits,
    core: u16,
    cores: Arc<Cores>,
    stats: Arc<Stats>,
    newcomers: Option<SyncSender<PublicKey>>,
    /// By [`ConnId::index`].
    sessions: Vec<Option<Box<Session>>>,
    /// Sessions past their handshake.
    sessions_up: usize,
    /// Connections in the handshake, oldest first.
    unproven: VecDeque<ConnId>,
    rate: AddressRate,
    address_sessions: AddressSessions,
    timers: TimerHeap<TimerKey>,
    /// Bytes that wait in halves of all sessions of this core.
    pending_bytes: usize,
    spare_queues: SpareQueues,
    /// For `runs.rs`, kept for its memory; empty between verbs.
    plan: Plan,
    /// What this verb says to other cores.
    outbox: Outbox,
    /// Sessions that are not read because a lane is full.
    lane_held: Vec<ConnId>,
    /// It was told to end.
    is_stopped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum TimerKey {
    /// Handshake deadline, then the keep-alive tick.
    Session(ConnId),
    /// Deadline of the stage, idle check while relaying.
    Stream(ConnId, StreamId),
}

impl Relay {
    /// A relay core with index `core` in `cores`.
    #[must_use]
    pub fn new(config: RelayConfig, core: u16, cores: Arc<Cores>, stats: Arc<Stats>) -> Self {
        Self {
            rate: AddressRate::new(&config.limits),
            address_sessions: AddressSessions::default(),
            public_key: config.secret_key.public_key(),
            secret_key: config.secret_key,
            limits: config.limits.bounded(),
            newcomers: config.newcomers,
            core,
            outbox: Outbox::new(cores.count()),
            cores,
            stats,
            sessions: Vec::new(),
            sessions_up: 0,
            unproven: VecDeque::new(),
            timers: TimerHeap::new(),
            pending_bytes: 0,
            spare_queues: SpareQueues::new(),
            plan: Plan::new(),
            lane_held: Vec::new(),
            is_stopped: false,
        }
    }

    /// Bytes that wait in this core for slow receivers.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Deadlines that are set: one for each session and connection in the handshake, one for each stream. For tests.
    #[must_use]
    pub fn timer_count(&self) -> usize {
        self.timers.len()
    }

    fn session(&mut self, conn: ConnId) -> Option<&mut Session> {
        self.sessions.get_mut(conn.index())?.as_deref_mut().filter(|s| s.conn == conn)
    }

    fn stop(&mut self, io: &mut Io) {
        self.is_stopped = true;
        let conns: Vec<_> = self.sessions.iter().flatten().map(|session| session.conn).collect();
        for conn in conns {
            self.end_session(io, conn, SessionEnd::Shutdown);
        }
        io.stop();
    }

    /// Does what is due at the end of every verb. `reader` is the session that was read from.
    fn end_verb(&mut self, io: &mut Io, reader: Option<ConnId>) {
        if let (Some(core), Some(conn)) = (self.send_mail(), reader) {
            self.hold_for_lane(io, conn, core);
        }
        if let Some(at) = self.timers.next_at() {
            io.wake_at(at);
        }
    }

    fn obey(&mut self, io: &mut Io, command: Command) {
        match command {
            Command::Deliver(delivery) => self.deliver(io, *delivery),
            Command::Stream { to, from, msg } => self.stream_message(io, to, from, msg),
            Command::Evict(conn) => self.evict(io, conn),
            Command::MuxHint(conn, kind) => self.mux_hint(conn, kind),
            Command::Mail(from) => self.read_mail(io, from),
            Command::LaneHasRoom => self.lane_has_room(io),
            // Whoever asked may have given up.
            Command::Census(reply) => drop(reply.try_send(self.census(io.now()))),
            Command::Probe(reply) => drop(reply.try_send(())),
            Command::Stop => self.stop(io),
        }
    }
}

/// However a core ends: nobody looks for its sessions any more, nobody waits for it, and its share of the counts is given back.
/// After [`Command::Stop`] there is nothing of all that; else its driver failed, or it panicked.
impl Drop for Relay {
    fn drop(&mut self) {
        self.cores.lanes().close(self.core);
        let sessions = std::mem::take(&mut self.sessions);
        if !self.is_stopped {
            tracing::error!(
                core = self.core,
                sessions = self.sessions_up,
                "a relay core has ended without being told to; its sessions are lost"
            );
        }
        self.stats.handshakes.fetch_sub(self.unproven.len() as u64, Relaxed);
        self.stats.sessions.fetch_sub(self.sessions_up as u64, Relaxed);
        self.stats.pending_bytes.fetch_sub(self.pending_bytes as u64, Relaxed);
        self.cores.leave_all(self.core);
        for session in sessions.into_iter().flatten() {
            self.bequeath(*session);
        }
        self.send_mail();
    }
}

impl Machine for Relay {
    type Command = Command;

    fn accepted(&mut self, io: &mut Io, conn: ConnId, peer: SocketAddr) {
        self.session_accepted(io, conn, peer);
        self.end_verb(io, None);
    }

    fn connected(&mut self, _io: &mut Io, _conn: ConnId) {
        // A relay dials nobody.
    }

    fn received(&mut self, io: &mut Io, conn: ConnId, data: Slice) {
        self.session_received(io, conn, data);
        self.end_verb(io, Some(conn));
    }

    fn writable(&mut self, io: &mut Io, conn: ConnId) {
        self.session_writable(io, conn);
        self.end_verb(io, None);
    }

    fn closed(&mut self, io: &mut Io, conn: ConnId, why: Closed) {
        let why = match why {
            Closed::ByPeer => SessionEnd::ClosedByPeer,
            Closed::ByUs | Closed::Error(_) => SessionEnd::ConnectionLost,
        };
        self.end_session(io, conn, why);
        self.end_verb(io, None);
    }

    fn command(&mut self, io: &mut Io, command: Command) {
        self.obey(io, command);
        self.end_verb(io, None);
    }

    fn timeout(&mut self, io: &mut Io) {
        while let Some(key) = self.timers.pop_due(io.now()) {
            match key {
                TimerKey::Session(conn) => self.session_tick(io, conn),
                TimerKey::Stream(conn, id) => self.stream_deadline(io, conn, id),
            }
        }
        self.end_verb(io, None);
    }
}
