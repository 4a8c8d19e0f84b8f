//! What a service was told survives its end; what was signed before does not count again.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use dmsg_http::{
    service::ServiceKind,
    services::{
        records::Database,
        transport_discovery::TransportDiscovery,
        uptime_tracker::{UptimeTracker, UptimeTrackerClient},
    },
};
use http::Method;

use crate::{support::*, transport_discovery};

#[tokio::test]
async fn registrations_survive_and_old_signatures_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tpd.redb");
    let clock = TestClock::new();
    let start = async || {
        let config = config(ServiceKind::TransportDiscovery, &clock);
        let service = TransportDiscovery::new(config, &Database::open(&path).unwrap()).unwrap();
        Running::start(Arc::new(service)).await
    };
    let link = transport_discovery::transport("a", "b", "stcpr");
    let body = serde_json::to_vec(&[&link]).unwrap();
    let headers;
    {
        let running = start().await;
        headers = signed(&secret("a"), &body, running.nonce(key("a")).await);
        let answer = running.send(Method::POST, "/transports/", &headers, body.clone()).await;
        assert_eq!(answer.status().as_u16(), 201);
        let again = running.send(Method::POST, "/transports/", &headers, body.clone()).await;
        is_nested_error(&again, 401, "SW-Nonce does not match");
    }
    clock.advance(1);
    // The file is free as soon as the last request's task is gone.
    while Database::open(&path).is_err() {
        tokio::task::yield_now().await;
    }
    let running = start().await;
    let replayed = running.send(Method::POST, "/transports/", &headers, body).await;
    is_nested_error(&replayed, 401, "SW-Nonce does not match");
    let a = transport_discovery::client(&running, "a");
    assert_eq!(a.all().await.unwrap(), std::slice::from_ref(&link.entry));
}

#[tokio::test]
async fn a_client_that_outlives_the_service_goes_on_with_the_next_one() {
    let clock = TestClock::new();
    let service = |clock: &TestClock| {
        let config = config(ServiceKind::UptimeTracker, clock);
        Arc::new(UptimeTracker::new(config, &Database::memory()).unwrap())
    };
    let first = Running::start(service(&clock)).await;
    let address = first.base.trim_start_matches("http://").to_owned();
    let client = UptimeTrackerClient::new(first.transport(), secret("a"), options());
    client.heartbeat("v1").await.unwrap();
    drop(first);
    clock.advance(60);
    // The same address, another process: numbers begin anew.
    let listener = loop {
        match tokio::net::TcpListener::bind(&address).await {
            Ok(listener) => break listener,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let router = dmsg_http::services::host::router(service(&clock));
    let served = dmsg_http::http::server::serve(
        listener,
        router,
        dmsg_http::http::server::ServeConfig::default(),
        Arc::default(),
        std::future::pending(),
    );
    let task = tokio::spawn(served);
    client.heartbeat("v1").await.unwrap();
    client.heartbeat("v1").await.unwrap();
    task.abort();
}
