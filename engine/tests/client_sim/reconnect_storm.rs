//! A server that carries many clients is restarted: they come back spread over seconds, and all of them.

use std::{sync::Arc, time::Duration};

use dmsg_engine::{
    identity::SecretKey,
    relay::{Cores, Relay, RelayConfig, RelayLimits, SessionEnd, Stats},
};

use crate::world::World;

/// `DMSG_TEST_STORM=10000` for a large one.
fn clients() -> usize {
    std::env::var("DMSG_TEST_STORM").ok().and_then(|text| text.parse().ok()).unwrap_or(500)
}

/// Every client has an address of its own, so that the rate per address does not smooth what comes.
fn relay(world: &mut World, stats: &Arc<Stats>) -> dmsg_engine::driver::sim::NodeId {
    let secret_key = SecretKey::from_seed(b"the relay");
    let config = RelayConfig { secret_key, limits: RelayLimits::default(), newcomers: None };
    world.net.add(Relay::new(config, 0, Arc::new(Cores::new(1)), Arc::clone(stats)))
}

fn ready(world: &World) -> usize {
    (0..world.clients.len()).filter(|&client| world.sessions(client) > 0).count()
}

/// Lets time pass in steps of 100 ms until all have a session; how many came in each.
fn come_back(world: &mut World, limit: Duration) -> Vec<usize> {
    let (mut arrivals, mut before) = (Vec::new(), ready(world));
    let end = world.net.now() + limit;
    while before < world.clients.len() && world.net.now() < end {
        world.net.run_for(Duration::from_millis(100));
        let now = ready(world);
        arrivals.push(now - before);
        before = now;
    }
    assert_eq!(before, world.clients.len(), "not all are back: {arrivals:?}");
    arrivals
}

#[test]
fn the_clients_of_a_restarted_server_come_back_within_seconds_and_not_in_step() {
    let mut world = World::new(430);
    let count = clients();
    let first = Arc::new(Stats::default());
    let node = relay(&mut world, &first);
    world.add_peer_server(node, SecretKey::from_seed(b"the relay").public_key());
    for _ in 0..count {
        world.add_client(|_| {});
    }
    for client in 0..count {
        world.list_servers(client);
    }
    world.pass(Duration::from_millis(1));
    come_back(&mut world, Duration::from_secs(6));
    world.net.run_for(Duration::from_secs(40));

    for away in [Duration::from_secs(1), Duration::from_secs(20)] {
        let address = world.servers[0].address;
        world.net.crash(world.servers[0].node);
        world.net.unlisten(address);
        world.net.run_for(away);
        assert_eq!(ready(&world), 0);
        let stats = Arc::new(Stats::default());
        let node = relay(&mut world, &stats);
        world.net.listen_at(node, address);
        world.servers[0].node = node;
        let arrivals = come_back(&mut world, Duration::from_secs(6));
        let peak = arrivals.iter().copied().max().unwrap_or(0);
        println!(
            "away for {away:?}: back after {} ms, {peak} of {count} in the fullest 100 ms",
            100 * arrivals.len()
        );
        assert!(peak < count / 3, "they come in step: {arrivals:?}");
        if count <= 1000 {
            assert_eq!(stats.ended_count(SessionEnd::HandshakeShed), 0);
        }
        world.net.run_for(Duration::from_secs(40));
        assert_eq!(ready(&world), count, "and stay");
    }
}
