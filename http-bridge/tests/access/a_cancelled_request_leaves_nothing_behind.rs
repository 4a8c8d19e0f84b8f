//! Dropping a request's future ends its exchange, and a trial's place is given back.

use std::time::Duration;

use dmsg_http::access::{BreakerState, Path};
use http::StatusCode;
use tokio::time::{sleep, timeout};

use crate::scripted::{Act, World};

#[tokio::test(start_paused = true)]
async fn a_cancelled_trial_does_not_block_the_path() {
    let world = World::new();
    world.dmsg.set(Act::RefuseConnection);
    for _ in 0..3 {
        world.get().await.unwrap();
    }
    sleep(Duration::from_secs(7)).await;
    world.dmsg.set(Act::Hang);
    assert!(timeout(Duration::from_secs(1), world.get()).await.is_err());
    assert_eq!(world.dmsg.under_way(), 0);
    assert_eq!(world.access.status().paths[0].breaker, BreakerState::HalfOpen { trying: false });
    world.dmsg.set(Act::Answer(StatusCode::OK));
    assert_eq!(world.get().await, Ok(Path::Dmsg));
}
