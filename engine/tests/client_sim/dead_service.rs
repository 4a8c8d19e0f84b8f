//! One service's caller hammers a service that does not answer, or refuses; another service's dials take no longer for
//! it, and the server has little of it.

use std::time::Duration;

use dmsg_engine::{
    client::{DialError, DialPhase, Lease, machine::Command},
    pool::StreamPermit,
    wire::Addr,
};
use tokio::sync::oneshot;

use crate::{
    scripted::Script,
    world::{PendingDial, World, holder},
};

/// Time that twenty dials of the live service take, one after the other.
fn live_dials(world: &mut World, hammer: &mut Option<Hammer>) -> Duration {
    let mut listener = world.listen(1, 80, 64);
    let (to, begun) = (world.addr(1, 80), world.net.now());
    for _ in 0..20 {
        if let Some(hammer) = hammer {
            hammer.strike(world);
        }
        let near = world.dial_via(0, to, &[0]);
        let near = world.finish(near).unwrap();
        drop((near, world.wait(listener.accept()).unwrap()));
    }
    world.net.now() - begun
}

/// Dials without end, each place it gets and each it waits for.
#[derive(Default)]
struct Hammer {
    dials: Vec<PendingDial>,
    waiting: Vec<oneshot::Receiver<StreamPermit>>,
    refused: usize,
}

impl Hammer {
    fn strike(&mut self, world: &mut World) {
        let (to, places) = (world.addr(2, 80), world.clients[0].shared.permits.clone());
        for _ in 0..50 {
            match places.try_acquire(&holder(to)) {
                Ok(permit) => {
                    self.dials.push(world.dial_leased(0, to, Lease::new(permit), &[1]));
                }
                Err(_) => match places.enqueue(holder(to)) {
                    Ok(turn) => self.waiting.push(turn),
                    Err(_) => self.refused += 1,
                },
            }
        }
    }
}

#[test]
fn a_dead_service_that_is_hammered_delays_no_other() {
    let mut world = World::new(95);
    world.add_servers(2);
    world.add_client(|config| {
        config.min_sessions = 2;
        config.streams_max = 64;
        config.streams_per_destination_max = 32;
        config.stream_waiters_max = 64;
    });
    world.add_client(|config| config.min_sessions = 2);
    world.add_client(|config| config.min_sessions = 2);
    world.connect_all();
    assert!(world.until(Duration::from_secs(30), |world| world.sessions(0) == 2));
    // The dead service's server takes its dials and never answers.
    world.script(1, Script { silent: true, ..Script::default() });
    let quiet = live_dials(&mut world, &mut None);
    let mut hammer = Some(Hammer::default());
    let beside = live_dials(&mut world, &mut hammer);
    let hammer = hammer.unwrap();
    assert_eq!((hammer.dials.len(), hammer.waiting.len()), (32, 16), "the limits were reached");
    assert!(hammer.refused > 900, "and everything beyond was refused at once");
    assert!(beside <= quiet.mul_f64(1.1), "{beside:?} beside the hammer, {quiet:?} without");
}

#[test]
fn behind_the_same_server_it_delays_no_other_either() {
    let mut world = World::connected(96, 3);
    let (live, dead) = (world.addr(1, 80), world.addr(2, 80));
    world.script(0, Script { silent_for: Some(dead.key), ..Script::default() });
    let mut listener = world.listen(1, 80, 64);
    let mut dials = |world: &mut World| {
        let begun = world.net.now();
        // At once and one after the other.
        let crowd: Vec<_> = (0..20).map(|_| world.dial_via(0, live, &[0])).collect();
        let near: Vec<_> = crowd.into_iter().map(|dial| world.finish(dial).unwrap()).collect();
        let far: Vec<_> = near.iter().map(|_| world.wait(listener.accept()).unwrap()).collect();
        drop((near, far));
        for _ in 0..20 {
            let near = world.dial_via(0, live, &[0]);
            let near = world.finish(near).unwrap();
            drop((near, world.wait(listener.accept()).unwrap()));
        }
        world.net.now() - begun
    };
    let quiet = dials(&mut world);
    let mut hammer: Vec<_> = (0..1000).map(|_| world.dial_via(0, dead, &[0])).collect();
    // Others that are dead too.
    for port in 81..90 {
        let to = world.addr(2, port);
        hammer.extend((0..50).map(|_| world.dial_via(0, to, &[0])));
    }
    world.pass(Duration::from_millis(500));
    let before = world.server(0, |server| server.requests);
    let beside = dials(&mut world);
    assert!(beside <= quiet.mul_f64(1.1), "{beside:?} beside the hammer, {quiet:?} without");
    assert!(before < 700, "{before} requests: the dead ones are held to their shares");
    // Who had no turn is told so, and not to look after the session.
    let mut phases = Vec::new();
    for dial in hammer {
        match world.finish(dial).unwrap_err() {
            DialError::TimedOut { phase, .. } => phases.push(phase),
            error => panic!("{error}"),
        }
    }
    let count = |wanted| phases.iter().filter(|phase| **phase == wanted).count();
    let counts = [DialPhase::Turn, DialPhase::Response].map(count);
    assert!(counts[0] > 700 && counts[0] + counts[1] == 1450, "{counts:?}");
    assert_eq!((world.held(0).0, world.held(0).1), (0, 0));
}

/// Dials of one caller in a loop, as often as they fail within `limit`.
fn loops(world: &mut World, to: Addr, servers: &[usize], limit: Duration) -> usize {
    let (end, mut failed) = (world.net.now() + limit, 0);
    while world.net.now() < end {
        let dial = world.dial_via(0, to, servers);
        assert!(world.finish(dial).is_err());
        failed += 1;
    }
    failed
}

#[test]
fn a_peer_that_refuses_is_left_alone_for_longer_and_longer_and_found_again() {
    let mut world = World::connected(97, 2);
    let nobody = world.addr(1, 81);
    let failed = loops(&mut world, nobody, &[0], Duration::from_secs(20));
    assert!((10..=25).contains(&failed), "{failed} dials in 20 s");
    // Another port of the same peer is not concerned.
    let (mut listener, to) = (world.listen(1, 80, 4), world.addr(1, 80));
    let begun = world.net.now();
    let near = world.dial_via(0, to, &[0]);
    let near = world.finish(near).unwrap();
    drop((near, world.wait(listener.accept()).unwrap()));
    assert!(world.net.now() - begun < Duration::from_millis(200));
    // Nor is this one, once somebody listens, for longer than the longest wait.
    let mut late = world.listen(1, 81, 4);
    let begun = world.net.now();
    for _ in 0..2 {
        let near = world.dial_via(0, nobody, &[0]);
        let near = world.finish(near).unwrap();
        drop((near, world.wait(late.accept()).unwrap()));
    }
    assert!(world.net.now() - begun < Duration::from_millis(2200), "{:?}", world.net.now() - begun);
    world.pass(Duration::from_millis(100));
    assert_eq!((world.held(0).0, world.held(0).1), (0, 0));
}

#[test]
fn the_wait_is_per_server_and_a_dial_that_is_cancelled_or_too_short_leaves_nothing() {
    let mut world = World::new(98);
    world.add_servers(2);
    world.add_client(|config| config.min_sessions = 2);
    world.add_client(|config| config.min_sessions = 2);
    world.connect_all();
    assert!(world.until(Duration::from_secs(30), |world| {
        (0..2).all(|client| world.sessions(client) == 2)
    }));
    let to = world.addr(1, 80);
    // Through server 0 it fails often; server 1 knows nothing of that.
    world.script(0, Script { refuse: true, ..Script::default() });
    loops(&mut world, to, &[0], Duration::from_secs(10));
    let mut listener = world.listen(1, 80, 4);
    let begun = world.net.now();
    let near = world.dial_via(0, to, &[0, 1]);
    let near = world.finish(near).unwrap();
    drop((near, world.wait(listener.accept()).unwrap()));
    assert!(world.net.now() - begun < Duration::from_millis(200), "server 0 is passed over");
    // A dial that waits is given up.
    let failed = world.dial_via(0, to, &[0]);
    assert!(world.finish(failed).is_err());
    let waiting = world.dial_via(0, to, &[0]);
    world.pass(Duration::from_millis(100));
    assert_eq!(world.held(0).0, 1, "it waits");
    waiting.lease.release();
    world.clients[0].link.post_release(Command::CancelDial(waiting.id));
    world.pass(Duration::from_millis(100));
    let (dials, streams, _) = world.held(0);
    assert_eq!((dials, streams, world.ports(0)), (0, 0, 0));
}
