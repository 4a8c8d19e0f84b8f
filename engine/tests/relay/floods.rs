//! Frames that carry nothing, and connections that come too fast: each has a budget, and honest traffic of small
//! messages stays within it.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use dmsg_engine::{
    driver::sim::{Net, RawState},
    identity::SecretKey,
    mux::{Event, MuxKind, StreamId},
    relay::{RefuseReason, RelayLimits, SessionEnd},
};

use crate::peer::{Peer, SOON, connect_through, server_with, settle, settle_for};

fn limits() -> RelayLimits {
    RelayLimits {
        empty_frames_per_interval_max: 100,
        control_frames_per_interval_max: 500,
        refusals_per_interval_max: 20,
        ..RelayLimits::default()
    }
}

/// A data frame without a byte.
fn empty_frame(kind: MuxKind, id: StreamId) -> Vec<u8> {
    match kind {
        MuxKind::Yamux => [&[0, 0, 0, 0][..], &id.0.to_be_bytes(), &[0; 4]].concat(),
        MuxKind::SmuxV1 => [&[1, 2, 0, 0][..], &id.0.to_le_bytes()].concat(),
        MuxKind::SmuxV2 => [&[2, 2, 0, 0][..], &id.0.to_le_bytes()].concat(),
    }
}

#[test]
fn empty_data_frames_beyond_the_budget_end_the_session() {
    for kind in [MuxKind::Yamux, MuxKind::SmuxV1, MuxKind::SmuxV2] {
        let mut net = Net::new(310);
        let server = server_with(&mut net, limits());
        let mut a = Peer::connect(&mut net, &server, b"a", kind);
        let id = a.open();
        for count in [100, 1] {
            assert!(a.is_open(&net), "{kind:?}");
            (0..count).for_each(|_| a.queue.push_bytes(&empty_frame(kind, id)));
            settle(&mut net, &mut [&mut a]);
        }
        assert!(!a.is_open(&net), "{kind:?}");
        assert_eq!(server.stats.ended_count(SessionEnd::EmptyFrameFlood), 1, "{kind:?}");
    }
}

#[test]
fn frames_without_payload_beyond_the_budget_end_the_session() {
    for kind in [MuxKind::Yamux, MuxKind::SmuxV2] {
        let mut net = Net::new(311);
        let server = server_with(&mut net, limits());
        let mut a = Peer::connect(&mut net, &server, b"a", kind);
        for count in [490, 20] {
            assert!(a.is_open(&net), "{kind:?}");
            (0..count).for_each(|value| a.mux.ping(value, &mut a.queue));
            settle(&mut net, &mut [&mut a]);
        }
        assert!(!a.is_open(&net), "{kind:?}");
        assert_eq!(server.stats.ended_count(SessionEnd::ControlFlood), 1, "{kind:?}");
    }
}

#[test]
fn data_for_no_stream_earns_no_control_frames() {
    let mut net = Net::new(312);
    let server = server_with(&mut net, limits());
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let frame = [&[0, 0, 0, 0, 0, 0, 0, 99][..], &[0, 0, 0, 1], &[7]].concat();
    (0..600).for_each(|_| a.queue.push_bytes(&frame));
    settle(&mut net, &mut [&mut a]);
    assert_eq!(server.stats.ended_count(SessionEnd::ControlFlood), 1);
}

#[test]
fn the_budget_is_for_an_interval_and_not_for_life() {
    let mut net = Net::new(313);
    let server = server_with(&mut net, limits());
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    for _ in 0..10 {
        (0..400).for_each(|value| a.mux.ping(value, &mut a.queue));
        settle_for(&mut net, &mut [&mut a], Duration::from_secs(31));
    }
    assert!(a.is_open(&net));
}

#[test]
fn small_messages_with_an_update_for_each_are_honest() {
    let mut net = Net::new(314);
    let server = server_with(&mut net, limits());
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    let (at_a, at_b) = connect_through(&mut net, &mut a, &mut b);
    b.grants = false;
    let mut received = 0;
    for _ in 0..3000 {
        a.send(at_a, b"k");
        a.pump(&mut net);
        net.run_for(Duration::from_millis(1));
        b.pump(&mut net);
        let count = u32::try_from(b.taken(at_b).len()).unwrap();
        received += count;
        b.mux.grant(at_b, count, true, &mut b.queue);
        b.pump(&mut net);
    }
    settle(&mut net, &mut [&mut a, &mut b]);
    received += u32::try_from(b.taken(at_b).len()).unwrap();
    assert_eq!(received, 3000);
    assert!(a.is_open(&net) && b.is_open(&net));
}

#[test]
fn dials_that_are_refused_have_a_budget() {
    let mut net = Net::new(315);
    let server = server_with(&mut net, limits());
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let nobody = SecretKey::from_seed(b"nobody").public_key();
    for count in [20, 1] {
        assert!(a.is_open(&net));
        for _ in 0..count {
            let (id, _) = a.send_request(&a.request(nobody));
            a.mux.finish(id, &mut a.queue);
            settle_for(&mut net, &mut [&mut a], Duration::from_millis(20));
        }
    }
    assert!(!a.is_open(&net));
    assert_eq!(server.stats.ended_count(SessionEnd::RefusalFlood), 1);
    assert_eq!(server.stats.stream_halves.load(Relaxed), 0);
}

/// A dial is dear whatever comes of it: two that work together must not have a core for themselves.
#[test]
fn dials_that_the_destination_declines_have_a_budget_too() {
    let limits = RelayLimits { requests_per_interval_max: 30, ..limits() };
    let mut net = Net::new(317);
    let server = server_with(&mut net, limits);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    let mut dial = |net: &mut Net, a: &mut Peer| {
        let (id, _) = a.send_request(&a.request(b.key()));
        for _ in 0..3 {
            settle_for(net, &mut [a, &mut b], Duration::from_millis(20));
            for event in b.events.drain(..) {
                if let Event::Opened(id) = event {
                    b.mux.reset(id, &mut b.queue);
                }
            }
        }
        a.mux.finish(id, &mut a.queue);
    };
    (0..40).for_each(|_| dial(&mut net, &mut a));
    assert_eq!(server.stats.refused_count(RefuseReason::Declined), 30);
    assert_eq!(server.stats.refused_count(RefuseReason::TooManyRequests), 10);
    assert!(a.is_open(&net));
    settle_for(&mut net, &mut [&mut a], Duration::from_secs(31));
    (0..55).for_each(|_| dial(&mut net, &mut a));
    assert_eq!(server.stats.refused_count(RefuseReason::Declined), 60);
    assert!(!a.is_open(&net), "whoever does not stop is gone");
    assert_eq!(server.stats.ended_count(SessionEnd::RefusalFlood), 1);
}

#[test]
fn an_interval_is_not_shorter_for_a_session_that_was_quiet() {
    let mut net = Net::new(318);
    let server = server_with(&mut net, limits());
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    // A keep-alive tick comes after 45 s, 15 s after the ping of the one before: in the middle of what follows.
    settle_for(&mut net, &mut [&mut a], Duration::from_secs(44));
    for _ in 0..20 {
        (0..40).for_each(|value| a.mux.ping(value, &mut a.queue));
        settle_for(&mut net, &mut [&mut a], Duration::from_millis(100));
    }
    assert_eq!(server.stats.ended_count(SessionEnd::ControlFlood), 1);
}

#[test]
fn connections_from_one_address_have_a_rate() {
    let limits = RelayLimits {
        handshakes_per_second_max: 10,
        handshakes_burst_max: 20,
        ..RelayLimits::default()
    };
    let mut net = Net::new(316);
    let server = server_with(&mut net, limits);
    let flood: Vec<_> = (0..50).map(|_| net.raw_connect(server.address)).collect();
    net.run_for(SOON);
    let open = flood.iter().filter(|raw| net.raw_state(raw) == RawState::Open).count();
    assert_eq!(open, 20);
    assert_eq!(server.stats.ended_count(SessionEnd::HandshakeRate), 30);
    net.run_for(Duration::from_secs(6));
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    settle(&mut net, &mut [&mut a]);
    assert!(a.is_open(&net), "the bucket has filled again");
}
