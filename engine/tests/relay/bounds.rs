//! Each bound of a session, filled.

use std::sync::atomic::Ordering::Relaxed;

use dmsg_engine::{
    driver::sim::Net,
    mux::{Event, MuxKind},
    relay::{RelayLimits, SessionEnd},
};

use crate::peer::{Peer, server_with, settle};

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
    let raw = net.raw_connect(server.address);
    net.run_for(crate::peer::SOON);
    assert_ne!(net.raw_state(&raw), dmsg_engine::driver::sim::RawState::Open);
    assert!(a.is_open(&net) && b.is_open(&net));
    assert_eq!(server.stats.ended_count(SessionEnd::TooManySessions), 1);
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
    // 2.4 MB of pings were offered; what the relay took beyond both sockets is bounded by its control mark.
    assert!(net.raw_unsent_bytes(&a.raw) > 1_000_000, "the relay stopped reading");
}
