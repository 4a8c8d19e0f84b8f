//! How long entries stay (`discovery.md §4.3`), by a clock the test turns, and over a restart.
#![allow(clippy::unwrap_used)]

mod discovery_common;

use std::{sync::Arc, time::Instant};

use discovery_common::{Discovery, START, key, signed, sorted_keys};
use dmsg_http::discovery::{
    Entry, UnixNanos,
    store::{RedbStore, StoreLimits},
};
use http::{Method, StatusCode};

#[tokio::test]
async fn servers_stay_two_minutes_clients_an_hour_and_old_clients_three_minutes() {
    let discovery = Discovery::start(|_| {}).await;
    discovery.put(discovery.server_entry("s", 1), "s").await;
    discovery.put(discovery.client_entry("c", &[]), "c").await;
    let old = signed(discovery.client_entry("old", &[]), "old");
    let path = "/dmsg-discovery/entry/?timeout=true";
    discovery.request(Method::POST, path, old).await.is(200, "wrote a new entry");
    for (until, name) in [(120, "s"), (180, "old"), (3600, "c")] {
        let elapsed = (discovery.clock.now() - START) / 1_000_000_000;
        discovery.clock.advance(until - elapsed - 1);
        assert!(discovery.stored(name).await.is_some(), "{name} is gone too early");
        discovery.clock.advance(1);
        assert!(discovery.stored(name).await.is_none(), "{name} is still there");
    }
    discovery.service.maintain(Instant::now());
    let text = discovery.service.metrics_text();
    assert!(text.contains("dmsg_discovery_expired_total 3\n"), "{text}");
    assert!(text.contains("dmsg_discovery_entries{kind=\"all\"} 0\n"), "{text}");
}

#[tokio::test]
async fn expired_entries_leave_the_lists_before_they_are_removed() {
    let discovery = Discovery::start(|_| {}).await;
    discovery.put(discovery.server_entry("s", 1), "s").await;
    discovery.put(discovery.client_entry("c", &["s"]), "c").await;
    assert_eq!(discovery.get("/dmsg-discovery/entries").await.keys(), sorted_keys(&["c"]));
    discovery.clock.advance(120);
    assert_eq!(discovery.get("/dmsg-discovery/all_servers").await.status, StatusCode::NOT_FOUND);
    discovery.clock.advance(3480);
    assert_eq!(discovery.get("/dmsg-discovery/entries").await.body, "[]");
    let path = format!("/dmsg-discovery/server/{}/clients", key("s"));
    assert_eq!(discovery.get(&path).await.body, "[]");
}

#[tokio::test]
async fn a_refresh_starts_the_time_anew_and_a_client_may_stay_for_ever() {
    let discovery = Discovery::start(|config| config.client_ttl = None).await;
    discovery.put(discovery.client_entry("c", &[]), "c").await;
    discovery.put(discovery.server_entry("s", 1), "s").await;
    for sequence in 1..5 {
        discovery.clock.advance(100);
        discovery.put(Entry { sequence, ..discovery.server_entry("s", 1) }, "s").await;
    }
    discovery.clock.advance(100 * 365 * 86_400);
    assert!(discovery.stored("c").await.is_some());
    assert!(discovery.stored("s").await.is_none());
}

#[tokio::test]
async fn after_a_restart_entries_are_there_and_keep_their_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("entries");
    let open = |now: i64| {
        Arc::new(RedbStore::open(&path, StoreLimits::default(), UnixNanos(now)).unwrap())
    };
    let (client, server) = {
        let discovery = Discovery::start_with(open(START), |config| {
            config.official_servers = vec![key("s")];
        })
        .await;
        let client = discovery.put(discovery.client_entry("c", &["s"]), "c").await;
        discovery.put(discovery.server_entry("s", 7), "s").await;
        (client, discovery.stored("s").await.unwrap())
    };
    // The tasks that held the first store may end a moment after they are aborted.
    let store = loop {
        match RedbStore::open(&path, StoreLimits::default(), UnixNanos(START)) {
            Ok(store) => break Arc::new(store),
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let discovery = Discovery::start_with(store, |_| {}).await;
    discovery.clock.advance(119);
    assert_eq!(discovery.stored("c").await.unwrap().text(), client);
    assert_eq!(discovery.stored("s").await.unwrap(), server);
    discovery.post(client).await.is(
        422,
        "entry validation error: sequence field of new entry is not sequence of old entry + 1",
    );
    discovery.clock.advance(1);
    assert!(discovery.stored("s").await.is_none());
    discovery.clock.advance(3479);
    assert!(discovery.stored("c").await.is_some());
    discovery.clock.advance(1);
    assert!(discovery.stored("c").await.is_none());
}
