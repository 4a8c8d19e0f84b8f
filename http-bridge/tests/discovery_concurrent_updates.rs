//! Many updates of one key at once, from one client and from several.
#![allow(clippy::unwrap_used)]

mod discovery_common;

use std::sync::{Arc, Mutex};

use discovery_common::{Discovery, client_of, key, secret};
use dmsg_http::discovery::{ClientError, ClientPart, Entry, system_clock};
use tokio::task::JoinSet;

fn publish(entry: &mut Entry) {
    entry.client = Some(ClientPart { delegated_servers: Some(vec![key("s")]) });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_of_one_client_follow_each_other_without_a_conflict() {
    let discovery = Discovery::start(|_| {}).await;
    let client = Arc::new(discovery.client());
    let mut tasks = JoinSet::new();
    for _ in 0..20 {
        let client = Arc::clone(&client);
        tasks.spawn(async move { client.update(&secret("c"), &[], &publish).await.unwrap() });
    }
    let mut sequences: Vec<_> = tasks.join_all().await.iter().map(|e| e.sequence).collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (0..20).collect::<Vec<_>>());
    assert_eq!(discovery.stored("c").await.unwrap().entry().sequence, 19);
    assert!(!discovery.service.metrics_text().contains("sequence_not_greater"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_of_several_clients_with_one_key_never_lose_order() {
    let discovery = Discovery::start(|config| config.clock = system_clock()).await;
    let taken = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let client = client_of(&discovery.base, system_clock());
        let taken = Arc::clone(&taken);
        tasks.spawn(async move {
            for _ in 0..5 {
                match client.update(&secret("c"), &[], &publish).await {
                    Ok(entry) => taken.lock().unwrap().push(entry.sequence),
                    Err(ClientError::Conflict(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    tasks.join_all().await;
    let mut taken = taken.lock().unwrap().clone();
    taken.sort_unstable();
    let count = taken.len();
    taken.dedup();
    assert_eq!(taken.len(), count, "two updates were taken with one sequence");
    assert!(count >= 5, "hardly any update went through: {count}");
    let stored = discovery.stored("c").await.unwrap();
    assert_eq!(stored.entry().sequence, taken[count - 1]);
    stored.verify().unwrap();
}

#[tokio::test]
async fn an_update_after_a_withdrawal_goes_on_counting() {
    let discovery = Discovery::start(|_| {}).await;
    let client = discovery.client();
    assert_eq!(client.update(&secret("c"), &[], &publish).await.unwrap().sequence, 0);
    discovery.clock.advance(1);
    client.withdraw(&secret("c"), &[], &publish).await.unwrap();
    assert!(discovery.stored("c").await.is_none());
    client.withdraw(&secret("c"), &[], &publish).await.unwrap();
    assert_eq!(client.update(&secret("c"), &[], &publish).await.unwrap().sequence, 2);
    // A new process does not know the count, and need not.
    assert_eq!(discovery.client().update(&secret("c"), &[], &publish).await.unwrap().sequence, 3);
}
