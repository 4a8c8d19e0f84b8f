//! The body of a response, which owns its stream.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use tokio::{
    runtime::Handle,
    time::{Instant, Sleep, sleep, timeout},
};

use super::{HttpError, Upgraded, pool::Conn, request::Sending};

/// A body dropped unread is read to its end if no more than this is left: less than the cost of a
/// new stream with its handshakes.
const DRAIN_MAX_BYTES: u64 = 64 * 1024;

/// And if that takes no longer than this.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(250);

/// A response body as it comes in.
///
/// Read to its end, its stream returns to the pool. Dropped before, a short rest is drained and the
/// stream returns too; otherwise the stream is closed. Either way nothing outlives it.
pub struct ResponseBody {
    live: Option<Live>,
    limits: BodyLimits,
    read_bytes: u64,
    idle: Pin<Box<Sleep>>,
    /// Whether `idle` runs: only while the reader waits, so that its own pauses count for nothing.
    is_waiting: bool,
}

/// What bounds the reading of one body.
pub(super) struct BodyLimits {
    /// Between two pieces.
    pub(super) idle: Duration,
    /// When the whole exchange must be over, and how long it was given.
    pub(super) deadline: Option<(Instant, Duration)>,
    pub(super) max_bytes: u64,
}

struct Live {
    incoming: Incoming,
    conn: Conn,
    is_reusable: bool,
    sending: Sending,
    upgrade: Option<OnUpgrade>,
}

impl Live {
    /// Whether the next request may use the stream.
    fn is_reusable(&self) -> bool {
        self.is_reusable && self.sending.is_sent()
    }
}

impl std::fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseBody").field("size_hint", &self.size_hint()).finish_non_exhaustive()
    }
}

impl ResponseBody {
    pub(super) fn new(
        incoming: Incoming,
        conn: Conn,
        is_reusable: bool,
        sending: Sending,
        limits: BodyLimits,
        upgrade: Option<OnUpgrade>,
    ) -> Self {
        conn.state().set_unread();
        let live = Some(Live { incoming, conn, is_reusable, sending, upgrade });
        let idle = Box::pin(sleep(limits.idle));
        let mut body = Self { live, limits, read_bytes: 0, idle, is_waiting: false };
        body.finish_if_ended();
        body
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
        let Some(Live { conn, upgrade: Some(upgrade), .. }) = self.live.take() else {
            return Err(HttpError::Request("the response is no 101, so nothing follows it".into()));
        };
        let to = conn.to;
        let io = upgrade.await.map_err(|error| HttpError::from_hyper(to, error))?;
        if !conn.state().hold() {
            return Err(HttpError::Reclaimed { to });
        }
        Ok(Upgraded::new(io, conn))
    }

    fn finish_if_ended(&mut self) {
        let ended = |live: &Live| live.upgrade.is_none() && live.incoming.is_end_stream();
        if self.live.as_ref().is_some_and(ended) {
            self.finish();
        }
    }

    fn finish(&mut self) {
        if let Some(live) = self.live.take()
            && live.is_reusable()
        {
            live.conn.release();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        let Some(live) = &mut this.live else { return Poll::Ready(None) };
        let to = live.conn.to;
        if live.upgrade.is_some() {
            return Poll::Ready(None);
        }
        if !live.conn.state().set_busy() {
            this.live = None;
            return Poll::Ready(Some(Err(HttpError::Reclaimed { to })));
        }
        let polled = Pin::new(&mut live.incoming).poll_frame(cx);
        match &polled {
            Poll::Pending => live.conn.state().set_waiting(this.limits.idle),
            Poll::Ready(_) => live.conn.state().set_unread(),
        }
        if let Some((deadline, after)) = this.limits.deadline
            && Instant::now() >= deadline
        {
            this.live = None;
            return Poll::Ready(Some(Err(HttpError::TotalTimeout { to, after })));
        }
        if polled.is_ready() {
            this.is_waiting = false;
        }
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                this.read_bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
                let max = this.limits.max_bytes;
                if this.read_bytes > max {
                    this.live = None;
                    return Poll::Ready(Some(Err(HttpError::BodyTooLarge { max })));
                }
                this.finish_if_ended();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                let error = if live.conn.state().is_reclaimed() {
                    HttpError::Reclaimed { to }
                } else {
                    HttpError::from_hyper(to, error)
                };
                this.live = None;
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) => {
                this.finish();
                Poll::Ready(None)
            }
            Poll::Pending => {
                let BodyLimits { idle, deadline, .. } = this.limits;
                if !std::mem::replace(&mut this.is_waiting, true) {
                    let at = Instant::now() + idle;
                    this.idle.as_mut().reset(deadline.map_or(at, |(deadline, _)| at.min(deadline)));
                }
                if this.idle.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                this.live = None;
                let error = match deadline {
                    Some((at, after)) if Instant::now() >= at => {
                        HttpError::TotalTimeout { to, after }
                    }
                    _ => HttpError::BodyTimeout { to, after: idle },
                };
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.live.as_ref().is_none_or(|live| live.upgrade.is_some())
    }

    fn size_hint(&self) -> SizeHint {
        self.live.as_ref().map_or_else(|| SizeHint::with_exact(0), |live| live.incoming.size_hint())
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let Some(live) = self.live.take() else { return };
        if live.is_reusable()
            && live.incoming.size_hint().lower() <= DRAIN_MAX_BYTES
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(drain(live));
        }
    }
}

/// Reads the rest of a body nobody wants, within bounds, and keeps the stream if that works.
async fn drain(mut live: Live) {
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
        live.conn.release();
    }
}
