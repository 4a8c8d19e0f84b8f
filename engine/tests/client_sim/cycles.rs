//! Opening and closing for ever ends with nothing held. More cycles than there are ports.

use std::time::Duration;

use dmsg_engine::client::machine::Command;
use futures_util::FutureExt;

use crate::world::World;

/// Half of the dials become streams, half are given up with their request out.
fn cycle(rounds: usize) {
    let mut world = World::connected(81, 2);
    let mut listener = world.listen(1, 80, 256);
    let to = world.addr(1, 80);
    // Most of the ports have had their turn, so that the pool goes round during the test.
    for _ in 0..15_000 {
        drop(world.clients[0].shared.ports.reserve_ephemeral().unwrap());
    }
    for round in 0..rounds {
        let pending: Vec<_> = (0..10).map(|_| world.dial_via(0, to, &[0])).collect();
        for (index, dial) in pending.into_iter().enumerate() {
            if (round + index) % 2 == 0 {
                let near = world.finish(dial).unwrap();
                let far = world.wait(listener.accept()).unwrap();
                if index % 3 == 0 { drop((near, far)) } else { drop((far, near)) }
            } else {
                dial.lease.release();
                world.clients[0].link.post_release(Command::CancelDial(dial.id));
            }
        }
        world.pass(Duration::from_millis(20));
        while listener.accept().now_or_never().is_some() {}
    }
    world.pass(Duration::from_secs(11));
    assert_eq!((world.ports(0), world.ports(1)), (0, 1), "the listener's is all");
    for client in 0..2 {
        let (dials, streams, timers) = world.held(client);
        assert_eq!((dials, streams), (0, 0));
        assert!(timers <= 3, "{timers} timers");
        assert_eq!(world.clients[client].shared.permits.used_count(), 0);
    }
    assert_eq!(world.server(0, |server| server.stream_count()), 0);
}

#[test]
fn streams_opened_and_dropped_beyond_the_last_port_hold_nothing() {
    cycle(200);
}

#[test]
#[ignore = "takes minutes in a debug build"]
fn a_hundred_thousand_streams_opened_and_dropped_hold_nothing() {
    cycle(10_000);
}
