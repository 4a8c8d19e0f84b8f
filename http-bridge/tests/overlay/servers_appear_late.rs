//! Start-up without any DMSG server: service over HTTP within a second, and over DMSG within five of their appearance.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{Router, routing::get};
use dmsg_http::{
    access::{Path, Readiness},
    discovery::Entry,
    overlay::{Overlay, OverlayConfig},
    service::Endpoints,
};
use http::Method;
use tokio::net::TcpListener;

use crate::world::{PATIENCE, Service, free_address, key, path_of, record, relay, send};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_begin_over_http_and_move_to_dmsg_without_a_restart() {
    let address = free_address().await;
    let servers = vec![record("late relay", address)];
    let service = Service::start("late service", servers.clone()).await;

    let begun = Instant::now();
    let config = OverlayConfig::direct(key("late caller"), servers);
    let overlay = Overlay::start(config).unwrap();
    let access = service.access(&overlay);
    let answer = send(&access, Method::GET, "/x").await.unwrap();
    assert_eq!(path_of(&answer), Path::Http);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());

    // Nobody is there, and that is no reason to give up: each try is told.
    let mut readiness = overlay.readiness();
    let retrying = |now: &Readiness| matches!(now, Readiness::Retrying { .. });
    readiness.wait_for(retrying).await.unwrap();

    let relay = relay("late relay", address);
    let appeared = Instant::now();
    loop {
        let answer = send(&access, Method::GET, "/x").await.unwrap();
        if path_of(&answer) == Path::Dmsg {
            break;
        }
        assert!(appeared.elapsed() < Duration::from_secs(5), "{:?}", access.status());
        tokio::task::yield_now().await;
    }
    println!("on DMSG {:?} after the server appeared", appeared.elapsed());
    drop(relay);
}

/// A client that was alone for long is still back within five seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wait_between_tries_stays_short_while_there_is_no_session() {
    let address = free_address().await;
    let config = OverlayConfig::direct(key("patient"), vec![record("nobody", address)]);
    let overlay = Overlay::start(config).unwrap();
    let client = overlay.client().unwrap();
    // Eight failures would be 30 s apart by now.
    let mut status = client.status();
    let begun = Instant::now();
    let failures = || client.stats().sessions_ended.get("connect_failed").copied().unwrap_or(0);
    while failures() < 6 {
        assert!(begun.elapsed() < Duration::from_secs(24), "{:?}", client.stats());
        let _ = tokio::time::timeout(Duration::from_millis(100), status.changed()).await;
    }
}

/// What a configuration lists may be dead for good, and what its discovery lists too, until somebody registers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_only_the_discovery_knows_is_found_in_time_too() {
    let entry = |name: &str, address: &str| {
        let mut entry = Entry::server(key(name).public_key(), address, 10);
        entry.sign(&key(name));
        format!("[{}]", entry.to_text())
    };
    let dead = free_address().await;
    let list = Arc::new(Mutex::new(entry("dead", &dead.to_string())));
    let listed = Arc::clone(&list);
    let answer = get(async move || listed.lock().unwrap().clone());
    let router = Router::new().route("/dmsg-discovery/available_servers", answer);
    let discovery = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let http = format!("http://{}", discovery.local_addr().unwrap()).parse().unwrap();
    let served = tokio::spawn(async { axum::serve(discovery, router).await });

    let endpoints = Endpoints { http: Some(http), dmsg: None };
    let config = OverlayConfig::deployed(key("stale"), vec![record("dead", dead)], endpoints);
    let overlay = Overlay::start(config.hidden()).unwrap();
    let mut readiness = overlay.readiness();
    let retrying = |now: &Readiness| matches!(now, Readiness::Retrying { .. });
    readiness.wait_for(retrying).await.unwrap();

    let address = free_address().await;
    let relay = relay("new", address);
    *list.lock().unwrap() = entry("new", &address.to_string());
    let appeared = Instant::now();
    tokio::time::timeout(PATIENCE, readiness.wait_for(Readiness::is_ready)).await.unwrap().unwrap();
    println!("on DMSG {:?} after the server registered", appeared.elapsed());
    assert!(appeared.elapsed() < Duration::from_secs(6), "{:?}", appeared.elapsed());
    drop(relay);
    served.abort();
}
