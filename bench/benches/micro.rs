//! One operation each: handshakes, signatures, gob, frames, stream crypto. Run with `cargo bench -p dmsg-bench`.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dmsg_engine::{
    identity::SecretKey,
    mux::{Event, Mux, MuxConfig, MuxKind, Role},
    noise::Handshake,
    pool::{SendQueue, Slice},
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

criterion_group!(benches, handshakes, requests, stream_crypto, mux_frames);
criterion_main!(benches);
