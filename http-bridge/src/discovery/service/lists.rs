//! The answers that list many entries or keys, as JSON text.
//!
//! Lists of all clients may be megabytes long, so requests share one text: it is made anew when a client came
//! or went, and at least each second, since entries expire. The list by server follows the Go service: 15 s old
//! at most. The lock is held while a text is made, so that it is made once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use dmsg_engine::identity::PublicKey;
use rand::seq::SliceRandom;
use serde_json::json;

use super::{DiscoveryService, Page, RequestError};
use crate::discovery::{
    EntryError, UnixNanos,
    store::{ClientFilter, Record, StoreError},
};

/// Servers in the list of available ones at most.
pub(super) const AVAILABLE_SERVERS_MAX: usize = 512;

/// Bytes of entries in the answer to a batch at most; what does not fit is left out, as if unknown.
const BATCH_ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Keys of a batch that the store is asked for at once: with 64 KiB each, the longest texts, 32 MiB.
const BATCH_KEYS_AT_ONCE: usize = 512;

/// How long an entry that expired may still stand in a list of keys.
const KEYS_TTL: Duration = Duration::from_secs(1);

const CLIENTS_BY_SERVER_TTL: Duration = Duration::from_secs(15);

#[derive(Default)]
pub(super) struct Lists {
    all: Cached<Bytes>,
    visors: Cached<Bytes>,
    by_server: Cached<ByServer>,
    /// In ascending order, for pages.
    sorted: [Cached<Arc<Vec<PublicKey>>>; 2],
}

/// A part of a list, and the query of the next one if there is one.
pub(in crate::discovery) type Part = (Bytes, Option<String>);

/// Which clients each server has: the text of all, and its parts.
#[derive(Clone)]
struct ByServer {
    text: Bytes,
    lists: Arc<HashMap<PublicKey, Bytes>>,
}

impl ByServer {
    fn new(clients: Vec<(PublicKey, Vec<PublicKey>)>) -> Result<Self, StoreError> {
        let lists: HashMap<PublicKey, Bytes> =
            clients.iter().map(|(server, clients)| (*server, keys_text(clients))).collect();
        let text = object(lists.iter().map(|(server, list)| (server, list.clone())));
        Ok(Self { text, lists: Arc::new(lists) })
    }
}

/// What is good until `until`, as long as the store's membership is `membership`.
struct Cached<T>(Mutex<Option<Kept<T>>>);

impl<T> Default for Cached<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

struct Kept<T> {
    membership: u64,
    until: UnixNanos,
    value: T,
}

impl<T: Clone> Cached<T> {
    fn value(
        &self,
        membership: u64,
        now: UnixNanos,
        ttl: Duration,
        make: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fresh) = cached
            .as_ref()
            .filter(|c| c.membership == membership && now < c.until && c.until <= now.plus(ttl))
        {
            return Ok(fresh.value.clone());
        }
        let value = make()?;
        *cached = Some(Kept { membership, until: now.plus(ttl), value: value.clone() });
        Ok(value)
    }
}

impl DiscoveryService {
    /// `["<key>",…]`.
    pub(in crate::discovery) fn client_list(
        &self,
        which: ClientFilter,
    ) -> Result<Bytes, RequestError> {
        let cached = match which {
            ClientFilter::All => &self.0.lists.all,
            ClientFilter::Visors => &self.0.lists.visors,
        };
        let (store, now) = (&self.0.store, self.now());
        let make = || Ok(keys_text(&store.client_keys(which, now)?));
        Ok(cached.value(store.membership(), now, KEYS_TTL, make)?)
    }

    /// A page of the same, at most a second old.
    pub(in crate::discovery) fn client_page(
        &self,
        which: ClientFilter,
        page: Page,
    ) -> Result<Part, RequestError> {
        let (store, now) = (&self.0.store, self.now());
        let make = || {
            let mut keys = store.client_keys(which, now)?;
            keys.sort_unstable();
            Ok(Arc::new(keys))
        };
        let sorted = &self.0.lists.sorted[usize::from(which == ClientFilter::Visors)];
        let keys = sorted.value(0, now, KEYS_TTL, make)?;
        let (keys, next) = page.cut(&keys, |key| *key);
        Ok((keys_text(keys), next))
    }

    /// `["<key>",…]`.
    pub(in crate::discovery) fn clients_of(
        &self,
        server: &PublicKey,
    ) -> Result<Bytes, RequestError> {
        if self.store_is_local() {
            return Ok(keys_text(&self.0.store.clients_of(server, self.now())?));
        }
        // Elsewhere that takes all clients' entries, so all servers' lists are made of them.
        Ok(self.by_server()?.lists.get(server).cloned().unwrap_or_else(|| keys_text(&[])))
    }

    fn by_server(&self) -> Result<ByServer, RequestError> {
        let (store, now) = (&self.0.store, self.now());
        let make = || ByServer::new(store.clients_by_server(now)?);
        Ok(self.0.lists.by_server.value(0, now, CLIENTS_BY_SERVER_TTL, make)?)
    }

    /// `{"<server>":["<client>",…],…}`.
    pub(in crate::discovery) fn clients_by_server(&self) -> Result<Bytes, RequestError> {
        Ok(self.by_server()?.text)
    }

    /// Servers with room, most room first.
    pub(in crate::discovery) fn available_servers(&self) -> Result<Bytes, RequestError> {
        let room = |record: &Arc<Record>| record.server.map_or(0, |s| s.available_sessions);
        let mut servers = self.0.store.servers(self.now())?;
        servers.retain(|record| room(record) > 0);
        servers.shuffle(&mut rand::rng());
        servers.truncate(AVAILABLE_SERVERS_MAX);
        servers.sort_by_key(|record| std::cmp::Reverse(room(record)));
        servers_text(&servers)
    }

    /// Every server, in random order.
    pub(in crate::discovery) fn all_servers(&self) -> Result<Bytes, RequestError> {
        let mut servers = self.0.store.servers(self.now())?;
        servers.shuffle(&mut rand::rng());
        servers_text(&servers)
    }

    /// A page of all servers, in the order of their keys.
    pub(in crate::discovery) fn server_page(&self, page: Page) -> Result<Part, RequestError> {
        let mut servers = self.0.store.servers(self.now())?;
        servers.sort_unstable_by_key(|record| record.key);
        let (servers, next) = page.cut(&servers, |record| record.key);
        if servers.is_empty() && page.goes_on() {
            return Ok((Bytes::from_static(b"[]"), None));
        }
        Ok((servers_text(servers)?, next))
    }

    /// `{"<key>":<entry>,…}`; unknown keys are left out.
    pub(in crate::discovery) fn batch(&self, keys: &[PublicKey]) -> Result<Bytes, RequestError> {
        let now = self.now();
        let mut keys = keys.to_vec();
        keys.sort_unstable();
        keys.dedup();
        let mut found = Vec::new();
        let mut bytes = 0;
        'parts: for part in keys.chunks(BATCH_KEYS_AT_ONCE) {
            for (key, record) in part.iter().zip(self.0.store.find_all(part, now)?) {
                let Some(record) = record else { continue };
                bytes += record.served.len();
                if bytes > BATCH_ANSWER_BYTES_MAX {
                    break 'parts;
                }
                found.push((key, record.served.clone()));
            }
        }
        Ok(object(found.into_iter()))
    }

    /// The health page.
    pub(in crate::discovery) fn health(&self) -> Bytes {
        let servers = self.0.dmsg_servers.read().unwrap_or_else(PoisonError::into_inner);
        let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
        let version = env!("CARGO_PKG_VERSION");
        let health = json!({
            "build_info": {"version": version, "commit": "unknown", "date": "unknown"},
            "started_at": self.0.started_at.to_rfc3339(),
            "dmsg_address": self.0.config.dmsg_key.map(|key| format!("{key}:80")).unwrap_or_default(),
            "dmsg_servers": servers,
        });
        Bytes::from(health.to_string())
    }
}

fn servers_text(servers: &[Arc<Record>]) -> Result<Bytes, RequestError> {
    if servers.is_empty() {
        return Err(EntryError::NoServers.into());
    }
    let bytes: usize = servers.iter().map(|record| record.served.len() + 1).sum();
    let mut text = BytesMut::with_capacity(bytes + 2);
    for (index, record) in servers.iter().enumerate() {
        text.put_u8(if index == 0 { b'[' } else { b',' });
        text.put_slice(&record.served);
    }
    text.put_u8(b']');
    Ok(text.freeze())
}

fn keys_text(keys: &[PublicKey]) -> Bytes {
    let mut text = BytesMut::with_capacity(keys.len() * (2 * PublicKey::LEN + 3) + 2);
    text.put_u8(b'[');
    for (index, key) in keys.iter().enumerate() {
        text.put_slice(if index == 0 { b"\"" } else { b",\"" });
        text.put_slice(key.to_string().as_bytes());
        text.put_u8(b'"');
    }
    text.put_u8(b']');
    text.freeze()
}

/// An object whose names are keys and whose values are JSON texts.
fn object<'a>(members: impl Iterator<Item = (&'a PublicKey, Bytes)>) -> Bytes {
    let mut text = BytesMut::new();
    text.put_u8(b'{');
    for (index, (key, value)) in members.enumerate() {
        text.put_slice(if index == 0 { b"\"" } else { b",\"" });
        text.put_slice(key.to_string().as_bytes());
        text.put_slice(b"\":");
        text.put_slice(&value);
    }
    text.put_u8(b'}');
    text.freeze()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use dmsg_engine::identity::SecretKey;

    use super::*;
    use crate::discovery::{
        DELEGATED_SERVERS_MAX, DiscoveryConfig, Entry, RawEntry, Signed,
        store::{MemoryStore, ServerLabel, Store, StoreLimits},
    };

    #[test]
    fn a_batch_of_the_longest_entries_stays_within_its_bytes() {
        let store = MemoryStore::new(StoreLimits::default());
        let key = |n: u32| SecretKey::from_seed(&n.to_be_bytes()).public_key();
        // 35 KiB each: 17 MiB.
        let keys: Vec<_> = (0..500).map(key).collect();
        for key in &keys {
            let entry = Entry::client(*key, vec![keys[0]; DELEGATED_SERVERS_MAX]);
            let label = ServerLabel::Community;
            let record =
                Record::new(&RawEntry::of(entry), Signed::Text, label, UnixNanos::NEVER).unwrap();
            store.put(record, UnixNanos(0)).unwrap();
        }
        let service = DiscoveryService::new(DiscoveryConfig::default(), Arc::new(store));
        let answer = service.batch(&keys).unwrap();
        let known: HashMap<String, serde_json::Value> = serde_json::from_slice(&answer).unwrap();
        assert!((400..500).contains(&known.len()), "{}", known.len());
        assert!(answer.len() < BATCH_ANSWER_BYTES_MAX + known.len() * 80);
    }

    #[test]
    fn a_cached_text_is_made_anew_when_members_change_or_time_is_over() {
        let cached = Cached::default();
        let second = Duration::from_secs(1);
        let at = |seconds: u64| UnixNanos(0).plus(second * u32::try_from(seconds).unwrap_or(0));
        let text = |membership, now, text: &'static str| {
            cached.value(membership, now, second, || Ok(Bytes::from(text))).ok()
        };
        assert_eq!(text(1, at(10), "a"), Some("a".into()));
        assert_eq!(text(1, at(10), "b"), Some("a".into()));
        assert_eq!(text(2, at(10), "c"), Some("c".into()));
        assert_eq!(text(2, at(11), "d"), Some("d".into()));
        // The clock was set back: what was made "later" is not kept for longer than a second either.
        assert_eq!(text(2, at(3), "e"), Some("e".into()));
    }
}
