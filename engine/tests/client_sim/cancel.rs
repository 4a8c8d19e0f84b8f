//! A dial cancelled at any step leaves no port, no place, no stream, no timer.

use std::time::Duration;

use dmsg_engine::client::machine::Command;

use crate::{scripted::Script, world::World};

/// What `Client::dial` does when its future is dropped.
fn cancel(world: &mut World, pending: crate::world::PendingDial) {
    pending.lease.release();
    world.clients[0].link.post_release(Command::CancelDial(pending.id));
    drop(pending.outcome);
}

fn assert_nothing_left(world: &mut World, what: &str) {
    world.pass(Duration::from_secs(1));
    assert_eq!(world.ports(0), 0, "ports, {what}");
    let (dials, streams, timers) = world.held(0);
    assert_eq!((dials, streams), (0, 0), "dials and streams, {what}");
    assert!(timers <= 3, "{timers} timers, {what}");
    assert_eq!(world.clients[0].shared.permits.used_count(), 0, "places, {what}");
    assert_eq!(world.server(0, |server| server.stream_count()), 0, "server streams, {what}");
    assert_eq!(world.sessions(0), 1, "the session, {what}");
}

#[test]
fn at_every_event_of_a_dial_that_would_succeed() {
    let mut world = World::connected(11, 2);
    let mut listener = world.listen(1, 80, 16);
    let to = world.addr(1, 80);
    let mut finished = 0;
    for steps in 0..60 {
        let mut pending = world.dial_via(0, to, &[0]);
        let mut taken = 0;
        world.until(Duration::from_secs(1), |_| {
            taken += 1;
            taken > steps
        });
        let stream = pending.outcome.try_recv();
        finished += usize::from(stream.is_ok());
        drop(stream);
        cancel(&mut world, pending);
        // What reached the listener ends by itself.
        while let Some(Ok(stream)) = futures_util::FutureExt::now_or_never(listener.accept()) {
            drop(stream);
        }
        assert_nothing_left(&mut world, &format!("after {steps} steps"));
    }
    assert!(finished > 10, "the later steps are behind the dial's end");
}

#[test]
fn while_the_server_says_nothing() {
    let mut world = World::connected(12, 1);
    world.script(0, Script { silent: true, ..Script::default() });
    let to = world.addr(0, 80);
    let pending = world.dial_via(0, to, &[0]);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.ports(0), 1);
    pending.lease.release();
    assert_eq!(world.ports(0), 0, "free at once, before the engine knows");
    cancel(&mut world, pending);
    assert_nothing_left(&mut world, "silent server");
}

#[test]
fn while_there_is_no_session_yet_no_port_is_held() {
    let mut world = World::new(13);
    world.add_server();
    world.add_client(|_| {});
    let address = world.servers[0].address;
    world.net.lose_connects(address, true);
    let to = world.addr(0, 80);
    let pending = world.dial_via(0, to, &[0]);
    world.pass(Duration::from_secs(3));
    assert_eq!((world.ports(0), world.held(0).0), (0, 1));
    cancel(&mut world, pending);
    world.pass(Duration::from_secs(1));
    assert_eq!((world.held(0).0, world.clients[0].shared.permits.used_count()), (0, 0));
}

#[test]
fn a_reply_that_nobody_waits_for_closes_its_stream() {
    let mut world = World::connected(14, 2);
    let listener = world.listen(1, 80, 16);
    let to = world.addr(1, 80);
    let pending = world.dial_via(0, to, &[0]);
    drop(pending.outcome);
    world.pass(Duration::from_secs(1));
    drop(listener);
    assert_nothing_left(&mut world, "receiver gone");
}
