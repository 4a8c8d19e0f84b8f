//! A path that fails is left alone for a while, and comes back in three ways.

use std::time::Duration;

use dmsg_http::access::{AccessConfig, AccessPolicy, Path, Readiness};
use http::{Method, StatusCode};
use tokio::{task::yield_now, time::sleep};

use crate::scripted::{Act, World, both, ready};

/// Three failures of DMSG, each answered by HTTP.
async fn with_open_breaker(config: AccessConfig) -> World {
    let world = World::with(both(), config);
    world.dmsg.set(Act::RefuseConnection);
    for _ in 0..3 {
        assert_eq!(world.get().await, Ok(Path::Http));
    }
    assert_eq!(world.counts(), (3, 3));
    assert_eq!(world.get().await, Ok(Path::Http));
    assert_eq!(world.counts(), (3, 4), "the fourth request leaves DMSG alone");
    world
}

#[tokio::test(start_paused = true)]
async fn a_trial_brings_it_back_and_only_a_repeatable_one() {
    let world = with_open_breaker(AccessConfig::default()).await;
    sleep(Duration::from_millis(6001)).await;
    world.dmsg.set(Act::Answer(StatusCode::OK));
    assert_eq!(world.call(Method::POST).await, Ok(Path::Http), "no test for a doubtful path");
    assert_eq!(world.get().await, Ok(Path::Dmsg));
    assert_eq!(world.call(Method::POST).await, Ok(Path::Dmsg));
}

#[tokio::test(start_paused = true)]
async fn a_failed_trial_doubles_the_time() {
    let world = with_open_breaker(AccessConfig::default()).await;
    sleep(Duration::from_millis(6001)).await;
    assert_eq!(world.get().await, Ok(Path::Http));
    assert_eq!(world.dmsg.count(), 4, "one trial");
    sleep(Duration::from_millis(7900)).await;
    world.get().await.unwrap();
    assert_eq!(world.dmsg.count(), 4, "at least 8 s");
    sleep(Duration::from_millis(4200)).await;
    world.get().await.unwrap();
    assert_eq!(world.dmsg.count(), 5, "at most 12 s");
}

#[tokio::test(start_paused = true)]
async fn a_probe_brings_it_back_without_a_request() {
    let config = AccessConfig { probe_interval: Duration::from_secs(3), ..AccessConfig::default() };
    let world = with_open_breaker(config).await;
    world.dmsg.set(Act::Answer(StatusCode::NOT_FOUND));
    sleep(Duration::from_secs(4)).await;
    assert!(world.dmsg.seen().last().unwrap().ends_with("/health"));
    assert_eq!(world.call(Method::POST).await, Ok(Path::Dmsg));
}

#[tokio::test(start_paused = true)]
async fn dmsg_that_becomes_ready_is_forgiven_what_was_before() {
    let world = with_open_breaker(AccessConfig::default()).await;
    world.readiness.send_replace(Readiness::Retrying { reason: "closed".into() });
    yield_now().await;
    world.dmsg.set(Act::Answer(StatusCode::OK));
    world.readiness.send_replace(ready());
    yield_now().await;
    assert_eq!(world.call(Method::POST).await, Ok(Path::Dmsg));
}

#[tokio::test(start_paused = true)]
async fn without_another_path_the_error_tells_the_last_failure() {
    let world = World::with_policy(AccessPolicy::HttpOnly);
    world.http.set(Act::RefuseConnection);
    for _ in 0..3 {
        world.get().await.unwrap_err();
    }
    let error = world.get().await.unwrap_err();
    assert!(error.contains("not tried, since the last requests failed (no connection"), "{error}");
    assert_eq!(world.http.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn statuses_below_500_are_no_failures_and_gateway_errors_are() {
    for (status, reaches_dmsg) in [(404, 5), (429, 5), (500, 5), (503, 5), (502, 3), (504, 3)] {
        let world = World::new();
        world.dmsg.set(Act::Answer(StatusCode::from_u16(status).unwrap()));
        for _ in 0..5 {
            world.get().await.unwrap();
        }
        assert_eq!(world.dmsg.count(), reaches_dmsg, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn failures_right_after_dmsg_became_ready_do_not_count() {
    let world = World::new();
    world.readiness.send_replace(Readiness::Starting);
    yield_now().await;
    world.readiness.send_replace(ready());
    yield_now().await;
    // The service has not found its server yet.
    world.dmsg.set(Act::RefuseConnection);
    for _ in 0..10 {
        assert_eq!(world.get().await, Ok(Path::Http));
    }
    assert_eq!(world.dmsg.count(), 10);
    world.dmsg.set(Act::Answer(StatusCode::OK));
    assert_eq!(world.get().await, Ok(Path::Dmsg));
    // Later they do.
    sleep(Duration::from_secs(5)).await;
    world.dmsg.set(Act::RefuseConnection);
    for _ in 0..10 {
        world.get().await.unwrap();
    }
    assert_eq!(world.dmsg.count(), 14);
}
