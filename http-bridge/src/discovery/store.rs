//! Where a discovery keeps its entries (`discovery.md §4.3`).
//!
//! ```text
//!   Store ─┬─ MemoryStore   one index in memory
//!          ├─ RedbStore     the same index, written through to a file that survives a restart
//!          └─ RedisStore    entries in a Redis or a Redis Cluster, shared by several discoveries
//!   index: key → record · by deadline · servers · clients · server → its clients
//! ```
//!
//! Answers of the first two come from memory, and none scans all entries but the lists of all keys. Expired records
//! are invisible at once; [`Store::expire`] removes them in the order of their deadlines. Deadlines are
//! wall-clock times, so they hold over a restart. A store is bounded by [`StoreLimits`].

use std::{path::PathBuf, sync::Arc};

use dmsg_engine::identity::PublicKey;

use super::{EntryError, UnixNanos};

mod index;
mod memory;
mod record;
mod redb_store;
mod redis_keys;
mod redis_store;

pub use memory::MemoryStore;
pub use record::{Record, ServerLabel};
pub use redb_store::RedbStore;
pub use redis_store::RedisStore;

/// Servers of a discovery at most, official ones not counted; the deployed network has about thirty. With
/// [`SERVER_ENTRY_BYTES_MAX`](super::SERVER_ENTRY_BYTES_MAX) each, the list of all is at most 16 MiB.
pub const SERVERS_MAX: usize = 2048;

/// How much a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreLimits {
    /// Entries. A client's entry with two servers is 520 bytes of text and about 500 bytes of indexes, so
    /// the default of 200,000 takes about 200 MiB.
    pub entries_max: usize,
    /// Bytes of entry texts. The default, 256 MiB, is twice what 200,000 usual entries take; it bounds the
    /// unusual ones of 64 KiB.
    pub text_bytes_max: usize,
    /// Servers that are not official; [`SERVERS_MAX`].
    pub servers_max: usize,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self { entries_max: 200_000, text_bytes_max: 256 * 1024 * 1024, servers_max: SERVERS_MAX }
    }
}

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The entry breaks a rule of the protocol.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// No room for another key.
    #[error("the store is full: {0} is at its limit; it takes new ones when others expire")]
    Full(&'static str),
    /// Another process has the file open.
    #[error("the store {0} is in use by another process; stop it, or choose another file")]
    Locked(PathBuf),
    /// The file is no store, or a damaged one.
    #[error(
        "the store {path} cannot be read ({reason}): it is damaged or no store of ours; move it away and \
         start empty, the network registers anew within minutes"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What the database says.
        reason: String,
    },
    /// The disk failed.
    #[error(
        "the store {path} cannot be written or read ({reason}): check the disk's space and permissions"
    )]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// Redis did not answer.
    #[error(
        "the Redis store did not answer ({0}): it is down, overloaded, or its address is wrong"
    )]
    Unavailable(String),
    /// The disk does not keep up, or fails.
    #[error("too many changes wait for the store's disk: it fails, is full, or too slow")]
    Behind,
    /// Others wrote the same entry again and again while we tried.
    #[error("the entry was changed by others {0} times while it was written; try again")]
    Contended(usize),
}

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The key had no entry.
    Created,
    /// A newer iteration replaced the entry.
    Updated,
}

/// Which client keys to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientFilter {
    /// Every client.
    All,
    /// Those with `client_type` `visor`.
    Visors,
}

/// How full a store is. Expired entries count until they are removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Entries with a client part.
    pub clients: usize,
    /// Entries with a server part.
    pub servers: usize,
    /// Entries.
    pub entries: usize,
    /// Bytes of texts.
    pub text_bytes: usize,
}

/// The decision whether a stored record may be deleted.
pub type DeleteGuard<'a> = &'a dyn Fn(&Record) -> Result<(), EntryError>;

/// Keeps the entries. Methods that change something may wait for the disk, and where [`Store::is_local`] is false
/// every method may wait for the network but [`Store::membership`] and [`Store::counts`]; call them where that is allowed.
pub trait Store: Send + Sync + 'static {
    /// Whether questions are answered from memory, without waiting.
    fn is_local(&self) -> bool {
        true
    }

    /// The record of `key`, unless it expired.
    fn find(&self, key: &PublicKey, now: UnixNanos) -> Result<Option<Arc<Record>>, StoreError>;

    /// The records of these keys, in their order.
    fn find_all(
        &self,
        keys: &[PublicKey],
        now: UnixNanos,
    ) -> Result<Vec<Option<Arc<Record>>>, StoreError> {
        keys.iter().map(|key| self.find(key, now)).collect()
    }

    /// Stores `record` if it is newer than what is stored for its key; both happen as one step.
    fn put(&self, record: Record, now: UnixNanos) -> Result<Written, StoreError>;

    /// Deletes the record of `key` if `guard` allows it, as one step. Whether there was one.
    fn delete(
        &self,
        key: &PublicKey,
        guard: DeleteGuard<'_>,
        now: UnixNanos,
    ) -> Result<bool, StoreError>;

    /// All servers, in no order.
    fn servers(&self, now: UnixNanos) -> Result<Vec<Arc<Record>>, StoreError>;

    /// The keys of clients, in no order.
    fn client_keys(
        &self,
        which: ClientFilter,
        now: UnixNanos,
    ) -> Result<Vec<PublicKey>, StoreError>;

    /// A number that changes whenever a key joins or leaves the lists of [`Store::client_keys`] other
    /// than by expiry.
    fn membership(&self) -> u64;

    /// The clients that delegate to `server`.
    fn clients_of(&self, server: &PublicKey, now: UnixNanos) -> Result<Vec<PublicKey>, StoreError>;

    /// The clients of every server that one delegates to.
    fn clients_by_server(
        &self,
        now: UnixNanos,
    ) -> Result<Vec<(PublicKey, Vec<PublicKey>)>, StoreError>;

    /// Removes what expired; how many.
    fn expire(&self, now: UnixNanos) -> Result<usize, StoreError>;

    /// Makes everything written so far survive a power cut.
    fn flush(&self) -> Result<(), StoreError>;

    /// How full it is.
    fn counts(&self) -> Counts;
}

#[cfg(test)]
mod tests;
