//! Every frame in every state, against an oracle; and the sending side byte for byte.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::mux::INITIAL_WINDOW_BYTES;

const WINDOW: u32 = INITIAL_WINDOW_BYTES;

fn frame(version: Version, command: u8, length: u16, id: u32) -> Vec<u8> {
    let mut bytes = vec![version as u8, command];
    bytes.extend(length.to_le_bytes());
    bytes.extend(id.to_le_bytes());
    bytes
}

/// An update with its payload.
fn update(id: u32, consumed: u32, window: u32) -> Vec<u8> {
    let mut bytes = frame(Version::V2, 4, 8, id);
    bytes.extend(consumed.to_le_bytes());
    bytes.extend(window.to_le_bytes());
    bytes
}

fn push(version: Version, id: u32, payload: &[u8]) -> Vec<u8> {
    [&frame(version, 2, payload.len() as u16, id)[..], payload].concat()
}

fn feed(mux: &mut Smux, bytes: &[u8], queue: &mut SendQueue) -> (Vec<String>, Option<MuxError>) {
    let mut events = Vec::new();
    let mut input = Slice::copy_from(bytes);
    loop {
        match mux.next_event(&mut input, queue) {
            Ok(None) => return (events, None),
            Ok(Some(event)) => events.push(match event {
                Event::Opened(StreamId(id)) => format!("opened {id}"),
                Event::Data(StreamId(id), data) => format!("data {id} {}", data.len()),
                Event::Credit(StreamId(id), delta) => format!("credit {id} {delta}"),
                Event::Finished(StreamId(id)) => format!("finished {id}"),
                Event::Reset(StreamId(id)) => format!("reset {id}"),
                other => panic!("smux has no {other:?}"),
            }),
            Err(error) => {
                assert_eq!(mux.next_event(&mut input, queue).unwrap_err(), error, "stays dead");
                return (events, Some(error));
            }
        }
    }
}

fn flat(queue: &mut SendQueue) -> Vec<u8> {
    let bytes = queue.pieces().flatten().copied().collect();
    queue.clear();
    bytes
}

/// What a stream is before the frame: unknown, or held with its halves open or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unknown,
    Held { local_open: bool, remote_open: bool },
}

/// A server's mux with stream `id` in `state`; `sent` bytes were sent on it.
fn server(version: Version, id: u32, state: State, streams_max: usize) -> Smux {
    let mut mux = Smux::new(version, Role::Server, MuxConfig { streams_max });
    let queue = &mut SendQueue::default();
    let State::Held { local_open, remote_open } = state else { return mux };
    if id % 2 == 1 {
        feed(&mut mux, &frame(version, 0, 0, id), queue);
        mux.accept(StreamId(id), queue);
    } else {
        assert_eq!(mux.open(queue), Some(StreamId(id)));
    }
    mux.send(StreamId(id), &[0; 100][..], queue);
    if !local_open {
        mux.finish(StreamId(id), queue);
    }
    if !remote_open {
        feed(&mut mux, &frame(version, 1, 0, id), queue);
    }
    mux
}

/// The table of the module's documentation, written a second time and apart from the code: events,
/// error, whether a FIN is written.
fn oracle(
    (version, id, state, full): (Version, u32, State, bool),
    (command, length): (u8, u16),
) -> (Vec<String>, Option<MuxError>, bool) {
    let (local_open, remote_open) = match state {
        State::Unknown => (false, false),
        State::Held { local_open, remote_open } => (local_open, remote_open),
    };
    let nothing = (Vec::new(), None, false);
    let tell = |event: &str| (vec![format!("{event} {id}")], None, false);
    let wrong_length = (Vec::new(), Some(MuxError::Length { command, length }), false);
    match (command, length) {
        (0 | 1 | 3, 1..) => wrong_length,
        (4, length) if version == Version::V2 && length != 8 => wrong_length,
        (0, _) if id % 2 == 0 => (Vec::new(), Some(MuxError::StreamId(id)), false),
        (0, _) if state != State::Unknown => nothing,
        (0, _) if full => (Vec::new(), None, true),
        (0, _) => tell("opened"),
        (1, _) if remote_open => tell("finished"),
        (2, 1..) if remote_open => (vec![format!("data {id} {length}")], None, false),
        // The update of this test tells of 100 bytes, all that were sent, and the initial window.
        (4, _) if version == Version::V2 && local_open => {
            (vec![format!("credit {id} 100")], None, false)
        }
        (1..=3, _) => nothing,
        (4, _) if version == Version::V2 => nothing,
        _ => (Vec::new(), Some(MuxError::Type(command)), false),
    }
}

#[test]
fn every_frame_in_every_state_does_what_the_table_says() {
    let held = |local_open, remote_open| State::Held { local_open, remote_open };
    let states = [State::Unknown, held(true, true), held(false, true), held(true, false)];
    let mut count = 0;
    for version in [Version::V1, Version::V2] {
        for (id, state, full) in [0, 2, 3]
            .into_iter()
            .flat_map(|id| states.map(|state| (id, state, false)))
            .chain([(3, State::Unknown, true)])
            .filter(|&(id, state, _)| id != 0 || state == State::Unknown)
        {
            for command in 0..=5 {
                for length in [0, 1, 7, 8, 9, u16::MAX] {
                    let mut mux = server(version, id, state, if full { 0 } else { 8 });
                    let queue = &mut SendQueue::default();
                    let mut bytes = frame(version, command, length, id);
                    match (command, length) {
                        (2, _) => bytes.resize(bytes.len() + usize::from(length), b'x'),
                        (4, 8) => bytes = update(id, 100, WINDOW),
                        _ => {}
                    }
                    bytes[0] = version as u8;
                    let (events, error) = feed(&mut mux, &bytes, queue);
                    let fin = flat(queue) == frame(version, 1, 0, id);
                    let case = (version, id, state, full);
                    let expected = oracle(case, (command, length));
                    assert_eq!((events, error, fin), expected, "{case:?} {command} {length}");
                    if error.is_none() {
                        let probe = [frame(version, 3, 0, 0), frame(version, 0, 0, 0)].concat();
                        let (_, error) = feed(&mut mux, &probe, queue);
                        assert_eq!(error, Some(MuxError::StreamId(0)), "out of step");
                    }
                    count += 1;
                }
            }
        }
    }
    assert_eq!(count, 2 * (1 + 4 + 4 + 1) * 6 * 6);
}

#[test]
fn payload_is_cut_at_the_frame_size() {
    for version in [Version::V1, Version::V2] {
        let mut mux = Smux::new(version, Role::Client, MuxConfig::default());
        let queue = &mut SendQueue::default();
        let id = mux.open(queue).unwrap();
        assert_eq!((id, flat(queue)), (StreamId(3), frame(version, 0, 0, 3)));
        let payload: Vec<u8> = (0..SMUX_FRAME_MAX_BYTES + 5).map(|n| n as u8).collect();
        let (first, second) = payload.split_at(SMUX_FRAME_MAX_BYTES);
        let expected = [push(version, 3, first), push(version, 3, second)].concat();
        mux.send(id, &payload[..], queue);
        assert!(flat(queue) == expected);
        mux.send(id, Slice::from_vec(payload.clone()), queue);
        assert!(flat(queue) == expected);
        mux.send(id, &b""[..], queue);
        assert!(queue.is_empty());
    }
}

#[test]
fn version_1_has_no_windows() {
    let mut mux = server(Version::V1, 3, State::Held { local_open: true, remote_open: true }, 8);
    let queue = &mut SendQueue::default();
    let id = StreamId(3);
    mux.send(id, &vec![0; 2 * WINDOW as usize][..], queue);
    assert_eq!(mux.send_credit(id), u32::MAX);
    queue.clear();
    mux.grant(id, 100_000, true, queue);
    assert!(queue.is_empty());
    mux.finish(id, queue);
    assert_eq!(mux.send_credit(id), 0);
}

/// A Go peer's first update shrinks its window; who waits for credit must hear when it grows again.
#[test]
fn credit_that_comes_back_is_told_as_zero() {
    let mut mux = server(Version::V2, 3, State::Held { local_open: true, remote_open: true }, 8);
    let queue = &mut SendQueue::default();
    mux.send(StreamId(3), &[0; 99_900][..], queue);
    assert!(feed(&mut mux, &update(3, 20_000, 65_536), queue).0.is_empty());
    assert_eq!(mux.send_credit(StreamId(3)), 0);
    assert_eq!(feed(&mut mux, &update(3, 52_768, 65_536), queue).0, ["credit 3 0"]);
    assert_eq!(mux.send_credit(StreamId(3)), 52_768 + 65_536 - 100_000);
}

#[test]
fn more_consumed_than_written_ends_the_stream_and_not_the_session() {
    let mut mux = server(Version::V2, 3, State::Held { local_open: true, remote_open: true }, 8);
    let queue = &mut SendQueue::default();
    let (events, error) = feed(&mut mux, &update(3, 101, WINDOW), queue);
    assert_eq!((events, error), (vec!["reset 3".to_owned()], None));
    assert_eq!(flat(queue), frame(Version::V2, 1, 0, 3));
    let late = [push(Version::V2, 3, b"late"), frame(Version::V2, 1, 0, 3)].concat();
    assert_eq!(feed(&mut mux, &late, queue), (Vec::new(), None));
    assert_eq!((mux.streams.len(), mux.counters.dropped_bytes), (0, 4));
}

#[test]
fn data_beyond_the_window_ends_the_stream_and_not_the_session() {
    let mut mux = server(Version::V2, 3, State::Held { local_open: false, remote_open: true }, 8);
    let queue = &mut SendQueue::default();
    for _ in 0..8 {
        let (events, _) = feed(&mut mux, &push(Version::V2, 3, &[0; 32_768]), queue);
        assert_eq!(events, ["data 3 32768"]);
    }
    let (events, error) = feed(&mut mux, &push(Version::V2, 3, b"x"), queue);
    assert_eq!((events, error), (vec!["reset 3".to_owned()], None));
    assert!(queue.is_empty(), "our FIN was sent before");
    assert_eq!(mux.counters.dropped_bytes, 1);
}

#[test]
fn a_reset_in_the_middle_of_a_frame_drops_its_rest() {
    let mut mux = server(Version::V2, 3, State::Held { local_open: true, remote_open: true }, 8);
    let queue = &mut SendQueue::default();
    let bytes = push(Version::V2, 3, b"abcdef");
    assert_eq!(feed(&mut mux, &bytes[..10], queue).0, ["data 3 2"]);
    mux.reset(StreamId(3), queue);
    mux.reset(StreamId(3), queue);
    assert_eq!(flat(queue), frame(Version::V2, 1, 0, 3));
    assert_eq!(feed(&mut mux, &bytes[10..], queue), (Vec::new(), None));
    assert_eq!(mux.counters.dropped_bytes, 4);
}

#[test]
fn after_our_go_away_what_the_peer_opens_is_finished() {
    let mut mux = server(Version::V2, 3, State::Held { local_open: true, remote_open: true }, 8);
    let queue = &mut SendQueue::default();
    mux.go_away(queue);
    assert!(queue.is_empty());
    assert!(feed(&mut mux, &frame(Version::V2, 0, 0, 5), queue).0.is_empty());
    assert_eq!(flat(queue), frame(Version::V2, 1, 0, 5));
    assert_eq!(feed(&mut mux, &push(Version::V2, 3, b"ab"), queue).0, ["data 3 2"]);
}
