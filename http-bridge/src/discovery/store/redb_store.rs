//! A store that survives a restart: the in-memory index, written through to a redb file.
//!
//! ```text
//!   key: 33 bytes   value: | 1 | label, 1 byte | deadline, 8 bytes LE | submitted text |
//! ```
//!
//! Each change is a transaction of its own that does not wait for the disk; [`Store::flush`] makes the changes so far
//! durable with one sync, for all who wait for it. The service calls it before it answers, so a crash loses nothing that
//! anybody was told of; it never leaves a broken file.
//!
//! Writers take `writing` for the whole change; readers take only the index, which no one holds across a
//! disk access, so a slow disk does not slow lookups.

use std::{
    panic::catch_unwind,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use dmsg_engine::identity::PublicKey;
use redb::{
    Database, DatabaseError, Durability, ReadableTable, StorageError, TableDefinition,
    WriteTransaction,
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

/// Entries in a file.
pub struct RedbStore {
    path: PathBuf,
    memory: MemoryStore,
    database: Database,
    writing: Mutex<()>,
    dirty: AtomicBool,
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
            database,
            writing: Mutex::default(),
            dirty: AtomicBool::new(false),
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
        self.transact(Durability::Immediate, fill)
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn transact(
        &self,
        durability: Durability,
        change: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        let run = || -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(durability)?;
            change(&transaction)?;
            Ok(transaction.commit()?)
        };
        run().map_err(|error| self.error(&error))?;
        self.dirty.store(matches!(durability, Durability::None), Ordering::Relaxed);
        Ok(())
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

    fn remove_all(&self, keys: &[PublicKey]) -> Result<(), StoreError> {
        self.transact(Durability::None, |transaction| {
            let mut table = transaction.open_table(ENTRIES)?;
            for key in keys {
                table.remove(&key.as_bytes()[..])?;
            }
            Ok(())
        })?;
        let mut index = self.memory.write();
        keys.iter().for_each(|key| index.remove(key));
        Ok(())
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
        let _writing = self.lock();
        let written = self.memory.read().check(&record, self.memory.limits(), now)?;
        self.transact(Durability::None, |transaction| {
            let mut table = transaction.open_table(ENTRIES)?;
            table.insert(&record.key.as_bytes()[..], &*encode(&record))?;
            Ok(())
        })?;
        self.memory.write().insert(Arc::new(record));
        Ok(written)
    }

    fn delete(
        &self,
        key: &PublicKey,
        guard: DeleteGuard<'_>,
        now: UnixNanos,
    ) -> Result<bool, StoreError> {
        let _writing = self.lock();
        let Some(stored) = self.memory.read().find(key, now) else { return Ok(false) };
        guard(&stored)?;
        self.remove_all(&[*key])?;
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
        let _writing = self.lock();
        let expired = self.memory.read().expired(now);
        if !expired.is_empty() {
            self.remove_all(&expired)?;
        }
        Ok(expired.len())
    }

    fn flush(&self) -> Result<(), StoreError> {
        let _writing = self.lock();
        if !self.dirty.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.transact(Durability::Immediate, |_| Ok(()))
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
