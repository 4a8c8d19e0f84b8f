use std::{sync::Arc, time::Duration};

use dmsg_http::discovery::{
    ENTRY_BYTES_MAX, Entry, EntryError, RawEntry, Signed, UnixNanos,
    store::{Record, RedisStore, ServerLabel, Store, StoreError, StoreLimits, Written},
};

use crate::{
    discovery_common::{START, key, secret},
    redis::{Redis, blocking},
};

const NOW: UnixNanos = UnixNanos(START);

fn record(mut entry: Entry, name: &str, sequence: u64, label: ServerLabel) -> Record {
    entry.sequence = sequence;
    entry.timestamp = NOW.0;
    entry.sign(&secret(name));
    let deadline = NOW.plus(Duration::from_secs(600));
    Record::new(&RawEntry::of(entry), Signed::Text, label, deadline).unwrap()
}

fn client(name: &str, sequence: u64) -> Record {
    record(Entry::client(key(name), Vec::new()), name, sequence, ServerLabel::Community)
}

fn server(name: &str, label: ServerLabel) -> Record {
    record(Entry::server(key(name), "203.0.113.9:80", 5), name, 0, label)
}

/// Sequences are 64 bits wide, and so are timestamps; Redis' own numbers are not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequences_are_compared_to_the_last_bit() {
    let Some(redis) = Redis::start().await else { return };
    let store = redis.store().await;
    blocking(move || {
        let big = u64::MAX - 1;
        assert_eq!(store.put(client("a", big), NOW).unwrap(), Written::Created);
        for sequence in [0, big - 1, big] {
            let error = store.put(client("a", sequence), NOW).unwrap_err();
            assert_eq!(error.entry(), Some(EntryError::SequenceNotGreater));
        }
        let behind = Record { timestamp: NOW.0 - 1, ..client("a", u64::MAX) };
        let error = store.put(behind, NOW).unwrap_err();
        assert_eq!(error.entry(), Some(EntryError::TimestampBehind));
        assert_eq!(store.put(client("a", u64::MAX), NOW).unwrap(), Written::Updated);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_asks_its_guard_and_labels_come_back() {
    let Some(redis) = Redis::start().await else { return };
    let store = redis.store().await;
    blocking(move || {
        store.put(server("official", ServerLabel::Official), NOW).unwrap();
        let found = store.find(&key("official"), NOW).unwrap().unwrap();
        assert_eq!(found.server.unwrap().label, ServerLabel::Official);
        let refuse = |_: &Record| Err(EntryError::InvalidSignature);
        let error = store.delete(&key("official"), &refuse, NOW).unwrap_err();
        assert_eq!(error.entry(), Some(EntryError::InvalidSignature));
        assert!(store.delete(&key("official"), &|_| Ok(()), NOW).unwrap());
        assert!(!store.delete(&key("official"), &|_| Ok(()), NOW).unwrap());
        assert!(store.servers(NOW).unwrap().is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_takes_updates_but_no_new_keys() {
    let Some(redis) = Redis::start().await else { return };
    let limits = StoreLimits { entries_max: 2, servers_max: 1, ..StoreLimits::default() };
    let store = Arc::new(RedisStore::connect(&[redis.url()], limits).await.unwrap());
    blocking(move || {
        store.put(server("a", ServerLabel::Community), NOW).unwrap();
        store.expire(NOW).unwrap();
        let error = store.put(server("b", ServerLabel::Community), NOW).unwrap_err();
        assert!(matches!(error, StoreError::Full("the number of servers")), "{error}");
        store.put(client("c", 0), NOW).unwrap();
        store.expire(NOW).unwrap();
        assert_eq!((store.counts().entries, store.counts().servers), (2, 1));
        let error = store.put(client("d", 0), NOW).unwrap_err();
        assert!(matches!(error, StoreError::Full("the number of entries")), "{error}");
        assert_eq!(store.put(client("c", 1), NOW).unwrap(), Written::Updated);
    })
    .await;
}

/// A discovery in Go takes entries of any length into the same Redis, and anybody who can write there any text at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_entry_of_the_key_is_absent_and_is_replaced() {
    let Some(redis) = Redis::start().await else { return };
    let store = redis.store().await;
    let client_of_a = client("a", 7);
    let mut texts = vec![
        b"no entry".to_vec(),
        client("b", 9).served.to_vec(),
        [b"{\"version\":\"", vec![b'v'; 20 * 1024 * 1024].as_slice()].concat(),
        client_of_a.served.to_vec(),
    ];
    // An entry that is one, but longer than any that a discovery of ours would take.
    texts[3].splice(1..1, b" ".repeat(ENTRY_BYTES_MAX));
    for (sequence, text) in (0..).zip(texts) {
        redis.set(&key("a").to_string(), &text).await;
        let store = Arc::clone(&store);
        let (read, all) = blocking(move || {
            let read = store.find(&key("a"), NOW).unwrap();
            let all = store.find_all(&[key("a"), key("c")], NOW).unwrap();
            assert_eq!(store.put(client("a", sequence), NOW).unwrap(), Written::Created);
            assert_eq!(store.find(&key("a"), NOW).unwrap().unwrap().sequence, sequence);
            (read, all)
        })
        .await;
        assert!(read.is_none() && all.iter().all(Option::is_none), "{sequence}");
    }
}
