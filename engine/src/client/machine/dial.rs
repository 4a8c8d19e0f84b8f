//! Dialling a peer, or asking a server for our address (`wire.md §4`, `§5.1`; `discovery.md §8.2`).
//!
//! ```text
//!            ┌───────────── next candidate ◀───────── the try failed ─────────────┐
//!            ▼                                                                    │
//!   choose ─▶ no session yet: wait for one ─▶ send the request ─▶ wait for the response ─▶ stream
//!        └──▶ nobody left: Refused, Unreachable
//! ```
//!
//! Candidates are tried one after the other, never in parallel: a peer would accept the losers too. Order: sessions that are
//! up, lowest round trip first; then at most [`CONNECTS_MAX`] servers without one. A port is taken only when
//! there is a session to use it on, so that dials before the first session hold none.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use tracing::debug;

use super::{
    ClientMachine, ServerTarget, Session, Timer,
    servers::draw,
    streams::{OpenStream, Slot},
};
use crate::{
    client::{
        error::{DialError, DialPhase, SessionEnd, Tries, TryCause},
        lease::Lease,
        link::StreamKey,
        pipe::Pipe,
        stream::Stream,
    },
    identity::PublicKey,
    io::{ConnId, Io},
    noise::{Handshake, TransportKeys},
    pool::Slice,
    session::{Object, ObjectReader, write_object},
    wire::{Addr, Dialect, Port, SignedObject, StreamRequest, StreamResponse},
};

/// New sessions one dial may ask for.
const CONNECTS_MAX: usize = 2;

/// Unacknowledged streams of ours at one server; dials beyond wait for an ACK. A yamux peer resets what exceeds its
/// backlog, which is 256 in every Go version but the newest.
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
}

enum Wait {
    Nothing,
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
    /// `None` for an address lookup.
    noise: Option<Handshake>,
}

enum Answer {
    Stream(TransportKeys),
    Address(IpAddr),
}

impl Dial {
    fn peer(&self) -> Option<Addr> {
        match &self.request.purpose {
            Purpose::Stream { to, .. } => Some(*to),
            Purpose::Address { .. } => None,
        }
    }

    /// The server of the current try.
    fn server(&self) -> Option<PublicKey> {
        match &self.wait {
            Wait::Nothing => None,
            Wait::Session(server) => Some(*server),
            Wait::Response(outstanding) => Some(outstanding.server),
        }
    }

    fn phase(&self) -> DialPhase {
        match self.wait {
            Wait::Response(_) => DialPhase::Response,
            _ => DialPhase::Session,
        }
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
        self.exhausted(io, id);
    }

    /// The next candidate: the session with the lowest round trip, or else a server to open one with.
    fn choose(&self, io: &mut Io, id: DialId) -> Option<ServerTarget> {
        let dial = self.dials.get(&id)?;
        let held = dial.untried().filter_map(|target| {
            let conn = self.usable_session(target.key)?;
            let rtt = self.sessions.get(&conn)?.up()?.gauge.rtt();
            Some((rtt.unwrap_or(Duration::MAX), target))
        });
        if let Some((_, target)) = held.min_by_key(|(rtt, _)| *rtt) {
            return Some(target.clone());
        }
        if dial.connects_left == 0 {
            return None;
        }
        let now = io.now();
        let mut best: Option<((bool, bool, f64), &ServerTarget)> = None;
        for target in dial.untried() {
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

    /// A try may take `try_timeout`, or what is left of the dial if there is nobody else to try.
    fn limit_try(&mut self, io: &Io, id: DialId) {
        let Some(dial) = self.dials.get(&id) else { return };
        let limit = io.now() + self.config.try_timeout;
        if dial.untried().next().is_some() && limit < dial.request.deadline {
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

    fn waiting_for(&self, server: PublicKey) -> Vec<DialId> {
        let waits = |dial: &Dial| matches!(dial.wait, Wait::Session(key) if key == server);
        self.dials.iter().filter(|(_, dial)| waits(dial)).map(|(&id, _)| id).collect()
    }

    /// The server acknowledged a stream, or one is gone: a dial that waited for that may go on.
    pub(super) fn advance_backlog(&mut self, io: &mut Io, conn: ConnId) {
        while let Some(up) = self.sessions.get_mut(&conn).and_then(Session::up_mut)
            && up.mux.unacked_count() < UNACKED_MAX
            && let Some(id) = up.waiting.pop_front()
        {
            let server = up.gauge.server;
            if self
                .dials
                .get(&id)
                .is_some_and(|d| matches!(d.wait, Wait::Session(key) if key == server))
            {
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

/// One try.
impl ClientMachine {
    /// Sends the request on a session that is up. What fails here is filed, and the dial's wait is then `Nothing`.
    fn try_session(&mut self, io: &mut Io, id: DialId, conn: ConnId) {
        let Some(up) = self.sessions.get_mut(&conn).and_then(Session::up_mut) else { return };
        if up.mux.unacked_count() >= UNACKED_MAX {
            up.waiting.push_back(id);
            return;
        }
        let Some(dial) = self.dials.get_mut(&id) else { return };
        let lease = Arc::clone(&dial.request.lease);
        let port = match lease.port() {
            Some(port) => port,
            None => match self.shared.ports.reserve_ephemeral() {
                Ok(guard) => {
                    let port = guard.port();
                    if !lease.hold(guard) {
                        // Cancelled; the command that says so is on its way.
                        return self.cancel_dial(io, id);
                    }
                    port
                }
                Err(error) => return self.fail_dial(io, id, error.into()),
            },
        };
        match self.send_request(io, id, conn, port) {
            Ok(outstanding) => {
                if let Some(dial) = self.dials.get_mut(&id) {
                    dial.wait = Wait::Response(Box::new(outstanding));
                }
            }
            Err(cause) => self.file_try(id, cause),
        }
    }

    fn send_request(
        &mut self,
        io: &mut Io,
        id: DialId,
        conn: ConnId,
        port: Port,
    ) -> Result<Outstanding, TryCause> {
        let ephemeral = Self::ephemeral(io);
        let timestamp = io.unix_nanos();
        let gone = || TryCause::Session(SessionEnd::ClosedByServer);
        let dial = self.dials.get(&id).ok_or_else(gone)?;
        let session = self.sessions.get_mut(&conn).ok_or_else(gone)?;
        let server = session.server;
        let up = session.up_mut().ok_or_else(gone)?;
        let queue = io.queue(conn).ok_or_else(gone)?;

        let peer = dial.peer();
        let to = peer.unwrap_or(Addr { key: server, port: LOOKUP_PORT });
        let local = Addr { key: self.key, port };
        let mut noise =
            peer.map(|to| Handshake::kk_initiator(&self.config.secret_key, to.key, ephemeral));
        let mut noise_msg = Vec::new();
        if let Some(noise) = &mut noise {
            noise.write_message(&[], &mut noise_msg)?;
        }
        let request = StreamRequest {
            timestamp,
            src: local.into(),
            dst: to.into(),
            ip_info: peer.is_none(),
            noise_msg,
            ..StreamRequest::default()
        };
        let object = SignedObject::sign(&self.config.secret_key, &request.encode(Dialect::G24));
        let mut sealed = Vec::new();
        write_object(&mut up.sealer, object.as_bytes(), &mut sealed)?;
        let stream = up.mux.open(queue).ok_or(TryCause::StreamsExhausted)?;
        up.mux.send_bytes(stream, &sealed, queue);
        up.streams.insert(stream, Slot::Dialing { dial: id, reader: ObjectReader::new() });
        up.gauge.streams.store(up.streams.len(), Ordering::Relaxed);
        Ok(Outstanding { key: (conn, stream), server, local, to, req_hash: object.hash(), noise })
    }

    /// Bytes of a response.
    pub(super) fn response_data(&mut self, io: &mut Io, key: StreamKey, mut data: Slice) {
        let Some(up) = self.sessions.get_mut(&key.0).and_then(Session::up_mut) else { return };
        let Some(Slot::Dialing { dial, reader }) = up.streams.get_mut(&key.1) else { return };
        let id = *dial;
        let before = data.len();
        let object = match reader.read(&mut data, &mut up.opener) {
            Ok(None) => {
                if let Some(queue) = io.queue(key.0) {
                    up.mux.grant(key.1, u32::try_from(before).unwrap_or(u32::MAX), false, queue);
                }
                return;
            }
            Ok(Some(Object::Signed(bytes))) => Ok(bytes),
            Ok(Some(Object::Ping)) => Err(TryCause::Malformed),
            Err(error) => Err(error.into()),
        };
        if let Some(queue) = io.queue(key.0) {
            let taken = u32::try_from(before - data.len()).unwrap_or(u32::MAX);
            up.mux.grant(key.1, taken, false, queue);
        }
        let Some(Dial { wait: Wait::Response(outstanding), .. }) = self.dials.get_mut(&id) else {
            return;
        };
        match object.and_then(|bytes| check_response(outstanding, bytes)) {
            Ok(Answer::Stream(keys)) => self.dial_done(io, id, &keys, data),
            Ok(Answer::Address(address)) => self.lookup_done(io, id, address),
            Err(cause) => {
                self.reset_on_wire(io, key);
                self.fail_try(io, id, cause);
            }
        }
    }

    fn dial_done(&mut self, io: &mut Io, id: DialId, keys: &TransportKeys, rest: Slice) {
        let Some(dial) = self.take_dial(id) else { return };
        let Wait::Response(outstanding) = dial.wait else { return };
        let Purpose::Stream { reply, .. } = dial.request.purpose else { return };
        let Outstanding { key, server, local, to, .. } = *outstanding;
        let pipe = Pipe::new(key, self.config.mux, Arc::clone(&self.link), dial.request.lease);
        let stream = Stream::new(Arc::clone(&pipe), local, to, server, keys);
        if let Some(slot) = self.slot(key) {
            *slot = Slot::Open(OpenStream::new(pipe, io.now()));
        }
        self.watch_idle(io, key);
        if !rest.is_empty() {
            self.stream_data(io, key, rest);
        }
        let outcome = Ok(stream);
        self.shared.board.note_dial(&outcome);
        debug!(peer = %to, server = %server.short(), "stream dialled");
        // If nobody waits any more, the stream closes itself as it is dropped here.
        drop(reply.send(outcome));
    }

    fn lookup_done(&mut self, io: &mut Io, id: DialId, address: IpAddr) {
        let Some(dial) = self.take_dial(id) else { return };
        dial.request.lease.release();
        if let Wait::Response(outstanding) = &dial.wait {
            self.reset_on_wire(io, outstanding.key);
        }
        if let Purpose::Address { reply } = dial.request.purpose {
            drop(reply.send(Ok(address)));
        }
    }
}

/// Failing, cancelling, time-outs.
impl ClientMachine {
    /// Files the current try as failed, and goes on with the next.
    pub(super) fn fail_try(&mut self, io: &mut Io, id: DialId, cause: TryCause) {
        self.file_try(id, cause);
        self.advance_dial(io, id);
    }

    fn file_try(&mut self, id: DialId, cause: TryCause) {
        let Some(dial) = self.dials.get_mut(&id) else { return };
        if let Some(server) = dial.server() {
            debug!(server = %server.short(), %cause, "dial try failed");
            dial.tries.push((server, cause));
        }
        dial.wait = Wait::Nothing;
    }

    /// No candidate is left.
    fn exhausted(&mut self, io: &mut Io, id: DialId) {
        let Some(dial) = self.dials.get_mut(&id) else { return };
        let tries = std::mem::take(&mut dial.tries);
        let refused = |cause: &TryCause| matches!(cause, TryCause::Refused | TryCause::Response(_));
        let error = match dial.peer() {
            Some(to) if tries.is_empty() => DialError::NoDelegatedServers(to.key),
            Some(peer) if tries.iter().any(|(_, cause)| refused(cause)) => {
                DialError::Refused { peer, tries }
            }
            Some(to) => DialError::Unreachable { peer: to.key, tries },
            None => {
                let server = tries.last().map_or(self.key, |(server, _)| *server);
                DialError::Unreachable { peer: server, tries }
            }
        };
        self.fail_dial(io, id, error);
    }

    pub(super) fn fail_dial(&mut self, io: &mut Io, id: DialId, error: DialError) {
        let Some(dial) = self.end_dial(io, id) else { return };
        match dial.request.purpose {
            Purpose::Stream { reply, .. } => {
                let outcome = Err(error);
                self.shared.board.note_dial(&outcome);
                drop(reply.send(outcome));
            }
            Purpose::Address { reply } => drop(reply.send(Err(error))),
        }
    }

    pub(super) fn cancel_dial(&mut self, io: &mut Io, id: DialId) {
        drop(self.end_dial(io, id));
    }

    /// Takes a dial out, with its stream and its port.
    fn end_dial(&mut self, io: &mut Io, id: DialId) -> Option<Dial> {
        let dial = self.take_dial(id)?;
        dial.request.lease.release();
        match &dial.wait {
            Wait::Response(outstanding) => self.reset_on_wire(io, outstanding.key),
            Wait::Session(server) if self.waiting_for(*server).is_empty() => {
                if let Some(server) = self.servers.get_mut(server) {
                    server.wanted = false;
                }
            }
            Wait::Session(_) | Wait::Nothing => {}
        }
        Some(dial)
    }

    fn take_dial(&mut self, id: DialId) -> Option<Dial> {
        self.timers.cancel(Timer::Dial(id));
        self.timers.cancel(Timer::Try(id));
        self.dials.remove(&id)
    }

    pub(super) fn dial_due(&mut self, io: &mut Io, id: DialId) {
        let Some(dial) = self.dials.get_mut(&id) else { return };
        let error = DialError::TimedOut {
            phase: dial.phase(),
            server: dial.server(),
            elapsed: io.now().duration_since(dial.request.started),
            tries: std::mem::take(&mut dial.tries),
        };
        self.fail_dial(io, id, error);
    }

    pub(super) fn try_due(&mut self, io: &mut Io, id: DialId) {
        let Some(dial) = self.dials.get_mut(&id) else { return };
        let cause = TryCause::TimedOut {
            phase: dial.phase(),
            after: io.now().duration_since(dial.try_started),
        };
        if let Wait::Response(outstanding) = &dial.wait {
            let key = outstanding.key;
            self.reset_on_wire(io, key);
        }
        self.fail_try(io, id, cause);
    }
}

/// The checks of `wire.md §4.5`.
fn check_response(outstanding: &mut Outstanding, bytes: Vec<u8>) -> Result<Answer, TryCause> {
    let object = SignedObject::from_bytes(bytes)?;
    let response = StreamResponse::decode(object.gob()).map_err(crate::wire::ObjectError::Gob)?;
    response.verify(&object, &outstanding.req_hash, &outstanding.to.key)?;
    match outstanding.noise.take() {
        Some(mut noise) => {
            noise.read_message(&response.noise_msg)?;
            if noise.is_finished() {
                Ok(Answer::Stream(noise.into_keys()))
            } else {
                Err(TryCause::Malformed)
            }
        }
        None => address(&response.ip).map(Answer::Address).ok_or(TryCause::Malformed),
    }
}

/// 4 bytes, or 16, where an IPv4 address may come as `::ffff:a.b.c.d`.
fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(four));
    }
    let sixteen = <[u8; 16]>::try_from(bytes).ok()?;
    Some(Ipv6Addr::from(sixteen).to_canonical())
}
