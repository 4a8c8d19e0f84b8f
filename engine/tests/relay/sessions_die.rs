//! A session ends: its streams end on the other side at once, nothing is left behind.

use std::sync::atomic::Ordering::Relaxed;

use dmsg_engine::{
    driver::sim::Net,
    mux::MuxKind,
    relay::{Relay, SessionEnd},
};

use crate::peer::{Peer, connect_through, server, settle};

#[test]
fn streams_of_a_dead_session_end_at_their_peers() {
    let mut net = Net::new(50);
    let server = server(&mut net);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    let (at_a, _) = connect_through(&mut net, &mut a, &mut b);
    net.kill(b.raw.wire());
    settle(&mut net, &mut [&mut a]);
    assert!(a.was_reset(at_a));
    assert!(server.cores.find(&b.key()).is_none());
    assert_eq!(server.stats.sessions.load(Relaxed), 1);
    assert_eq!(server.stats.stream_halves.load(Relaxed), 0);
}

#[test]
fn a_dial_in_flight_is_refused_when_the_destination_dies() {
    let mut net = Net::new(51);
    let server = server(&mut net);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    let (at_a, _) = a.send_request(&a.request(b.key()));
    settle(&mut net, &mut [&mut a, &mut b]);
    net.kill(b.raw.wire());
    settle(&mut net, &mut [&mut a]);
    assert!(a.finished(at_a));
}

/// Kills sessions at random moments of random traffic; in the end every counter is back at zero.
#[test]
fn nothing_is_left_after_random_deaths() {
    for seed in 100..160 {
        let mut net = Net::new(seed);
        let server = server(&mut net);
        let mut peers: Vec<Peer> =
            (0..4_u8).map(|i| Peer::connect(&mut net, &server, &[i], MuxKind::Yamux)).collect();
        let keys: Vec<_> = peers.iter().map(Peer::key).collect();
        for _ in 0..40 {
            let from = usize::try_from(net.rng().below(4)).unwrap();
            let to = usize::try_from(net.rng().below(4)).unwrap();
            if peers[from].is_open(&net) {
                let request = peers[from].request(keys[to]);
                peers[from].send_request(&request);
            }
            for peer in &mut peers {
                if !peer.is_open(&net) {
                    continue;
                }
                peer.pump(&mut net);
                let opened: Vec<_> = peer.data.keys().copied().collect();
                for id in opened {
                    if id.0 % 2 == 0 && peer.data[&id].len() > 100 {
                        let request = peer.take_object(id);
                        peer.accept(id, &request);
                        peer.send(id, &[7; 500]);
                    }
                }
            }
            for _ in 0..net.rng().below(30) {
                net.step();
            }
            if net.rng().below(10) == 0 {
                let victim = usize::try_from(net.rng().below(4)).unwrap();
                net.kill(peers[victim].raw.wire());
            }
        }
        for peer in &peers {
            net.kill(peer.raw.wire());
        }
        net.run_for(crate::peer::SOON);
        let stats = &server.stats;
        let left = [&stats.sessions, &stats.stream_halves, &stats.pending_bytes, &stats.handshakes]
            .map(|gauge| gauge.load(Relaxed));
        assert_eq!(left, [0; 4], "seed {seed}");
        assert!(server.cores.keys().is_empty(), "seed {seed}");
        net.with(server.node, |relay: &mut Relay, _| assert_eq!(relay.pending_bytes(), 0));
    }
}

#[test]
fn a_client_that_leaves_is_not_a_lost_connection() {
    let mut net = Net::new(52);
    let server = server(&mut net);
    let a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    net.raw_close(&a.raw);
    net.kill(b.raw.wire());
    net.run_for(crate::peer::SOON);
    assert_eq!(server.stats.ended_count(SessionEnd::ClosedByPeer), 1);
    assert_eq!(server.stats.ended_count(SessionEnd::ConnectionLost), 1);
}
