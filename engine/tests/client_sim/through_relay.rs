//! Clients and the real relay in one simulated network, over many seeds: links that cut, delay and
//! break.

use std::{sync::Arc, time::Duration};

use dmsg_engine::{
    driver::sim::{Chunking, Link},
    identity::SecretKey,
    relay::{Cores, Relay, RelayConfig, RelayLimits, Stats},
};
use futures_util::future::join;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{LONG, World};

fn world(seed: u64) -> World {
    let mut world = World::new(seed);
    world.net.set_link(Link {
        latency: Duration::from_millis(seed % 40),
        jitter: Duration::from_millis(seed % 7),
        capacity_bytes: if seed.is_multiple_of(3) { 4096 } else { 256 * 1024 },
        chunking: if seed.is_multiple_of(2) { Chunking::Random(1500) } else { Chunking::Whole },
        ..Link::default()
    });
    let key = SecretKey::from_seed(b"the relay");
    let config =
        RelayConfig { secret_key: key.clone(), limits: RelayLimits::default(), newcomers: None };
    let relay = Relay::new(config, 0, Arc::new(Cores::new(1)), Arc::new(Stats::default()));
    let node = world.net.add(relay);
    world.add_peer_server(node, key.public_key());
    world.add_client(|_| {});
    world.add_client(|_| {});
    world.connect_all();
    world
}

#[test]
fn data_goes_both_ways_at_once_and_halves_close_apart() {
    for seed in 0..24 {
        let mut world = world(seed);
        let (near, far) = world.pair(0, 1);
        let (mut near_read, mut near_write) = tokio::io::split(near);
        let (mut far_read, mut far_write) = tokio::io::split(far);
        let bytes = 300_000 + 1000 * seed as usize;
        let (up, down) = (vec![1; bytes], vec![2; bytes]);
        let (at_far, at_near) = world.wait(async {
            let send = join(
                async {
                    near_write.write_all(&up).await.unwrap();
                    near_write.shutdown().await.unwrap();
                },
                async {
                    far_write.write_all(&down).await.unwrap();
                    far_write.shutdown().await.unwrap();
                },
            );
            let (mut at_far, mut at_near) = (Vec::new(), Vec::new());
            let receive =
                join(far_read.read_to_end(&mut at_far), near_read.read_to_end(&mut at_near));
            let (_, (far, near)) = join(send, receive).await;
            far.unwrap();
            near.unwrap();
            (at_far, at_near)
        });
        assert!(at_far == up && at_near == down, "seed {seed}");
        world.pass(Duration::from_secs(1));
        assert_eq!((world.ports(0), world.held(0).1, world.held(1).1), (0, 0, 0), "seed {seed}");
    }
}

#[test]
fn a_connection_that_breaks_at_any_moment_leaves_no_port_and_comes_back() {
    for seed in 0..24 {
        let mut world = world(seed);
        let mut listener = world.listen(1, 80, 64);
        let to = world.addr(1, 80);
        let pending: Vec<_> = (0..8).map(|_| world.dial_via(0, to, &[0])).collect();
        let moment = world.net.rng().below(200);
        world.pass(Duration::from_millis(moment));
        let victim = world.clients[(seed % 2) as usize].node;
        let wire = world.net.wires(victim)[0];
        world.net.kill(wire);
        // Each dial ends, one way or the other, and so does each stream.
        for dial in pending {
            drop(world.finish(dial));
        }
        world.pass(Duration::from_secs(15));
        while futures_util::FutureExt::now_or_never(listener.accept()).is_some() {}
        world.pass(Duration::from_secs(15));
        assert_eq!((world.ports(0), world.held(0).0, world.held(0).1), (0, 0, 0), "seed {seed}");
        assert_eq!(world.clients[1].shared.permits.used_count(), 0, "seed {seed}");
        assert!(world.until(LONG, |world| world.sessions(0) == 1 && world.sessions(1) == 1));
        assert!(world.dial(0, to).is_ok(), "seed {seed}");
    }
}

#[test]
fn what_the_relay_cannot_deliver_is_refused_at_once() {
    let mut world = world(5);
    let nobody = SecretKey::from_seed(b"nobody").public_key();
    let to = dmsg_engine::wire::Addr { key: nobody, ..world.addr(0, 80) };
    let start = world.net.now();
    assert!(world.dial(0, to).is_err());
    assert!(world.net.now() - start < Duration::from_secs(1));
    assert_eq!((world.ports(0), world.sessions(0)), (0, 1));
}
