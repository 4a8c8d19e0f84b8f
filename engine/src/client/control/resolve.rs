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
    client::{
        DialError, DialPhase, Directory, DirectoryError, Memory, Tries, machine::ServerTarget,
    },
    identity::PublicKey,
};

/// After a question that was asked in the background, the next one waits this long, whatever came of it.
const REFRESH_PAUSE: Duration = Duration::from_secs(5);

/// Limit of one question to the directory.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// Entries that are kept. At a few hundred bytes each about 1 MiB.
const ENTRIES_MAX: usize = 4096;

type Answer = Result<Arc<[ServerTarget]>, DialError>;

struct Entry {
    answer: Answer,
    asked_at: Instant,
    /// When it was last asked for again in the background.
    refreshed_at: Option<Instant>,
}

/// What is remembered of a peer that a dial can go on with.
#[derive(Debug)]
pub(in crate::client) struct Known {
    pub(in crate::client) answer: Answer,
    /// It is old: ask the directory again, without waiting for it.
    pub(in crate::client) wants_refresh: bool,
}

/// What is known of peers; shared by all handles, so that a known peer costs no trip to the control
/// thread.
pub(in crate::client) struct EntryCache {
    memory: Memory,
    entries: Mutex<HashMap<PublicKey, Entry>>,
}

impl EntryCache {
    pub(in crate::client) fn new(memory: Memory) -> Self {
        Self { memory, entries: Mutex::default() }
    }

    /// The answer for `peer` to dial with. Of the dials that find it stale, one in [`REFRESH_PAUSE`] is told to
    /// have it asked for again.
    pub(in crate::client) fn look(&self, peer: &PublicKey, now: Instant) -> Option<Known> {
        let mut entries = self.lock();
        let entry = entries.get_mut(peer)?;
        if self.is_fresh(entry, now) {
            return Some(Known { answer: entry.answer.clone(), wants_refresh: false });
        }
        let age = now.duration_since(entry.asked_at);
        if entry.answer.is_err() || age >= self.memory.entry_ttl + self.memory.stale_max {
            return None;
        }
        let paused = entry.refreshed_at.is_some_and(|at| now.duration_since(at) < REFRESH_PAUSE);
        if !paused {
            entry.refreshed_at = Some(now);
        }
        Some(Known { answer: entry.answer.clone(), wants_refresh: !paused })
    }

    /// The answer for `peer`, if it is fresh.
    fn fresh(&self, peer: &PublicKey, now: Instant) -> Option<Answer> {
        self.lock()
            .get(peer)
            .filter(|entry| self.is_fresh(entry, now))
            .map(|entry| entry.answer.clone())
    }

    fn is_fresh(&self, entry: &Entry, now: Instant) -> bool {
        let Memory { entry_ttl, absent_ttl, .. } = self.memory;
        let ttl = if entry.answer.is_ok() { entry_ttl } else { absent_ttl };
        now.duration_since(entry.asked_at) < ttl
    }

    /// Drops what is known of `peer`.
    pub(in crate::client) fn forget(&self, peer: &PublicKey) {
        self.lock().remove(peer);
    }

    /// Files an answer. If the directory did not answer at all, what was known before stands, old
    /// as it is.
    fn file(&self, peer: PublicKey, answer: Answer, now: Instant) -> Answer {
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
        entries.insert(peer, Entry { answer: answer.clone(), asked_at: now, refreshed_at: None });
        answer
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PublicKey, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
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
        if let Some(answer) = self.cache.fresh(&peer, Instant::now()) {
            drop(reply.send(answer));
            return;
        }
        let (answer_to, answer_from) = oneshot::channel();
        tokio::spawn(async move {
            let answer = tokio::select! {
                answer = answer_from => answer.unwrap_or(Err(DialError::Closed)),
                () = sleep_until(deadline.into()) => Err(timed_out(peer, started.elapsed())),
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
                let answer = self.cache.file(peer, answer, Instant::now());
                for reply in self.waiting.remove(&peer).unwrap_or_default() {
                    drop(reply.send(answer.clone()));
                }
            }
            // The directory panicked. Nobody knows for whom, so all ask again.
            Err(_) => self.waiting.clear(),
        }
    }
}

fn timed_out(peer: PublicKey, elapsed: Duration) -> DialError {
    DialError::TimedOut {
        peer: Some(peer),
        phase: DialPhase::Resolve,
        server: None,
        elapsed,
        tries: Tries::new(),
    }
}

async fn look_up(directory: &dyn Directory, peer: PublicKey) -> Answer {
    match timeout(LOOKUP_TIMEOUT, directory.resolve(peer)).await {
        Ok(Ok(records)) if records.is_empty() => Err(DialError::NoDelegatedServers(peer)),
        Ok(Ok(records)) => Ok(names::resolve_all(records).await.into()),
        Ok(Err(DirectoryError::NotFound(_))) => Err(DialError::NotFound(peer)),
        Ok(Err(DirectoryError::Unavailable(reason))) => Err(DialError::Directory { peer, reason }),
        Err(_) => Err(timed_out(peer, LOOKUP_TIMEOUT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::SecretKey;

    const SECOND: Duration = Duration::from_secs(1);

    fn peer() -> PublicKey {
        SecretKey::from_seed(b"a peer").public_key()
    }

    fn found(weight: u32) -> Answer {
        Ok(vec![ServerTarget { key: peer(), addresses: Vec::new(), weight }].into())
    }

    /// What a dial finds: nothing, or an answer and whether it wants a refresh.
    fn look(cache: &EntryCache, now: Instant) -> Option<(bool, bool)> {
        cache.look(&peer(), now).map(|known| (known.answer.is_ok(), known.wants_refresh))
    }

    #[test]
    fn an_entry_is_fresh_then_stale_then_gone() {
        let (memory, now) = (Memory::default(), Instant::now());
        let cache = EntryCache::new(memory);
        assert_eq!(look(&cache, now), None);
        drop(cache.file(peer(), found(1), now));
        let stale = now + memory.entry_ttl;
        assert_eq!(look(&cache, stale - SECOND), Some((true, false)));
        assert_eq!(look(&cache, stale), Some((true, true)), "used, and asked for again");
        assert_eq!(look(&cache, stale + SECOND), Some((true, false)), "once, not by each dial");
        assert_eq!(look(&cache, stale + REFRESH_PAUSE), Some((true, true)), "and again if need be");
        assert_eq!(look(&cache, stale + memory.stale_max), None);
        drop(cache.file(peer(), found(2), stale));
        assert_eq!(look(&cache, stale + SECOND), Some((true, false)), "the refresh makes it fresh");
        cache.forget(&peer());
        assert_eq!(look(&cache, stale + SECOND), None);
    }

    #[test]
    fn absence_is_believed_for_a_short_time_and_never_stale() {
        let (memory, now) = (Memory::default(), Instant::now());
        let cache = EntryCache::new(memory);
        let absent = || Err(DialError::NotFound(peer()));
        drop(cache.file(peer(), absent(), now));
        assert_eq!(look(&cache, now + memory.absent_ttl - SECOND), Some((false, false)));
        assert_eq!(look(&cache, now + memory.absent_ttl), None);
    }

    #[test]
    fn a_directory_in_trouble_does_not_erase_what_was_known() {
        let now = Instant::now();
        let cache = EntryCache::new(Memory::default());
        drop(cache.file(peer(), found(1), now));
        let trouble = Err(DialError::Directory { peer: peer(), reason: "down".to_owned() });
        let answer = cache.file(peer(), trouble, now + Duration::from_secs(24 * 60 * 60));
        assert!(answer.is_ok());
    }

    #[test]
    fn no_more_entries_are_kept_than_allowed_and_the_oldest_goes() {
        let now = Instant::now();
        let cache = EntryCache::new(Memory::default());
        let key = |n: u32| SecretKey::from_seed(&n.to_be_bytes()).public_key();
        let kept = u32::try_from(ENTRIES_MAX).expect("it is small");
        for n in 0..=kept {
            drop(cache.file(key(n), found(1), now + Duration::from_millis(n.into())));
        }
        assert_eq!(cache.lock().len(), ENTRIES_MAX);
        assert!(cache.look(&key(0), now).is_none() && cache.look(&key(1), now).is_some());
    }
}
