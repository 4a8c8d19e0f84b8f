//! One service's caller hammers a service that does not answer; another service's dials take no
//! longer for it.

use std::time::Duration;

use dmsg_engine::{client::Lease, pool::StreamPermit};
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
