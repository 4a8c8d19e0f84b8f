//! Connections that are no sessions: garbage, half a handshake, floods.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use dmsg_engine::{
    driver::sim::{Net, RawState},
    identity::SecretKey,
    mux::MuxKind,
    pool::Slice,
    relay::{RelayLimits, SessionEnd},
    session::SessionHandshake,
};

use crate::peer::{Peer, SOON, server, server_with};

#[test]
fn half_a_handshake_then_silence_ends_after_5_seconds() {
    let mut net = Net::new(80);
    let server = server(&mut net);
    let raw = net.raw_connect(server.address);
    let mut hello = Vec::new();
    let (key, ephemeral) = (SecretKey::from_seed(b"a"), SecretKey::from_seed(b"e"));
    drop(SessionHandshake::initiator(&key, server.key, ephemeral, &mut hello));
    net.raw_write(&raw, &hello);
    net.run_for(Duration::from_millis(4900));
    assert_eq!(net.raw_state(&raw), RawState::Open);
    // One byte more does not buy more time: the limit is on the whole handshake.
    net.raw_write(&raw, &[0]);
    net.run_for(Duration::from_millis(200));
    assert_ne!(net.raw_state(&raw), RawState::Open);
    assert_eq!(server.stats.ended_count(SessionEnd::HandshakeTimeout), 1);
}

#[test]
fn garbage_ends_the_connection_at_once() {
    let off_curve = [&[0, 49][..], &[2], &[0xff; 32], &[0; 16]].concat();
    let too_long = vec![0xff; 10];
    let stranger = SecretKey::from_seed(b"x").public_key();
    let wrong_tag = [&[0, 49][..], stranger.as_bytes(), &[0; 16]].concat();
    for garbage in [off_curve, too_long, wrong_tag, b"GET / HTTP/1.1\r\n\r\n".to_vec()] {
        let mut net = Net::new(81);
        let server = server(&mut net);
        let raw = net.raw_connect(server.address);
        net.raw_write(&raw, &garbage);
        net.run_for(SOON);
        assert_ne!(net.raw_state(&raw), RawState::Open, "{garbage:02x?}");
        assert_eq!(server.stats.ended_count(SessionEnd::HandshakeFailed), 1);
    }
}

#[test]
fn a_flood_of_silent_connections_drops_the_oldest_and_lets_sessions_in() {
    let limits = RelayLimits {
        handshakes_max: 8,
        handshakes_per_address_max: 100,
        ..RelayLimits::default()
    };
    let mut net = Net::new(82);
    let server = server_with(&mut net, limits);
    let flood: Vec<_> = (0..20).map(|_| net.raw_connect(server.address)).collect();
    net.run_for(SOON);
    assert_eq!(server.stats.handshakes.load(Relaxed), 8);
    assert_eq!(server.stats.ended_count(SessionEnd::HandshakeShed), 12);
    assert_ne!(net.raw_state(&flood[0]), RawState::Open);
    let a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    assert!(server.cores.find(&a.key()).is_some());
}

#[test]
fn one_address_cannot_take_every_place() {
    let limits = RelayLimits { handshakes_per_address_max: 3, ..RelayLimits::default() };
    let mut net = Net::new(83);
    let server = server_with(&mut net, limits);
    for _ in 0..10 {
        net.raw_connect(server.address);
    }
    net.run_for(SOON);
    let in_handshake = server.stats.handshakes.load(Relaxed);
    let shed = server.stats.ended_count(SessionEnd::HandshakeShed);
    assert_eq!(in_handshake + shed, 10);
    assert!(shed > 0 && in_handshake >= 3);
}

/// Everything a client once sent, sent again: the server's fresh ephemeral makes the third message worthless.
#[test]
fn a_recorded_handshake_does_not_open_a_session() {
    let mut net = Net::new(84);
    let server = server(&mut net);
    let (key, ephemeral) = (SecretKey::from_seed(b"a"), SecretKey::from_seed(b"e"));
    let (mut first, mut third) = (Vec::new(), Vec::new());
    let mut client = SessionHandshake::initiator(&key, server.key, ephemeral, &mut first);
    let raw = net.raw_connect(server.address);
    net.raw_write(&raw, &first);
    net.run_for(SOON);
    client.receive(Slice::from_vec(net.raw_read(&raw)), &mut third).unwrap();
    net.raw_write(&raw, &third);
    net.run_for(SOON);
    assert_eq!(server.stats.sessions_total.load(Relaxed), 1);
    net.kill(raw.wire());
    let again = net.raw_connect(server.address);
    net.raw_write(&again, &[first, third].concat());
    net.run_for(SOON);
    assert_ne!(net.raw_state(&again), RawState::Open);
    assert_eq!(server.stats.sessions_total.load(Relaxed), 1);
    assert_eq!(server.stats.ended_count(SessionEnd::HandshakeFailed), 1);
}
