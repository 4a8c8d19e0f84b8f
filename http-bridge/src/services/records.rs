//! What a service has been told: records in memory, written through to a redb file that survives a `kill -9`.
//!
//! ```text
//!   edit ─▶ memory (one lock, never held over an await) ─▶ queue ─▶ writer thread: one transaction and one sync
//!     └────────────────── waits until its change is on disk ◀──────  for all changes that wait by then
//! ```
//!
//! An edit that returned has survived whatever comes; many edits at once share a sync. Answers come from memory only. A
//! record has a deadline, after which it is invisible at once and removed by [`Records::expire`]. Each table is bounded; a
//! full one refuses new keys and goes on taking changes of known ones.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use dmsg_engine::identity::PublicKey;
use serde::{Serialize, de::DeserializeOwned};

use crate::discovery::UnixNanos;

mod database;

pub use database::Database;

/// Why records could not be read or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordsError {
    /// No room for another key.
    #[error(
        "the table {0} is full: it takes new ones when others expire; --entry-timeout shortens that"
    )]
    Full(&'static str),
    /// The disk does not keep up.
    #[error("too many changes wait for the disk")]
    Busy,
    /// The file cannot be opened, read or written.
    #[error("the store {path}: {reason}")]
    Disk {
        /// The file.
        path: String,
        /// What the database or the system says.
        reason: String,
    },
}

/// What is kept.
pub trait Record: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// By which visors it is found.
    fn owners(&self) -> Vec<PublicKey>;
}

/// A change of one record.
pub enum Edit<V> {
    /// Stores it, in place of what is there.
    Put {
        /// The key.
        key: String,
        /// The record.
        value: V,
        /// When it expires.
        deadline: UnixNanos,
    },
    /// Removes it.
    Remove {
        /// The key.
        key: String,
    },
}

/// One table.
pub struct Records<V> {
    name: &'static str,
    max: usize,
    shelf: RwLock<Shelf<V>>,
    version: AtomicU64,
    database: Database,
}

/// The table's content, for reading.
pub struct Shelf<V> {
    records: HashMap<Arc<str>, Stored<V>>,
    by_deadline: BTreeSet<(UnixNanos, Arc<str>)>,
    by_owner: HashMap<PublicKey, HashSet<Arc<str>>>,
}

struct Stored<V> {
    value: Arc<V>,
    deadline: UnixNanos,
}

impl<V: Record> Records<V> {
    /// The table of this name in `database`, at most `max` records; loads what has not expired.
    pub fn open(
        database: &Database,
        name: &'static str,
        max: usize,
        now: UnixNanos,
    ) -> Result<Self, RecordsError> {
        let mut shelf = Shelf::default();
        database.load(name, |key, text| {
            let Ok((deadline, value)) = serde_json::from_slice::<(i64, V)>(text) else {
                return false;
            };
            let deadline = UnixNanos(deadline);
            if deadline > now {
                shelf.insert(key.into(), value, deadline);
            }
            deadline > now
        })?;
        let (shelf, database) = (RwLock::new(shelf), database.clone());
        Ok(Self { name, max, shelf, version: AtomicU64::new(0), database })
    }

    /// The content, for reading.
    pub fn read(&self) -> RwLockReadGuard<'_, Shelf<V>> {
        self.shelf.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that changes with the content, but for what expires.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// How many there are; expired ones count until they are removed.
    #[must_use]
    pub fn count(&self) -> usize {
        self.read().records.len()
    }

    /// What there may be at most.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max
    }

    /// Changes records as `decide` says, which sees the content as it is; both are one step. Returns when the changes
    /// are on disk.
    pub async fn edit<T, E: From<RecordsError>>(
        &self,
        decide: impl FnOnce(&Shelf<V>) -> Result<(T, Vec<Edit<V>>), E>,
    ) -> Result<T, E> {
        let (result, written) = {
            let mut shelf = self.shelf.write().unwrap_or_else(PoisonError::into_inner);
            let (result, edits) = decide(&shelf)?;
            (result, self.apply(&mut shelf, edits)?)
        };
        written.wait().await?;
        Ok(result)
    }

    /// Changes records as `decide` says, without waiting for the disk: a crash may lose what nobody was told of.
    pub fn note(&self, decide: impl FnOnce(&Shelf<V>) -> Vec<Edit<V>>) -> Result<(), RecordsError> {
        let mut shelf = self.shelf.write().unwrap_or_else(PoisonError::into_inner);
        let edits = decide(&shelf);
        self.apply(&mut shelf, edits).map(drop)
    }

    fn apply(
        &self,
        shelf: &mut Shelf<V>,
        edits: Vec<Edit<V>>,
    ) -> Result<database::Written, RecordsError> {
        let changes = !edits.is_empty();
        let new = edits.iter().filter(|edit| match edit {
            Edit::Put { key, .. } => !shelf.records.contains_key(key.as_str()),
            Edit::Remove { .. } => false,
        });
        let new = new.count();
        // A table of a build with a larger limit may be above it, and must still shrink.
        if new > 0 && shelf.records.len() + new > self.max {
            return Err(RecordsError::Full(self.name));
        }
        let texts = edits.iter().map(|edit| match edit {
            Edit::Put { key, value, deadline } => {
                let text = serde_json::to_vec(&(deadline.0, value)).expect("records are JSON");
                (key.clone(), Some(text))
            }
            Edit::Remove { key } => (key.clone(), None),
        });
        // The place in the queue first: without one, nothing has happened.
        let written = self.database.write(self.name, texts.collect())?;
        for edit in edits {
            match edit {
                Edit::Put { key, value, deadline } => shelf.insert(key.into(), value, deadline),
                Edit::Remove { key } => shelf.remove(&key),
            }
        }
        if changes {
            self.version.fetch_add(1, Ordering::Release);
        }
        Ok(written)
    }

    /// Removes what has expired; how many. What finds no place in the queue stays for the next time.
    pub fn expire(&self, now: UnixNanos) -> usize {
        let mut shelf = self.shelf.write().unwrap_or_else(PoisonError::into_inner);
        let due = shelf.by_deadline.iter().take_while(|(deadline, _)| *deadline <= now);
        let edits: Vec<_> = due.map(|(_, key)| Edit::Remove { key: key.to_string() }).collect();
        let count = edits.len();
        if count > 0 && self.apply(&mut shelf, edits).is_err() { 0 } else { count }
    }
}

impl<V> Default for Shelf<V> {
    fn default() -> Self {
        Self { records: HashMap::new(), by_deadline: BTreeSet::new(), by_owner: HashMap::new() }
    }
}

impl<V: Record> Shelf<V> {
    /// The record, unless it expired.
    #[must_use]
    pub fn get(&self, key: &str, now: UnixNanos) -> Option<Arc<V>> {
        self.records
            .get(key)
            .filter(|stored| stored.deadline > now)
            .map(|stored| Arc::clone(&stored.value))
    }

    /// When it expires, if it is there.
    #[must_use]
    pub fn deadline(&self, key: &str) -> Option<UnixNanos> {
        self.records.get(key).map(|stored| stored.deadline)
    }

    /// Everything that has not expired, in no order.
    pub fn all(&self, now: UnixNanos) -> impl Iterator<Item = &Arc<V>> {
        self.records
            .values()
            .filter(move |stored| stored.deadline > now)
            .map(|stored| &stored.value)
    }

    /// What belongs to a visor, in no order.
    #[must_use]
    pub fn of(&self, owner: &PublicKey, now: UnixNanos) -> Vec<Arc<V>> {
        let keys = self.by_owner.get(owner).into_iter().flatten();
        keys.filter_map(|key| self.get(key, now)).collect()
    }

    fn insert(&mut self, key: Arc<str>, value: V, deadline: UnixNanos) {
        self.remove(&key);
        for owner in value.owners() {
            self.by_owner.entry(owner).or_default().insert(Arc::clone(&key));
        }
        self.by_deadline.insert((deadline, Arc::clone(&key)));
        self.records.insert(key, Stored { value: Arc::new(value), deadline });
    }

    fn remove(&mut self, key: &str) {
        let Some((key, stored)) = self.records.remove_entry(key) else { return };
        self.by_deadline.remove(&(stored.deadline, Arc::clone(&key)));
        for owner in stored.value.owners() {
            if let Some(keys) = self.by_owner.get_mut(&owner) {
                keys.remove(&key);
                if keys.is_empty() {
                    self.by_owner.remove(&owner);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
