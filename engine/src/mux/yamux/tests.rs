//! Every frame in every state, against an oracle; and the sending side byte for byte.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::mux::{ACCEPT_BACKLOG, CREDIT_MAX_BYTES};

const WINDOW: u32 = INITIAL_WINDOW_BYTES;
const ROOM: u32 = CREDIT_MAX_BYTES - WINDOW;

/// What the frame's id is to the mux that receives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IdClass {
    Zero,
    OursUnknown,
    TheirsUnknown,
    /// Their next stream, while the table is full.
    TheirsNoRoom,
    OursHeld,
    TheirsHeld,
}

/// What happened to a held stream before the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    answered: bool,
    local_open: bool,
    remote_open: bool,
}

/// A frame about to meet a mux.
#[derive(Debug, Clone, Copy)]
struct Case {
    class: IdClass,
    state: State,
    kind: u8,
    flags: u16,
    length: u32,
}

/// What the oracle says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    events: Vec<String>,
    error: Option<MuxError>,
    /// Frames written: type, flags, id, length.
    written: Vec<(u8, u16, u32, u32)>,
    held: bool,
    credit: u32,
}

impl Case {
    fn id(self) -> u32 {
        match self.class {
            IdClass::Zero => 0,
            IdClass::OursUnknown => 20,
            IdClass::OursHeld => 2,
            IdClass::TheirsUnknown => 21,
            IdClass::TheirsNoRoom | IdClass::TheirsHeld => 1,
        }
    }

    fn is_held(self) -> bool {
        matches!(self.class, IdClass::OursHeld | IdClass::TheirsHeld)
    }

    /// A server's mux in the state of the case.
    fn mux(self) -> Yamux {
        let mut mux = Yamux::new(Role::Server, MuxConfig { streams_max: 1 });
        if !self.is_held() && self.class != IdClass::TheirsNoRoom {
            return mux;
        }
        let queue = &mut SendQueue::default();
        let id = StreamId(self.id());
        if self.class == IdClass::TheirsHeld {
            feed(&mut mux, &frame(1, 1, id.0, 0), queue);
            if self.state.answered {
                mux.accept(id, queue);
            }
        } else {
            let ours = mux.open(queue).unwrap();
            if self.class == IdClass::OursHeld && self.state.answered {
                feed(&mut mux, &frame(1, 2, ours.0, 0), queue);
            }
        }
        if !self.state.local_open {
            mux.finish(id, queue);
        }
        if !self.state.remote_open {
            feed(&mut mux, &frame(1, 4, id.0, 0), queue);
        }
        mux
    }

    /// The table of the module's documentation, written a second time and apart from the code.
    fn oracle(self) -> Outcome {
        let id = self.id();
        let has = |flag: u16| self.flags & flag != 0;
        let (syn, ack, fin, rst) = (has(1), has(2), has(4), has(8));
        let before = Outcome {
            held: self.is_held(),
            credit: if self.is_held() && self.state.local_open { WINDOW } else { 0 },
            ..Outcome::default()
        };
        let fatal = |error| Outcome {
            error: Some(error),
            written: vec![(3, 0, 0, 1)],
            held: before.held,
            credit: before.credit,
            ..Outcome::default()
        };
        match self.kind {
            2 if syn => return Outcome { written: vec![(2, 2, 0, self.length)], ..before },
            2 if ack => return Outcome { events: vec![format!("pong {}", self.length)], ..before },
            2 => return before,
            3 if self.length == 0 => {
                return Outcome { events: vec!["go-away".to_owned()], ..before };
            }
            3 => return Outcome { error: Some(MuxError::GoAway(self.length)), ..before },
            0 | 1 => {}
            other => return Outcome { error: Some(MuxError::Type(other)), ..before },
        }
        let (data, delta) = if self.kind == 0 { (self.length, 0) } else { (0, self.length) };
        let too_long = fatal(MuxError::WindowExceeded { id, length: data, window: WINDOW });
        let too_much = fatal(MuxError::CreditOverflow { id, delta });
        let mut told = Vec::new();
        if delta > 0 {
            told.push(format!("credit {id} {delta}"));
        }
        if data > 0 {
            told.push(format!("data {id} {data}"));
        }
        if fin {
            told.push(format!("finished {id}"));
        }
        match (syn, self.class) {
            (true, IdClass::Zero | IdClass::OursUnknown) => fatal(MuxError::StreamId(id)),
            (true, IdClass::OursHeld) => fatal(MuxError::StreamId(id)),
            (true, IdClass::TheirsHeld) => fatal(MuxError::DuplicateSyn(id)),
            (true, _) if data > WINDOW => too_long,
            (true, _) if delta > ROOM => too_much,
            (true, _) if rst => before,
            (true, IdClass::TheirsNoRoom) => Outcome { written: vec![(1, 8, id, 0)], ..before },
            (true, IdClass::TheirsUnknown) => {
                told.insert(0, format!("opened {id}"));
                Outcome { events: told, held: true, credit: WINDOW + delta, ..before }
            }
            (false, IdClass::OursHeld | IdClass::TheirsHeld) if rst => {
                Outcome { events: vec![format!("reset {id}")], ..Outcome::default() }
            }
            (false, IdClass::OursHeld | IdClass::TheirsHeld) => {
                if fin && !self.state.remote_open {
                    return fatal(MuxError::SecondFin(id));
                }
                if self.state.remote_open && data > WINDOW {
                    return too_long;
                }
                if self.state.local_open && delta > ROOM {
                    return too_much;
                }
                told.retain(|event| match event.split(' ').next() {
                    Some("credit") => self.state.local_open,
                    Some("data") => self.state.remote_open,
                    _ => true,
                });
                if ack && self.class == IdClass::OursHeld && !self.state.answered {
                    told.insert(0, format!("acked {id}"));
                }
                let gone = fin && !self.state.local_open;
                let credit = if self.state.local_open { WINDOW + delta } else { 0 };
                Outcome { events: told, held: !gone, credit, ..before }
            }
            (false, _) => before,
        }
    }

    /// What the mux does.
    fn outcome(self) -> Outcome {
        let (mut mux, mut queue) = (self.mux(), SendQueue::default());
        let id = StreamId(self.id());
        let mut bytes = frame(self.kind, self.flags, id.0, self.length);
        let body = if self.kind == 0 { self.length.min(WINDOW + 1) } else { 0 };
        bytes.resize(bytes.len() + body as usize, b'x');
        let (mut events, error) = feed(&mut mux, &bytes, &mut queue);
        let outcome = Outcome {
            error,
            written: written(&mut queue),
            held: mux.streams.get(id).is_some(),
            credit: mux.send_credit(id),
            events: std::mem::take(&mut events),
        };
        let whole = self.kind != 0 || self.length == body;
        if error.is_none() && whole {
            // The mux is in step: it finds the next frame where this one ended.
            feed(&mut mux, &frame(2, 1, 0, 77), &mut queue);
            assert_eq!(written(&mut queue), [(2, 2, 0, 77)], "out of step after {self:?}");
        }
        outcome
    }
}

fn frame(kind: u8, flags: u16, id: u32, length: u32) -> Vec<u8> {
    let mut bytes = vec![0, kind];
    bytes.extend(flags.to_be_bytes());
    bytes.extend(id.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes
}

/// Feeds `bytes` in two pieces; returns events (adjacent data merged) and the error.
fn feed(mux: &mut Yamux, bytes: &[u8], queue: &mut SendQueue) -> (Vec<String>, Option<MuxError>) {
    let mut events: Vec<String> = Vec::new();
    let mut data = (StreamId(0), 0);
    for piece in [&bytes[..bytes.len() / 2], &bytes[bytes.len() / 2..]] {
        let mut input = Slice::copy_from(piece);
        loop {
            let event = match mux.next_event(&mut input, queue) {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(error) => {
                    let again = mux.next_event(&mut input, queue).unwrap_err();
                    assert_eq!(again, error, "a dead mux stays dead");
                    return (events, Some(error));
                }
            };
            if let Event::Data(id, piece) = &event {
                if data.0 == *id && data.1 > 0 {
                    events.pop();
                }
                data = (*id, data.1 + piece.len());
            }
            events.push(match event {
                Event::Opened(StreamId(id)) => format!("opened {id}"),
                Event::Acked(StreamId(id)) => format!("acked {id}"),
                Event::Data(StreamId(id), _) => format!("data {id} {}", data.1),
                Event::Credit(StreamId(id), delta) => format!("credit {id} {delta}"),
                Event::Finished(StreamId(id)) => format!("finished {id}"),
                Event::Reset(StreamId(id)) => format!("reset {id}"),
                Event::Pong(value) => format!("pong {value}"),
                Event::GoAway => "go-away".to_owned(),
            });
        }
    }
    (events, None)
}

/// Takes the frames out of a queue without data.
fn written(queue: &mut SendQueue) -> Vec<(u8, u16, u32, u32)> {
    let bytes: Vec<u8> = queue.pieces().flatten().copied().collect();
    queue.clear();
    let frames = bytes.chunks(HEADER_BYTES).map(|bytes| {
        let header = Header::decode(bytes.try_into().unwrap()).unwrap();
        (header.kind as u8, header.flags.0, header.id, header.length)
    });
    frames.collect()
}

#[test]
fn every_frame_in_every_state_does_what_the_table_says() {
    let lengths = [0, 1, 5, WINDOW, WINDOW + 1, ROOM, ROOM + 1, 1 << 31, u32::MAX];
    let fresh = State { answered: false, local_open: true, remote_open: true };
    let mut situations = Vec::new();
    for class in
        [IdClass::Zero, IdClass::OursUnknown, IdClass::TheirsUnknown, IdClass::TheirsNoRoom]
    {
        situations.push((class, fresh));
    }
    for class in [IdClass::OursHeld, IdClass::TheirsHeld] {
        for answered in [false, true] {
            for (local_open, remote_open) in [(true, true), (false, true), (true, false)] {
                situations.push((class, State { answered, local_open, remote_open }));
            }
        }
    }
    let mut count = 0;
    for &(class, state) in &situations {
        for kind in 0..=4 {
            // The four flags, and a bit that has no meaning.
            for flags in 0..32 {
                for length in lengths {
                    let case = Case { class, state, kind, flags, length };
                    assert_eq!(case.outcome(), case.oracle(), "{case:?}");
                    count += 1;
                }
            }
        }
    }
    assert_eq!(count, (4 + 2 * 2 * 3) * 5 * 32 * 9);
}

#[test]
fn finished_on_data_comes_behind_it_even_if_we_finish_in_between() {
    let mut mux = Yamux::new(Role::Server, MuxConfig::default());
    let queue = &mut SendQueue::default();
    let mut bytes = frame(0, 1 | 4, 1, 4);
    bytes.extend(b"ab");
    assert_eq!(feed(&mut mux, &bytes, queue).0, ["opened 1", "data 1 2"]);
    mux.finish(StreamId(1), queue);
    assert_eq!(mux.streams.len(), 1, "its data is not complete");
    assert_eq!(feed(&mut mux, b"cd", queue).0, ["data 1 2", "finished 1"]);
    assert_eq!(mux.streams.len(), 0);
}

#[test]
fn a_reset_in_the_middle_of_a_frame_drops_its_rest() {
    let mut mux = Yamux::new(Role::Server, MuxConfig::default());
    let queue = &mut SendQueue::default();
    let mut bytes = frame(0, 1 | 4, 1, 6);
    bytes.extend(b"ab");
    feed(&mut mux, &bytes, queue);
    mux.reset(StreamId(1), queue);
    mux.reset(StreamId(1), queue);
    assert_eq!(written(queue), [(1, 8, 1, 0)], "reset once, and no FIN");
    let mut rest = b"cdef".to_vec();
    rest.extend(frame(0, 0, 1, 3));
    rest.extend(b"xyz");
    rest.extend(frame(1, 4, 1, 0));
    assert_eq!(feed(&mut mux, &rest, queue), (Vec::new(), None));
    assert_eq!((mux.counters.dropped_bytes, mux.counters.resets_sent), (7, 1));
}

#[test]
fn what_we_send_is_laid_out_as_the_peer_expects() {
    let mut mux = Yamux::new(Role::Client, MuxConfig::default());
    let queue = &mut SendQueue::default();
    let id = mux.open(queue).unwrap();
    assert_eq!((id, mux.open(queue)), (StreamId(1), Some(StreamId(3))));
    assert_eq!(written(queue), [(1, 1, 1, 0), (1, 1, 3, 0)]);
    mux.send(id, &b""[..], queue);
    assert!(queue.is_empty(), "an empty frame says nothing");
    mux.send(id, Slice::copy_from(b"hello"), queue);
    let sent: Vec<u8> = queue.pieces().flatten().copied().collect();
    assert_eq!(sent, [&frame(0, 0, 1, 5)[..], b"hello"].concat());
    assert_eq!(mux.send_credit(id), WINDOW - 5);
    queue.clear();
    mux.finish(id, queue);
    mux.finish(id, queue);
    assert_eq!(written(queue), [(1, 4, 1, 0)], "a second FIN would end the session");
    assert_eq!(mux.send_credit(id), 0);
    mux.send(id, &b"late"[..], queue);
    mux.accept(id, queue);
    assert!(queue.is_empty());
    mux.grant(id, 7, true, queue);
    mux.ping(9, queue);
    mux.go_away(queue);
    mux.go_away(queue);
    assert_eq!(written(queue), [(1, 0, 1, 7), (2, 1, 0, 9), (3, 0, 0, 0)]);
}

#[test]
fn after_a_go_away_nothing_new_opens_and_old_streams_go_on() {
    let mut mux = Yamux::new(Role::Server, MuxConfig::default());
    let queue = &mut SendQueue::default();
    feed(&mut mux, &frame(1, 1, 1, 0), queue);
    mux.accept(StreamId(1), queue);
    mux.go_away(queue);
    queue.clear();
    assert!(feed(&mut mux, &frame(1, 1, 3, 0), queue).0.is_empty());
    assert_eq!(written(queue), [(1, 8, 3, 0)], "theirs are refused");
    assert!(mux.open(queue).is_some(), "ours are not");
    let twice = [frame(3, 0, 0, 0), frame(3, 0, 0, 0)].concat();
    assert_eq!(feed(&mut mux, &twice, queue).0, ["go-away"]);
    assert_eq!(mux.open(queue), None);
    let data = [frame(0, 0, 1, 2), b"ab".to_vec()].concat();
    assert_eq!(feed(&mut mux, &data, queue).0, ["data 1 2"]);
}

#[test]
fn streams_beyond_the_accept_backlog_are_reset() {
    let mut mux = Yamux::new(Role::Server, MuxConfig::default());
    let queue = &mut SendQueue::default();
    let syns: Vec<u8> =
        (0..=ACCEPT_BACKLOG as u32).flat_map(|n| frame(1, 1, 2 * n + 1, 0)).collect();
    assert_eq!(feed(&mut mux, &syns, queue).0.len(), ACCEPT_BACKLOG);
    assert_eq!(written(queue), [(1, 8, 2 * ACCEPT_BACKLOG as u32 + 1, 0)]);
}

/// Threats 3 and 4: whatever is flooded, the answer is no longer than the question, the state does
/// not grow, and the counters show it.
#[test]
fn floods_are_counted_and_leave_no_state() {
    let mut mux = Yamux::new(Role::Server, MuxConfig::default());
    let queue = &mut SendQueue::default();
    let mut received = 0;
    for n in 0..100_000u32 {
        let (id, refused) = (2 * n + 1, 2 * n + 1_000_001);
        let bytes = [
            frame(1, 1, id, 0),
            frame(1, 8, id, 0),
            frame(2, 1, 0, n),
            frame(1, 1 | 8, refused, 0),
            frame(0, 0, id, 0),
        ];
        received += bytes.len() * HEADER_BYTES;
        let (events, error) = feed(&mut mux, &bytes.concat(), queue);
        assert_eq!((events.len(), error), (2, None));
    }
    assert!(queue.len() <= received);
    assert_eq!(mux.streams.len(), 0);
    let counters = mux.counters;
    assert_eq!(counters.frames, 500_000);
    assert_eq!(counters.resets_received, 200_000);
    assert_eq!((counters.opens_received, counters.pings_received), (100_000, 100_000));
    assert_eq!(counters.empty_data_frames, 100_000);
}
