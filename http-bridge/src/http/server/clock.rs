//! The time limits of one connection.
//!
//! ```text
//!            first byte              head parsed                  reply sent
//!   idle ───────────────▶ head ─────────────────────▶ request ───────────────▶ idle
//!   115 s                 30 s      handler: unlimited, a write that makes no progress: 30 s
//! ```
//!
//! The connection's task waits on [`Clock::expired`] beside hyper; the wrapped stream and the bodies tell the
//! clock what happens. A handler's own time is not limited here: it may be waiting for something.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep, sleep_until},
};

use super::{ServeConfig, framing::FramingWatch};
use crate::http::BoxError;

/// A clock without a limit looks again after this long.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

#[derive(Clone, Copy)]
enum Phase {
    Idle { since: Instant },
    Head { since: Instant },
    Request,
}

struct State {
    phase: Phase,
    /// Since when a write has been waiting.
    write_stalled: Option<Instant>,
    /// Whether a request came that states its length twice. The connection answers nothing else from then on.
    has_two_lengths: bool,
}

/// The shared clock of one connection.
#[derive(Clone)]
pub(super) struct Clock {
    state: Arc<Mutex<State>>,
    head_timeout: Duration,
    idle_timeout: Duration,
    stall_timeout: Duration,
}

impl Clock {
    pub(super) fn new(config: &ServeConfig) -> Self {
        let phase = Phase::Idle { since: Instant::now() };
        Self {
            state: Arc::new(Mutex::new(State {
                phase,
                write_stalled: None,
                has_two_lengths: false,
            })),
            head_timeout: config.head_timeout,
            idle_timeout: config.idle_timeout,
            stall_timeout: config.stall_timeout,
        }
    }

    /// Ends when a limit is passed, and says which.
    pub(super) async fn expired(&self) -> &'static str {
        loop {
            let now = Instant::now();
            let limit = self.limit();
            match limit {
                Some((at, why)) if at <= now => return why,
                _ => {}
            }
            // A limit may come nearer while we sleep (a head begins), so never sleep past the shortest.
            let shortest = self.head_timeout.min(self.stall_timeout).min(LOOK_AGAIN);
            let look_again = now + shortest;
            sleep_until(limit.map_or(look_again, |(at, _)| at.min(look_again))).await;
        }
    }

    fn limit(&self) -> Option<(Instant, &'static str)> {
        let state = self.lock();
        let phase = match state.phase {
            Phase::Idle { since } => Some((since + self.idle_timeout, "no request")),
            Phase::Head { since } => Some((since + self.head_timeout, "request head too slow")),
            Phase::Request => None,
        };
        let write =
            state.write_stalled.map(|since| (since + self.stall_timeout, "reply not taken"));
        phase.into_iter().chain(write).min_by_key(|(at, _)| *at)
    }

    /// A request's head is complete. The guard ends the request when its reply is sent.
    pub(super) fn begin_request(&self) -> InRequest {
        self.lock().phase = Phase::Request;
        InRequest(self.clone())
    }

    /// Whether a request of this connection stated its length twice.
    pub(super) fn saw_two_lengths(&self) -> bool {
        self.lock().has_two_lengths
    }

    fn note_read(&self, has_two_lengths: bool) {
        let mut state = self.lock();
        state.has_two_lengths |= has_two_lengths;
        if let Phase::Idle { .. } = state.phase {
            state.phase = Phase::Head { since: Instant::now() };
        }
    }

    fn note_write<T>(&self, result: &Poll<io::Result<T>>) {
        let mut state = self.lock();
        if result.is_ready() {
            state.write_stalled = None;
        } else {
            state.write_stalled.get_or_insert_with(Instant::now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request under way; its drop makes the connection idle.
pub(super) struct InRequest(Clock);

impl InRequest {
    /// Keeps the request under way until its reply's body is sent or given up.
    pub(super) fn until_sent(self, body: Body) -> Body {
        if body.is_end_stream() {
            return body;
        }
        Body::new(Guarded { body, _in_request: self })
    }
}

impl Drop for InRequest {
    fn drop(&mut self) {
        self.0.lock().phase = Phase::Idle { since: Instant::now() };
    }
}

struct Guarded {
    body: Body,
    _in_request: InRequest,
}

impl HttpBody for Guarded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        HttpBody::size_hint(&self.body)
    }
}

/// A request body whose pieces must come within a limit of each other while they are waited for.
pub(super) struct ClockedBody<B> {
    body: B,
    limit: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<B> ClockedBody<B> {
    pub(super) fn new(body: B, limit: Duration) -> Self {
        Self { body, limit, waiting: None }
    }
}

impl<B> HttpBody for ClockedBody<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.waiting = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let limit = this.limit;
        ready!(this.waiting.get_or_insert_with(|| Box::pin(sleep(limit))).as_mut().poll(cx));
        let error = io::Error::new(io::ErrorKind::TimedOut, "the request body stopped coming");
        Poll::Ready(Some(Err(error.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The stream of a connection, which tells the clock of reads and writes.
pub(super) struct Clocked<T> {
    stream: T,
    clock: Clock,
    framing: FramingWatch,
}

impl<T> Clocked<T> {
    pub(super) fn new(stream: T, clock: Clock) -> Self {
        Self { stream, clock, framing: FramingWatch::new() }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Clocked<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            let has_two_lengths = self.framing.is_ambiguous(&buf.filled()[before..]);
            self.clock.note_read(has_two_lengths);
        }
        result
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Clocked<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.clock.note_write(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.clock.note_write(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.clock.note_write(&result);
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
