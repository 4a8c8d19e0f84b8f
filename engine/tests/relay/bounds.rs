//! Each bound of a session, filled.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use dmsg_engine::{
    driver::sim::{Link, Net},
    mux::{Event, MuxKind},
    relay::{RelayLimits, SessionEnd},
};

use crate::peer::{Peer, connect_through, server_with, settle, settle_for};

#[test]
fn streams_beyond_the_limit_are_reset_and_the_session_goes_on() {
    let limits = RelayLimits { streams_per_session_max: 4, ..RelayLimits::default() };
    let mut net = Net::new(90);
    let server = server_with(&mut net, limits);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let ids: Vec<_> = (0..6).map(|_| a.open()).collect();
    settle(&mut net, &mut [&mut a]);
    assert_eq!(ids.iter().filter(|id| a.was_reset(**id)).count(), 2);
    assert_eq!(server.stats.stream_halves.load(Relaxed), 4);
    assert!(a.is_open(&net));
}

#[test]
fn sessions_beyond_the_limit_are_closed() {
    let limits = RelayLimits { sessions_max: 2, ..RelayLimits::default() };
    let mut net = Net::new(91);
    let server = server_with(&mut net, limits);
    let a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    let c = Peer::connect(&mut net, &server, b"c", MuxKind::Yamux);
    assert!(!c.is_open(&net));
    assert!(a.is_open(&net) && b.is_open(&net));
    assert_eq!(server.stats.ended_count(SessionEnd::TooManySessions), 1);
    // Whoever comes back before its old session was noticed to be dead takes that one's place.
    let again = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    assert!(again.is_open(&net) && !a.is_open(&net));
}

/// All of them were let in while there was a place.
#[test]
fn sessions_beyond_the_limit_whose_handshakes_began_together_are_closed() {
    let limits = RelayLimits { sessions_max: 1, ..RelayLimits::default() };
    let mut net = Net::new(94);
    let server = server_with(&mut net, limits);
    let raws: Vec<_> = (0..10).map(|_| net.raw_connect(server.address)).collect();
    net.run_for(crate::peer::SOON);
    let peers: Vec<_> = (0..10)
        .zip(raws)
        .map(|(i, raw)| Peer::connect_over(&mut net, &server, raw, &[i], MuxKind::Yamux))
        .collect();
    assert_eq!(peers.iter().filter(|peer| peer.is_open(&net)).count(), 1);
    assert_eq!(server.stats.sessions.load(Relaxed), 1);
    assert_eq!(server.stats.ended_count(SessionEnd::TooManySessions), 9);
}

#[test]
fn streams_are_counted_once_at_whatever_stage_they_are() {
    let mut net = Net::new(95);
    let server = server_with(&mut net, RelayLimits::default());
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    let (at_a, at_b) = connect_through(&mut net, &mut a, &mut b);
    for _ in 0..100 {
        a.open();
    }
    settle(&mut net, &mut [&mut a, &mut b]);
    assert_eq!(server.stats.streams.load(Relaxed), 101);
    a.mux.finish(at_a, &mut a.queue);
    b.mux.finish(at_b, &mut b.queue);
    settle(&mut net, &mut [&mut a, &mut b]);
    assert_eq!(server.stats.streams.load(Relaxed), 100);
    net.kill(a.raw.wire());
    net.run_for(crate::peer::SOON);
    assert_eq!(server.stats.streams.load(Relaxed), 0);
}

#[test]
fn times_that_mean_for_ever_are_times() {
    let limits = RelayLimits {
        handshake_timeout: Duration::MAX,
        dial_timeout: Duration::MAX,
        idle_timeout: Duration::MAX,
        linger_timeout: Duration::MAX,
        ping_interval: Duration::MAX,
        ping_timeout: Duration::MAX,
        ..RelayLimits::default()
    };
    let mut net = Net::new(97);
    let server = server_with(&mut net, limits);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::SmuxV1);
    b.mux.ping(0, &mut b.queue);
    settle_for(&mut net, &mut [&mut a, &mut b], Duration::from_secs(20));
    let (at_a, _) = connect_through(&mut net, &mut a, &mut b);
    a.mux.finish(at_a, &mut a.queue);
    settle_for(&mut net, &mut [&mut a, &mut b], Duration::from_secs(20));
    assert!(a.is_open(&net) && b.is_open(&net));
}

#[test]
fn sessions_of_one_address_beyond_its_limit_are_closed_and_a_place_comes_back() {
    let limits = RelayLimits { sessions_per_address_max: 2, ..RelayLimits::default() };
    let mut net = Net::new(93);
    let server = server_with(&mut net, limits);
    let a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    let c = Peer::connect(&mut net, &server, b"c", MuxKind::Yamux);
    assert!(a.is_open(&net) && b.is_open(&net) && !c.is_open(&net));
    assert_eq!(server.stats.ended_count(SessionEnd::TooManyFromAddress), 1);
    net.raw_close(&b.raw);
    net.run_for(crate::peer::SOON);
    let d = Peer::connect(&mut net, &server, b"d", MuxKind::Yamux);
    assert!(d.is_open(&net));
    assert_eq!(server.stats.sessions.load(Relaxed), 2);
}

#[test]
fn opening_and_abandoning_streams_has_a_budget() {
    let limits = RelayLimits { resets_per_interval_max: 50, ..RelayLimits::default() };
    let mut net = Net::new(92);
    let server = server_with(&mut net, limits);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    for _ in 0..60 {
        let id = a.open();
        a.mux.reset(id, &mut a.queue);
        b.mux.ping(1, &mut b.queue);
    }
    settle(&mut net, &mut [&mut a, &mut b]);
    assert!(!a.is_open(&net));
    assert_eq!(server.stats.ended_count(SessionEnd::ResetFlood), 1);
    assert!(b.is_open(&net));
    assert_eq!(b.events.iter().filter(|e| matches!(e, Event::Pong(1))).count(), 60);
}

/// Data and dials that others send it are not its own doing: what it uploads is read.
#[test]
fn a_peer_that_does_not_read_what_others_send_is_read_from() {
    let mut net = Net::new(96);
    net.set_link(Link { capacity_bytes: 64 * 1024, ..Link::default() });
    let server = server_with(&mut net, RelayLimits::default());
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    let (at_a, at_b) = connect_through(&mut net, &mut a, &mut b);
    net.raw_stop_reading(&b.raw);
    a.send(at_a, &[1; 250_000]);
    settle(&mut net, &mut [&mut a]);
    for _ in 0..400 {
        a.send_request(&a.request(b.key()));
        a.pump(&mut net);
    }
    settle(&mut net, &mut [&mut a]);
    for _ in 0..20 {
        b.send(at_b, &[2; 1000]);
        settle_for(&mut net, &mut [&mut b, &mut a], Duration::from_millis(20));
    }
    assert_eq!(a.taken(at_a).len(), 20_000);
}

#[test]
fn a_peer_that_pings_and_never_reads_is_not_read_from_any_more() {
    let mut net = Net::new(93);
    let server = server_with(&mut net, RelayLimits::default());
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    net.raw_stop_reading(&a.raw);
    for _ in 0..200 {
        for value in 0..1000 {
            a.mux.ping(value, &mut a.queue);
        }
        let bytes: Vec<u8> = a.queue.pieces().flatten().copied().collect();
        a.queue.clear();
        net.raw_write(&a.raw, &bytes);
        net.run_for(std::time::Duration::from_millis(5));
    }
    // 2.4 MB of pings were offered; what the relay took beyond both sockets is bounded by `ANSWER_BYTES_MAX`.
    assert!(net.raw_unsent_bytes(&a.raw) > 1_000_000, "the relay stopped reading");
}
