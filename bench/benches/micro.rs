//! One operation each: handshakes, signatures, gob, frames, crypto, pools, mailbox. Run with `cargo bench -p dmsg-bench`.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    hint::{black_box, spin_loop},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dmsg_engine::{
    driver::{self, DriverConfig, DriverKind},
    identity::SecretKey,
    io::{Closed, ConnId, Io, Machine},
    mux::{Event, Mux, MuxConfig, MuxKind, Role},
    noise::Handshake,
    pool::{
        PortPool, SendQueue, Slice,
        streams::{Holder, StreamLimits, StreamPool},
    },
    session::{SessionHandshake, Step},
    stream::{FrameOpener, FrameSealer},
    wire::{Dialect, SignedObject, StreamRequest, WireAddr},
};

fn keys() -> [SecretKey; 4] {
    ["a", "b", "e1", "e2"].map(|seed| SecretKey::from_seed(seed.as_bytes()))
}

fn handshakes(c: &mut Criterion) {
    let [a, b, e1, e2] = keys();
    c.bench_function("session handshake, both ends", |bench| {
        bench.iter(|| {
            let (mut m1, mut m2, mut m3) = (Vec::new(), Vec::new(), Vec::new());
            let mut client = SessionHandshake::initiator(&a, b.public_key(), e1.clone(), &mut m1);
            let mut server = SessionHandshake::responder(&b, e2.clone());
            server.receive(Slice::from_vec(m1), &mut m2).unwrap();
            client.receive(Slice::from_vec(m2), &mut m3).unwrap();
            let done = server.receive(Slice::from_vec(m3), &mut Vec::new()).unwrap();
            assert!(matches!(done, Step::Done(_)));
        });
    });
    c.bench_function("stream handshake (KK), both ends", |bench| {
        bench.iter(|| {
            let mut client = Handshake::kk_initiator(&a, b.public_key(), e1.clone());
            let mut server = Handshake::kk_responder(&b, a.public_key(), e2.clone());
            let (mut m1, mut m2) = (Vec::new(), Vec::new());
            client.write_message(&[], &mut m1).unwrap();
            server.read_message(&m1).unwrap();
            server.write_message(&[], &mut m2).unwrap();
            client.read_message(&m2).unwrap();
            black_box(client.into_keys());
        });
    });
}

fn requests(c: &mut Criterion) {
    let [a, b, ..] = keys();
    let request = StreamRequest {
        timestamp: 1_729_362_436_123_456_789,
        src: WireAddr { key: Some(a.public_key()), port: 49153 },
        dst: WireAddr { key: Some(b.public_key()), port: 80 },
        noise_msg: vec![7; 49],
        ..StreamRequest::default()
    };
    let gob = request.encode(Dialect::G24);
    let object = SignedObject::sign(&a, &gob);
    c.bench_function("request: gob encode", |bench| {
        bench.iter(|| black_box(request.encode(Dialect::G24)));
    });
    c.bench_function("request: gob decode", |bench| {
        bench.iter(|| black_box(StreamRequest::decode(&gob).unwrap()));
    });
    c.bench_function("request: sign", |bench| {
        bench.iter(|| black_box(SignedObject::sign(&a, &gob)));
    });
    c.bench_function("request: verify", |bench| {
        bench.iter(|| request.verify(&object).unwrap());
    });
}

fn stream_crypto(c: &mut Criterion) {
    let mut group = c.benchmark_group("stream frames, seal and open");
    for bytes in [64, 1024, 4070, 16 * 1024] {
        let (mut sealer, mut opener) = (FrameSealer::new(&[7; 32]), FrameOpener::new(&[7; 32]));
        let (plain, mut out) = (vec![1; bytes], vec![0; bytes]);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("{bytes} bytes"), |bench| {
            bench.iter(|| {
                let mut sealed = Vec::new();
                sealer.write(&plain, &mut sealed).unwrap();
                let mut input = Slice::from_vec(sealed);
                let mut got = 0;
                while got < bytes {
                    got += opener.read(&mut input, &mut out[got..]).unwrap();
                }
            });
        });
    }
    group.finish();
}

fn mux_frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("yamux data frame, parse");
    for bytes in [64_usize, 1024, 4096] {
        let config = MuxConfig::default();
        let mut mux = Mux::new(MuxKind::Yamux, Role::Server, config);
        let mut queue = SendQueue::default();
        let syn = [&[0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0][..]].concat();
        let mut input = Slice::from_vec(syn);
        let Ok(Some(Event::Opened(id))) = mux.next_event(&mut input, &mut queue) else {
            unreachable!("a SYN opens")
        };
        mux.accept(id, &mut queue);
        let mut frame = vec![0, 0, 0, 0, 0, 0, 0, 1];
        frame.extend_from_slice(&u32::try_from(bytes).unwrap().to_be_bytes());
        frame.extend(std::iter::repeat_n(9, bytes));
        let run = Slice::from_vec(frame.repeat(16));
        group.throughput(Throughput::Elements(16));
        group.bench_function(format!("{bytes} bytes"), |bench| {
            bench.iter(|| {
                let mut input = run.clone();
                while let Some(event) = mux.next_event(&mut input, &mut queue).unwrap() {
                    if let Event::Data(id, data) = event {
                        mux.grant(id, u32::try_from(data.len()).unwrap(), true, &mut queue);
                    }
                }
                queue.clear();
            });
        });
    }
    group.finish();
}

/// The AEAD alone: what stream crypto could be at best.
fn aead(c: &mut Criterion) {
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]).unwrap());
    let nonce = || Nonce::assume_unique_for_key([1; 12]);
    let mut group = c.benchmark_group("ChaCha20-Poly1305 alone");
    for bytes in [1024, 4096, 16 * 1024] {
        let mut plain = vec![5; bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("seal {bytes} bytes"), |bench| {
            bench.iter(|| {
                let tag = key.seal_in_place_separate_tag(nonce(), Aad::empty(), &mut plain);
                black_box(tag.unwrap().as_ref()[0])
            });
        });
        let mut sealed = plain.clone();
        key.seal_in_place_append_tag(nonce(), Aad::empty(), &mut sealed).unwrap();
        let mut work = sealed.clone();
        group.bench_function(format!("open {bytes} bytes, after a copy"), |bench| {
            bench.iter(|| {
                work.copy_from_slice(&sealed);
                black_box(key.open_in_place(nonce(), Aad::empty(), &mut work).unwrap().len());
            });
        });
    }
    group.finish();
}

fn pools(c: &mut Criterion) {
    let ports = PortPool::new();
    c.bench_function("port pool: an ephemeral port and back", |bench| {
        bench.iter(|| black_box(ports.reserve_ephemeral().unwrap()));
    });
    let _held: Vec<_> = (0..16_000).map(|_| ports.reserve_ephemeral().unwrap()).collect();
    c.bench_function("port pool: the same with 16,000 of 16,384 taken", |bench| {
        bench.iter(|| black_box(ports.reserve_ephemeral().unwrap()));
    });
    let streams = StreamPool::new(StreamLimits::flat(8192));
    let peer = SecretKey::from_seed(b"peer").public_key();
    let holder = Holder { destination: Some(peer), label: "bench".into() };
    c.bench_function("stream pool: a place and back", |bench| {
        bench.iter(|| drop(black_box(streams.try_acquire(&holder).unwrap())));
    });
}

/// Counts its commands, and stops at the first `None`.
struct Counter(Arc<AtomicU64>);

impl Machine for Counter {
    type Command = Option<u64>;

    fn accepted(&mut self, _: &mut Io, _: ConnId, _: SocketAddr) {}
    fn connected(&mut self, _: &mut Io, _: ConnId) {}
    fn received(&mut self, _: &mut Io, _: ConnId, _: Slice) {}
    fn writable(&mut self, _: &mut Io, _: ConnId) {}
    fn closed(&mut self, _: &mut Io, _: ConnId, _: Closed) {}
    fn timeout(&mut self, _: &mut Io) {}

    fn command(&mut self, io: &mut Io, command: Option<u64>) {
        match command {
            Some(count) => drop(self.0.fetch_add(count, Ordering::Release)),
            None => io.stop(),
        }
    }
}

/// Commands to a driver on another thread: one at a time (it sleeps between), and many at once.
fn mailbox(c: &mut Criterion) {
    let mut group = c.benchmark_group("cross-core mailbox");
    for kind in [DriverKind::Uring, DriverKind::Epoll] {
        let counter = Arc::new(AtomicU64::new(0));
        let machine = Counter(Arc::clone(&counter));
        let config = DriverConfig { kind, ..DriverConfig::new("counter") };
        let Ok(driver) = driver::spawn(config, move |_| machine) else {
            eprintln!("skipped: {kind:?} is not to be had here");
            continue;
        };
        for batch in [1_u64, 1000] {
            group.throughput(Throughput::Elements(batch));
            group.bench_function(format!("{kind:?}, {batch} commands until done"), |bench| {
                bench.iter(|| {
                    let goal = counter.load(Ordering::Acquire) + batch;
                    for _ in 0..batch {
                        driver.mailbox.post(Some(1)).unwrap();
                    }
                    while counter.load(Ordering::Acquire) < goal {
                        spin_loop();
                    }
                });
            });
        }
        driver.mailbox.post(None).unwrap();
        driver.thread.join().unwrap().unwrap();
    }
    group.finish();
}

criterion_group!(benches, handshakes, requests, stream_crypto, mux_frames, aead, pools, mailbox);
criterion_main!(benches);
