//! Requests to hosts outside of DMSG: one on a connection of its own, within the limits of the client for DMSG.
//!
//! Clear-net is the exception here, so there is no pool. A body that stops coming breaks the program's response, and an
//! answer that two parsers could read in two ways is none.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use ::http::{HeaderMap, Method, Request, Response, Uri};
use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Sleep, sleep},
};

use crate::http::{
    BoxError,
    length::{framing_problem, state_chunks},
    progress::Progress,
};

/// How long a host may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// From the last piece of the request to the head of the answer.
    pub(super) answer: Duration,
    /// Between two pieces of the answer's body.
    pub(super) idle: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error("the host broke off: {0}")]
    Broken(#[from] hyper::Error),
    #[error("the host sent no response for {0:?}")]
    TimedOut(Duration),
    #[error("the host's answer {0}")]
    Framing(&'static str),
    #[error("the request cannot be sent: {0}")]
    Unsendable(#[from] ::http::Error),
}

/// Sends one request over `stream`. `place` is kept until the connection ends.
pub(super) async fn send<S, P>(
    (stream, place): (S, P),
    method: Method,
    uri: &Uri,
    headers: HeaderMap,
    body: Body,
    limits: Limits,
) -> Result<Response<Body>, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    P: Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "clear-net connection ended");
        }
        drop(place);
    });
    let progress = Arc::new(Progress::default());
    let mut headers = headers;
    state_chunks(&mut headers, &body);
    let noting = Arc::clone(&progress);
    let body = Body::new(body.map_frame(move |frame| {
        noting.touch();
        frame
    }));
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let mut request = Request::builder().method(method).uri(target).body(body)?;
    *request.headers_mut() = headers;
    let response = tokio::select! {
        response = sender.send_request(request) => response?,
        () = progress.stalled(limits.answer) => return Err(Failed::TimedOut(limits.answer)),
    };
    if let Some(why) = framing_problem(response.headers()) {
        return Err(Failed::Framing(why));
    }
    Ok(response.map(|incoming| Body::new(Patient { incoming, limit: limits.idle, waiting: None })))
}

/// A body whose pieces come within a limit of each other. Time in which nobody waits for one does not count.
struct Patient {
    incoming: Incoming,
    limit: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl http_body::Body for Patient {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.incoming).poll_frame(cx) {
            this.waiting = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let limit = this.limit;
        let waiting = this.waiting.get_or_insert_with(|| Box::pin(sleep(limit)));
        if waiting.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(format!("nothing of the body came for {limit:?}").into())))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
