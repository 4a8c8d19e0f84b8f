//! Our clients against what deployed services do otherwise.
#![allow(clippy::unwrap_used)]

use std::{sync::Arc, time::Duration};

use dmsg_http::{
    service::ServiceKind,
    services::{
        CallOptions, ServiceError,
        host::Quirks,
        records::Database,
        service_discovery::{OfferAddr, Query, ServiceDiscovery, ServiceDiscoveryClient},
        transport_discovery::TransportDiscovery,
        uptime_tracker::{UptimeQuery, UptimeTracker, UptimeTrackerClient},
    },
};

use crate::{support::*, transport_discovery};

async fn registry(quirks: Quirks) -> Running {
    let mut config = config(ServiceKind::TransportDiscovery, &TestClock::new());
    config.quirks = quirks;
    Running::start(Arc::new(TransportDiscovery::new(config, &Database::memory()).unwrap())).await
}

#[tokio::test]
async fn a_nonce_that_only_200_uses_up() {
    let running = registry(Quirks { counts_only_200: true, ..Quirks::default() }).await;
    let a = transport_discovery::client(&running, "a");
    let link = transport_discovery::transport("a", "b", "stcpr");
    let start = running.nonce(key("a")).await;
    for _ in 0..3 {
        a.register(std::slice::from_ref(&link)).await.unwrap();
    }
    assert_eq!(running.nonce(key("a")).await, start, "201 does not count there");
    a.transports_of(key("a")).await.unwrap();
    a.transport(link.entry.id).await.unwrap();
    assert_eq!(running.nonce(key("a")).await, start + 2);
}

#[tokio::test]
async fn empty_lists_that_are_null() {
    let running = registry(Quirks { null_lists: true, ..Quirks::default() }).await;
    let a = transport_discovery::client(&running, "a");
    assert_eq!(a.all().await.unwrap(), []);
    assert_eq!(a.transports_of(key("a")).await.unwrap(), []);
}

#[tokio::test]
async fn a_nonce_endpoint_that_tells_a_wrong_number() {
    let running = registry(Quirks { wrong_nonce: true, ..Quirks::default() }).await;
    let a = transport_discovery::client(&running, "a");
    let refused = a.transports_of(key("a")).await.unwrap_err();
    assert!(matches!(refused, ServiceError::Unauthorised(_)), "{refused:?}");
    // Open calls are not touched by it.
    assert_eq!(a.all().await.unwrap(), []);
}

#[tokio::test]
async fn bodies_that_break_off() {
    let running = registry(Quirks { truncated_bodies: true, ..Quirks::default() }).await;
    let a = transport_discovery::client(&running, "a");
    let error = a.all().await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert!(a.register(&[transport_discovery::transport("a", "b", "dmsg")]).await.is_err());
}

#[tokio::test]
async fn answers_that_come_late() {
    let delay = Duration::from_millis(300);
    let running = registry(Quirks { delay: Some(delay), ..Quirks::default() }).await;
    let mut options = CallOptions::default();
    options.exchange_timeout = Duration::from_millis(50);
    let a = dmsg_http::services::transport_discovery::TransportDiscoveryClient::new(
        running.transport(),
        secret("a"),
        options,
    );
    let error = a.all().await.unwrap_err();
    assert!(matches!(error, ServiceError::Transport(_)) && error.is_transient(), "{error:?}");
    assert_eq!(transport_discovery::client(&running, "b").all().await.unwrap(), []);
}

#[tokio::test]
async fn a_429_in_plain_text() {
    let mut config = config(ServiceKind::UptimeTracker, &TestClock::new());
    config.quirks.plain_429 = true;
    let service = UptimeTracker::new(config, &Database::memory()).unwrap();
    let running = Running::start(Arc::new(service)).await;
    let a = UptimeTrackerClient::new(running.transport(), secret("a"), options());
    for _ in 0..5 {
        a.online(&UptimeQuery::default()).await.unwrap();
    }
    let error = a.online(&UptimeQuery::default()).await.unwrap_err();
    assert_eq!(error, ServiceError::RateLimited { retry_after: Duration::from_secs(12) });
}

#[tokio::test]
async fn what_is_not_there_as_a_500() {
    let mut config = config(ServiceKind::ServiceDiscovery, &TestClock::new());
    config.quirks = Quirks { go_statuses: true, null_lists: true, ..Quirks::default() };
    let service = ServiceDiscovery::new(config, &Database::memory()).unwrap();
    let running = Running::start(Arc::new(service)).await;
    let a = ServiceDiscoveryClient::new(running.transport(), secret("a"), options());
    let nobody = OfferAddr { key: key("nobody"), port: 1 };
    assert_eq!(a.offer(nobody, "vpn").await.unwrap(), None);
    assert_eq!(a.list(&Query::of("vpn")).await.unwrap(), []);
}
