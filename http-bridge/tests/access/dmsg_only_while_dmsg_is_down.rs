//! A deployment without HTTP addresses: a clear error while DMSG is down, and answers when it is up.

use std::time::Duration;

use dmsg_http::{
    access::{AccessConfig, Path, Readiness},
    service::Endpoints,
};
use tokio::time::{Instant, sleep};

use crate::scripted::{World, both, ready};

fn dmsg_only() -> World {
    World::with(Endpoints { http: None, ..both() }, AccessConfig::default())
}

#[tokio::test(start_paused = true)]
async fn the_error_names_the_service_and_the_cause() {
    let world = dmsg_only();
    world.readiness.send_replace(Readiness::Retrying { reason: "connection refused".into() });
    let begun = Instant::now();
    let error = world.get().await.unwrap_err();
    assert_eq!(
        error,
        "transport-discovery did not answer: over DMSG: DMSG is without a session, trying \
         again: connection refused; over HTTP: the deployment names no HTTP address for it"
    );
    assert_eq!(begun.elapsed(), Duration::from_secs(5), "it waits for a while, within its time");
    assert_eq!(world.counts(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_become_ready_is_an_error_at_once() {
    let world = dmsg_only();
    world.readiness.send_replace(Readiness::Failed { reason: "the key is in use".into() });
    let begun = Instant::now();
    let error = world.get().await.unwrap_err();
    assert!(error.contains("DMSG is not available: the key is in use"), "{error}");
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_request_during_the_start_waits_and_is_answered() {
    let world = dmsg_only();
    world.readiness.send_replace(Readiness::Starting);
    let (outcome, ()) = tokio::join!(world.get(), async {
        sleep(Duration::from_secs(1)).await;
        world.readiness.send_replace(ready());
    });
    assert_eq!(outcome, Ok(Path::Dmsg));
}

#[tokio::test(start_paused = true)]
async fn a_service_without_any_address_says_so() {
    let world = World::with(Endpoints::default(), AccessConfig::default());
    assert!(!world.access.has_address());
    let error = world.get().await.unwrap_err();
    assert!(error.contains("over DMSG: the deployment names no DMSG address for it"), "{error}");
}
