use std::time::Duration;

use dmsg_engine::identity::PublicKey;
use http::{Method, StatusCode};

use crate::{
    discovery_common::{Discovery, key, signed, sorted_keys},
    redis::{Redis, blocking},
};

async fn maintain(discovery: &Discovery) {
    let service = discovery.service.clone();
    blocking(move || service.maintain(std::time::Instant::now())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_takes_the_other_serves() {
    let Some(redis) = Redis::start().await else { return };
    let one = Discovery::start_with(redis.store().await, |_| ()).await;
    let other = Discovery::start_with(redis.store().await, |_| ()).await;

    one.put(one.server_entry("server", 7), "server").await;
    let text = one.put(one.client_entry("client", &["server"]), "client").await;
    let mut visor = one.client_entry("visor", &["server", "elsewhere"]);
    visor.client_type = "visor".into();
    other.put(visor, "visor").await;

    assert_eq!(other.stored("client").await.unwrap().text(), text, "byte for byte");
    for discovery in [&one, &other] {
        let keys = discovery.get("/dmsg-discovery/entries").await.keys();
        assert_eq!(keys, sorted_keys(&["client", "visor"]));
        let keys = discovery.get("/dmsg-discovery/visorEntries").await.keys();
        assert_eq!(keys, sorted_keys(&["visor"]));
        let path = format!("/dmsg-discovery/server/{}/clients", key("server"));
        assert_eq!(discovery.get(&path).await.keys(), sorted_keys(&["client", "visor"]));
        let servers = discovery.get("/dmsg-discovery/available_servers").await.json();
        assert_eq!(servers[0]["static"], key("server").to_string());
        assert_eq!(servers[0]["server"]["serverType"], "community");
        let by_server = discovery.get("/dmsg-discovery/servers/clients").await.json();
        assert_eq!(by_server[key("elsewhere").to_string()][0], key("visor").to_string());
    }

    // A newer iteration at the other; the first then refuses the old one.
    let mut entry = one.client_entry("client", &[]);
    entry.sequence = 1;
    other.put(entry, "client").await;
    let answer = one.post(text.clone()).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);

    let mut newest = one.stored("client").await.unwrap().into_entry();
    newest.timestamp += 1;
    assert_eq!(one.delete(signed(newest, "client")).await.status, StatusCode::OK);
    assert!(other.stored("client").await.is_none());
    other.clock.advance(2);
    let keys = other.get("/dmsg-discovery/entries").await.keys();
    assert_eq!(keys, sorted_keys(&["visor"]), "a second later at the latest");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_past_its_time_leaves_entry_and_lists() {
    let Some(redis) = Redis::start().await else { return };
    // The shortest life Redis knows.
    let soon = |config: &mut dmsg_http::discovery::DiscoveryConfig| {
        config.client_ttl = Some(Duration::from_millis(1));
    };
    let brief = Discovery::start_with(redis.store().await, soon).await;
    let other = Discovery::start_with(redis.store().await, |_| ()).await;
    brief.put(brief.client_entry("gone", &["server"]), "gone").await;
    other.put(other.client_entry("stays", &["server"]), "stays").await;
    while brief.stored("gone").await.is_some() {
        tokio::task::yield_now().await;
    }
    other.clock.advance(2);
    maintain(&other).await;
    assert_eq!(other.get("/dmsg-discovery/entries").await.keys(), sorted_keys(&["stays"]));
    let path = format!("/dmsg-discovery/server/{}/clients", key("server"));
    assert_eq!(other.get(&path).await.keys(), sorted_keys(&["stays"]));
    let metrics = other.get("/metrics").await;
    let metrics = String::from_utf8(metrics.body.to_vec()).unwrap();
    assert!(metrics.contains("expired"), "{metrics}");
}

/// Many processes write the same key at once: one iteration wins at a time, none is lost or taken twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_of_one_key_take_turns() {
    let Some(redis) = Redis::start().await else { return };
    let one = Discovery::start_with(redis.store().await, |_| ()).await;
    let other = Discovery::start_with(redis.store().await, |_| ()).await;
    let mut posts = Vec::new();
    for sequence in 0..40 {
        let discovery = if sequence % 2 == 0 { &one } else { &other };
        let mut entry = one.client_entry("client", &[]);
        entry.sequence = sequence;
        let text = crate::discovery_common::signed(entry, "client");
        posts.push(async move { (sequence, discovery.post(text).await.status) });
    }
    let answers = futures_util::future::join_all(posts).await;
    let taken: Vec<u64> = answers
        .iter()
        .filter(|(_, status)| *status == StatusCode::OK)
        .map(|(sequence, _)| *sequence)
        .collect();
    for (_, status) in &answers {
        let known = [
            StatusCode::OK,
            StatusCode::UNPROCESSABLE_ENTITY,
            StatusCode::SERVICE_UNAVAILABLE, // contended: try again
        ];
        assert!(known.contains(status), "{status}");
    }
    let stored = one.stored("client").await.unwrap().entry().sequence;
    assert_eq!(Some(&stored), taken.iter().max(), "the newest that was taken stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_entries_in_a_batch() {
    let Some(redis) = Redis::start().await else { return };
    let one = Discovery::start_with(redis.store().await, |_| ()).await;
    let names: Vec<String> = (0..100).map(|i| format!("client {i}")).collect();
    for name in &names {
        one.put(one.client_entry(name, &[]), name).await;
    }
    let keys: Vec<PublicKey> = names.iter().map(|name| key(name)).collect();
    let body = serde_json::to_vec(&keys.iter().map(ToString::to_string).collect::<Vec<_>>());
    let answer = one
        .request(http::Method::POST, "/dmsg-discovery/entries/batch", body.unwrap())
        .await
        .json();
    assert_eq!(answer.as_object().unwrap().len(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_by_server_are_made_once_and_a_batch_is_one_question() {
    let Some(redis) = Redis::start().await else { return };
    let discovery = Discovery::start_with(redis.store().await, |_| ()).await;
    let names = ["a", "b", "c", "d"];
    for name in names {
        discovery.put(discovery.client_entry(name, &["server"]), name).await;
    }
    let path = |server: &str| format!("/dmsg-discovery/server/{}/clients", key(server));
    let keys: Vec<String> = names.iter().map(|name| key(name).to_string()).collect();
    let batch = serde_json::to_vec(&keys).unwrap();
    let batch = || discovery.request(Method::POST, "/dmsg-discovery/entries/batch", batch.clone());
    // Redis learns the script with its first use.
    batch().await;
    let before = redis.calls("evalsha").await;
    assert_eq!(discovery.get(&path("server")).await.keys(), sorted_keys(&names));
    let made = redis.calls("evalsha").await - before;
    assert!(made >= 1);
    for _ in 0..10 {
        assert_eq!(discovery.get(&path("server")).await.keys(), sorted_keys(&names));
        assert_eq!(discovery.get(&path("other")).await.keys(), sorted_keys(&[]));
        discovery.get("/dmsg-discovery/servers/clients").await;
    }
    assert_eq!(redis.calls("evalsha").await - before, made, "within 15 s they are not read again");
    discovery.clock.advance(16);
    discovery.get(&path("server")).await;
    assert_eq!(redis.calls("evalsha").await - before, 2 * made);

    let (reads, scripts) = (redis.calls("getrange").await, redis.calls("evalsha").await);
    assert_eq!(batch().await.json().as_object().unwrap().len(), names.len());
    assert_eq!(redis.calls("evalsha").await, scripts + 1);
    // Those of the script.
    assert_eq!(redis.calls("getrange").await, reads + names.len() as u64);
}
