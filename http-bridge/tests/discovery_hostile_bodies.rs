//! Bodies that are huge, deep, doubled, of wrong types or no text at all: a typed refusal each, and the
//! discovery goes on.
#![allow(clippy::unwrap_used)]

mod discovery_common;

use bytes::Bytes;
use discovery_common::{Discovery, key, signed};
use dmsg_http::discovery::{
    BATCH_BYTES_MAX, DiscoveryConfig, DiscoveryService, ENTRY_BYTES_MAX, Entry, router,
    store::{MemoryStore, StoreLimits},
};
use http::{Method, Request, StatusCode};
use tower::ServiceExt;

const UNEXPECTED: &str = "something unexpected happened";

#[tokio::test]
async fn a_body_that_is_no_entry_is_refused() {
    let discovery = Discovery::start(|_| {}).await;
    let good = signed(discovery.client_entry("c", &["s"]), "c");
    let off_curve = format!("02{}05", "0".repeat(62));
    let bodies: Vec<Bytes> = vec![
        Bytes::new(),
        Bytes::from_static(b"null"),
        Bytes::from_static(b"[]"),
        Bytes::from_static(b"\xff\xfe"),
        Bytes::from_static(b"{\"version\":\"\xc3\x28\"}"),
        good[..good.len() - 1].to_owned().into(),
        format!("{good}{good}").into(),
        "{".repeat(60_000).into(),
        "[".repeat(60_000).into(),
        good.replacen('{', &format!("{{\"x\":{}{},", "[".repeat(30_000), "]".repeat(30_000)), 1)
            .into(),
        good.replacen("\"sequence\":0", "\"sequence\":1.0", 1).into(),
        good.replacen("\"sequence\":0", "\"sequence\":\"0\"", 1).into(),
        good.replacen("\"sequence\":0", "\"sequence\":1e400", 1).into(),
        good.replacen("\"version\":\"0.0.1\"", "\"version\":{}", 1).into(),
        good.replacen(&key("s").to_string(), &off_curve, 1).into(),
        good.replacen(&key("c").to_string(), "03af", 1).into(),
    ];
    for body in bodies {
        let shown = format!("{:.60}", String::from_utf8_lossy(&body));
        println!("{shown}");
        discovery.post(body.clone()).await.is(500, UNEXPECTED);
        discovery.delete(body).await.is(500, UNEXPECTED);
    }
    discovery.post(good).await.is(200, "wrote a new entry");
}

#[tokio::test]
async fn a_body_above_its_limit_is_refused_before_it_is_read() {
    let discovery = Discovery::start(|_| {}).await;
    let entry = "x".repeat(ENTRY_BYTES_MAX + 1);
    let keys = "x".repeat(BATCH_BYTES_MAX + 1);
    discovery.post(entry.clone()).await.is(413, "request body is too large");
    discovery.delete(entry).await.is(413, "request body is too large");
    let batch = "/dmsg-discovery/entries/batch";
    discovery.request(Method::POST, batch, keys).await.is(413, "request body is too large");
    // At the limit it is read, and found to be no entry.
    discovery.post("x".repeat(ENTRY_BYTES_MAX)).await.is(500, UNEXPECTED);
}

#[tokio::test]
async fn of_doubled_members_the_last_counts_and_only_signed_members_are_served() {
    let discovery = Discovery::start(|_| {}).await;
    let good = signed(discovery.client_entry("c", &["s"]), "c");
    let doubled = good.replacen('{', r#"{"client":{"delegated_servers":[]},"note":1,"#, 1);
    discovery.post(doubled).await.is(200, "wrote a new entry");
    assert_eq!(discovery.stored("c").await.unwrap().text(), good);

    let next = Entry { sequence: 1, ..discovery.client_entry("c", &["s"]) };
    let good = signed(next, "c");
    let doubled = good.replacen("\"client\":", r#""client":{"delegated_servers":[]},"CLIENT":"#, 1);
    discovery.post(doubled).await.is(200, "wrote new entry iteration");
    let evil = good[..good.len() - 1].to_owned() + r#","sequence":9}"#;
    discovery.post(evil).await.is(401, "invalid signature");
    assert_eq!(discovery.stored("c").await.unwrap().text(), good);
}

#[tokio::test]
async fn bad_paths_methods_and_keys_are_answered_in_json() {
    let discovery = Discovery::start(|_| {}).await;
    for bad in
        ["xyz", "02", "%ff", "03af6d996f86b9bd3b0e0af7945176f63114a85e63fdf2cca4e945e1afa2fdb1880"]
    {
        discovery.get(&format!("/dmsg-discovery/entry/{bad}")).await.is(400, "error bad input");
        let path = format!("/dmsg-discovery/server/{bad}/clients");
        discovery.get(&path).await.is(400, "error bad input");
    }
    let null = format!("/dmsg-discovery/entry/{}", "0".repeat(66));
    discovery.get(&null).await.is(404, "entry of public key is not found");
    discovery.get("/nowhere").await.is(404, "no such path");
    let put = discovery.request(Method::PUT, "/dmsg-discovery/entries", "").await;
    put.is(405, "method not allowed");
    for body in ["", "{}", "[1]", "[[\"a\"]]", "nonsense"] {
        let batch = discovery.request(Method::POST, "/dmsg-discovery/entries/batch", body).await;
        batch.is(400, "error bad input");
    }
    let upper = format!("/dmsg-discovery/entry/{}", key("c").to_string().to_uppercase());
    discovery.put(discovery.client_entry("c", &[]), "c").await;
    assert_eq!(discovery.get(&upper).await.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_given_up() {
    let store = std::sync::Arc::new(MemoryStore::new(StoreLimits::default()));
    let app = router(DiscoveryService::new(DiscoveryConfig::default(), store));
    let silent = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
    let request =
        Request::post("/dmsg-discovery/entry/").body(axum::body::Body::from_stream(silent));
    let start = tokio::time::Instant::now();
    let answer = app.oneshot(request.unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT);
    assert_eq!(start.elapsed().as_secs(), 10);
}

#[tokio::test]
async fn a_full_discovery_says_so_and_goes_on_with_those_it_knows() {
    let limits = StoreLimits { entries_max: 1, ..StoreLimits::default() };
    let store = std::sync::Arc::new(MemoryStore::new(limits));
    let discovery = Discovery::start_with(store, |_| {}).await;
    discovery.put(discovery.client_entry("a", &[]), "a").await;
    let refused = discovery.post(signed(discovery.client_entry("b", &[]), "b")).await;
    refused.is(503, "the discovery is full");
    assert_eq!(refused.headers["retry-after"], "1");
    discovery.put(Entry { sequence: 1, ..discovery.client_entry("a", &[]) }, "a").await;
}
