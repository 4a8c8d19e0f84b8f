//! Operations on two muxes that talk to each other, against an oracle.
//!
//! The oracle is a queue of bytes per stream and direction. Checked: what arrives is what was sent, in order; neither mux ever
//! takes the other's frames for a violation; and no credit is lost: when everything has arrived and was granted
//! again, each stream that still stands may send a whole window.

use std::collections::{BTreeMap, VecDeque};

use dmsg_engine::{
    mux::{Event, INITIAL_WINDOW_BYTES, Mux, MuxConfig, MuxKind, Role, StreamId},
    pool::{SendQueue, Slice},
};

use crate::input::Input;

struct End {
    mux: Mux,
    queue: SendQueue,
    /// Streams this end may use, in the order they came up.
    streams: Vec<StreamId>,
    /// Ended by the other end.
    finished: Vec<StreamId>,
    /// Ended by this end.
    ended: Vec<StreamId>,
    /// Arrived and not granted yet.
    unread: BTreeMap<StreamId, u32>,
}

/// One direction of one stream.
#[derive(Default)]
struct Flow {
    under_way: VecDeque<u8>,
    broken: bool,
}

struct Oracle {
    ends: [End; 2],
    flows: [BTreeMap<StreamId, Flow>; 2],
    counter: u8,
}

/// One input: `kind, operations`.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = match input.byte() % 3 {
        0 => MuxKind::Yamux,
        1 => MuxKind::SmuxV1,
        _ => MuxKind::SmuxV2,
    };
    let mut oracle = Oracle {
        ends: [Role::Client, Role::Server].map(|role| End {
            mux: Mux::new(kind, role, MuxConfig { streams_max: 16 }),
            queue: SendQueue::default(),
            streams: Vec::new(),
            finished: Vec::new(),
            ended: Vec::new(),
            unread: BTreeMap::new(),
        }),
        flows: [BTreeMap::new(), BTreeMap::new()],
        counter: 0,
    };
    while !input.is_empty() {
        let (op, which, amount) = (input.byte(), input.byte(), input.word());
        oracle.step(op, which, amount);
    }
    oracle.settle();
    oracle.check_delivered();
    oracle.check_credit();
}

impl Oracle {
    fn step(&mut self, op: u8, which: u8, amount: u16) {
        let side = usize::from(op & 1);
        match (op >> 1) % 7 {
            0 => self.open(side),
            1 | 2 => self.send(side, which, usize::from(amount) * 8),
            3 => self.deliver(side, usize::from(amount)),
            4 => self.grant(side, which, amount),
            5 => self.finish(side, which),
            _ => self.reset(side, which),
        }
    }

    fn pick(&self, side: usize, which: u8) -> Option<StreamId> {
        let streams = &self.ends[side].streams;
        (!streams.is_empty()).then(|| streams[usize::from(which) % streams.len()])
    }

    fn open(&mut self, side: usize) {
        let End { mux, queue, streams, .. } = &mut self.ends[side];
        if let Some(id) = mux.open(queue) {
            streams.push(id);
        }
    }

    fn send(&mut self, side: usize, which: u8, amount: usize) {
        let Some(id) = self.pick(side, which) else { return };
        let End { mux, queue, .. } = &mut self.ends[side];
        let count = amount.min(mux.send_credit(id) as usize);
        let flow = self.flows[side].entry(id).or_default();
        let mut bytes = Vec::with_capacity(count);
        for _ in 0..count {
            self.counter = self.counter.wrapping_mul(5).wrapping_add(3);
            bytes.push(self.counter);
        }
        flow.under_way.extend(&bytes);
        mux.send(id, Slice::from_vec(bytes), queue);
    }

    /// Everything travels until both ends are silent.
    fn settle(&mut self) {
        while self.ends.iter().any(|end| !end.queue.is_empty()) {
            self.deliver(0, usize::MAX);
            self.deliver(1, usize::MAX);
        }
    }

    /// Up to `amount` bytes travel from `side` to the other end.
    fn deliver(&mut self, side: usize, amount: usize) {
        let queue = &mut self.ends[side].queue;
        let Some(first) = queue.pieces().next() else { return };
        let bytes = first[..first.len().min(amount)].to_vec();
        queue.advance(bytes.len());
        let mut input = Slice::from_vec(bytes);
        let mut resets = Vec::new();
        let (flows, other) = (&mut self.flows[side], &mut self.ends[1 - side]);
        while let Some(event) =
            other.mux.next_event(&mut input, &mut other.queue).expect("an honest peer")
        {
            match event {
                Event::Opened(id) => {
                    other.mux.accept(id, &mut other.queue);
                    other.streams.push(id);
                }
                Event::Data(id, data) => {
                    let flow = flows.entry(id).or_default();
                    for byte in data.iter() {
                        assert_eq!(flow.under_way.pop_front(), Some(*byte), "other bytes arrived");
                    }
                    *other.unread.entry(id).or_default() +=
                        u32::try_from(data.len()).expect("small");
                }
                Event::Finished(id) => {
                    let flow = flows.entry(id).or_default();
                    assert!(flow.broken || flow.under_way.is_empty(), "FIN overtook data");
                    other.finished.push(id);
                }
                Event::Reset(id) => {
                    other.streams.retain(|other| *other != id);
                    flows.entry(id).or_default().broken = true;
                    resets.push(id);
                }
                Event::Credit(id, _) => {
                    let credit = other.mux.send_credit(id);
                    let unlimited = !other.mux.has_windows();
                    assert!(unlimited || credit <= 2 * INITIAL_WINDOW_BYTES, "credit grew");
                }
                Event::Acked(_) | Event::Pong(_) | Event::GoAway => {}
            }
        }
        assert!(input.is_empty(), "input was left over");
        for id in resets {
            self.flows[1 - side].entry(id).or_default().broken = true;
        }
    }

    fn grant(&mut self, side: usize, which: u8, amount: u16) {
        let Some(id) = self.pick(side, which) else { return };
        let End { mux, queue, unread, .. } = &mut self.ends[side];
        let unread = unread.entry(id).or_default();
        let bytes = (*unread).min(u32::from(amount) * 8);
        *unread -= bytes;
        mux.grant(id, bytes, amount.is_multiple_of(2), queue);
    }

    fn finish(&mut self, side: usize, which: u8) {
        let Some(id) = self.pick(side, which) else { return };
        let End { mux, queue, ended, .. } = &mut self.ends[side];
        ended.push(id);
        mux.finish(id, queue);
    }

    fn reset(&mut self, side: usize, which: u8) {
        let Some(id) = self.pick(side, which) else { return };
        let End { mux, queue, streams, .. } = &mut self.ends[side];
        mux.reset(id, queue);
        streams.retain(|other| *other != id);
        for flows in &mut self.flows {
            flows.entry(id).or_default().broken = true;
        }
    }

    /// With everything granted, at most the half window that an end point may hold back is missing.
    fn check_credit(&mut self) {
        for side in [0, 1] {
            let End { mux, queue, unread, .. } = &mut self.ends[side];
            for (id, bytes) in std::mem::take(unread) {
                mux.grant(id, bytes, true, queue);
            }
        }
        self.settle();
        for side in [0, 1] {
            let (end, other) = (&self.ends[side], &self.ends[1 - side]);
            for id in &end.streams {
                let stands = other.streams.contains(id) && !other.finished.contains(id);
                let credit = end.mux.send_credit(*id);
                assert!(
                    !stands
                        || credit == 0 && self.finished_by(side, *id)
                        || credit >= INITIAL_WINDOW_BYTES / 2,
                    "{credit} bytes of credit are left of a window on {id:?}"
                );
            }
        }
    }

    /// Whether `side` has ended its direction of the stream: then it has no credit.
    fn finished_by(&self, side: usize, id: StreamId) -> bool {
        self.ends[side].ended.contains(&id)
    }

    /// A smux peer that has no room for a stream refuses it with a FIN, which tells an opener nothing of what it sent.
    fn check_delivered(&self) {
        for (side, flows) in self.flows.iter().enumerate() {
            for (id, flow) in flows {
                let refused = !self.ends[1 - side].streams.contains(id)
                    && self.ends[side].mux.kind() != MuxKind::Yamux;
                let arrived = flow.broken || refused || flow.under_way.is_empty();
                assert!(arrived, "bytes of {id:?} never arrived");
            }
        }
    }
}
