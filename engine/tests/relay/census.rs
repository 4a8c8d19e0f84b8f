//! What a core tells of its clients, and the round trip to each that it measures beside its keep-alive.

use std::{sync::mpsc::sync_channel, time::Duration};

use dmsg_engine::{
    driver::sim::{Link, Net},
    mux::MuxKind,
    relay::{ClientInfo, Command, Relay},
};

use crate::peer::{Peer, Server, connect_through, server, settle, settle_for};

fn clients(net: &mut Net, server: &Server) -> Vec<ClientInfo> {
    let (reply, answer) = sync_channel(1);
    net.post::<Relay>(server.node, Command::Census(reply));
    net.run_for(Duration::from_millis(1));
    answer.try_recv().unwrap()
}

fn of(clients: &[ClientInfo], peer: &Peer) -> ClientInfo {
    clients.iter().find(|info| info.key == peer.key()).unwrap().clone()
}

#[test]
fn streams_and_payload_are_counted_both_ways_as_is_what_waits() {
    let mut net = Net::new(420);
    let server = server(&mut net);
    assert_eq!(clients(&mut net, &server), []);
    net.set_link(Link { capacity_bytes: 4096, ..Link::default() });
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    net.set_link(Link::default());
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::SmuxV2);
    assert_eq!(of(&clients(&mut net, &server), &b).mux, None, "it has not said yet");
    b.mux.ping(0, &mut b.queue);
    settle(&mut net, &mut [&mut a, &mut b]);
    let (at_a, at_b) = connect_through(&mut net, &mut a, &mut b);
    a.send(at_a, &[1; 1000]);
    // A few small frames take another way through the relay than one alone.
    for _ in 0..10 {
        b.send(at_b, &[2; 30]);
    }
    settle(&mut net, &mut [&mut a, &mut b]);
    let now = clients(&mut net, &server);
    let (info_a, info_b) = (of(&now, &a), of(&now, &b));
    assert_eq!((info_a.received_bytes, info_a.sent_bytes), (1000, 300));
    assert_eq!((info_b.received_bytes, info_b.sent_bytes), (300, 1000));
    assert_eq!((info_a.streams, info_b.streams), (1, 1));
    assert_eq!((info_a.mux, info_b.mux), (Some(MuxKind::Yamux), Some(MuxKind::SmuxV2)));
    assert_eq!((info_a.pending_bytes, info_b.pending_bytes), (0, 0));
    assert!(info_a.age > info_b.age && info_a.address != info_b.address);

    // One that does not read: its line takes little, then its send queue 128 KiB.
    net.raw_stop_reading(&a.raw);
    b.send(at_b, &[3; 250_000]);
    settle(&mut net, &mut [&mut b]);
    let full = of(&clients(&mut net, &server), &a);
    assert_eq!(full.sent_bytes + full.pending_bytes as u64, 300 + 250_000, "{full:?}");
    assert!(full.pending_bytes > 50_000, "{full:?}");
}

#[test]
fn the_round_trip_is_measured_every_half_minute_where_the_mux_has_answers() {
    let mut net = Net::new(421);
    let server = server(&mut net);
    let slow = Link { latency: Duration::from_millis(40), ..Link::default() };
    net.set_link(slow);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::SmuxV1);
    for _ in 0..200 {
        a.mux.ping(0, &mut a.queue);
        b.mux.ping(0, &mut b.queue);
        settle_for(&mut net, &mut [&mut a, &mut b], Duration::from_millis(300));
    }
    let now = clients(&mut net, &server);
    let rtt = of(&now, &a).rtt.unwrap();
    // A peer of this test looks every 15 ms.
    assert!((80..=96).contains(&rtt.as_millis()), "{rtt:?}");
    assert_eq!(of(&now, &b).rtt, None);
    // It speaks all the time, so what it was sent beside its answers are our own pings: one in 30 s.
    let pings = a.mux.counters().pings_received;
    assert!((2..=4).contains(&(pings - 200)), "{pings}");
}

#[test]
fn an_answer_to_no_question_says_nothing() {
    let mut net = Net::new(422);
    let server = server(&mut net);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    a.mux.ping(0, &mut a.queue);
    settle_for(&mut net, &mut [&mut a], Duration::from_secs(1));
    // Version 0, a ping, ACK, stream 0, value 0: what our first ping will have.
    for value in 0..4 {
        a.queue.push_bytes(&[0, 2, 0, 2, 0, 0, 0, 0, 0, 0, 0, value]);
    }
    settle_for(&mut net, &mut [&mut a], Duration::from_secs(1));
    assert_eq!(of(&clients(&mut net, &server), &a).rtt, None);
    assert!(a.is_open(&net));
}
