//! A discovery whose disk is full refuses registrations, answers look-ups, and goes on when there is room again.

use std::{
    process::{Command, Stdio},
    sync::Arc,
};

use dmsg_engine::identity::SecretKey;
use dmsg_http::{
    discovery::{ClientError, ClientOptions, DiscoveryClient, Entry, RawEntry, UnixNanos},
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

#[tokio::test(flavor = "multi_thread")]
async fn registrations_are_refused_while_the_disk_is_full_and_taken_afterwards() {
    let place = Place::new();
    let store = place.path("entries.redb");
    let mut command = Command::new("sh");
    // The signal that comes with the limit is ignored: a full disk sends none.
    command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_dmsg")]);
    command.args(["discovery", "--listen", "127.0.0.1:0", "--log", "off", "--store"]).arg(&store);
    command.stdin(Stdio::null());
    let mut discovery = Running::spawn(command);
    let url = discovery.line_with("http://");
    if !allow(discovery.pid(), "unlimited") {
        eprintln!("skipped: no prlimit (util-linux), or no right to use it");
        return;
    }
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
    for name in ["before", "after"] {
        assert!(client.entry(key(name)).await.is_ok(), "{name}");
    }
}
