#![allow(clippy::unwrap_used)]

use std::{net::SocketAddr, time::Duration};

use super::*;
use crate::{
    io::{CloseMode, Closed, FLUSH_TIMEOUT, SEND_HIGH_BYTES},
    pool::Slice,
};

/// Sends back what it receives when told to, and keeps a diary.
#[derive(Default)]
struct Probe {
    echo: bool,
    diary: Vec<String>,
    received: Vec<u8>,
    slices: usize,
    conns: Vec<ConnId>,
}

impl Machine for Probe {
    type Command = &'static str;

    fn accepted(&mut self, _: &mut Io, conn: ConnId, _: SocketAddr) {
        self.conns.push(conn);
        self.diary.push("accepted".into());
    }
    fn connected(&mut self, _: &mut Io, _: ConnId) {
        self.diary.push("connected".into());
    }
    fn received(&mut self, io: &mut Io, conn: ConnId, data: Slice) {
        self.received.extend_from_slice(&data);
        self.slices += 1;
        if self.echo
            && let Some(queue) = io.queue(conn)
        {
            queue.push_slice(data);
        }
    }
    fn writable(&mut self, _: &mut Io, _: ConnId) {
        self.diary.push("writable".into());
    }
    fn closed(&mut self, _: &mut Io, _: ConnId, why: Closed) {
        self.diary.push(match why {
            Closed::ByPeer => "by peer".into(),
            Closed::ByUs => "by us".into(),
            Closed::Error(error) => format!("{:?}", error.kind()),
        });
    }
    fn command(&mut self, _: &mut Io, command: &'static str) {
        self.diary.push(command.into());
    }
    fn timeout(&mut self, io: &mut Io) {
        self.diary.push(format!("timeout {}", io.unix_nanos() - WALL_START_NANOS));
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 251) as u8).collect()
}

fn diary(net: &mut Net, node: NodeId) -> String {
    net.with(node, |probe: &mut Probe, _| std::mem::take(&mut probe.diary).join(", "))
}

/// A client connected to a server, and the client's connection.
fn pair(net: &mut Net) -> (NodeId, NodeId, ConnId) {
    let (client, server) =
        (net.add(Probe::default()), net.add(Probe { echo: true, ..Probe::default() }));
    let address = net.listen(server);
    let conn = net.with(client, |_: &mut Probe, io| io.connect(address));
    assert!(net.run_idle(Duration::from_secs(1)));
    assert_eq!(diary(net, client), "connected");
    assert_eq!(diary(net, server), "accepted");
    (client, server, conn)
}

#[test]
fn bytes_arrive_whole_however_they_are_cut() {
    for (seed, chunking) in
        [Chunking::Whole, Chunking::Random(1000), Chunking::Exactly(1)].into_iter().enumerate()
    {
        let mut net = Net::new(seed as u64);
        net.set_link(Link { chunking, capacity_bytes: 3000, ..Link::default() });
        let (client, _, conn) = pair(&mut net);
        let sent = pattern(20_000);
        net.with(client, |_: &mut Probe, io| io.queue(conn).unwrap().push_bytes(&sent));
        assert!(net.run_idle(Duration::from_secs(10)));
        net.with(client, |probe: &mut Probe, _| {
            assert_eq!(probe.received, sent);
            assert!(chunking != Chunking::Exactly(1) || probe.slices == sent.len());
        });
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut net = Net::new(seed);
        let jitter = Duration::from_millis(3);
        net.set_link(Link { jitter, chunking: Chunking::Random(50), ..Link::default() });
        let (client, server, conn) = pair(&mut net);
        net.with(client, |_: &mut Probe, io| io.queue(conn).unwrap().push_bytes(&pattern(5000)));
        net.run_idle(Duration::from_secs(10));
        (net.elapsed(), net.with(server, |probe: &mut Probe, _| probe.slices))
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn a_reader_that_stops_fills_the_send_queue_and_writable_follows() {
    let mut net = Net::new(0);
    let server = net.add(Probe::default());
    let address = net.listen(server);
    let peer = net.raw_connect(address);
    net.raw_stop_reading(&peer);
    net.run_idle(Duration::from_secs(1));
    let conn = net.with(server, |probe: &mut Probe, _| probe.conns[0]);
    let sent = pattern(Link::default().capacity_bytes + SEND_HIGH_BYTES + 1);
    net.with(server, |_: &mut Probe, io| io.queue(conn).unwrap().push_bytes(&sent));
    net.run_idle(Duration::from_secs(1));
    net.with(server, |_: &mut Probe, io| {
        assert_eq!(io.queued_bytes(conn), SEND_HIGH_BYTES + 1);
        assert!(io.is_full(conn));
    });
    assert_eq!(diary(&mut net, server), "accepted");
    net.raw_set_reading(&peer, true);
    net.run_idle(Duration::from_secs(1));
    assert_eq!(diary(&mut net, server), "writable");
    assert_eq!(net.raw_read(&peer), sent);
}

#[test]
fn a_paused_connection_receives_nothing_until_it_is_resumed() {
    let mut net = Net::new(0);
    let (client, server, conn) = pair(&mut net);
    let accepted = net.with(server, |probe: &mut Probe, io| {
        io.pause(probe.conns[0]);
        probe.conns[0]
    });
    net.with(client, |_: &mut Probe, io| io.queue(conn).unwrap().push_bytes(b"hello"));
    net.run_for(Duration::from_secs(1));
    net.with(server, |probe: &mut Probe, io| {
        assert!(probe.received.is_empty());
        io.resume(accepted);
    });
    net.run_for(Duration::from_secs(1));
    net.with(client, |probe: &mut Probe, _| assert_eq!(probe.received, b"hello"));
}

#[test]
fn a_flush_delivers_everything_and_an_abort_resets() {
    let mut net = Net::new(0);
    let (client, server, conn) = pair(&mut net);
    net.with(client, |_: &mut Probe, io| {
        io.queue(conn).unwrap().push_bytes(&pattern(1_000_000));
        io.close(conn, CloseMode::Flush);
        assert!(io.queue(conn).is_none());
    });
    net.run_idle(Duration::from_secs(9));
    assert_eq!(
        (diary(&mut net, client), diary(&mut net, server)),
        ("by us".into(), "by peer".into())
    );
    net.with(server, |probe: &mut Probe, _| assert_eq!(probe.received, pattern(1_000_000)));

    let (client, server, conn) = pair(&mut net);
    net.with(client, |_: &mut Probe, io| io.close(conn, CloseMode::Abort));
    net.run_idle(Duration::from_secs(1));
    assert_eq!(diary(&mut net, client), "by us");
    assert_eq!(diary(&mut net, server), "ConnectionReset");
}

#[test]
fn a_flush_to_a_peer_that_does_not_read_ends_with_a_reset() {
    let mut net = Net::new(0);
    let server = net.add(Probe::default());
    let address = net.listen(server);
    let peer = net.raw_connect(address);
    net.raw_stop_reading(&peer);
    net.run_idle(Duration::from_secs(1));
    net.with(server, |probe: &mut Probe, io| {
        let conn = probe.conns[0];
        io.queue(conn).unwrap().push_bytes(&pattern(Link::default().capacity_bytes + 1));
        io.close(conn, CloseMode::Flush);
    });
    net.run_for(FLUSH_TIMEOUT - Duration::from_millis(1));
    assert_eq!(diary(&mut net, server), "accepted");
    net.run_for(Duration::from_millis(2));
    assert_eq!(diary(&mut net, server), "by us");
    assert_eq!(net.raw_state(&peer), RawState::Failed(std::io::ErrorKind::ConnectionReset));
}

#[test]
fn faults_reach_both_ends_once() {
    let mut net = Net::new(0);
    let (client, server, conn) = pair(&mut net);
    let wire = net.wire(client, conn).unwrap();
    net.kill(wire);
    net.kill(wire);
    net.run_idle(Duration::from_secs(1));
    assert_eq!(diary(&mut net, client), "ConnectionReset");
    assert_eq!(diary(&mut net, server), "ConnectionReset");

    let (client, server, conn) = pair(&mut net);
    let wire = net.wire(client, conn).unwrap();
    net.black_hole(wire);
    net.with(client, |_: &mut Probe, io| io.queue(conn).unwrap().push_bytes(b"anyone?"));
    net.run_for(crate::driver::USER_TIMEOUT - Duration::from_secs(1));
    assert_eq!(diary(&mut net, client), "");
    net.run_for(Duration::from_secs(2));
    assert_eq!(diary(&mut net, client), "TimedOut");
    assert!(net.with(server, |probe: &mut Probe, _| probe.received.is_empty()));

    let (client, server, _) = pair(&mut net);
    net.crash(server);
    net.run_idle(Duration::from_secs(1));
    assert_eq!(diary(&mut net, client), "ConnectionReset");
    assert_eq!(diary(&mut net, server), "");
}

#[test]
fn connects_are_refused_or_lost() {
    let mut net = Net::new(0);
    let client = net.add(Probe::default());
    let nobody: SocketAddr = "198.51.100.1:1".parse().unwrap();
    net.with(client, |_: &mut Probe, io| io.connect(nobody));
    net.run_for(Duration::from_secs(1));
    assert_eq!(diary(&mut net, client), "ConnectionRefused");
    net.lose_connects(nobody, true);
    let conn = net.with(client, |_: &mut Probe, io| io.connect(nobody));
    net.run_for(Duration::from_secs(100));
    assert_eq!(diary(&mut net, client), "");
    net.with(client, |_: &mut Probe, io| io.close(conn, CloseMode::Flush));
    net.run_for(Duration::from_secs(100));
    assert_eq!(diary(&mut net, client), "by us");
}

#[test]
fn a_frozen_node_catches_up_when_it_thaws() {
    let mut net = Net::new(0);
    let (client, server, conn) = pair(&mut net);
    net.freeze(server);
    net.post::<Probe>(server, "posted");
    net.with(server, |_: &mut Probe, io| io.wake_at(io.now() + Duration::from_secs(1)));
    net.with(client, |_: &mut Probe, io| {
        io.queue(conn).unwrap().push_bytes(b"hello");
        io.close(conn, CloseMode::Flush);
    });
    net.run_for(Duration::from_secs(5));
    assert_eq!(diary(&mut net, server), "");
    net.jump_wall_clock(server, -5_000_000_000);
    let skewed = net.elapsed().as_nanos() as i64 - 5_000_000_000;
    net.thaw(server);
    net.run_idle(Duration::from_secs(1));
    assert_eq!(diary(&mut net, server), format!("posted, timeout {skewed}, by peer"));
    net.with(server, |probe: &mut Probe, _| assert_eq!(probe.received, b"hello"));
}

#[test]
fn scripted_servers_talk_to_machines() {
    let mut net = Net::new(0);
    let client = net.add(Probe { echo: true, ..Probe::default() });
    let (address, listener) = net.raw_listen();
    let slow = Link { rate: Some(1000), ..Link::default() };
    net.set_outbound(client, slow);
    net.with(client, |_: &mut Probe, io| io.connect(address));
    assert!(net.run_while(Duration::from_secs(1), |net| net.wires(client).is_empty()));
    net.run_idle(Duration::from_secs(1));
    let peer = net.raw_accept(&listener).unwrap();
    net.raw_write(&peer, &[7; 500]);
    net.run_for(Duration::from_millis(400));
    assert!(net.raw_read(&peer).is_empty(), "500 bytes take half a second");
    net.run_for(Duration::from_millis(200));
    assert_eq!(net.raw_read(&peer), [7; 500]);
    net.raw_close(&peer);
    net.run_idle(Duration::from_secs(1));
    assert_eq!(diary(&mut net, client), "connected, by peer");
}

#[test]
fn a_stopped_node_closes_its_connections() {
    let mut net = Net::new(0);
    let (client, server, _) = pair(&mut net);
    net.with(server, |_: &mut Probe, io| io.stop());
    net.run_idle(Duration::from_secs(1));
    assert!(net.is_stopped(server) && !net.is_stopped(client));
    assert_eq!(diary(&mut net, client), "by peer");
}
