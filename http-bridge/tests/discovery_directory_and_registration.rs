//! What the engine's client and a relay use: the directory and the registration, against a real discovery.
#![allow(clippy::unwrap_used)]

mod discovery_common;

use std::{sync::Arc, time::Duration};

use discovery_common::{Discovery, client_of, key, secret};
use dmsg_engine::client::{Directory, DirectoryError, ServerRecord};
use dmsg_http::discovery::{
    ClientError, HttpDirectory, ServerRegistration,
    client::{DirectoryOptions, RegistrationConfig, RegistrationStatus},
    system_clock,
};
use dmsg_http::resolve::{Resolver, ServerChoice, StaticMap};
use tokio::sync::watch;

fn directory(discovery: &Discovery, name: &str, options: DirectoryOptions) -> HttpDirectory {
    HttpDirectory::new(Arc::new(discovery.client()), secret(name), options)
}

#[tokio::test]
async fn servers_are_those_with_room_or_all_as_configured() {
    let discovery = Discovery::start(|_| {}).await;
    let some = directory(&discovery, "c", DirectoryOptions::default());
    assert_eq!(some.servers().await.unwrap(), []);
    discovery.put(discovery.server_entry("roomy", 7), "roomy").await;
    discovery.put(discovery.server_entry("full", 0), "full").await;
    let servers = some.servers().await.unwrap();
    assert_eq!(servers.len(), 1);
    assert_eq!((servers[0].key, servers[0].available_sessions), (key("roomy"), 7));
    assert_eq!(servers[0].address, "203.0.113.5:8080");
    let options = DirectoryOptions { all_servers: true, ..Default::default() };
    let all = directory(&discovery, "c", options).servers().await.unwrap();
    let full = all.iter().find(|server| server.key == key("full")).unwrap();
    assert_eq!((all.len(), full.available_sessions), (2, 1));
}

#[tokio::test]
async fn what_one_client_publishes_another_resolves() {
    let discovery = Discovery::start(|_| {}).await;
    for name in ["s", "t"] {
        discovery.put(discovery.server_entry(name, 1), name).await;
    }
    let options = DirectoryOptions { client_type: "visor".into(), ..Default::default() };
    let peer = directory(&discovery, "peer", options);
    peer.publish(vec![key("t"), key("gone"), key("s")]).await.unwrap();
    let stored = discovery.stored("peer").await.unwrap();
    assert_eq!(stored.entry().client_type, "visor");
    assert_eq!(stored.entry().version, "0.0.1");
    stored.verify().unwrap();

    let us = directory(&discovery, "us", DirectoryOptions::default());
    let found = us.resolve(key("peer")).await.unwrap();
    assert_eq!(found.iter().map(|s| s.key).collect::<Vec<_>>(), [key("t"), key("s")]);
    // A server that joins after the list was fetched is looked up by itself.
    discovery.put(discovery.server_entry("gone", 1), "gone").await;
    assert_eq!(us.resolve(key("peer")).await.unwrap().len(), 3);

    peer.publish(Vec::new()).await.unwrap();
    assert!(us.resolve(key("peer")).await.unwrap().is_empty());
    peer.withdraw().await.unwrap();
    let gone = us.resolve(key("peer")).await.unwrap_err();
    assert!(matches!(gone, DirectoryError::NotFound(who) if who == key("peer")), "{gone}");
    assert!(discovery.stored("peer").await.is_none());
}

/// A relay takes clients before its registration has arrived; who knows it otherwise finds them behind it.
#[tokio::test]
async fn a_server_that_is_not_listed_yet_is_taken_from_what_we_know_ourselves() {
    let discovery = Discovery::start(|_| {}).await;
    directory(&discovery, "peer", DirectoryOptions::default())
        .publish(vec![key("new"), key("unknown")])
        .await
        .unwrap();
    let ours =
        ServerRecord { key: key("new"), address: "127.0.0.1:1".to_owned(), available_sessions: 1 };
    let map = Arc::new(StaticMap::new(vec![ours.clone()]));
    let us = directory(&discovery, "us", DirectoryOptions::default());
    let resolver = Resolver::layered(map, us, ServerChoice::Configured, false);
    assert_eq!(resolver.resolve(key("peer")).await.unwrap(), [ours]);
    // What the discovery says of it counts more.
    discovery.put(discovery.server_entry("new", 1), "new").await;
    let found = resolver.resolve(key("peer")).await.unwrap();
    assert_eq!((found.len(), &*found[0].address), (1, "203.0.113.5:8080"));
}

#[tokio::test]
async fn an_unreachable_discovery_is_unavailable_not_empty() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = Arc::new(client_of(&base, system_clock()));
    let directory = HttpDirectory::new(client, secret("c"), DirectoryOptions::default());
    for error in [
        directory.servers().await.unwrap_err(),
        directory.resolve(key("p")).await.unwrap_err(),
        directory.publish(Vec::new()).await.unwrap_err(),
        directory.withdraw().await.unwrap_err(),
    ] {
        assert!(matches!(error, DirectoryError::Unavailable(_)), "{error}");
    }
}

fn quick(name: &str) -> RegistrationConfig {
    RegistrationConfig {
        interval: Duration::from_millis(300),
        coalesce: Duration::from_millis(50),
        ..RegistrationConfig::new(secret(name), "203.0.113.9:8080")
    }
}

async fn until(
    status: &mut watch::Receiver<RegistrationStatus>,
    wanted: impl FnMut(&RegistrationStatus) -> bool,
) -> RegistrationStatus {
    let wait = status.wait_for(wanted);
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap().unwrap().clone()
}

async fn sessions(discovery: &Discovery) -> Option<(i64, u64)> {
    let raw = discovery.stored("s").await?;
    Some((raw.entry().server.as_ref()?.available_sessions, raw.entry().sequence))
}

#[tokio::test]
async fn a_server_is_listed_follows_its_capacity_and_leaves_when_it_closes() {
    let discovery = Discovery::start(|_| {}).await;
    let config = RegistrationConfig { interval: Duration::from_secs(60), ..quick("s") };
    let registration = ServerRegistration::start(Arc::new(discovery.client()), config, 10);
    let mut status = registration.status();
    until(&mut status, |s| *s == RegistrationStatus::Registered { available_sessions: 10 }).await;
    assert_eq!(sessions(&discovery).await, Some((10, 0)));
    // Many changes at once become one update.
    for left in (0..10).rev() {
        registration.set_available_sessions(left);
    }
    until(&mut status, |s| *s == RegistrationStatus::Registered { available_sessions: 0 }).await;
    assert_eq!(sessions(&discovery).await, Some((0, 1)));
    registration.close().await;
    assert_eq!(sessions(&discovery).await, None);
}

#[tokio::test]
async fn a_server_refreshes_before_its_entry_expires() {
    let discovery = Discovery::start(|_| {}).await;
    let registration = ServerRegistration::start(Arc::new(discovery.client()), quick("s"), 1);
    let mut status = registration.status();
    for refreshes in 0..3 {
        status.changed().await.unwrap();
        let (_, sequence) = sessions(&discovery).await.unwrap();
        assert!(sequence >= refreshes, "{sequence} after {refreshes} refreshes");
    }
    drop(registration);
}

#[tokio::test]
async fn a_passphrase_is_sent_each_time_and_never_served() {
    let discovery = Discovery::start(|config| {
        config.passphrase = dmsg_http::discovery::service::Passphrase::new("sesame");
    })
    .await;
    let config = RegistrationConfig { server_type: "sesame".into(), ..quick("s") };
    let registration = ServerRegistration::start(Arc::new(discovery.client()), config, 1);
    let mut status = registration.status();
    for _ in 0..2 {
        status.changed().await.unwrap();
        let raw = discovery.stored("s").await.unwrap();
        assert_eq!(raw.entry().server.as_ref().unwrap().server_type, "official");
    }
    registration.close().await;
    assert!(discovery.stored("s").await.is_none());
}

#[tokio::test]
async fn a_failing_discovery_is_reported_and_tried_again() {
    let discovery = Discovery::start(|_| {}).await;
    // A loopback address is refused outside of test mode.
    let config = RegistrationConfig { address: "127.0.0.1:1".into(), ..quick("s") };
    let registration = ServerRegistration::start(Arc::new(discovery.client()), config, 1);
    let mut status = registration.status();
    let failing = |wanted| move |s: &RegistrationStatus| matches!(s, RegistrationStatus::Failing { failures, .. } if *failures >= wanted);
    let first = until(&mut status, failing(1)).await;
    let RegistrationStatus::Failing { error: ClientError::Refused(error), .. } = first else {
        panic!("{first:?}")
    };
    assert_eq!(error.label(), "loopback_address");
    until(&mut status, failing(2)).await;
    registration.close().await;
}
