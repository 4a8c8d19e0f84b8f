//! Heartbeats and what is told of them.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use bytes::Bytes;
use dmsg_http::{
    service::ServiceKind,
    services::{
        ServiceError,
        records::Database,
        uptime_tracker::{Online, UptimeQuery, UptimeTracker, UptimeTrackerClient},
    },
};
use http::{Method, StatusCode};

use crate::support::*;

fn client(running: &Running, name: &str) -> UptimeTrackerClient {
    UptimeTrackerClient::new(running.transport(), secret(name), options())
}

async fn start() -> (Running, TestClock) {
    let clock = TestClock::new();
    let config = config(ServiceKind::UptimeTracker, &clock);
    let service = UptimeTracker::new(config, &Database::memory()).unwrap();
    (Running::start(Arc::new(service)).await, clock)
}

#[tokio::test]
async fn a_visor_is_up_for_six_minutes_after_its_heartbeat() {
    let (running, clock) = start().await;
    let a = client(&running, "a");
    assert_eq!(a.visor(key("a")).await.unwrap(), None);
    for _ in 0..12 {
        a.heartbeat("v1.3.29").await.unwrap();
        clock.advance(300);
    }
    client(&running, "b").heartbeat("v2").await.unwrap();
    let all = a.uptimes(&UptimeQuery::default()).await.unwrap();
    assert_eq!(all.len(), 2);
    let mine = UptimeQuery { visors: vec![key("a")], ..UptimeQuery::default() };
    let found = a.uptimes(&mine).await.unwrap();
    assert_eq!((found[0].key, found[0].on, found[0].version.as_str()), (key("a"), true, "v1.3.29"));
    // Twelve slots of an hour are all of it.
    assert_eq!(found[0].daily["2024-10-01"], "100.00");
    clock.advance(60);
    assert_eq!(a.visor(key("a")).await.unwrap(), Some(Online { key: key("a"), online: false }));
    let up = UptimeQuery { online: Some(true), ..UptimeQuery::default() };
    assert_eq!(a.online(&up).await.unwrap(), [Online { key: key("b"), online: true }]);
}

#[tokio::test]
async fn lists_are_limited_to_five_at_once_with_a_time_to_come_back() {
    let (running, _) = start().await;
    for _ in 0..5 {
        let answer = running.send(Method::GET, "/uptimes", &[], Bytes::new()).await;
        assert_eq!(answer.status(), StatusCode::OK);
    }
    let answer = running.send(Method::GET, "/visors", &[], Bytes::new()).await;
    is_flat_error(&answer, 429, "rate limit exceeded");
    assert_eq!(answer.headers()["retry-after"], "12");
    let error = client(&running, "a").online(&UptimeQuery::default()).await.unwrap_err();
    assert!(
        matches!(error, ServiceError::RateLimited { retry_after } if retry_after.as_secs() == 12)
    );
    // Heartbeats are not limited by it.
    client(&running, "a").heartbeat("v1").await.unwrap();
}

#[tokio::test]
async fn old_paths_are_gone_and_odd_dates_refused() {
    let (running, _) = start().await;
    for path in ["/update", "/v2/update", "/v3/update"] {
        let answer = running.send(Method::GET, path, &[], Bytes::new()).await;
        assert_eq!(answer.status(), StatusCode::GONE);
    }
    for query in ["startDate=x&endDate=1", "startDate=1", "startDate=1&endDate=99999999999999"] {
        let answer =
            running.send(Method::GET, &format!("/uptimes?{query}"), &[], Bytes::new()).await;
        is_flat_error(&answer, 400, "Unix seconds");
    }
    let path = format!("/uptime/{}", key("nobody"));
    is_flat_error(
        &running.send(Method::GET, &path, &[], Bytes::new()).await,
        500,
        "no entries for pk",
    );
    let page = running.send(Method::GET, "/dashboard?length=6", &[], Bytes::new()).await;
    assert_eq!(page.status(), StatusCode::OK);
}
