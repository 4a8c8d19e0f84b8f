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
    io::Io,
    noise::{Handshake, Peer, TransportKeys},
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

/// A request that has passed the checks of its fields and its signature.
struct Verified {
    object: SignedObject,
    source: Peer,
    remote: Addr,
    /// Ours.
    port: Port,
    noise_msg: Vec<u8>,
}

/// A request that stands.
struct Accepted {
    remote: Addr,
    local: Addr,
    keys: TransportKeys,
    response: SignedObject,
    place: OwnedPermit<Stream>,
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
                Ok(accepted) => self.accept(io, key, accepted),
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

    /// The checks of `wire.md §4.4`, in its order.
    fn check_request(&mut self, io: &mut Io, bytes: Vec<u8>) -> Result<Accepted, &'static str> {
        let request = self.verify_request(bytes).map_err(|error| {
            debug!(%error, "inbound request");
            "bad_request"
        })?;
        let Verified { object, source, remote, port, noise_msg: first } = request;
        let ephemeral = Self::ephemeral(io);
        let mut noise = Handshake::kk_responder_with(&self.config.secret_key, source, ephemeral);
        let mut second = Vec::new();
        noise
            .read_message(&first)
            .and_then(|_| noise.write_message(&[], &mut second))
            .map_err(|_| "bad_handshake")?;
        let place = self.shared.listeners.place(port.get()).map_err(|none| match none {
            NoPlace::NoListener => "no_listener",
            NoPlace::QueueFull => "queue_full",
        })?;
        let response = StreamResponse {
            req_hash: object.hash(),
            accepted: true,
            noise_msg: second,
            ..StreamResponse::default()
        };
        let response = SignedObject::sign(&self.config.secret_key, &response.encode(Dialect::G24));
        let local = Addr { key: self.key, port };
        let keys = self.finish_handshake(noise);
        Ok(Accepted { remote, local, keys, response, place })
    }

    /// Checks 1 to 9. The source's point is found before its signature is looked at, as decoding would.
    fn verify_request(&mut self, bytes: Vec<u8>) -> Result<Verified, ObjectError> {
        let object = SignedObject::from_bytes(bytes)?;
        let request = RawRequest::decode(object.gob())?;
        let [(source, source_port), (_, port)] = request.addresses()?;
        let source = match self.peers.known(&source) {
            Some(peer) => peer,
            None => Peer::from_bytes(&source).map_err(ObjectError::SourceKeyInvalid)?,
        };
        let remote = Addr { key: *source.key(), port: source_port };
        request.verify_for(&object, &remote.key, &self.key)?;
        Ok(Verified { object, source, remote, port, noise_msg: request.noise_msg })
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
        let Some(session) = self.sessions.get_mut(&key.0) else { return };
        let server = session.server;
        let Some(up) = session.up_mut() else { return };
        let mut sealed = Vec::new();
        if write_object(&mut up.sealer, accepted.response.as_bytes(), &mut sealed).is_err() {
            return self.refuse(io, key, "session_worn_out");
        }
        let Some(Slot::Inbound { permit, .. }) = up.streams.remove(&key.1) else { return };
        up.inbound_count -= 1;
        if let Some(queue) = io.queue(key.0) {
            up.mux.send_bytes(key.1, &sealed, queue);
        }
        let pipe = Pipe::new(key, self.config.mux, Arc::clone(&self.link), Lease::new(permit));
        up.streams.insert(key.1, Slot::Open(OpenStream::new(Arc::clone(&pipe), now)));
        self.watch_idle(io, key);
        self.shared.board.accepted.fetch_add(1, Ordering::Relaxed);
        let Accepted { local, remote, keys, place, .. } = accepted;
        debug!(peer = %remote, server = %server.short(), port = local.port, "stream accepted");
        // If the listener is gone meanwhile, the stream closes itself as it is dropped.
        place.send(Stream::new(pipe, local, remote, server, &keys));
    }
}
