//! A dial through the relay, data both ways, at every cut of the byte stream.

use dmsg_engine::{
    driver::sim::{Chunking, Link, Net},
    mux::MuxKind,
};
use std::sync::atomic::Ordering::Relaxed;

use crate::peer::{Peer, connect_through, server, settle};

#[test]
fn objects_pass_unchanged_and_data_flows_both_ways() {
    for (seed, chunking) in
        [(1, Chunking::Whole), (2, Chunking::Exactly(1)), (3, Chunking::Random(40))]
    {
        let mut net = Net::new(seed);
        net.set_link(Link { chunking, ..Link::default() });
        let server = server(&mut net);
        let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
        let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
        let (at_a, at_b) = connect_through(&mut net, &mut a, &mut b);
        a.send(at_a, b"hello bob");
        b.send(at_b, b"hello alice");
        settle(&mut net, &mut [&mut a, &mut b]);
        assert_eq!(a.taken(at_a), b"hello alice");
        assert_eq!(b.taken(at_b), b"hello bob");
        assert_eq!(server.stats.relayed_bytes.load(Relaxed), 20);
        assert_eq!(server.stats.streams_total.load(Relaxed), 1);
    }
}

#[test]
fn more_than_a_window_flows_because_credit_is_passed_on() {
    let mut net = Net::new(4);
    let server = server(&mut net);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    let (at_a, at_b) = connect_through(&mut net, &mut a, &mut b);
    let sent: Vec<u8> = (0..2_000_000_u32).map(|i| (i ^ (i >> 7)) as u8).collect();
    let mut got = Vec::new();
    let mut rest = &sent[..];
    while got.len() < sent.len() {
        let credit = a.mux.send_credit(at_a) as usize;
        let (now, later) = rest.split_at(credit.min(rest.len()));
        a.send(at_a, now);
        rest = later;
        let before = got.len();
        settle(&mut net, &mut [&mut a, &mut b]);
        got.extend(b.taken(at_b));
        assert!(got.len() > before, "the stream stands still");
    }
    assert_eq!(got, sent);
    assert_eq!(server.stats.pending_bytes.load(Relaxed), 0);
}

#[test]
fn a_client_can_dial_itself() {
    let mut net = Net::new(5);
    let server = server(&mut net);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let (out, object) = a.send_request(&a.request(a.key()));
    settle(&mut net, &mut [&mut a]);
    let inbound = a.opened();
    assert_eq!(a.take_object(inbound), object);
    a.accept(inbound, &object);
    settle(&mut net, &mut [&mut a]);
    a.take_object(out);
    a.send(out, b"to myself");
    settle(&mut net, &mut [&mut a]);
    assert_eq!(a.taken(inbound), b"to myself");
}

#[test]
fn data_right_behind_the_answer_is_not_lost() {
    let mut net = Net::new(6);
    let server = server(&mut net);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    let (at_a, object) = a.send_request(&a.request(b.key()));
    settle(&mut net, &mut [&mut a, &mut b]);
    let at_b = b.opened();
    b.take_object(at_b);
    b.accept(at_b, &object);
    b.send(at_b, b"at once");
    settle(&mut net, &mut [&mut a, &mut b]);
    a.take_object(at_a);
    assert_eq!(a.taken(at_a), b"at once");
}
