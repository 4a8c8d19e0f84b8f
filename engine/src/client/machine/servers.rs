//! Which servers to hold sessions with, and when to dial them (`discovery.md §6`).
//!
//! A server has at most one session in use. It is dialled when fewer than `min_sessions` are held,
//! or when a dial waits for it, and in either case not before its back-off allows.

use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use tracing::{debug, info, warn};

use super::{
    ClientMachine, Session, Timer,
    backoff::{Backoff, LONELY_MAX, jittered},
    session::QUIET_MAX,
    session::QUIET_MIN,
};
use crate::{
    client::error::SessionEnd,
    identity::PublicKey,
    io::{ConnId, Io},
};

/// A session that stayed up this long was a good one: the back-off starts over.
pub(super) const SETTLED: Duration = Duration::from_secs(30);

/// A session dial that takes longer than this no longer keeps another server from being dialled
/// beside it.
const HEDGE: Duration = Duration::from_secs(1);

/// So many young sessions closed by one server …
const EVICTIONS_MAX: usize = 3;

/// … within this time mean that somebody else uses our key.
const EVICTION_WINDOW: Duration = Duration::from_secs(60);

/// A server with its addresses, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTarget {
    /// Its identity.
    pub key: PublicKey,
    /// Its addresses, tried in turn; none if its name did not resolve.
    pub addresses: Vec<SocketAddr>,
    /// Weight for choosing (free capacity); 1 when unknown.
    pub weight: u32,
}

/// What is known of one server.
pub(super) struct Server {
    pub(super) target: ServerTarget,
    /// In the list of servers, not only a candidate of some dial.
    listed: bool,
    /// A dial waits for it.
    pub(super) wanted: bool,
    /// The session in use, or on its way.
    pub(super) session: Option<ConnId>,
    /// The server from which a session is moved here.
    pub(super) replaces: Option<PublicKey>,
    /// When the session dial began.
    dialled_at: Option<Instant>,
    /// Not dialled before this.
    pub(super) retry_at: Option<Instant>,
    backoff: Backoff,
    pub(super) quiet: Duration,
    next_address: usize,
    /// When young sessions were closed by the server.
    evictions: VecDeque<Instant>,
}

impl Server {
    pub(super) fn new(target: ServerTarget) -> Self {
        Self {
            target,
            listed: false,
            wanted: false,
            session: None,
            replaces: None,
            dialled_at: None,
            retry_at: None,
            backoff: Backoff::default(),
            quiet: QUIET_MIN,
            next_address: 0,
            evictions: VecDeque::new(),
        }
    }

    /// Something is new about it that makes another try worthwhile.
    fn forget_failures(&mut self) {
        self.retry_at = None;
        self.backoff.reset();
    }

    pub(super) fn is_listed(&self) -> bool {
        self.listed
    }

    pub(super) fn may_dial(&self, now: Instant) -> bool {
        self.session.is_none() && self.retry_at.is_none_or(|at| at <= now)
    }

    fn address(&mut self) -> Option<SocketAddr> {
        let count = self.target.addresses.len();
        let index = self.next_address.checked_rem(count)?;
        self.next_address = index + 1;
        Some(self.target.addresses[index])
    }

    /// True when the server has now closed [`EVICTIONS_MAX`] young sessions within
    /// [`EVICTION_WINDOW`].
    fn note_eviction(&mut self, now: Instant) -> bool {
        self.evictions.push_back(now);
        while self.evictions.front().is_some_and(|&at| now.duration_since(at) > EVICTION_WINDOW) {
            self.evictions.pop_front();
        }
        let suspected = self.evictions.len() >= EVICTIONS_MAX;
        if suspected {
            self.evictions.clear();
        }
        suspected
    }
}

/// A session that is over, for the server's record.
pub(super) struct Ended<'a> {
    pub(super) conn: ConnId,
    pub(super) why: &'a SessionEnd,
    /// How long it was up; `None` if it never was.
    pub(super) uptime: Option<Duration>,
    /// Its end has been counted before, when the server took leave.
    pub(super) is_noted: bool,
}

impl ClientMachine {
    pub(super) fn set_servers(&mut self, io: &mut Io, targets: Vec<ServerTarget>) {
        let were_listed: BTreeSet<PublicKey> =
            self.servers.values().filter(|s| s.listed).map(|s| s.target.key).collect();
        for server in self.servers.values_mut() {
            server.listed = false;
        }
        for target in targets {
            let server = self.know_server(target);
            server.listed = true;
            if !were_listed.contains(&server.target.key) {
                // It has just registered (again), so it is there now.
                server.forget_failures();
            }
        }
        self.look_around(io);
        self.maintain(io);
    }

    /// Files a server, with the newest of its addresses. A listed server keeps those of the list:
    /// what a peer's entry says of it is no better.
    pub(super) fn know_server(&mut self, target: ServerTarget) -> &mut Server {
        let server = self.servers.entry(target.key).or_insert_with(|| Server::new(target.clone()));
        if !server.listed && !target.addresses.is_empty() && server.target != target {
            if server.target.addresses != target.addresses {
                // What failed was another address.
                server.forget_failures();
                server.next_address = 0;
            }
            server.target = target;
        }
        server
    }

    /// Dials what is wanted, forgets what is not, and asks to be called again when something
    /// becomes due.
    pub(super) fn maintain(&mut self, io: &mut Io) {
        if self.closing.is_some() {
            return;
        }
        let now = io.now();
        // A candidate of some dial is remembered until its back-off is over, and not longer.
        self.servers.retain(|_, server| server.listed || server.wanted || !server.may_dial(now));
        let wanted: Vec<_> = self
            .servers
            .iter()
            .filter(|(_, s)| s.wanted && s.may_dial(now))
            .map(|(&k, _)| k)
            .collect();
        for key in wanted {
            self.connect(io, key);
        }
        while self.held_count(now) < self.sessions_wanted()
            && let Some(key) = self.pick_server(io)
        {
            self.connect(io, key);
        }
        self.timers.cancel(Timer::Maintain);
        if let Some(at) = self.next_maintenance(now) {
            self.timers.set(Timer::Maintain, at);
        }
    }

    fn sessions_wanted(&self) -> usize {
        match self.config.min_sessions {
            0 => usize::MAX,
            count => count,
        }
    }

    /// Sessions that are up, or were dialled so recently that they may soon be.
    fn held_count(&self, now: Instant) -> usize {
        self.servers.values().filter(|server| self.is_held(server, now)).count()
    }

    fn is_held(&self, server: &Server, now: Instant) -> bool {
        let Some(conn) = server.session else { return false };
        self.sessions.get(&conn).and_then(Session::up).is_some_and(|up| !up.leaving)
            || server.dialled_at.is_some_and(|at| now < at + HEDGE)
    }

    fn next_maintenance(&self, now: Instant) -> Option<Instant> {
        let short = self.held_count(now) < self.sessions_wanted();
        let retries = self
            .servers
            .values()
            .filter(|s| s.session.is_none() && (s.wanted || (s.listed && short)))
            .filter_map(|s| s.retry_at);
        let hedges = self
            .servers
            .values()
            .filter(|s| s.session.is_some() && self.is_held(s, now))
            .filter_map(|s| s.dialled_at)
            .map(|at| at + HEDGE);
        retries.chain(hedges).filter(|&at| at > now).min()
    }

    /// One listed server that may be dialled, drawn by weight: the greatest of u^(1/w), u uniform
    /// in (0, 1).
    fn pick_server(&self, io: &mut Io) -> Option<PublicKey> {
        let now = io.now();
        let ready = self.servers.values().filter(|s| s.listed && s.may_dial(now));
        let mut drawn: Vec<_> = ready.map(|s| (draw(io, s.target.weight), s.target.key)).collect();
        drawn.sort_by(|a, b| a.0.total_cmp(&b.0));
        drawn.pop().map(|(_, key)| key)
    }

    /// Starts a session dial, unless one is under way or the back-off forbids it. A failure is
    /// filed like a dial's.
    pub(super) fn connect(&mut self, io: &mut Io, key: PublicKey) {
        let now = io.now();
        let Some(server) = self.servers.get_mut(&key).filter(|s| s.may_dial(now)) else { return };
        server.retry_at = None;
        let Some(address) = server.address() else {
            let wait = server.backoff.fail(random_u32(io));
            server.retry_at = Some(now + wait);
            self.shared.board.note_session_end(key, &SessionEnd::NoAddress);
            self.fail_waiting(io, key, &SessionEnd::NoAddress);
            return;
        };
        server.wanted = false;
        server.dialled_at = Some(now);
        let conn = self.begin_session(io, key, address);
        if let Some(server) = self.servers.get_mut(&key) {
            server.session = Some(conn);
        }
    }

    /// Files the end of a session with its server: back-off, quiet time, suspicion of eviction. False if it was not the
    /// session in use any more.
    pub(super) fn note_ended(&mut self, io: &mut Io, key: PublicKey, ended: &Ended<'_>) -> bool {
        let now = io.now();
        let random = random_u32(io);
        let is_lonely = self.sessions.values().all(|session| session.up().is_none());
        let board = &self.shared.board;
        if !ended.is_noted {
            board.note_session_end(key, ended.why);
        }
        let Some(server) = self.servers.get_mut(&key).filter(|s| s.session == Some(ended.conn))
        else {
            return false;
        };
        server.session = None;
        server.replaces = None;
        let settled = ended.uptime.is_some_and(|uptime| uptime >= SETTLED);
        if settled {
            server.backoff.reset();
            // What was long enough may be longer than needed; a redial at once is all it costs to
            // find out.
            server.quiet = (server.quiet / 2).max(QUIET_MIN);
        }
        if *ended.why == SessionEnd::ClosedAtOnce && server.quiet < QUIET_MAX {
            server.quiet = (server.quiet * 2).min(QUIET_MAX);
            debug!(server = %key.short(), quiet = ?server.quiet, "session closed at once, dialling again");
            server.retry_at = None;
        } else if matches!(ended.why, SessionEnd::Idle | SessionEnd::ClientClosed) {
            // We wanted it so: nothing to report, nothing to wait out.
            server.retry_at = None;
        } else {
            let mut wait = match ended.why {
                // It is another server, or one of another protocol: that takes longer to change.
                SessionEnd::Handshake(_) => server.backoff.fail(random),
                _ => server.backoff.fail_near(random),
            };
            if is_lonely && ended.why.is_unreachable() {
                wait = wait.min(jittered(LONELY_MAX, random));
            }
            info!(server = %key.short(), why = %ended.why, ?wait, "session ended");
            server.retry_at = Some(now + wait);
        }
        let young = ended.uptime.is_some() && !settled;
        if young && *ended.why == SessionEnd::ClosedByServer && server.note_eviction(now) {
            warn!(
                server = %key.short(),
                "the server closed {EVICTIONS_MAX} young sessions within a minute: does another client use this key?"
            );
            board.note_eviction(key);
        }
        true
    }

    /// A session reached [`SETTLED`].
    pub(super) fn note_settled(&mut self, key: PublicKey) {
        if let Some(server) = self.servers.get_mut(&key) {
            server.backoff.reset();
            server.evictions.clear();
        }
        self.shared.board.note_settled();
    }

    /// Whether the session with this server may be closed when it carries nothing.
    pub(super) fn is_spare(&self, key: PublicKey) -> bool {
        if self.is_leaving(key) {
            return true;
        }
        let listed = self.servers.get(&key).is_some_and(|server| server.listed);
        let up: BTreeSet<_> = self
            .servers
            .values()
            .filter_map(|s| s.session)
            .filter(|conn| {
                self.sessions.get(conn).and_then(Session::up).is_some_and(|up| !up.leaving)
            })
            .collect();
        match self.config.min_sessions {
            0 => !listed,
            min => up.len() > min,
        }
    }
}

pub(super) fn random_u32(io: &mut Io) -> u32 {
    let mut bytes = [0; 4];
    io.random(&mut bytes);
    u32::from_be_bytes(bytes)
}

/// ln(u) / w orders like u^(1/w) and does not round to 1 for large weights. A full server (weight
/// 0) comes last, but comes.
pub(super) fn draw(io: &mut Io, weight: u32) -> f64 {
    let uniform = (f64::from(random_u32(io)) + 0.5) / (f64::from(u32::MAX) + 1.0);
    uniform.ln() / f64::from(weight).max(0.01)
}
