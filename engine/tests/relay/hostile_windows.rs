//! Peers that do not read, and windows as no honest peer has them: what a relay holds for a session stays bounded,
//! and no stream is stuck on credit that is there.

use std::time::Duration;

use dmsg_engine::{
    driver::sim::{Link, Net},
    mux::{MuxKind, StreamId},
    relay::Relay,
    session::OBJECT_OVERHEAD_BYTES,
    wire::StreamResponse,
};

use crate::peer::{Peer, SOON, Server, connect_through, server, settle, settle_for};

/// The longest send queue of the relay's connections.
fn longest_queue(net: &mut Net, server: &Server) -> usize {
    net.with(server.node, |_: &mut Relay, io| {
        io.live_conns().into_iter().map(|conn| io.queued_bytes(conn)).max().unwrap_or(0)
    })
}

/// A link whose sockets hold little, so that the relay's own queue is what grows.
fn narrow(net: &mut Net) {
    net.set_link(Link { capacity_bytes: 8 * 1024, ..Link::default() });
}

/// An smux version 2 update, as it is on the wire.
fn update(id: StreamId, consumed: u32, window: u32) -> Vec<u8> {
    let mut bytes = vec![2, 4, 8, 0];
    for field in [id.0, consumed, window] {
        bytes.extend(field.to_le_bytes());
    }
    bytes
}

/// Bytes of a sealed request of `a` to `b`.
fn request_bytes(a: &Peer, b: &Peer) -> u32 {
    let signed = a.sign(&a.request(b.key())).as_bytes().len();
    u32::try_from(signed + OBJECT_OVERHEAD_BYTES).unwrap()
}

#[test]
fn credit_for_a_peer_that_does_not_read_does_not_pile_up_in_its_queue() {
    let mut net = Net::new(300);
    narrow(&mut net);
    let server = server(&mut net);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    let (at_a, at_b) = connect_through(&mut net, &mut a, &mut b);
    let before = a.mux.send_credit(at_a);
    net.raw_stop_reading(&a.raw);
    for _ in 0..60 {
        (0..1000).for_each(|_| b.mux.grant(at_b, 1, true, &mut b.queue));
        settle_for(&mut net, &mut [&mut b], Duration::from_millis(40));
    }
    assert!(longest_queue(&mut net, &server) < 256 * 1024, "720 KB of updates were caused");
    net.raw_set_reading(&a.raw, true);
    settle_for(&mut net, &mut [&mut a, &mut b], Duration::from_secs(2));
    // What b had kept back for the request came with it.
    let request = request_bytes(&a, &b);
    assert_eq!(a.mux.send_credit(at_a) - before, 60_000 + request, "none of the credit is lost");
}

#[test]
fn requests_to_a_peer_that_does_not_read_do_not_pile_up_in_its_queue() {
    let mut net = Net::new(301);
    narrow(&mut net);
    let server = server(&mut net);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    net.raw_stop_reading(&b.raw);
    for _ in 0..40 {
        let mut request = a.request(b.key());
        request.noise_msg = a.handshake_message(60_000);
        a.send_request(&request);
        settle(&mut net, &mut [&mut a]);
    }
    assert!(longest_queue(&mut net, &server) < 700 * 1024, "2.4 MB of requests were sent");
    assert!(a.is_open(&net));
}

#[test]
fn responses_to_a_peer_that_does_not_read_do_not_pile_up_in_its_queue() {
    let mut net = Net::new(302);
    narrow(&mut net);
    let server = server(&mut net);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    let mut dials = Vec::new();
    for _ in 0..40 {
        let (_, object) = a.send_request(&a.request(b.key()));
        settle_for(&mut net, &mut [&mut a, &mut b], Duration::from_millis(40));
        let at_b = b.opened();
        b.take_object(at_b);
        dials.push((at_b, object));
    }
    net.raw_stop_reading(&a.raw);
    for (at_b, object) in dials {
        let response = StreamResponse {
            req_hash: object.hash(),
            accepted: true,
            noise_msg: b.handshake_message(60_000),
            ..StreamResponse::default()
        };
        b.answer(at_b, &response);
        settle_for(&mut net, &mut [&mut b], Duration::from_millis(40));
    }
    assert!(longest_queue(&mut net, &server) < 700 * 1024, "2.4 MB of responses were sent");
    assert!(b.is_open(&net));
}

#[test]
fn a_client_that_leaves_no_window_for_the_answer_gets_none() {
    let mut net = Net::new(303);
    let server = server(&mut net);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::SmuxV2);
    let mut request = a.request(server.key);
    request.ip_info = true;
    request.noise_msg.clear();
    let object = a.sign(&request);
    let lookup = [a.seal(&object), vec![0, 0]];
    for bytes in lookup {
        let id = a.open();
        let shut = update(id, 0, 0);
        a.queue.push_bytes(&shut);
        a.send(id, &bytes);
        settle(&mut net, &mut [&mut a]);
        assert!(a.finished(id) && a.taken(id).is_empty(), "closed without a byte");
    }
    assert!(a.is_open(&net));
}

#[test]
fn data_longer_than_the_credit_goes_out_as_far_as_the_credit_reaches() {
    let mut net = Net::new(304);
    let server = server(&mut net);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::SmuxV2);
    b.mux.ping(0, &mut b.queue);
    settle(&mut net, &mut [&mut b]);
    let (at_a, at_b) = connect_through(&mut net, &mut a, &mut b);
    // As a Go peer tells it: a window of 64 KiB behind what it has read, and nothing more before it
    // has read another 32 KiB.
    b.grants = false;
    a.send(at_a, &[1; 40_000]);
    settle(&mut net, &mut [&mut a, &mut b]);
    assert_eq!(b.taken(at_b).len(), 40_000);
    let consumed = 40_000 + request_bytes(&a, &b);
    let told = update(at_b, consumed, 65_536);
    b.queue.push_bytes(&told);
    settle(&mut net, &mut [&mut a, &mut b]);
    a.send(at_a, &[2; 30_000]);
    settle(&mut net, &mut [&mut a, &mut b]);
    assert_eq!(b.taken(at_b).len(), 30_000);
    a.send(at_a, &[3; 60_000]);
    settle(&mut net, &mut [&mut a, &mut b]);
    assert_eq!(b.taken(at_b).len(), 35_536, "all that the window of b has room for");
    let told = update(at_b, consumed + 65_536, 65_536);
    b.queue.push_bytes(&told);
    settle(&mut net, &mut [&mut a, &mut b]);
    assert_eq!(b.taken(at_b).len(), 60_000 - 35_536);
}

#[test]
fn a_peer_that_does_not_read_the_answers_to_its_pings_is_ended() {
    let mut net = Net::new(305);
    narrow(&mut net);
    let server = server(&mut net);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    net.raw_stop_reading(&a.raw);
    for _ in 0..40 {
        (0..1000).for_each(|value| a.mux.ping(value, &mut a.queue));
        a.pump(&mut net);
        net.run_for(SOON);
    }
    assert!(a.is_open(&net) && net.raw_unsent_bytes(&a.raw) > 0, "the relay stopped reading");
    net.run_for(Duration::from_secs(80));
    assert!(!a.is_open(&net));
}

#[test]
fn a_stream_that_is_closing_is_reset_in_time_although_nothing_else_happens() {
    let mut net = Net::new(306);
    let server = server(&mut net);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    settle_for(&mut net, &mut [&mut a, &mut b], Duration::from_secs(15));
    let (at_a, _) = a.send_request(&a.request(b.key()));
    settle(&mut net, &mut [&mut a, &mut b]);
    b.opened();
    net.kill(b.raw.wire());
    settle(&mut net, &mut [&mut a]);
    assert!(a.finished(at_a) && !a.was_reset(at_a));
    settle_for(&mut net, &mut [&mut a], Duration::from_secs(11));
    assert!(a.was_reset(at_a), "ten seconds after the FIN that a does not answer");
}
