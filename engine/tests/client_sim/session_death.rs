//! A session that dies frees the ports of its streams, and tells each of them.

use std::{io::ErrorKind, time::Duration};

use dmsg_engine::client::machine::{CLOSE_FLUSH, Command, QUIET_MIN};
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    scripted::{Script, Tell},
    world::{LONG, World},
};

#[test]
fn a_reset_connection_ends_all_its_streams() {
    let mut world = World::connected(21, 2);
    let mut listener = world.listen(1, 80, 64);
    let to = world.addr(1, 80);
    let mut streams: Vec<_> = (0..40).map(|_| world.dial(0, to).unwrap()).collect();
    let mut accepted = world.wait(listener.accept()).unwrap();
    assert_eq!((world.ports(0), world.clients[0].shared.permits.used_count()), (40, 40));

    let wire = world.net.wires(world.clients[0].node)[0];
    world.net.kill(wire);
    assert!(world.until(Duration::from_millis(1), |world| world.ports(0) == 0), "freed at once");
    assert_eq!(world.clients[0].shared.permits.used_count(), 0);
    for stream in &mut streams {
        let error = world.wait(stream.read_u8()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert!(error.to_string().contains("the session with server"), "{error}");
        assert!(world.wait(stream.write_all(b"x")).is_err());
    }
    // The far end sees a reset of the stream: its own session stands.
    let error = world.wait(accepted.read_u8()).unwrap_err();
    assert!(error.to_string().contains("reset by the peer"), "{error}");
    assert_eq!(world.sessions(1), 1);
}

#[test]
fn a_reset_stream_does_not_touch_its_session() {
    let mut world = World::connected(22, 2);
    let (mut near, _far) = world.pair(0, 1);
    let client = world.clients[0].key;
    world.tell(0, Tell::ResetAll(client));
    let error = world.wait(near.read_u8()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!((world.ports(0), world.sessions(0)), (0, 1));
}

#[test]
fn a_server_that_falls_silent_is_found_out_within_45_seconds() {
    let mut world = World::connected(23, 2);
    let (mut near, _far) = world.pair(0, 1);
    world.pass(Duration::from_secs(5));
    world.script(0, Script { deaf: true, ..Script::default() });
    let start = world.net.now();
    let error = world.wait(near.read_u8()).unwrap_err();
    assert!(error.to_string().contains("did not answer"), "{error}");
    assert!(world.net.now() - start <= Duration::from_secs(45));
    assert_eq!(world.ports(0), 0);
}

/// `Client::close` promises 2 s; a server that is out of reach must not hold it up.
#[test]
fn closing_ends_connections_that_cannot_be_flushed() {
    let mut world = World::connected(26, 2);
    let mut streams: Vec<_> = (0..4).map(|_| world.pair(0, 1)).collect();
    let node = world.clients[0].node;
    let wire = world.net.wires(node)[0];
    world.net.black_hole(wire);
    for (near, _) in &mut streams {
        while near.write(&[5; 65_536]).now_or_never().is_some() {}
    }
    world.pass(Duration::from_secs(1));
    assert_eq!(world.net.wires(node).len(), 1);
    world.clients[0].link.post_release(Command::Close);
    world.pass(CLOSE_FLUSH + Duration::from_millis(10));
    assert!(world.net.wires(node).is_empty(), "nothing is left that the driver would wait for");
}

/// User wish 25. The engine's part of `close()`, which has 2 s in all.
#[test]
fn closing_ends_in_time_in_whatever_state_a_client_is() {
    type Prepare = fn(&mut World);
    let states: [(&str, Duration, Prepare); 8] = [
        ("no connection is answered", Duration::from_secs(3), |world| {
            world.net.lose_connects(world.servers[0].address, true);
        }),
        ("waiting after a refusal", Duration::from_secs(3), |world| {
            world.net.refuse(world.servers[0].address, true);
        }),
        ("in the handshake", Duration::from_secs(3), |world| {
            world.net.freeze(world.servers[0].node);
        }),
        ("in the quiet time", QUIET_MIN / 2, |_| {}),
        ("up", Duration::from_secs(3), |_| {}),
        ("up, and the server is deaf", Duration::from_secs(3), |world| {
            world.script(0, Script { deaf: true, ..Script::default() });
        }),
        ("a dial waits for its answer", Duration::from_secs(3), |world| {
            world.script(0, Script { silent: true, ..Script::default() });
        }),
        ("the line is dead", Duration::from_secs(3), |world| {
            let node = world.clients[0].node;
            world.pass(Duration::from_secs(1));
            let wire = world.net.wires(node)[0];
            world.net.black_hole(wire);
        }),
    ];
    for (state, after, prepare) in states {
        let mut world = World::new(27);
        world.add_server();
        world.add_client(|_| {});
        world.list_servers(0);
        prepare(&mut world);
        let to = world.addr(0, 80);
        let dial = world.dial_via(0, to, &[0]);
        world.pass(after);
        world.clients[0].link.post_release(Command::Close);
        world.pass(CLOSE_FLUSH + Duration::from_millis(10));
        assert!(world.net.is_stopped(world.clients[0].node), "{state}");
        assert!(world.finish(dial).is_err(), "{state}");
        assert_eq!(world.ports(0), 0, "{state}");
    }
}

#[test]
fn a_black_hole_is_found_out_within_45_seconds() {
    let mut world = World::connected(24, 2);
    let wire = world.net.wires(world.clients[0].node)[0];
    world.net.black_hole(wire);
    let start = world.net.now();
    assert!(world.until(LONG, |world| world.sessions(0) == 0));
    assert!(world.net.now() - start <= Duration::from_secs(45));
    assert!(world.until(Duration::from_secs(2), |world| world.sessions(0) == 1), "and is back");
}

#[test]
fn a_go_away_moves_to_a_new_session_and_lets_streams_finish() {
    let mut world = World::connected(25, 2);
    let (mut near, mut far) = world.pair(0, 1);
    let client = world.clients[0].key;
    world.tell(0, Tell::GoAway(client));
    world.pass(Duration::from_secs(3));
    let heard = world.wait(async {
        near.write_all(b"still here").await.unwrap();
        let mut heard = [0; 10];
        far.read_exact(&mut heard).await.unwrap();
        heard
    });
    assert_eq!(&heard, b"still here");
    assert_eq!(world.sessions(0), 1);
    assert_eq!(world.server(0, |server| server.handshakes), 3);
    drop((near, far));
    world.pass(Duration::from_secs(15));
    let ended = world.clients[0].shared.stats().sessions_ended;
    assert_eq!(ended["closed_by_server"], 1, "counted once, though it ended twice: {ended:?}");
}
