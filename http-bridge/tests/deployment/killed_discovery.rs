//! A discovery that is killed right after it took an entry still has it when it comes back.

use std::sync::Arc;

use dmsg_engine::identity::SecretKey;
use dmsg_http::{
    discovery::{ClientOptions, DiscoveryClient, Entry, RawEntry, UnixNanos},
    services::{Bound, CallOptions, Caller, uptime_tracker::SummaryQuery},
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

#[tokio::test(flavor = "multi_thread")]
async fn visors_that_registered_are_told_as_up_over_a_restart() {
    let place = Place::new();
    let store = place.path("entries.redb");
    let start = || {
        let mut discovery = Running::start(&[
            "discovery",
            "--listen",
            "127.0.0.1:0",
            "--log",
            "warn",
            "--store",
            store.to_str().unwrap(),
        ]);
        let url = discovery.line_with("http://");
        (discovery, url)
    };
    let uptimes = async |url: &str| {
        let transport = Arc::new(Bound::new(url, TcpTransport::new()).unwrap());
        let query = SummaryQuery { daily: true, ..SummaryQuery::default() };
        query.ask(&Caller::open(transport, CallOptions::default())).await.unwrap()
    };
    let (discovery, url) = start();
    let client =
        DiscoveryClient::new(&url, Arc::new(TcpTransport::new()), ClientOptions::default())
            .unwrap();
    for kind in ["visor", ""] {
        let secret = SecretKey::from_seed(kind.as_bytes());
        let mut entry = Entry::client(secret.public_key(), Vec::new());
        entry.client_type = kind.into();
        entry.timestamp = UnixNanos::system().0;
        entry.sign(&secret);
        client.post(&RawEntry::of(entry)).await.unwrap();
    }
    let visor = SecretKey::from_seed(b"visor").public_key();
    let up = uptimes(&url).await;
    assert_eq!((up.len(), up[0].key, up[0].on, up[0].daily.len()), (1, visor, true, 1));
    assert_eq!(discovery.stop("-TERM").0, Some(0));
    let (_discovery, url) = start();
    assert_eq!(uptimes(&url).await[0].key, visor);
}
