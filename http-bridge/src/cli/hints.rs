//! Which multiplexer a relay's new client speaks, by its discovery entry (`discovery.md §7.3`).
//!
//! ```text
//!   relay core ── try_send ──▶ channel ── thread ──▶ look up, a few at once ──▶ Server::hint_mux
//! ```
//!
//! Only clients that are silent and speak smux need this: whoever speaks shows it with the first byte, whatever the hint said,
//! and silence means yamux. So a hint that comes late, or never, or is wrong, matters only to a client that is dialled before it
//! has sent a byte: it is spoken to in the wrong mux and comes back. The relay never waits, a full channel drops, and a look-up
//! has a time limit.

use std::{
    sync::{
        Arc, Weak,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use dmsg_engine::{identity::PublicKey, mux::MuxKind, server::Server};
use tokio::{
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use crate::discovery::{DiscoveryClient, RawEntry, UnixNanos, store::Store};

/// Newcomers that may wait for their look-up: a burst of reconnections after a restart of a full server.
const WAITING_MAX: usize = 2048;

/// Look-ups at once.
const LOOKUPS_MAX: usize = 16;

/// How long a look-up may take; later, the client's first stream has been dealt with.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Waits before the look-ups: a new client's entry is there only after its session is.
const WAITS: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(3)];

/// What goes into the server's configuration, and what [`spawn`] listens to.
pub(super) fn channel() -> (SyncSender<PublicKey>, Receiver<PublicKey>) {
    sync_channel(WAITING_MAX)
}

/// Runs until it is dropped or the server is gone.
pub(super) struct Hints(JoinHandle<()>);

impl Drop for Hints {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Looks each newcomer up and tells the server what it speaks.
pub(super) fn spawn<F>(
    newcomers: Receiver<PublicKey>,
    server: Weak<Server>,
    kind_of: impl Fn(PublicKey) -> F + Send + Sync + 'static,
) -> Hints
where
    F: Future<Output = Option<MuxKind>> + Send + 'static,
{
    let (to_task, mut keys) = tokio::sync::mpsc::channel(LOOKUPS_MAX);
    // A thread of its own, since the channel blocks; it ends with the server, which holds the other end, or with the task.
    let forwarder = move || {
        while let Ok(key) = newcomers.recv() {
            if to_task.blocking_send(key).is_err() {
                return;
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("dmsg-hints".to_owned()).spawn(forwarder) {
        tracing::warn!(%error, "clients that speak smux are not looked up");
    }
    let (permits, kind_of) = (Arc::new(Semaphore::new(LOOKUPS_MAX)), Arc::new(kind_of));
    Hints(tokio::spawn(async move {
        let mut lookups = JoinSet::new();
        while let Some(key) = keys.recv().await {
            while lookups.try_join_next().is_some() {}
            if lookups.len() >= WAITING_MAX {
                continue;
            }
            let (server, permits) = (Weak::clone(&server), Arc::clone(&permits));
            let kind_of = Arc::clone(&kind_of);
            lookups.spawn(async move {
                if let Some(kind) = look_up(key, &permits, &*kind_of).await
                    && let Some(server) = server.upgrade()
                {
                    tracing::debug!(client = %key, ?kind, "the client's entry names its mux");
                    server.hint_mux(&key, kind);
                }
            });
        }
    }))
}

/// Tries until there is an entry, and gives up soon.
async fn look_up<F: Future<Output = Option<MuxKind>>>(
    key: PublicKey,
    permits: &Semaphore,
    kind_of: impl Fn(PublicKey) -> F,
) -> Option<MuxKind> {
    for wait in WAITS {
        sleep(wait).await;
        let _permit = permits.acquire().await.ok()?;
        if let Ok(Some(kind)) = timeout(LOOKUP_TIMEOUT, kind_of(key)).await {
            return Some(kind);
        }
    }
    None
}

/// What a client's entry in a discovery says; no entry and no answer say nothing.
pub(super) async fn of_discovery(discovery: &DiscoveryClient, key: PublicKey) -> Option<MuxKind> {
    Some(kind(&discovery.entry(key).await.ok()?.entry().protocol))
}

/// The same, of a store in this process.
pub(super) fn of_store(store: &dyn Store, key: PublicKey) -> Option<MuxKind> {
    let record = store.find(&key, UnixNanos::system()).ok()??;
    Some(kind(&RawEntry::parse(&record.served).ok()?.entry().protocol))
}

/// Whatever is not smux is yamux (`discovery.md §7.3`). An entry does not tell which version of smux: the newer.
fn kind(protocol: &str) -> MuxKind {
    if protocol == "smux" { MuxKind::SmuxV2 } else { MuxKind::Yamux }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{
        net::Ipv4Addr,
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use dmsg_engine::{identity::SecretKey, server::ServerConfig};

    use super::*;
    use crate::discovery::{
        Entry, Signed,
        store::{MemoryStore, Record, ServerLabel, StoreLimits},
    };

    fn stored(store: &MemoryStore, name: &str, protocol: &str) -> PublicKey {
        let (secret, now) = (SecretKey::from_seed(name.as_bytes()), UnixNanos::system());
        let mut entry = Entry::client(secret.public_key(), Vec::new());
        entry.timestamp = now.0;
        entry.protocol = protocol.to_owned();
        entry.sign(&secret);
        let deadline = now.plus(Duration::from_secs(60));
        let raw = RawEntry::of(entry);
        let record = Record::new(&raw, Signed::Text, ServerLabel::Community, deadline).unwrap();
        store.put(record, now).unwrap();
        secret.public_key()
    }

    #[test]
    fn the_entry_names_the_mux_and_no_entry_names_none() {
        let store = MemoryStore::new(StoreLimits::default());
        let (smux, plain) = (stored(&store, "smux", "smux"), stored(&store, "plain", ""));
        assert_eq!(of_store(&store, smux), Some(MuxKind::SmuxV2));
        assert_eq!(of_store(&store, plain), Some(MuxKind::Yamux));
        assert_eq!(of_store(&store, SecretKey::from_seed(b"absent").public_key()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_that_comes_after_the_session_is_found_and_an_absent_one_given_up() {
        let key = SecretKey::from_seed(b"late").public_key();
        let permits = Semaphore::new(1);
        for (present_at, found, tries) in [(3, Some(MuxKind::SmuxV2), 3), (9, None, WAITS.len())] {
            let asked = AtomicUsize::new(0);
            let kind_of = |_| {
                let is_there = asked.fetch_add(1, Relaxed) + 1 >= present_at;
                std::future::ready(is_there.then_some(MuxKind::SmuxV2))
            };
            assert_eq!(look_up(key, &permits, kind_of).await, found);
            assert_eq!(asked.load(Relaxed), tries);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn each_newcomer_is_looked_up_and_a_gone_server_ends_it() {
        let config =
            ServerConfig::new(SecretKey::generate().unwrap(), (Ipv4Addr::LOCALHOST, 0).into());
        let server = Arc::new(Server::start(config).unwrap());
        let (newcomers, heard) = channel();
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let hints = spawn(heard, Arc::downgrade(&server), move |key| {
            tell.send(key).unwrap();
            std::future::ready(Some(MuxKind::SmuxV2))
        });
        for name in ["a", "b", "c"] {
            let key = SecretKey::from_seed(name.as_bytes()).public_key();
            newcomers.try_send(key).unwrap();
            assert_eq!(told.recv().await, Some(key));
        }
        // The relay's end goes, then the thread, then the task with the last handle to `tell`.
        drop(newcomers);
        assert_eq!(told.recv().await, None);
        drop(hints);
    }
}
