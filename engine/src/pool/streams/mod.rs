//! Places for streams: how many there may be, who waits for one, and whose is taken back.
//!
//! ```text
//!   try_acquire ──┐ room?            ┌── StreamPermit (guard) ── dropped ──▶ the place is free
//!   acquire ──────┴─▶ pump ──grant──▶┤
//!      │ full         ▲  │           └── StreamUse: label, destination, last progress
//!      ▼              │  └─ no room: the stalest abandoned stream is reclaimed, its place granted
//!   a queue per destination, destinations take turns
//! ```
//!
//! A stream is in one of three states, which its holder tells ([`StreamUse`]):
//!
//! - *busy*: it is being opened or used, or its holder waits for data. Never reclaimed;
//! - *unread*: its holder has data it does not fetch. Reclaimed when a place is needed and it has
//!   been so for `unread_min_age`, the stalest first;
//! - *idle*: kept for later use only. Reclaimed before any other.
//!
//! Streams start busy; one whose holder tells nothing is never reclaimed. Nothing is reclaimed while
//! there is room.
//!
//! All limits are hard. A place is granted, released and reclaimed in O(log n) under a lock held for
//! a few instructions; telling progress takes no lock. Callbacks run outside of the lock. The pool
//! knows no timer: whoever waits bounds the wait, and calls [`StreamPool::pump`] now and then so that
//! streams which have come of age meanwhile are found.

mod table;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use self::table::{Step, Table, Victim};
use crate::identity::PublicKey;

/// Where the time comes from; simulations have their own.
pub type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// The bounds of a [`StreamPool`].
#[derive(Debug, Clone)]
pub struct StreamLimits {
    /// Streams at once.
    pub total_max: usize,
    /// Streams at once to one destination. Those without one (accepted streams) are not counted.
    pub per_destination_max: usize,
    /// Callers that wait for a place.
    pub waiting_max: usize,
    /// Callers that wait for a place to one destination.
    pub waiting_per_destination_max: usize,
    /// How long an unread stream is safe from being reclaimed; `None`: for ever.
    pub unread_min_age: Option<Duration>,
}

impl StreamLimits {
    /// Limits of a pool of `total_max` streams with nothing reserved and nobody waiting.
    #[must_use]
    pub fn flat(total_max: usize) -> Self {
        Self {
            total_max,
            per_destination_max: total_max,
            waiting_max: 0,
            waiting_per_destination_max: 0,
            unread_min_age: None,
        }
    }
}

/// Who holds a stream; what a census counts by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Holder {
    /// What for: a service, a program's part.
    pub label: Arc<str>,
    /// With whom; `None` while an accepted stream has not said.
    pub destination: Option<PublicKey>,
}

/// No place for another stream, and none that could be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all {max} streams {scope} are in use, and none of them is abandoned")]
pub struct StreamsExhausted {
    /// The limit that is reached.
    pub max: usize,
    /// Of what.
    pub scope: Scope,
}

/// What a limit of streams is counted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The whole pool.
    Total,
    /// One destination.
    Destination,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Total => "of this client",
            Self::Destination => "of this client with the destination",
        })
    }
}

/// One line of a census: the streams of one holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CensusLine {
    /// Whose.
    pub holder: Holder,
    /// How many.
    pub streams: usize,
    /// Of these, how many lie unread.
    pub unread: usize,
    /// Time since the last progress of the one that made none for longest.
    pub oldest_progress: Duration,
}

/// What a pool has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamCounts {
    /// Streams now.
    pub used: usize,
    /// The most there were at once.
    pub used_peak: usize,
    /// Callers waiting now.
    pub waiting: usize,
    /// Streams taken back so far.
    pub reclaimed: u64,
}

struct Inner {
    limits: StreamLimits,
    clock: Clock,
    epoch: Instant,
    table: Mutex<Table>,
}

/// The places of one client. Cloning shares them.
#[derive(Clone)]
pub struct StreamPool(Arc<Inner>);

impl StreamPool {
    /// A pool with every place free.
    #[must_use]
    pub fn new(limits: StreamLimits) -> Self {
        Self::with_clock(limits, Arc::new(Instant::now))
    }

    /// A pool with a clock of its own.
    #[must_use]
    pub fn with_clock(limits: StreamLimits, clock: Clock) -> Self {
        let epoch = clock();
        Self(Arc::new(Inner { limits, clock, epoch, table: Mutex::default() }))
    }

    /// The limits.
    #[must_use]
    pub fn limits(&self) -> &StreamLimits {
        &self.0.limits
    }

    /// Streams in use.
    #[must_use]
    pub fn used_count(&self) -> usize {
        self.lock().used()
    }

    /// What is counted.
    #[must_use]
    pub fn counts(&self) -> StreamCounts {
        self.lock().counts()
    }

    /// A place at once, reclaimed from an abandoned stream if need be.
    pub fn try_acquire(&self, holder: &Holder) -> Result<StreamPermit, StreamsExhausted> {
        loop {
            let now = self.0.now();
            let mut table = self.lock();
            let Some(full) = table.full(holder, &self.0.limits) else {
                return Ok(self.grant(&mut table, holder.clone()));
            };
            let Some(victim) = table.victim(holder.destination, full, &self.0.limits, now) else {
                let Inner { limits, .. } = &*self.0;
                let max = match full {
                    Scope::Total => limits.total_max,
                    Scope::Destination => limits.per_destination_max,
                };
                return Err(StreamsExhausted { max, scope: full });
            };
            drop(table);
            victim.fire();
            self.pump();
        }
    }

    /// A place in the queue, behind everybody who waits for the same destination. The receiver
    /// errs never while this pool exists; dropping it gives the place up.
    pub fn enqueue(
        &self,
        holder: Holder,
    ) -> Result<oneshot::Receiver<StreamPermit>, StreamsExhausted> {
        let (turn, place) = oneshot::channel();
        self.lock().enqueue(holder, turn, &self.0.limits)?;
        self.pump();
        Ok(place)
    }

    /// Grants what can be granted to those who wait, reclaiming what may be reclaimed.
    pub fn pump(&self) {
        {
            let mut table = self.lock();
            // Callbacks and unwanted permits come back here; the pump that is on goes on for them.
            if table.is_pumping || !table.has_waiting() {
                return;
            }
            table.is_pumping = true;
        }
        loop {
            let now = self.0.now();
            let mut table = self.lock();
            match table.step(&self.0.limits, now) {
                Step::Grant(holder, turn) => {
                    let permit = self.grant(&mut table, holder);
                    drop(table);
                    // If its receiver has left, the permit frees its place as it is dropped here.
                    drop(turn.send(permit));
                }
                Step::Reclaim(victim) => {
                    drop(table);
                    victim.fire();
                }
                Step::Done => {
                    table.is_pumping = false;
                    return;
                }
            }
        }
    }

    /// Takes back every stream that has been unread for at least `age`, and every idle one, whether
    /// there is room or not.
    pub fn reclaim_stale(&self, age: Duration) {
        let limits = StreamLimits { unread_min_age: Some(age), ..self.0.limits.clone() };
        let now = self.0.now();
        loop {
            let victim = self.lock().victim(None, Scope::Total, &limits, now);
            let Some(victim) = victim else { break };
            victim.fire();
        }
        self.pump();
    }

    /// Takes back the stalest abandoned stream that is tagged `tag`. False if there is none.
    pub fn reclaim_tagged(&self, tag: u64) -> bool {
        let now = self.0.now();
        let victim = self.lock().victim_tagged(tag, &self.0.limits, now);
        let found = victim.is_some();
        if let Some(victim) = victim {
            victim.fire();
            self.pump();
        }
        found
    }

    /// Who holds how much, the largest first.
    #[must_use]
    pub fn census(&self) -> Vec<CensusLine> {
        let now = self.0.now();
        self.lock().census(now)
    }

    fn grant(&self, table: &mut Table, holder: Holder) -> StreamPermit {
        let usage = Arc::new(StreamUse {
            id: table.next_id(),
            holder,
            pool: self.clone(),
            state: AtomicU64::new(pack(BUSY, self.0.now())),
            tag: AtomicU64::new(u64::MAX),
            queued: AtomicBool::new(false),
            on_reclaim: Mutex::default(),
        });
        table.insert(Arc::clone(&usage));
        StreamPermit(usage)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        lock(&self.0.table)
    }
}

impl fmt::Debug for StreamPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamPool({} of {} used)", self.used_count(), self.0.limits.total_max)
    }
}

impl Inner {
    /// Microseconds since the pool began.
    fn now(&self) -> u64 {
        let elapsed = (self.clock)().saturating_duration_since(self.epoch);
        u64::try_from(elapsed.as_micros()).unwrap_or(TIME_MAX).min(TIME_MAX)
    }
}

/// One place; dropping it frees the place, if it was not reclaimed before.
#[derive(Debug)]
pub struct StreamPermit(Arc<StreamUse>);

impl StreamPermit {
    /// The record of the stream's use.
    #[must_use]
    pub fn usage(&self) -> &Arc<StreamUse> {
        &self.0
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let pool = &self.0.pool;
        pool.lock().release(self.0.id);
        lock(&self.0.on_reclaim).clear();
        pool.pump();
    }
}

const BUSY: u64 = 0;
const UNREAD: u64 = 1;
const IDLE: u64 = 2;
const RECLAIMED: u64 = 3;

/// The state takes the two highest bits, the time of the last progress the others.
const TIME_BITS: u32 = 62;
const TIME_MAX: u64 = (1 << TIME_BITS) - 1;

fn pack(state: u64, since: u64) -> u64 {
    state << TIME_BITS | since
}

fn unpack(word: u64) -> (u64, u64) {
    (word >> TIME_BITS, word & TIME_MAX)
}

type OnReclaim = Box<dyn FnOnce(Duration) + Send>;

/// How a stream is used: what its holder tells the pool, from any thread.
pub struct StreamUse {
    id: u64,
    holder: Holder,
    pool: StreamPool,
    state: AtomicU64,
    tag: AtomicU64,
    /// In the pool's order of candidates.
    queued: AtomicBool,
    on_reclaim: Mutex<Vec<OnReclaim>>,
}

impl StreamUse {
    /// Whose.
    #[must_use]
    pub fn holder(&self) -> &Holder {
        &self.holder
    }

    /// The holder works with the stream or waits for data. False if it was reclaimed before.
    pub fn set_busy(&self) -> bool {
        self.set(BUSY)
    }

    /// The holder made progress, and more is there for it. False if it was reclaimed before.
    pub fn set_unread(&self) -> bool {
        self.set(UNREAD) && self.queue_once()
    }

    /// The holder waits for data and will look again after `patience` at the latest; if it does not,
    /// the stream counts as unread from then on. False if it was reclaimed before.
    pub fn set_unread_after(&self, patience: Duration) -> bool {
        let patience = u64::try_from(patience.as_micros()).unwrap_or(TIME_MAX);
        let since = self.pool.0.now().saturating_add(patience).min(TIME_MAX);
        self.set_at(UNREAD, since) && self.queue_once()
    }

    /// The stream is kept for later use only. False if it was reclaimed before.
    pub fn set_idle(&self) -> bool {
        let set = self.set(IDLE);
        if set {
            self.queued.store(true, Ordering::SeqCst);
            self.pool.lock().queue(self);
        }
        set
    }

    /// Whether the pool took it back.
    #[must_use]
    pub fn is_reclaimed(&self) -> bool {
        self.load().0 == RECLAIMED
    }

    /// Groups streams for [`StreamPool::reclaim_tagged`].
    pub fn set_tag(&self, tag: u64) {
        self.tag.store(tag, Ordering::Relaxed);
    }

    /// Time since the last progress.
    #[must_use]
    pub fn age(&self) -> Duration {
        Duration::from_micros(self.pool.0.now().saturating_sub(self.load().1))
    }

    /// Has `end` called when the pool takes the stream back, with the time it lay unread. It runs on
    /// the thread of whoever needed the place, so it must not wait.
    pub fn on_reclaim(&self, end: impl FnOnce(Duration) + Send + 'static) {
        lock(&self.on_reclaim).push(Box::new(end));
    }

    /// Data came for a holder that had none.
    pub fn note_arrival(&self) {
        if self.load().0 == BUSY {
            self.set_unread();
        }
    }

    /// Takes the stream back now, whatever it does.
    pub fn reclaim(&self) {
        self.take_away(Table::take_back);
    }

    /// The holder gives the stream up in the middle, and wants nothing more of it: it ends as if it were taken back, without
    /// counting as such.
    pub fn abandon(&self) {
        self.take_away(Table::give_up);
    }

    fn take_away(&self, take: fn(&mut Table, u64, u64) -> Option<Victim>) {
        let now = self.pool.0.now();
        let victim = take(&mut self.pool.lock(), self.id, now);
        if let Some(victim) = victim {
            victim.fire();
            self.pool.pump();
        }
    }

    fn load(&self) -> (u64, u64) {
        unpack(self.state.load(Ordering::SeqCst))
    }

    /// Puts it among the candidates, if it is not there. Always true.
    fn queue_once(&self) -> bool {
        if !self.queued.swap(true, Ordering::SeqCst) {
            self.pool.lock().queue(self);
        }
        true
    }

    fn set(&self, state: u64) -> bool {
        self.set_at(state, self.pool.0.now())
    }

    fn set_at(&self, state: u64, since: u64) -> bool {
        let next = pack(state, since);
        self.state
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |word| {
                (unpack(word).0 != RECLAIMED).then_some(next)
            })
            .is_ok()
    }
}

impl fmt::Debug for StreamUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamUse").field("holder", &self.holder).finish_non_exhaustive()
    }
}

/// The tables stay consistent at every step, so a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
