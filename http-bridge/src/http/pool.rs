//! Which streams an HTTP client holds: idle ones kept for the next request, and leased ones.
//!
//! ```text
//!            open                    exchange                body read or drained
//!   (none) ───────▶ leased ────────────────────────▶ leased ─────────────────────▶ idle
//!                     │  error · drop · unread too long │        taken ◀──────────── │ 90 s · evicted
//!                     └──────────────▶ closed ◀─────────┘                closed ◀────┘
//! ```
//!
//! A [`Conn`] is the guard: dropping it closes the stream, wherever it is. Each leased one knows its last
//! progress, so a response body whose holder neither reads nor drops it is found and its stream
//! reclaimed: at once when the client runs out of streams, else after `abandoned_timeout`.
//! One timer task serves the whole pool and ends when the pool is empty.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use dmsg_engine::wire::Addr;
use hyper::client::conn::http1::SendRequest;
use tokio::{task::AbortHandle, time::Instant};

use super::{HttpConfig, HttpError, progress::Progress, request::SentBody};

/// Under pressure, only responses without progress for this long are reclaimed: a reader that is
/// merely slow must not lose its stream to a newcomer.
const STALE_AFTER: Duration = Duration::from_secs(30);

/// The timer task looks at least this often.
const SWEEP_INTERVAL_MAX: Duration = Duration::from_secs(5);

/// A stream with hyper on it. Dropping it closes the stream.
pub(super) struct Conn {
    pub(super) sender: SendRequest<SentBody>,
    pub(super) to: Addr,
    /// `None` while it is idle in the pool.
    lease: Option<Lease>,
    pool: Weak<Pool>,
    task: AbortOnDrop,
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One stream's place among `streams_max`, held from dial to close. Dropping it frees the place.
pub(super) struct Lease {
    id: u64,
    state: Arc<LeaseState>,
    pool: Weak<Pool>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            lock(&pool.state).leases.remove(&self.id);
        }
    }
}

/// A leased stream: when it last made progress, and how to end it.
pub(super) struct LeaseState {
    pub(super) progress: Progress,
    reclaimed: AtomicBool,
    /// An upgraded stream: nobody can say whether it is stale.
    held: AtomicBool,
    abort: Mutex<Option<AbortHandle>>,
}

impl LeaseState {
    /// Whether the pool took the stream back.
    pub(super) fn is_reclaimed(&self) -> bool {
        self.reclaimed.load(Relaxed)
    }

    /// Exempts the stream from being reclaimed.
    pub(super) fn hold(&self) {
        self.held.store(true, Relaxed);
    }

    fn is_stale(&self, after: Duration) -> bool {
        !self.held.load(Relaxed) && self.progress.last().elapsed() >= after
    }

    fn reclaim(&self) {
        self.reclaimed.store(true, Relaxed);
        if let Some(abort) = lock(&self.abort).take() {
            abort.abort();
        }
    }
}

struct Idle {
    conn: Conn,
    since: Instant,
}

#[derive(Default)]
struct State {
    /// Newest last.
    idle: HashMap<Addr, Vec<Idle>>,
    idle_count: usize,
    /// Streams being opened or in use.
    leases: HashMap<u64, Arc<LeaseState>>,
    next_lease: u64,
    is_sweeping: bool,
}

/// The streams of one HTTP client.
pub(super) struct Pool {
    config: HttpConfig,
    state: Mutex<State>,
}

impl Pool {
    pub(super) fn new(config: HttpConfig) -> Arc<Self> {
        Arc::new(Self { config, state: Mutex::default() })
    }

    /// Reserves room for one more stream; reclaims the stalest unread response if there is none.
    pub(super) fn lease(self: &Arc<Self>) -> Result<Lease, HttpError> {
        let mut state = lock(&self.state);
        let max = self.config.streams_max;
        if state.leases.len() >= max {
            let (id, stalest) = state
                .leases
                .iter()
                .filter(|(_, lease)| lease.is_stale(STALE_AFTER))
                .min_by_key(|(_, lease)| lease.progress.last())
                .map(|(id, lease)| (*id, Arc::clone(lease)))
                .ok_or(HttpError::StreamsExhausted { max })?;
            stalest.reclaim();
            state.leases.remove(&id);
        }
        let id = state.next_lease;
        state.next_lease += 1;
        let lease = Arc::new(LeaseState {
            progress: Progress::default(),
            reclaimed: AtomicBool::new(false),
            held: AtomicBool::new(false),
            abort: Mutex::new(None),
        });
        state.leases.insert(id, Arc::clone(&lease));
        self.sweep_soon(&mut state);
        Ok(Lease { id, state: lease, pool: Arc::downgrade(self) })
    }

    /// Binds a new stream to its lease. `task` runs hyper's side of it.
    pub(super) fn conn(
        self: &Arc<Self>,
        to: Addr,
        sender: SendRequest<SentBody>,
        task: AbortHandle,
        lease: Lease,
    ) -> Conn {
        let task = AbortOnDrop(task);
        let mut conn = Conn { sender, to, lease: None, pool: Arc::downgrade(self), task };
        conn.bind(lease);
        conn
    }

    /// The newest idle stream to `to`, leased again.
    pub(super) fn take(self: &Arc<Self>, to: Addr) -> Result<Option<Conn>, HttpError> {
        let mut dead = Vec::new();
        let found = {
            let mut state = lock(&self.state);
            loop {
                let Some(idle) = state.pop_newest(to) else { break None };
                if !idle.conn.sender.is_closed() && idle.since.elapsed() < self.config.idle_timeout
                {
                    break Some(idle.conn);
                }
                dead.push(idle);
            }
        };
        let Some(mut conn) = found else { return Ok(None) };
        conn.bind(self.lease()?);
        Ok(Some(conn))
    }

    fn put(self: &Arc<Self>, mut conn: Conn) {
        let reclaimed = conn.lease.take().is_none_or(|lease| lease.state.is_reclaimed());
        if conn.sender.is_closed() || reclaimed {
            return;
        }
        let mut evicted = Vec::new();
        let mut state = lock(&self.state);
        let to = conn.to;
        state.idle.entry(to).or_default().push(Idle { conn, since: Instant::now() });
        state.idle_count += 1;
        if state.idle[&to].len() > self.config.idle_per_destination_max {
            evicted.extend(state.pop_oldest(to));
        }
        if state.idle_count > self.config.idle_max {
            evicted.extend(state.pop_oldest_of_all());
        }
        self.sweep_soon(&mut state);
        drop(state);
        drop(evicted);
    }

    /// Closes every idle stream.
    pub(super) fn close_idle(&self) {
        let idle = {
            let mut state = lock(&self.state);
            state.idle_count = 0;
            std::mem::take(&mut state.idle)
        };
        drop(idle);
    }

    /// Idle and leased streams.
    pub(super) fn counts(&self) -> (usize, usize) {
        let state = lock(&self.state);
        (state.idle_count, state.leases.len())
    }

    fn sweep_soon(self: &Arc<Self>, state: &mut State) {
        if !state.is_sweeping
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            state.is_sweeping = true;
            runtime.spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// Ends what is past its time; false when the pool is empty and needs no timer.
    fn sweep_once(&self) -> bool {
        let mut expired = Vec::new();
        let mut state = lock(&self.state);
        let destinations: Vec<Addr> = state.idle.keys().copied().collect();
        for to in destinations {
            while state.idle.get(&to).and_then(|list| list.first()).is_some_and(|oldest| {
                oldest.conn.sender.is_closed() || oldest.since.elapsed() >= self.config.idle_timeout
            }) {
                expired.extend(state.pop_oldest(to));
            }
        }
        for lease in state.leases.values().filter(|lease| !lease.is_reclaimed()) {
            if lease.is_stale(self.config.abandoned_timeout) {
                lease.reclaim();
            }
        }
        let goes_on = state.idle_count > 0 || !state.leases.is_empty();
        state.is_sweeping = goes_on;
        drop(state);
        drop(expired);
        goes_on
    }
}

async fn sweep(pool: Weak<Pool>) {
    loop {
        let Some(interval) = pool.upgrade().map(|pool| {
            let shortest = pool.config.idle_timeout.min(pool.config.abandoned_timeout);
            (shortest / 4).clamp(Duration::from_millis(10), SWEEP_INTERVAL_MAX)
        }) else {
            return;
        };
        tokio::time::sleep(interval).await;
        if !pool.upgrade().is_some_and(|pool| pool.sweep_once()) {
            return;
        }
    }
}

impl State {
    fn pop_newest(&mut self, to: Addr) -> Option<Idle> {
        let idle = self.idle.get_mut(&to)?.pop();
        self.note_popped(to, idle)
    }

    fn pop_oldest(&mut self, to: Addr) -> Option<Idle> {
        let list = self.idle.get_mut(&to)?;
        let idle = (!list.is_empty()).then(|| list.remove(0));
        self.note_popped(to, idle)
    }

    fn pop_oldest_of_all(&mut self) -> Option<Idle> {
        let oldest = |list: &Vec<Idle>| list.first().map(|idle| idle.since);
        let to = self.idle.iter().min_by_key(|(_, list)| oldest(list)).map(|(to, _)| *to)?;
        self.pop_oldest(to)
    }

    fn note_popped(&mut self, to: Addr, idle: Option<Idle>) -> Option<Idle> {
        if self.idle.get(&to).is_some_and(Vec::is_empty) {
            self.idle.remove(&to);
        }
        self.idle_count -= usize::from(idle.is_some());
        idle
    }
}

impl Conn {
    fn bind(&mut self, lease: Lease) {
        *lock(&lease.state.abort) = Some(self.task.0.clone());
        self.lease = Some(lease);
    }

    /// The record of the exchange under way.
    pub(super) fn state(&self) -> &Arc<LeaseState> {
        &self.lease.as_ref().expect("only the pool holds streams without a lease").state
    }

    /// Ends the lease and keeps the stream for the next request.
    pub(super) fn release(self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.put(self);
        }
    }
}

/// The tables stay consistent at every step, so a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
