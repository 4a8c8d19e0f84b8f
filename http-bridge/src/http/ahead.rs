//! Reading short responses ahead of those who leave them unread, so that their streams are free at once and nothing is lost.
//!
//! ```text
//!   more than CROWD unread, or no place ──▶ the oldest unread short body ──a task reads it──▶ bytes in its slot, within a budget
//!                                                                           └── its stream goes back to the pool
//!   the budget is full ──▶ the oldest bytes that have lain for `unread_min_age` are given up
//! ```
//!
//! Short is a body of [`AHEAD_MAX_BYTES`] at most: it mostly lies in the stream's window already. One of unknown length is
//! tried; if it turns out to be long, so much of it is kept. The holder reads it later as if it came in then. Nothing is read
//! ahead while few bodies are unread and there are places, so a prompt reader pays an entry in a line for this and nothing else.
//! Longer bodies are the matter of the pool, which takes them back by age.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use dmsg_engine::identity::PublicKey;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::{
    runtime::Handle,
    time::{Instant, timeout_at},
};

use super::{
    HttpConfig, HttpError,
    live::{Live, Rest, Slot},
};

/// A longer body is not read ahead: as much as is drained of one that is dropped.
pub(super) const AHEAD_MAX_BYTES: usize = 64 * 1024;

/// So many short bodies may lie unread on their streams: a third of those to one destination.
const CROWD: usize = 64;

/// What has not come within this time is left to its holder again.
const AHEAD_TIMEOUT: Duration = Duration::from_millis(250);

/// Bytes that were read ahead, as long as nobody has fetched them.
pub(super) struct Ahead {
    pub(super) data: Bytes,
    pub(super) since: Instant,
    _share: Share,
}

/// A part of the budget; dropping it gives it back.
struct Share {
    bytes: usize,
    of: Arc<AtomicUsize>,
}

impl Share {
    fn set(&mut self, bytes: usize) {
        self.of.fetch_add(bytes, Relaxed);
        self.of.fetch_sub(self.bytes, Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Relaxed);
    }
}

/// Slots in the order in which they came. Those whose holder is gone are forgotten now and then.
#[derive(Default)]
struct Line {
    slots: VecDeque<(PublicKey, Weak<Slot>)>,
    tidy_at: usize,
}

impl Line {
    fn push(&mut self, slot: &Arc<Slot>) {
        if self.slots.len() >= self.tidy_at {
            self.tidy_at = (2 * self.tidy()).max(CROWD);
        }
        self.slots.push_back((slot.to().key, Arc::downgrade(slot)));
    }

    /// Forgets those whose holder is gone; how many are left.
    fn tidy(&mut self) -> usize {
        self.slots.retain(|(_, slot)| slot.strong_count() > 0);
        self.slots.len()
    }

    /// The first that is still there; of this destination, if one is named.
    fn pop(&mut self, destination: Option<PublicKey>) -> Option<Arc<Slot>> {
        while self.slots.front().is_some_and(|(_, slot)| slot.strong_count() == 0) {
            self.slots.pop_front();
        }
        let is_it = |(key, slot): &(PublicKey, Weak<Slot>)| {
            destination.is_none_or(|wanted| wanted == *key) && slot.strong_count() > 0
        };
        let at = self.slots.iter().position(is_it)?;
        self.slots.remove(at)?.1.upgrade()
    }
}

/// What one HTTP client reads ahead.
pub(super) struct ReadAhead {
    max_bytes: usize,
    crowd: usize,
    min_age: Option<Duration>,
    bytes: Arc<AtomicUsize>,
    /// Short bodies that somebody may have left unread.
    unread: Mutex<Line>,
    /// Bodies in memory.
    kept: Mutex<Line>,
}

impl ReadAhead {
    /// Of a client with these limits.
    pub(super) fn new(config: &HttpConfig) -> Arc<Self> {
        let streams_max = config.streams_max.min(config.streams_per_destination_max);
        Arc::new(Self {
            max_bytes: config.unread_buffer_max_bytes,
            crowd: CROWD.min(streams_max / 2),
            min_age: config.unread_min_age,
            bytes: Arc::default(),
            unread: Mutex::default(),
            kept: Mutex::default(),
        })
    }

    /// Bytes in memory that nobody has fetched yet.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// A response has come, and its body is its holder's to read.
    pub(super) fn note(self: &Arc<Self>, slot: &Arc<Slot>) {
        if self.max_bytes == 0 || slot.ahead_bytes().is_none() {
            return;
        }
        let is_crowded = {
            let mut unread = lock(&self.unread);
            unread.push(slot);
            unread.slots.len() > self.crowd && unread.tidy() > self.crowd
        };
        if is_crowded {
            self.press(None);
        }
    }

    /// A stream is needed: the oldest body that can be is read ahead; of this destination, if one is named.
    pub(super) fn press(self: &Arc<Self>, destination: Option<PublicKey>) {
        let Ok(runtime) = Handle::try_current() else { return };
        loop {
            let Some(slot) = lock(&self.unread).pop(destination) else { return };
            // Read or taken back meanwhile, or somebody waits for it.
            let Some(bytes) = slot.ahead_bytes() else { continue };
            let Some(share) = self.reserve(bytes) else {
                lock(&self.unread).slots.push_front((slot.to().key, Arc::downgrade(&slot)));
                return;
            };
            if let Some(live) = slot.begin_ahead() {
                runtime.spawn(read_ahead(Arc::clone(self), slot, live, share));
                return;
            }
        }
    }

    /// Room for so many bytes, if need be that of the oldest ones.
    fn reserve(&self, bytes: usize) -> Option<Share> {
        loop {
            let room = |used: usize| used.checked_add(bytes).filter(|&sum| sum <= self.max_bytes);
            if self.bytes.fetch_update(Relaxed, Relaxed, room).is_ok() {
                return Some(Share { bytes, of: Arc::clone(&self.bytes) });
            }
            let slot = lock(&self.kept).pop(None)?;
            if !slot.give_up_ahead(self.min_age?) {
                // Too young, and so are all behind it.
                lock(&self.kept).slots.push_front((slot.to().key, Arc::downgrade(&slot)));
                return None;
            }
        }
    }
}

/// Reads what there is of a body, and leaves it in its slot.
async fn read_ahead(ahead: Arc<ReadAhead>, slot: Arc<Slot>, mut live: Box<Live>, mut share: Share) {
    let until = Instant::now() + AHEAD_TIMEOUT;
    let exact = live.incoming.size_hint().exact().map_or(0, |_| share.bytes);
    let (mut data, mut trailers) = (BytesMut::with_capacity(exact), None);
    let rest = loop {
        if data.len() > AHEAD_MAX_BYTES {
            break Rest::Live(live);
        }
        match timeout_at(until, live.incoming.frame()).await {
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(piece) => data.extend_from_slice(&piece),
                Err(frame) => trailers = frame.into_trailers().ok(),
            },
            Ok(None) => {
                live.finish();
                break Rest::End(trailers);
            }
            Ok(Some(Err(error))) => break Rest::Broken(HttpError::from_hyper(slot.to(), error)),
            Err(_) => break Rest::Live(live),
        }
    };
    // What has grown takes up to twice its bytes.
    let data = if data.capacity() > exact { Bytes::copy_from_slice(&data) } else { data.freeze() };
    share.set(data.len());
    lock(&ahead.kept).push(&slot);
    slot.end_ahead(Ahead { data, since: Instant::now(), _share: share }, rest);
}

/// A step of a line is a whole one, so a panic elsewhere does not spoil it.
fn lock(line: &Mutex<Line>) -> MutexGuard<'_, Line> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}
