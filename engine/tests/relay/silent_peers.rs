//! Peers that stop talking: pinged, then given up within 45 s; peers that answer stay.

use std::time::Duration;

use dmsg_engine::{driver::sim::Net, mux::MuxKind, relay::SessionEnd};

use crate::peer::{Peer, server, settle_for};

#[test]
fn a_peer_that_answers_pings_stays() {
    for kind in [MuxKind::Yamux, MuxKind::SmuxV1, MuxKind::SmuxV2] {
        let mut net = Net::new(70);
        let server = server(&mut net);
        let mut a = Peer::connect(&mut net, &server, b"a", kind);
        for _ in 0..20 {
            if kind != MuxKind::Yamux {
                // smux has no answers; each side speaks by itself.
                a.mux.ping(0, &mut a.queue);
            }
            settle_for(&mut net, &mut [&mut a], Duration::from_secs(10));
            assert!(a.is_open(&net), "{kind:?}");
        }
    }
}

/// The relay speaks to it every 10 s, which must not put off the end.
#[test]
fn an_smux_peer_that_vanished_is_gone_within_45_seconds() {
    let mut net = Net::new(72);
    let server = server(&mut net);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::SmuxV2);
    a.mux.ping(0, &mut a.queue);
    settle_for(&mut net, &mut [&mut a], Duration::from_millis(100));
    net.black_hole(a.raw.wire());
    net.run_for(Duration::from_secs(44));
    assert!(server.cores.find(&a.key()).is_some());
    net.run_for(Duration::from_secs(2));
    assert!(server.cores.find(&a.key()).is_none());
    assert_eq!(server.stats.ended_count(SessionEnd::Silent), 1);
}

#[test]
fn a_peer_that_vanished_is_gone_within_45_seconds() {
    let mut net = Net::new(71);
    let server = server(&mut net);
    let a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    net.black_hole(a.raw.wire());
    net.run_for(Duration::from_secs(40));
    assert!(server.cores.find(&a.key()).is_some());
    net.run_for(Duration::from_secs(20));
    assert!(server.cores.find(&a.key()).is_none());
    let ended = server.stats.ended_count(SessionEnd::Silent)
        + server.stats.ended_count(SessionEnd::ConnectionLost);
    assert_eq!(ended, 1);
}
