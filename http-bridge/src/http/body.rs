//! The body of a response, which owns its stream.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use dmsg_engine::wire::Addr;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::{
    runtime::Handle,
    time::{Instant, timeout},
};

use super::{
    HttpError, Upgraded,
    live::{Live, Next, Slot},
};

/// A body dropped unread is read to its end if no more than this is left: less than the cost of a
/// new stream with its handshakes.
const DRAIN_MAX_BYTES: u64 = 64 * 1024;

/// And if that takes no longer than this.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(250);

/// A response body as it comes in.
///
/// Read to its end, its stream returns to the pool. Dropped before, a short rest is drained and the
/// stream returns too; otherwise the stream is reset. Either way nothing outlives it. Kept and not read, it may lose its
/// stream to somebody who needs one: a short one is read into memory first, of a long one nothing is left, and reading it says
/// so ([`HttpError::Reclaimed`]).
pub struct ResponseBody {
    to: Addr,
    /// `None` after the end. Whatever is of use only as long as the stream is there belongs inside.
    slot: Option<Arc<Slot>>,
}

type Polled = Poll<Option<Result<Frame<Bytes>, HttpError>>>;

impl std::fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseBody").field("size_hint", &self.size_hint()).finish_non_exhaustive()
    }
}

impl ResponseBody {
    pub(super) fn new(live: Live) -> Self {
        let to = live.conn.to;
        if live.upgrade.is_none() && live.incoming.is_end_stream() {
            live.finish();
            return Self { to, slot: None };
        }
        live.conn.state().set_unread();
        let ahead = live.conn.read_ahead();
        let slot = Slot::new(live);
        if let Some(ahead) = ahead {
            ahead.note(&slot);
        }
        Self { to, slot: Some(slot) }
    }

    /// Reads all of it, at most `max` bytes.
    pub async fn read_to_end(mut self, max: u64) -> Result<Bytes, HttpError> {
        if self.size_hint().lower() > max {
            return Err(HttpError::BodyTooLarge { max });
        }
        let mut whole = BytesMut::new();
        while let Some(frame) = self.frame().await {
            if let Ok(data) = frame?.into_data() {
                if (whole.len() + data.len()) as u64 > max {
                    return Err(HttpError::BodyTooLarge { max });
                }
                whole.extend_from_slice(&data);
            }
        }
        Ok(whole.freeze())
    }

    /// The raw stream behind a 101 Switching Protocols; an error for any other response.
    pub async fn upgrade(mut self) -> Result<Upgraded, HttpError> {
        let to = self.to;
        let live = match self.slot.take().map(|slot| slot.take()) {
            None => None,
            Some(Ok(live)) => Some(live),
            Some(Err(unread_for)) => return Err(HttpError::Reclaimed { to, unread_for }),
        };
        let Some(Live { conn, upgrade: Some(upgrade), .. }) = live.map(|live| *live) else {
            return Err(HttpError::Request("the response is no 101, so nothing follows it".into()));
        };
        let io = upgrade.await.map_err(|error| HttpError::from_hyper(to, error))?;
        // Nobody can say whether an upgraded stream is stale, so it is never reclaimed.
        if !conn.state().set_busy() {
            return Err(HttpError::Reclaimed { to, unread_for: Duration::ZERO });
        }
        Ok(Upgraded::new(io, conn))
    }

    /// One poll of a body that has not ended, and has its stream.
    fn poll_live(&mut self, slot: &Slot, mut live: Box<Live>, cx: &mut Context<'_>) -> Polled {
        let to = self.to;
        let polled = Pin::new(&mut live.incoming).poll_frame(cx);
        if let Some((deadline, after)) = live.limits.deadline
            && Instant::now() >= deadline
        {
            return self.fail(HttpError::TotalTimeout { to, after });
        }
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                live.is_waiting = false;
                live.read_bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
                let max = live.limits.max_bytes;
                if live.read_bytes > max {
                    return self.fail(HttpError::BodyTooLarge { max });
                }
                if live.incoming.is_end_stream() {
                    self.slot = None;
                    live.finish();
                } else {
                    live.conn.state().set_unread();
                    // If it was taken back just now, the next read says so.
                    let _ = slot.put(live, None);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                let is_reclaimed = live.conn.state().is_reclaimed();
                drop(live);
                match slot.take() {
                    Err(unread_for) if is_reclaimed => {
                        self.fail(HttpError::Reclaimed { to, unread_for })
                    }
                    _ => self.fail(HttpError::from_hyper(to, error)),
                }
            }
            Poll::Ready(None) => {
                self.slot = None;
                live.finish();
                Poll::Ready(None)
            }
            Poll::Pending => {
                live.conn.state().set_waiting(live.limits.idle);
                if let Some(error) = live.poll_idle(cx) {
                    return self.fail(error);
                }
                match slot.put(live, Some(cx.waker())) {
                    Ok(()) => Poll::Pending,
                    Err(unread_for) => self.fail(HttpError::Reclaimed { to, unread_for }),
                }
            }
        }
    }

    fn fail(&mut self, error: HttpError) -> Polled {
        self.slot = None;
        Poll::Ready(Some(Err(error)))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let this = &mut *self;
        let Some(slot) = this.slot.clone() else { return Poll::Ready(None) };
        let to = this.to;
        match slot.next(cx.waker()) {
            Next::Stream => {}
            Next::Coming => return Poll::Pending,
            Next::Broken(error) => return this.fail(error),
            Next::Piece(data, is_last) => {
                if is_last {
                    this.slot = None;
                }
                return Poll::Ready((!data.is_empty()).then(|| Ok(Frame::data(data))));
            }
            Next::Trailers(trailers) => {
                this.slot = None;
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
        }
        match slot.take() {
            Err(unread_for) => this.fail(HttpError::Reclaimed { to, unread_for }),
            Ok(live) if live.upgrade.is_some() => {
                let _ = slot.put(live, None);
                Poll::Ready(None)
            }
            Ok(live) if live.conn.state().set_busy() => this.poll_live(&slot, live, cx),
            Ok(live) => {
                // It is being taken back at this moment.
                drop(live);
                let unread_for = slot.take().err().unwrap_or_default();
                this.fail(HttpError::Reclaimed { to, unread_for })
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let is_upgrade = |slot: &Arc<Slot>| slot.peek(|live| live.upgrade.is_some());
        self.slot.as_ref().is_none_or(|slot| is_upgrade(slot) == Some(true))
    }

    fn size_hint(&self) -> SizeHint {
        let Some(slot) = &self.slot else { return SizeHint::with_exact(0) };
        slot.size()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let Some(Ok(live)) = self.slot.take().map(|slot| slot.take()) else { return };
        if live.is_reusable()
            && live.incoming.size_hint().lower() <= DRAIN_MAX_BYTES
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(drain(live));
        }
    }
}

/// Reads the rest of a body nobody wants, within bounds, and keeps the stream if that works.
async fn drain(mut live: Box<Live>) {
    live.conn.state().set_busy();
    let rest = async {
        let mut drained = 0;
        loop {
            match live.incoming.frame().await {
                None => return true,
                Some(Ok(frame)) => drained += frame.data_ref().map_or(0, Bytes::len) as u64,
                Some(Err(_)) => return false,
            }
            if drained > DRAIN_MAX_BYTES {
                return false;
            }
        }
    };
    if timeout(DRAIN_TIMEOUT, rest).await == Ok(true) {
        live.finish();
    }
}
