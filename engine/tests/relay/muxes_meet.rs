//! Clients with different multiplexers behind one relay: data, credit and ends are translated.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use dmsg_engine::{
    driver::sim::Net,
    mux::{MuxKind, StreamId},
    relay::{Command, Relay},
};

use crate::peer::{Peer, connect_through, server, settle};

const KINDS: [MuxKind; 3] = [MuxKind::Yamux, MuxKind::SmuxV1, MuxKind::SmuxV2];

/// Connects and lets the server learn the mux from the first frame.
fn introduce(net: &mut Net, server: &crate::peer::Server, seed: &[u8], kind: MuxKind) -> Peer {
    let mut peer = Peer::connect(net, server, seed, kind);
    peer.mux.ping(0, &mut peer.queue);
    settle(net, &mut [&mut peer]);
    peer
}

fn transfer(net: &mut Net, from: &mut Peer, to: &mut Peer, out: StreamId, inn: StreamId) {
    let sent: Vec<u8> = (0..1_500_000_u32).map(|i| (i ^ (i >> 5)) as u8).collect();
    let (mut rest, mut got) = (&sent[..], Vec::new());
    for _ in 0..2000 {
        let credit = (from.mux.send_credit(out) as usize).min(64 * 1024);
        let (now, later) = rest.split_at(credit.min(rest.len()));
        from.send(out, now);
        rest = later;
        for _ in 0..4 {
            from.pump(net);
            to.pump(net);
            net.run_for(Duration::from_millis(1));
        }
        got.extend(to.taken(inn));
        if got.len() == sent.len() {
            break;
        }
    }
    assert_eq!(got.len(), sent.len(), "{:?} to {:?}", from.mux.kind(), to.mux.kind());
    assert_eq!(got, sent);
}

#[test]
fn every_pair_of_muxes_moves_more_than_its_windows() {
    for (i, kind_a) in KINDS.into_iter().enumerate() {
        for (j, kind_b) in KINDS.into_iter().enumerate() {
            let mut net = Net::new(300 + 10 * i as u64 + j as u64);
            let server = server(&mut net);
            let mut a = introduce(&mut net, &server, b"a", kind_a);
            let mut b = introduce(&mut net, &server, b"b", kind_b);
            let (at_a, at_b) = connect_through(&mut net, &mut a, &mut b);
            transfer(&mut net, &mut a, &mut b, at_a, at_b);
            transfer(&mut net, &mut b, &mut a, at_b, at_a);
            a.mux.finish(at_a, &mut a.queue);
            settle(&mut net, &mut [&mut a, &mut b]);
            assert!(b.finished(at_b), "{kind_a:?} to {kind_b:?}");
            b.mux.finish(at_b, &mut b.queue);
            settle(&mut net, &mut [&mut a, &mut b]);
            assert!(a.finished(at_a), "{kind_a:?} to {kind_b:?}");
            assert_eq!(server.stats.stream_halves.load(Relaxed), 0);
        }
    }
}

/// A smux client that has not spoken yet is spoken to in smux, if discovery said so.
#[test]
fn a_hint_from_discovery_decides_before_the_first_byte() {
    let mut net = Net::new(390);
    let server = server(&mut net);
    let mut quiet = Peer::connect(&mut net, &server, b"quiet", MuxKind::SmuxV2);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let session = server.cores.find(&quiet.key()).unwrap();
    net.post::<Relay>(server.node, Command::MuxHint(session.conn, MuxKind::SmuxV2));
    let (at_a, at_quiet) = connect_through(&mut net, &mut a, &mut quiet);
    a.send(at_a, b"found you");
    settle(&mut net, &mut [&mut a, &mut quiet]);
    assert_eq!(quiet.taken(at_quiet), b"found you");
}
