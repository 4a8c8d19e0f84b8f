//! What a session's end means for dials that wait: only those that wait for that very session are concerned.

use std::time::Duration;

use dmsg_engine::{
    client::{DialError, DialPhase},
    driver::sim::Link,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::oneshot::error::TryRecvError,
};

use crate::{
    scripted::{Script, Tell},
    world::World,
};

#[test]
fn a_dial_that_went_on_to_another_server_is_not_failed_by_the_first() {
    let mut world = World::new(91);
    world.add_servers(2);
    world.add_client(|config| config.min_sessions = 0);
    // Server 0 is nearer, so it is tried first.
    let far = Link { latency: Duration::from_millis(30), ..Link::default() };
    let node = world.servers[1].node;
    world.net.set_outbound(node, far);
    world.connect_all();
    assert!(world.until(Duration::from_secs(5), |world| world.sessions(0) == 2));
    world.script(0, Script { deaf: true, ..Script::default() });
    world.script(1, Script { silent: true, ..Script::default() });
    world.pass(Duration::from_millis(10));
    let to = world.addr(0, 80);
    // As many as may be without an ACK; one more waits for its turn, and then goes to the other server.
    let unanswered: Vec<_> = (0..200).map(|_| world.dial_via(0, to, &[0])).collect();
    let mut last = world.dial_via(0, to, &[0, 1]);
    world.pass(Duration::from_secs(7));
    assert_eq!(world.server(1, |server| server.requests), 1, "the last dial is with server 1");
    let node = world.servers[0].node;
    let wire = world.net.wires(node)[0];
    world.net.kill(wire);
    world.pass(Duration::from_secs(1));
    assert_eq!(last.outcome.try_recv().unwrap_err(), TryRecvError::Empty);
    let error = world.finish(last).unwrap_err();
    let DialError::TimedOut { phase, server, .. } = &error else { panic!("{error}") };
    assert_eq!((*phase, *server), (DialPhase::Response, Some(world.servers[1].key)));
    drop(unanswered);
    world.pass(Duration::from_secs(25));
    assert_eq!((world.ports(0), world.held(0).0, world.held(0).1), (0, 0, 0));
}

#[test]
fn the_end_of_a_draining_session_does_not_fail_dials_that_wait_for_its_successor() {
    let mut world = World::connected(92, 2);
    let (near, far) = world.pair(0, 1);
    let client = world.clients[0].key;
    world.tell(0, Tell::GoAway(client));
    world.pass(Duration::from_millis(50));
    assert_eq!(world.sessions(0), 0, "the successor waits for its back-off");
    let mut listener = world.listen(1, 81, 4);
    let to = world.addr(1, 81);
    let dial = world.dial_via(0, to, &[0]);
    world.pass(Duration::from_millis(10));
    drop((near, far));
    let mut stream = world.finish(dial).unwrap();
    let mut accepted = world.wait(listener.accept()).unwrap();
    let heard = world.wait(async {
        stream.write_all(b"x").await.unwrap();
        accepted.read_u8().await.unwrap()
    });
    assert_eq!(heard, b'x');
}

#[test]
fn a_pong_that_is_late_behind_much_data_on_a_slow_line_is_no_silence() {
    let mut world = World::new(93);
    world.add_server();
    for _ in 0..2 {
        world.add_client(|_| {});
    }
    // What the sockets and the send queue hold takes 25 seconds.
    let link = Link { rate: Some(8000), capacity_bytes: 64 * 1024, ..Link::default() };
    let node = world.clients[0].node;
    world.net.set_outbound(node, link);
    world.connect_all();
    let (mut near, mut far) = world.pair(0, 1);
    let received = world.wait(async {
        let send = async {
            near.write_all(&[5; 700_000]).await.unwrap();
            near.shutdown().await.unwrap();
        };
        let mut received = Vec::new();
        futures_util::future::join(send, far.read_to_end(&mut received)).await.1.unwrap()
    });
    assert_eq!(received, 700_000);
    assert_eq!(world.server(0, |server| server.handshakes), 2, "no session was dialled again");
}
