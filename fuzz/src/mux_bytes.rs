//! Any bytes to a mux, at two different cuts: the meaning must be the same.

use dmsg_engine::{
    mux::{Event, Mux, MuxConfig, MuxError, MuxKind, Role, StreamId},
    pool::{SendQueue, Slice},
};

use crate::input::{Input, pieces};

/// An event without the cuts of the payload.
#[derive(Debug, PartialEq)]
enum Meaning {
    Opened(StreamId),
    Acked(StreamId),
    Data(StreamId, Vec<u8>),
    Credit(StreamId, u32),
    Finished(StreamId),
    Reset(StreamId),
    Pong(u32),
    GoAway,
}

/// Input: `role and behaviour, cut, bytes`.
pub(crate) fn run(kind: MuxKind, data: &[u8]) {
    let mut input = Input::new(data);
    let (behaviour, cut) = (input.byte(), input.byte());
    let bytes = input.rest();
    let whole = read(kind, behaviour, bytes, 0);
    let cut = read(kind, behaviour, bytes, cut);
    assert_eq!(whole, cut, "the cut of the input changed its meaning");
}

fn read(
    kind: MuxKind,
    behaviour: u8,
    bytes: &[u8],
    cut: u8,
) -> (Vec<Meaning>, Vec<u8>, Option<MuxError>) {
    let role = if behaviour & 1 == 0 { Role::Client } else { Role::Server };
    let mut mux = Mux::new(kind, role, MuxConfig { streams_max: 8 });
    let (mut queue, mut meanings) = (SendQueue::default(), Vec::new());
    // Streams of our own, so that frames can meet every state.
    let ours: Vec<_> = (0..3).filter_map(|_| mux.open(&mut queue)).collect();
    if let [_, second, third] = ours[..] {
        mux.finish(second, &mut queue);
        mux.reset(third, &mut queue);
    }
    for piece in pieces(bytes, cut) {
        let mut slice = Slice::copy_from(piece);
        loop {
            match mux.next_event(&mut slice, &mut queue) {
                Ok(None) => break,
                Ok(Some(event)) => {
                    react(&mut mux, &mut queue, behaviour, &event);
                    note(&mut meanings, event);
                }
                Err(error) => return (meanings, sent(&queue), Some(error)),
            }
        }
        assert!(slice.is_empty(), "input was left over");
        assert!(mux.stream_count() <= 8, "more streams than the limit");
    }
    (meanings, sent(&queue), None)
}

/// What an application might do; it must depend on nothing but the meaning.
fn react(mux: &mut Mux, queue: &mut SendQueue, behaviour: u8, event: &Event) {
    match event {
        Event::Opened(id) if behaviour & 2 == 0 => mux.accept(*id, queue),
        Event::Opened(id) => mux.reset(*id, queue),
        Event::Finished(id) if behaviour & 4 == 0 => mux.finish(*id, queue),
        Event::Credit(id, _) if behaviour & 8 != 0 => {
            let credit = mux.send_credit(*id).min(10);
            mux.send_bytes(*id, &[1; 10][..credit as usize], queue);
        }
        _ => {}
    }
}

fn note(meanings: &mut Vec<Meaning>, event: Event) {
    let meaning = match event {
        Event::Data(id, data) => {
            if let Some(Meaning::Data(last, bytes)) = meanings.last_mut()
                && *last == id
            {
                bytes.extend_from_slice(&data);
                return;
            }
            Meaning::Data(id, data.to_vec())
        }
        Event::Opened(id) => Meaning::Opened(id),
        Event::Acked(id) => Meaning::Acked(id),
        Event::Credit(id, bytes) => Meaning::Credit(id, bytes),
        Event::Finished(id) => Meaning::Finished(id),
        Event::Reset(id) => Meaning::Reset(id),
        Event::Pong(value) => Meaning::Pong(value),
        Event::GoAway => Meaning::GoAway,
    };
    meanings.push(meaning);
}

fn sent(queue: &SendQueue) -> Vec<u8> {
    queue.pieces().flatten().copied().collect()
}
