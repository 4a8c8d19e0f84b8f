//! `Expect: 100-continue` on the way out (RFC 9110 §10.1.1).
//!
//! ```text
//!              100, or no answer for 1 s
//!   Waiting ───────────────────────────────▶ Open      the body is sent
//!      │ final response
//!      └───────────────────────────────────▶ Refused   it never is; the connection ends with the response
//! ```
//!
//! hyper sends the head and asks for the body at once; the gate stands between.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use http::{HeaderMap, Request, StatusCode, header};
use tokio::time::{Sleep, sleep};

/// How long a body is held back for a peer that does not answer the expectation: many never do.
pub(crate) const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

const WAITING: u8 = 0;
const OPEN: u8 = 1;
const REFUSED: u8 = 2;
/// Refused, and the response is over too: the connection can go.
const CLOSED: u8 = 3;

#[derive(Default)]
struct Shared {
    state: AtomicU8,
    waker: AtomicWaker,
}

impl Shared {
    /// Only the first word counts.
    fn decide(&self, state: u8) {
        if self.state.compare_exchange(WAITING, state, SeqCst, SeqCst).is_ok() {
            self.waker.wake();
        }
    }
}

/// The body's side: held back while the peer has not said whether it wants it.
pub(crate) struct Gate {
    shared: Arc<Shared>,
    patience: Option<Pin<Box<Sleep>>>,
}

/// The response's side.
#[derive(Clone)]
pub(crate) struct GateKeeper(Arc<Shared>);

impl GateKeeper {
    /// The final response came: a body that still waits is not wanted.
    pub(crate) fn refuse(&self) {
        self.0.decide(REFUSED);
    }

    /// The response is over. A body that was refused ends with an error now, which closes its connection.
    pub(crate) fn close(&self) {
        if self.0.state.compare_exchange(REFUSED, CLOSED, SeqCst, SeqCst).is_ok() {
            self.0.waker.wake();
        }
    }
}

/// Whether a request asks its peer before it sends its body.
pub(crate) fn asks_first(headers: &HeaderMap) -> bool {
    headers
        .get(header::EXPECT)
        .is_some_and(|expected| expected.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// A gate, and who closes it.
pub(crate) fn gate() -> (Gate, GateKeeper) {
    let shared = Arc::new(Shared::default());
    (Gate { shared: Arc::clone(&shared), patience: None }, GateKeeper(shared))
}

/// Opens the gate when the peer of this request answers 100.
pub(crate) fn open_on_continue<B>(request: &mut Request<B>, keeper: &GateKeeper) {
    let shared = Arc::clone(&keeper.0);
    hyper::ext::on_informational(request, move |response| {
        if response.status() == StatusCode::CONTINUE {
            shared.decide(OPEN);
        }
    });
}

/// The peer answered without the body.
#[derive(Debug, thiserror::Error)]
#[error("the peer does not want the body")]
pub(crate) struct Refused;

impl Gate {
    /// Whether the body is not wanted.
    pub(crate) fn is_refused(&self) -> bool {
        self.shared.state.load(SeqCst) >= REFUSED
    }

    /// Ready when the body may be sent, or has to be given up; pending for as long as a refusal is being read.
    pub(crate) fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refused>> {
        self.shared.waker.register(cx.waker());
        match self.shared.state.load(SeqCst) {
            OPEN => return Poll::Ready(Ok(())),
            CLOSED => return Poll::Ready(Err(Refused)),
            REFUSED => return Poll::Pending,
            _ => {}
        }
        let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(CONTINUE_TIMEOUT)));
        if patience.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.shared.decide(OPEN);
        self.poll_open(cx)
    }
}
