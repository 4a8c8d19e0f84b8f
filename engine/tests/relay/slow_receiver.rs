//! A receiver that does not read: it costs its own streams only, and a bounded amount of memory.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use dmsg_engine::{
    driver::sim::{Link, Net},
    mux::{Event, MuxKind, StreamId},
    relay::{RefuseReason, RelayLimits},
};

use crate::peer::{Peer, connect_through, server_with, settle, settle_for};

/// Offers as much on `id` as credit allows.
fn fill(peer: &mut Peer, id: StreamId) -> usize {
    let credit = peer.mux.send_credit(id) as usize;
    peer.send(id, &vec![5; credit.min(1 << 20)]);
    credit
}

/// Bytes that a stream moves in a fixed time.
fn move_for_a_while(
    net: &mut Net,
    a: &mut Peer,
    b: &mut Peer,
    out: StreamId,
    inn: StreamId,
) -> usize {
    let mut moved = 0;
    for _ in 0..20 {
        fill(a, out);
        settle(net, &mut [a, b]);
        moved += b.taken(inn).len();
    }
    moved
}

#[test]
fn a_stalled_receiver_holds_at_most_its_budget_and_neighbours_go_on() {
    let limits = RelayLimits {
        session_pending_bytes_max: 1 << 20,
        core_pending_bytes_max: 4 << 20,
        ..RelayLimits::default()
    };
    let mut net = Net::new(200);
    net.set_link(Link { capacity_bytes: 64 * 1024, ..Link::default() });
    let server = server_with(&mut net, limits);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut stalled = Peer::connect(&mut net, &server, b"stalled", MuxKind::Yamux);
    let mut brisk = Peer::connect(&mut net, &server, b"brisk", MuxKind::Yamux);
    let streams: Vec<_> =
        (0..16).map(|_| connect_through(&mut net, &mut a, &mut stalled).0).collect();
    let (to_brisk, at_brisk) = connect_through(&mut net, &mut a, &mut brisk);
    let quiet = move_for_a_while(&mut net, &mut a, &mut brisk, to_brisk, at_brisk);
    net.raw_stop_reading(&stalled.raw);
    let mut offered = 0;
    for id in &streams {
        offered += fill(&mut a, *id);
        settle_for(&mut net, &mut [&mut a, &mut brisk], Duration::from_millis(20));
        assert!(server.stats.pending_bytes.load(Relaxed) <= 1 << 20, "over the session's budget");
    }
    assert!(offered > 3 << 20, "more was offered than the budget holds");
    assert!(server.stats.refused_count(RefuseReason::SlowReceiver) > 0);
    let beside = move_for_a_while(&mut net, &mut a, &mut brisk, to_brisk, at_brisk);
    assert!(beside * 10 >= quiet * 8, "the neighbour moved {beside} bytes, {quiet} before");
    assert!(stalled.is_open(&net), "its session is not ended for it");
}

#[test]
fn what_waits_is_delivered_in_order_when_the_receiver_reads_again() {
    let mut net = Net::new(201);
    net.set_link(Link { capacity_bytes: 16 * 1024, ..Link::default() });
    let server = server_with(&mut net, RelayLimits::default());
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    let pairs: Vec<_> = (0..4).map(|_| connect_through(&mut net, &mut a, &mut b)).collect();
    net.raw_stop_reading(&b.raw);
    let sent: Vec<u8> = (0..200_000_u32).map(|i| (i * 7 + (i >> 9)) as u8).collect();
    for (at_a, _) in &pairs {
        a.send(*at_a, &sent);
        a.mux.finish(*at_a, &mut a.queue);
    }
    settle_for(&mut net, &mut [&mut a], Duration::from_secs(2));
    assert!(server.stats.pending_bytes.load(Relaxed) > 100_000, "it waits in the relay");
    net.raw_set_reading(&b.raw, true);
    settle_for(&mut net, &mut [&mut a, &mut b], Duration::from_secs(5));
    for (_, at_b) in &pairs {
        assert_eq!(b.taken(*at_b), sent);
        assert!(b.finished(*at_b));
    }
    assert_eq!(server.stats.pending_bytes.load(Relaxed), 0);
}

/// 64 answers of a whole window at once, to a client that is slower than those who send them.
#[test]
fn a_session_may_have_more_than_its_bound_while_its_core_has_room() {
    let mut net = Net::new(205);
    net.set_link(Link { capacity_bytes: 64 * 1024, ..Link::default() });
    let server = server_with(&mut net, RelayLimits::default());
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    let pairs: Vec<_> = (0..64).map(|_| connect_through(&mut net, &mut a, &mut b)).collect();
    net.raw_stop_reading(&b.raw);
    let sent = vec![5; 250_000];
    for (at_a, _) in &pairs {
        a.send(*at_a, &sent);
        settle_for(&mut net, &mut [&mut a], Duration::from_millis(50));
    }
    let bound = RelayLimits::default().session_pending_bytes_max as u64;
    assert!(server.stats.pending_bytes.load(Relaxed) > bound, "it all waits in the relay");
    net.raw_set_reading(&b.raw, true);
    settle_for(&mut net, &mut [&mut a, &mut b], Duration::from_secs(20));
    assert!(pairs.iter().all(|(_, at_b)| b.taken(*at_b) == sent));
    assert_eq!(server.stats.refused_count(RefuseReason::SlowReceiver), 0);
}

/// So many relayed streams from `a` to `b`, dialled a backlog at a time.
fn connect_many(net: &mut Net, a: &mut Peer, b: &mut Peer, count: usize) -> Vec<StreamId> {
    let mut streams = Vec::new();
    while streams.len() < count {
        let dials: Vec<_> = (0..200.min(count - streams.len()))
            .map(|_| a.send_request(&a.request(b.key())))
            .collect();
        settle(net, &mut [a, b]);
        let opened: Vec<_> = b
            .events
            .drain(..)
            .filter_map(|e| if let Event::Opened(id) = e { Some(id) } else { None })
            .collect();
        assert_eq!(opened.len(), dials.len());
        for id in opened {
            let request = b.take_object(id);
            b.accept(id, &request);
        }
        settle(net, &mut [a, b]);
        a.data.clear();
        a.events.clear();
        streams.extend(dials.into_iter().map(|(id, _)| id));
    }
    streams
}

#[test]
fn two_thousand_stalled_streams_hold_no_more_than_the_budget() {
    const BUDGET: u64 = 1 << 20;
    let limits = RelayLimits {
        session_pending_bytes_max: BUDGET as usize,
        core_pending_bytes_max: 4 * BUDGET as usize,
        ..RelayLimits::default()
    };
    let mut net = Net::new(202);
    net.set_link(Link { capacity_bytes: 64 * 1024, ..Link::default() });
    let server = server_with(&mut net, limits);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut stalled = Peer::connect(&mut net, &server, b"stalled", MuxKind::Yamux);
    let mut brisk = Peer::connect(&mut net, &server, b"brisk", MuxKind::Yamux);
    let streams = connect_many(&mut net, &mut a, &mut stalled, 2000);
    let (to_brisk, at_brisk) = connect_through(&mut net, &mut a, &mut brisk);
    let quiet = move_for_a_while(&mut net, &mut a, &mut brisk, to_brisk, at_brisk);
    net.raw_stop_reading(&stalled.raw);
    for chunk in streams.chunks(100) {
        for id in chunk {
            a.send(*id, &[3; 8000]);
        }
        settle_for(&mut net, &mut [&mut a, &mut brisk], Duration::from_millis(20));
        assert!(server.stats.pending_bytes.load(Relaxed) <= BUDGET, "16 MB offered");
    }
    let beside = move_for_a_while(&mut net, &mut a, &mut brisk, to_brisk, at_brisk);
    assert!(beside * 10 >= quiet * 8, "the neighbour moved {beside} bytes, {quiet} before");
    assert!(stalled.is_open(&net) && a.is_open(&net));
    assert!(server.stats.refused_count(RefuseReason::SlowReceiver) > 1000);
}

#[test]
fn a_pair_that_never_reads_holds_no_more_than_the_budget_of_the_process() {
    const BUDGET: u64 = 1 << 20;
    let limits = RelayLimits { process_pending_bytes_max: BUDGET, ..RelayLimits::default() };
    let mut net = Net::new(203);
    net.set_link(Link { capacity_bytes: 64 * 1024, ..Link::default() });
    let server = server_with(&mut net, limits);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    let pairs: Vec<_> = (0..32).map(|_| connect_through(&mut net, &mut a, &mut b)).collect();
    let mut c = Peer::connect(&mut net, &server, b"c", MuxKind::Yamux);
    let mut d = Peer::connect(&mut net, &server, b"d", MuxKind::Yamux);
    let (at_c, at_d) = connect_through(&mut net, &mut c, &mut d);
    let quiet = move_for_a_while(&mut net, &mut c, &mut d, at_c, at_d);
    net.raw_stop_reading(&a.raw);
    net.raw_stop_reading(&b.raw);
    for (at_a, at_b) in pairs {
        fill(&mut a, at_a);
        fill(&mut b, at_b);
        // They write, and read nothing of what comes.
        for peer in [&mut a, &mut b] {
            let bytes: Vec<u8> = peer.queue.pieces().flatten().copied().collect();
            peer.queue.clear();
            net.raw_write(&peer.raw, &bytes);
        }
        net.run_for(Duration::from_millis(5));
        assert!(server.stats.pending_bytes.load(Relaxed) <= BUDGET);
    }
    let beside = move_for_a_while(&mut net, &mut c, &mut d, at_c, at_d);
    assert!(beside * 10 >= quiet * 8, "the neighbours moved {beside} bytes, {quiet} before");
}

/// Each of them keeps within the bound of its session.
#[test]
fn many_stalled_sessions_hold_no_more_than_the_budget_of_their_core() {
    const SESSION: usize = 1 << 20;
    const CORE: u64 = 2 << 20;
    let limits = RelayLimits {
        session_pending_bytes_max: SESSION,
        core_pending_bytes_max: CORE as usize,
        ..RelayLimits::default()
    };
    let mut net = Net::new(204);
    net.set_link(Link { capacity_bytes: 64 * 1024, ..Link::default() });
    let server = server_with(&mut net, limits);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut brisk = Peer::connect(&mut net, &server, b"brisk", MuxKind::Yamux);
    let (to_brisk, at_brisk) = connect_through(&mut net, &mut a, &mut brisk);
    let quiet = move_for_a_while(&mut net, &mut a, &mut brisk, to_brisk, at_brisk);
    let (mut stalled, mut streams) = (Vec::new(), Vec::new());
    for number in 0..6_u8 {
        let mut peer = Peer::connect(&mut net, &server, &[b's', number], MuxKind::Yamux);
        streams.extend((0..4).map(|_| connect_through(&mut net, &mut a, &mut peer).0));
        net.raw_stop_reading(&peer.raw);
        stalled.push(peer);
    }
    let mut most = 0;
    for id in streams {
        fill(&mut a, id);
        settle_for(&mut net, &mut [&mut a, &mut brisk], Duration::from_millis(20));
        let pending = server.stats.pending_bytes.load(Relaxed);
        assert!(pending <= CORE, "over the budget of the core: {pending}");
        most = most.max(pending);
    }
    assert!(most > CORE / 2, "6 MiB were offered, and {most} waited");
    assert!(server.stats.refused_count(RefuseReason::SlowReceiver) > 0);
    let beside = move_for_a_while(&mut net, &mut a, &mut brisk, to_brisk, at_brisk);
    assert!(beside * 10 >= quiet * 8, "the neighbour moved {beside} bytes, {quiet} before");
    assert!(stalled.iter().all(|peer| peer.is_open(&net)));
    drop(stalled.into_iter().map(|peer| net.raw_reset(&peer.raw)).collect::<Vec<_>>());
    settle(&mut net, &mut [&mut a, &mut brisk]);
    assert_eq!(server.stats.pending_bytes.load(Relaxed), 0, "all of it is given back");
}
