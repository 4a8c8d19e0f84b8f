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
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    time::Duration,
};

use hyper::{body::Incoming, upgrade::OnUpgrade};

use super::{pool::Conn, request::Sending};

/// One exchange whose response is not over.
pub(super) struct Live {
    pub(super) incoming: Incoming,
    pub(super) conn: Conn,
    pub(super) keeps_alive: bool,
    pub(super) sending: Sending,
    pub(super) upgrade: Option<OnUpgrade>,
}

impl Live {
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
