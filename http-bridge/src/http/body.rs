//! The body of a response, which owns its stream.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{
    runtime::Handle,
    time::{Instant, Sleep, sleep, timeout},
};

use super::{HttpError, pool::Conn};

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
    body_timeout: Duration,
    idle: Pin<Box<Sleep>>,
    /// Whether `idle` runs: only while the reader waits, so that its own pauses count for nothing.
    is_waiting: bool,
}

struct Live {
    incoming: Incoming,
    conn: Conn,
    is_reusable: bool,
}

impl ResponseBody {
    pub(super) fn new(
        incoming: Incoming,
        conn: Conn,
        is_reusable: bool,
        body_timeout: Duration,
    ) -> Self {
        conn.state().set_unread();
        let live = Some(Live { incoming, conn, is_reusable });
        let idle = Box::pin(sleep(body_timeout));
        let mut body = Self { live, body_timeout, idle, is_waiting: false };
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

    fn finish_if_ended(&mut self) {
        if self.live.as_ref().is_some_and(|live| live.incoming.is_end_stream()) {
            self.finish();
        }
    }

    fn finish(&mut self) {
        if let Some(Live { conn, is_reusable: true, .. }) = self.live.take() {
            conn.release();
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
        if !live.conn.state().set_busy() {
            this.live = None;
            return Poll::Ready(Some(Err(HttpError::Reclaimed { to })));
        }
        let polled = Pin::new(&mut live.incoming).poll_frame(cx);
        match &polled {
            Poll::Pending => live.conn.state().set_waiting(this.body_timeout),
            Poll::Ready(_) => live.conn.state().set_unread(),
        }
        if polled.is_ready() {
            this.is_waiting = false;
        }
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
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
                if !std::mem::replace(&mut this.is_waiting, true) {
                    this.idle.as_mut().reset(Instant::now() + this.body_timeout);
                }
                if this.idle.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                this.live = None;
                Poll::Ready(Some(Err(HttpError::BodyTimeout { to, after: this.body_timeout })))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.live.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.live.as_ref().map_or_else(|| SizeHint::with_exact(0), |live| live.incoming.size_hint())
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let Some(live) = self.live.take() else { return };
        if live.is_reusable
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
