//! A future that is given up after so many polls.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

struct Cut<F> {
    future: Pin<Box<F>>,
    left: usize,
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
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Polls `future` at most `polls` times and drops it; its output, if that was enough.
pub(super) async fn after<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    Cut { future: Box::pin(future), left: polls }.await
}
