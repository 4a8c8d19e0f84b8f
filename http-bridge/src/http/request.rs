//! A request and its body, in a form that can be sent a second time where that is possible.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use http_body::{Body, Frame, SizeHint};

use super::{
    BoxError, HttpError, USER_AGENT,
    expect::{self, Gate, GateKeeper},
    length::state_chunks,
    pool::LeaseState,
};
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
    /// Any body, sent as it comes.
    pub(crate) fn of<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if body.is_end_stream() {
            return Self::Empty;
        }
        Self::Stream(Box::pin(http_body_util::BodyExt::map_err(body, Into::into)))
    }

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
    /// Headers; `Host`, `User-Agent` and the framing are added if they are missing. An empty `User-Agent` stands for none.
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

    /// The same without its body.
    pub(super) fn without_body(&self) -> Self {
        Self {
            method: self.method.clone(),
            url: self.url.clone(),
            headers: self.headers.clone(),
            body: RequestBody::Empty,
        }
    }

    /// The GET that a redirect makes of it: without what told of the body.
    pub(super) fn into_get(mut self) -> Self {
        self.method = Method::GET;
        self.body = RequestBody::Empty;
        for name in [
            header::CONTENT_TYPE,
            header::CONTENT_ENCODING,
            header::CONTENT_LANGUAGE,
            header::CONTENT_LENGTH,
            header::CONTENT_LOCATION,
            header::EXPECT,
            header::TRAILER,
            header::TRANSFER_ENCODING,
        ] {
            self.headers.remove(name);
        }
        self
    }

    /// Back from hyper, which has not written any of it.
    pub(super) fn from_hyper(url: DmsgUrl, request: http::Request<SentBody>) -> Self {
        let (head, sent) = request.into_parts();
        Self { method: head.method, url, headers: head.headers, body: sent.body }
    }

    /// As hyper sends it, and what is known of its body from then on. Order as in `dmsg-http.md §3.1`: host, agent,
    /// length, the rest.
    pub(super) fn into_hyper(
        self,
        lease: Arc<LeaseState>,
        body_max_bytes: u64,
    ) -> Result<(http::Request<SentBody>, Sending), HttpError> {
        let bad = |error: http::Error| HttpError::Request(error.to_string());
        let mut body = SentBody::new(self.body, lease, body_max_bytes)?;
        let mut sending = Sending { is_sent: Arc::clone(&body.is_sent), keeper: None };
        if !body.is_end_stream() && expect::asks_first(&self.headers) {
            let (gate, keeper) = expect::gate();
            body.gate = Some(gate);
            sending.keeper = Some(keeper);
        }
        let mut request = http::Request::builder()
            .method(&self.method)
            .uri(self.url.target())
            .body(body)
            .map_err(bad)?;
        if let Some(keeper) = &sending.keeper {
            expect::open_on_continue(&mut request, keeper);
        }
        let host = HeaderValue::from_str(&self.url.host()).map_err(|error| bad(error.into()))?;
        let headers = request.headers_mut();
        let mut rest = self.headers;
        headers.insert(header::HOST, rest.remove(header::HOST).unwrap_or(host));
        let agent = rest.remove(header::USER_AGENT);
        let agent = agent.unwrap_or_else(|| HeaderValue::from_static(USER_AGENT));
        if !agent.is_empty() {
            headers.insert(header::USER_AGENT, agent);
        }
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
        let (mut head, body) = request.into_parts();
        state_chunks(&mut head.headers, &body);
        Ok((http::Request::from_parts(head, body), sending))
    }
}

/// What the response's side knows of the request's body.
pub(super) struct Sending {
    is_sent: Arc<AtomicBool>,
    keeper: Option<GateKeeper>,
}

impl Sending {
    /// The final response came.
    pub(super) fn answered(&self) {
        if let Some(keeper) = &self.keeper {
            keeper.refuse();
        }
    }

    /// Whether all of the body went out. If a peer answers without waiting for it, its stream ends with the answer.
    pub(super) fn is_sent(&self) -> bool {
        self.is_sent.load(Relaxed)
    }
}

/// A body beyond [`super::HttpConfig::request_body_max_bytes`].
#[derive(Debug, thiserror::Error)]
#[error("the request's body is larger than the {max} bytes allowed")]
pub(super) struct TooMuchSent {
    pub(super) max: u64,
}

/// A request body on its way; each piece taken counts as progress.
pub(super) struct SentBody {
    body: RequestBody,
    lease: Arc<LeaseState>,
    gate: Option<Gate>,
    sent_bytes: u64,
    max_bytes: u64,
    /// hyper stops asking at the stated length, so the end is found by counting too.
    stated: Option<u64>,
    is_sent: Arc<AtomicBool>,
}

impl SentBody {
    fn new(body: RequestBody, lease: Arc<LeaseState>, max_bytes: u64) -> Result<Self, HttpError> {
        let mut this = Self {
            body,
            lease,
            gate: None,
            sent_bytes: 0,
            max_bytes,
            stated: None,
            is_sent: Arc::default(),
        };
        this.stated = this.size_hint().exact();
        if this.size_hint().lower() > max_bytes {
            return Err(HttpError::RequestTooLarge { max: max_bytes });
        }
        this.is_sent.store(this.is_end_stream(), Relaxed);
        Ok(this)
    }
}

impl Body for SentBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(gate) = &mut self.gate {
            ready!(gate.poll_open(cx))?;
            self.gate = None;
        }
        let frame = match &mut self.body {
            RequestBody::Empty => None,
            RequestBody::Full(rest) if rest.is_empty() => None,
            RequestBody::Full(rest) => {
                Some(Ok(Frame::data(rest.split_to(rest.len().min(PIECE_BYTES)))))
            }
            RequestBody::Stream(stream) => ready!(stream.as_mut().poll_frame(cx)),
        };
        self.lease.progress.touch();
        match &frame {
            None => self.is_sent.store(true, Relaxed),
            Some(Ok(piece)) => {
                self.sent_bytes += piece.data_ref().map_or(0, Bytes::len) as u64;
                if self.sent_bytes > self.max_bytes {
                    let error = TooMuchSent { max: self.max_bytes };
                    return Poll::Ready(Some(Err(error.into())));
                }
                let is_last = piece.is_trailers()
                    || self.stated == Some(self.sent_bytes)
                    || self.is_end_stream();
                self.is_sent.store(is_last, Relaxed);
            }
            Some(Err(_)) => {}
        }
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
