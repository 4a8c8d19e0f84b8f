//! The file behind the tables, and the thread that writes it.
//!
//! ```text
//!   table: key → (deadline, record) as JSON
//! ```
//!
//! A commit waits for the disk, so a change that was acknowledged survives a kill and a power cut. The thread takes
//! everything that waits into one transaction: under load the cost of the sync is shared.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
};

use redb::{ReadableDatabase, ReadableTable, TableDefinition, TableError};
use tokio::sync::oneshot;

use super::RecordsError;

/// Edits that may wait for the disk. At 2 ms a sync they are gone with the next one; each holds a few KiB at most.
const QUEUE_MAX: usize = 4096;

/// Edits of one transaction at most.
const BATCH_MAX: usize = 1024;

/// A file of tables, or nothing at all. Cheap to clone.
#[derive(Clone, Default)]
pub struct Database(Option<Arc<File>>);

struct File {
    path: PathBuf,
    slot: Slot,
    queue: Option<SyncSender<Change>>,
    writer: Option<thread::JoinHandle<()>>,
}

/// The open file. redb answers nothing any more after an error of the disk until it is opened anew, so that takes it out.
type Slot = Arc<Mutex<Option<redb::Database>>>;

struct Change {
    table: &'static str,
    texts: Vec<(String, Option<Vec<u8>>)>,
    done: oneshot::Sender<Result<(), String>>,
}

/// A change on its way to the disk.
pub(super) struct Written(Option<(oneshot::Receiver<Result<(), String>>, PathBuf)>);

impl Written {
    /// Until it is there.
    pub(super) async fn wait(self) -> Result<(), RecordsError> {
        let Some((done, path)) = self.0 else { return Ok(()) };
        let result = done.await.unwrap_or_else(|_| Err("the writer has ended".to_owned()));
        result.map_err(|reason| disk(&path, reason))
    }
}

impl Database {
    /// No file: everything is forgotten at the end.
    #[must_use]
    pub fn memory() -> Self {
        Self(None)
    }

    /// Opens or creates the file.
    pub fn open(path: &Path) -> Result<Self, RecordsError> {
        // redb answers some damage by a panic, hence the net.
        let opened = catch_unwind(|| redb::Database::create(path))
            .map_err(|_| disk(path, "a check inside of the database failed: it is damaged"))?;
        let database = opened.map_err(|error| {
            disk(
                path,
                format!("{error}: it is in use, damaged, or not ours; move it away to start empty"),
            )
        })?;
        let slot = Arc::new(Mutex::new(Some(database)));
        let (queue, changes) = sync_channel(QUEUE_MAX);
        let (place, written) = (path.to_owned(), Arc::clone(&slot));
        let writer = thread::Builder::new()
            .name("dmsg-records".to_owned())
            .spawn(move || write_all(&place, &written, &changes))
            .map_err(|error| disk(path, error.to_string()))?;
        let file = File { path: path.to_owned(), slot, queue: Some(queue), writer: Some(writer) };
        Ok(Self(Some(Arc::new(file))))
    }

    /// Reads a table; what `take` does not take is dropped from the file.
    pub(super) fn load(
        &self,
        table: &'static str,
        mut take: impl FnMut(&str, &[u8]) -> bool,
    ) -> Result<(), RecordsError> {
        let Some(file) = &self.0 else { return Ok(()) };
        let mut read = || -> Result<Vec<String>, redb::Error> {
            let mut dropped = Vec::new();
            let slot = file.slot.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(database) = &*slot else { return Err(redb::Error::PreviousIo) };
            let transaction = database.begin_read()?;
            let table = match transaction.open_table(definition(table)) {
                Ok(table) => table,
                Err(TableError::TableDoesNotExist(_)) => return Ok(dropped),
                Err(error) => return Err(error.into()),
            };
            for item in table.iter()? {
                let (key, value) = item?;
                if !take(key.value(), value.value()) {
                    dropped.push(key.value().to_owned());
                }
            }
            Ok(dropped)
        };
        let read = catch_unwind(AssertUnwindSafe(&mut read)).map_err(|_| {
            disk(&file.path, "a check inside of the database failed: it is damaged")
        })?;
        let dropped = read.map_err(|error| disk(&file.path, error.to_string()))?;
        if !dropped.is_empty() {
            self.write(table, dropped.into_iter().map(|key| (key, None)).collect())?;
        }
        Ok(())
    }

    /// Puts changes into the queue; refuses when it is full.
    pub(super) fn write(
        &self,
        table: &'static str,
        texts: Vec<(String, Option<Vec<u8>>)>,
    ) -> Result<Written, RecordsError> {
        let Some(file) = self.0.as_ref().filter(|_| !texts.is_empty()) else {
            return Ok(Written(None));
        };
        let (done, wait) = oneshot::channel();
        let queue = file.queue.as_ref().expect("taken at the end only");
        match queue.try_send(Change { table, texts, done }) {
            Ok(()) => Ok(Written(Some((wait, file.path.clone())))),
            Err(TrySendError::Full(_)) => Err(RecordsError::Busy),
            Err(TrySendError::Disconnected(_)) => Err(disk(&file.path, "the writer has ended")),
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // The writer ends when it has written what is in the queue.
        drop(self.queue.take());
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!(path = %self.path.display(), "the last changes may be lost");
        }
    }
}

fn definition(table: &'static str) -> TableDefinition<'static, &'static str, &'static [u8]> {
    TableDefinition::new(table)
}

/// Writes until the queue is closed.
fn write_all(path: &Path, slot: &Slot, changes: &Receiver<Change>) {
    while let Ok(first) = changes.recv() {
        let mut batch = vec![first];
        batch.extend(changes.try_iter().take(BATCH_MAX - 1));
        let result = write_batch(path, slot, &batch).map_err(|error| error.to_string());
        if let Err(error) = &result {
            tracing::error!(%error, "records could not be written: check the disk's space");
        }
        for change in batch {
            // Whoever does not wait any more does not care.
            let _ = change.done.send(result.clone());
        }
    }
}

fn write_batch(path: &Path, slot: &Slot, batch: &[Change]) -> Result<(), redb::Error> {
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    let database = match slot.take() {
        Some(database) => database,
        None => redb::Database::create(path)?,
    };
    let transaction = database.begin_write()?;
    for change in batch {
        let mut table = transaction.open_table(definition(change.table))?;
        for (key, text) in &change.texts {
            match text {
                Some(text) => drop(table.insert(key.as_str(), text.as_slice())?),
                None => drop(table.remove(key.as_str())?),
            }
        }
    }
    transaction.commit()?;
    *slot = Some(database);
    Ok(())
}

fn disk(path: &Path, reason: impl Into<String>) -> RecordsError {
    RecordsError::Disk { path: path.display().to_string(), reason: reason.into() }
}
