//! Stream dials: a request is read, checked, delivered, answered (`wire.md §4.4`, `§4.5`, `§4.7`, `§5.1`).
//!
//! The relay checks a request completely before it costs the destination anything, and of a response all but
//! the signature, which the initiator must check in any case. It passes the bytes on unchanged, and closes what it
//! refuses at once, so that an initiator never waits for its time-out.

use std::{
    net::IpAddr,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use super::{
    Command, Delivery, Half, RefuseReason, Relay, SessionEnd, Stage, StreamMsg, StreamRef,
    session::Up,
    stream::{Answer, Relaying},
};
use crate::{
    identity::PublicKey,
    io::{ConnId, Io, SEND_HIGH_BYTES},
    mux::StreamId,
    noise::begins_with_a_key,
    pool::Slice,
    session::{
        DIAL_OBJECT_MAX_BYTES, OBJECT_OVERHEAD_BYTES, Object, ObjectReader, PING_MARKER,
        write_object,
    },
    wire::{Dialect, KeyBytes, ObjectError, RawRequest, SignedObject, StreamResponse},
};

/// The initiator's half outlives the destination's by this much, so that the destination's reason is the one reported.
const INITIATOR_SLACK: Duration = Duration::from_secs(1);

/// Dial objects are written whole and regardless of the mark at which data stops, or a busy session could not dial. But not
/// behind this much: whoever reads so little could have them pile up by thousands.
const OBJECTS_QUEUED_BYTES_MAX: usize = 4 * SEND_HIGH_BYTES;

/// The ACK of a stream that a client opens is held back this long at most: an answer is mostly there sooner, and takes it along,
/// which saves both sides a segment and the client a wake-up. Openers wait for at least 20 s (`wire.md §4.8`).
const ACK_DELAY: Duration = Duration::from_secs(1);

/// ACKs held back for one session at most. Openers have a bound on streams without an ACK (256 where deployed, 200 ours): dials
/// to peers that do not answer must not use it up.
const UNACKED_MAX: usize = 64;

impl Relay {
    /// A client opened a stream: wait for its request, and acknowledge the stream with what is said on it, or soon
    /// (`wire.md §3.3`).
    pub(super) fn client_opened(&mut self, io: &mut Io, conn: ConnId, id: StreamId) {
        let (now, dial_timeout) = (io.now(), self.limits.dial_timeout);
        let Some(up) = self.up(conn) else { return };
        let stage = Stage::Request(Box::new(ObjectReader::with_max(DIAL_OBJECT_MAX_BYTES)));
        up.streams.insert(id, Half { unacked: true, ..Half::new(stage, now) });
        up.unacked_count += 1;
        if up.unacked_count > UNACKED_MAX {
            self.acknowledge(io, conn, id);
            self.set_deadline(conn, id, now + dial_timeout);
        } else {
            self.set_deadline(conn, id, now + dial_timeout.min(ACK_DELAY));
        }
        self.stats.half_begins(id);
    }

    /// Sends the ACK of a stream if it is still missing; true if it was.
    pub(super) fn acknowledge(&mut self, io: &mut Io, conn: ConnId, id: StreamId) -> bool {
        let (Some(up), Some(queue)) = (self.up(conn), io.queue(conn)) else { return false };
        let Some(half) = up.streams.get_mut(id).filter(|half| half.unacked) else { return false };
        half.unacked = false;
        up.unacked_count -= 1;
        up.mux().accept(id, queue);
        true
    }

    /// Bytes on a stream whose request is being read.
    pub(super) fn request_bytes(
        &mut self,
        io: &mut Io,
        conn: ConnId,
        id: StreamId,
        mut data: Slice,
    ) {
        let Some(Up { streams, opener, .. }) = self.up(conn) else { return };
        let Some(Half { stage: Stage::Request(reader), .. }) = streams.get_mut(id) else { return };
        let object = match reader.read(&mut data, opener) {
            Ok(Some(object)) => object,
            Ok(None) => return,
            Err(_) => return self.refuse(io, conn, id, RefuseReason::BadCiphertext),
        };
        if !data.is_empty() {
            return self.refuse(io, conn, id, RefuseReason::EarlyData);
        }
        match object {
            Object::Ping => self.answer_ping(io, conn, id),
            Object::Signed(signed) => {
                if let Err(reason) = self.handle_request(io, conn, id, signed) {
                    self.refuse(io, conn, id, reason);
                }
            }
        }
    }

    /// The liveness marker of `wire.md §3.5`: echo it and close.
    fn answer_ping(&mut self, io: &mut Io, conn: ConnId, id: StreamId) {
        self.acknowledge(io, conn, id);
        if self.has_room(io, conn, id, PING_MARKER.len())
            && let (Some(up), Some(queue)) = (self.up(conn), io.queue(conn))
        {
            up.mux().send_bytes(id, &PING_MARKER, queue);
            self.stats.pings_answered.fetch_add(1, Relaxed);
        }
        self.close_half(io, conn, id);
    }

    fn handle_request(
        &mut self,
        io: &mut Io,
        conn: ConnId,
        id: StreamId,
        signed: Vec<u8>,
    ) -> Result<(), RefuseReason> {
        let requests_max = self.limits.requests_per_interval_max;
        let Some(up) = self.up(conn) else { return Ok(()) };
        if up.budget.request(requests_max) {
            return Err(RefuseReason::TooManyRequests);
        }
        let (object, request, destination) = checked_request(signed, &up.key)?;
        if request.asks_for_ip() && destination == *self.public_key.as_bytes() {
            if self.up(conn).is_some_and(|up| up.budget.request(requests_max)) {
                return Err(RefuseReason::TooManyRequests);
            }
            self.answer_ip(io, conn, id, &object);
            return Ok(());
        }
        // A deployed client would panic over it.
        if !begins_with_a_key(&request.noise_msg) {
            return Err(RefuseReason::BadRequest);
        }
        self.forward_request(io, conn, id, &destination, object)
    }

    fn forward_request(
        &mut self,
        io: &mut Io,
        conn: ConnId,
        id: StreamId,
        destination: &KeyBytes,
        request: SignedObject,
    ) -> Result<(), RefuseReason> {
        // Whatever bytes the table finds are a key.
        let (destination, target) =
            self.cores.find_bytes(destination).ok_or(RefuseReason::NoSession)?;
        let from = StreamRef { core: self.core, conn, id };
        let Some(half) = self.half(conn, id) else { return Ok(()) };
        half.stage = Stage::Dialing { peer: None };
        half.active = io.now();
        // While the ACK is held back, the deadline is that of the ACK.
        if !half.unacked {
            let deadline = io.now() + self.limits.dial_timeout + INITIATOR_SLACK;
            self.set_deadline(conn, id, deadline);
        }
        let delivery = Delivery { from, conn: target.conn, destination, request };
        if target.core == self.core {
            self.deliver(io, delivery);
        } else {
            self.outbox.push(target.core, Command::Deliver(Box::new(delivery)));
        }
        Ok(())
    }

    /// Where the client is seen from (`wire.md §5.1`).
    fn answer_ip(&mut self, io: &mut Io, conn: ConnId, id: StreamId, request: &SignedObject) {
        let Some(session) = self.session(conn) else { return };
        let ip = match session.peer.ip().to_canonical() {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let response = StreamResponse {
            req_hash: request.hash(),
            accepted: true,
            ip,
            ..StreamResponse::default()
        };
        let object = SignedObject::sign(&self.secret_key, &response.encode(Dialect::G24));
        if self.write_sealed(io, conn, id, &object) {
            self.stats.ip_lookups.fetch_add(1, Relaxed);
            self.close_half(io, conn, id);
        } else {
            self.refuse(io, conn, id, RefuseReason::SlowReceiver);
        }
    }

    /// A checked request reached the destination's core: open a stream and write it in one go (`wire.md §4.7`).
    pub(super) fn deliver(&mut self, io: &mut Io, delivery: Delivery) {
        let Delivery { from, conn, destination, request } = delivery;
        match self.open_to(io, conn, &destination, &request) {
            Ok(id) => {
                let answer = Answer {
                    reader: ObjectReader::with_max(DIAL_OBJECT_MAX_BYTES),
                    initiator: Some(from),
                    request_hash: request.hash(),
                };
                let stage = Stage::Answer(Box::new(answer));
                let now = io.now();
                let Some(up) = self.up(conn) else { return };
                up.streams.insert(id, Half::new(stage, now));
                self.stats.half_begins(id);
                self.set_deadline(conn, id, now + self.limits.dial_timeout);
                let here = StreamRef { core: self.core, conn, id };
                self.tell(io, from, here, StreamMsg::Delivered);
            }
            Err(reason) => {
                let nowhere = StreamRef { core: self.core, conn, id: StreamId(0) };
                self.tell(io, from, nowhere, StreamMsg::Refused(reason));
            }
        }
    }

    fn open_to(
        &mut self,
        io: &mut Io,
        conn: ConnId,
        destination: &PublicKey,
        request: &SignedObject,
    ) -> Result<StreamId, RefuseReason> {
        let up =
            self.up(conn).filter(|up| up.key == *destination).ok_or(RefuseReason::NoSession)?;
        if io.queued_bytes(conn) > OBJECTS_QUEUED_BYTES_MAX {
            return Err(RefuseReason::DestinationFull);
        }
        let queue = io.queue(conn).ok_or(RefuseReason::NoSession)?;
        let id = up.mux().open(queue).ok_or(RefuseReason::DestinationFull)?;
        // A new stream has a window of sixteen times the longest object that is taken.
        self.write_sealed(io, conn, id, request);
        Ok(id)
    }

    /// Bytes on a stream whose answer is being read.
    pub(super) fn answer_bytes(
        &mut self,
        io: &mut Io,
        conn: ConnId,
        id: StreamId,
        mut data: Slice,
    ) {
        let Some(Up { streams, opener, .. }) = self.up(conn) else { return };
        let Some(Half { stage: Stage::Answer(answer), .. }) = streams.get_mut(id) else { return };
        let signed = match answer.reader.read(&mut data, opener) {
            Ok(Some(Object::Signed(signed))) => signed,
            Ok(None) => return,
            Ok(Some(Object::Ping)) => {
                return self.decline(io, conn, id, RefuseReason::BadResponse);
            }
            Err(_) => return self.decline(io, conn, id, RefuseReason::BadCiphertext),
        };
        let (initiator, hash) = (answer.initiator, answer.request_hash);
        let Some(initiator) = initiator else { return self.close_half(io, conn, id) };
        match checked_response(signed, &hash) {
            Err(reason) => self.decline(io, conn, id, reason),
            Ok(response) => {
                self.start_relaying(io, conn, id, initiator);
                let here = StreamRef { core: self.core, conn, id };
                self.tell(io, initiator, here, StreamMsg::Accepted(response));
                self.flush_early_credit(io, conn, id);
                if !data.is_empty() {
                    self.client_data(io, conn, id, data);
                }
            }
        }
    }

    /// The initiator's half hears that the destination accepted.
    pub(super) fn dial_accepted(
        &mut self,
        io: &mut Io,
        conn: ConnId,
        id: StreamId,
        peer: StreamRef,
        response: &SignedObject,
    ) {
        if self.write_sealed(io, conn, id, response) {
            self.stats.streams_total.fetch_add(1, Relaxed);
            self.start_relaying(io, conn, id, peer);
            self.flush_early_credit(io, conn, id);
        } else {
            self.refuse(io, conn, id, RefuseReason::SlowReceiver);
        }
    }

    fn start_relaying(&mut self, io: &mut Io, conn: ConnId, id: StreamId, peer: StreamRef) {
        let now = io.now();
        if let Some(half) = self.half(conn, id) {
            half.stage = Stage::Relaying(Relaying::new(peer));
            half.active = now;
            self.set_deadline(conn, id, now + self.limits.idle_timeout);
        }
    }

    /// Whether a client takes an answer of `len` bytes: it has given credit for it, and it reads what it is sent.
    fn has_room(&mut self, io: &mut Io, conn: ConnId, id: StreamId, len: usize) -> bool {
        let credit = self.up(conn).map_or(0, |up| up.mux().send_credit(id) as usize);
        credit >= len && io.queued_bytes(conn) <= OBJECTS_QUEUED_BYTES_MAX
    }

    /// Seals a signed object with the session's next counter and writes it whole; false if there is no room for it.
    fn write_sealed(
        &mut self,
        io: &mut Io,
        conn: ConnId,
        id: StreamId,
        object: &SignedObject,
    ) -> bool {
        self.acknowledge(io, conn, id);
        let sealed_len = object.as_bytes().len() + OBJECT_OVERHEAD_BYTES;
        if !self.has_room(io, conn, id, sealed_len) {
            return false;
        }
        let (Some(up), Some(queue)) = (self.up(conn), io.queue(conn)) else { return false };
        let mut bytes = Vec::with_capacity(sealed_len);
        if write_object(&mut up.sealer, object.as_bytes(), &mut bytes).is_err() {
            // 2^64 objects: the session's key is used up.
            self.end_session(io, conn, SessionEnd::ConnectionLost);
            return false;
        }
        up.mux().send_bytes(id, &bytes, queue);
        true
    }

    /// The destination's half gives up on the dial: closes, and tells the initiator why.
    pub(super) fn decline(&mut self, io: &mut Io, conn: ConnId, id: StreamId, why: RefuseReason) {
        let Some(Half { stage: Stage::Answer(answer), .. }) = self.half(conn, id) else { return };
        let initiator = answer.initiator;
        self.close_half(io, conn, id);
        match initiator {
            Some(to) => {
                let here = StreamRef { core: self.core, conn, id };
                self.tell(io, to, here, StreamMsg::Refused(why));
            }
            None => self.stats.refused(why),
        }
    }
}

impl Half {
    /// When a dial that waits here has waited long enough; `None` in other stages.
    pub(super) fn dial_deadline(&self, dial_timeout: Duration) -> Option<Instant> {
        match self.stage {
            Stage::Request(_) => Some(self.active + dial_timeout),
            Stage::Dialing { .. } => Some(self.active + dial_timeout + INITIATOR_SLACK),
            _ => None,
        }
    }
}

/// The checks of `wire.md §4.4` that are a server's; returns the destination's key too.
fn checked_request(
    plain: Vec<u8>,
    session_key: &PublicKey,
) -> Result<(SignedObject, RawRequest, KeyBytes), RefuseReason> {
    let object = SignedObject::from_bytes(plain).map_err(|_| RefuseReason::BadRequest)?;
    let request = RawRequest::decode(object.gob()).map_err(|_| RefuseReason::BadRequest)?;
    let destination = request.verify(&object, session_key).map_err(|error| match error {
        ObjectError::SourceKeyForeign => RefuseReason::ForeignSource,
        _ => RefuseReason::BadRequest,
    })?;
    Ok((object, request, destination))
}

/// The checks of `wire.md §4.5` that only a server can make in time. The signature is the initiator's to check: the
/// response came under the session key of the destination, so nobody else can have sent it.
fn checked_response(plain: Vec<u8>, request_hash: &[u8; 32]) -> Result<SignedObject, RefuseReason> {
    let object = SignedObject::from_bytes(plain).map_err(|_| RefuseReason::BadResponse)?;
    let response = StreamResponse::decode(object.gob()).map_err(|_| RefuseReason::BadResponse)?;
    response.verify_routed(request_hash).map_err(|_| RefuseReason::BadResponse)?;
    Ok(object)
}
