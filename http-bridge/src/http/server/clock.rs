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
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep, sleep_until},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{ServeConfig, framing::FramingWatch};
use crate::http::BoxError;

/// Bytes per second that a request's body must bring on average, once the stall limit is used up: a twentieth of what a
/// 56 kbit/s modem did. Whoever sends a byte every 29 s is cut after the first few.
const BODY_RATE_MIN: u64 = 256;

/// What callers are told whose body passes a bound.
pub(super) const TOO_LARGE: &str = "the request's body is larger than this service takes\n";
const TOO_SLOW: &str = "the request's body stopped coming, or comes too slowly\n";

/// How long a caller that still sends is listened to behind an answer that did not wait for all of it.
const LINGER_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes thrown away at a time meanwhile.
const LINGER_BYTES: usize = 8 * 1024;

/// A clock without a limit looks again after this long.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

#[derive(Clone, Copy)]
enum Phase {
    Idle {
        since: Instant,
    },
    Head {
        since: Instant,
    },
    Request,
    /// It is no HTTP any more. Whoever took the stream over watches its time.
    Upgraded,
}

struct State {
    phase: Phase,
    /// Since when a write has been waiting.
    write_stalled: Option<Instant>,
    /// Why a request that came is ambiguous. The connection answers nothing else from then on.
    ambiguity: Option<&'static str>,
    /// Why the body of the request under way was given up.
    body_problem: Option<(StatusCode, &'static str)>,
    /// Whether the handler asked for that body.
    is_body_asked: bool,
    /// Whether all of that body came.
    is_body_over: bool,
    /// How often all that was written has been flushed, and who waits for the next time.
    flushes: u64,
    on_flush: Option<Waker>,
}

/// The shared clock of one connection.
#[derive(Clone)]
pub(super) struct Clock {
    state: Arc<Mutex<State>>,
    head_timeout: Duration,
    idle_timeout: Duration,
    stall_timeout: Duration,
}

impl State {
    fn note_write(&mut self, is_done: bool) {
        if is_done {
            self.write_stalled = None;
        } else {
            self.write_stalled.get_or_insert_with(Instant::now);
        }
    }
}

impl Clock {
    pub(super) fn new(config: &ServeConfig) -> Self {
        let phase = Phase::Idle { since: Instant::now() };
        Self {
            state: Arc::new(Mutex::new(State {
                phase,
                write_stalled: None,
                ambiguity: None,
                body_problem: None,
                is_body_asked: false,
                is_body_over: true,
                flushes: 0,
                on_flush: None,
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
            Phase::Request | Phase::Upgraded => None,
        };
        let write =
            state.write_stalled.map(|since| (since + self.stall_timeout, "reply not taken"));
        phase.into_iter().chain(write).min_by_key(|(at, _)| *at)
    }

    /// A request's head is complete, and maybe all of it. The guard ends the request when its reply is sent.
    pub(super) fn begin_request(&self, is_body_over: bool) -> InRequest {
        let mut state = self.lock();
        state.phase = Phase::Request;
        state.body_problem = None;
        state.is_body_asked = false;
        state.is_body_over = is_body_over;
        InRequest(self.clone())
    }

    /// The connection's stream is handed over with the reply under way.
    pub(super) fn upgrade(&self) {
        self.lock().phase = Phase::Upgraded;
    }

    fn is_upgraded(&self) -> bool {
        matches!(self.lock().phase, Phase::Upgraded)
    }

    /// Whether a reply is under way.
    pub(super) fn is_in_request(&self) -> bool {
        matches!(self.lock().phase, Phase::Request)
    }

    /// Which rule a request of this connection breaks.
    pub(super) fn ambiguity(&self) -> Option<&'static str> {
        self.lock().ambiguity
    }

    /// Whether the caller may be sending a part of its request still: a head that was refused, a body that was not awaited.
    fn is_caller_sending(&self) -> bool {
        let state = self.lock();
        matches!(state.phase, Phase::Head { .. }) || !state.is_body_over
    }

    /// Whether the handler asked for the body of the request under way.
    pub(super) fn is_body_asked(&self) -> bool {
        self.lock().is_body_asked
    }

    /// Why the body of the request under way was given up, and what the caller should be told.
    pub(super) fn body_problem(&self) -> Option<(StatusCode, &'static str)> {
        self.lock().body_problem
    }

    fn note_read(&self, ambiguity: Option<&'static str>) {
        let mut state = self.lock();
        state.ambiguity = state.ambiguity.or(ambiguity);
        if let Phase::Idle { .. } = state.phase {
            state.phase = Phase::Head { since: Instant::now() };
        }
    }

    fn note_write<T>(&self, result: &Poll<io::Result<T>>) {
        self.lock().note_write(result.is_ready());
    }

    /// How often hyper has got rid of all it had written.
    pub(super) fn flushes(&self) -> u64 {
        self.lock().flushes
    }

    /// Ready when that happened more than `since` times.
    pub(super) fn poll_flushed(&self, since: u64, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.flushes > since {
            return Poll::Ready(());
        }
        state.on_flush = Some(cx.waker().clone());
        Poll::Pending
    }

    fn note_flush(&self, result: &Poll<io::Result<()>>) {
        let mut state = self.lock();
        state.note_write(result.is_ready());
        if let Poll::Ready(Ok(())) = result {
            state.flushes += 1;
            if let Some(waiting) = state.on_flush.take() {
                waiting.wake();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request under way; its drop makes the connection idle.
pub(super) struct InRequest(Clock);

impl Drop for InRequest {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if let Phase::Request = state.phase {
            state.phase = Phase::Idle { since: Instant::now() };
        }
    }
}

/// A request body within its bounds: pieces within a limit of each other while they are waited for, a least rate over all
/// of that waiting, a greatest size. Time in which nobody waits for it is the handler's and counts for nothing.
pub(super) struct ClockedBody<B> {
    body: B,
    clock: Clock,
    max_bytes: u64,
    read_bytes: u64,
    is_asked: bool,
    waited: Duration,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<B> ClockedBody<B> {
    pub(super) fn new(body: B, clock: Clock, max_bytes: u64) -> Self {
        Self {
            body,
            clock,
            max_bytes,
            read_bytes: 0,
            is_asked: false,
            waited: Duration::ZERO,
            waiting: None,
        }
    }

    /// How long the next piece may be waited for.
    fn patience(&self) -> Duration {
        let earned = Duration::from_secs(self.read_bytes / BODY_RATE_MIN);
        let left = (self.clock.stall_timeout + earned).saturating_sub(self.waited);
        left.min(self.clock.stall_timeout)
    }

    fn fail(&self, status: StatusCode, why: &'static str) -> BoxError {
        self.clock.lock().body_problem = Some((status, why));
        io::Error::other(why.trim_end()).into()
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
        if !std::mem::replace(&mut this.is_asked, true) {
            this.clock.lock().is_body_asked = true;
        }
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            if let Some((since, _)) = this.waiting.take() {
                this.waited += since.elapsed();
            }
            if frame.is_none() || this.body.is_end_stream() {
                this.clock.lock().is_body_over = true;
            }
            if let Some(Ok(piece)) = &frame {
                this.read_bytes += piece.data_ref().map_or(0, Bytes::len) as u64;
                if this.read_bytes > this.max_bytes {
                    let error = this.fail(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE);
                    return Poll::Ready(Some(Err(error)));
                }
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let patience = this.patience();
        let begin = || (Instant::now(), Box::pin(sleep(patience)));
        ready!(this.waiting.get_or_insert_with(begin).1.as_mut().poll(cx));
        Poll::Ready(Some(Err(this.fail(StatusCode::REQUEST_TIMEOUT, TOO_SLOW))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The stream of a connection, which tells the clock of reads and writes.
///
/// It ends in two steps where the caller may still be sending: whoever closes a socket with something unread in it resets it,
/// and the answer may be lost with it. So the caller is told the end first, and has a while to take the answer and stop.
pub(super) struct Clocked<T, P> {
    stream: T,
    clock: Clock,
    framing: FramingWatch,
    /// Runs once our end is said.
    linger: Option<Pin<Box<Sleep>>>,
    /// Ends an upgraded stream, which no connection task looks after.
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _permit: P,
}

impl<T, P> Clocked<T, P> {
    /// `permit` lives as long as the stream, also behind an upgrade.
    pub(super) fn new(stream: T, clock: Clock, cut: CancellationToken, permit: P) -> Self {
        let cut = Box::pin(cut.cancelled_owned());
        Self { stream, clock, framing: FramingWatch::new(), linger: None, cut, _permit: permit }
    }
}

impl<T: AsyncRead + Unpin, P: Unpin> AsyncRead for Clocked<T, P> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.clock.is_upgraded() {
            // All connections share what this asks, so it is asked at a pause only.
            let result = Pin::new(&mut self.stream).poll_read(cx, buf);
            if result.is_pending() && self.cut.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            return result;
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            let ambiguity = self.framing.problem(&buf.filled()[before..]);
            self.clock.note_read(ambiguity);
        }
        result
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin, P: Unpin> AsyncWrite for Clocked<T, P> {
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
        self.clock.note_flush(&result);
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let over = match &mut this.linger {
            Some(over) => over,
            none => {
                ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
                if !this.clock.is_caller_sending() {
                    return Poll::Ready(Ok(()));
                }
                none.insert(Box::pin(sleep(LINGER_TIMEOUT)))
            }
        };
        let mut scratch = [0; LINGER_BYTES];
        // However fast it comes.
        while over.as_mut().poll(cx).is_pending() {
            let mut unread = ReadBuf::new(&mut scratch);
            let read = ready!(Pin::new(&mut this.stream).poll_read(cx, &mut unread));
            if read.is_err() || unread.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}
