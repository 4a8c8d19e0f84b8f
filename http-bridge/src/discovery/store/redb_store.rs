//! A store that survives a restart: the in-memory index, written through to a redb file.
//!
//! ```text
//!   key: 33 bytes   value: | 1 | label, 1 byte | deadline, 8 bytes LE | submitted text |
//! ```
//!
//! ```text
//!   put, delete, expire ─▶ index, and queue of changes        at once, in memory
//!   flush ─▶ one writer takes the whole queue ─▶ one transaction, one sync ─▶ all whose changes were in it
//!            the others wait meanwhile, or find theirs in the next
//! ```
//!
//! The service calls [`Store::flush`] before it answers, so a crash loses nothing that anybody was told of; it never leaves a
//! broken file. The more registrations wait, the more share a sync. What a failing disk did not take stays in the queue
//! for the next try. Nobody holds the index or the queue across a disk access, so a slow disk does not slow lookups.

use std::{
    collections::HashMap,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use dmsg_engine::identity::PublicKey;
use redb::{
    Database, DatabaseError, ReadableTable, StorageError, TableDefinition, WriteTransaction,
};

use super::{
    ClientFilter, Counts, DeleteGuard, MemoryStore, Record, ServerLabel, Store, StoreError,
    StoreLimits, Written,
};
use crate::discovery::{EntryError, RawEntry, Signed, UnixNanos};

const ENTRIES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("entries");

/// The layout of values.
const FORMAT: u8 = 1;

/// Bytes before the text of a value.
const HEAD_BYTES: usize = 10;

/// Changed entries that wait for the disk, at most. A sync takes about a millisecond, in which some tens arrive; so many, each
/// of a KiB as a rule, wait only for a disk that fails or stands still.
pub(super) const CHANGES_MAX: usize = 16_384;

/// Entries in a file.
pub struct RedbStore {
    path: PathBuf,
    memory: MemoryStore,
    /// Closed after a failure, as redb wants it, and opened anew for the next write.
    database: Mutex<Option<Database>>,
    queue: Mutex<Queue>,
    written: Condvar,
}

/// Changes in the index that are not in the file.
#[derive(Default)]
struct Queue {
    /// The new record of a key; `None` removes it.
    changes: HashMap<PublicKey, Option<Arc<Record>>>,
    /// How many changes were ever taken, and how many of these, from the first on, are in the file.
    taken: u64,
    kept: u64,
    /// Somebody is at the disk.
    writing: bool,
}

impl Queue {
    /// Room for `count` changes.
    fn check_room(&self, count: usize) -> Result<(), StoreError> {
        if self.changes.len() + count > CHANGES_MAX { Err(StoreError::Behind) } else { Ok(()) }
    }

    fn push(&mut self, key: PublicKey, change: Option<Arc<Record>>) {
        self.changes.insert(key, change);
        self.taken += 1;
    }
}

impl RedbStore {
    /// Opens or creates the file and loads what has not expired at `now`.
    ///
    /// redb answers some damage by a panic (its debug builds most of it), hence the net.
    pub fn open(path: &Path, limits: StoreLimits, now: UnixNanos) -> Result<Self, StoreError> {
        catch_unwind(|| Self::open_or_panic(path, limits, now)).unwrap_or_else(|_| {
            let reason = "a check inside of the database failed".to_owned();
            Err(StoreError::Corrupt { path: path.to_owned(), reason })
        })
    }

    fn open_or_panic(path: &Path, limits: StoreLimits, now: UnixNanos) -> Result<Self, StoreError> {
        let database = Database::create(path).map_err(|error| open_error(path, error))?;
        let store = Self {
            path: path.to_owned(),
            memory: MemoryStore::new(limits),
            database: Mutex::new(Some(database)),
            queue: Mutex::default(),
            written: Condvar::new(),
        };
        store.load(now)?;
        Ok(store)
    }

    /// Reads every record; expired ones and such as do not parse are dropped from the file.
    fn load(&self, now: UnixNanos) -> Result<(), StoreError> {
        let fill = |transaction: &WriteTransaction| -> Result<(), redb::Error> {
            let mut table = transaction.open_table(ENTRIES)?;
            let mut index = self.memory.write();
            let mut dropped = Vec::new();
            for item in table.iter()? {
                let (key, value) = item?;
                match decode(value.value()) {
                    Some(record) if record.is_live(now) => index.insert(Arc::new(record)),
                    _ => dropped.push(key.value().to_vec()),
                }
            }
            for key in &dropped {
                table.remove(&**key)?;
            }
            Ok(())
        };
        self.transact(fill)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn transact(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        let mut slot = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken out: whatever happens here, a failure closes it.
        let database = match slot.take() {
            Some(database) => database,
            None => Database::create(&self.path).map_err(|error| open_error(&self.path, error))?,
        };
        let run = || -> Result<(), redb::Error> {
            let transaction = database.begin_write()?;
            change(&transaction)?;
            Ok(transaction.commit()?)
        };
        run().map_err(|error| self.error(&error))?;
        *slot = Some(database);
        Ok(())
    }

    /// Writes changes and waits for the disk. A panic of the database must not leave the others waiting.
    fn write(&self, changes: &HashMap<PublicKey, Option<Arc<Record>>>) -> Result<(), StoreError> {
        let write = |transaction: &WriteTransaction| -> Result<(), redb::Error> {
            let mut table = transaction.open_table(ENTRIES)?;
            for (key, change) in changes {
                match change {
                    Some(record) => drop(table.insert(&key.as_bytes()[..], &*encode(record))?),
                    None => drop(table.remove(&key.as_bytes()[..])?),
                }
            }
            Ok(())
        };
        catch_unwind(AssertUnwindSafe(|| self.transact(write))).unwrap_or_else(|_| {
            let reason = "a check inside of the database failed".to_owned();
            Err(StoreError::Corrupt { path: self.path.clone(), reason })
        })
    }

    fn error(&self, error: &redb::Error) -> StoreError {
        let (path, reason) = (self.path.clone(), error.to_string());
        match error {
            redb::Error::Corrupted(_)
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TypeDefinitionChanged { .. } => StoreError::Corrupt { path, reason },
            _ => StoreError::Io { path, reason },
        }
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            tracing::warn!(%error, "the last changes of the discovery's store may be lost");
        }
    }
}

impl Store for RedbStore {
    fn find(&self, key: &PublicKey, now: UnixNanos) -> Result<Option<Arc<Record>>, StoreError> {
        self.memory.find(key, now)
    }

    fn put(&self, record: Record, now: UnixNanos) -> Result<Written, StoreError> {
        let mut index = self.memory.write();
        let mut queue = self.queue();
        queue.check_room(1)?;
        let written = index.check(&record, self.memory.limits(), now)?;
        let record = Arc::new(record);
        queue.push(record.key, Some(Arc::clone(&record)));
        index.insert(record);
        Ok(written)
    }

    fn delete(
        &self,
        key: &PublicKey,
        guard: DeleteGuard<'_>,
        now: UnixNanos,
    ) -> Result<bool, StoreError> {
        let mut index = self.memory.write();
        let Some(stored) = index.find(key, now) else { return Ok(false) };
        guard(&stored)?;
        let mut queue = self.queue();
        queue.check_room(1)?;
        queue.push(*key, None);
        index.remove(key);
        Ok(true)
    }

    fn servers(&self, now: UnixNanos) -> Result<Vec<Arc<Record>>, StoreError> {
        self.memory.servers(now)
    }

    fn client_keys(
        &self,
        which: ClientFilter,
        now: UnixNanos,
    ) -> Result<Vec<PublicKey>, StoreError> {
        self.memory.client_keys(which, now)
    }

    fn membership(&self) -> u64 {
        self.memory.membership()
    }

    fn clients_of(&self, server: &PublicKey, now: UnixNanos) -> Result<Vec<PublicKey>, StoreError> {
        self.memory.clients_of(server, now)
    }

    fn clients_by_server(
        &self,
        now: UnixNanos,
    ) -> Result<Vec<(PublicKey, Vec<PublicKey>)>, StoreError> {
        self.memory.clients_by_server(now)
    }

    fn expire(&self, now: UnixNanos) -> Result<usize, StoreError> {
        let mut index = self.memory.write();
        let mut expired = index.expired(now);
        let mut queue = self.queue();
        // What finds no room stays invisible until the next time.
        expired.truncate(CHANGES_MAX.saturating_sub(queue.changes.len()));
        for key in &expired {
            queue.push(*key, None);
            index.remove(key);
        }
        Ok(expired.len())
    }

    fn flush(&self) -> Result<(), StoreError> {
        let mut queue = self.queue();
        let own = queue.taken;
        while queue.kept < own {
            if queue.writing {
                queue = self.written.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            queue.writing = true;
            let (changes, last) = (mem::take(&mut queue.changes), queue.taken);
            drop(queue);
            let result = self.write(&changes);
            queue = self.queue();
            queue.writing = false;
            self.written.notify_all();
            if let Err(error) = result {
                for (key, change) in changes {
                    queue.changes.entry(key).or_insert(change);
                }
                return Err(error);
            }
            queue.kept = last;
        }
        Ok(())
    }

    fn counts(&self) -> Counts {
        self.memory.counts()
    }
}

fn encode(record: &Record) -> Vec<u8> {
    let label = record.server.map_or(0, |server| match server.label {
        ServerLabel::Official => 1,
        ServerLabel::Community => 2,
    });
    let mut value = Vec::with_capacity(HEAD_BYTES + record.submitted.len());
    value.extend([FORMAT, label]);
    value.extend(record.deadline.0.to_le_bytes());
    value.extend(&record.submitted);
    value
}

/// A record as it was stored. Its signature was checked then; checking 200,000 again would take many seconds
/// of a restart, and whoever can write the file can also replace the program.
fn decode(value: &[u8]) -> Option<Record> {
    let (head, text) = value.split_at_checked(HEAD_BYTES)?;
    let (&[FORMAT, label], deadline) = head.split_at_checked(2)? else { return None };
    let label = if label == 1 { ServerLabel::Official } else { ServerLabel::Community };
    let deadline = UnixNanos(i64::from_le_bytes(deadline.try_into().ok()?));
    let raw = RawEntry::parse(text).ok()?;
    Record::new(&raw, Signed::Text, label, deadline).ok()
}

fn open_error(path: &Path, error: DatabaseError) -> StoreError {
    let reason = error.to_string();
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::Locked(path),
        DatabaseError::Storage(StorageError::Io(error))
            if error.kind() != std::io::ErrorKind::InvalidData
                && error.kind() != std::io::ErrorKind::UnexpectedEof =>
        {
            StoreError::Io { path, reason }
        }
        _ => StoreError::Corrupt { path, reason },
    }
}

impl StoreError {
    /// The protocol error to answer with, if this is one.
    #[must_use]
    pub fn entry(&self) -> Option<EntryError> {
        match self {
            Self::Entry(error) => Some(*error),
            _ => None,
        }
    }
}
