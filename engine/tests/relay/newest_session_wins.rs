//! The same key connects again (`wire.md §3.1`).

use dmsg_engine::{driver::sim::Net, mux::MuxKind, relay::SessionEnd};

use crate::peer::{Peer, connect_through, server, settle};

#[test]
fn the_older_session_is_closed_and_the_newer_one_is_reachable() {
    let mut net = Net::new(60);
    let server = server(&mut net);
    let mut old = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    let mut new = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    settle(&mut net, &mut [&mut new, &mut b]);
    assert!(!old.is_open(&net));
    old.events.clear();
    assert_eq!(server.stats.ended_count(SessionEnd::Replaced), 1);
    let (at_b, at_new) = connect_through(&mut net, &mut b, &mut new);
    b.send(at_b, b"found you");
    settle(&mut net, &mut [&mut b, &mut new]);
    assert_eq!(new.taken(at_new), b"found you");
}
