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
use http::HeaderMap;
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
    /// Nothing, or trailers.
    End(Option<HeaderMap>),
    /// It has not come yet, or is too long.
    Live(Box<Live>),
    /// It will not come.
    Broken(HttpError),
}

/// What a reader finds before its stream.
pub(super) enum Next {
    /// What was read ahead; whether it is the end.
    Piece(Bytes, bool),
    /// What came behind it, and is the end.
    Trailers(HeaderMap),
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
    /// What is being read ahead.
    coming: Option<SizeHint>,
    ahead: Option<Ahead>,
    trailers: Option<HeaderMap>,
    broken: Option<HttpError>,
    /// Who waits for data.
    reader: Option<Waker>,
    /// How long the response had lain unread when its stream was taken back.
    reclaimed: Option<Duration>,
}

impl Content {
    /// Whether nothing follows what was read ahead.
    fn is_whole(&self) -> bool {
        self.live.is_none() && self.broken.is_none() && self.trailers.is_none()
    }
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
        if let Some(ahead) = content.ahead.take() {
            if let Some(live) = &content.live {
                // The holder is at work.
                live.conn.state().set_unread();
            }
            return Next::Piece(ahead.data.clone(), content.is_whole());
        }
        if let Some(trailers) = content.trailers.take() {
            return Next::Trailers(trailers);
        }
        content.broken.take().map_or(Next::Stream, Next::Broken)
    }

    fn clear(&self, unread_for: Duration) {
        let mut content = self.lock();
        content.reclaimed.get_or_insert(unread_for);
        let (live, reader) = (content.live.take(), content.reader.take());
        let ahead = (content.ahead.take(), content.trailers.take());
        drop(content);
        drop((live, ahead));
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// What is left to read, as far as that is known.
    pub(super) fn size(&self) -> SizeHint {
        let content = self.lock();
        let live = content.live.as_deref().map(|live| live.incoming.size_hint());
        match (&content.coming, &content.ahead) {
            (Some(hint), _) => *hint,
            (None, None) => live.unwrap_or_default(),
            (None, Some(ahead)) if content.is_whole() => {
                SizeHint::with_exact(ahead.data.len() as u64)
            }
            (None, Some(ahead)) => {
                let (mut hint, before) = (SizeHint::new(), ahead.data.len() as u64);
                let rest = live.unwrap_or_default();
                hint.set_lower(before + rest.lower());
                if let Some(upper) = rest.upper() {
                    hint.set_upper(before.saturating_add(upper));
                }
                hint
            }
        }
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

    /// Bytes to reserve for reading it ahead, if it can be: it is short, or of unknown length and may be of any, and nobody waits
    /// for it.
    pub(super) fn ahead_bytes(&self) -> Option<usize> {
        let content = self.lock();
        let live = content.live.as_deref().filter(|_| content.reader.is_none())?;
        if live.upgrade.is_some() || content.ahead.is_some() {
            return None;
        }
        match live.incoming.size_hint().exact() {
            Some(bytes) => usize::try_from(bytes).ok().filter(|bytes| *bytes <= AHEAD_MAX_BYTES),
            None if live.limits.max_bytes == u64::MAX => Some(AHEAD_MAX_BYTES),
            None => None,
        }
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
        content.coming = Some(live.incoming.size_hint());
        Some(live)
    }

    /// Leaves what was read, and what there is behind it.
    pub(super) fn end_ahead(&self, ahead: Ahead, rest: Rest) {
        let mut content = self.lock();
        content.coming = None;
        let reader = content.reader.take();
        if content.reclaimed.is_some() {
            // Its stream was taken back in the middle.
            drop(content);
            drop((ahead, rest));
        } else {
            // Of a body without a byte the end is what is kept.
            let is_piece = !ahead.data.is_empty() || matches!(rest, Rest::End(None));
            content.ahead = Some(ahead).filter(|_| is_piece);
            match rest {
                Rest::End(trailers) => content.trailers = trailers,
                Rest::Broken(error) => content.broken = Some(error),
                Rest::Live(live) => {
                    live.conn.state().set_unread();
                    content.live = Some(live);
                }
            }
        }
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
