//! What a response body holds of its exchange, kept where a pool can take it back.
//!
//! ```text
//!   ResponseBody ──▶ Slot ── Live: hyper's receiver, the stream, its place in the pool
//!                     ▲  ▲
//!       poll: take, put  └ on reclaim: cleared, and a reader that waits is woken
//! ```
//!
//! Under pressure a short body is read ahead of its holder (`ahead.rs`): then its bytes lie here, and its stream is the pool's
//! again.
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

use bytes::Bytes;
use dmsg_engine::wire::Addr;
use http_body::{Body, SizeHint};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    HttpError,
    ahead::{AHEAD_MAX_BYTES, Ahead},
    pool::Conn,
    request::Sending,
};

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

/// What is left of a body behind what was read ahead of it.
pub(super) enum Rest {
    /// Nothing.
    End,
    /// It has not come yet.
    Live(Box<Live>),
    /// It will not come.
    Broken(HttpError),
}

/// What a reader finds before its stream.
pub(super) enum Next {
    /// What was read ahead; whether it is the end.
    Piece(Bytes, bool),
    /// It is just being read ahead; the reader is woken.
    Coming,
    /// The stream broke while it was read ahead.
    Broken(HttpError),
    /// The stream, or nothing.
    Stream,
}

/// The place of a [`Live`].
pub(super) struct Slot {
    to: Addr,
    content: Mutex<Content>,
}

#[derive(Default)]
struct Content {
    live: Option<Box<Live>>,
    /// So many bytes are being read ahead.
    coming: Option<u64>,
    ahead: Option<Ahead>,
    broken: Option<HttpError>,
    /// Who waits for data.
    reader: Option<Waker>,
    /// How long the response had lain unread when its stream was taken back.
    reclaimed: Option<Duration>,
}

impl Slot {
    /// Keeps `live` until it is taken, or its stream taken back.
    pub(super) fn new(live: Live) -> Arc<Self> {
        let (to, lease) = (live.conn.to, Arc::clone(live.conn.state()));
        let content = Content { live: Some(Box::new(live)), ..Content::default() };
        let slot = Arc::new(Self { to, content: Mutex::new(content) });
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

    /// What its reader finds before it needs the stream.
    pub(super) fn next(&self, reader: &Waker) -> Next {
        let mut content = self.lock();
        if content.coming.is_some() {
            content.reader = Some(reader.clone());
            return Next::Coming;
        }
        match content.ahead.take() {
            Some(ahead) => {
                let is_last = content.live.is_none() && content.broken.is_none();
                Next::Piece(ahead.data.clone(), is_last)
            }
            None => content.broken.take().map_or(Next::Stream, Next::Broken),
        }
    }

    fn clear(&self, unread_for: Duration) {
        let mut content = self.lock();
        content.reclaimed.get_or_insert(unread_for);
        let (live, reader) = (content.live.take(), content.reader.take());
        let ahead = content.ahead.take();
        drop(content);
        drop((live, ahead));
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Bytes that are left to read, if that is known before they have come.
    pub(super) fn size(&self) -> SizeHint {
        let content = self.lock();
        let live = content.live.as_deref().map(|live| live.incoming.size_hint());
        let Some(before) = content.coming.or(content.ahead.as_ref().map(|a| a.data.len() as u64))
        else {
            return live.unwrap_or_default();
        };
        let rest = live.map_or(Some(0), |hint| hint.exact());
        rest.map_or_else(SizeHint::default, |rest| SizeHint::with_exact(before + rest))
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reading ahead.
impl Slot {
    /// Whose answer it is.
    pub(super) fn to(&self) -> Addr {
        self.to
    }

    /// Bytes that can be read ahead: a short body of known length, for which nobody waits.
    pub(super) fn ahead_bytes(&self) -> Option<usize> {
        let content = self.lock();
        let live = content.live.as_deref().filter(|_| content.reader.is_none())?;
        let is_whole = live.upgrade.is_none() && content.ahead.is_none();
        let bytes = live.incoming.size_hint().exact().filter(|_| is_whole)?;
        usize::try_from(bytes).ok().filter(|_| bytes <= AHEAD_MAX_BYTES)
    }

    /// Takes the stream out to read ahead; whoever reads waits until [`Slot::end_ahead`].
    pub(super) fn begin_ahead(&self) -> Option<Box<Live>> {
        let mut content = self.lock();
        if content.reader.is_some() {
            return None;
        }
        let live = content.live.take()?;
        if !live.conn.state().set_busy() {
            // It is being taken back at this moment, which clears the rest.
            drop(content);
            return None;
        }
        content.coming = live.incoming.size_hint().exact();
        Some(live)
    }

    /// Leaves what was read, and what there is behind it.
    pub(super) fn end_ahead(&self, ahead: Ahead, rest: Rest) {
        let mut content = self.lock();
        content.coming = None;
        let reader = content.reader.take();
        let rest = match rest {
            // Its stream was taken back in the middle.
            _ if content.reclaimed.is_some() => Some(rest),
            Rest::End => None,
            Rest::Live(live) => {
                live.conn.state().set_unread();
                content.live = Some(live);
                None
            }
            Rest::Broken(error) => {
                content.broken = Some(error);
                None
            }
        };
        let left = if content.reclaimed.is_none() && !ahead.data.is_empty() {
            content.ahead.replace(ahead)
        } else {
            Some(ahead)
        };
        drop(content);
        drop((rest, left));
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Gives up what was read ahead, if it has lain for `age`. True if nothing of it is left.
    pub(super) fn give_up_ahead(&self, age: Duration) -> bool {
        let unread_for = self.lock().ahead.as_ref().map(|ahead| ahead.since.elapsed());
        match unread_for {
            Some(unread_for) if unread_for < age => false,
            Some(unread_for) => {
                self.clear(unread_for);
                true
            }
            None => true,
        }
    }
}
