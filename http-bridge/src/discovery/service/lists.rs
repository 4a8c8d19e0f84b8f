//! The answers that list many entries or keys, as JSON text.
//!
//! Lists of all clients may be megabytes long, so requests share one text: it is made anew when a client came
//! or went, and at least each second, since entries expire. The list by server follows the Go service: 15 s old
//! at most. The lock is held while a text is made, so that it is made once.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use dmsg_engine::identity::PublicKey;
use rand::seq::SliceRandom;
use serde_json::json;

use super::{DiscoveryService, RequestError};
use crate::discovery::{
    EntryError, UnixNanos,
    store::{ClientFilter, Record, StoreError},
};

/// Servers in the list of available ones at most.
pub(super) const AVAILABLE_SERVERS_MAX: usize = 512;

/// Bytes of entries in the answer to a batch at most; what does not fit is left out, as if unknown.
const BATCH_ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How long an entry that expired may still stand in a list of keys.
const KEYS_TTL: Duration = Duration::from_secs(1);

const CLIENTS_BY_SERVER_TTL: Duration = Duration::from_secs(15);

#[derive(Default)]
pub(super) struct Lists {
    all: Cached,
    visors: Cached,
    by_server: Cached,
}

/// A text that is good until `until`, as long as the store's membership is `membership`.
#[derive(Default)]
struct Cached(Mutex<Option<Text>>);

struct Text {
    membership: u64,
    until: UnixNanos,
    text: Bytes,
}

impl Cached {
    fn text(
        &self,
        membership: u64,
        now: UnixNanos,
        ttl: Duration,
        make: impl FnOnce() -> Result<Bytes, StoreError>,
    ) -> Result<Bytes, StoreError> {
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fresh) = cached
            .as_ref()
            .filter(|c| c.membership == membership && now < c.until && c.until <= now.plus(ttl))
        {
            return Ok(fresh.text.clone());
        }
        let text = make()?;
        *cached = Some(Text { membership, until: now.plus(ttl), text: text.clone() });
        Ok(text)
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
        Ok(cached.text(store.membership(), now, KEYS_TTL, make)?)
    }

    /// `["<key>",…]`.
    pub(in crate::discovery) fn clients_of(
        &self,
        server: &PublicKey,
    ) -> Result<Bytes, RequestError> {
        Ok(keys_text(&self.0.store.clients_of(server, self.now())?))
    }

    /// `{"<server>":["<client>",…],…}`.
    pub(in crate::discovery) fn clients_by_server(&self) -> Result<Bytes, RequestError> {
        let (store, now) = (&self.0.store, self.now());
        let make =
            || Ok(object(store.clients_by_server(now)?.iter().map(|(k, v)| (k, keys_text(v)))));
        Ok(self.0.lists.by_server.text(0, now, CLIENTS_BY_SERVER_TTL, make)?)
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

    /// `{"<key>":<entry>,…}`; unknown keys are left out.
    pub(in crate::discovery) fn batch(&self, keys: &[PublicKey]) -> Result<Bytes, RequestError> {
        let now = self.now();
        let mut keys = keys.to_vec();
        keys.sort_unstable();
        keys.dedup();
        let mut found = Vec::new();
        let mut bytes = 0;
        for key in &keys {
            let Some(record) = self.0.store.find(key, now)? else { continue };
            bytes += record.served.len();
            if bytes > BATCH_ANSWER_BYTES_MAX {
                break;
            }
            found.push((key, record.served.clone()));
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
mod tests {
    use super::*;

    #[test]
    fn a_cached_text_is_made_anew_when_members_change_or_time_is_over() {
        let cached = Cached::default();
        let second = Duration::from_secs(1);
        let at = |seconds: u64| UnixNanos(0).plus(second * u32::try_from(seconds).unwrap_or(0));
        let text = |membership, now, text: &'static str| {
            cached.text(membership, now, second, || Ok(Bytes::from(text))).ok()
        };
        assert_eq!(text(1, at(10), "a"), Some("a".into()));
        assert_eq!(text(1, at(10), "b"), Some("a".into()));
        assert_eq!(text(2, at(10), "c"), Some("c".into()));
        assert_eq!(text(2, at(11), "d"), Some("d".into()));
        // The clock was set back: what was made "later" is not kept for longer than a second either.
        assert_eq!(text(2, at(3), "e"), Some("e".into()));
    }
}
