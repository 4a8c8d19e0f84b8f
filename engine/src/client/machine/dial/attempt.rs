//! One try of a dial: request out, response in, checks (`wire.md §4.4`, `§4.5`).

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, atomic::Ordering},
};

use tracing::debug;

use super::{Dial, DialId, Opening, Outstanding, Purpose, UNACKED_MAX, Wait};
use crate::{
    client::{
        error::{SessionEnd, TryCause},
        link::StreamKey,
        machine::{
            ClientMachine, Session,
            streams::{OpenStream, Slot},
            tickets::Way,
        },
        pipe::Pipe,
        stream::Stream,
    },
    io::{ConnId, Io},
    noise::{GRANT, Handshake, OFFER, Resumed, Ticket, TicketId, TransportKeys},
    pool::Slice,
    session::{DIAL_OBJECT_MAX_BYTES, Object, ObjectReader, write_object},
    wire::{Addr, Dialect, ObjectError, Port, SignedObject, StreamRequest, StreamResponse},
};

enum Answer {
    /// The finished handshake, and the ticket that came of its offer.
    Stream {
        noise: Box<Handshake>,
        offered: bool,
        ticket: Option<Ticket>,
    },
    Resumed(TransportKeys),
    /// The peer does not know our ticket, and is to be dialled by handshake.
    TicketUnknown(TicketId),
    Address(IpAddr),
}

impl ClientMachine {
    /// Sends the request on a session that is up. What fails here is filed, and the dial's wait is
    /// then `Nothing`.
    pub(super) fn try_session(&mut self, io: &mut Io, id: DialId, conn: ConnId) {
        let Some(dial) = self.dials.get_mut(&id) else { return };
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let to = dial.to(session.server);
        let Some(up) = session.up_mut() else { return };
        if up.mux.unacked_count() >= UNACKED_MAX || !up.turns.admits(&to) {
            up.turns.wait(to, id);
            return;
        }
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
        self.make_room(io, conn);
        match self.send_request(io, id, conn, port) {
            Ok(outstanding) => {
                if let Some(dial) = self.dials.get_mut(&id) {
                    dial.wait = Wait::Response(Box::new(outstanding));
                }
                if self.dials.get(&id).is_some_and(Dial::is_by_ticket) {
                    self.limit_try(io, id);
                }
                self.plan_hedge(io, id, conn);
            }
            Err(cause) => self.file_try(id, cause),
        }
    }

    /// Where the session has no room for another stream, the stalest abandoned one on it goes.
    fn make_room(&mut self, io: &mut Io, conn: ConnId) {
        let max = self.config.streams_per_session_max;
        let is_full = self
            .sessions
            .get(&conn)
            .and_then(Session::up)
            .is_some_and(|up| up.streams.len() >= max);
        if is_full && self.shared.permits.reclaim_tagged(conn.to_u64()) {
            self.drain_marked(io);
        }
    }

    fn send_request(
        &mut self,
        io: &mut Io,
        id: DialId,
        conn: ConnId,
        port: Port,
    ) -> Result<Outstanding, TryCause> {
        let timestamp = io.unix_nanos();
        let gone = || TryCause::Session(SessionEnd::ClosedByServer);
        let dial = self.dials.get(&id).ok_or_else(gone)?;
        let server = self.sessions.get(&conn).ok_or_else(gone)?.server;
        let (peer, to) = (dial.peer(), dial.to(server));
        let local = Addr { key: self.key, port };
        let mut request = StreamRequest {
            timestamp,
            src: local.into(),
            dst: to.into(),
            ip_info: peer.is_none(),
            ..StreamRequest::default()
        };
        let opening = match peer {
            Some(to) => self.open_noise(io, to, &mut request)?,
            None => Opening::None,
        };
        let object = SignedObject::sign(&self.config.secret_key, &request.encode(Dialect::G24));
        let up = self.sessions.get_mut(&conn).and_then(Session::up_mut).ok_or_else(gone)?;
        let queue = io.queue(conn).ok_or_else(gone)?;
        let mut sealed = Vec::new();
        write_object(&mut up.sealer, object.as_bytes(), &mut sealed)?;
        let stream = up.mux.open(queue).ok_or(TryCause::StreamsExhausted)?;
        up.mux.send_bytes(stream, &sealed, queue);
        let reader = ObjectReader::with_max(DIAL_OBJECT_MAX_BYTES);
        up.streams.insert(stream, Slot::Dialing { dial: id, to, reader });
        up.turns.take(to);
        up.gauge.streams.store(up.streams.len(), Ordering::Relaxed);
        Ok(Outstanding { key: (conn, stream), server, local, to, req_hash: object.hash(), opening })
    }

    /// Puts what is to give the stream its keys into the request: our side of a ticket that the peer granted, or the first KK
    /// message.
    fn open_noise(
        &mut self,
        io: &mut Io,
        to: Addr,
        request: &mut StreamRequest,
    ) -> Result<Opening, TryCause> {
        let way =
            if self.config.resume_dials { self.tickets.way(&to.key, io.now()) } else { Way::Plain };
        if let Way::Ticket(ticket) = &way {
            let (resumption, message) = ticket.request(Self::nonce(io), &request.terms());
            request.noise_msg = message;
            return Ok(Opening::Ticket(resumption));
        }
        let offers = matches!(way, Way::Offer);
        let peer = self.peers.known(to.key.as_bytes()).unwrap_or_else(|| to.key.into());
        let ephemeral = Self::ephemeral(io);
        let mut noise = Handshake::kk_initiator_with(&self.config.secret_key, peer, ephemeral);
        noise.write_message(if offers { OFFER } else { &[] }, &mut request.noise_msg)?;
        Ok(Opening::Handshake { noise: Box::new(noise), offers })
    }

    /// Bytes of a response.
    pub(in crate::client::machine) fn response_data(
        &mut self,
        io: &mut Io,
        key: StreamKey,
        mut data: Slice,
    ) {
        let Some(up) = self.sessions.get_mut(&key.0).and_then(Session::up_mut) else { return };
        let Some(Slot::Dialing { dial, reader, .. }) = up.streams.get_mut(&key.1) else { return };
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
        self.turn_to(id, key);
        let Some(Dial { wait: Wait::Response(outstanding), .. }) = self.dials.get_mut(&id) else {
            return;
        };
        match object.and_then(|bytes| check_response(outstanding, bytes)) {
            Ok(Answer::Stream { noise, offered, ticket }) => {
                if offered {
                    let to = outstanding.to.key;
                    self.tickets.answered(&to, ticket, io.now());
                }
                let keys = self.finish_handshake(*noise);
                self.dial_done(io, id, &keys, data);
            }
            Ok(Answer::Resumed(keys)) => {
                self.shared.board.dials_resumed.fetch_add(1, Ordering::Relaxed);
                self.dial_done(io, id, &keys, data);
            }
            Ok(Answer::TicketUnknown(ticket)) => {
                let to = outstanding.to.key;
                self.tickets.forget(&to, &ticket);
                self.dial_by_handshake(io, id, key);
            }
            Ok(Answer::Address(address)) => self.lookup_done(io, id, address),
            Err(cause) => {
                self.reset_on_wire(io, key);
                self.fail_try(io, id, cause);
            }
        }
    }

    fn dial_done(&mut self, io: &mut Io, id: DialId, keys: &TransportKeys, rest: Slice) {
        let Some(dial) = self.take_dial(id) else { return };
        if let Some(beside) = &dial.beside {
            self.beaten(io, beside);
        }
        let Wait::Response(outstanding) = dial.wait else { return };
        let Purpose::Stream { reply, .. } = dial.request.purpose else { return };
        let Outstanding { key, server, local, to, .. } = *outstanding;
        let pipe = Pipe::new(key, self.config.mux, Arc::clone(&self.link), dial.request.lease);
        let stream = Stream::new(Arc::clone(&pipe), local, to, server, keys);
        if let Some(slot) = self.slot(key) {
            *slot = Slot::Open(OpenStream::new(pipe, io.now()));
        }
        self.patience.succeed(to, server);
        if let Some(up) = self.sessions.get_mut(&key.0).and_then(Session::up_mut) {
            up.turns.release(&to);
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
        self.advance_turns(io, key.0);
    }

    /// The peer is there, but has forgotten our ticket: the same try once more, now by handshake.
    fn dial_by_handshake(&mut self, io: &mut Io, id: DialId, key: StreamKey) {
        self.shared.board.dials_unknown.fetch_add(1, Ordering::Relaxed);
        self.reset_on_wire(io, key);
        let Some(dial) = self.dials.get_mut(&id) else { return };
        if let Some(server) = dial.server() {
            debug!(server = %server.short(), "the peer does not know our ticket any more");
            dial.wait = Wait::Session(server);
        }
        self.limit_try(io, id);
        self.try_session(io, id, key.0);
        if self.dials.get(&id).is_some_and(|dial| matches!(dial.wait, Wait::Nothing))
            && !self.go_on_with_the_other(io, id)
        {
            self.advance_dial(io, id);
        }
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

/// The checks of `wire.md §4.5`.
fn check_response(outstanding: &mut Outstanding, bytes: Vec<u8>) -> Result<Answer, TryCause> {
    let object = SignedObject::from_bytes(bytes)?;
    let response = StreamResponse::decode(object.gob()).map_err(ObjectError::Gob)?;
    let Outstanding { req_hash, to, opening, .. } = outstanding;
    if let Opening::Ticket(resumption) = opening {
        // The ticket's tag stands in the place of the signature; "unknown" has no tag.
        response.verify_routed(req_hash)?;
        return match resumption.finish(&response.noise_msg, req_hash)? {
            Resumed::Keys(keys) => Ok(Answer::Resumed(keys)),
            Resumed::Refused => {
                // It is not the ticket that is refused.
                *opening = Opening::None;
                Err(TryCause::Refused)
            }
            Resumed::Unknown => {
                response.verify(&object, req_hash, &to.key)?;
                Ok(Answer::TicketUnknown(*resumption.id()))
            }
        };
    }
    response.verify(&object, req_hash, &to.key)?;
    match std::mem::replace(opening, Opening::None) {
        Opening::Handshake { mut noise, offers } => {
            let payload = noise.read_message(&response.noise_msg)?;
            if !noise.is_finished() {
                return Err(TryCause::Malformed);
            }
            let ticket = (offers && payload == GRANT).then(|| noise.ticket());
            Ok(Answer::Stream { noise, offered: offers, ticket })
        }
        _ => address(&response.ip).map(Answer::Address).ok_or(TryCause::Malformed),
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
