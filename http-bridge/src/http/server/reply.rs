//! The body of a reply on its way to hyper.
//!
//! ```text
//!              the body fails                     hyper has flushed what it was given before
//!   Sending ───────────────────▶ Failing(error) ─────────────────────────────────────────────▶ error to hyper
//! ```
//!
//! hyper drops the connection the moment a body fails, with whatever it has not written yet: a service that dies right
//! behind the first piece of its answer would look like one that never answered. So a failure is held back until the
//! stream has been flushed once since. The connection still ends in the middle of the body, and the caller still learns
//! that it has a part of the answer; it also gets that part.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::clock::{Clock, InRequest};
use crate::http::BreakOff;

/// Keeps its request under way until it is sent or given up.
pub(super) struct Reply {
    body: Body,
    clock: Clock,
    /// Why the body failed, and how many flushes had been done when it did.
    failing: Option<(axum::Error, u64)>,
    /// For a reply whose failure would otherwise look like its end.
    break_off: Option<BreakOff>,
    _in_request: InRequest,
}

impl Reply {
    /// Wraps the body of a reply, unless there is nothing of it to send.
    pub(super) fn body(
        body: Body,
        clock: Clock,
        in_request: InRequest,
        break_off: Option<BreakOff>,
    ) -> Body {
        if body.is_end_stream() {
            return body;
        }
        Body::new(Self { body, clock, failing: None, break_off, _in_request: in_request })
    }
}

impl HttpBody for Reply {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        if let Some((_, since)) = &this.failing {
            if this.clock.poll_flushed(*since, cx).is_pending() {
                return Poll::Pending;
            }
            this.break_off.iter().for_each(BreakOff::now);
            return Poll::Ready(this.failing.take().map(|(error, _)| Err(error)));
        }
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        let Poll::Ready(Some(Err(error))) = polled else { return polled };
        this.failing = Some((error, this.clock.flushes()));
        // hyper flushes whenever its task runs, but it need not have anything to run for.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.failing.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        HttpBody::size_hint(&self.body)
    }
}
