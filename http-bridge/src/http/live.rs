//! What a response body holds of its exchange, kept where a pool can take it back.
//!
//! ```text
//!   ResponseBody ──▶ Slot ── Live: hyper's receiver, the stream, its place in the pool
//!                     ▲  ▲
//!       poll: take, put  └ on reclaim: cleared, and a reader that waits is woken
//! ```
//!
//! A body that nobody reads may be kept for ever, so nothing of size may stay in it once its stream is gone: hyper's receiver
//! alone pins a read buffer, the connection's task and what had come of the body, some twenty kilobytes. The lock is held for
//! a move, never while something is polled or dropped: dropping a [`Live`] may make room for others, which reclaims still
//! other bodies.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Waker},
    time::Duration,
};

use hyper::{body::Incoming, upgrade::OnUpgrade};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{HttpError, pool::Conn, request::Sending};

/// Longer than anybody waits.
const NEVER: Duration = Duration::from_secs(86_400 * 365);

/// One exchange whose response is not over.
pub(super) struct Live {
    // First, since the first field is dropped first: the stream is to be reset before hyper closes it.
    pub(super) conn: Conn,
    pub(super) incoming: Incoming,
    pub(super) keeps_alive: bool,
    pub(super) sending: Sending,
    pub(super) upgrade: Option<OnUpgrade>,
    pub(super) limits: BodyLimits,
    pub(super) read_bytes: u64,
    /// Runs only while the reader waits, so that its own pauses count for nothing.
    pub(super) idle: Option<Pin<Box<Sleep>>>,
    pub(super) is_waiting: bool,
}

/// What bounds the reading of one body.
#[derive(Clone, Copy)]
pub(super) struct BodyLimits {
    /// Between two pieces.
    pub(super) idle: Duration,
    /// When the whole exchange must be over, and how long it was given.
    pub(super) deadline: Option<(Instant, Duration)>,
    pub(super) max_bytes: u64,
}

impl Live {
    /// Nothing is there to read; the error if that has been so for too long.
    pub(super) fn poll_idle(&mut self, cx: &mut Context<'_>) -> Option<HttpError> {
        let (to, BodyLimits { idle, deadline, .. }) = (self.conn.to, self.limits);
        let now = Instant::now();
        let idle_at = now.checked_add(idle).unwrap_or(now + NEVER);
        let until = deadline.map_or(idle_at, |(deadline, _)| deadline.min(idle_at));
        let sleep = self.idle.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if !std::mem::replace(&mut self.is_waiting, true) {
            sleep.as_mut().reset(until);
        }
        if sleep.as_mut().poll(cx).is_pending() {
            return None;
        }
        Some(match deadline {
            Some((at, after)) if now >= at => HttpError::TotalTimeout { to, after },
            _ => HttpError::BodyTimeout { to, after: idle },
        })
    }

    /// Whether the next request may use the stream.
    pub(super) fn is_reusable(&self) -> bool {
        self.keeps_alive && self.sending.is_sent()
    }

    /// The response is over: the stream goes back to the pool, or is closed.
    pub(super) fn finish(self) {
        if self.is_reusable() {
            self.conn.release();
        } else {
            self.conn.close();
        }
    }
}

/// The place of a [`Live`].
pub(super) struct Slot(Mutex<Content>);

#[derive(Default)]
struct Content {
    live: Option<Box<Live>>,
    /// Who waits for data.
    reader: Option<Waker>,
    /// How long the response had lain unread when its stream was taken back.
    reclaimed: Option<Duration>,
}

impl Slot {
    /// Keeps `live` until it is taken, or its stream taken back.
    pub(super) fn new(live: Live) -> Arc<Self> {
        let lease = Arc::clone(live.conn.state());
        let content = Content { live: Some(Box::new(live)), ..Content::default() };
        let slot = Arc::new(Self(Mutex::new(content)));
        let weak = Arc::downgrade(&slot);
        lease.on_reclaim(move |unread_for| {
            if let Some(slot) = weak.upgrade() {
                slot.clear(unread_for);
            }
        });
        if lease.is_reclaimed() {
            // It happened before anybody listened.
            slot.clear(Duration::ZERO);
        }
        slot
    }

    /// Takes it out, or learns how long it had lain unread when it was taken back.
    pub(super) fn take(&self) -> Result<Box<Live>, Duration> {
        let mut content = self.lock();
        content.reader = None;
        content.live.take().ok_or_else(|| content.reclaimed.unwrap_or_default())
    }

    /// Puts it back; `reader` is woken if it is taken back from now on. Fails if that has happened meanwhile.
    pub(super) fn put(&self, live: Box<Live>, reader: Option<&Waker>) -> Result<(), Duration> {
        let mut content = self.lock();
        if let Some(unread_for) = content.reclaimed {
            drop(content);
            drop(live);
            return Err(unread_for);
        }
        content.live = Some(live);
        content.reader = reader.cloned();
        Ok(())
    }

    /// Looks at it where it is.
    pub(super) fn peek<T>(&self, look: impl FnOnce(&Live) -> T) -> Option<T> {
        self.lock().live.as_deref().map(look)
    }

    fn clear(&self, unread_for: Duration) {
        let mut content = self.lock();
        content.reclaimed.get_or_insert(unread_for);
        let (live, reader) = (content.live.take(), content.reader.take());
        drop(content);
        drop(live);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
