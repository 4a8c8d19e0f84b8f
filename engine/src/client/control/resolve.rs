//! Looking peers up: a cache, and one question per peer under way (`discovery.md §8`).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{sleep_until, timeout},
};

use super::names;
use crate::{
    client::{DialError, DialPhase, Directory, DirectoryError, Tries, machine::ServerTarget},
    identity::PublicKey,
};

/// How long an entry is used without asking again.
const ENTRY_TTL: Duration = Duration::from_secs(5 * 60);

/// How long the absence of a peer is believed.
const ABSENT_TTL: Duration = Duration::from_secs(5);

/// Limit of one question to the directory.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// Entries that are kept. At a few hundred bytes each about 1 MiB.
const ENTRIES_MAX: usize = 4096;

type Answer = Result<Arc<[ServerTarget]>, DialError>;

struct Entry {
    answer: Answer,
    asked_at: Instant,
}

impl Entry {
    fn is_fresh(&self) -> bool {
        let ttl = if self.answer.is_ok() { ENTRY_TTL } else { ABSENT_TTL };
        self.asked_at.elapsed() < ttl
    }
}

/// What is known of peers; shared by all handles, so that a known peer costs no trip to the control
/// thread.
#[derive(Default)]
pub(in crate::client) struct EntryCache(Mutex<HashMap<PublicKey, Entry>>);

impl EntryCache {
    /// The answer for `peer`, if it is fresh.
    pub(in crate::client) fn fresh(&self, peer: &PublicKey) -> Option<Answer> {
        self.lock().get(peer).filter(|entry| entry.is_fresh()).map(|entry| entry.answer.clone())
    }

    /// Drops what is known of `peer`.
    pub(in crate::client) fn forget(&self, peer: &PublicKey) {
        self.lock().remove(peer);
    }

    /// Files an answer. If the directory did not answer at all, what was known before stands, old
    /// as it is.
    fn file(&self, peer: PublicKey, answer: Answer) -> Answer {
        let mut entries = self.lock();
        if matches!(answer, Err(DialError::Directory { .. } | DialError::TimedOut { .. })) {
            let known = entries.get(&peer).filter(|entry| entry.answer.is_ok());
            return known.map_or(answer, |entry| entry.answer.clone());
        }
        if entries.len() >= ENTRIES_MAX && !entries.contains_key(&peer) {
            let oldest =
                entries.iter().min_by_key(|(_, entry)| entry.asked_at).map(|(&key, _)| key);
            oldest.and_then(|key| entries.remove(&key));
        }
        entries.insert(peer, Entry { answer: answer.clone(), asked_at: Instant::now() });
        answer
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PublicKey, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Questions under way.
pub(super) struct Resolver {
    directory: Arc<dyn Directory>,
    cache: Arc<EntryCache>,
    waiting: HashMap<PublicKey, Vec<oneshot::Sender<Answer>>>,
    lookups: JoinSet<(PublicKey, Answer)>,
}

impl Resolver {
    pub(super) fn new(directory: Arc<dyn Directory>, cache: Arc<EntryCache>) -> Self {
        Self { directory, cache, waiting: HashMap::new(), lookups: JoinSet::new() }
    }

    /// Answers `reply` from the cache, or as soon as the directory has answered, or at `deadline`.
    pub(super) fn ask(
        &mut self,
        peer: PublicKey,
        started: Instant,
        deadline: Instant,
        reply: oneshot::Sender<Answer>,
    ) {
        if let Some(answer) = self.cache.fresh(&peer) {
            drop(reply.send(answer));
            return;
        }
        let (answer_to, answer_from) = oneshot::channel();
        tokio::spawn(async move {
            let answer = tokio::select! {
                answer = answer_from => answer.unwrap_or(Err(DialError::Closed)),
                () = sleep_until(deadline.into()) => Err(timed_out(started.elapsed())),
            };
            drop(reply.send(answer));
        });
        let waiting = self.waiting.entry(peer).or_default();
        waiting.push(answer_to);
        if waiting.len() == 1 {
            let directory = Arc::clone(&self.directory);
            self.lookups.spawn(async move { (peer, look_up(&*directory, peer).await) });
        }
    }

    /// Waits for the next answer of the directory and hands it out; for ever if nothing was asked.
    pub(super) async fn advance(&mut self) {
        let Some(done) = self.lookups.join_next().await else {
            return std::future::pending().await;
        };
        match done {
            Ok((peer, answer)) => {
                let answer = self.cache.file(peer, answer);
                for reply in self.waiting.remove(&peer).unwrap_or_default() {
                    drop(reply.send(answer.clone()));
                }
            }
            // The directory panicked. Nobody knows for whom, so all ask again.
            Err(_) => self.waiting.clear(),
        }
    }
}

fn timed_out(elapsed: Duration) -> DialError {
    DialError::TimedOut { phase: DialPhase::Resolve, server: None, elapsed, tries: Tries::new() }
}

async fn look_up(directory: &dyn Directory, peer: PublicKey) -> Answer {
    match timeout(LOOKUP_TIMEOUT, directory.resolve(peer)).await {
        Ok(Ok(records)) if records.is_empty() => Err(DialError::NoDelegatedServers(peer)),
        Ok(Ok(records)) => Ok(names::resolve_all(records).await.into()),
        Ok(Err(DirectoryError::NotFound(_))) => Err(DialError::NotFound(peer)),
        Ok(Err(DirectoryError::Unavailable(reason))) => Err(DialError::Directory { peer, reason }),
        Err(_) => Err(timed_out(LOOKUP_TIMEOUT)),
    }
}
