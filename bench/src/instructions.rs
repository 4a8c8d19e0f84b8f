//! `dmsg-bench instructions NAME`: one operation a fixed number of times, for `scripts/instruction-gate`.
//!
//! Under callgrind the instructions of [`measured_operations`] are counted, and of nothing else. Counts do not depend on how busy
//! the machine is, so unlike times they can gate a change.

use std::{hint::black_box, sync::Arc};

use dmsg_bench::Result;
use dmsg_engine::{
    identity::SecretKey,
    mux::{Event, Mux, MuxConfig, MuxKind, Role},
    noise::{GRANT, Handshake, OFFER, ResumeRequest, Resumed},
    pool::{PortPool, SendQueue, Slice},
    session::{SessionHandshake, Step},
    stream::{FrameOpener, FrameSealer},
    wire::{Dialect, SignedObject, StreamRequest, WireAddr},
};

/// An operation, made ready to run.
type Operation = Box<dyn FnMut()>;

/// Name, how often it is run, and what makes it ready.
type Entry = (&'static str, u32, fn() -> Operation);

const OPERATIONS: [Entry; 8] = [
    ("mux-frames", 200, mux_frames),
    ("send-queue", 1000, send_queue),
    ("request-codec", 200, request_codec),
    ("request-verify", 20, request_verify),
    ("session-handshake", 10, session_handshake),
    ("ticket-dial", 100, ticket_dial),
    ("stream-frames", 100, stream_frames),
    ("port-pool", 1000, port_pool),
];

/// Runs the operation called `name`; without a name, lists them.
pub(crate) fn run(name: Option<&str>) -> Result<()> {
    let Some(name) = name else {
        OPERATIONS.iter().for_each(|(name, ..)| println!("{name}"));
        return Ok(());
    };
    let known = OPERATIONS.iter().find(|(known, ..)| *known == name);
    let (_, count, make) = known.ok_or_else(|| format!("no operation is called {name:?}"))?;
    let mut operation = make();
    operation(); // Lazy tables and first allocations are not what a change is judged by.
    measured_operations(*count, &mut operation);
    Ok(())
}

/// What callgrind counts.
#[inline(never)]
fn measured_operations(count: u32, operation: &mut dyn FnMut()) {
    for _ in 0..count {
        operation();
    }
}

fn key(seed: &str) -> SecretKey {
    SecretKey::from_seed(seed.as_bytes())
}

/// 16 data frames of 1 KiB parsed, their credit granted.
fn mux_frames() -> Operation {
    let mut mux = Mux::new(MuxKind::Yamux, Role::Server, MuxConfig::default());
    let mut queue = SendQueue::default();
    let mut syn = Slice::copy_from(&[0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0]);
    while let Ok(Some(event)) = mux.next_event(&mut syn, &mut queue) {
        if let Event::Opened(id) = event {
            mux.accept(id, &mut queue);
        }
    }
    let frame = [&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 4, 0][..], &[9; 1024]].concat();
    let run = Slice::from_vec(frame.repeat(16));
    Box::new(move || {
        let mut input = run.clone();
        while let Ok(Some(event)) = mux.next_event(&mut input, &mut queue) {
            if let Event::Data(id, data) = event {
                mux.grant(id, u32::try_from(data.len()).unwrap_or(0), true, &mut queue);
            }
        }
        queue.clear();
    })
}

/// Small and large pieces queued and taken.
fn send_queue() -> Operation {
    let mut queue = SendQueue::default();
    let large = Slice::from_vec(vec![3; 4096]);
    Box::new(move || {
        for _ in 0..4 {
            queue.push_bytes(&[1; 12]);
            queue.push_slice(large.clone());
            queue.push_bytes(&[2; 64]);
        }
        while !queue.is_empty() {
            queue.advance(queue.len().min(3000));
        }
    })
}

fn request() -> (StreamRequest, SignedObject) {
    let (a, b) = (key("a"), key("b"));
    let request = StreamRequest {
        timestamp: 1_729_362_436_123_456_789,
        src: WireAddr { key: Some(a.public_key()), port: 49_153 },
        dst: WireAddr { key: Some(b.public_key()), port: 80 },
        noise_msg: vec![7; 49],
        ..StreamRequest::default()
    };
    let object = SignedObject::sign(&a, &request.encode(Dialect::G24));
    (request, object)
}

/// A request encoded and decoded.
fn request_codec() -> Operation {
    let (request, _) = request();
    Box::new(move || {
        let gob = request.encode(Dialect::G24);
        drop(black_box(StreamRequest::decode(&gob)));
    })
}

/// A request's signature verified.
fn request_verify() -> Operation {
    let (request, object) = request();
    Box::new(move || {
        let _ = black_box(request.verify(&object));
    })
}

/// Both ends of a session handshake.
fn session_handshake() -> Operation {
    let [a, b, e1, e2] = ["a", "b", "e1", "e2"].map(key);
    Box::new(move || {
        let (mut m1, mut m2, mut m3) = (Vec::new(), Vec::new(), Vec::new());
        let mut client = SessionHandshake::initiator(&a, b.public_key(), e1.clone(), &mut m1);
        let mut server = SessionHandshake::responder(&b, e2.clone());
        let _ = server.receive(Slice::from_vec(m1), &mut m2);
        let _ = client.receive(Slice::from_vec(m2), &mut m3);
        let done = server.receive(Slice::from_vec(m3), &mut Vec::new());
        assert!(matches!(done, Ok(Step::Done(_))), "fixed keys shake hands");
    })
}

/// Both ends of a dial by ticket, without the signatures.
fn ticket_dial() -> Operation {
    let [a, b, e1, e2] = ["a", "b", "e1", "e2"].map(key);
    let mut near = Handshake::kk_initiator(&a, b.public_key(), e1);
    let mut far = Handshake::kk_responder(&b, a.public_key(), e2);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    near.write_message(OFFER, &mut first).expect("its turn");
    far.read_message(&first).expect("the peer's first");
    far.write_message(GRANT, &mut second).expect("its turn");
    near.read_message(&second).expect("the peer's second");
    let [near, far] = [near, far].map(|end| Arc::new(end.ticket()));
    let (request, object) = request();
    let (terms, hash) = (request.terms(), object.hash());
    Box::new(move || {
        let (waiting, message) = near.request([1; 32], &terms);
        let request = ResumeRequest::parse(&message).expect("of this kind");
        let (_, answer) = far.answer(&request, &terms, &hash, [2; 32]).expect("the same ticket");
        let done = waiting.finish(&answer, &hash);
        assert!(matches!(done, Ok(Resumed::Keys(_))), "the same ticket");
    })
}

/// 4 KiB sealed and opened.
fn stream_frames() -> Operation {
    let (mut sealer, mut opener) = (FrameSealer::new(&[7; 32]), FrameOpener::new(&[7; 32]));
    let (plain, mut out) = (vec![1; 4096], vec![0; 4096]);
    Box::new(move || {
        let mut sealed = Vec::new();
        let _ = sealer.write(&plain, &mut sealed);
        let (mut input, mut got) = (Slice::from_vec(sealed), 0);
        while got < plain.len() {
            let Ok(count @ 1..) = opener.read(&mut input, &mut out[got..]) else { break };
            got += count;
        }
        assert_eq!(got, plain.len(), "what was sealed opens");
    })
}

/// An ephemeral port taken and given back.
fn port_pool() -> Operation {
    let pool = PortPool::new();
    Box::new(move || drop(black_box(pool.reserve_ephemeral())))
}
