//! Streams that the server opens: one request, its checks, one response (`wire.md §4.4`, `§4.5`,
//! `§4.7`).
//!
//! Each inbound stream is a slot of its own with its own deadline, so one that stalls delays
//! nobody. Whatever is wrong with a request, the stream is reset and the session goes on. Nothing
//! but the response is ever sent: a refusal on the wire does not exist (§4.5), and the liveness
//! ping is not the server's to send (§3.5).

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::sync::mpsc::OwnedPermit;
use tracing::debug;

use super::{
    ClientMachine, Session, Timer,
    streams::{OpenStream, Slot},
};
use crate::{
    client::{lease::Lease, link::StreamKey, listener::NoPlace, pipe::Pipe, stream::Stream},
    identity::PublicKey,
    io::Io,
    noise::{GRANT, Handshake, OFFER, Peer, ResumeRequest, Ticket, TransportKeys},
    pool::{Holder, Slice},
    session::{DIAL_OBJECT_MAX_BYTES, Object, ObjectReader, write_object},
    wire::{Addr, Dialect, ObjectError, Port, RawRequest, SignedObject, StreamResponse},
};

/// A server that opened a stream must have sent its request within this (`wire.md §4.8`, G26).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// What a census calls accepted streams.
const INBOUND: &str = "inbound";

/// Inbound handshakes in progress on one session. A correct server writes a request at once and
/// whole, so only one that stalls gets here; together they hold at most 128 × 16 KiB = 2 MiB.
const INBOUND_MAX: usize = 128;

/// A request whose fields are complete, and where it comes from and goes to.
struct Asked {
    object: SignedObject,
    request: RawRequest,
    source: Peer,
    remote: Addr,
    /// Ours.
    port: Port,
}

/// A request that stands.
struct Accepted {
    remote: Addr,
    port: Port,
    keys: TransportKeys,
    response: SignedObject,
    place: OwnedPermit<Stream>,
}

enum Verdict {
    Accepted(Accepted),
    /// An initiator with a ticket is told why there is no stream for it.
    Declined(&'static str, SignedObject),
}

impl ClientMachine {
    pub(super) fn inbound_opened(&mut self, io: &mut Io, key: StreamKey) {
        let holder = Holder { label: INBOUND.into(), destination: None };
        let permit = self.shared.permits.try_acquire(&holder).ok();
        let Some(up) = self.sessions.get_mut(&key.0).and_then(Session::up_mut) else { return };
        let Some(queue) = io.queue(key.0) else { return };
        let Some(permit) = permit.filter(|_| up.inbound_count < INBOUND_MAX) else {
            up.mux.reset(key.1, queue);
            self.shared.board.inbound_refused.count("too_many");
            return;
        };
        // Deployed openers end the whole session when the ACK does not come.
        up.mux.accept(key.1, queue);
        up.inbound_count += 1;
        let reader = ObjectReader::with_max(DIAL_OBJECT_MAX_BYTES);
        up.streams.insert(key.1, Slot::Inbound { reader, permit });
        up.gauge.streams.store(up.streams.len(), Ordering::Relaxed);
        self.timers.set(Timer::Inbound(key), io.now() + REQUEST_TIMEOUT);
    }

    /// Bytes of a request.
    pub(super) fn request_data(&mut self, io: &mut Io, key: StreamKey, mut data: Slice) {
        let Some(up) = self.sessions.get_mut(&key.0).and_then(Session::up_mut) else { return };
        let Some(Slot::Inbound { reader, .. }) = up.streams.get_mut(&key.1) else { return };
        let taken = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let object = reader.read(&mut data, &mut up.opener);
        if let Some(queue) = io.queue(key.0) {
            up.mux.grant(key.1, taken, false, queue);
        }
        match object {
            Ok(None) => {}
            // Nothing may follow: the initiator has no keys before it has seen our response.
            Ok(Some(Object::Signed(_))) if !data.is_empty() => self.refuse(io, key, "malformed"),
            Ok(Some(Object::Signed(bytes))) => match self.check_request(io, bytes) {
                Ok(Verdict::Accepted(accepted)) => self.accept(io, key, accepted),
                Ok(Verdict::Declined(cause, response)) => self.decline(io, key, cause, &response),
                Err(cause) => self.refuse(io, key, cause),
            },
            Ok(Some(Object::Ping)) | Err(_) => self.refuse(io, key, "malformed"),
        }
    }

    /// Turns an inbound stream away; the session goes on.
    pub(super) fn refuse(&mut self, io: &mut Io, key: StreamKey, cause: &'static str) {
        debug!(cause, "inbound stream refused");
        self.shared.board.inbound_refused.count(cause);
        self.reset_on_wire(io, key);
    }

    /// The checks of `wire.md §4.4`, in its order, or those of a ticket in their place.
    fn check_request(&mut self, io: &mut Io, bytes: Vec<u8>) -> Result<Verdict, &'static str> {
        let bad = |error| {
            debug!(%error, "inbound request");
            "bad_request"
        };
        let asked = self.read_request(bytes).map_err(bad)?;
        let resumes = ResumeRequest::parse(&asked.request.noise_msg);
        if let Some(resumes) = resumes.filter(|_| self.config.resume_dials) {
            let source = asked.remote.key.as_bytes();
            if let Some(ticket) = self.tickets.granted(source, &resumes.id, io.now()) {
                return self.resume(io, &asked, &resumes, &ticket);
            }
            self.verify_signature(&asked).map_err(bad)?;
            let response = self.respond(asked.object.hash(), ResumeRequest::answer_unknown());
            return Ok(Verdict::Declined("unknown_ticket", response));
        }
        self.verify_signature(&asked).map_err(bad)?;
        self.shake_hands(io, asked).map(Verdict::Accepted)
    }

    /// Checks 1 to 7. The source's point is found before its signature is looked at, as decoding would.
    fn read_request(&mut self, bytes: Vec<u8>) -> Result<Asked, ObjectError> {
        let object = SignedObject::from_bytes(bytes)?;
        let request = RawRequest::decode(object.gob())?;
        let [(source, source_port), (_, port)] = request.addresses()?;
        let source = match self.peers.known(&source) {
            Some(peer) => peer,
            None => Peer::from_bytes(&source).map_err(ObjectError::SourceKeyInvalid)?,
        };
        let remote = Addr { key: *source.key(), port: source_port };
        Ok(Asked { object, request, source, remote, port })
    }

    /// Checks 8 and 9.
    fn verify_signature(&self, asked: &Asked) -> Result<(), ObjectError> {
        asked.request.verify_for(&asked.object, &asked.remote.key, &self.key)
    }

    /// Checks 9 to 11 of a request by ticket, whose tag says what the signature says. The peer holds the secret of an earlier
    /// handshake, so it is the one with whom that was.
    fn resume(
        &self,
        io: &mut Io,
        asked: &Asked,
        resumes: &ResumeRequest,
        ticket: &Ticket,
    ) -> Result<Verdict, &'static str> {
        let Asked { object, request, remote, port, .. } = asked;
        request.verify_destination(&self.key).map_err(|_| "bad_request")?;
        let (terms, hash) = (request.terms(), object.hash());
        let place = match self.place(*port) {
            Ok(place) => place,
            Err(cause) => {
                let refusal = ticket.refusal(resumes, &terms, &hash).map_err(|_| "bad_ticket")?;
                return Ok(Verdict::Declined(cause, self.respond(hash, refusal)));
            }
        };
        let (keys, message) =
            ticket.answer(resumes, &terms, &hash, Self::nonce(io)).map_err(|_| "bad_ticket")?;
        let response = self.respond(hash, message);
        self.shared.board.accepted_resumed.fetch_add(1, Ordering::Relaxed);
        Ok(Verdict::Accepted(Accepted { remote: *remote, port: *port, keys, response, place }))
    }

    /// Checks 10 and 11.
    fn shake_hands(&mut self, io: &mut Io, asked: Asked) -> Result<Accepted, &'static str> {
        let Asked { object, request, source, remote, port } = asked;
        let ephemeral = Self::ephemeral(io);
        let mut noise = Handshake::kk_responder_with(&self.config.secret_key, source, ephemeral);
        let mut second = Vec::new();
        let offer = noise.read_message(&request.noise_msg).map_err(|_| "bad_handshake")?;
        let grants = self.config.resume_dials && offer == OFFER;
        let payload = if grants { GRANT } else { &[] };
        noise.write_message(payload, &mut second).map_err(|_| "bad_handshake")?;
        let place = self.place(port)?;
        let response = self.respond(object.hash(), second);
        if grants {
            self.tickets.grant(&remote.key, noise.ticket(), io.now());
        }
        let keys = self.finish_handshake(noise);
        Ok(Accepted { remote, port, keys, response, place })
    }

    /// Check 11: a place in the queue of who listens.
    fn place(&self, port: Port) -> Result<OwnedPermit<Stream>, &'static str> {
        self.shared.listeners.place(port.get()).map_err(|none| match none {
            NoPlace::NoListener => "no_listener",
            NoPlace::QueueFull => "queue_full",
        })
    }

    /// The response to the request of this hash that carries `noise_msg`, signed.
    fn respond(&self, req_hash: [u8; 32], noise_msg: Vec<u8>) -> SignedObject {
        let response =
            StreamResponse { req_hash, accepted: true, noise_msg, ..StreamResponse::default() };
        SignedObject::sign(&self.config.secret_key, &response.encode(Dialect::G24))
    }

    /// The keys of a finished handshake; its peer is remembered for the next one.
    pub(super) fn finish_handshake(&mut self, noise: Handshake) -> TransportKeys {
        let (peer, keys) = noise.into_peer_and_keys();
        if let Some(peer) = peer {
            self.peers.remember(peer);
            self.shared.board.peers_known.store(self.peers.len(), Ordering::Relaxed);
        }
        keys
    }

    /// Sends the response and hands the stream to its listener.
    fn accept(&mut self, io: &mut Io, key: StreamKey, accepted: Accepted) {
        self.timers.cancel(Timer::Inbound(key));
        let now = io.now();
        let Some(server) = self.send_response(io, key, &accepted.response) else { return };
        let Some(up) = self.sessions.get_mut(&key.0).and_then(Session::up_mut) else { return };
        let Some(Slot::Inbound { permit, .. }) = up.streams.remove(&key.1) else { return };
        up.inbound_count -= 1;
        let pipe = Pipe::new(key, self.config.mux, Arc::clone(&self.link), Lease::new(permit));
        up.streams.insert(key.1, Slot::Open(OpenStream::new(Arc::clone(&pipe), now)));
        self.watch_idle(io, key);
        self.shared.board.accepted.fetch_add(1, Ordering::Relaxed);
        let Accepted { port, remote, keys, place, .. } = accepted;
        let local = Addr { key: self.key, port };
        debug!(peer = %remote, server = %server.short(), port, "stream accepted");
        // If the listener is gone meanwhile, the stream closes itself as it is dropped.
        place.send(Stream::new(pipe, local, remote, server, &keys));
    }

    /// Tells an initiator with a ticket why there is no stream for it: a reset would say nothing of the ticket. It ends this
    /// stream; if it does not, [`Timer::Inbound`] does.
    fn decline(
        &mut self,
        io: &mut Io,
        key: StreamKey,
        cause: &'static str,
        response: &SignedObject,
    ) {
        debug!(cause, "dial by ticket declined");
        self.shared.board.inbound_refused.count(cause);
        self.send_response(io, key, response);
    }

    /// Writes the response on its stream; returns through which server. If the session's key is used up, the stream is refused.
    fn send_response(
        &mut self,
        io: &mut Io,
        key: StreamKey,
        response: &SignedObject,
    ) -> Option<PublicKey> {
        let session = self.sessions.get_mut(&key.0)?;
        let server = session.server;
        let up = session.up_mut()?;
        let mut sealed = Vec::new();
        if write_object(&mut up.sealer, response.as_bytes(), &mut sealed).is_err() {
            self.refuse(io, key, "session_worn_out");
            return None;
        }
        if let Some(queue) = io.queue(key.0) {
            up.mux.send_bytes(key.1, &sealed, queue);
        }
        Some(server)
    }
}
