//! A store without a file, for tests and for deployments that may start empty.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use dmsg_engine::identity::PublicKey;

use super::{
    ClientFilter, Counts, DeleteGuard, Record, Store, StoreError, StoreLimits, Written,
    index::Index,
};
use crate::discovery::UnixNanos;

/// Entries in memory. Writers hold the lock for the moment of one change; readers share it.
#[derive(Debug, Default)]
pub struct MemoryStore {
    index: RwLock<Index>,
    limits: StoreLimits,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new(limits: StoreLimits) -> Self {
        Self { index: RwLock::default(), limits }
    }

    // A poisoned lock means that a panic struck between two steps of one change; the index is then at worst
    // missing a record in a list, which is better than no discovery.

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn limits(&self) -> &StoreLimits {
        &self.limits
    }
}

impl Store for MemoryStore {
    fn find(&self, key: &PublicKey, now: UnixNanos) -> Result<Option<Arc<Record>>, StoreError> {
        Ok(self.read().find(key, now))
    }

    fn put(&self, record: Record, now: UnixNanos) -> Result<Written, StoreError> {
        let mut index = self.write();
        let written = index.check(&record, &self.limits, now)?;
        index.insert(Arc::new(record));
        Ok(written)
    }

    fn delete(
        &self,
        key: &PublicKey,
        guard: DeleteGuard<'_>,
        now: UnixNanos,
    ) -> Result<bool, StoreError> {
        let mut index = self.write();
        let Some(stored) = index.find(key, now) else { return Ok(false) };
        guard(&stored)?;
        index.remove(key);
        Ok(true)
    }

    fn servers(&self, now: UnixNanos) -> Result<Vec<Arc<Record>>, StoreError> {
        Ok(self.read().servers(now))
    }

    fn client_keys(
        &self,
        which: ClientFilter,
        now: UnixNanos,
    ) -> Result<Vec<PublicKey>, StoreError> {
        Ok(self.read().client_keys(which, now))
    }

    fn membership(&self) -> u64 {
        self.read().membership()
    }

    fn clients_of(&self, server: &PublicKey, now: UnixNanos) -> Result<Vec<PublicKey>, StoreError> {
        Ok(self.read().clients_of(server, now))
    }

    fn clients_by_server(
        &self,
        now: UnixNanos,
    ) -> Result<Vec<(PublicKey, Vec<PublicKey>)>, StoreError> {
        Ok(self.read().clients_by_server(now))
    }

    fn expire(&self, now: UnixNanos) -> Result<usize, StoreError> {
        let mut index = self.write();
        let expired = index.expired(now);
        expired.iter().for_each(|key| index.remove(key));
        Ok(expired.len())
    }

    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn counts(&self) -> Counts {
        self.read().counts()
    }
}
