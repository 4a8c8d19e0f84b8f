//! A service whose disk is full refuses registrations, answers look-ups, and goes on when there is room again.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use dmsg_engine::identity::SecretKey;
use dmsg_http::{
    discovery::{ClientError, ClientOptions, DiscoveryClient, Entry, RawEntry, UnixNanos},
    services::{Bound, CallOptions, uptime_tracker::UptimeTrackerClient},
    transport::TcpTransport,
};

use crate::{program::Running, support::Place};

/// Bytes that a process may write into a file, from its first to this one: `prlimit`, as for a disk that is full.
fn allow(process: u32, bytes: &str) -> bool {
    let limit = format!("--fsize={bytes}:unlimited");
    let run = Command::new("prlimit").args(["--pid", &process.to_string(), &limit]).status();
    run.is_ok_and(|status| status.success())
}

fn entry(name: &str) -> RawEntry {
    let secret = SecretKey::from_seed(name.as_bytes());
    let mut entry = Entry::client(secret.public_key(), Vec::new());
    entry.timestamp = UnixNanos::system().0;
    entry.sign(&secret);
    RawEntry::of(entry)
}

/// Starts `dmsg` with a store whose disk can be filled, and its HTTP address; `None` where that cannot be.
fn start(subcommand: &[&str], store: &Path) -> Option<(Running, String)> {
    let mut command = Command::new("sh");
    // The signal that comes with the limit is ignored: a full disk sends none.
    command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_dmsg")]);
    command
        .args(subcommand)
        .args(["--listen", "127.0.0.1:0", "--log", "off", "--store"])
        .arg(store);
    command.stdin(Stdio::null());
    let mut running = Running::spawn(command);
    let url = running.line_with("http://");
    if !allow(running.pid(), "unlimited") {
        eprintln!("skipped: no prlimit (util-linux), or no right to use it");
        return None;
    }
    Some((running, url))
}

/// The small services keep their records in another way than the discovery.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_service_takes_registrations_again_when_there_is_room() {
    let place = Place::new();
    let store = place.path("uptimes.redb");
    let Some((tracker, url)) = start(&["service", "ut"], &store) else { return };
    let transport = || Arc::new(Bound::new(&url, TcpTransport::new()).unwrap());
    let client = |name: &str| {
        let secret = SecretKey::from_seed(name.as_bytes());
        UptimeTrackerClient::new(transport(), secret, CallOptions::default())
    };
    client("before").heartbeat("v1").await.unwrap();
    assert!(allow(tracker.pid(), "1"));
    for name in ["while full", "still full"] {
        client(name).heartbeat("v1").await.unwrap_err();
    }
    assert!(allow(tracker.pid(), "unlimited"));
    client("after").heartbeat("v1").await.unwrap();
    drop(tracker);
    let Some((_tracker, url)) = start(&["service", "ut"], &store) else { return };
    let transport = Arc::new(Bound::new(&url, TcpTransport::new()).unwrap());
    let reader = SecretKey::from_seed(b"reader");
    let client = UptimeTrackerClient::new(transport, reader, CallOptions::default());
    for name in ["before", "after"] {
        let key = SecretKey::from_seed(name.as_bytes()).public_key();
        assert!(client.visor(key).await.unwrap().is_some(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_are_refused_while_the_disk_is_full_and_taken_afterwards() {
    let place = Place::new();
    let store = place.path("entries.redb");
    let Some((discovery, url)) = start(&["discovery"], &store) else { return };
    let client =
        DiscoveryClient::new(&url, Arc::new(TcpTransport::new()), ClientOptions::default())
            .unwrap();
    let key = |name: &str| SecretKey::from_seed(name.as_bytes()).public_key();
    client.post(&entry("before")).await.unwrap();
    assert!(allow(discovery.pid(), "1"));
    for name in ["while full", "still full"] {
        let refused = client.post(&entry(name)).await.unwrap_err();
        assert!(!matches!(refused, ClientError::Transport(_)), "{refused}");
        assert!(client.entry(key("before")).await.is_ok(), "look-ups go on");
    }
    assert!(allow(discovery.pid(), "unlimited"));
    client.post(&entry("after")).await.unwrap();
    // What was refused was not forgotten: it is in the file by now, with what came after it.
    drop(discovery);
    let store = store.to_str().unwrap();
    let args = ["discovery", "--listen", "127.0.0.1:0", "--log", "warn", "--store", store];
    let mut discovery = Running::start(&args);
    let url = discovery.line_with("http://");
    let client =
        DiscoveryClient::new(&url, Arc::new(TcpTransport::new()), ClientOptions::default())
            .unwrap();
    for name in ["before", "while full", "still full", "after"] {
        assert!(client.entry(key(name)).await.is_ok(), "{name}");
    }
}
