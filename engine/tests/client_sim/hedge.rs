//! A request that is slow to be answered has a second one beside it, through another server.

use std::time::Duration;

use dmsg_engine::client::{DialError, TryCause, machine::Command};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{scripted::Script, world::World};

/// Two clients with sessions at two servers each; the first dials the second.
fn world(seed: u64) -> World {
    World::all_connected(seed, 2)
}

/// The server that is asked first by whoever may choose: the one whose round trip was the shorter, or the same.
fn first_asked(world: &mut World) -> usize {
    let _listener = world.listen(1, 70, 4);
    let to = world.addr(1, 70);
    let stream = world.dial(0, to).unwrap();
    let first = (0..2).find(|&at| world.servers[at].key == stream.server()).unwrap();
    drop(stream);
    world.pass(Duration::from_secs(1));
    first
}

fn silent() -> Script {
    Script { silent: true, ..Script::default() }
}

/// Streams that each server has.
fn streams(world: &mut World) -> [usize; 2] {
    [0, 1].map(|server| world.server(server, |server| server.stream_count()))
}

#[test]
fn an_answer_that_comes_in_time_has_nothing_beside_it() {
    let mut world = world(450);
    let requests = |world: &mut World| -> usize {
        (0..2).map(|server| world.server(server, |server| server.requests)).sum()
    };
    let before = requests(&mut world);
    let (near, far) = world.pair(0, 1);
    world.pass(Duration::from_secs(2));
    assert_eq!(requests(&mut world), before + 1);
    drop((near, far));
}

#[test]
fn whoever_is_only_slow_loses_and_is_reset() {
    let mut world = world(451);
    let slow = first_asked(&mut world);
    world.net.freeze(world.servers[slow].node);
    let mut listener = world.listen(1, 80, 4);
    let (to, begun) = (world.addr(1, 80), world.net.now());
    let mut near = world.dial(0, to).unwrap();
    let took = world.net.now() - begun;
    assert!((300..400).contains(&took.as_millis()), "{took:?}");
    assert_eq!(near.server(), world.servers[1 - slow].key);
    let mut far = world.wait(listener.accept()).unwrap();
    world.net.thaw(world.servers[slow].node);
    world.pass(Duration::from_secs(2));
    // The peer was asked twice and has one stream that is over already; the other works.
    if let Some(mut late) = world.try_accept(&mut listener) {
        world.wait(late.read_u8()).unwrap_err();
    }
    world.wait(near.write_all(b"x")).unwrap();
    assert_eq!(world.wait(far.read_u8()).unwrap(), b'x');
    assert_eq!(world.ports(0), 1);
    drop((near, far));
    world.pass(Duration::from_secs(15));
    assert_eq!((streams(&mut world), world.ports(0)), ([0, 0], 0));
    assert_eq!((world.held(0).0, world.held(0).1), (0, 0));
}

#[test]
fn the_first_asked_may_win_after_all() {
    let mut world = world(452);
    let slow = first_asked(&mut world);
    world.script(1 - slow, silent());
    world.net.freeze(world.servers[slow].node);
    let _listener = world.listen(1, 80, 4);
    let to = world.addr(1, 80);
    let pending = world.dial_via(0, to, &[0, 1]);
    world.pass(Duration::from_millis(400));
    assert_eq!(streams(&mut world)[1 - slow], 1, "asked beside it");
    world.net.thaw(world.servers[slow].node);
    let near = world.finish(pending).unwrap();
    assert_eq!(near.server(), world.servers[slow].key);
    world.pass(Duration::from_millis(100));
    assert_eq!(streams(&mut world)[1 - slow], 0, "reset");
    assert_eq!(world.held(0).1, 1);
}

#[test]
fn one_that_fails_leaves_the_other() {
    for ends_with_session in [false, true] {
        let mut world = world(453);
        let slow = first_asked(&mut world);
        let script =
            if ends_with_session { silent() } else { Script { refuse: true, ..Script::default() } };
        world.script(1 - slow, script);
        world.net.freeze(world.servers[slow].node);
        let _listener = world.listen(1, 80, 4);
        let to = world.addr(1, 80);
        let pending = world.dial_via(0, to, &[0, 1]);
        world.pass(Duration::from_millis(400));
        if ends_with_session {
            world.net.crash(world.servers[1 - slow].node);
        }
        world.pass(Duration::from_millis(200));
        world.net.thaw(world.servers[slow].node);
        let near = world.finish(pending).unwrap();
        assert_eq!(near.server(), world.servers[slow].key, "{ends_with_session}");
    }
}

#[test]
fn two_silent_servers_take_the_whole_time_and_both_are_named() {
    let mut world = world(454);
    for server in [0, 1] {
        world.script(server, silent());
    }
    let (to, begun) = (world.addr(1, 80), world.net.now());
    let error = world.dial(0, to).unwrap_err();
    assert_eq!(world.net.now() - begun, Duration::from_secs(20));
    let DialError::TimedOut { server: Some(last), tries, .. } = error else { panic!("{error}") };
    assert!(
        matches!(tries[..], [(other, TryCause::TimedOut { .. })] if other != last),
        "{tries:?}"
    );
    world.pass(Duration::from_secs(1));
    assert_eq!((streams(&mut world), world.ports(0), world.held(0).1), ([0, 0], 0, 0));
}

#[test]
fn a_dial_that_is_cancelled_leaves_neither() {
    let mut world = world(455);
    for server in [0, 1] {
        world.script(server, silent());
    }
    let to = world.addr(1, 80);
    let pending = world.dial_via(0, to, &[0, 1]);
    world.pass(Duration::from_secs(1));
    assert_eq!((streams(&mut world), world.held(0).1), ([1, 1], 2));
    pending.lease.release();
    world.clients[0].link.post_release(Command::CancelDial(pending.id));
    world.pass(Duration::from_secs(1));
    assert_eq!((streams(&mut world), world.ports(0), world.held(0).1), ([0, 0], 0, 0));
}

/// A silent peer behind two servers is asked twice and no more, and so is every one of many.
#[test]
fn a_crowd_of_dials_to_a_silent_peer_ends_with_nothing_held() {
    let mut world = world(456);
    for server in [0, 1] {
        world.script(server, silent());
    }
    let to = world.addr(1, 80);
    let dials: Vec<_> = (0..300).map(|_| world.dial_via(0, to, &[0, 1])).collect();
    for dial in dials {
        world.finish(dial).unwrap_err();
    }
    world.pass(Duration::from_secs(1));
    assert_eq!((streams(&mut world), world.ports(0)), ([0, 0], 0));
    assert_eq!((world.held(0).0, world.held(0).1), (0, 0));
}

/// One session is the default, so that the other server of a peer has to be connected to first.
#[test]
fn without_another_session_one_is_opened_after_a_second() {
    let mut world = World::new(457);
    world.add_servers(2);
    world.add_client(|_| {});
    world.add_client(|config| config.min_sessions = 0);
    let ours = vec![world.servers[0].target()];
    world.clients[0].link.post_release(Command::Servers(ours));
    world.list_servers(1);
    world.pass(Duration::from_secs(5));
    world.script(0, silent());
    let _listener = world.listen(1, 80, 4);
    let (to, begun) = (world.addr(1, 80), world.net.now());
    let stream = world.dial(0, to).unwrap();
    let took = world.net.now() - begun;
    assert_eq!(stream.server(), world.servers[1].key);
    assert!((1000..2000).contains(&took.as_millis()), "{took:?}");
    drop(stream);
    // The session was for that dial.
    world.pass(Duration::from_secs(200));
    assert_eq!((world.sessions(0), streams(&mut world), world.ports(0)), (1, [0, 0], 0));
}

/// Nobody there: the dial ends as it would have, and no timer is left.
#[test]
fn a_second_server_that_is_not_there_costs_nothing_more() {
    let mut world = World::new(458);
    world.add_servers(2);
    world.add_client(|_| {});
    world.add_client(|_| {});
    let ours = vec![world.servers[0].target()];
    for client in [0, 1] {
        world.clients[client].link.post_release(Command::Servers(ours.clone()));
    }
    let address = world.servers[1].address;
    world.net.lose_connects(address, true);
    world.pass(Duration::from_secs(5));
    world.script(0, silent());
    let (to, begun) = (world.addr(1, 80), world.net.now());
    let error = world.dial(0, to).unwrap_err();
    assert!(world.net.now() - begun <= Duration::from_secs(20), "{error}");
    world.pass(Duration::from_secs(60));
    assert_eq!((world.sessions(0), world.held(0).0, world.held(0).1), (1, 0, 0));
}
