//! The ends of a relayed stream: FIN in each order, resets, idle and lingering streams.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use dmsg_engine::{
    driver::sim::{Link, Net},
    mux::MuxKind,
    relay::RefuseReason,
};

use crate::peer::{Peer, Server, connect_through, server, settle, settle_for};

fn pair(seed: u64) -> (Net, Server, Peer, Peer) {
    pair_over(seed, Link::default(), MuxKind::Yamux)
}

fn pair_over(seed: u64, link: Link, mux_of_b: MuxKind) -> (Net, Server, Peer, Peer) {
    let mut net = Net::new(seed);
    net.set_link(link);
    let server = server(&mut net);
    let a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", mux_of_b);
    // The first frame tells the server the mux.
    b.mux.ping(0, &mut b.queue);
    settle(&mut net, &mut [&mut b]);
    (net, server, a, b)
}

#[test]
fn a_finished_direction_leaves_the_other_open() {
    let (mut net, server, mut a, mut b) = pair(40);
    let (at_a, at_b) = connect_through(&mut net, &mut a, &mut b);
    a.send(at_a, b"question");
    a.mux.finish(at_a, &mut a.queue);
    settle(&mut net, &mut [&mut a, &mut b]);
    assert!(b.finished(at_b));
    assert_eq!(b.taken(at_b), b"question");
    b.send(at_b, b"answer after the FIN");
    settle(&mut net, &mut [&mut a, &mut b]);
    assert_eq!(a.taken(at_a), b"answer after the FIN");
    b.mux.finish(at_b, &mut b.queue);
    settle(&mut net, &mut [&mut a, &mut b]);
    assert!(a.finished(at_a));
    assert_eq!(server.stats.stream_halves.load(Relaxed), 0);
}

/// Both directions of the sender's side are over, and its half is gone, while the rest still waits for the
/// receiver. What the receiver grants meanwhile concerns nobody any more.
#[test]
fn the_rest_is_delivered_when_the_sender_is_done_with_both_directions() {
    let narrow = Link { capacity_bytes: 16 * 1024, ..Link::default() };
    let (mut net, server, mut a, mut b) = pair_over(44, narrow, MuxKind::SmuxV1);
    let (at_a, at_b) = connect_through(&mut net, &mut a, &mut b);
    a.mux.finish(at_a, &mut a.queue);
    settle(&mut net, &mut [&mut a, &mut b]);
    net.raw_stop_reading(&a.raw);
    let sent: Vec<u8> = (0..350_000_u32).map(|i| (i * 7 + (i >> 9)) as u8).collect();
    b.send(at_b, &sent);
    b.mux.finish(at_b, &mut b.queue);
    settle_for(&mut net, &mut [&mut b], Duration::from_secs(1));
    assert!(server.stats.pending_bytes.load(Relaxed) > 100_000, "it waits in the relay");
    net.raw_set_reading(&a.raw, true);
    settle_for(&mut net, &mut [&mut a, &mut b], Duration::from_secs(2));
    assert!(!a.was_reset(at_a));
    assert_eq!(a.taken(at_a), sent);
    assert!(a.finished(at_a));
    assert_eq!(server.stats.stream_halves.load(Relaxed), 0);
}

#[test]
fn a_reset_reaches_the_other_side() {
    let (mut net, server, mut a, mut b) = pair(41);
    let (at_a, at_b) = connect_through(&mut net, &mut a, &mut b);
    b.mux.reset(at_b, &mut b.queue);
    settle(&mut net, &mut [&mut a, &mut b]);
    assert!(a.was_reset(at_a));
    assert_eq!(server.stats.stream_halves.load(Relaxed), 0);
}

#[test]
fn a_half_closed_stream_does_not_linger() {
    let (mut net, server, mut a, mut b) = pair(42);
    let (at_a, at_b) = connect_through(&mut net, &mut a, &mut b);
    a.mux.finish(at_a, &mut a.queue);
    settle_for(&mut net, &mut [&mut a, &mut b], Duration::from_secs(9));
    b.send(at_b, b"still here");
    settle_for(&mut net, &mut [&mut a, &mut b], Duration::from_secs(9));
    assert!(!a.was_reset(at_a), "data keeps it alive");
    settle_for(&mut net, &mut [&mut a, &mut b], Duration::from_secs(4));
    assert!(b.was_reset(at_b));
    assert_eq!(server.stats.refused_count(RefuseReason::Linger), 1);
    assert_eq!(server.stats.stream_halves.load(Relaxed), 0);
}

#[test]
fn an_idle_stream_ends_and_traffic_in_either_direction_keeps_it() {
    let (mut net, server, mut a, mut b) = pair(43);
    let (at_a, at_b) = connect_through(&mut net, &mut a, &mut b);
    for _ in 0..3 {
        settle_for(&mut net, &mut [&mut a, &mut b], Duration::from_secs(200));
        a.send(at_a, b"x");
    }
    settle(&mut net, &mut [&mut a, &mut b]);
    assert_eq!(b.taken(at_b), b"xxx");
    settle_for(&mut net, &mut [&mut a, &mut b], Duration::from_secs(310));
    assert!(a.was_reset(at_a) && b.was_reset(at_b));
    assert_eq!(server.stats.refused_count(RefuseReason::Idle), 1);
}

#[test]
fn what_waits_for_a_slow_receiver_outlives_the_senders_half() {
    let mut net = Net::new(64);
    net.set_link(Link { capacity_bytes: 16 * 1024, ..Link::default() });
    let server = server(&mut net);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    let pairs: Vec<_> = (0..4).map(|_| connect_through(&mut net, &mut a, &mut b)).collect();
    for (_, at_b) in &pairs {
        b.mux.finish(*at_b, &mut b.queue);
    }
    settle(&mut net, &mut [&mut a, &mut b]);
    net.raw_stop_reading(&b.raw);
    for (at_a, _) in &pairs {
        assert!(a.finished(*at_a));
        a.send(*at_a, &[7; 250_000]);
        a.mux.finish(*at_a, &mut a.queue);
    }
    settle(&mut net, &mut [&mut a]);
    // Both directions have ended for a. Credit that b gives now is for nobody, and no reason to cut b off.
    net.raw_set_reading(&b.raw, true);
    for _ in 0..30 {
        settle_for(&mut net, &mut [&mut a, &mut b], Duration::from_millis(2));
    }
    settle(&mut net, &mut [&mut a, &mut b]);
    for (_, at_b) in &pairs {
        assert_eq!(b.taken(*at_b).len(), 250_000);
        assert!(b.finished(*at_b) && !b.was_reset(*at_b));
    }
}
