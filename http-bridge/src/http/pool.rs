//! Which streams an HTTP client holds: idle ones kept for the next request, and leased ones.
//!
//! ```text
//!            open                    exchange                body read or drained
//!   (none) ───────▶ leased ────────────────────────▶ leased ─────────────────────▶ idle
//!                     │  error · drop · unread too long │        taken ◀──────────── │ 90 s · evicted
//!                     └──────────────▶ closed ◀─────────┘                closed ◀────┘
//! ```
//!
//! A [`Conn`] is the guard: dropping it closes the stream, wherever it is. Places are counted by the
//! engine's [`StreamPool`], with limits of this client's own, and each use of a stream is told both to
//! that pool and to the one below which the stream itself comes from. So a response body whose holder
//! neither reads nor drops it is found and its stream reset: at once when a place is needed, here or
//! below, else after `abandoned_timeout`. A short one is read into memory before that (`ahead.rs`). One
//! timer task serves the whole pool and ends when the pool is empty.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use dmsg_engine::{
    pool::{Holder, Scope, StreamLimits, StreamPermit, StreamPool, StreamUse},
    wire::Addr,
};
use hyper::client::conn::http1::SendRequest;
use tokio::{
    sync::oneshot,
    task::{AbortHandle, coop::consume_budget},
    time::{Instant, interval, timeout},
};

use super::{
    BreakOff, HttpConfig, HttpError, ahead::ReadAhead, progress::Progress, request::SentBody,
};

/// How often one who waits for a place looks whether an unread response has come of age.
const PLACES_LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The timer task looks at least this often.
const SWEEP_INTERVAL_MAX: Duration = Duration::from_secs(5);

/// A stream with hyper on it. Dropping it closes the stream.
pub(super) struct Conn {
    pub(super) sender: SendRequest<SentBody>,
    pub(super) to: Addr,
    /// `None` while it is idle in the pool.
    lease: Option<Lease>,
    /// The record of the stream in the layer below.
    below: Option<Arc<StreamUse>>,
    /// The record of the lease in this pool, for when the layer below takes the stream back.
    current: Arc<Mutex<Weak<StreamUse>>>,
    /// Between a request and the end of its response: whatever comes now is wanted by nobody.
    is_in_exchange: bool,
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
    permit: StreamPermit,
    state: Option<Arc<LeaseState>>,
}

/// A leased stream: when it last made progress, and who else is to know.
pub(super) struct LeaseState {
    pub(super) progress: Progress,
    usage: Arc<StreamUse>,
    below: Option<Arc<StreamUse>>,
}

impl LeaseState {
    /// Whether a pool took the stream back.
    pub(super) fn is_reclaimed(&self) -> bool {
        self.uses().any(StreamUse::is_reclaimed)
    }

    /// The holder works with the response. False if it was reclaimed.
    pub(super) fn set_busy(&self) -> bool {
        self.uses().all(StreamUse::set_busy)
    }

    /// The holder has the head, or a piece of the body, and more is there for it to fetch.
    pub(super) fn set_unread(&self) {
        for usage in self.uses() {
            usage.set_unread();
        }
    }

    /// The holder waits for the next piece, and gives up after `patience` by itself.
    pub(super) fn set_waiting(&self, patience: Duration) {
        for usage in self.uses() {
            usage.set_unread_after(patience);
        }
    }

    /// Has `end` called when the stream is taken back, with the time since the holder's last progress.
    pub(super) fn on_reclaim(&self, end: impl FnOnce(Duration) + Send + 'static) {
        self.usage.on_reclaim(end);
    }

    fn uses(&self) -> impl Iterator<Item = &StreamUse> {
        std::iter::once(&*self.usage).chain(self.below.as_deref())
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
    is_sweeping: bool,
}

/// The streams of one HTTP client.
pub(super) struct Pool {
    config: HttpConfig,
    places: StreamPool,
    pub(super) ahead: Arc<ReadAhead>,
    state: Mutex<State>,
}

impl Pool {
    pub(super) fn new(config: HttpConfig) -> Arc<Self> {
        let limits = StreamLimits {
            total_max: config.streams_max,
            per_destination_max: config.streams_per_destination_max.min(config.streams_max),
            waiting_max: config.waiting_max,
            waiting_per_destination_max: config.waiting_max,
            unread_min_age: config.unread_min_age,
        };
        // Tokio's clock, so that tests can pass the time.
        let places = StreamPool::with_clock(limits, Arc::new(|| Instant::now().into_std()));
        let ahead = ReadAhead::new(&config);
        Arc::new(Self { config, places, ahead, state: Mutex::default() })
    }

    /// Reserves room for one more stream, if need be that of the stalest unread response; waits for
    /// it behind others as long as `wait_timeout`.
    pub(super) async fn lease(self: &Arc<Self>, to: Addr) -> Result<Lease, HttpError> {
        // A caller that goes on in a loop after an error that costs no wait lets others have a turn.
        consume_budget().await;
        let holder = Holder { label: Arc::clone(&self.config.label), destination: Some(to.key) };
        let permit = match self.places.try_acquire(&holder) {
            Ok(permit) => permit,
            Err(full) => {
                let max = full.max;
                self.ahead.press((full.scope == Scope::Destination).then_some(to.key));
                let turn = self.places.enqueue(holder);
                let turn = turn.map_err(|_| HttpError::StreamsExhausted { max })?;
                timeout(self.config.wait_timeout, self.wait(turn))
                    .await
                    .map_err(|_| HttpError::StreamsExhausted { max })?
            }
        };
        self.sweep_soon(&mut lock(&self.state));
        Ok(Lease { permit, state: None })
    }

    async fn wait(&self, mut turn: oneshot::Receiver<StreamPermit>) -> StreamPermit {
        let mut look = interval(PLACES_LOOK_INTERVAL);
        loop {
            tokio::select! {
                Ok(permit) = &mut turn => return permit,
                _ = look.tick() => self.places.pump(),
            }
        }
    }

    /// Binds a new stream to its lease. `task` runs hyper's side of it.
    pub(super) fn conn(
        self: &Arc<Self>,
        to: Addr,
        sender: SendRequest<SentBody>,
        task: AbortHandle,
        below: Option<Arc<StreamUse>>,
        lease: Lease,
    ) -> Conn {
        let current = Arc::new(Mutex::new(Weak::<StreamUse>::new()));
        if let Some(below) = &below {
            // What hyper has buffered of a stream that is gone is of no use any more.
            let (task, current) = (task.clone(), Arc::clone(&current));
            below.on_reclaim(move |_| {
                let usage = lock(&current).upgrade();
                if let Some(usage) = usage {
                    usage.reclaim();
                }
                task.abort();
            });
        }
        let (task, pool) = (AbortOnDrop(task), Arc::downgrade(self));
        let mut conn =
            Conn { sender, to, lease: None, below, current, is_in_exchange: false, pool, task };
        conn.bind(lease);
        conn
    }

    /// The newest idle stream to `to`, leased again, or the lease back for a new one.
    pub(super) fn take(&self, to: Addr, lease: Lease) -> Result<Conn, Lease> {
        let mut dead = Vec::new();
        let found = {
            let mut state = lock(&self.state);
            loop {
                let Some(idle) = state.pop_newest(to) else { break None };
                let is_ours = idle.conn.below.as_ref().is_none_or(|below| below.set_busy());
                if is_ours
                    && !idle.conn.sender.is_closed()
                    && idle.since.elapsed() < self.config.idle_timeout
                {
                    break Some(idle.conn);
                }
                dead.push(idle);
            }
        };
        drop(dead);
        let Some(mut conn) = found else { return Err(lease) };
        conn.bind(lease);
        Ok(conn)
    }

    fn put(self: &Arc<Self>, mut conn: Conn) {
        // Busy, so that nobody takes back by the old lease what is idle, or leased again, by then.
        if !conn.state().set_busy() || conn.sender.is_closed() {
            return;
        }
        // Given back only after the stream is among the idle: at no moment is it counted nowhere.
        let lease = conn.lease.take();
        if let Some(below) = &conn.below {
            below.set_idle();
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
        drop(lease);
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
        (lock(&self.state).idle_count, self.places.used_count())
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
        let goes_on = state.idle_count > 0 || self.places.used_count() > 0;
        state.is_sweeping = goes_on;
        drop(state);
        drop(expired);
        self.places.reclaim_stale(self.config.abandoned_timeout);
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
    fn bind(&mut self, mut lease: Lease) {
        let usage = Arc::clone(lease.permit.usage());
        let (task, below) = (self.task.0.clone(), self.below.clone());
        usage.on_reclaim(move |_| {
            // A reset, so that neither port nor relay wait for the peer's end.
            if let Some(below) = below {
                below.reclaim();
            }
            task.abort();
        });
        let below = self.below.clone();
        *lock(&self.current) = Arc::downgrade(&usage);
        lease.state = Some(Arc::new(LeaseState { progress: Progress::default(), usage, below }));
        self.lease = Some(lease);
        self.is_in_exchange = true;
    }

    /// What reads short bodies ahead of those who leave them.
    pub(super) fn read_ahead(&self) -> Option<Arc<ReadAhead>> {
        self.pool.upgrade().map(|pool| Arc::clone(&pool.ahead))
    }

    /// The record of the exchange under way.
    pub(super) fn state(&self) -> &Arc<LeaseState> {
        let state = self.lease.as_ref().and_then(|lease| lease.state.as_ref());
        state.expect("only the pool holds streams without a lease")
    }

    /// Ends the lease and keeps the stream for the next request.
    pub(super) fn release(mut self) {
        self.is_in_exchange = false;
        if let Some(pool) = self.pool.upgrade() {
            pool.put(self);
        }
    }

    /// Ends a stream whose last exchange is complete.
    pub(super) fn close(mut self) {
        self.is_in_exchange = false;
    }

    /// What makes the stream's end a reset, if the layer below can do that.
    pub(super) fn break_off(&self) -> Option<BreakOff> {
        let below = Arc::clone(self.below.as_ref()?);
        Some(BreakOff::new(move || below.abandon()))
    }

    /// The stream is no HTTP any more: what was written to it goes out even if it is dropped.
    pub(super) fn leave_http(&mut self) {
        self.is_in_exchange = false;
    }
}

impl Conn {
    /// What ends in the middle of an exchange is reset: nobody waits for the rest, neither here, nor in the relay, nor at
    /// the peer. A FIN would leave the stream in its session until the peer has sent all of it. To be called before hyper
    /// learns that nobody listens, since it lets go of the stream then.
    fn give_up(&self) {
        if self.is_in_exchange
            && let Some(below) = &self.below
        {
            below.abandon();
        }
    }

    /// Gives the exchange up as it is dropped, unless it is [`GiveUp::disarm`]ed.
    pub(super) fn give_up_on_drop(&self) -> GiveUp<'_> {
        GiveUp(self)
    }
}

/// See [`Conn::give_up_on_drop`].
pub(super) struct GiveUp<'a>(&'a Conn);

impl GiveUp<'_> {
    pub(super) fn disarm(self) {
        std::mem::forget(self);
    }
}

impl Drop for GiveUp<'_> {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// The tables stay consistent at every step, so a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
