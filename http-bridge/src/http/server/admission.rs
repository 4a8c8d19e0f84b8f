//! Who may connect: a bound in all and a bound per key, and what a server counts.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::ServeConfig;

/// What [`super::serve`] counts, since its start.
#[derive(Debug, Default)]
pub struct ServeStats {
    connections: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
    requests: AtomicU64,
    rejected: AtomicU64,
    timeouts: AtomicU64,
    panics: AtomicU64,
}

impl ServeStats {
    /// Connections that are open now.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connections.load(Relaxed)
    }
    /// Connections admitted.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }
    /// Connections refused at a limit.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
    /// Requests whose head was read.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }
    /// Requests answered 400 because they were ambiguous, or 413 for the length they stated.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Relaxed)
    }
    /// Connections closed at a time limit.
    #[must_use]
    pub fn timeouts(&self) -> u64 {
        self.timeouts.load(Relaxed)
    }
    /// Handlers that panicked.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.panics.load(Relaxed)
    }

    pub(super) fn note_request(&self) {
        self.requests.fetch_add(1, Relaxed);
    }
    pub(super) fn note_rejected(&self) {
        self.rejected.fetch_add(1, Relaxed);
    }
    pub(super) fn note_timeout(&self) {
        self.timeouts.fetch_add(1, Relaxed);
    }
    pub(super) fn note_panic(&self) {
        self.panics.fetch_add(1, Relaxed);
    }
}

/// Hands out places. A key is in the table only while it holds one, so the table is bounded too.
pub(super) struct Admission<K: Eq + Hash> {
    shared: Arc<Shared<K>>,
    max: usize,
    per_key_max: usize,
}

struct Shared<K> {
    held: Mutex<Held<K>>,
    stats: Arc<ServeStats>,
}

struct Held<K> {
    by_key: HashMap<K, usize>,
    count: usize,
}

impl<K: Eq + Hash + Copy> Admission<K> {
    pub(super) fn new(config: &ServeConfig, stats: Arc<ServeStats>) -> Self {
        let held = Mutex::new(Held { by_key: HashMap::new(), count: 0 });
        let shared = Arc::new(Shared { held, stats });
        Self { shared, max: config.connections_max, per_key_max: config.connections_per_key_max }
    }

    /// A place for one more connection of `key`, if there is one.
    pub(super) fn admit(&self, key: K) -> Option<Permit<K>> {
        let stats = &self.shared.stats;
        let mut held = self.shared.held.lock().unwrap_or_else(PoisonError::into_inner);
        let of_key = held.by_key.get(&key).copied().unwrap_or(0);
        if held.count >= self.max || of_key >= self.per_key_max {
            stats.refused.fetch_add(1, Relaxed);
            return None;
        }
        held.count += 1;
        held.by_key.insert(key, of_key + 1);
        stats.accepted.fetch_add(1, Relaxed);
        stats.connections.fetch_add(1, Relaxed);
        Some(Permit { shared: Arc::clone(&self.shared), key })
    }
}

/// A place. Dropping it frees it.
pub(super) struct Permit<K: Eq + Hash> {
    shared: Arc<Shared<K>>,
    key: K,
}

impl<K: Eq + Hash> Drop for Permit<K> {
    fn drop(&mut self) {
        let mut held = self.shared.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.count -= 1;
        if let Some(of_key) = held.by_key.get_mut(&self.key) {
            *of_key -= 1;
            if *of_key == 0 {
                held.by_key.remove(&self.key);
            }
        }
        self.shared.stats.connections.fetch_sub(1, Relaxed);
    }
}
