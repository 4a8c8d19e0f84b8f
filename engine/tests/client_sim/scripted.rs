//! A small server that forwards dials and can be told to misbehave. It is a test's peer, not a
//! relay: no limits, no checks, whole buffering.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
};

use dmsg_engine::{
    identity::{PublicKey, SecretKey},
    io::{CloseMode, Closed, ConnId, Io, Machine},
    mux::{Event, Mux, MuxConfig, MuxKind, Role, StreamId},
    noise::{ObjectOpener, ResumeRequest, Sealer},
    pool::Slice,
    session::{Object, ObjectReader, SessionHandshake, Step, write_object},
    wire::{Dialect, SignedObject, StreamRequest, StreamResponse},
};

/// What a server does wrong.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// Close so many connections right after the third handshake message.
    pub close_at_once: usize,
    /// Reset every stream a client opens, once its request is read.
    pub refuse: bool,
    /// Read requests and never answer.
    pub silent: bool,
    /// Read requests for this one and never answer.
    pub silent_for: Option<PublicKey>,
    /// Forget a session's frames altogether: no ACK, no pong.
    pub deaf: bool,
    /// Deliver requests to this one, whoever they are for.
    pub misroute_to: Option<PublicKey>,
    /// Flip a byte of every response.
    pub spoil_responses: bool,
    /// Answer every dial by ticket in the peer's place, as if it did not know the ticket.
    pub forget_tickets: bool,
}

/// Tells a server what to do.
#[derive(Debug)]
pub enum Tell {
    Script(Script),
    /// Opens a stream to a client and writes these bytes, bare.
    OpenTo(PublicKey, Vec<u8>),
    /// Sends go-away.
    GoAway(PublicKey),
    /// Resets every stream of a client.
    ResetAll(PublicKey),
}

type Key = (ConnId, StreamId);

struct End {
    reader: Option<ObjectReader>,
    peer: Option<Key>,
    waiting: VecDeque<Slice>,
    finish: bool,
}

struct Up {
    client: PublicKey,
    mux: Mux,
    sealer: Sealer,
    opener: ObjectOpener,
    ends: BTreeMap<StreamId, End>,
}

enum Conn {
    Shaking(SessionHandshake),
    Up(Box<Up>),
}

pub struct ScriptedServer {
    key: SecretKey,
    mux: MuxKind,
    script: Script,
    conns: BTreeMap<ConnId, Conn>,
    /// Handshakes that were finished.
    pub handshakes: usize,
    /// Requests that were read.
    pub requests: usize,
    /// Bytes a client sent right behind its third message.
    pub early_bytes: usize,
}

impl ScriptedServer {
    pub fn new(key: SecretKey, mux: MuxKind) -> Self {
        let (script, conns) = (Script::default(), BTreeMap::new());
        Self { key, mux, script, conns, handshakes: 0, requests: 0, early_bytes: 0 }
    }

    /// Streams that are open, over all sessions.
    pub fn stream_count(&self) -> usize {
        self.conns
            .values()
            .map(|conn| match conn {
                Conn::Up(up) => up.mux.stream_count(),
                Conn::Shaking(_) => 0,
            })
            .sum()
    }

    /// Sessions that are up.
    pub fn session_count(&self) -> usize {
        self.conns.values().filter(|conn| matches!(conn, Conn::Up(_))).count()
    }

    fn up(&mut self, conn: ConnId) -> Option<&mut Up> {
        match self.conns.get_mut(&conn)? {
            Conn::Up(up) => Some(up),
            Conn::Shaking(_) => None,
        }
    }

    fn find(&self, client: PublicKey) -> Option<ConnId> {
        let is = |conn: &Conn| matches!(conn, Conn::Up(up) if up.client == client);
        self.conns.iter().rev().find(|(_, conn)| is(conn)).map(|(&id, _)| id)
    }

    fn add_end(&mut self, key: Key, reader: bool, peer: Option<Key>) {
        let reader = reader.then(ObjectReader::new);
        let end = End { reader, peer, waiting: VecDeque::new(), finish: false };
        self.up(key.0).unwrap().ends.insert(key.1, end);
    }

    fn reset(&mut self, io: &mut Io, key: Key) {
        if let (Some(up), Some(queue)) = (self.up(key.0), io.queue(key.0)) {
            up.mux.reset(key.1, queue);
            up.ends.remove(&key.1);
        }
    }

    fn on_event(&mut self, io: &mut Io, conn: ConnId, event: Event) {
        match event {
            Event::Opened(id) => {
                self.add_end((conn, id), true, None);
                let queue = io.queue(conn).unwrap();
                self.up(conn).unwrap().mux.accept(id, queue);
            }
            Event::Data(id, data) => self.on_data(io, (conn, id), data),
            Event::Credit(id, _) => self.forward(io, (conn, id)),
            Event::Finished(id) => {
                let peer = self.up(conn).unwrap().ends.get(&id).and_then(|end| end.peer);
                match peer {
                    Some(peer) => {
                        if let Some(end) = self.up(peer.0).and_then(|up| up.ends.get_mut(&peer.1)) {
                            end.finish = true;
                        }
                        self.forward(io, peer);
                    }
                    None => self.reset(io, (conn, id)),
                }
            }
            Event::Reset(id) => {
                if let Some(end) = self.up(conn).unwrap().ends.remove(&id)
                    && let Some(peer) = end.peer
                {
                    self.reset(io, peer);
                }
            }
            Event::Acked(_) | Event::Pong(_) | Event::GoAway => {}
        }
    }

    fn on_data(&mut self, io: &mut Io, key: Key, mut data: Slice) {
        let len = data.len() as u32;
        let Some(up) = self.up(key.0) else { return };
        let Some(end) = up.ends.get_mut(&key.1) else { return };
        if let Some(reader) = &mut end.reader {
            up.mux.grant(key.1, len, true, io.queue(key.0).unwrap());
            match reader.read(&mut data, &mut up.opener) {
                Ok(None) => return,
                Ok(Some(Object::Signed(bytes))) => {
                    end.reader = None;
                    let peer = end.peer;
                    self.on_object(io, key, peer, bytes);
                }
                other => panic!("a client sent no object: {other:?}"),
            }
        }
        if data.is_empty() {
            return;
        }
        let Some(peer) = self.up(key.0).and_then(|up| up.ends.get(&key.1)?.peer) else { return };
        if let Some(end) = self.up(peer.0).and_then(|up| up.ends.get_mut(&peer.1)) {
            end.waiting.push_back(data);
        }
        self.forward(io, peer);
    }

    fn on_object(&mut self, io: &mut Io, key: Key, peer: Option<Key>, bytes: Vec<u8>) {
        let object = SignedObject::from_bytes(bytes).unwrap();
        if let Some(initiator) = peer {
            let mut bytes = object.as_bytes().to_vec();
            if self.script.spoil_responses {
                *bytes.last_mut().unwrap() ^= 1;
            }
            return self.write(io, initiator, &bytes);
        }
        self.requests += 1;
        let request = StreamRequest::decode(object.gob()).unwrap();
        request.verify(&object).unwrap();
        if self.script.silent
            || (self.script.silent_for.is_some() && self.script.silent_for == request.dst.key)
        {
            return;
        }
        if request.ip_info {
            let response = StreamResponse {
                req_hash: object.hash(),
                accepted: true,
                ip: vec![203, 0, 113, 9],
                ..StreamResponse::default()
            };
            let answer = SignedObject::sign(&self.key, &response.encode(Dialect::G24));
            return self.write(io, key, answer.as_bytes());
        }
        if self.script.forget_tickets && ResumeRequest::parse(&request.noise_msg).is_some() {
            let response = StreamResponse {
                req_hash: object.hash(),
                accepted: true,
                noise_msg: ResumeRequest::answer_unknown(),
                ..StreamResponse::default()
            };
            let answer = SignedObject::sign(&self.key, &response.encode(Dialect::G24));
            return self.write(io, key, answer.as_bytes());
        }
        let to = self.script.misroute_to.or(request.dst.key).unwrap();
        let destination = self.find(to).filter(|_| !self.script.refuse);
        let Some(conn) = destination else { return self.reset(io, key) };
        let queue = io.queue(conn).unwrap();
        let id = self.up(conn).unwrap().mux.open(queue).unwrap();
        self.add_end((conn, id), true, Some(key));
        self.up(key.0).unwrap().ends.get_mut(&key.1).unwrap().peer = Some((conn, id));
        self.write(io, (conn, id), object.as_bytes());
    }

    fn write(&mut self, io: &mut Io, key: Key, signed: &[u8]) {
        let Some(up) = self.up(key.0) else { return };
        let mut out = Vec::new();
        write_object(&mut up.sealer, signed, &mut out).unwrap();
        up.mux.send_bytes(key.1, &out, io.queue(key.0).unwrap());
    }

    /// Sends what waits towards `key`, and grants as much to where it came from.
    fn forward(&mut self, io: &mut Io, key: Key) {
        loop {
            let Some(up) = self.up(key.0) else { return };
            let Some(end) = up.ends.get_mut(&key.1) else { return };
            let credit = up.mux.send_credit(key.1) as usize;
            let Some(first) = end.waiting.front_mut().filter(|_| credit > 0) else { break };
            let part = first.split_to(credit);
            if first.is_empty() {
                end.waiting.pop_front();
            }
            let (len, source) = (part.len() as u32, end.peer.unwrap());
            up.mux.send(key.1, part, io.queue(key.0).unwrap());
            if let (Some(up), Some(queue)) = (self.up(source.0), io.queue(source.0)) {
                up.mux.grant(source.1, len, true, queue);
            }
        }
        let up = self.up(key.0).unwrap();
        if let Some(end) = up.ends.get(&key.1)
            && end.finish
            && end.waiting.is_empty()
        {
            up.mux.finish(key.1, io.queue(key.0).unwrap());
        }
    }

    fn mux_input(&mut self, io: &mut Io, conn: ConnId, mut data: Slice) {
        if self.script.deaf {
            return;
        }
        while let Some(up) = self.up(conn)
            && let Some(queue) = io.queue(conn)
        {
            match up.mux.next_event(&mut data, queue).expect("clients keep to the mux's rules") {
                Some(event) => self.on_event(io, conn, event),
                None => break,
            }
        }
    }
}

impl Machine for ScriptedServer {
    type Command = Tell;

    fn accepted(&mut self, io: &mut Io, conn: ConnId, _peer: SocketAddr) {
        let mut seed = [0; 32];
        io.random(&mut seed);
        let ephemeral = SecretKey::from_seed(&seed);
        self.conns.insert(conn, Conn::Shaking(SessionHandshake::responder(&self.key, ephemeral)));
    }

    fn connected(&mut self, _: &mut Io, _: ConnId) {}

    fn received(&mut self, io: &mut Io, conn: ConnId, data: Slice) {
        let Some(Conn::Shaking(handshake)) = self.conns.get_mut(&conn) else {
            return self.mux_input(io, conn, data);
        };
        let mut out = Vec::new();
        let step = handshake.receive(data, &mut out).unwrap();
        io.queue(conn).unwrap().push_bytes(&out);
        let Step::Done(established) = step else { return };
        self.handshakes += 1;
        self.early_bytes += established.rest.len();
        if self.script.close_at_once > 0 {
            self.script.close_at_once -= 1;
            self.conns.remove(&conn);
            return io.close(conn, CloseMode::Flush);
        }
        let up = Up {
            client: established.remote,
            mux: Mux::new(self.mux, Role::Server, MuxConfig::default()),
            sealer: established.sealer,
            opener: established.opener,
            ends: BTreeMap::new(),
        };
        self.conns.insert(conn, Conn::Up(Box::new(up)));
    }

    fn writable(&mut self, _: &mut Io, _: ConnId) {}

    fn closed(&mut self, io: &mut Io, conn: ConnId, _: Closed) {
        if let Some(Conn::Up(up)) = self.conns.remove(&conn) {
            for peer in up.ends.into_values().filter_map(|end| end.peer) {
                self.reset(io, peer);
            }
        }
    }

    fn command(&mut self, io: &mut Io, tell: Tell) {
        match tell {
            Tell::Script(script) => self.script = script,
            Tell::OpenTo(client, bytes) => {
                let conn = self.find(client).unwrap();
                let queue = io.queue(conn).unwrap();
                let up = self.up(conn).unwrap();
                let id = up.mux.open(queue).unwrap();
                up.mux.send_bytes(id, &bytes, queue);
                self.add_end((conn, id), true, None);
            }
            Tell::GoAway(client) => {
                let conn = self.find(client).unwrap();
                self.up(conn).unwrap().mux.go_away(io.queue(conn).unwrap());
            }
            Tell::ResetAll(client) => {
                let conn = self.find(client).unwrap();
                for id in self.up(conn).unwrap().mux.stream_ids() {
                    self.reset(io, (conn, id));
                }
            }
        }
    }

    fn timeout(&mut self, _: &mut Io) {}
}
