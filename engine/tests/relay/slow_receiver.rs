//! A receiver that does not read: it costs its own streams only, and a bounded amount of memory.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use dmsg_engine::{
    driver::sim::{Link, Net},
    mux::{MuxKind, StreamId},
    relay::{RefuseReason, RelayLimits},
};

use crate::peer::{Peer, connect_through, server_with, settle, settle_for};

/// Offers as much on `id` as credit allows.
fn fill(peer: &mut Peer, id: StreamId) -> usize {
    let credit = peer.mux.send_credit(id) as usize;
    peer.send(id, &vec![5; credit.min(1 << 20)]);
    credit
}

/// Bytes that a stream moves in a fixed time.
fn move_for_a_while(
    net: &mut Net,
    a: &mut Peer,
    b: &mut Peer,
    out: StreamId,
    inn: StreamId,
) -> usize {
    let mut moved = 0;
    for _ in 0..20 {
        fill(a, out);
        settle(net, &mut [a, b]);
        moved += b.taken(inn).len();
    }
    moved
}

#[test]
fn a_stalled_receiver_holds_at_most_its_budget_and_neighbours_go_on() {
    let limits = RelayLimits { session_pending_bytes_max: 1 << 20, ..RelayLimits::default() };
    let mut net = Net::new(200);
    net.set_link(Link { capacity_bytes: 64 * 1024, ..Link::default() });
    let server = server_with(&mut net, limits);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut stalled = Peer::connect(&mut net, &server, b"stalled", MuxKind::Yamux);
    let mut brisk = Peer::connect(&mut net, &server, b"brisk", MuxKind::Yamux);
    let streams: Vec<_> =
        (0..16).map(|_| connect_through(&mut net, &mut a, &mut stalled).0).collect();
    let (to_brisk, at_brisk) = connect_through(&mut net, &mut a, &mut brisk);
    let quiet = move_for_a_while(&mut net, &mut a, &mut brisk, to_brisk, at_brisk);
    net.raw_stop_reading(&stalled.raw);
    let mut offered = 0;
    for id in &streams {
        offered += fill(&mut a, *id);
        settle_for(&mut net, &mut [&mut a, &mut brisk], Duration::from_millis(20));
        assert!(server.stats.pending_bytes.load(Relaxed) <= 1 << 20, "over the session's budget");
    }
    assert!(offered > 3 << 20, "more was offered than the budget holds");
    assert!(server.stats.refused_count(RefuseReason::SlowReceiver) > 0);
    let beside = move_for_a_while(&mut net, &mut a, &mut brisk, to_brisk, at_brisk);
    assert!(beside * 10 >= quiet * 8, "the neighbour moved {beside} bytes, {quiet} before");
    assert!(stalled.is_open(&net), "its session is not ended for it");
}

#[test]
fn what_waits_is_delivered_in_order_when_the_receiver_reads_again() {
    let mut net = Net::new(201);
    net.set_link(Link { capacity_bytes: 16 * 1024, ..Link::default() });
    let server = server_with(&mut net, RelayLimits::default());
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    let pairs: Vec<_> = (0..4).map(|_| connect_through(&mut net, &mut a, &mut b)).collect();
    net.raw_stop_reading(&b.raw);
    let sent: Vec<u8> = (0..200_000_u32).map(|i| (i * 7 + (i >> 9)) as u8).collect();
    for (at_a, _) in &pairs {
        a.send(*at_a, &sent);
        a.mux.finish(*at_a, &mut a.queue);
    }
    settle_for(&mut net, &mut [&mut a], Duration::from_secs(2));
    assert!(server.stats.pending_bytes.load(Relaxed) > 100_000, "it waits in the relay");
    net.raw_set_reading(&b.raw, true);
    settle_for(&mut net, &mut [&mut a, &mut b], Duration::from_secs(5));
    for (_, at_b) in &pairs {
        assert_eq!(b.taken(*at_b), sent);
        assert!(b.finished(*at_b));
    }
    assert_eq!(server.stats.pending_bytes.load(Relaxed), 0);
}
