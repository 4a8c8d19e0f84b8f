//! Dialling a peer, or asking a server for our address (`wire.md §4`, `§5.1`; `discovery.md §8.2`).
//!
//! ```text
//!            ┌───────────── next candidate ◀───────── the try failed ─────────────┐
//!            ▼                                                                    │
//!   choose ─▶ no session yet: wait for one ─▶ send the request ─▶ wait for the response ─▶ stream
//!        └──▶ nobody left: Refused, Unreachable
//! ```
//!
//! Candidates are tried one after the other. A request that is not answered soon has a second one beside it, through another
//! session (`hedge.rs`).
//! Order: sessions that are up, lowest round trip first, but behind the others those through which the peer failed within a
//! minute, and last those whose server is silent (`liveness.rs`); then at most [`CONNECTS_MAX`] servers without one; servers
//! through which the peer failed just now, last of all (`patience.rs`). A port is taken only when there is a session to use it
//! on, so that dials before the first session hold none. On a session, destinations take turns (`turns.rs`).

mod attempt;
mod ending;
mod hedge;
mod patience;
mod turns;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use self::hedge::Beside;
pub(super) use self::{patience::Patience, turns::Turns};
use super::{ClientMachine, ServerTarget, Session, Timer, servers::draw};
use crate::{
    client::{
        error::{DialError, DialPhase, SessionEnd, Tries, TryCause},
        lease::Lease,
        link::StreamKey,
        stream::Stream,
    },
    identity::PublicKey,
    io::{ConnId, Io},
    noise::{Handshake, Resumption},
    wire::{Addr, Port},
};

/// New sessions one dial may ask for.
const CONNECTS_MAX: usize = 2;

/// Unacknowledged streams of ours at one server; dials beyond wait for an ACK, which servers give at once. A yamux peer
/// resets what exceeds its backlog, which is 256 in every Go version but the newest.
const UNACKED_MAX: usize = 200;

/// The port named in an IP lookup; any but 0 would do (`wire.md §5.1`).
const LOOKUP_PORT: Port = Port::MIN;

/// A dial of one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DialId(pub(crate) u64);

/// What a dial is for, and who waits.
#[derive(Debug)]
pub enum Purpose {
    /// A stream to a peer.
    Stream {
        /// Whom to dial.
        to: Addr,
        /// Gets the stream. If nobody waits any more, the stream closes itself.
        reply: oneshot::Sender<Result<Stream, DialError>>,
    },
    /// Our address as a server sees it.
    Address {
        /// Gets the address.
        reply: oneshot::Sender<Result<IpAddr, DialError>>,
    },
}

/// What a dial starts with.
#[derive(Debug)]
pub struct DialRequest {
    /// From [`crate::client::EngineLink::next_dial_id`].
    pub id: DialId,
    /// What for.
    pub purpose: Purpose,
    /// The servers to go through. Empty for an address lookup at any server.
    pub candidates: Vec<ServerTarget>,
    /// Holds the dial's place among the streams, and its port once it has one.
    pub lease: Arc<Lease>,
    /// When the caller's call began.
    pub started: Instant,
    /// When it must be over.
    pub deadline: Instant,
}

/// A dial in progress.
pub(super) struct Dial {
    request: DialRequest,
    tries: Tries,
    tried: BTreeSet<PublicKey>,
    connects_left: usize,
    wait: Wait,
    try_started: Instant,
    /// The second of two requests that are out.
    beside: Option<Beside>,
    /// A session for a second request is on its way to this server.
    seeks: Option<PublicKey>,
}

/// What speaks against a session, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    is_suspect: bool,
    has_failed: bool,
    rtt: Duration,
}

enum Wait {
    Nothing,
    /// Till the peer may be dialled again through a server that is left to try.
    Patience,
    Session(PublicKey),
    Response(Box<Outstanding>),
}

/// A request that was sent.
struct Outstanding {
    key: StreamKey,
    server: PublicKey,
    local: Addr,
    to: Addr,
    req_hash: [u8; 32],
    opening: Opening,
}

/// What the response is to complete.
enum Opening {
    /// Nothing: a server is asked for our address, or the response is there.
    None,
    Handshake {
        noise: Box<Handshake>,
        /// A ticket is offered with it.
        offers: bool,
    },
    Ticket(Resumption),
}

impl Dial {
    /// Where the request goes through `server`.
    fn to(&self, server: PublicKey) -> Addr {
        self.peer().unwrap_or(Addr { key: server, port: LOOKUP_PORT })
    }

    fn peer(&self) -> Option<Addr> {
        match &self.request.purpose {
            Purpose::Stream { to, .. } => Some(*to),
            Purpose::Address { .. } => None,
        }
    }

    /// The server of the current try.
    fn server(&self) -> Option<PublicKey> {
        match &self.wait {
            Wait::Nothing | Wait::Patience => None,
            Wait::Session(server) => Some(*server),
            Wait::Response(outstanding) => Some(outstanding.server),
        }
    }

    /// Whether the request at hand is by ticket, so that there is a handshake left to try.
    fn is_by_ticket(&self) -> bool {
        matches!(&self.wait, Wait::Response(outstanding) if matches!(outstanding.opening, Opening::Ticket(_)))
    }

    fn untried(&self) -> impl Iterator<Item = &ServerTarget> {
        self.request.candidates.iter().filter(|target| !self.tried.contains(&target.key))
    }
}

/// Starting, choosing.
impl ClientMachine {
    pub(super) fn dial(&mut self, io: &mut Io, mut request: DialRequest) {
        let id = request.id;
        if matches!(request.purpose, Purpose::Address { .. }) && request.candidates.is_empty() {
            request.candidates = self.servers.values().map(|s| s.target.clone()).collect();
        }
        self.timers.set(Timer::Dial(id), request.deadline);
        let dial = Dial {
            tries: Tries::new(),
            tried: BTreeSet::new(),
            connects_left: CONNECTS_MAX,
            wait: Wait::Nothing,
            try_started: io.now(),
            beside: None,
            seeks: None,
            request,
        };
        self.dials.insert(id, dial);
        if self.closing.is_some() {
            return self.fail_dial(io, id, DialError::Closed);
        }
        self.advance_dial(io, id);
    }

    /// Goes on with the next candidate.
    fn advance_dial(&mut self, io: &mut Io, id: DialId) {
        while let Some(target) = self.choose(io, id) {
            let key = target.key;
            let session = self.usable_session(key);
            let Some(dial) = self.dials.get_mut(&id) else { return };
            dial.tried.insert(key);
            dial.try_started = io.now();
            dial.wait = Wait::Session(key);
            if session.is_none() {
                dial.connects_left -= 1;
            }
            self.limit_try(io, id);
            match session {
                Some(conn) => self.try_session(io, id, conn),
                None => self.want_session(io, target),
            }
            // What could not even start has failed already, and the next candidate is due.
            if self.dials.get(&id).is_none_or(|dial| !matches!(dial.wait, Wait::Nothing)) {
                return;
            }
        }
        match self.next_chance(io, id) {
            Some(at) => {
                if let Some(dial) = self.dials.get_mut(&id) {
                    dial.wait = Wait::Patience;
                }
                self.timers.set(Timer::Try(id), at);
            }
            None => self.exhausted(io, id),
        }
    }

    /// When the first candidate may be tried that is passed over for now.
    fn next_chance(&self, io: &Io, id: DialId) -> Option<Instant> {
        let dial = self.dials.get(&id)?;
        let can_be_tried = |target: &&ServerTarget| {
            dial.connects_left > 0 || self.usable_session(target.key).is_some()
        };
        let until = |target: &ServerTarget| self.patience_with(io, dial, target.key);
        dial.untried().filter(can_be_tried).filter_map(until).min()
    }

    /// Until when the dial's peer is not to be tried through `server`.
    fn patience_with(&self, io: &Io, dial: &Dial, server: PublicKey) -> Option<Instant> {
        self.patience.until(dial.peer()?, server, io.now())
    }

    /// The session to try next, of those that are up.
    fn best_session(&self, io: &Io, id: DialId) -> Option<(Rank, ServerTarget)> {
        let now = io.now();
        let dial = self.dials.get(&id)?;
        let due = |target: &&ServerTarget| self.patience_with(io, dial, target.key).is_none();
        let held = dial.untried().filter(due).filter_map(|target| {
            let conn = self.usable_session(target.key)?;
            let up = self.sessions.get(&conn)?.up()?;
            let has_failed =
                dial.peer().is_some_and(|to| self.patience.has_failed(to, target.key, now));
            let rtt = up.gauge.rtt().unwrap_or(Duration::MAX);
            Some((Rank { is_suspect: up.is_suspect, has_failed, rtt }, target))
        });
        held.min_by_key(|(rank, _)| *rank).map(|(rank, target)| (rank, target.clone()))
    }

    /// The next candidate: the best session, or else a server to open one with.
    fn choose(&self, io: &mut Io, id: DialId) -> Option<ServerTarget> {
        if let Some((_, target)) = self.best_session(io, id) {
            return Some(target);
        }
        self.choose_server(io, id)
    }

    /// A server to open a session with, drawn by its room.
    fn choose_server(&self, io: &mut Io, id: DialId) -> Option<ServerTarget> {
        let now = io.now();
        let dial = self.dials.get(&id)?;
        let due = |target: &&ServerTarget| {
            self.patience_with(io, dial, target.key).is_none()
                && self.usable_session(target.key).is_none()
        };
        if dial.connects_left == 0 {
            return None;
        }
        let due: Vec<_> = dial.untried().filter(due).collect();
        let mut best: Option<((bool, bool, f64), &ServerTarget)> = None;
        for target in due {
            let server = self.servers.get(&target.key);
            let on_its_way = server.is_some_and(|server| server.session.is_some());
            let ready = server.is_none_or(|server| server.may_dial(now));
            let rank = (on_its_way, ready, draw(io, target.weight));
            if best.is_none_or(|(other, _)| rank > other) {
                best = Some((rank, target));
            }
        }
        best.map(|(_, target)| target.clone())
    }

    /// The session with this server, if it is up and takes streams.
    fn usable_session(&self, key: PublicKey) -> Option<ConnId> {
        let conn = self.servers.get(&key)?.session?;
        self.sessions.get(&conn)?.up().filter(|up| !up.draining).map(|_| conn)
    }

    /// A try may take `try_timeout`, or what is left of the dial if there is nobody else to try and no other way.
    fn limit_try(&mut self, io: &Io, id: DialId) {
        let Some(dial) = self.dials.get(&id) else { return };
        let limit = io.now() + self.config.try_timeout;
        let may_go_on = dial.untried().next().is_some() || dial.is_by_ticket();
        if may_go_on && limit < dial.request.deadline {
            self.timers.set(Timer::Try(id), limit);
        } else {
            self.timers.cancel(Timer::Try(id));
        }
    }

    /// Makes sure that a session with the server is on its way, as soon as its back-off allows.
    fn want_session(&mut self, io: &mut Io, target: ServerTarget) {
        self.know_server(target).wanted = true;
        self.maintain(io);
    }

    /// A session came up: dials that waited for it go on.
    pub(super) fn advance_waiting(&mut self, io: &mut Io, server: PublicKey) {
        let Some(conn) = self.usable_session(server) else { return };
        for id in self.waiting_for(server) {
            self.try_session(io, id, conn);
            self.resume_if_failed(io, id);
        }
    }

    /// No session with this server: dials that waited for it try another.
    pub(super) fn fail_waiting(&mut self, io: &mut Io, server: PublicKey, why: &SessionEnd) {
        if *why == SessionEnd::ClosedAtOnce
            && self.servers.get(&server).is_some_and(|s| s.retry_at.is_none())
        {
            // It is dialled again at once; whoever waited goes on waiting.
            if let Some(entry) = self.servers.get_mut(&server) {
                entry.wanted = true;
            }
            return;
        }
        if let Some(entry) = self.servers.get_mut(&server) {
            entry.wanted = false;
        }
        for id in self.waiting_for(server) {
            self.fail_try(io, id, TryCause::Session(why.clone()));
        }
    }

    /// A session takes no new streams: dials that wait for one with its server need another.
    pub(super) fn want_successor(&mut self, server: PublicKey) {
        if !self.waiting_for(server).is_empty()
            && let Some(entry) = self.servers.get_mut(&server)
        {
            entry.wanted = true;
        }
    }

    fn phase(&self, dial: &Dial) -> DialPhase {
        match dial.wait {
            Wait::Response(_) => DialPhase::Response,
            Wait::Patience => DialPhase::Patience,
            Wait::Session(server) if self.usable_session(server).is_some() => DialPhase::Turn,
            _ => DialPhase::Session,
        }
    }

    fn waiting_for(&self, server: PublicKey) -> Vec<DialId> {
        let waits = |dial: &Dial| matches!(dial.wait, Wait::Session(key) if key == server);
        self.dials.iter().filter(|(_, dial)| waits(dial)).map(|(&id, _)| id).collect()
    }

    /// A dial was acknowledged, answered or given up, so that one that waited may go out.
    pub(super) fn advance_turns(&mut self, io: &mut Io, conn: ConnId) {
        while let Some(up) = self.sessions.get_mut(&conn).and_then(Session::up_mut)
            && !up.draining
            && up.mux.unacked_count() < UNACKED_MAX
            && let Some(id) = up.turns.next()
        {
            let server = up.gauge.server;
            // One whose time is over ends in this very moment, and asks nobody any more.
            if let Some(dial) = self.dials.get_mut(&id)
                && matches!(dial.wait, Wait::Session(key) if key == server)
                && dial.request.deadline > io.now()
            {
                // Its try begins now; waiting for a turn is no fault of the peer's.
                dial.try_started = io.now();
                self.limit_try(io, id);
                self.try_session(io, id, conn);
                self.resume_if_failed(io, id);
            }
        }
    }

    fn resume_if_failed(&mut self, io: &mut Io, id: DialId) {
        if self.dials.get(&id).is_some_and(|dial| matches!(dial.wait, Wait::Nothing)) {
            self.advance_dial(io, id);
        }
    }
}
