//! The relay without sockets: blocks in, queues drained; what one frame costs beside the kernel. Run with
//! `cargo bench -p dmsg-bench --bench relay_core`.
//!
//! Every block is filled anew, as a kernel would; only the relay's own time counts.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dmsg_engine::{
    identity::SecretKey,
    io::{ConnId, Io, Machine},
    mux::{Event, Mux, MuxConfig, MuxKind, Role, StreamId},
    noise::{ObjectOpener, Sealer},
    pool::{BlockPool, SendQueue, Slice},
    relay::{Cores, Relay, RelayConfig, RelayLimits, Stats},
    session::{Established, SessionHandshake, Step, write_object},
    wire::{Dialect, SignedObject, StreamRequest, StreamResponse, WireAddr},
};

const BLOCK_BYTES: usize = 64 * 1024;

struct Client {
    secret: SecretKey,
    conn: ConnId,
    mux: Mux,
    queue: SendQueue,
    sealer: Sealer,
    opener: ObjectOpener,
    got: Vec<u8>,
    opened: Vec<StreamId>,
}

/// A relay core with clients, all in one thread and without a socket.
struct World {
    io: Io,
    relay: Relay,
    server: SecretKey,
    clients: Vec<Client>,
    pool: BlockPool,
}

impl World {
    fn new(count: usize, kind: MuxKind) -> Self {
        let server = SecretKey::from_seed(b"server");
        let config = RelayConfig {
            secret_key: server.clone(),
            limits: RelayLimits::default(),
            newcomers: None,
        };
        let relay = Relay::new(config, 0, Arc::new(Cores::new(1)), Arc::new(Stats::default()));
        let mut serial = 0u64;
        let random = move |bytes: &mut [u8]| {
            serial += 1;
            bytes.fill(7);
            bytes[..8].copy_from_slice(&serial.to_be_bytes());
        };
        let io = Io::new(Box::new(random), Instant::now(), 0);
        let pool = BlockPool::new(BLOCK_BYTES, 64);
        let mut world = Self { io, relay, server, clients: Vec::new(), pool };
        for number in 0..count {
            world.connect(number, kind);
        }
        world
    }

    fn connect(&mut self, number: usize, kind: MuxKind) {
        let secret = SecretKey::from_seed(&number.to_be_bytes());
        let ephemeral = SecretKey::from_seed(&[&number.to_be_bytes()[..], b"e"].concat());
        let conn = self.io.add_conn();
        self.relay.accepted(&mut self.io, conn, ([127, 0, 0, 1], 1).into());
        let (mut out, mut server_key) = (Vec::new(), self.server.public_key());
        let mut handshake = SessionHandshake::initiator(&secret, server_key, ephemeral, &mut out);
        self.relay.received(&mut self.io, conn, Slice::from_vec(std::mem::take(&mut out)));
        let answer = Slice::from_vec(self.take(conn));
        let Ok(Step::Done(done)) = handshake.receive(answer, &mut out) else {
            unreachable!("three messages make a session")
        };
        self.relay.received(&mut self.io, conn, Slice::from_vec(out));
        let Established { sealer, opener, remote, .. } = *done;
        server_key = remote;
        assert_eq!(server_key, self.server.public_key());
        self.clients.push(Client {
            secret,
            conn,
            mux: Mux::new(kind, Role::Client, MuxConfig::default()),
            queue: SendQueue::default(),
            sealer,
            opener,
            got: Vec::new(),
            opened: Vec::new(),
        });
        // So the relay knows which mux this client speaks.
        let client = self.clients.last_mut().unwrap();
        client.mux.ping(0, &mut client.queue);
        self.settle();
    }

    /// What the relay has queued for a connection.
    fn take(&mut self, conn: ConnId) -> Vec<u8> {
        let queue = self.io.driver_queue(conn).unwrap();
        let bytes = queue.pieces().flatten().copied().collect();
        queue.advance(queue.len());
        bytes
    }

    /// Moves bytes between the relay and all clients until nothing moves.
    fn settle(&mut self) {
        loop {
            let mut moved = false;
            for number in 0..self.clients.len() {
                let conn = self.clients[number].conn;
                let bytes = self.take(conn);
                let client = &mut self.clients[number];
                let mut input = Slice::from_vec(bytes);
                while let Some(event) =
                    client.mux.next_event(&mut input, &mut client.queue).unwrap()
                {
                    match event {
                        Event::Opened(id) => {
                            client.mux.accept(id, &mut client.queue);
                            client.opened.push(id);
                        }
                        Event::Data(_, data) => client.got.extend_from_slice(&data),
                        _ => {}
                    }
                }
                let bytes: Vec<u8> = client.queue.pieces().flatten().copied().collect();
                client.queue.clear();
                if !bytes.is_empty() {
                    moved = true;
                    self.relay.received(&mut self.io, conn, Slice::from_vec(bytes));
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn object(client: &mut Client) -> SignedObject {
        let bytes = std::mem::take(&mut client.got);
        SignedObject::from_bytes(client.opener.open(&bytes[2..]).unwrap()).unwrap()
    }

    fn send_object(client: &mut Client, id: StreamId, object: &SignedObject) {
        let mut bytes = Vec::new();
        write_object(&mut client.sealer, object.as_bytes(), &mut bytes).unwrap();
        client.mux.send_bytes(id, &bytes, &mut client.queue);
    }

    /// A relayed stream; its ids at both ends.
    fn dial(&mut self, from: usize, to: usize) -> (StreamId, StreamId) {
        let destination = self.clients[to].secret.public_key();
        let client = &mut self.clients[from];
        let request = StreamRequest {
            timestamp: 1,
            src: WireAddr { key: Some(client.secret.public_key()), port: 49153 },
            dst: WireAddr { key: Some(destination), port: 80 },
            noise_msg: vec![9; 49],
            ..StreamRequest::default()
        };
        let request = SignedObject::sign(&client.secret, &request.encode(Dialect::G24));
        let near = client.mux.open(&mut client.queue).unwrap();
        Self::send_object(client, near, &request);
        self.settle();
        let client = &mut self.clients[to];
        let far = client.opened.pop().unwrap();
        assert_eq!(Self::object(client), request);
        let response = StreamResponse {
            req_hash: request.hash(),
            accepted: true,
            noise_msg: vec![8; 49],
            ..StreamResponse::default()
        };
        let response = SignedObject::sign(&client.secret, &response.encode(Dialect::G24));
        Self::send_object(client, far, &response);
        self.settle();
        assert_eq!(Self::object(&mut self.clients[from]), response);
        (near, far)
    }

    fn receive(&mut self, conn: ConnId, bytes: &[u8]) -> Duration {
        let mut block = self.pool.take();
        block.memory_mut()[..bytes.len()].copy_from_slice(bytes);
        let data = block.freeze(bytes.len());
        let start = Instant::now();
        self.relay.received(&mut self.io, conn, data);
        start.elapsed()
    }

    /// Lets all queues go, as a kernel that takes everything.
    fn drain(&mut self) -> usize {
        let mut drained = 0;
        while let Some(conn) = self.io.next_dirty() {
            let queue = self.io.driver_queue(conn).unwrap();
            drained += queue.len();
            queue.advance(queue.len());
            self.io.note_sent(conn);
        }
        drained
    }
}

fn data_frame(kind: MuxKind, id: StreamId, bytes: usize) -> Vec<u8> {
    let mut frame = match kind {
        MuxKind::Yamux => {
            let length = u32::try_from(bytes).unwrap().to_be_bytes();
            [&[0; 4][..], &id.0.to_be_bytes(), &length].concat()
        }
        MuxKind::SmuxV1 | MuxKind::SmuxV2 => {
            let version = if kind == MuxKind::SmuxV1 { 1 } else { 2 };
            let length = u16::try_from(bytes).unwrap().to_le_bytes();
            [&[version, 2][..], &length, &id.0.to_le_bytes()].concat()
        }
    };
    frame.extend(std::iter::repeat_n(9, bytes));
    frame
}

fn credit_frame(id: StreamId, bytes: u32) -> Vec<u8> {
    [&[0, 1, 0, 0][..], &id.0.to_be_bytes(), &bytes.to_be_bytes()].concat()
}

/// One source with a stream to each of `receivers` others; frames go to them in turn, `burst` at a time.
fn forward(
    c: &mut Criterion,
    name: &str,
    kind: MuxKind,
    receivers: usize,
    burst: usize,
    cut: bool,
) {
    let mut group = c.benchmark_group(name);
    for bytes in [64_usize, 1024, 4096, 16 * 1024] {
        let mut world = World::new(receivers + 1, kind);
        let streams: Vec<_> = (1..=receivers).map(|to| world.dial(0, to)).collect();
        // A whole number of frames, or as much as fits: then frames are cut at the ends of blocks.
        let per_block = (BLOCK_BYTES / (bytes + 12)).max(1);
        let mut stream = Vec::new();
        let frames = per_block * receivers * burst;
        for number in 0..frames {
            let (near, _) = streams[number / burst % receivers];
            stream.extend(data_frame(kind, near, bytes));
        }
        let chunk = if cut { 16 * 1024 } else { per_block * (stream.len() / frames) };
        let blocks: Vec<_> = stream.chunks(chunk).collect();
        let per_receiver = u32::try_from(frames / receivers * bytes).unwrap();
        let source = world.clients[0].conn;
        group.throughput(Throughput::Elements(frames as u64));
        group.bench_function(format!("{bytes} bytes"), |bench| {
            bench.iter_custom(|rounds| {
                let mut time = Duration::ZERO;
                for _ in 0..rounds {
                    // Credit first, in the steps of a reader with a window of 256 KiB.
                    for (number, (_, far)) in streams.iter().enumerate() {
                        if kind == MuxKind::Yamux {
                            let conn = world.clients[number + 1].conn;
                            time += world.receive(conn, &credit_frame(*far, per_receiver));
                        }
                    }
                    world.drain();
                    let mut sent = 0;
                    for block in &blocks {
                        time += world.receive(source, block);
                        let start = Instant::now();
                        sent += world.drain();
                        time += start.elapsed();
                    }
                    assert!(sent >= frames * bytes, "{sent} bytes came out");
                }
                time
            });
        });
    }
    group.finish();
}

fn forwarding(c: &mut Criterion) {
    let yamux = MuxKind::Yamux;
    forward(c, "yamux, one receiver", yamux, 1, 1, false);
    forward(c, "yamux, 16 receivers in turn", yamux, 16, 1, false);
    forward(c, "yamux, 16 receivers, 8 frames each", yamux, 16, 8, false);
    forward(c, "yamux, 16 receivers in turn, frames cut by 16 KiB blocks", yamux, 16, 1, true);
    forward(c, "smux v1, 16 receivers in turn", MuxKind::SmuxV1, 16, 1, false);
}

criterion_group!(benches, forwarding);
criterion_main!(benches);
