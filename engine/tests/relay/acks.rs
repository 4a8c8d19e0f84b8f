//! When a stream that a client opens gets its ACK: with what is said on it first, else soon; at once when many wait for theirs.

use std::time::Duration;

use dmsg_engine::{
    driver::sim::Net,
    mux::{Event, MuxKind, StreamId},
};

use crate::peer::{Peer, SOON, server, settle, settle_for};

/// Held back for one session at most, by `relay/dial.rs`.
const HELD_MAX: usize = 64;

/// … and for this long.
const DELAY: Duration = Duration::from_secs(1);

fn is_acked(peer: &Peer, id: StreamId) -> bool {
    peer.events.iter().any(|event| matches!(event, Event::Acked(acked) if *acked == id))
}

#[test]
fn the_ack_rides_on_the_answer() {
    let mut net = Net::new(1);
    let server = server(&mut net);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    let (at_a, object) = a.send_request(&a.request(b.key()));
    settle(&mut net, &mut [&mut a, &mut b]);
    assert!(!is_acked(&a, at_a), "nothing is said on the stream yet");
    let at_b = b.opened();
    b.accept(at_b, &object);
    settle(&mut net, &mut [&mut a, &mut b]);
    assert!(is_acked(&a, at_a));
    a.take_object(at_a);
    settle_for(&mut net, &mut [&mut a, &mut b], 2 * DELAY);
    let acks = a.events.iter().filter(|event| matches!(event, Event::Acked(_))).count();
    assert_eq!((acks, a.mux.unacked_count()), (1, 0), "and once only");
}

#[test]
fn without_an_answer_the_ack_comes_soon() {
    let mut net = Net::new(2);
    let server = server(&mut net);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    let silent = a.open();
    let (dialled, _) = a.send_request(&a.request(b.key()));
    settle(&mut net, &mut [&mut a, &mut b]);
    assert_eq!(a.mux.unacked_count(), 2);
    settle_for(&mut net, &mut [&mut a, &mut b], DELAY);
    assert!(is_acked(&a, silent) && is_acked(&a, dialled));
    // The ACK has moved no deadline: five seconds for the request, and for the answer.
    settle_for(&mut net, &mut [&mut a, &mut b], Duration::from_secs(5) - DELAY - 2 * SOON);
    assert!(!a.finished(silent) && !a.finished(dialled));
    settle_for(&mut net, &mut [&mut a, &mut b], 2 * SOON);
    assert!(a.finished(silent) && a.finished(dialled));
}

#[test]
fn a_refusal_brings_the_ack_along() {
    let mut net = Net::new(3);
    let server = server(&mut net);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let (id, _) = a.send_request(&a.request(server.key));
    settle(&mut net, &mut [&mut a]);
    assert!(is_acked(&a, id) && a.finished(id));
    assert_eq!(a.mux.unacked_count(), 0);
}

/// Deployed openers stop at 256 streams without an ACK, and dials to peers that do not answer must not use that up.
#[test]
fn beyond_a_bound_acks_come_at_once() {
    let mut net = Net::new(4);
    let server = server(&mut net);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let ids: Vec<_> = (0..HELD_MAX + 100).map(|_| a.open()).collect();
    settle(&mut net, &mut [&mut a]);
    assert_eq!(a.mux.unacked_count(), HELD_MAX, "the others have theirs");
    assert!(ids[HELD_MAX..].iter().all(|id| is_acked(&a, *id)));
    // Those that are given up make room for others.
    let mut queue = std::mem::take(&mut a.queue);
    ids[..HELD_MAX].iter().for_each(|id| a.mux.reset(*id, &mut queue));
    a.queue = queue;
    let next = a.open();
    settle(&mut net, &mut [&mut a]);
    assert!(!is_acked(&a, next));
    settle_for(&mut net, &mut [&mut a], DELAY + SOON);
    assert!(is_acked(&a, next));
}
