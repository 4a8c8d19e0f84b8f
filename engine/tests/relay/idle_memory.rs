//! What idle sessions and streams hold (user wish 7): 64 KiB a session and 16 KiB a stream at most. The other end of each is counted
//! too, since a simulation runs on one thread; what the server alone holds is measured by `dmsg-bench relay memory`.

use dmsg_engine::{driver::sim::Net, mux::MuxKind};

use crate::{
    memory::growth,
    peer::{Peer, connect_through, server, settle},
};

const SESSION_BYTES_MAX: usize = 64 * 1024;
const STREAM_BYTES_MAX: usize = 16 * 1024;

#[test]
fn an_idle_session_and_an_idle_stream_hold_little() {
    let mut net = Net::new(440);
    let server = server(&mut net);
    // What the first ones bring into being is everybody's.
    let mut peers: Vec<_> =
        [&b"a"[..], b"b"].map(|seed| Peer::connect(&mut net, &server, seed, MuxKind::Yamux)).into();
    let [a, b] = &mut peers[..] else { unreachable!() };
    connect_through(&mut net, a, b);
    let sessions = 100;
    let grown = growth(|| {
        for index in 0..sessions {
            let seed = format!("peer {index}");
            peers.push(Peer::connect(&mut net, &server, seed.as_bytes(), MuxKind::Yamux));
        }
        for peer in &mut peers {
            settle(&mut net, &mut [peer]);
        }
    });
    println!("{} bytes per session, both ends", grown / sessions);
    assert!(grown / sessions <= SESSION_BYTES_MAX, "{}", grown / sessions);
    let streams = 400;
    let [a, b, ..] = &mut peers[..] else { unreachable!() };
    let mut open = |count: usize| {
        for _ in 0..count {
            let (at_a, at_b) = connect_through(&mut net, a, b);
            // Used once, then idle.
            a.send(at_a, &[1; 20_000]);
            settle(&mut net, &mut [a, b]);
            assert_eq!(b.taken(at_b).len(), 20_000);
            a.events.clear();
            b.events.clear();
        }
    };
    open(100);
    let grown = growth(|| open(streams));
    assert!(grown > 0, "nothing is measured");
    println!("{} bytes per stream, both ends", grown / streams);
    assert!(grown / streams <= STREAM_BYTES_MAX, "{}", grown / streams);
}
