//! Both ways of a frame do the same: whatever is sent, in whatever cuts, the receivers get the same bytes and the
//! source the same credit, whether blocks are planned or each frame takes the general way.

#![allow(clippy::unwrap_used)]

use std::{sync::Arc, time::Instant};

use proptest::prelude::*;

use super::*;
use crate::{
    identity::SecretKey,
    io::Machine,
    mux::{Event, Mux, MuxConfig, MuxCounters, Role},
    noise::{ObjectOpener, Sealer},
    pool::SendQueue,
    relay::{Cores, RelayConfig, RelayLimits, Stats},
    session::{SessionHandshake, Step, write_object},
    wire::{Dialect, SignedObject, StreamRequest, StreamResponse, WireAddr},
};

struct Client {
    secret: SecretKey,
    conn: ConnId,
    mux: Mux,
    queue: SendQueue,
    sealer: Sealer,
    opener: ObjectOpener,
    opened: Vec<StreamId>,
    /// What came on each stream, and whether it ended.
    got: Vec<(StreamId, Vec<u8>)>,
    ends: Vec<StreamId>,
    /// What it reads is granted; else credit runs out.
    grants: bool,
}

/// How the relay gets its bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Feed {
    /// Each frame by itself.
    General,
    /// Blocks that are the relay's own.
    Planned,
    /// Blocks that somebody else has a slice of.
    Shared,
}

struct World {
    io: Io,
    relay: Relay,
    stats: Arc<Stats>,
    clients: Vec<Client>,
    feed: Feed,
    cuts: Vec<usize>,
    turn: usize,
}

/// All that must be the same.
#[derive(Debug, PartialEq)]
struct Outcome {
    got: Vec<Vec<(StreamId, Vec<u8>)>>,
    ended: Vec<Vec<StreamId>>,
    credit: Vec<u32>,
    relayed: u64,
    counters: Vec<MuxCounters>,
    pending_bytes: usize,
}

impl World {
    fn new(kinds: &[MuxKind], feed: Feed, cuts: &[usize]) -> Self {
        let secret_key = SecretKey::from_seed(b"server");
        let server = secret_key.public_key();
        let stats = Arc::new(Stats::default());
        let config = RelayConfig { secret_key, limits: RelayLimits::default(), newcomers: None };
        let mut relay = Relay::new(config, 0, Arc::new(Cores::new(1)), Arc::clone(&stats));
        relay.plan.is_off = feed == Feed::General;
        let io = Io::new(Box::new(|bytes: &mut [u8]| bytes.fill(7)), Instant::now(), 0);
        let cuts = cuts.to_vec();
        let mut world = Self { io, relay, stats, clients: Vec::new(), feed, cuts, turn: 0 };
        for (number, kind) in kinds.iter().enumerate() {
            world.connect(number, *kind, server);
        }
        world
    }

    fn connect(&mut self, number: usize, kind: MuxKind, server: crate::identity::PublicKey) {
        let [secret, ephemeral] = [0, 1].map(|n| SecretKey::from_seed(&[number as u8, n]));
        let conn = self.io.add_conn();
        self.relay.accepted(&mut self.io, conn, ([127, 0, 0, 1], 1).into());
        let mut out = Vec::new();
        let mut handshake = SessionHandshake::initiator(&secret, server, ephemeral, &mut out);
        self.relay.received(&mut self.io, conn, Slice::from_vec(std::mem::take(&mut out)));
        let answer = Slice::from_vec(self.take(conn));
        let Ok(Step::Done(done)) = handshake.receive(answer, &mut out) else { unreachable!() };
        self.relay.received(&mut self.io, conn, Slice::from_vec(out));
        let mut client = Client {
            secret,
            conn,
            mux: Mux::new(kind, Role::Client, MuxConfig::default()),
            queue: SendQueue::default(),
            sealer: done.sealer,
            opener: done.opener,
            opened: Vec::new(),
            got: Vec::new(),
            ends: Vec::new(),
            grants: true,
        };
        client.mux.ping(0, &mut client.queue);
        self.clients.push(client);
        self.settle();
    }

    fn take(&mut self, conn: ConnId) -> Vec<u8> {
        let queue = self.io.driver_queue(conn).unwrap();
        let bytes = queue.pieces().flatten().copied().collect();
        queue.advance(queue.len());
        if self.io.note_sent(conn) {
            self.relay.writable(&mut self.io, conn);
        }
        bytes
    }

    /// Gives the relay what the clients have to send, a cut of each in turn.
    fn give(&mut self) -> bool {
        let mut waiting: Vec<(ConnId, Vec<u8>)> = Vec::new();
        for client in &mut self.clients {
            let bytes: Vec<u8> = client.queue.pieces().flatten().copied().collect();
            client.queue.clear();
            waiting.push((client.conn, bytes));
        }
        let moved = waiting.iter().any(|(_, bytes)| !bytes.is_empty());
        while waiting.iter().any(|(_, bytes)| !bytes.is_empty()) {
            for (conn, bytes) in waiting.iter_mut().filter(|(_, bytes)| !bytes.is_empty()) {
                self.turn += 1;
                let cut = self.cuts[self.turn % self.cuts.len()].min(bytes.len());
                let later = bytes.split_off(cut);
                let data = Slice::from_vec(std::mem::replace(bytes, later));
                let _other_owner = (self.feed == Feed::Shared).then(|| data.clone());
                self.relay.received(&mut self.io, *conn, data);
            }
        }
        moved
    }

    fn settle(&mut self) {
        loop {
            let mut moved = false;
            for number in 0..self.clients.len() {
                let bytes = self.take(self.clients[number].conn);
                moved |= !bytes.is_empty();
                self.clients[number].hear(bytes);
            }
            if !self.give() && !moved {
                return;
            }
        }
    }

    fn dial(&mut self, from: usize, to: usize) -> StreamId {
        let destination = self.clients[to].secret.public_key();
        let client = &mut self.clients[from];
        let request = StreamRequest {
            timestamp: 1,
            src: WireAddr { key: Some(client.secret.public_key()), port: 49153 },
            dst: WireAddr { key: Some(destination), port: 80 },
            noise_msg: client.secret.public_key().as_bytes().to_vec(),
            ..StreamRequest::default()
        };
        let request = SignedObject::sign(&client.secret, &request.encode(Dialect::G24));
        let near = client.mux.open(&mut client.queue).unwrap();
        client.say(near, &request);
        self.settle();
        let client = &mut self.clients[to];
        let far = client.opened.pop().unwrap();
        let response = StreamResponse {
            req_hash: request.hash(),
            accepted: true,
            noise_msg: client.secret.public_key().as_bytes().to_vec(),
            ..StreamResponse::default()
        };
        let response = SignedObject::sign(&client.secret, &response.encode(Dialect::G24));
        client.say(far, &response);
        self.settle();
        self.clients.iter_mut().for_each(|client| client.got.clear());
        near
    }

    fn outcome(&self, streams: &[(usize, StreamId)]) -> Outcome {
        let got: Vec<_> = self.clients.iter().map(|c| c.got.clone()).collect();
        let credit = |(at, id): &(usize, StreamId)| self.clients[*at].mux.send_credit(*id);
        let credit: Vec<_> = streams.iter().map(credit).collect();
        let relayed = self.stats.relayed_bytes.load(Relaxed);
        let counters: Vec<_> = (self.relay.sessions.iter().flatten())
            .map(|session| match &session.phase {
                Phase::Up(up) => up.mux.as_ref().unwrap().counters(),
                Phase::Handshake(_) => unreachable!(),
            })
            .collect();
        let (counters, pending_bytes) = (counters[..SOURCES].to_vec(), self.relay.pending_bytes);
        let ended = self.clients.iter().map(|c| c.ends.clone()).collect();
        Outcome { got, ended, credit, relayed, counters, pending_bytes }
    }
}

impl Client {
    fn hear(&mut self, bytes: Vec<u8>) {
        let mut input = Slice::from_vec(bytes);
        while let Some(event) = self.mux.next_event(&mut input, &mut self.queue).unwrap() {
            match event {
                Event::Opened(id) => {
                    self.mux.accept(id, &mut self.queue);
                    self.opened.push(id);
                }
                Event::Data(id, data) => {
                    match self.got.iter_mut().find(|(other, _)| *other == id) {
                        Some((_, bytes)) => bytes.extend_from_slice(&data),
                        None => self.got.push((id, data.to_vec())),
                    }
                    if self.grants {
                        self.mux.grant(id, data.len() as u32, true, &mut self.queue);
                    }
                }
                Event::Finished(id) => self.ends.push(id),
                _ => {}
            }
        }
        self.got.sort_by_key(|(id, _)| *id);
    }

    fn push_frame(&mut self, kind: MuxKind, id: StreamId, len: u32) {
        let mut frame = vec![0; kind.header_bytes() + len as usize];
        kind.write_plain(PlainFrame { id, len }, &mut frame);
        self.queue.push_bytes(&frame);
    }

    fn say(&mut self, id: StreamId, object: &SignedObject) {
        // What came on the stream before is of no interest, but its counter is.
        let _opener = &self.opener;
        let mut bytes = Vec::new();
        write_object(&mut self.sealer, object.as_bytes(), &mut bytes).unwrap();
        self.mux.send_bytes(id, &bytes, &mut self.queue);
    }
}

/// Two sources, whose streams have the same ids, and two receivers.
const SOURCES: usize = 2;

#[derive(Debug, Clone)]
enum Act {
    Data(usize, usize),
    Finish(usize),
    Settle,
    /// The receivers grant what they read from now on, or not.
    Grant(bool),
    /// A data frame for a stream that is not there; an empty one for a stream that is; a keep-alive.
    Unknown(usize),
    Empty(usize),
    Ping(usize),
}

const STREAMS: usize = 4 * SOURCES;

fn act() -> impl Strategy<Value = Act> {
    let len = prop_oneof![1..100usize, 1..3000usize, 30_000..70_000usize];
    prop_oneof![
        12 => (0..STREAMS, len).prop_map(|(stream, len)| Act::Data(stream, len)),
        1 => (0..STREAMS).prop_map(Act::Finish),
        3 => Just(Act::Settle),
        1 => any::<bool>().prop_map(Act::Grant),
        1 => (0..SOURCES).prop_map(Act::Unknown),
        1 => (0..STREAMS).prop_map(Act::Empty),
        1 => (0..SOURCES).prop_map(Act::Ping),
    ]
}

/// Plays the acts and returns what came of it.
fn play(kinds: &[MuxKind], feed: Feed, cuts: &[usize], acts: &[Act]) -> Outcome {
    let mut world = World::new(kinds, feed, cuts);
    let ways = (0..STREAMS).map(|n| (n / 4, SOURCES + n % 2));
    let streams: Vec<_> = ways.map(|(from, to)| (from, world.dial(from, to))).collect();
    let mut value = 0u8;
    for act in acts {
        match *act {
            Act::Data(stream, len) => {
                let (at, id) = streams[stream];
                let Client { mux, queue, .. } = &mut world.clients[at];
                let len = len.min(mux.send_credit(id) as usize);
                let bytes: Vec<u8> = (0..len).map(|i| value.wrapping_add(i as u8)).collect();
                value = value.wrapping_mul(31).wrapping_add(1);
                mux.send_bytes(id, &bytes, queue);
            }
            Act::Finish(stream) => {
                let (at, id) = streams[stream];
                let Client { mux, queue, .. } = &mut world.clients[at];
                mux.finish(id, queue);
            }
            Act::Settle => world.settle(),
            Act::Grant(grants) => world.clients.iter_mut().for_each(|c| c.grants = grants),
            Act::Unknown(at) => world.clients[at].push_frame(kinds[at], StreamId(9001), 300),
            Act::Empty(stream) => {
                let (at, id) = streams[stream];
                world.clients[at].push_frame(kinds[at], id, 0);
            }
            Act::Ping(at) => {
                let Client { mux, queue, .. } = &mut world.clients[at];
                mux.ping(5, queue);
            }
        }
    }
    world.settle();
    world.outcome(&streams)
}

fn kind() -> impl Strategy<Value = MuxKind> {
    prop_oneof![Just(MuxKind::Yamux), Just(MuxKind::SmuxV1), Just(MuxKind::SmuxV2)]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 32,
        max_shrink_iters: 100,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_planned_and_the_general_way_agree(
        kinds in [kind(), kind(), kind(), kind()],
        cuts in proptest::collection::vec(
            prop_oneof![1..40usize, Just(12), 1000..5000usize, Just(16_384), Just(65_536)], 1..5),
        acts in proptest::collection::vec(act(), 1..60),
    ) {
        let general = play(&kinds, Feed::General, &cuts, &acts);
        for feed in [Feed::Planned, Feed::Shared] {
            let planned = play(&kinds, feed, &cuts, &acts);
            prop_assert_eq!(&planned.credit, &general.credit, "{:?}", feed);
            prop_assert_eq!(&planned.counters, &general.counters, "{:?}", feed);
            prop_assert_eq!(planned.relayed, general.relayed, "{:?}", feed);
            prop_assert_eq!(planned.pending_bytes, general.pending_bytes, "{:?}", feed);
            prop_assert_eq!(&planned.ended, &general.ended, "{:?}", feed);
            prop_assert!(planned.got == general.got, "{:?}: other bytes", feed);
        }
    }
}
