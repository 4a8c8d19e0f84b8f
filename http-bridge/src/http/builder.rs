//! Requests and replies for everyday use, with the names that users of `reqwest` know.
//!
//! ```no_run
//! # async fn example(engine: dmsg_engine::client::Client) -> Result<(), dmsg_http::http::HttpError> {
//! let client = dmsg_http::http::HttpClient::new(engine);
//! let health: serde_json::Value = client
//!     .get("dmsg://02a49bc0aa1b5b78f638e9189be4ed095bac5d6839c828465a8350f80ac07629c0/health")
//!     .timeout(std::time::Duration::from_secs(5))
//!     .send()
//!     .await?
//!     .error_for_status()?
//!     .json()
//!     .await?;
//! # Ok(()) }
//! ```
//!
//! Mistakes made while building (a bad URL, a bad header) are told by `send`. What `reqwest` has and DMSG has no use for is
//! missing: TLS and its certificates, proxies, cookies, compression, HTTP/2. `reqwest` itself cannot be used over DMSG: its
//! connector is fixed to TCP, and its URLs to http and https. Programs that use it reach DMSG through `dmsg proxy`.

use std::{fmt, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header, response::Parts,
};
use http_body_util::{BodyExt, BodyStream};
use serde::{Serialize, de::DeserializeOwned};

use super::{Dial, HttpClient, HttpError, Request, RequestBody, ResponseBody, Upgraded};
use crate::url::{DmsgUrl, UrlError};

/// Bytes of a body that [`Reply::bytes`], [`Reply::text`] and [`Reply::json`] hold in memory: 32 MiB, several times the
/// largest answer of a deployed service. Longer ones are read as [`Reply::bytes_stream`].
pub const WHOLE_BODY_MAX_BYTES: u64 = 32 * 1024 * 1024;

/// What can stand for a URL.
pub trait IntoUrl {
    /// The checked URL.
    fn into_url(self) -> Result<DmsgUrl, UrlError>;
}

impl IntoUrl for DmsgUrl {
    fn into_url(self) -> Result<DmsgUrl, UrlError> {
        Ok(self)
    }
}

impl IntoUrl for &DmsgUrl {
    fn into_url(self) -> Result<DmsgUrl, UrlError> {
        Ok(self.clone())
    }
}

impl IntoUrl for &str {
    fn into_url(self) -> Result<DmsgUrl, UrlError> {
        self.parse()
    }
}

impl IntoUrl for String {
    fn into_url(self) -> Result<DmsgUrl, UrlError> {
        self.parse()
    }
}

impl<D: Dial> HttpClient<D> {
    /// Begins a request.
    pub fn request(&self, method: Method, url: impl IntoUrl) -> RequestBuilder<D> {
        let request = url.into_url().map(|url| Request::new(method, url)).map_err(Into::into);
        RequestBuilder { client: self.clone(), request, timeout: None, follows: false }
    }

    /// Begins a GET.
    pub fn get(&self, url: impl IntoUrl) -> RequestBuilder<D> {
        self.request(Method::GET, url)
    }

    /// Begins a HEAD.
    pub fn head(&self, url: impl IntoUrl) -> RequestBuilder<D> {
        self.request(Method::HEAD, url)
    }

    /// Begins a POST.
    pub fn post(&self, url: impl IntoUrl) -> RequestBuilder<D> {
        self.request(Method::POST, url)
    }

    /// Begins a PUT.
    pub fn put(&self, url: impl IntoUrl) -> RequestBuilder<D> {
        self.request(Method::PUT, url)
    }

    /// Begins a PATCH.
    pub fn patch(&self, url: impl IntoUrl) -> RequestBuilder<D> {
        self.request(Method::PATCH, url)
    }

    /// Begins a DELETE.
    pub fn delete(&self, url: impl IntoUrl) -> RequestBuilder<D> {
        self.request(Method::DELETE, url)
    }
}

/// A request in the making.
#[must_use = "a request does nothing until it is sent"]
pub struct RequestBuilder<D> {
    client: HttpClient<D>,
    request: Result<Request, HttpError>,
    timeout: Option<Duration>,
    follows: bool,
}

impl<D: Dial> RequestBuilder<D> {
    fn change(mut self, change: impl FnOnce(&mut Request) -> Result<(), HttpError>) -> Self {
        self.request = self.request.and_then(|mut request| change(&mut request).map(|()| request));
        self
    }

    /// Adds a header; one of the same name stays.
    pub fn header<N, V>(self, name: N, value: V) -> Self
    where
        N: TryInto<HeaderName, Error: fmt::Display>,
        V: TryInto<HeaderValue, Error: fmt::Display>,
    {
        self.change(|request| {
            let bad = |error: &dyn fmt::Display| HttpError::Request(error.to_string());
            let name = name.try_into().map_err(|error| bad(&error))?;
            let value = value.try_into().map_err(|error| bad(&error))?;
            request.headers.append(name, value);
            Ok(())
        })
    }

    /// Sets headers; each replaces those of its name.
    pub fn headers(self, headers: HeaderMap) -> Self {
        self.change(|request| {
            request.headers.extend(headers);
            Ok(())
        })
    }

    /// Appends these pairs to the query, percent-encoded.
    pub fn query(self, pairs: &[(&str, &str)]) -> Self {
        self.change(|request| {
            let mut target = request.url.target().to_owned();
            for (name, value) in pairs {
                target.push(if target.contains('?') { '&' } else { '?' });
                target.extend([&*encoded(name), "=", &*encoded(value)]);
            }
            request.url = request.url.with_target(&target)?;
            Ok(())
        })
    }

    /// Sends these bytes.
    pub fn body(self, body: impl Into<Bytes>) -> Self {
        self.change(|request| {
            request.body = RequestBody::Full(body.into());
            Ok(())
        })
    }

    /// Sends a body that is produced as it goes, in chunks unless its length is known.
    pub fn body_stream(self, body: RequestBody) -> Self {
        self.change(|request| {
            request.body = body;
            Ok(())
        })
    }

    /// Sends a value as JSON.
    pub fn json(self, value: &(impl Serialize + ?Sized)) -> Self {
        self.change(|request| {
            let text = serde_json::to_vec(value)
                .map_err(|error| HttpError::Request(format!("no JSON: {error}")))?;
            request.body = RequestBody::Full(text.into());
            let json = HeaderValue::from_static("application/json");
            request.headers.entry(header::CONTENT_TYPE).or_insert(json);
            Ok(())
        })
    }

    /// Sends these pairs as a form.
    pub fn form(self, pairs: &[(&str, &str)]) -> Self {
        self.change(|request| {
            let pair =
                |(name, value): &(&str, &str)| format!("{}={}", encoded(name), encoded(value));
            let text = pairs.iter().map(pair).collect::<Vec<_>>().join("&");
            request.body = RequestBody::Full(text.into());
            let form = HeaderValue::from_static("application/x-www-form-urlencoded");
            request.headers.entry(header::CONTENT_TYPE).or_insert(form);
            Ok(())
        })
    }

    /// From the call of `send` to the last byte of the reply's body; wins over [`super::HttpConfig::total_timeout`].
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self }
    }

    /// Follows redirects, within the same key.
    pub fn follow_redirects(self) -> Self {
        Self { follows: true, ..self }
    }

    /// The request, to be sent otherwise.
    pub fn build(self) -> Result<Request, HttpError> {
        self.request
    }

    /// Sends it, and waits for the head of the reply.
    pub async fn send(self) -> Result<Reply, HttpError> {
        let request = self.request?;
        let mut url = request.url.clone();
        let total = self.timeout.or_else(|| self.client.total_timeout());
        let reply = if self.follows {
            let (last, reply) = self.client.follow_within(request, total).await?;
            url = last;
            reply
        } else {
            self.client.send_within(request, total).await?
        };
        let (head, body) = reply.into_parts();
        Ok(Reply { url, head, body })
    }
}

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// The answer to a request: its head, and a body that is still coming.
#[derive(Debug)]
pub struct Reply {
    url: DmsgUrl,
    head: Parts,
    body: ResponseBody,
}

impl Reply {
    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    /// The headers.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// Where it came from: the last URL, if redirects were followed.
    #[must_use]
    pub fn url(&self) -> &DmsgUrl {
        &self.url
    }

    /// Bytes of the body, where the peer said how many.
    #[must_use]
    pub fn content_length(&self) -> Option<u64> {
        http_body::Body::size_hint(&self.body).exact()
    }

    /// Makes a status of 400 and above an error. The body is dropped with it.
    pub fn error_for_status(self) -> Result<Self, HttpError> {
        let status = self.status();
        if status.is_client_error() || status.is_server_error() {
            return Err(HttpError::Status { status, url: self.url });
        }
        Ok(self)
    }

    /// The whole body, at most [`WHOLE_BODY_MAX_BYTES`].
    pub async fn bytes(self) -> Result<Bytes, HttpError> {
        self.body.read_to_end(WHOLE_BODY_MAX_BYTES).await
    }

    /// The whole body as text; what is no UTF-8 is replaced.
    pub async fn text(self) -> Result<String, HttpError> {
        Ok(String::from_utf8_lossy(&self.bytes().await?).into_owned())
    }

    /// The whole body as JSON.
    pub async fn json<T: DeserializeOwned>(self) -> Result<T, HttpError> {
        let to = self.url.addr();
        let body = self.bytes().await?;
        serde_json::from_slice(&body).map_err(|error| HttpError::Malformed {
            to,
            reason: format!("the body is no JSON of the expected shape: {error}"),
        })
    }

    /// The next piece of the body; `None` at its end. Trailers are passed over: [`Reply::into_http`] gives them.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, HttpError> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// The body, piece by piece. An error ends it; a body that broke off never looks complete.
    pub fn bytes_stream(self) -> impl Stream<Item = Result<Bytes, HttpError>> + Send {
        BodyStream::new(self.body).filter_map(|frame| {
            std::future::ready(match frame {
                Ok(frame) => frame.into_data().ok().map(Ok),
                Err(error) => Some(Err(error)),
            })
        })
    }

    /// The raw stream behind a 101.
    pub async fn upgrade(self) -> Result<Upgraded, HttpError> {
        self.body.upgrade().await
    }

    /// In the general form, with the body as it comes, trailers included.
    #[must_use]
    pub fn into_http(self) -> Response<ResponseBody> {
        Response::from_parts(self.head, self.body)
    }
}
