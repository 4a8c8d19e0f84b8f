//! The index that answers all questions of a store, in memory. Pure: no clock, no lock, no disk.
//!
//! Invariant: `by_deadline`, `servers`, `clients` and `delegators` hold exactly what the records say; each
//! change goes through [`Index::insert`] and [`Index::remove`].

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use dmsg_engine::identity::PublicKey;

use super::{ClientFilter, Counts, Record, StoreError, StoreLimits, Written};
use crate::discovery::{EntryError, UnixNanos};

#[derive(Debug, Default)]
pub(super) struct Index {
    records: HashMap<PublicKey, Arc<Record>>,
    by_deadline: BTreeSet<(UnixNanos, PublicKey)>,
    servers: HashSet<PublicKey>,
    clients: HashSet<PublicKey>,
    delegators: HashMap<PublicKey, HashSet<PublicKey>>,
    community_count: usize,
    text_bytes: usize,
    membership: u64,
}

impl Index {
    pub(super) fn find(&self, key: &PublicKey, now: UnixNanos) -> Option<Arc<Record>> {
        self.records.get(key).filter(|record| record.is_live(now)).cloned()
    }

    /// Whether `record` may be stored: it is newer, and there is room.
    pub(super) fn check(
        &self,
        record: &Record,
        limits: &StoreLimits,
        now: UnixNanos,
    ) -> Result<Written, StoreError> {
        let present = self.records.get(&record.key);
        let stored = present.filter(|stored| stored.is_live(now));
        if let Some(stored) = stored {
            if record.sequence <= stored.sequence {
                return Err(EntryError::SequenceNotGreater.into());
            }
            if record.timestamp < stored.timestamp {
                return Err(EntryError::TimestampBehind.into());
            }
        }
        if present.is_none() && self.records.len() >= limits.entries_max {
            return Err(StoreError::Full("the number of entries"));
        }
        let freed = present.map_or(0, |stored| stored.text_bytes());
        if self.text_bytes - freed + record.text_bytes() > limits.text_bytes_max {
            return Err(StoreError::Full("the size of entries"));
        }
        let joins = is_community(record) && !present.is_some_and(|stored| is_community(stored));
        if joins && self.community_count >= limits.servers_max {
            return Err(StoreError::Full("the number of servers"));
        }
        Ok(if stored.is_some() { Written::Updated } else { Written::Created })
    }

    pub(super) fn insert(&mut self, record: Arc<Record>) {
        let key = record.key;
        let old = self.detach(&key);
        self.text_bytes += record.text_bytes();
        self.community_count += usize::from(is_community(&record));
        self.by_deadline.insert((record.deadline, key));
        if record.server.is_some() {
            self.servers.insert(key);
        }
        if let Some(client) = &record.client {
            self.clients.insert(key);
            for server in &client.delegated {
                self.delegators.entry(*server).or_default().insert(key);
            }
        }
        if old.as_deref().map(listed) != Some(listed(&record)) {
            self.membership += 1;
        }
        self.records.insert(key, record);
    }

    pub(super) fn remove(&mut self, key: &PublicKey) {
        if self.detach(key).is_some() {
            self.membership += 1;
        }
    }

    fn detach(&mut self, key: &PublicKey) -> Option<Arc<Record>> {
        let record = self.records.remove(key)?;
        self.text_bytes -= record.text_bytes();
        self.community_count -= usize::from(is_community(&record));
        self.by_deadline.remove(&(record.deadline, *key));
        self.servers.remove(key);
        self.clients.remove(key);
        for server in record.client.iter().flat_map(|client| client.delegated.iter()) {
            if let Some(keys) = self.delegators.get_mut(server) {
                keys.remove(key);
                if keys.is_empty() {
                    self.delegators.remove(server);
                }
            }
        }
        Some(record)
    }

    /// Keys of the records that expired, earliest first.
    pub(super) fn expired(&self, now: UnixNanos) -> Vec<PublicKey> {
        let due = self.by_deadline.iter().take_while(|(deadline, _)| *deadline <= now);
        due.map(|(_, key)| *key).collect()
    }

    pub(super) fn servers(&self, now: UnixNanos) -> Vec<Arc<Record>> {
        self.servers.iter().filter_map(|key| self.find(key, now)).collect()
    }

    pub(super) fn client_keys(&self, which: ClientFilter, now: UnixNanos) -> Vec<PublicKey> {
        let wanted = |record: &Arc<Record>| {
            let visor = record.client.as_ref().is_some_and(|client| client.visor);
            record.is_live(now) && (visor || which == ClientFilter::All)
        };
        let records = self.clients.iter().filter_map(|key| self.records.get(key));
        records.filter(|record| wanted(record)).map(|record| record.key).collect()
    }

    pub(super) fn clients_of(&self, server: &PublicKey, now: UnixNanos) -> Vec<PublicKey> {
        let keys = self.delegators.get(server).into_iter().flatten();
        keys.filter(|key| self.records.get(key).is_some_and(|r| r.is_live(now))).copied().collect()
    }

    pub(super) fn clients_by_server(&self, now: UnixNanos) -> Vec<(PublicKey, Vec<PublicKey>)> {
        let servers = self.delegators.keys();
        let lists = servers.map(|server| (*server, self.clients_of(server, now)));
        lists.filter(|(_, clients)| !clients.is_empty()).collect()
    }

    pub(super) fn membership(&self) -> u64 {
        self.membership
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            clients: self.clients.len(),
            servers: self.servers.len(),
            entries: self.records.len(),
            text_bytes: self.text_bytes,
        }
    }
}

/// In which lists of client keys a record stands.
fn listed(record: &Record) -> Option<bool> {
    record.client.as_ref().map(|client| client.visor)
}

fn is_community(record: &Record) -> bool {
    record.server.is_some() && !record.is_official()
}
