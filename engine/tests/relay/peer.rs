//! A scripted DMSG client: real crypto and framing, and every step under the test's control.

use std::{collections::HashMap, sync::Arc, time::Duration};

use dmsg_engine::{
    driver::sim::{Net, NodeId, RawConn, RawState},
    identity::{PublicKey, SecretKey},
    mux::{Event, Mux, MuxConfig, MuxKind, Role, StreamId},
    noise::{ObjectOpener, Sealer},
    pool::{SendQueue, Slice},
    relay::{Cores, Relay, RelayConfig, RelayLimits, Stats},
    session::{Established, SessionHandshake, Step, write_object},
    wire::{Dialect, SignedObject, StreamRequest, StreamResponse, WireAddr},
};

/// Long enough for anything that happens at once.
pub(crate) const SOON: Duration = Duration::from_millis(200);

/// A relay node with its address and counters.
pub(crate) struct Server {
    pub(crate) node: NodeId,
    pub(crate) address: std::net::SocketAddr,
    pub(crate) key: PublicKey,
    pub(crate) stats: Arc<Stats>,
    pub(crate) cores: Arc<Cores>,
}

pub(crate) fn server(net: &mut Net) -> Server {
    server_with(net, RelayLimits::default())
}

pub(crate) fn server_with(net: &mut Net, limits: RelayLimits) -> Server {
    let secret_key = SecretKey::from_seed(b"server");
    let key = secret_key.public_key();
    let (cores, stats) = (Arc::new(Cores::new(1)), Arc::new(Stats::default()));
    let config = RelayConfig { secret_key, limits, newcomers: None };
    let node = net.add(Relay::new(config, 0, Arc::clone(&cores), Arc::clone(&stats)));
    let address = net.listen(node);
    Server { node, address, key, stats, cores }
}

/// One scripted client with one session.
pub(crate) struct Peer {
    pub(crate) secret: SecretKey,
    pub(crate) raw: RawConn,
    pub(crate) mux: Mux,
    pub(crate) queue: SendQueue,
    sealer: Sealer,
    opener: ObjectOpener,
    /// Bytes that came on each stream and were not taken.
    pub(crate) data: HashMap<StreamId, Vec<u8>>,
    /// Everything else that came, in order.
    pub(crate) events: Vec<Event>,
    /// Grants what arrives at once, as an application that reads would.
    pub(crate) grants: bool,
}

impl Peer {
    /// Connects and ends the handshake; the mux stays silent.
    pub(crate) fn connect(net: &mut Net, server: &Server, seed: &[u8], kind: MuxKind) -> Self {
        let raw = net.raw_connect(server.address);
        Self::connect_over(net, server, raw, seed, kind)
    }

    /// The same over a connection that is there.
    pub(crate) fn connect_over(
        net: &mut Net,
        server: &Server,
        raw: RawConn,
        seed: &[u8],
        kind: MuxKind,
    ) -> Self {
        let secret = SecretKey::from_seed(seed);
        let mut hello = Vec::new();
        let ephemeral = SecretKey::from_seed(&[seed, b"ephemeral"].concat());
        let mut handshake = SessionHandshake::initiator(&secret, server.key, ephemeral, &mut hello);
        net.raw_write(&raw, &hello);
        let established = loop {
            assert!(net.step(), "the handshake came to a halt");
            let bytes = net.raw_read(&raw);
            if bytes.is_empty() {
                continue;
            }
            let mut reply = Vec::new();
            let step = handshake.receive(Slice::from_vec(bytes), &mut reply).unwrap();
            net.raw_write(&raw, &reply);
            if let Step::Done(established) = step {
                break *established;
            }
        };
        net.run_for(SOON);
        let Established { sealer, opener, .. } = established;
        Self {
            secret,
            raw,
            mux: Mux::new(kind, Role::Client, MuxConfig::default()),
            queue: SendQueue::default(),
            sealer,
            opener,
            data: HashMap::new(),
            events: Vec::new(),
            grants: true,
        }
    }

    pub(crate) fn key(&self) -> PublicKey {
        self.secret.public_key()
    }

    /// Sends what is queued and takes in what came, without letting time pass.
    pub(crate) fn pump(&mut self, net: &mut Net) {
        self.flush(net);
        let mut input = Slice::from_vec(net.raw_read(&self.raw));
        while let Some(event) = self.mux.next_event(&mut input, &mut self.queue).unwrap() {
            match event {
                Event::Data(id, data) => {
                    self.data.entry(id).or_default().extend_from_slice(&data);
                    if self.grants {
                        let bytes = u32::try_from(data.len()).unwrap();
                        self.mux.grant(id, bytes, false, &mut self.queue);
                    }
                }
                Event::Opened(id) => {
                    self.mux.accept(id, &mut self.queue);
                    self.events.push(event);
                }
                other => self.events.push(other),
            }
        }
        self.flush(net);
    }

    fn flush(&mut self, net: &mut Net) {
        let bytes: Vec<u8> = self.queue.pieces().flatten().copied().collect();
        self.queue.clear();
        net.raw_write(&self.raw, &bytes);
    }

    pub(crate) fn open(&mut self) -> StreamId {
        self.mux.open(&mut self.queue).unwrap()
    }

    pub(crate) fn seal(&mut self, object: &SignedObject) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_object(&mut self.sealer, object.as_bytes(), &mut bytes).unwrap();
        bytes
    }

    /// Takes the one object that has come on a stream.
    pub(crate) fn take_object(&mut self, id: StreamId) -> SignedObject {
        let bytes = self.data.remove(&id).unwrap();
        let length = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
        let plain = self.opener.open(&bytes[2..2 + length]).unwrap();
        if bytes.len() > 2 + length {
            self.data.insert(id, bytes[2 + length..].to_vec());
        }
        SignedObject::from_bytes(plain).unwrap()
    }

    /// What a server takes for a handshake message: a key, and then so many bytes in all.
    pub(crate) fn handshake_message(&self, len: usize) -> Vec<u8> {
        let mut message = self.key().as_bytes().to_vec();
        message.resize(len, 9);
        message
    }

    /// A well-formed request from us to port 80 of `to`.
    pub(crate) fn request(&self, to: PublicKey) -> StreamRequest {
        StreamRequest {
            timestamp: 1,
            src: WireAddr { key: Some(self.key()), port: 49153 },
            dst: WireAddr { key: Some(to), port: 80 },
            noise_msg: self.handshake_message(49),
            ..StreamRequest::default()
        }
    }

    pub(crate) fn sign(&self, request: &StreamRequest) -> SignedObject {
        SignedObject::sign(&self.secret, &request.encode(Dialect::G24))
    }

    /// Opens a stream and writes a request on it.
    pub(crate) fn send_request(&mut self, request: &StreamRequest) -> (StreamId, SignedObject) {
        let object = self.sign(request);
        let bytes = self.seal(&object);
        let id = self.open();
        self.mux.send_bytes(id, &bytes, &mut self.queue);
        (id, object)
    }

    /// Signs and writes the positive response to `request`.
    pub(crate) fn accept(&mut self, id: StreamId, request: &SignedObject) {
        let response = StreamResponse {
            req_hash: request.hash(),
            accepted: true,
            noise_msg: self.handshake_message(49),
            ..StreamResponse::default()
        };
        self.answer(id, &response);
    }

    pub(crate) fn answer(&mut self, id: StreamId, response: &StreamResponse) {
        let object = SignedObject::sign(&self.secret, &response.encode(Dialect::G24));
        let bytes = self.seal(&object);
        self.mux.send_bytes(id, &bytes, &mut self.queue);
    }

    pub(crate) fn send(&mut self, id: StreamId, bytes: &[u8]) {
        self.mux.send_bytes(id, bytes, &mut self.queue);
    }

    /// The one stream that was opened to us since the last call.
    pub(crate) fn opened(&mut self) -> StreamId {
        let opened: Vec<_> = self
            .events
            .iter()
            .filter_map(|e| if let Event::Opened(id) = e { Some(*id) } else { None })
            .collect();
        assert_eq!(opened.len(), 1, "one stream was to be opened to this peer");
        self.events.retain(|e| !matches!(e, Event::Opened(_)));
        opened[0]
    }

    pub(crate) fn finished(&self, id: StreamId) -> bool {
        self.events.iter().any(|e| matches!(e, Event::Finished(i) if *i == id))
    }

    pub(crate) fn was_reset(&self, id: StreamId) -> bool {
        self.events.iter().any(|e| matches!(e, Event::Reset(i) if *i == id))
    }

    pub(crate) fn taken(&mut self, id: StreamId) -> Vec<u8> {
        self.data.remove(&id).unwrap_or_default()
    }

    pub(crate) fn is_open(&self, net: &Net) -> bool {
        net.raw_state(&self.raw) == RawState::Open
    }
}

/// Lets a little time pass, with all peers taking part.
pub(crate) fn settle(net: &mut Net, peers: &mut [&mut Peer]) {
    settle_for(net, peers, SOON);
}

/// The same for longer.
pub(crate) fn settle_for(net: &mut Net, peers: &mut [&mut Peer], time: Duration) {
    let slices = 20;
    for _ in 0..slices {
        for peer in peers.iter_mut() {
            peer.pump(net);
        }
        net.run_for(time / slices);
    }
    for peer in peers.iter_mut() {
        peer.pump(net);
    }
}

/// A relayed stream from `a` to `b`, dialled and accepted.
pub(crate) fn connect_through(net: &mut Net, a: &mut Peer, b: &mut Peer) -> (StreamId, StreamId) {
    let (at_a, object) = a.send_request(&a.request(b.key()));
    settle(net, &mut [a, b]);
    let at_b = b.opened();
    assert_eq!(b.take_object(at_b), object, "the request passes unchanged");
    b.accept(at_b, &object);
    settle(net, &mut [a, b]);
    let response = a.take_object(at_a);
    let decoded = StreamResponse::decode(response.gob()).unwrap();
    decoded.verify(&response, &object.hash(), &b.key()).unwrap();
    (at_a, at_b)
}
