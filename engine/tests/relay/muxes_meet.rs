//! Clients with different multiplexers behind one relay: data, credit and ends are translated.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use dmsg_engine::{
    driver::sim::Net,
    mux::{MuxKind, StreamId},
    relay::{Command, RefuseReason, Relay},
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

/// An entry may be stale, or say "smux" and mean version 1: whoever speaks first shows what it speaks.
#[test]
fn a_hint_that_is_wrong_gives_way_to_the_first_byte() {
    let all = KINDS.into_iter().flat_map(|hint| KINDS.map(|kind| (hint, kind)));
    for (seed, (hint, kind)) in (400..).zip(all) {
        let mut net = Net::new(seed);
        let server = server(&mut net);
        let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
        let mut b = Peer::connect(&mut net, &server, b"b", kind);
        let session = server.cores.find(&b.key()).unwrap();
        net.post::<Relay>(server.node, Command::MuxHint(session.conn, hint));
        settle(&mut net, &mut [&mut a, &mut b]);
        b.mux.ping(0, &mut b.queue);
        settle(&mut net, &mut [&mut a, &mut b]);
        assert!(b.is_open(&net), "{kind:?}, although the entry said {hint:?}");
        let (at_a, at_b) = connect_through(&mut net, &mut a, &mut b);
        a.send(at_a, b"found you");
        settle(&mut net, &mut [&mut a, &mut b]);
        assert_eq!(b.taken(at_b), b"found you", "{kind:?}, although the entry said {hint:?}");
    }
}

/// Takes `bytes_per_step` of what has come each 100 ms, `steps` times, and lets the peer know at once.
fn read_slowly(
    net: &mut Net,
    from: &mut Peer,
    to: &mut Peer,
    id: StreamId,
    bytes_per_step: u32,
    steps: usize,
) {
    let mut taken = 0;
    for _ in 0..steps {
        let came = to.data.get(&id).map_or(0, Vec::len);
        let now = (came - taken).min(bytes_per_step as usize);
        taken += now;
        to.mux.grant(id, u32::try_from(now).unwrap(), true, &mut to.queue);
        from.pump(net);
        to.pump(net);
        net.run_for(Duration::from_millis(100));
    }
}

#[test]
fn a_source_without_windows_and_a_receiver_that_is_slow_but_steady() {
    let mut net = Net::new(420);
    let server = server(&mut net);
    let mut a = introduce(&mut net, &server, b"a", MuxKind::SmuxV1);
    let mut b = introduce(&mut net, &server, b"b", MuxKind::Yamux);
    let (at_a, at_b) = connect_through(&mut net, &mut a, &mut b);
    b.grants = false;
    let sent: Vec<u8> = (0..700_000_u32).map(|i| (i ^ (i >> 7)) as u8).collect();
    a.send(at_a, &sent);
    a.mux.finish(at_a, &mut a.queue);
    // 10 KiB/s: the relay's 128 KiB of patience take 13 s.
    read_slowly(&mut net, &mut a, &mut b, at_b, 1024, 800);
    assert_eq!(server.stats.refused_count(RefuseReason::SlowReceiver), 0);
    assert!(b.taken(at_b) == sent && b.finished(at_b), "all bytes and the end");
}

#[test]
fn a_source_without_windows_that_has_finished_is_read_on() {
    let mut net = Net::new(421);
    let server = server(&mut net);
    let mut a = introduce(&mut net, &server, b"a", MuxKind::SmuxV1);
    let mut b = introduce(&mut net, &server, b"b", MuxKind::Yamux);
    let mut c = introduce(&mut net, &server, b"c", MuxKind::Yamux);
    let (to_b, at_b) = connect_through(&mut net, &mut a, &mut b);
    let (to_c, at_c) = connect_through(&mut net, &mut a, &mut c);
    b.grants = false;
    // The last parcel of the connection brings what is too much, and the end.
    let sent = vec![7; 384 * 1024 + 1000];
    a.send(to_b, &sent);
    a.mux.finish(to_b, &mut a.queue);
    settle(&mut net, &mut [&mut a, &mut b, &mut c]);
    a.send(to_c, b"meanwhile");
    settle(&mut net, &mut [&mut a, &mut b, &mut c]);
    assert_eq!(c.taken(at_c), b"meanwhile");
    // Longer than any deadline for what stalls; this does not.
    read_slowly(&mut net, &mut a, &mut b, at_b, 2048, 250);
    assert!(b.taken(at_b) == sent && b.finished(at_b), "all bytes and the end");
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
