//! `kill -9` under load: nothing that was acknowledged is lost, and clients go on by themselves.
#![allow(clippy::unwrap_used)]

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use dmsg_engine::identity::{PublicKey, SecretKey};
use dmsg_http::{
    services::{
        Bound, CallOptions,
        uptime_tracker::{Online, UptimeTrackerClient},
    },
    transport::TcpTransport,
};

use crate::program::Running;

/// How often the service is killed; `DMSG_TEST_KILLS` asks for more.
fn rounds() -> u32 {
    std::env::var("DMSG_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

/// A client goes on within this after the service is back; it waits 50 ms between tries.
const RECOVERY_MAX: Duration = Duration::from_secs(5);

fn start(store: &Path, listen: &str) -> (Running, String) {
    let store = store.to_str().unwrap();
    let mut program = Running::start(&[
        "service",
        "uptime-tracker",
        "--log",
        "warn",
        "--listen",
        listen,
        "--store",
        store,
    ]);
    let base = program.line();
    (program, base)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_every_kill() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("uptime.redb");
    let (mut program, base) = start(&store, "127.0.0.1:0");
    let address = base.trim_start_matches("http://").to_owned();
    let acknowledged: Arc<Mutex<Vec<PublicKey>>> = Arc::default();
    let load = |name: String| {
        let acknowledged = Arc::clone(&acknowledged);
        let transport = Bound::new(&base, TcpTransport::new()).unwrap();
        async move {
            let transport: Arc<dyn dmsg_http::transport::HttpTransport> = Arc::new(transport);
            for count in 0_u64.. {
                let secret = SecretKey::from_seed(format!("{name} {count}").as_bytes());
                let key = secret.public_key();
                let client = UptimeTrackerClient::new(
                    Arc::clone(&transport),
                    secret,
                    CallOptions::default(),
                );
                while client.heartbeat("v1").await.is_err() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                acknowledged.lock().unwrap().push(key);
            }
        }
    };
    let tasks: Vec<_> = (0..4).map(|n| tokio::spawn(load(format!("load {n}")))).collect();
    for round in 0..rounds() {
        let before = acknowledged.lock().unwrap().len();
        let deadline = Instant::now() + RECOVERY_MAX;
        // Some tens of registrations under way in each round, then the end in the middle of them.
        while acknowledged.lock().unwrap().len() < before + 30 + 7 * round as usize {
            assert!(Instant::now() < deadline, "round {round}: no progress");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        program.stop("-KILL");
        program = start(&store, &address).0;
    }
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    let transport = Bound::new(&base, TcpTransport::new()).unwrap();
    let observer = UptimeTrackerClient::new(
        Arc::new(transport),
        SecretKey::from_seed(b"observer"),
        CallOptions::default(),
    );
    let keys = acknowledged.lock().unwrap().clone();
    assert!(keys.len() >= 30 * rounds() as usize);
    for key in keys {
        assert_eq!(observer.visor(key).await.unwrap(), Some(Online { key, online: true }));
    }
}
