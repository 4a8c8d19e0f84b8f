//! A discovery that is killed right after it took an entry still has it when it comes back.

use std::sync::Arc;

use dmsg_engine::identity::SecretKey;
use dmsg_http::{
    discovery::{ClientOptions, DiscoveryClient, Entry, RawEntry, UnixNanos},
    transport::TcpTransport,
};

use crate::{program::Running, support::Place};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_a_kill() {
    let place = Place::new();
    let store = place.path("entries.redb");
    let start = || {
        let store = store.to_str().unwrap();
        let mut discovery = Running::start(&[
            "discovery",
            "--listen",
            "127.0.0.1:0",
            "--log",
            "warn",
            "--store",
            store,
        ]);
        let url = discovery.line_with("http://");
        let transport = Arc::new(TcpTransport::new());
        (discovery, DiscoveryClient::new(&url, transport, ClientOptions::default()).unwrap())
    };
    let mut keys = Vec::new();
    for round in 0..5 {
        let (discovery, client) = start();
        for key in &keys {
            assert!(client.entry(*key).await.is_ok(), "lost in round {round}");
        }
        let secret = SecretKey::generate().unwrap();
        let mut entry = Entry::client(secret.public_key(), Vec::new());
        entry.timestamp = UnixNanos::system().0;
        entry.sign(&secret);
        client.post(&RawEntry::of(entry)).await.unwrap();
        // Dropping it is SIGKILL.
        drop(discovery);
        keys.push(secret.public_key());
    }
}
