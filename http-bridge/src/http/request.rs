//! A request and its body, in a form that can be sent a second time where that is possible.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use http_body::{Body, Frame, SizeHint};

use super::{BoxError, HttpError, USER_AGENT, pool::LeaseState};
use crate::url::DmsgUrl;

/// A body that is produced while it is sent.
pub type BodyStream = Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>;

/// Pieces in which a body in memory is handed to hyper: small enough that each one taken shows
/// progress on a slow stream, large enough to fill a few frames.
const PIECE_BYTES: usize = 64 * 1024;

/// The body of a request.
#[derive(Default)]
pub enum RequestBody {
    /// None.
    #[default]
    Empty,
    /// In memory; can be sent again.
    Full(Bytes),
    /// Produced while it is sent; can be sent once.
    Stream(BodyStream),
}

impl RequestBody {
    fn replay(&self) -> Option<Self> {
        match self {
            Self::Empty => Some(Self::Empty),
            Self::Full(bytes) => Some(Self::Full(bytes.clone())),
            Self::Stream(_) => None,
        }
    }
}

/// A request to a `dmsg://` URL.
pub struct Request {
    /// What to do.
    pub method: Method,
    /// Where.
    pub url: DmsgUrl,
    /// Headers; `Host`, `User-Agent` and the framing are added if they are missing.
    pub headers: HeaderMap,
    /// The body.
    pub body: RequestBody,
}

impl Request {
    /// A request without headers and body.
    #[must_use]
    pub fn new(method: Method, url: DmsgUrl) -> Self {
        Self { method, url, headers: HeaderMap::new(), body: RequestBody::Empty }
    }

    /// `GET url`.
    #[must_use]
    pub fn get(url: DmsgUrl) -> Self {
        Self::new(Method::GET, url)
    }

    /// The same request once more, if its body allows it.
    pub(super) fn replay(&self) -> Option<Self> {
        Some(Self {
            method: self.method.clone(),
            url: self.url.clone(),
            headers: self.headers.clone(),
            body: self.body.replay()?,
        })
    }

    /// Back from hyper, which has not written any of it.
    pub(super) fn from_hyper(url: DmsgUrl, request: http::Request<SentBody>) -> Self {
        let (head, sent) = request.into_parts();
        Self { method: head.method, url, headers: head.headers, body: sent.body }
    }

    /// As hyper sends it. Order as in `dmsg-http.md §3.1`: host, agent, length, the rest.
    pub(super) fn into_hyper(
        self,
        lease: Arc<LeaseState>,
    ) -> Result<http::Request<SentBody>, HttpError> {
        let bad = |error: http::Error| HttpError::Request(error.to_string());
        let mut request = http::Request::builder()
            .method(&self.method)
            .uri(self.url.target())
            .body(SentBody { body: self.body, lease })
            .map_err(bad)?;
        let host = HeaderValue::from_str(&self.url.host()).map_err(|error| bad(error.into()))?;
        let headers = request.headers_mut();
        let mut rest = self.headers;
        headers.insert(header::HOST, rest.remove(header::HOST).unwrap_or(host));
        let agent = rest.remove(header::USER_AGENT);
        headers.insert(
            header::USER_AGENT,
            agent.unwrap_or_else(|| HeaderValue::from_static(USER_AGENT)),
        );
        // The framing is hyper's: what a caller wrote there could contradict the body.
        rest.remove(header::CONTENT_LENGTH);
        rest.remove(header::TRANSFER_ENCODING);
        let asks_body = matches!(self.method, Method::POST | Method::PUT | Method::PATCH);
        match request.body().size_hint().exact() {
            Some(0) if !asks_body => {}
            Some(length) => {
                request.headers_mut().insert(header::CONTENT_LENGTH, length.into());
            }
            None => {}
        }
        request.headers_mut().extend(rest);
        Ok(request)
    }
}

/// A request body on its way; each piece taken counts as progress.
pub(super) struct SentBody {
    body: RequestBody,
    lease: Arc<LeaseState>,
}

impl Body for SentBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match &mut self.body {
            RequestBody::Empty => None,
            RequestBody::Full(rest) if rest.is_empty() => None,
            RequestBody::Full(rest) => {
                Some(Ok(Frame::data(rest.split_to(rest.len().min(PIECE_BYTES)))))
            }
            RequestBody::Stream(stream) => ready!(stream.as_mut().poll_frame(cx)),
        };
        self.lease.progress.touch();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            RequestBody::Empty => true,
            RequestBody::Full(rest) => rest.is_empty(),
            RequestBody::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Full(rest) => SizeHint::with_exact(rest.len() as u64),
            RequestBody::Stream(stream) => stream.size_hint(),
        }
    }
}
