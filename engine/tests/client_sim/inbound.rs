//! Inbound streams: whatever is wrong with one, the others and the session do not feel it.

use std::time::Duration;

use dmsg_engine::client::DialError;

use crate::{
    scripted::{Script, Tell},
    world::World,
};

#[test]
fn stalled_handshakes_do_not_hold_up_others_and_end_after_five_seconds() {
    let mut world = World::connected(61, 2);
    let client = world.clients[1].key;
    for _ in 0..100 {
        world.tell(0, Tell::OpenTo(client, vec![1, 0, 7]));
    }
    world.pass(Duration::from_millis(200));
    assert_eq!(world.held(1).1, 100);
    let start = world.net.now();
    let _pair = world.pair(0, 1);
    assert!(world.net.now() - start < Duration::from_secs(1));
    world.pass(Duration::from_secs(6));
    assert_eq!((world.held(1).1, world.sessions(1)), (1, 1));
    assert_eq!(world.clients[1].shared.stats().inbound_refused["timed_out"], 100);
}

#[test]
fn more_than_the_bound_are_turned_away_at_once() {
    let mut world = World::connected(62, 1);
    let client = world.clients[0].key;
    for _ in 0..140 {
        world.tell(0, Tell::OpenTo(client, vec![1]));
    }
    world.pass(Duration::from_millis(200));
    assert_eq!(world.held(0).1, 128);
    assert_eq!(world.clients[0].shared.stats().inbound_refused["too_many"], 12);
}

#[test]
fn rubbish_ends_its_stream_and_not_the_session() {
    let mut world = World::connected(63, 2);
    let client = world.clients[1].key;
    // The liveness ping, which servers do not send; an object too short; one that does not decrypt.
    for bytes in [vec![0, 0], vec![0, 1, 5], [vec![0, 40], vec![3; 40]].concat()] {
        world.tell(0, Tell::OpenTo(client, bytes));
    }
    world.pass(Duration::from_millis(200));
    assert_eq!((world.held(1).1, world.sessions(1)), (0, 1));
    assert_eq!(world.clients[1].shared.stats().inbound_refused["malformed"], 3);
    let _pair = world.pair(0, 1);
}

#[test]
fn a_request_for_somebody_else_is_refused() {
    let mut world = World::connected(65, 3);
    let (to, other) = (world.addr(1, 80), world.clients[2].key);
    let _listener = world.listen(2, 80, 4);
    world.script(0, Script { misroute_to: Some(other), ..Script::default() });
    assert!(world.dial(0, to).is_err());
    assert_eq!(world.clients[2].shared.stats().inbound_refused["bad_request"], 1);
    assert_eq!((world.held(2).1, world.sessions(2)), (0, 1));
}

#[test]
fn nobody_on_the_port_is_a_refusal() {
    let mut world = World::connected(64, 2);
    let to = world.addr(1, 81);
    let start = world.net.now();
    assert!(matches!(world.dial(0, to), Err(DialError::Refused { .. })));
    assert!(world.net.now() - start < Duration::from_secs(1));
    assert_eq!(world.clients[1].shared.stats().inbound_refused["no_listener"], 1);
    assert_eq!((world.ports(0), world.clients[1].shared.permits.used_count()), (0, 0));
}

#[test]
fn a_full_accept_queue_refuses_and_recovers() {
    let mut world = World::connected(65, 2);
    let mut listener = world.listen(1, 80, 2);
    let to = world.addr(1, 80);
    let queued = [world.dial(0, to).unwrap(), world.dial(0, to).unwrap()];
    assert!(matches!(world.dial(0, to), Err(DialError::Refused { .. })));
    assert_eq!(world.clients[1].shared.stats().inbound_refused["queue_full"], 1);
    let accepted = world.wait(listener.accept()).unwrap();
    assert_eq!(accepted.remote_addr(), queued[0].local_addr());
    assert!(world.dial(0, to).is_ok());
    drop(listener);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.ports(1), 0, "the listener's port");
    assert_eq!(world.clients[1].shared.permits.used_count(), 1, "what was queued is closed");
}
