//! A future that is given up after so many polls.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

struct Cut<F> {
    future: Pin<Box<F>>,
    left: usize,
    is_eager: bool,
}

impl<F: Future> Future for Cut<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        match self.future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            // Dropped while it waits, not when it is woken.
            Poll::Pending if self.left == 0 => Poll::Ready(None),
            Poll::Pending => {
                if self.is_eager {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
        }
    }
}

/// Polls `future` at most `polls` times and drops it; its output, if that was enough. An eager one is polled whenever its
/// task has a turn, and not only when it is woken: so it is also given up while others work for it, in the middle of a body
/// that is being sent.
pub(super) async fn after<F: Future>(polls: usize, is_eager: bool, future: F) -> Option<F::Output> {
    Cut { future: Box::pin(future), left: polls, is_eager }.await
}
