//! Bytes both ways between two streams, with honest ends: what a tunnel is, once both sides have agreed to one.
//!
//! ```text
//!   one side says its end   ─▶ passed on; the other direction goes on, for as long as something moves in it
//!   one side breaks         ─▶ the other is broken off: a reset, never an end
//!   the future is dropped   ─▶ both are broken off
//! ```

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes},
    sync::Notify,
};

use super::{BreakOff, progress::Progress};

/// Bytes in flight in each direction: sixteen frames, so that a write is worth its wake-up.
const BUFFER_BYTES: usize = 64 * 1024;

/// How long the second direction may be silent once the first has ended: a peer that never closes would hold its tunnel for ever.
pub(crate) const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(60);

/// Joins two streams until both directions have ended; how many bytes went each way. An end that is not an end is passed on
/// by the stream's [`BreakOff`], where it has one.
pub(crate) async fn join<A, B>(
    (near, near_end): (A, Option<BreakOff>),
    (far, far_end): (B, Option<BreakOff>),
) -> io::Result<(u64, u64)>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let watch = Watch::default();
    let mut near = Watched { stream: near, watch: &watch };
    let mut far = Watched { stream: far, watch: &watch };
    // Declared behind the streams, so dropped before them.
    let mut unless_done = BreakBoth([near_end, far_end]);
    let copied = tokio::select! {
        copied = copy_bidirectional_with_sizes(&mut near, &mut far, BUFFER_BYTES, BUFFER_BYTES) => copied?,
        () = watch.is_given_up() => {
            let why = "one side ended, and the other neither sent anything nor ended since";
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
    };
    unless_done.0 = [None, None];
    Ok(copied)
}

struct BreakBoth([Option<BreakOff>; 2]);

impl Drop for BreakBoth {
    fn drop(&mut self) {
        self.0.iter().flatten().for_each(BreakOff::now);
    }
}

/// What both directions tell.
#[derive(Default)]
struct Watch {
    progress: Progress,
    has_ended: Notify,
}

impl Watch {
    async fn is_given_up(&self) {
        self.has_ended.notified().await;
        self.progress.stalled(HALF_CLOSED_TIMEOUT).await;
    }
}

struct Watched<'a, S> {
    stream: S,
    watch: &'a Watch,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.watch.progress.touch();
        if buf.filled().len() == before {
            self.watch.has_ended.notify_one();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.watch.progress.touch();
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    };

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn counted() -> (Arc<AtomicUsize>, Option<BreakOff>) {
        let count = Arc::new(AtomicUsize::new(0));
        let counting = Arc::clone(&count);
        (count, Some(BreakOff::new(move || _ = counting.fetch_add(1, SeqCst))))
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_never_ends_is_given_up_after_the_other_has() {
        let (mut program, near) = duplex(1024);
        let (mut peer, far) = duplex(1024);
        let (broken, far_end) = counted();
        let begun = tokio::time::Instant::now();
        let joined = tokio::spawn(join((near, None), (far, far_end)));
        program.write_all(b"bye").await.unwrap();
        program.shutdown().await.unwrap();
        let mut heard = Vec::new();
        peer.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"bye");
        // It counts from what moved last.
        tokio::time::sleep(HALF_CLOSED_TIMEOUT / 2).await;
        peer.write_all(b"still here").await.unwrap();
        let ended = joined.await.unwrap().unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= HALF_CLOSED_TIMEOUT * 3 / 2, "{:?}", begun.elapsed());
        assert_eq!(broken.load(SeqCst), 1, "the peer learns that it was cut");
    }

    #[tokio::test]
    async fn only_two_ends_are_no_break() {
        for is_dropped in [false, true] {
            let ((mut program, near), (mut peer, far)) = (duplex(1024), duplex(1024));
            let ((near_breaks, near_end), (far_breaks, far_end)) = (counted(), counted());
            let joined = tokio::spawn(join((near, near_end), (far, far_end)));
            if is_dropped {
                tokio::task::yield_now().await;
                joined.abort();
            } else {
                program.shutdown().await.unwrap();
                peer.shutdown().await.unwrap();
            }
            assert_eq!(joined.await.is_err(), is_dropped);
            let breaks = usize::from(is_dropped);
            assert_eq!((near_breaks.load(SeqCst), far_breaks.load(SeqCst)), (breaks, breaks));
        }
    }
}
