//! Entries in a Redis or a Redis Cluster, for a discovery that outgrows one machine: any number of discovery processes
//! serve the same entries, and none of them keeps any.
//!
//! ```text
//!   put     read ─ is it newer? ─ compare and set ─▶ places in the sets      again if somebody was faster
//!   find    read
//!   expire  Redis itself, for the texts; due keys leave the sets
//! ```
//!
//! What follows from that, beside the other stores:
//! - an entry is one atomic step, its places in the lists follow a moment later (`redis_keys`);
//! - a list of keys may show an entry for about a second after it expired, or not yet one that another process took;
//! - limits count what was there at the last maintenance, so that several processes can go beyond them by what they
//!   take within a second;
//! - a Redis that does not answer within 2 s is [`StoreError::Unavailable`]; it is reached again by itself.
//!
//! Methods wait on the runtime that was there at [`RedisStore::connect`]: call them on another thread, as
//! [`Store::is_local`] says.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use dmsg_engine::identity::PublicKey;
use redis::RedisError;
use tokio::runtime::Handle;

use super::{
    ClientFilter, Counts, DeleteGuard, Record, ServerLabel, Store, StoreError, StoreLimits,
    Written,
    redis_keys::{CLIENTS, Places, Redis, SERVERS, VISORS},
};
use crate::discovery::{EntryError, RawEntry, Signed, UnixNanos};

/// How often an entry is read again because somebody else wrote it meanwhile. One key has one owner, so once is rare.
const WRITE_TRIES_MAX: usize = 5;

const NANOS_PER_MILLI: i64 = 1_000_000;

/// When to look again at an entry that should have expired and has not: a server's refresh interval.
const LOOK_AGAIN_MS: i64 = 60_000;

const NOWHERE: Places = Places { server: false, client: false, visor: false };

/// Entries in Redis.
pub struct RedisStore {
    redis: Redis,
    runtime: Handle,
    limits: StoreLimits,
    membership: AtomicU64,
    counts: Mutex<Seen>,
}

/// What was there at the last maintenance.
#[derive(Default)]
struct Seen {
    counts: Counts,
    community_count: usize,
}

impl RedisStore {
    /// Whether this is the address of a Redis that can be reached from here; nothing is dialled.
    #[must_use]
    pub fn is_address(url: &str) -> bool {
        redis::Client::open(url).is_ok()
    }

    /// Connects to the Redis at a `redis://` or `redis+unix://` address, or, for several addresses, to the Cluster that they
    /// belong to. Methods will wait on the current runtime.
    ///
    /// # Errors
    /// No answer, or no address.
    pub async fn connect(urls: &[String], limits: StoreLimits) -> Result<Self, StoreError> {
        let redis = Redis::connect(urls).await.map_err(unavailable)?;
        let store = Self {
            redis,
            runtime: Handle::current(),
            limits,
            membership: AtomicU64::new(0),
            counts: Mutex::default(),
        };
        store.look_around().await?;
        Ok(store)
    }

    fn wait<T>(&self, work: impl Future<Output = Result<T, RedisError>>) -> Result<T, StoreError> {
        self.runtime.block_on(work).map_err(unavailable)
    }

    /// Notes how full the store is.
    async fn look_around(&self) -> Result<(), StoreError> {
        let (clients, servers) =
            futures_util::try_join!(self.redis.count(CLIENTS), self.records(SERVERS))
                .map_err(unavailable)?;
        let text_bytes = servers.iter().map(|record| record.text_bytes()).sum();
        let community_count = servers.iter().filter(|record| !record.is_official()).count();
        let entries = clients + servers.iter().filter(|record| record.client.is_none()).count();
        let counts = Counts { clients, servers: servers.len(), entries, text_bytes };
        *self.seen() = Seen { counts, community_count };
        Ok(())
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The records of a set's members that are still there.
    async fn records(&self, set: &str) -> Result<Vec<Arc<Record>>, RedisError> {
        let keys = self.redis.members(set).await?;
        let texts = self.redis.texts(&keys).await?;
        let texts = keys.iter().zip(texts);
        Ok(texts.filter_map(|(key, text)| read(key, &text?)).map(Arc::new).collect())
    }

    /// Whether a new key has room, as far as the last maintenance saw.
    fn check_room(&self, record: &Record) -> Result<(), StoreError> {
        let seen = self.seen();
        if seen.counts.entries >= self.limits.entries_max {
            return Err(StoreError::Full("the number of entries"));
        }
        let is_community = record.server.is_some() && !record.is_official();
        if is_community && seen.community_count >= self.limits.servers_max {
            return Err(StoreError::Full("the number of servers"));
        }
        Ok(())
    }

    /// Gives an entry its places again that another process took while its predecessor's were removed.
    fn put_back(&self, key: &str, now_ms: i64) -> Result<(), StoreError> {
        let Some(record) = self.wait(self.redis.text(key))?.and_then(|text| read(key, &text))
        else {
            return Ok(());
        };
        self.wait(self.redis.place(key, places(&record), Some(now_ms + LOOK_AGAIN_MS)))
    }

    /// The lists by server, made of all clients' entries.
    fn delegators(&self) -> Result<HashMap<PublicKey, Vec<PublicKey>>, StoreError> {
        let clients = self.wait(self.records(CLIENTS))?;
        let mut lists: HashMap<PublicKey, Vec<PublicKey>> = HashMap::new();
        for record in clients {
            for server in record.client.iter().flat_map(|client| client.delegated.iter()) {
                lists.entry(*server).or_default().push(record.key);
            }
        }
        Ok(lists)
    }
}

impl Store for RedisStore {
    fn is_local(&self) -> bool {
        false
    }

    fn find(&self, key: &PublicKey, _now: UnixNanos) -> Result<Option<Arc<Record>>, StoreError> {
        let key = key.to_string();
        let text = self.wait(self.redis.text(&key))?;
        Ok(text.and_then(|text| read(&key, &text)).map(Arc::new))
    }

    /// In commands of many keys rather than one by one.
    fn find_all(
        &self,
        keys: &[PublicKey],
        _now: UnixNanos,
    ) -> Result<Vec<Option<Arc<Record>>>, StoreError> {
        let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
        let texts = self.wait(self.redis.texts(&keys))?;
        let texts = keys.iter().zip(texts);
        Ok(texts.map(|(key, text)| read(key, &text?).map(Arc::new)).collect())
    }

    fn put(&self, record: Record, now: UnixNanos) -> Result<Written, StoreError> {
        let key = record.key.to_string();
        let deadline_ms =
            (record.deadline != UnixNanos::NEVER).then_some(record.deadline.0 / NANOS_PER_MILLI);
        // 0 means for ever; an entry that is past its time lives for a moment rather than for ever.
        let ttl_ms =
            deadline_ms.map_or(0, |at| (at - now.0 / NANOS_PER_MILLI).max(1).unsigned_abs());
        for _ in 0..WRITE_TRIES_MAX {
            let old = self.wait(self.redis.text(&key))?.unwrap_or_default();
            let stored = read(&key, &old);
            match &stored {
                Some(stored) => check_newer(&record, stored)?,
                None => self.check_room(&record)?,
            }
            if self.wait(self.redis.compare_and_set(&key, &old, &record.served, ttl_ms))? {
                let places = places(&record);
                self.wait(self.redis.place(&key, places, deadline_ms))?;
                if stored.as_ref().map(self::places) != Some(places) {
                    self.membership.fetch_add(1, Ordering::Relaxed);
                }
                return Ok(if stored.is_some() { Written::Updated } else { Written::Created });
            }
        }
        Err(StoreError::Contended(WRITE_TRIES_MAX))
    }

    fn delete(
        &self,
        key: &PublicKey,
        guard: DeleteGuard<'_>,
        _now: UnixNanos,
    ) -> Result<bool, StoreError> {
        let key = key.to_string();
        for _ in 0..WRITE_TRIES_MAX {
            let old = self.wait(self.redis.text(&key))?.unwrap_or_default();
            let Some(stored) = read(&key, &old) else { return Ok(false) };
            guard(&stored)?;
            if self.wait(self.redis.compare_and_set(&key, &old, b"", 0))? {
                self.wait(self.redis.place(&key, NOWHERE, None))?;
                self.membership.fetch_add(1, Ordering::Relaxed);
                return Ok(true);
            }
        }
        Err(StoreError::Contended(WRITE_TRIES_MAX))
    }

    fn servers(&self, _now: UnixNanos) -> Result<Vec<Arc<Record>>, StoreError> {
        self.wait(self.records(SERVERS))
    }

    fn client_keys(
        &self,
        which: ClientFilter,
        _now: UnixNanos,
    ) -> Result<Vec<PublicKey>, StoreError> {
        let set = match which {
            ClientFilter::All => CLIENTS,
            ClientFilter::Visors => VISORS,
        };
        let keys = self.wait(self.redis.members(set))?;
        Ok(keys.iter().filter_map(|key| key.parse().ok()).collect())
    }

    /// Counts this process's own changes; those of others show when the lists are made anew, within a second.
    fn membership(&self) -> u64 {
        self.membership.load(Ordering::Relaxed)
    }

    fn clients_of(
        &self,
        server: &PublicKey,
        _now: UnixNanos,
    ) -> Result<Vec<PublicKey>, StoreError> {
        Ok(self.delegators()?.remove(server).unwrap_or_default())
    }

    fn clients_by_server(
        &self,
        _now: UnixNanos,
    ) -> Result<Vec<(PublicKey, Vec<PublicKey>)>, StoreError> {
        Ok(self.delegators()?.into_iter().collect())
    }

    fn expire(&self, now: UnixNanos) -> Result<usize, StoreError> {
        let now_ms = now.0 / NANOS_PER_MILLI;
        let due = self.wait(self.redis.due(now_ms))?;
        let texts = self.wait(self.redis.texts(&due))?;
        let mut expired = 0;
        for (key, text) in due.iter().zip(texts) {
            if text.is_some() {
                // Somebody wrote it and did not get to the sets.
                self.wait(self.redis.look_again(key, now_ms + LOOK_AGAIN_MS))?;
            } else {
                self.wait(self.redis.place(key, NOWHERE, None))?;
                expired += 1;
                self.put_back(key, now_ms)?;
            }
        }
        if expired > 0 {
            self.membership.fetch_add(1, Ordering::Relaxed);
        }
        self.runtime.block_on(self.look_around())?;
        Ok(expired)
    }

    /// Redis answers for what it took, as far as its own configuration goes.
    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn counts(&self) -> Counts {
        self.seen().counts
    }
}

fn places(record: &Record) -> Places {
    Places {
        server: record.server.is_some(),
        client: record.client.is_some(),
        visor: record.client.as_ref().is_some_and(|client| client.visor),
    }
}

fn check_newer(record: &Record, stored: &Record) -> Result<(), StoreError> {
    if record.sequence <= stored.sequence {
        return Err(EntryError::SequenceNotGreater.into());
    }
    if record.timestamp < stored.timestamp {
        return Err(EntryError::TimestampBehind.into());
    }
    Ok(())
}

/// A record as it is served. It says itself which label it has; how long it stays is known to Redis alone. A text that
/// does not parse, is longer than an entry, or is the entry of another key, is as good as absent, and is replaced by the next
/// registration.
fn read(key: &str, text: &[u8]) -> Option<Record> {
    let raw = RawEntry::parse(text).ok()?;
    if raw.entry().key?.to_string() != key {
        return None;
    }
    let official = ServerLabel::Official.as_str();
    let claimed = raw.entry().server.as_ref().map(|server| server.server_type.as_str());
    let label =
        if claimed == Some(official) { ServerLabel::Official } else { ServerLabel::Community };
    Record::new(&raw, Signed::Text, label, UnixNanos::NEVER).ok()
}

#[allow(clippy::needless_pass_by_value)]
fn unavailable(error: RedisError) -> StoreError {
    StoreError::Unavailable(error.to_string())
}
