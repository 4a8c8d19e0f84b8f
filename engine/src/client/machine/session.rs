//! One session with one server: connection, handshake, quiet time, keep-alive (`wire.md §2.4`,
//! `§3`).
//!
//! ```text
//!   Connecting ──connected──▶ Handshaking ──message 3 sent──▶ Quiet ──quiet time over──▶ Up
//!      10 s                       5 s                           │ or the server's first mux byte
//!                                                               └─ closed here: dial again, twice as quiet
//! ```
//!
//! Servers of 2024 drop a session whose first mux byte arrives with the third handshake message in
//! one read. So nothing is sent in `Quiet`, and a server that closes at once is dialled again with
//! the time doubled.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tracing::{debug, info};

use super::{ClientMachine, DialId, Timer, dial::Turns, servers::Ended, streams::Slot};
use crate::{
    client::{
        error::{SessionEnd, StreamEnd, TryCause},
        link::StreamKey,
        stats::SessionGauge,
    },
    identity::PublicKey,
    io::{CloseMode, Closed, ConnId, Io, SEND_HIGH_BYTES},
    mux::{Event, Mux, MuxConfig, Role, StreamId},
    noise::{ObjectOpener, Sealer},
    pool::Slice,
    session::{Established, SessionHandshake, Step},
};

/// Limit of a TCP connect.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Limit of the whole session handshake, the same as every Go version's.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Silence after the third handshake message at first: a round trip and some slack.
pub const QUIET_MIN: Duration = Duration::from_millis(100);

/// Silence at most: four doublings.
pub const QUIET_MAX: Duration = Duration::from_millis(1600);

/// A session that the server closes within this time after its quiet time, without a word, was
/// closed at once.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Unsent bytes at which the connection is no longer read. Our own data stops far below; only
/// answers to pings and resets go on, so whoever gets here floods us with control frames and does
/// not read the answers.
const CONTROL_FLOOD_BYTES: usize = 4 * SEND_HIGH_BYTES;

/// A connection to a server.
pub(super) struct Session {
    pub(super) server: PublicKey,
    pub(super) address: SocketAddr,
    phase: Phase,
}

enum Phase {
    Connecting,
    Handshaking(Box<SessionHandshake>),
    Quiet(Box<Established>),
    Up(Box<Up>),
}

/// What an established session has.
pub(super) struct Up {
    pub(super) mux: Mux,
    pub(super) sealer: Sealer,
    pub(super) opener: ObjectOpener,
    pub(super) gauge: Arc<SessionGauge>,
    pub(super) streams: BTreeMap<StreamId, Slot>,
    /// Streams that wait for the connection's send queue.
    pub(super) blocked: VecDeque<StreamId>,
    /// Dials that are out, and those that wait for earlier ones to be answered.
    pub(super) turns: Turns,
    /// Inbound handshakes in progress.
    pub(super) inbound_count: usize,
    /// Streams for which the session is not read.
    pub(super) holds: usize,
    /// The server takes no new streams.
    pub(super) draining: bool,
    /// Another session has taken its place (`moving.rs`).
    pub(super) leaving: bool,
    /// A request was not answered, and nothing else was heard since.
    pub(super) is_suspect: bool,
    pub(super) idle_since: Instant,
    pub(super) since: Instant,
    pub(super) heard_at: Option<Instant>,
    pub(super) ping_sent: Option<(u32, Instant)>,
    pub(super) next_ping: u32,
}

impl Session {
    pub(super) fn up(&self) -> Option<&Up> {
        match &self.phase {
            Phase::Up(up) => Some(up),
            _ => None,
        }
    }

    pub(super) fn up_mut(&mut self) -> Option<&mut Up> {
        match &mut self.phase {
            Phase::Up(up) => Some(up),
            _ => None,
        }
    }
}

/// From dial to up.
impl ClientMachine {
    pub(super) fn begin_session(
        &mut self,
        io: &mut Io,
        server: PublicKey,
        address: SocketAddr,
    ) -> ConnId {
        let conn = io.connect(address);
        self.sessions.insert(conn, Session { server, address, phase: Phase::Connecting });
        self.timers.set(Timer::Session(conn), io.now() + CONNECT_TIMEOUT);
        conn
    }

    pub(super) fn begin_handshake(&mut self, io: &mut Io, conn: ConnId) {
        let ephemeral = Self::ephemeral(io);
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let mut out = Vec::new();
        let handshake = SessionHandshake::initiator(
            &self.config.secret_key,
            session.server,
            ephemeral,
            &mut out,
        );
        session.phase = Phase::Handshaking(Box::new(handshake));
        self.timers.set(Timer::Session(conn), io.now() + HANDSHAKE_TIMEOUT);
        if let Some(queue) = io.queue(conn) {
            queue.push_bytes(&out);
        }
    }

    pub(super) fn session_received(&mut self, io: &mut Io, conn: ConnId, data: Slice) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        match &mut session.phase {
            Phase::Connecting => {}
            Phase::Handshaking(handshake) => {
                let mut out = Vec::new();
                match handshake.receive(data, &mut out) {
                    Ok(step) => {
                        if let Some(queue) = io.queue(conn) {
                            queue.push_bytes(&out);
                        }
                        if let Step::Done(established) = step {
                            self.begin_quiet(io, conn, established);
                        }
                    }
                    Err(error) => {
                        self.end_session(io, conn, error.into(), Some(CloseMode::Abort));
                    }
                }
            }
            // The server speaks mux: it has read our last message, so there is nothing to wait for.
            Phase::Quiet(_) => {
                self.session_up(io, conn);
                self.mux_received(io, conn, data);
            }
            Phase::Up(_) => self.mux_received(io, conn, data),
        }
    }

    fn begin_quiet(&mut self, io: &mut Io, conn: ConnId, established: Box<Established>) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let quiet = self.servers.get(&session.server).map_or(QUIET_MIN, |server| server.quiet);
        session.phase = Phase::Quiet(established);
        self.timers.set(Timer::Session(conn), io.now() + quiet);
    }

    /// The deadline of whatever phase the session is in.
    pub(super) fn session_due(&mut self, io: &mut Io, conn: ConnId) {
        let end = match self.sessions.get(&conn).map(|session| &session.phase) {
            Some(Phase::Connecting) => SessionEnd::ConnectTimedOut(CONNECT_TIMEOUT),
            Some(Phase::Handshaking(_)) => SessionEnd::HandshakeTimedOut(HANDSHAKE_TIMEOUT),
            Some(Phase::Quiet(_)) => return self.session_up(io, conn),
            Some(Phase::Up(_)) | None => return,
        };
        self.end_session(io, conn, end, Some(CloseMode::Abort));
    }

    fn session_up(&mut self, io: &mut Io, conn: ConnId) {
        self.timers.cancel(Timer::Session(conn));
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let Phase::Quiet(established) = std::mem::replace(&mut session.phase, Phase::Connecting)
        else {
            return;
        };
        let (server, address) = (session.server, session.address);
        let limits = MuxConfig {
            streams_max: self.config.streams_per_session_max.min(self.config.streams_max),
        };
        session.phase = Phase::Up(Box::new(Up {
            mux: Mux::new(self.config.mux, Role::Client, limits),
            sealer: established.sealer,
            opener: established.opener,
            gauge: SessionGauge::new(server, address),
            streams: BTreeMap::new(),
            blocked: VecDeque::new(),
            turns: Turns::default(),
            inbound_count: 0,
            holds: 0,
            draining: false,
            leaving: false,
            is_suspect: false,
            idle_since: io.now(),
            since: io.now(),
            heard_at: None,
            ping_sent: None,
            next_ping: 0,
        }));
        info!(server = %server.short(), %address, "session is up");
        self.complete_move(server);
        self.show_sessions();
        self.keep_alive(io, conn);
        self.advance_waiting(io, server);
    }
}

/// Up.
impl ClientMachine {
    fn mux_received(&mut self, io: &mut Io, conn: ConnId, mut data: Slice) {
        let now = io.now();
        loop {
            let Some(up) = self.sessions.get_mut(&conn).and_then(Session::up_mut) else { return };
            let Some(queue) = io.queue(conn) else { return };
            up.heard_at = Some(now);
            up.is_suspect = false;
            match up.mux.next_event(&mut data, queue) {
                Ok(Some(event)) => self.on_event(io, conn, event),
                Ok(None) => break,
                Err(error) => {
                    return self.end_session(io, conn, error.into(), Some(CloseMode::Flush));
                }
            }
        }
        if io.queued_bytes(conn) > CONTROL_FLOOD_BYTES && io.is_full(conn) {
            io.pause(conn);
        }
    }

    fn on_event(&mut self, io: &mut Io, conn: ConnId, event: Event) {
        match event {
            Event::Opened(id) => self.inbound_opened(io, (conn, id)),
            Event::Acked(_) => self.advance_turns(io, conn),
            Event::Data(id, data) => self.stream_data(io, (conn, id), data),
            Event::Credit(id, _) => self.pump(io, (conn, id)),
            Event::Finished(id) => self.stream_finished(io, (conn, id)),
            Event::Reset(id) => self.stream_reset(io, (conn, id)),
            Event::Pong(value) => self.pong(io, conn, value),
            Event::GoAway => self.drain_session(io, conn),
        }
    }

    pub(super) fn session_writable(&mut self, io: &mut Io, conn: ConnId) {
        let up = self.sessions.get(&conn).and_then(Session::up);
        if up.is_none_or(|up| up.holds == 0) {
            io.resume(conn);
        }
        self.pump_blocked(io, conn);
    }

    /// The server takes no new streams: the session ends with its last one, and another takes its
    /// place now.
    fn drain_session(&mut self, io: &mut Io, conn: ConnId) {
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let key = session.server;
        let Some(up) = session.up_mut().filter(|up| !up.draining) else { return };
        debug!(server = %key.short(), "the server sent go-away");
        if up.streams.is_empty() {
            return self.end_session(io, conn, SessionEnd::ClosedByServer, Some(CloseMode::Flush));
        }
        up.draining = true;
        // Dials that waited for their turn here go on when the successor is up.
        up.turns.send_away();
        let why = SessionEnd::ClosedByServer;
        self.note_ended(io, key, &Ended { conn, why: &why, uptime: None, is_noted: false });
        self.want_successor(key);
        self.show_sessions();
        self.maintain(io);
    }

    pub(super) fn say_go_away(&mut self, io: &mut Io, conn: ConnId) {
        if let Some(up) = self.sessions.get_mut(&conn).and_then(Session::up_mut)
            && let Some(queue) = io.queue(conn)
        {
            up.mux.go_away(queue);
        }
    }

    /// Shows the sessions that are up to whoever watches.
    fn show_sessions(&self) {
        let up =
            self.sessions.values().filter_map(Session::up).filter(|up| !up.draining && !up.leaving);
        self.shared.board.sessions.send_replace(up.map(|up| Arc::clone(&up.gauge)).collect());
    }
}

/// The end.
impl ClientMachine {
    pub(super) fn session_closed(&mut self, io: &mut Io, conn: ConnId, why: &Closed) {
        let Some(session) = self.sessions.get(&conn) else { return };
        let hung_up = match why {
            Closed::ByPeer | Closed::ByUs => true,
            Closed::Error(error) => matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::ConnectionAborted
            ),
        };
        let text = || match why {
            Closed::Error(error) => error.to_string(),
            Closed::ByPeer | Closed::ByUs => "closed".to_owned(),
        };
        let end = match &session.phase {
            Phase::Connecting => SessionEnd::ConnectFailed(text()),
            Phase::Handshaking(_) if hung_up => SessionEnd::ClosedInHandshake,
            Phase::Quiet(_) if hung_up => SessionEnd::ClosedAtOnce,
            Phase::Up(up) if hung_up => {
                let silent = up.heard_at.is_none() && io.now().duration_since(up.since) < AT_ONCE;
                if silent { SessionEnd::ClosedAtOnce } else { SessionEnd::ClosedByServer }
            }
            _ => SessionEnd::Broken(text()),
        };
        self.end_session(io, conn, end, None);
    }

    /// Ends a session with all its streams; their ports are free when this returns.
    pub(super) fn end_session(
        &mut self,
        io: &mut Io,
        conn: ConnId,
        why: SessionEnd,
        close: Option<CloseMode>,
    ) {
        let Some(session) = self.sessions.remove(&conn) else { return };
        for timer in [Timer::Session(conn), Timer::KeepAlive(conn), Timer::Pong(conn)] {
            self.timers.cancel(timer);
        }
        if let Some(mode) = close {
            io.close(conn, mode);
        }
        let key = session.server;
        let (mut uptime, mut broken, mut is_noted) = (None, Vec::new(), false);
        if let Phase::Up(up) = session.phase {
            // With its go-away.
            is_noted = up.draining;
            uptime = Some(io.now().duration_since(up.since));
            broken = self.end_streams(conn, *up, &why);
        }
        let was_in_use = self.note_ended(io, key, &Ended { conn, why: &why, uptime, is_noted });
        self.show_sessions();
        for (id, key) in broken {
            self.fail_request(io, id, key, TryCause::Session(why.clone()));
        }
        // Nobody waits for a session that a go-away has ended before, but perhaps for the one that follows it.
        if was_in_use {
            self.fail_waiting(io, key, &why);
        }
        self.maintain(io);
    }

    /// Ends the streams of a session whose driver is gone.
    pub(super) fn abandon(&mut self, conn: ConnId, session: Session) {
        if let Phase::Up(up) = session.phase {
            self.end_streams(conn, *up, &SessionEnd::ClientClosed);
        }
    }

    /// Ends the streams of a session, and returns the dials whose request was out on it. Those that wait for their turn wait
    /// for any session with the server, or have gone on to another since.
    fn end_streams(&mut self, conn: ConnId, up: Up, why: &SessionEnd) -> Vec<(DialId, StreamKey)> {
        up.gauge.streams.store(0, Ordering::Relaxed);
        let mut dials = Vec::new();
        for (id, slot) in up.streams {
            self.cancel_stream_timers((conn, id));
            match slot {
                Slot::Open(open) => open
                    .pipe
                    .end(StreamEnd::Session { server: up.gauge.server.short(), why: why.clone() }),
                Slot::Dialing { dial, .. } => dials.push((dial, (conn, id))),
                Slot::Inbound { .. } => {}
            }
        }
        dials
    }
}
