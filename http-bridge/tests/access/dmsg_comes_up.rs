//! Start-up: the first requests go over HTTP, and move to DMSG by themselves.

use std::time::Duration;

use dmsg_http::access::{Path, Readiness};
use tokio::time::{Instant, sleep};

use crate::scripted::{Act, World, ready};

#[tokio::test(start_paused = true)]
async fn requests_begin_on_http_and_move_to_dmsg() {
    let world = World::new();
    world.readiness.send_replace(Readiness::Starting);
    let begun = Instant::now();
    assert_eq!(world.get().await, Ok(Path::Http));
    assert_eq!(begun.elapsed(), Duration::ZERO, "nobody waits for DMSG");
    world.readiness.send_replace(Readiness::Retrying { reason: "refused".into() });
    assert_eq!(world.get().await, Ok(Path::Http));
    world.readiness.send_replace(ready());
    assert_eq!(world.get().await, Ok(Path::Dmsg));
    world.readiness.send_replace(Readiness::Retrying { reason: "closed".into() });
    assert_eq!(world.get().await, Ok(Path::Http));
    assert_eq!(world.counts(), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn a_request_in_the_air_when_the_servers_vanish_finishes_over_http() {
    let world = World::new();
    world.dmsg.set(Act::Hang);
    let begun = Instant::now();
    let (outcome, ()) = tokio::join!(world.get(), async {
        sleep(Duration::from_millis(100)).await;
        world.readiness.send_replace(Readiness::Retrying { reason: "closed".into() });
    });
    assert_eq!(outcome, Ok(Path::Http));
    assert_eq!(begun.elapsed(), Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn without_http_a_request_waits_for_dmsg_when_http_is_dead_too() {
    let world = World::new();
    world.readiness.send_replace(Readiness::Starting);
    world.http.set(Act::RefuseConnection);
    let (outcome, ()) = tokio::join!(world.get(), async {
        sleep(Duration::from_secs(2)).await;
        world.readiness.send_replace(ready());
    });
    assert_eq!(outcome, Ok(Path::Dmsg));
}

#[tokio::test(start_paused = true)]
async fn a_slow_dmsg_leaves_half_of_the_time_for_http() {
    let world = World::new();
    world.dmsg.set(Act::Hang);
    let begun = Instant::now();
    assert_eq!(world.get().await, Ok(Path::Http));
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
}
