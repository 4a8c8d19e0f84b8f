//! Sessions come back: after a restart, after being closed at once, and not in a storm.

use std::time::Duration;

use dmsg_engine::client::machine::{QUIET_MAX, QUIET_MIN};

use crate::{
    scripted::Script,
    world::{LONG, World},
};

#[test]
fn a_restarted_server_is_found_again_within_two_seconds() {
    for seed in 0..20 {
        let mut world = World::connected(seed, 1);
        world.pass(Duration::from_secs(40));
        world.restart_server(0);
        assert!(world.until(Duration::from_secs(1), |world| world.sessions(0) == 0));
        assert!(world.until(Duration::from_secs(2), |world| world.sessions(0) == 1));
    }
}

#[test]
fn a_server_that_was_away_for_an_hour_is_found_within_five_seconds() {
    let mut world = World::connected(31, 1);
    let address = world.servers[0].address;
    world.net.refuse(address, true);
    let wire = world.net.wires(world.clients[0].node)[0];
    world.net.kill(wire);
    world.pass(Duration::from_secs(3600));
    let ended = world.clients[0].shared.stats().sessions_ended;
    let refused = ended["connect_failed"];
    // Every 2 to 4 s, since without any session nothing else works.
    assert!((900..1800).contains(&refused), "{refused} dials in an hour");
    world.net.refuse(address, false);
    assert!(world.until(Duration::from_secs(5), |world| world.sessions(0) == 1));
}

#[test]
fn nothing_is_sent_right_behind_the_handshake() {
    let mut world = World::connected(32, 1);
    assert_eq!(world.server(0, |server| (server.handshakes, server.early_bytes)), (1, 0));
    assert!(world.net.elapsed() >= QUIET_MIN);
}

#[test]
fn closed_at_once_means_dial_again_at_once_and_twice_as_quiet() {
    for (closes, quiet_ms) in [(0, 100), (1, 200), (2, 400), (3, 800), (4, 1600)] {
        let mut world = World::new(33);
        world.add_server();
        world.add_client(|_| {});
        world.script(0, Script { close_at_once: closes, ..Script::default() });
        world.connect_all();
        assert_eq!(world.server(0, |server| server.handshakes), closes + 1);
        // All that took time is the last quiet; the rest is a link's latency.
        let quiet = Duration::from_millis(quiet_ms);
        let took = world.net.elapsed();
        assert!(took >= quiet && took < quiet + Duration::from_millis(60), "{closes}: {took:?}");
    }
    assert_eq!(QUIET_MAX, Duration::from_millis(1600));
}

#[test]
fn closed_at_once_for_ever_falls_back_to_the_back_off() {
    let mut world = World::new(34);
    world.add_server();
    world.add_client(|_| {});
    world.script(0, Script { close_at_once: usize::MAX, ..Script::default() });
    world.list_servers(0);
    world.pass(Duration::from_secs(60));
    let handshakes = world.server(0, |server| server.handshakes);
    // The first ones at once, each twice as quiet; then one in 2.5 to 5 s, as for any server that may be starting.
    assert!((12..=30).contains(&handshakes), "{handshakes} handshakes in a minute");
}

#[test]
fn min_sessions_are_held_and_zero_means_all() {
    for (min, expected) in [(1, 1), (2, 2), (0, 4)] {
        let mut world = World::new(35);
        world.add_servers(4);
        world.add_client(|config| config.min_sessions = min);
        world.list_servers(0);
        world.pass(Duration::from_secs(10));
        assert_eq!(world.sessions(0), expected);
    }
}

#[test]
fn a_dead_server_does_not_hold_up_the_others() {
    let mut world = World::new(36);
    world.add_servers(3);
    for server in 0..2 {
        let address = world.servers[server].address;
        world.net.lose_connects(address, true);
    }
    world.add_client(|_| {});
    world.list_servers(0);
    assert!(world.until(Duration::from_secs(3), |world| world.sessions(0) == 1));
}

#[test]
fn three_evictions_within_a_minute_are_reported() {
    let mut world = World::connected(37, 1);
    for _ in 0..3 {
        assert!(world.until(LONG, |world| world.sessions(0) == 1));
        world.pass(Duration::from_secs(2));
        let wire = world.net.wires(world.clients[0].node)[0];
        world.net.kill(wire);
        world.until(LONG, |world| world.sessions(0) == 0);
    }
    assert_eq!(world.clients[0].shared.stats().evictions_suspected, 1);
}
