//! Peers that know each other dial again without the curve, and lose nothing where that does not work out.

use std::time::Duration;

use dmsg_engine::{
    client::{ClientConfig, DialError, Listener, Stream, machine::TICKET_LIFETIME},
    mux::MuxKind,
    wire::Addr,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    scripted::Script,
    world::{LONG, World},
};

/// What the clients counted: dials that gave a stream, those by ticket, those by a ticket the peer did not know, and accepted ones
/// by ticket.
fn counts(world: &World, from: usize, to: usize) -> [u64; 4] {
    let [near, far] = [from, to].map(|client| world.clients[client].shared.stats());
    [near.dials_ok, near.dials_resumed, near.dials_unknown, far.accepted_resumed]
}

/// Dials, and says something both ways.
fn exchange(world: &mut World, listener: &mut Listener, to: Addr) -> (Stream, Stream) {
    let mut near = world.dial(0, to).unwrap();
    let mut far = world.wait(listener.accept()).unwrap();
    let heard = world.wait(async {
        let mut heard = [[0; 5]; 2];
        near.write_all(b"there").await.unwrap();
        far.read_exact(&mut heard[0]).await.unwrap();
        far.write_all(b"again").await.unwrap();
        near.read_exact(&mut heard[1]).await.unwrap();
        heard
    });
    assert_eq!(heard, [*b"there", *b"again"]);
    (near, far)
}

/// One server, two clients, and a first dial that gave a ticket.
fn acquainted(seed: u64) -> (World, Listener, Addr) {
    acquaint(World::connected(seed, 2))
}

fn acquaint(mut world: World) -> (World, Listener, Addr) {
    let mut listener = world.listen(1, 80, 16);
    let to = world.addr(1, 80);
    drop(exchange(&mut world, &mut listener, to));
    (world, listener, to)
}

/// Another process with the key of the second client, which listens as the first one did.
fn start_anew(world: &mut World, configure: impl FnOnce(&mut ClientConfig)) -> Listener {
    world.net.crash(world.clients[1].node);
    world.clients.pop();
    assert_eq!(world.add_client(configure), 1);
    world.list_servers(1);
    let all = world.sessions(0);
    assert!(world.until(LONG, |world| world.sessions(1) == all));
    world.listen(1, 80, 16)
}

#[test]
fn every_dial_but_the_first_is_by_ticket_with_either_mux() {
    for mux in [MuxKind::Yamux, MuxKind::SmuxV1, MuxKind::SmuxV2] {
        let mut world = World::with_mux(1, mux);
        world.add_server();
        world.add_client(|_| {});
        world.add_client(|_| {});
        world.connect_all();
        let mut listener = world.listen(1, 80, 16);
        let to = world.addr(1, 80);
        for number in 0..5 {
            drop(exchange(&mut world, &mut listener, to));
            assert_eq!(counts(&world, 0, 1), [number + 1, number, 0, number], "{mux:?}");
        }
        world.pass(Duration::from_secs(30));
        assert_eq!((world.held(0).1, world.held(1).1, world.ports(0)), (0, 0, 0));
    }
}

#[test]
fn dials_that_go_out_together_all_succeed_and_agree_on_one_ticket() {
    let mut world = World::connected(2, 2);
    let mut listener = world.listen(1, 80, 64);
    let to = world.addr(1, 80);
    let pending: Vec<_> = (0..64).map(|_| world.dial_via(0, to, &[0])).collect();
    for dial in pending {
        world.finish(dial).unwrap();
    }
    assert_eq!(counts(&world, 0, 1), [64, 0, 0, 0]);
    while world.try_accept(&mut listener).is_some() {}
    drop(exchange(&mut world, &mut listener, to));
    assert_eq!(counts(&world, 0, 1), [65, 1, 0, 1]);
}

#[test]
fn the_other_way_round_there_is_a_ticket_of_its_own() {
    let mut world = World::connected(3, 2);
    let mut listeners = [world.listen(0, 80, 16), world.listen(1, 80, 16)];
    for _ in 0..2 {
        for (from, to) in [(0, 1), (1, 0)] {
            let address = world.addr(to, 80);
            drop(world.dial(from, address).unwrap());
            drop(world.wait(listeners[to].accept()).unwrap());
        }
    }
    assert_eq!([counts(&world, 0, 1), counts(&world, 1, 0)], [[2, 1, 0, 1]; 2]);
}

#[test]
fn a_peer_that_started_anew_does_not_know_the_ticket_and_is_dialled_by_handshake() {
    let (mut world, listener, to) = acquainted(4);
    drop(listener);
    let mut listener = start_anew(&mut world, |_| {});
    let begun = world.net.now();
    drop(exchange(&mut world, &mut listener, to));
    assert!(world.net.now() - begun < Duration::from_secs(1), "no time-out is waited for");
    assert_eq!(counts(&world, 0, 1), [2, 0, 1, 0]);
    drop(exchange(&mut world, &mut listener, to));
    assert_eq!(counts(&world, 0, 1), [3, 1, 1, 1]);
    world.pass(Duration::from_secs(30));
    assert_eq!((world.held(0).1, world.held(1).1, world.ports(0)), (0, 0, 0));
}

#[test]
fn a_peer_without_the_extension_is_always_dialled_by_handshake() {
    for (near, far) in [(true, false), (false, true)] {
        let mut world = World::new(5);
        world.add_server();
        world.add_client(|config| config.resume_dials = near);
        world.add_client(|config| config.resume_dials = far);
        world.connect_all();
        let mut listener = world.listen(1, 80, 16);
        let to = world.addr(1, 80);
        for number in 0..3 {
            drop(exchange(&mut world, &mut listener, to));
            assert_eq!(counts(&world, 0, 1), [number + 1, 0, 0, 0]);
        }
    }
}

#[test]
fn a_ticket_is_renewed_when_it_is_old_and_its_secret_is_gone_by_then() {
    let (mut world, mut listener, to) = acquainted(6);
    world.pass(TICKET_LIFETIME - Duration::from_secs(10));
    drop(exchange(&mut world, &mut listener, to));
    assert_eq!(counts(&world, 0, 1), [2, 1, 0, 1]);
    let held = |world: &World| [0, 1].map(|client| world.clients[client].shared.stats().tickets);
    assert_eq!(held(&world), [1, 1]);
    // Its time, what the peer adds to it, and an interval of pings.
    world.pass(Duration::from_secs(10 + 25 + 31));
    assert_eq!(held(&world), [0, 0]);
    drop(exchange(&mut world, &mut listener, to));
    drop(exchange(&mut world, &mut listener, to));
    assert_eq!(counts(&world, 0, 1), [4, 2, 0, 2]);
}

#[test]
fn a_peer_that_does_not_take_tickets_any_more_is_reached_by_handshake_in_the_same_dial() {
    let (mut world, listener, to) = acquainted(7);
    drop(listener);
    // It takes the ticket for a broken handshake.
    let mut listener = start_anew(&mut world, |config| config.resume_dials = false);
    let begun = world.net.now();
    drop(exchange(&mut world, &mut listener, to));
    assert!(world.net.now() - begun < Duration::from_secs(1), "nothing is waited for");
    assert_eq!(counts(&world, 0, 1), [2, 0, 0, 0]);
    assert_eq!(world.clients[1].shared.stats().inbound_refused["bad_handshake"], 1);
}

#[test]
fn a_dial_by_ticket_that_nobody_answers_is_tried_by_handshake_before_its_time_is_over() {
    let (mut world, mut listener, to) = acquainted(8);
    world.script(0, Script { silent: true, ..Script::default() });
    let begun = world.net.now();
    let pending = world.dial_via(0, to, &[0]);
    world.pass(Duration::from_secs(1));
    world.script(0, Script::default());
    drop(world.finish(pending).unwrap());
    let took = world.net.now() - begun;
    assert!((5..6).contains(&took.as_secs()), "{took:?}");
    drop(world.wait(listener.accept()).unwrap());
    assert_eq!(counts(&world, 0, 1), [2, 0, 0, 0]);
    drop(exchange(&mut world, &mut listener, to));
    assert_eq!(counts(&world, 0, 1), [3, 1, 0, 1]);
}

#[test]
fn a_dial_that_fails_by_ticket_and_by_handshake_fails_once() {
    let (mut world, _listener, to) = acquainted(9);
    world.script(0, Script { refuse: true, ..Script::default() });
    let asked = world.server(0, |server| server.requests);
    world.dial(0, to).unwrap_err();
    assert_eq!(world.server(0, |server| server.requests), asked + 2);
    world.dial(0, to).unwrap_err();
    assert_eq!(world.server(0, |server| server.requests), asked + 3, "no ticket is left to try");
    assert_eq!(world.ports(0), 0);
}

#[test]
fn a_peer_that_knows_the_ticket_and_has_no_place_says_so_and_is_asked_once() {
    let mut world = World::connected(10, 2);
    let mut listener = world.listen(1, 80, 1);
    let (to, nowhere) = (world.addr(1, 80), world.addr(1, 81));
    drop(exchange(&mut world, &mut listener, to));
    let waiting = world.dial(0, to).unwrap();
    let asked = world.server(0, |server| server.requests);
    for address in [to, nowhere] {
        assert!(matches!(world.dial(0, address), Err(DialError::Refused { .. })));
    }
    assert_eq!(world.server(0, |server| server.requests), asked + 2);
    let refused = world.clients[1].shared.stats().inbound_refused;
    assert_eq!((refused["queue_full"], refused["no_listener"]), (1, 1));
    drop(world.wait(listener.accept()).unwrap());
    drop(waiting);
    drop(exchange(&mut world, &mut listener, to));
    assert_eq!(counts(&world, 0, 1), [3, 2, 0, 2], "the ticket is still good");
    world.pass(Duration::from_secs(30));
    assert_eq!((world.held(0).1, world.held(1).1, world.ports(0)), (0, 0, 0));
}

#[test]
fn a_server_that_changes_the_answer_is_found_out() {
    let (mut world, _listener, to) = acquainted(11);
    // Its last byte: the end of the structure. Whether the whole decodes or not, no stream comes of it.
    world.script(0, Script { spoil_responses: true, ..Script::default() });
    world.dial(0, to).unwrap_err();
    assert_eq!(counts(&world, 0, 1), [1, 0, 0, 1]);
}

#[test]
fn a_server_that_says_in_the_peers_place_that_it_knows_no_ticket_is_not_believed() {
    let (mut world, mut listener, to) = acquainted(14);
    world.script(0, Script { forget_tickets: true, ..Script::default() });
    drop(exchange(&mut world, &mut listener, to));
    // It is a bad response like any other: the dial goes on by handshake, and says so to nobody.
    assert_eq!(counts(&world, 0, 1), [2, 0, 0, 0]);
}

#[test]
fn a_request_for_another_peer_opens_nothing() {
    let mut world = World::connected(12, 3);
    let mut listeners = [world.listen(1, 80, 16), world.listen(2, 80, 16)];
    let to = world.addr(1, 80);
    drop(exchange(&mut world, &mut listeners[0], to));
    let other = world.clients[2].key;
    world.script(0, Script { misroute_to: Some(other), ..Script::default() });
    let pending = world.dial_via(0, to, &[0]);
    world.finish(pending).unwrap_err();
    assert!(world.try_accept(&mut listeners[1]).is_none());
    assert_eq!(
        world.clients[2].shared.stats().inbound_refused["bad_request"],
        2,
        "by ticket, by handshake"
    );
}

#[test]
fn a_forgotten_ticket_in_the_second_of_two_requests_leaves_the_first_alone() {
    let (mut world, listener, to) = acquaint(World::all_connected(13, 2));
    drop(listener);
    let mut listener = start_anew(&mut world, |config| config.min_sessions = 0);
    // Whichever server is asked first does not answer; which one it is, both tell.
    for silent in [0, 1] {
        let peer = world.clients[1].key;
        world.script(silent, Script { silent_for: Some(peer), ..Script::default() });
        let begun = world.net.now();
        drop(exchange(&mut world, &mut listener, to));
        assert!(world.net.now() - begun < Duration::from_secs(2));
        world.script(silent, Script::default());
        // Until the server that lost is as good as the other again.
        world.pass(Duration::from_secs(70));
    }
    let [ok, _, unknown, _] = counts(&world, 0, 1);
    assert_eq!((ok, unknown), (3, 1));
    assert_eq!((world.held(0).0, world.held(0).1, world.ports(0)), (0, 0, 0));
}
