//! Two muxes joined by a wire, with a model beside them that counts what each stream has sent,
//! received, granted and been credited with.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    mux::{Event, INITIAL_WINDOW_BYTES, Mux, MuxConfig, MuxKind, Role, StreamId},
    pool::{SendQueue, Slice},
};

/// One step. The first field is the side (true: the server), `u8` picks one of its streams.
#[derive(Debug, Clone, Copy)]
pub(super) enum Op {
    Open(bool),
    Accept(bool, u8),
    /// Sends so many bytes, or what credit allows.
    Send(bool, u8, u32),
    /// Grants so many bytes of what is unread, eagerly or not.
    Grant(bool, u8, u32, bool),
    Finish(bool, u8),
    Reset(bool, u8),
    /// Takes so many bytes off the wire towards the side, in pieces of the last.
    Deliver(bool, u32, usize),
}

/// What one side has done with one stream.
#[derive(Debug, Default)]
struct Ledger {
    sent: u64,
    received: u64,
    granted: u64,
    credited: u64,
    finished: bool,
    saw_finish: bool,
}

struct Side {
    mux: Mux,
    queue: SendQueue,
    streams: BTreeMap<StreamId, Ledger>,
    unaccepted: Vec<StreamId>,
    /// Bytes on their way to this side.
    incoming: VecDeque<u8>,
}

/// The two ends: client and server.
pub(super) struct Link {
    kind: MuxKind,
    sides: [Side; 2],
}

/// The byte at a position of any stream, so that order and loss show.
fn byte_at(id: StreamId, position: u64) -> u8 {
    (position.wrapping_mul(31) ^ (position >> 8) ^ u64::from(id.0)) as u8
}

impl Side {
    fn new(kind: MuxKind, role: Role) -> Self {
        Self {
            mux: Mux::new(kind, role, MuxConfig { streams_max: 8 }),
            queue: SendQueue::default(),
            streams: BTreeMap::new(),
            unaccepted: Vec::new(),
            incoming: VecDeque::new(),
        }
    }

    fn pick(&self, pick: u8) -> Option<StreamId> {
        let index = usize::from(pick) % self.streams.len().max(1);
        self.streams.keys().nth(index).copied()
    }

    fn forget(&mut self, id: StreamId) {
        self.streams.remove(&id);
        self.unaccepted.retain(|&other| other != id);
    }

    fn receive(&mut self, bytes: Vec<u8>) {
        let mut input = Slice::from_vec(bytes);
        while let Some(event) = self.mux.next_event(&mut input, &mut self.queue).unwrap() {
            match event {
                Event::Opened(id) => {
                    self.streams.insert(id, Ledger::default());
                    self.unaccepted.push(id);
                }
                Event::Acked(id) => assert!(self.streams.contains_key(&id)),
                Event::Data(id, data) => {
                    let ledger = self.streams.get_mut(&id).expect("data of a live stream");
                    assert!(!ledger.saw_finish && !data.is_empty());
                    for &byte in &*data {
                        assert_eq!(byte, byte_at(id, ledger.received));
                        ledger.received += 1;
                    }
                }
                Event::Credit(id, delta) => {
                    let ledger = self.streams.get_mut(&id).expect("credit of a live stream");
                    ledger.credited += u64::from(delta);
                }
                Event::Finished(id) => {
                    let ledger = self.streams.get_mut(&id).expect("end of a live stream");
                    assert!(!std::mem::replace(&mut ledger.saw_finish, true), "ends once");
                    if ledger.finished {
                        self.forget(id);
                    }
                }
                Event::Reset(id) => self.forget(id),
                Event::Pong(_) | Event::GoAway => panic!("nobody asked"),
            }
        }
        assert!(input.is_empty());
    }

    /// The mux knows the same streams as the model, and their credit is the sum of what was told.
    fn check(&self) {
        assert_eq!(self.mux.stream_ids(), self.streams.keys().copied().collect::<Vec<_>>());
        for (&id, ledger) in &self.streams {
            let credit = self.mux.send_credit(id);
            if ledger.finished {
                assert_eq!(credit, 0);
            } else if self.mux.has_windows() {
                let told = u64::from(INITIAL_WINDOW_BYTES) + ledger.credited;
                assert_eq!(u64::from(credit), told - ledger.sent);
            } else {
                assert_eq!(credit, u32::MAX);
            }
        }
    }
}

impl Link {
    pub(super) fn new(kind: MuxKind) -> Self {
        Self { kind, sides: [Side::new(kind, Role::Client), Side::new(kind, Role::Server)] }
    }

    pub(super) fn run(&mut self, op: Op) {
        match op {
            Op::Open(side) => {
                let side = &mut self.sides[usize::from(side)];
                if let Some(id) = side.mux.open(&mut side.queue) {
                    side.streams.insert(id, Ledger::default());
                }
            }
            Op::Accept(side, pick) => {
                let side = &mut self.sides[usize::from(side)];
                if !side.unaccepted.is_empty() {
                    let index = usize::from(pick) % side.unaccepted.len();
                    let id = side.unaccepted.swap_remove(index);
                    side.mux.accept(id, &mut side.queue);
                }
            }
            Op::Send(side, pick, len) => self.send(usize::from(side), pick, len),
            Op::Grant(side, pick, len, eager) => {
                self.grant(usize::from(side), pick, u64::from(len), eager);
            }
            Op::Finish(side, pick) => self.finish(usize::from(side), pick),
            Op::Reset(side, pick) => {
                let side = &mut self.sides[usize::from(side)];
                if let Some(id) = side.pick(pick) {
                    side.mux.reset(id, &mut side.queue);
                    side.forget(id);
                }
            }
            Op::Deliver(side, len, cut) => self.deliver(usize::from(side), len as usize, cut),
        }
        self.sides.iter().for_each(Side::check);
    }

    fn send(&mut self, side: usize, pick: u8, len: u32) {
        let side = &mut self.sides[side];
        let Some(id) = side.pick(pick) else { return };
        let len = len.min(side.mux.send_credit(id));
        let ledger = side.streams.get_mut(&id).unwrap();
        let bytes = (ledger.sent..).take(len as usize).map(|at| byte_at(id, at)).collect();
        ledger.sent += u64::from(len);
        side.mux.send(id, Slice::from_vec(bytes), &mut side.queue);
    }

    fn grant(&mut self, side: usize, pick: u8, len: u64, eager: bool) {
        let side = &mut self.sides[side];
        let Some(id) = side.pick(pick) else { return };
        let ledger = side.streams.get_mut(&id).unwrap();
        let len = len.min(ledger.received - ledger.granted);
        ledger.granted += len;
        side.mux.grant(id, len as u32, eager, &mut side.queue);
    }

    fn finish(&mut self, side: usize, pick: u8) {
        let side = &mut self.sides[side];
        let Some(id) = side.pick(pick) else { return };
        side.mux.finish(id, &mut side.queue);
        let ledger = side.streams.get_mut(&id).unwrap();
        ledger.finished = true;
        if ledger.saw_finish {
            side.forget(id);
        }
    }

    fn deliver(&mut self, side: usize, len: usize, cut: usize) {
        let other = &mut self.sides[1 - side];
        let written: Vec<u8> = other.queue.pieces().flatten().copied().collect();
        other.queue.clear();
        let side = &mut self.sides[side];
        side.incoming.extend(written);
        let mut left = len.min(side.incoming.len());
        while left > 0 {
            let piece: Vec<u8> = side.incoming.drain(..left.min(cut)).collect();
            left -= piece.len();
            side.receive(piece);
        }
    }

    /// Delivers until nothing is under way.
    pub(super) fn settle(&mut self) {
        while self.sides.iter().any(|side| !side.queue.is_empty() || !side.incoming.is_empty()) {
            self.deliver(0, usize::MAX, usize::MAX);
            self.deliver(1, usize::MAX, usize::MAX);
        }
        self.sides.iter().for_each(Side::check);
    }

    /// With nothing under way: credit + unread + granted but not yet told = the initial window.
    pub(super) fn check_conservation(&self) {
        for (sender, receiver) in [(0, 1), (1, 0)] {
            let (sender, receiver) = (&self.sides[sender], &self.sides[receiver]);
            for (id, from) in &sender.streams {
                let Some(to) = receiver.streams.get(id) else { continue };
                assert_eq!(from.sent, to.received);
                if self.kind == MuxKind::SmuxV1 || from.finished {
                    continue;
                }
                let credit = u64::from(sender.mux.send_credit(*id));
                let unread = to.received - to.granted;
                let kept_back = to.granted - from.credited;
                assert_eq!(credit + unread + kept_back, u64::from(INITIAL_WINDOW_BYTES));
                assert!(kept_back < u64::from(INITIAL_WINDOW_BYTES / 2));
            }
        }
    }

    /// Ends everything from both sides; no stream and no count is left behind.
    pub(super) fn close_all(&mut self) {
        for side in 0..2 {
            while let Some(pick) =
                self.sides[side].streams.values().position(|ledger| !ledger.finished)
            {
                self.finish(side, pick as u8);
            }
        }
        self.settle();
        for side in &self.sides {
            assert_eq!((side.mux.stream_count(), side.mux.unacked_count()), (0, 0));
            assert!(side.streams.is_empty());
        }
    }
}
