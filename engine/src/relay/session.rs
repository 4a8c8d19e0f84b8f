//! One connection: handshake, liveness, and the frames of its multiplexer.
//!
//! ```text
//!   accepted ─▶ Handshake ─ third message ─▶ Up(mux unknown) ─ first byte, or need to speak ─▶ Up(mux) ─▶ ended
//! ```

use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use super::{
    Half, Relay, SessionEnd, SessionRef, Stage, StreamMsg, StreamRef, TimerKey,
    admission::address_prefix, budget::Budget, census::Account, stream::Relaying,
};
use crate::{
    identity::{PublicKey, SecretKey},
    io::{CloseMode, ConnId, Io, SEND_HIGH_BYTES, SEND_LOW_BYTES},
    mux::{Event, Mux, MuxConfig, MuxKind, Role, StreamId, id_map::IdMap},
    noise::{ObjectOpener, Sealer},
    pool::{SendQueue, Slice},
    session::{Established, SessionHandshake, Step},
    timers::Place,
};

/// A peer that has so many answers to its own frames (pings and the like) in its send queue does not read them: we stop
/// reading from it. As much as of data.
const ANSWER_BYTES_MAX: usize = SEND_HIGH_BYTES;

/// smux peers end a session that carries no frame for 30 s and send theirs every 10 s (`wire.md §3.4`).
const SMUX_KEEPALIVE: Duration = Duration::from_secs(10);

pub(super) struct Session {
    pub(super) conn: ConnId,
    pub(super) peer: SocketAddr,
    pub(super) phase: Phase,
    timer: Place,
    last_received: Instant,
    /// Reasons why we do not read from it: one for its own unread control frames, one per stream on hold.
    holds: u32,
    control_hold: bool,
    /// One of the reasons is a full lane.
    pub(super) lane_hold: bool,
}

pub(super) enum Phase {
    Handshake(Box<SessionHandshake>),
    Up(Box<Up>),
}

/// A session after its handshake.
pub(super) struct Up {
    pub(super) key: PublicKey,
    pub(super) sealer: Sealer,
    pub(super) opener: ObjectOpener,
    pub(super) mux: Option<Mux>,
    /// What discovery says it is.
    mux_hint: Option<MuxKind>,
    pub(super) streams: IdMap<Half>,
    /// Halves with something pending, in the order in which they get their turn.
    pub(super) ready: VecDeque<StreamId>,
    /// Bytes that wait in `streams`.
    pub(super) pending_bytes: usize,
    /// Halves with credit that their client has not been told yet.
    pub(super) owing: BTreeSet<StreamId>,
    pub(super) budget: Budget,
    pub(super) account: Account,
    /// Where a plan of frames may have its list of what goes to this session.
    pub(super) plan_list: u16,
    /// Answers of the mux that were queued since the queue was last low.
    answer_bytes: usize,
    streams_max: usize,
    /// Streams of the client whose ACK is held back.
    pub(super) unacked_count: usize,
}

impl Session {
    /// Bytes that wait in its streams.
    pub(super) fn pending_bytes(&self) -> usize {
        match &self.phase {
            Phase::Up(up) => up.pending_bytes,
            Phase::Handshake(_) => 0,
        }
    }
}

impl Up {
    /// The mux. If it is not known yet, we are the first to speak, and it is what discovery says, else yamux, the default
    /// everywhere (`wire.md §3.2`).
    pub(super) fn mux(&mut self) -> &mut Mux {
        self.mux_or(self.mux_hint.unwrap_or(MuxKind::Yamux))
    }

    fn mux_or(&mut self, kind: MuxKind) -> &mut Mux {
        let config = MuxConfig { streams_max: self.streams_max };
        self.mux.get_or_insert_with(|| Mux::new(kind, Role::Server, config))
    }

    /// Sends a keep-alive; what comes back tells the round trip.
    fn ping(&mut self, now: Instant, queue: &mut SendQueue) {
        self.mux();
        if let Some(mux) = &mut self.mux {
            self.account.ping(mux, now, queue);
        }
    }
}

/// The session behind a connection, if its handshake is over.
pub(super) fn up_of(sessions: &mut [Option<Box<Session>>], conn: ConnId) -> Option<&mut Up> {
    let session = sessions.get_mut(conn.index())?.as_deref_mut().filter(|s| s.conn == conn)?;
    match &mut session.phase {
        Phase::Up(up) => Some(up),
        Phase::Handshake(_) => None,
    }
}

impl Relay {
    pub(super) fn up(&mut self, conn: ConnId) -> Option<&mut Up> {
        match &mut self.session(conn)?.phase {
            Phase::Up(up) => Some(up),
            Phase::Handshake(_) => None,
        }
    }

    pub(super) fn half(&mut self, conn: ConnId, id: StreamId) -> Option<&mut Half> {
        self.up(conn)?.streams.get_mut(id)
    }

    pub(super) fn session_accepted(&mut self, io: &mut Io, conn: ConnId, peer: SocketAddr) {
        if !self.rate.admit(peer.ip(), io.now()) {
            self.stats.ended(SessionEnd::HandshakeRate);
            return io.close(conn, CloseMode::Abort);
        }
        let prefix = address_prefix(peer.ip());
        let same = |relay: &Self, c: &ConnId| {
            relay.sessions[c.index()]
                .as_ref()
                .is_some_and(|s| address_prefix(s.peer.ip()) == prefix)
        };
        if self.unproven.iter().filter(|c| same(self, c)).count()
            >= self.limits.handshakes_per_address_max
        {
            self.stats.ended(SessionEnd::HandshakeShed);
            return io.close(conn, CloseMode::Abort);
        }
        if self.unproven.len() >= self.limits.handshakes_max
            && let Some(oldest) = self.unproven.front().copied()
        {
            self.end_session(io, oldest, SessionEnd::HandshakeShed);
        }
        let handshake = SessionHandshake::responder(&self.secret_key, ephemeral(io));
        let session = Session {
            conn,
            peer,
            phase: Phase::Handshake(Box::new(handshake)),
            timer: Place::NONE,
            last_received: io.now(),
            holds: 0,
            control_hold: false,
            lane_hold: false,
        };
        if self.sessions.len() <= conn.index() {
            self.sessions.resize_with(conn.index() + 1, || None);
        }
        self.sessions[conn.index()] = Some(Box::new(session));
        self.unproven.push_back(conn);
        self.stats.handshakes.fetch_add(1, Relaxed);
        self.set_tick(conn, io.now() + self.limits.handshake_timeout);
    }

    pub(super) fn session_received(&mut self, io: &mut Io, conn: ConnId, data: Slice) {
        let Some(session) = self.session(conn) else { return };
        session.last_received = io.now();
        let Phase::Handshake(handshake) = &mut session.phase else {
            return self.mux_input(io, conn, data);
        };
        let mut reply = Vec::new();
        let step = handshake.receive(data, &mut reply);
        if let Some(queue) = io.queue(conn) {
            queue.push_bytes(&reply);
        }
        match step {
            Ok(Step::Pending) => {}
            Ok(Step::Done(established)) => self.session_up(io, conn, *established),
            Err(error) => {
                tracing::debug!(%error, "session handshake failed");
                self.end_session(io, conn, SessionEnd::HandshakeFailed);
            }
        }
    }

    fn session_up(&mut self, io: &mut Io, conn: ConnId, established: Established) {
        let streams_max = self.limits.streams_per_session_max;
        let Some(session) = self.session(conn) else { return };
        let ip = session.peer.ip();
        // The newest session of a key wins, and the older one is closed (wire.md §3.1, G26): it needs no second place.
        if let Some(old) = self.cores.find(&established.remote)
            && old.core == self.core
        {
            self.evict(io, old.conn);
        }
        if self.sessions_up >= self.limits.sessions_max {
            return self.end_session(io, conn, SessionEnd::TooManySessions);
        }
        if !self.address_sessions.enter(ip, self.limits.sessions_per_address_max) {
            return self.end_session(io, conn, SessionEnd::TooManyFromAddress);
        }
        let Some(session) = self.session(conn) else { return };
        let Established { remote, sealer, opener, rest, .. } = established;
        session.phase = Phase::Up(Box::new(Up {
            key: remote,
            sealer,
            opener,
            mux: None,
            mux_hint: None,
            streams: IdMap::default(),
            ready: VecDeque::new(),
            pending_bytes: 0,
            owing: BTreeSet::new(),
            budget: Budget::new(io.now()),
            account: Account::new(io.now()),
            answer_bytes: 0,
            plan_list: 0,
            streams_max,
            unacked_count: 0,
        }));
        self.proven(conn);
        self.sessions_up += 1;
        self.stats.sessions.fetch_add(1, Relaxed);
        self.set_tick(conn, io.now() + SMUX_KEEPALIVE.min(self.limits.ping_interval));
        tracing::debug!(client = %remote.short(), "session up");
        let here = SessionRef { core: self.core, conn };
        if let Some(old) = self.cores.enter(remote, here) {
            self.outbox.push(old.core, super::Command::Evict(old.conn));
        }
        // Only now, as whoever counts sessions goes on to ask for them by their keys.
        self.stats.sessions_total.fetch_add(1, Relaxed);
        if let Some(newcomers) = &self.newcomers {
            // A full channel means that nobody asks discovery fast enough; the peer's own first byte decides as well.
            let _dropped_when_full = newcomers.try_send(remote);
        }
        // Bytes right behind the third message belong to the mux (wire.md §2.4).
        if !rest.is_empty() {
            self.mux_input(io, conn, rest);
        }
    }

    fn proven(&mut self, conn: ConnId) {
        let before = self.unproven.len();
        self.unproven.retain(|c| *c != conn);
        self.stats.handshakes.fetch_sub((before - self.unproven.len()) as u64, Relaxed);
    }

    pub(super) fn evict(&mut self, io: &mut Io, conn: ConnId) {
        if self.session(conn).is_some() {
            self.end_session(io, conn, SessionEnd::Replaced);
        }
    }

    /// Only remembered: if the peer speaks first, its first byte decides (`discovery.md §7.3`).
    pub(super) fn mux_hint(&mut self, conn: ConnId, kind: MuxKind) {
        if let Some(up) = self.up(conn) {
            up.mux_hint = Some(kind);
        }
    }

    fn mux_input(&mut self, io: &mut Io, conn: ConnId, mut data: Slice) {
        let Some(up) = self.up(conn) else { return };
        if up.mux.is_none() {
            match data.first().copied().and_then(MuxKind::sniff) {
                Some(kind) => drop(up.mux_or(kind)),
                None => return self.end_session(io, conn, SessionEnd::MuxViolation),
            }
        }
        loop {
            self.forward_runs(io, conn, &mut data);
            let Some(up) = self.up(conn) else { return };
            let Some(queue) = io.queue(conn) else { return };
            let queued_bytes = queue.len();
            let event = up.mux().next_event(&mut data, queue);
            up.answer_bytes += queue.len() - queued_bytes;
            match event {
                Ok(None) => break,
                Ok(Some(event)) => self.mux_event(io, conn, event),
                Err(error) => {
                    tracing::debug!(client = %up.key.short(), %error, "mux rule broken, closing the session");
                    return self.end_session(io, conn, SessionEnd::MuxViolation);
                }
            }
        }
        if let Some(why) = self.over_budget(conn) {
            return self.end_session(io, conn, why);
        }
        self.watch_answers(io, conn);
    }

    /// Stops reading from a peer that does not read the answers to what it sends.
    fn watch_answers(&mut self, io: &mut Io, conn: ConnId) {
        let queued_bytes = io.queued_bytes(conn);
        let Some(up) = self.up(conn) else { return };
        if queued_bytes <= SEND_LOW_BYTES {
            up.answer_bytes = 0;
        } else if up.answer_bytes.min(queued_bytes) > ANSWER_BYTES_MAX {
            self.hold_control(io, conn);
        }
    }

    fn over_budget(&mut self, conn: ConnId) -> Option<SessionEnd> {
        let (empty_max, control_max) = (
            self.limits.empty_frames_per_interval_max,
            self.limits.control_frames_per_interval_max,
        );
        let up = self.up(conn)?;
        let counters = up.mux().counters();
        up.budget.exceeded(counters, empty_max, control_max)
    }

    fn mux_event(&mut self, io: &mut Io, conn: ConnId, event: Event) {
        match event {
            Event::Data(id, data) => self.client_data(io, conn, id, data),
            Event::Credit(id, bytes) => self.client_credit(io, conn, id, bytes),
            Event::Opened(id) => self.client_opened(io, conn, id),
            Event::Finished(id) => self.client_finished(io, conn, id),
            Event::Reset(id) => self.client_reset(io, conn, id),
            Event::Pong(value) => {
                let now = io.now();
                if let Some(up) = self.up(conn) {
                    up.account.pong(value, now);
                }
            }
            Event::Acked(_) | Event::GoAway => {}
        }
    }

    /// The keep-alive tick of a session, or the end of its handshake's time.
    pub(super) fn session_tick(&mut self, io: &mut Io, conn: ConnId) {
        let (interval, timeout) = (self.limits.ping_interval, self.limits.ping_timeout);
        let now = io.now();
        let Some(session) = self.session(conn) else { return };
        let quiet = now.saturating_duration_since(session.last_received);
        // Nothing is heard of a peer that we do not read from; if that is for its own unread answers, it is dead as well.
        let reading = session.holds == 0 || session.control_hold;
        let Phase::Up(up) = &mut session.phase else {
            return self.end_session(io, conn, SessionEnd::HandshakeTimeout);
        };
        if reading && quiet >= interval + timeout {
            return self.end_session(io, conn, SessionEnd::Silent);
        }
        let counters = up.mux.as_ref().map(Mux::counters).unwrap_or_default();
        let interval_end = up.budget.renew(now, interval, counters);
        let smux = up.mux.as_ref().is_some_and(|m| m.kind() != MuxKind::Yamux);
        let next = if smux || quiet >= interval {
            if let Some(queue) = io.queue(conn) {
                up.ping(now, queue);
            }
            now + if smux { SMUX_KEEPALIVE } else { timeout }
        } else if up.mux.is_none() {
            // Not known yet; an smux client would speak within its keep-alive.
            now + SMUX_KEEPALIVE
        } else {
            if up.account.wants_ping(now, interval)
                && let Some(queue) = io.queue(conn).filter(|queue| queue.is_empty())
            {
                up.ping(now, queue);
            }
            now + (interval - quiet)
        };
        let silent_at = if reading { now - quiet + interval + timeout } else { next };
        self.set_tick(conn, next.min(silent_at).min(interval_end));
    }

    fn set_tick(&mut self, conn: ConnId, at: Instant) {
        let session = self.sessions.get_mut(conn.index()).and_then(Option::as_mut);
        if let Some(session) = session.filter(|session| session.conn == conn) {
            self.timers.set(&mut session.timer, TimerKey::Session(conn), at);
        }
    }

    /// Stops or goes on reading from a session; holds are counted, so that several causes do not undo each other.
    pub(super) fn hold(&mut self, io: &mut Io, conn: ConnId) {
        if let Some(session) = self.session(conn) {
            session.holds += 1;
            io.pause(conn);
        }
    }

    pub(super) fn release(&mut self, io: &mut Io, conn: ConnId) {
        if let Some(session) = self.session(conn) {
            session.holds = session.holds.saturating_sub(1);
            if session.holds == 0 {
                session.last_received = io.now();
                io.resume(conn);
            }
        }
    }

    fn hold_control(&mut self, io: &mut Io, conn: ConnId) {
        let Some(session) = self.session(conn) else { return };
        if !std::mem::replace(&mut session.control_hold, true) {
            // `writable` is only promised for a queue that was found full.
            io.is_full(conn);
            self.hold(io, conn);
        }
    }

    pub(super) fn session_writable(&mut self, io: &mut Io, conn: ConnId) {
        if let Some(session) = self.session(conn)
            && std::mem::take(&mut session.control_hold)
        {
            self.release(io, conn);
            if let Some(up) = self.up(conn) {
                up.answer_bytes = 0;
            }
        }
        self.pay_owed(io, conn);
        self.drain(io, conn);
    }

    /// Ends a session and every stream of it; the other halves hear of it.
    pub(super) fn end_session(&mut self, io: &mut Io, conn: ConnId, why: SessionEnd) {
        if self.session(conn).is_none() {
            return;
        }
        self.proven(conn);
        let Some(mut session) = self.sessions[conn.index()].take() else { return };
        self.timers.cancel(&mut session.timer, TimerKey::Session(conn));
        self.stats.ended(why);
        let abort = matches!(
            why,
            SessionEnd::ClosedByPeer | SessionEnd::ConnectionLost | SessionEnd::Silent
        );
        io.close(conn, if abort { CloseMode::Abort } else { CloseMode::Flush });
        let Phase::Up(up) = session.phase else { return };
        tracing::debug!(client = %up.key.short(), reason = why.label(), "session ended");
        self.sessions_up -= 1;
        self.address_sessions.leave(session.peer.ip());
        self.stats.sessions.fetch_sub(1, Relaxed);
        self.cores.leave(&up.key, SessionRef { core: self.core, conn });
        self.pending_bytes -= up.pending_bytes;
        self.stats.pending_bytes.fetch_sub(up.pending_bytes as u64, Relaxed);
        // In their order, so that a simulation replays.
        for (id, mut half) in up.streams.into_sorted() {
            self.timers.cancel(&mut half.timer, TimerKey::Stream(conn, id));
            self.stats.half_ends(id);
            let from = StreamRef { core: self.core, conn, id };
            if let Some((to, msg)) = farewell(half.stage) {
                self.tell(io, to, from, msg);
            }
        }
    }
}

impl Relay {
    /// Tells other cores of the streams of a session whose core ends.
    pub(super) fn bequeath(&mut self, session: Session) {
        let Phase::Up(up) = session.phase else { return };
        for (id, half) in up.streams.into_sorted() {
            self.stats.half_ends(id);
            let from = StreamRef { core: self.core, conn: session.conn, id };
            if let Some((to, msg)) = farewell(half.stage)
                && to.core != self.core
            {
                self.outbox.push(to.core, super::Command::Stream { to, from, msg });
            }
        }
    }
}

/// What the other half hears when a session ends.
fn farewell(stage: Stage) -> Option<(StreamRef, StreamMsg)> {
    let gone = super::RefuseReason::PeerSessionEnded;
    match stage {
        Stage::Dialing { peer, .. } => Some((peer?, StreamMsg::Reset)),
        Stage::Answer(answer) => Some((answer.initiator?, StreamMsg::Refused(gone))),
        Stage::Relaying(Relaying { peer, .. }) => Some((peer, StreamMsg::Reset)),
        Stage::Request(_) | Stage::Closing => None,
    }
}

/// A fresh ephemeral key out of the driver's randomness.
fn ephemeral(io: &mut Io) -> SecretKey {
    let mut bytes = zeroize::Zeroizing::new([0; SecretKey::LEN]);
    loop {
        io.random(&mut *bytes);
        // One in 2^128 is refused; a source that is refused for ever yields a constant, and then there is no session to be had.
        if let Ok(key) = SecretKey::from_bytes(&*bytes) {
            return key;
        }
    }
}
