//! Sessions move to servers with much more room: one an hour, and no stream is cut.

use std::time::Duration;

use dmsg_engine::client::machine::{Command, MOVE_INTERVAL};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::World;

/// When a client has looked around once, and has not yet for the second time.
const ONE_LOOK: Duration = Duration::from_secs(2 * 60 * 60 + 60);

/// Lists all servers with these weights.
fn list(world: &mut World, client: usize, weights: &[u32]) {
    let mut targets: Vec<_> = world.servers.iter().map(|server| server.target()).collect();
    for (target, &weight) in targets.iter_mut().zip(weights) {
        target.weight = weight;
    }
    world.clients[client].link.post_release(Command::Servers(targets));
}

/// The servers that a client shows.
fn shown(world: &World, client: usize) -> Vec<usize> {
    let sessions = world.clients[client].shared.board.sessions();
    let index = |key| world.servers.iter().position(|server| server.key == key).unwrap();
    sessions.iter().map(|session| index(session.server)).collect()
}

/// A client with a session at a server of ten places, which is all that is listed, and the number of others.
fn settled(seed: u64, others: usize) -> World {
    let mut world = World::new(seed);
    world.add_server();
    world.add_client(|_| {});
    list(&mut world, 0, &[10]);
    world.pass(Duration::from_secs(1));
    assert_eq!(shown(&world, 0), [0]);
    world.add_servers(others);
    world
}

#[test]
fn a_session_moves_to_a_server_with_three_times_the_room() {
    let mut world = settled(400, 1);
    list(&mut world, 0, &[40, 120]);
    world.pass(MOVE_INTERVAL - Duration::from_secs(60));
    assert_eq!(shown(&world, 0), [0], "not within an hour");
    world.pass(ONE_LOOK - MOVE_INTERVAL + Duration::from_secs(60));
    assert_eq!(shown(&world, 0), [1]);
    world.pass(Duration::from_secs(200));
    assert_eq!(world.server(0, |server| server.session_count()), 0, "the old one is closed");
    assert_eq!(world.server(1, |server| server.session_count()), 1);
}

#[test]
fn less_room_than_that_is_not_worth_it_nor_is_little_room() {
    for weights in [[40, 119], [10, 31], [0, 31]] {
        let mut world = settled(401, 1);
        list(&mut world, 0, &weights);
        world.pass(3 * ONE_LOOK);
        assert_eq!(shown(&world, 0), [0], "{weights:?}");
    }
}

#[test]
fn one_session_moves_at_a_time_and_only_from_the_fullest() {
    let mut world = World::new(402);
    world.add_servers(2);
    world.add_client(|config| config.min_sessions = 2);
    list(&mut world, 0, &[20, 10]);
    world.pass(Duration::from_secs(2));
    world.add_servers(2);
    list(&mut world, 0, &[20, 10, 1000, 1000]);
    let moved = |world: &mut World| {
        let handshakes: usize = (2..4).map(|at| world.server(at, |server| server.handshakes)).sum();
        handshakes
    };
    assert!(world.until(ONE_LOOK, |world| moved(world) == 1));
    world.pass(Duration::from_secs(200));
    assert!(shown(&world, 0).contains(&0), "the fullest went first: {:?}", shown(&world, 0));
    world.pass(MOVE_INTERVAL - Duration::from_secs(260));
    assert_eq!(moved(&mut world), 1, "one in an hour");
    assert!(world.until(ONE_LOOK, |world| moved(world) == 2));
}

#[test]
fn whoever_holds_sessions_with_all_servers_stays() {
    let mut world = World::new(403);
    world.add_servers(2);
    world.add_client(|config| config.min_sessions = 0);
    list(&mut world, 0, &[10, 1000]);
    world.pass(3 * ONE_LOOK);
    assert_eq!(world.sessions(0), 2);
}

#[test]
fn a_stream_on_the_old_session_lives_on_and_new_ones_find_their_way() {
    let mut world = settled(404, 1);
    world.add_client(|config| config.min_sessions = 0);
    list(&mut world, 1, &[10, 10]);
    world.pass(Duration::from_secs(2));
    let (mut near, mut far) = world.pair(0, 1);
    list(&mut world, 0, &[10, 1000]);
    world.pass(ONE_LOOK + Duration::from_secs(300));
    assert_eq!(shown(&world, 0), [1]);
    assert_eq!(world.server(0, |server| server.session_count()), 2, "a stream is on it");
    world.wait(near.write_all(b"x")).unwrap();
    assert_eq!(world.wait(far.read_u8()).unwrap(), b'x');
    drop((near, far));
    world.pass(Duration::from_secs(200));
    assert_eq!(world.server(0, |server| server.session_count()), 1, "closed when nobody used it");
    let (near, _far) = world.pair(0, 1);
    assert_eq!(near.server(), world.servers[1].key);
}

#[test]
fn a_move_to_a_server_that_is_not_there_changes_nothing() {
    let mut world = settled(405, 1);
    let address = world.servers[1].address;
    world.net.refuse(address, true);
    list(&mut world, 0, &[10, 1000]);
    world.pass(3 * ONE_LOOK);
    assert_eq!(shown(&world, 0), [0]);
    assert_eq!(world.server(0, |server| server.handshakes), 1, "it was never left");
}
