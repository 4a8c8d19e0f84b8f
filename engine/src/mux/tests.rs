//! Properties of two muxes over a wire that cuts anywhere, and of one mux fed with anything.

#![allow(clippy::unwrap_used)]

mod link;

use proptest::{collection::vec, prelude::*, sample::select};

use self::link::{Link, Op};
use super::*;

const KINDS: [MuxKind; 3] = [MuxKind::Yamux, MuxKind::SmuxV1, MuxKind::SmuxV2];

fn op() -> impl Strategy<Value = Op> {
    let side = any::<bool>();
    let pick = any::<u8>();
    // Most lengths are small; some are windows, to run into the limit.
    let len = prop_oneof![0..50u32, 0..70_000u32, Just(INITIAL_WINDOW_BYTES)];
    prop_oneof![
        2 => side.prop_map(Op::Open),
        2 => (side, pick).prop_map(|(side, pick)| Op::Accept(side, pick)),
        6 => (side, pick, len.clone()).prop_map(|(side, pick, len)| Op::Send(side, pick, len)),
        6 => (side, pick, len.clone(), any::<bool>())
            .prop_map(|(side, pick, len, eager)| Op::Grant(side, pick, len, eager)),
        1 => (side, pick).prop_map(|(side, pick)| Op::Finish(side, pick)),
        1 => (side, pick).prop_map(|(side, pick)| Op::Reset(side, pick)),
        8 => (side, len, 1..40_000usize).prop_map(|(side, len, cut)| Op::Deliver(side, len, cut)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    /// Threat 16: whatever the two sides do, no credit is lost and none is made, and every stream's
    /// place comes back.
    #[test]
    fn credit_is_conserved(kind in select(&KINDS[..]), ops in vec(op(), 1..120)) {
        let mut link = Link::new(kind);
        for op in ops {
            link.run(op);
        }
        link.settle();
        link.check_conservation();
        link.close_all();
    }

    /// The same bytes mean the same, however they are cut.
    #[test]
    fn cuts_change_nothing(
        kind in select(&KINDS[..]),
        server in any::<bool>(),
        frames in vec(frame(), 0..40),
        cuts in vec(1..40usize, 1..8),
    ) {
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.encode(kind)).collect();
        let whole = replay(kind, server, &bytes, &[usize::MAX]);
        prop_assert_eq!(&whole, &replay(kind, server, &bytes, &[1]));
        prop_assert_eq!(&whole, &replay(kind, server, &bytes, &cuts));
    }

    /// Frames of any content between any calls of the owner, known streams or not: no panic, and
    /// the mux never answers more than it was asked.
    #[test]
    fn anything_received_is_survived(
        kind in select(&KINDS[..]),
        server in any::<bool>(),
        steps in vec((frame(), any::<u8>(), 0..8u32), 0..60),
        noise in vec(any::<u8>(), 0..64),
    ) {
        let mut mux = new(kind, server);
        let mut queue = SendQueue::default();
        for (frame, call, id) in steps {
            let asked = frame.encode(kind);
            let mut input = Slice::copy_from(&asked);
            let before = queue.len();
            while let Ok(Some(_)) = mux.next_event(&mut input, &mut queue) {}
            prop_assert!(queue.len() - before <= asked.len().max(12));
            owner_call(&mut mux, call, StreamId(id), &mut queue);
            prop_assert_eq!(mux.stream_ids().len(), mux.stream_count());
        }
        let mut input = Slice::from_vec(noise);
        while let Ok(Some(_)) = mux.next_event(&mut input, &mut queue) {}
    }

    /// Bytes without any form.
    #[test]
    fn noise_is_survived(kind in select(&KINDS[..]), noise in vec(any::<u8>(), 0..200)) {
        let mut mux = new(kind, true);
        let mut queue = SendQueue::default();
        let mut input = Slice::from_vec(noise);
        while let Ok(Some(_)) = mux.next_event(&mut input, &mut queue) {}
        prop_assert!(mux.stream_count() <= 8);
    }
}

fn new(kind: MuxKind, server: bool) -> Mux {
    let role = if server { Role::Server } else { Role::Client };
    Mux::new(kind, role, MuxConfig { streams_max: 4 })
}

fn owner_call(mux: &mut Mux, call: u8, id: StreamId, queue: &mut SendQueue) {
    match call % 16 {
        0 => mux.accept(id, queue),
        1 => mux.finish(id, queue),
        2 => mux.reset(id, queue),
        3 => mux.grant(id, u32::MAX, call > 128, queue),
        4 => mux.grant(id, 200_000, call > 128, queue),
        5 => drop(mux.open(queue)),
        6 => mux.send_bytes(id, &vec![0; mux.send_credit(id).min(1000) as usize], queue),
        7 => mux.go_away(queue),
        8 => mux.ping(u32::from(call), queue),
        _ => {}
    }
}

/// A frame whose header is likely to be meaningful.
#[derive(Debug, Clone)]
struct AnyFrame {
    version_off: bool,
    kind: u8,
    flags: u16,
    id: u32,
    length: u32,
    body: Vec<u8>,
}

fn frame() -> impl Strategy<Value = AnyFrame> {
    let length = prop_oneof![
        8 => 0..20u32,
        1 => select(&[INITIAL_WINDOW_BYTES, INITIAL_WINDOW_BYTES + 1, CREDIT_MAX_BYTES][..]),
        1 => select(&[1 << 31, u32::MAX - INITIAL_WINDOW_BYTES, u32::MAX][..]),
    ];
    let flags = prop_oneof![3 => select(&[0u16, 1, 1, 1, 2, 4][..]), 1 => 0..32u16];
    let id = prop_oneof![8 => 0..8u32, 1 => Just(u32::MAX)];
    (0..100u8, 0..40u8, flags, id, length, vec(any::<u8>(), 20)).prop_map(
        |(off, kind, flags, id, length, body)| AnyFrame {
            version_off: off == 0,
            // Five types or commands; the fifth one, and those beyond, are rare.
            kind: if kind > 36 { kind - 33 } else { kind % 4 },
            flags,
            id,
            length,
            body,
        },
    )
}

impl AnyFrame {
    fn encode(&self, kind: MuxKind) -> Vec<u8> {
        let mut bytes = Vec::new();
        let off = u8::from(self.version_off);
        let body = match kind {
            MuxKind::Yamux => {
                bytes.extend([off, self.kind]);
                bytes.extend(self.flags.to_be_bytes());
                bytes.extend(self.id.to_be_bytes());
                bytes.extend(self.length.to_be_bytes());
                if self.kind == 0 { self.length } else { 0 }
            }
            MuxKind::SmuxV1 | MuxKind::SmuxV2 => {
                // Pushes keep their length; the other commands mostly have the one they must.
                let kind_of_4 = if self.flags == 4 { 4 } else { self.kind };
                let length = match kind_of_4 {
                    2 => self.length as u16,
                    4 => 8,
                    _ => self.length as u16 / 18,
                };
                bytes.extend([off + if kind == MuxKind::SmuxV1 { 1 } else { 2 }, kind_of_4]);
                bytes.extend(length.to_le_bytes());
                bytes.extend(self.id.to_le_bytes());
                u32::from(length)
            }
        };
        bytes.extend(&self.body[..self.body.len().min(body as usize)]);
        bytes
    }
}

/// Everything observable of a mux that accepts each stream at once and is fed `bytes`, cut as
/// given.
fn replay(kind: MuxKind, server: bool, bytes: &[u8], cuts: &[usize]) -> (Vec<String>, Vec<u8>) {
    let mut mux = new(kind, server);
    let mut queue = SendQueue::default();
    let ours = mux.open(&mut queue);
    let mut seen = vec![format!("{ours:?}")];
    let mut data: Option<(StreamId, Vec<u8>)> = None;
    let (mut rest, mut cuts) = (bytes, cuts.iter().cycle());
    let mut error = None;
    while !rest.is_empty() && error.is_none() {
        let (piece, tail) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
        rest = tail;
        let mut input = Slice::copy_from(piece);
        loop {
            match mux.next_event(&mut input, &mut queue) {
                Ok(None) => break,
                Ok(Some(Event::Data(id, piece))) => match &mut data {
                    Some((last, bytes)) if *last == id => bytes.extend_from_slice(&piece),
                    _ => seen.extend(data.replace((id, piece.to_vec())).map(|d| format!("{d:?}"))),
                },
                Ok(Some(event)) => {
                    if let Event::Opened(id) = event {
                        mux.accept(id, &mut queue);
                    }
                    seen.extend(data.take().map(|data| format!("{data:?}")));
                    seen.push(format!("{event:?}"));
                }
                Err(broken) => {
                    error = Some(broken);
                    break;
                }
            }
        }
    }
    seen.extend(data.map(|data| format!("{data:?}")));
    let credit: Vec<_> = mux.stream_ids().iter().map(|&id| (id, mux.send_credit(id))).collect();
    seen.push(format!("{error:?} {credit:?} {:?}", mux.counters()));
    (seen, queue.pieces().flatten().copied().collect())
}

#[test]
fn the_first_byte_tells_the_kind() {
    let kinds = [0, 1, 2].map(|byte| MuxKind::sniff(byte).unwrap());
    assert_eq!(kinds, KINDS);
    assert!((3..=255).all(|byte| MuxKind::sniff(byte).is_none()));
    for (kind, byte) in KINDS.into_iter().zip(0..) {
        let mut mux = Mux::new(kind, Role::Client, MuxConfig::default());
        let mut queue = SendQueue::default();
        mux.open(&mut queue).unwrap();
        assert_eq!(queue.pieces().next().unwrap()[0], byte);
        assert_eq!((mux.kind(), mux.has_windows()), (kind, kind != MuxKind::SmuxV1));
    }
}

#[test]
fn opening_stops_at_the_limit_and_goes_on_when_a_stream_is_gone() {
    for kind in KINDS {
        let mut mux = new(kind, false);
        let mut queue = SendQueue::default();
        let ids: Vec<_> = std::iter::from_fn(|| mux.open(&mut queue)).collect();
        assert_eq!((ids.len(), mux.stream_ids()), (4, ids.clone()));
        assert_eq!(mux.unacked_count(), if kind == MuxKind::Yamux { 4 } else { 0 });
        mux.reset(ids[1], &mut queue);
        assert_eq!(mux.open(&mut queue), Some(StreamId(ids[3].0 + 2)));
        assert_eq!(mux.open(&mut queue), None);
    }
}
