//! A block that ends right behind a header: what is still to come must not be mixed up with another session's frames.

use dmsg_engine::{driver::sim::Net, mux::MuxKind};

use crate::peer::{Peer, connect_through, server, settle};

#[test]
fn a_header_alone_leaves_nothing_behind_for_another_session() {
    let mut net = Net::new(41);
    let relay = server(&mut net);
    let [mut a, mut b, mut c, mut d] =
        [b"a", b"b", b"c", b"d"].map(|seed| Peer::connect(&mut net, &relay, seed, MuxKind::Yamux));
    let (at_a, at_c) = connect_through(&mut net, &mut a, &mut c);
    let (at_b, at_d) = connect_through(&mut net, &mut b, &mut d);
    assert_eq!(at_a, at_b, "both sources use one id, each in its own session");

    let header = [&[0, 0, 0, 0][..], &at_a.0.to_be_bytes(), &5_u32.to_be_bytes()].concat();
    a.queue.push_bytes(&header);
    settle(&mut net, &mut [&mut a]);
    b.send(at_b, b"for d");
    settle(&mut net, &mut [&mut a, &mut b, &mut c, &mut d]);
    assert_eq!(d.taken(at_d), b"for d");
    assert_eq!(c.taken(at_c), b"", "nothing of b's");

    a.queue.push_bytes(b"for c");
    settle(&mut net, &mut [&mut a, &mut b, &mut c, &mut d]);
    assert_eq!(c.taken(at_c), b"for c");
    assert_eq!(d.taken(at_d), b"");
}
