//! How a request reaches a service: a small trait, and its implementation over TCP, with TLS for `https://`.
//!
//! The trait hides whether bytes travel over clear-net or over DMSG streams. An exchange is bounded twice: by
//! [`Limits::timeout`] from call to last byte, and by [`Limits::body_max_bytes`]. Dropping its future ends it.

use std::{future::Future, pin::Pin, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};

use crate::{access::AccessError, tls};

/// Idle connections kept per host. A service's client sends one request at a time, rarely two or three.
const IDLE_CONNECTIONS_MAX: usize = 4;

/// How long an unused connection is kept; the Go server closes idle ones after 30 s.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a TCP connection may take to come up: two repetitions of a lost SYN.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What one exchange may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From the call to the last byte of the answer.
    pub timeout: Duration,
    /// Bytes of the answer's body.
    pub body_max_bytes: usize,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The address asks for something this transport cannot do.
    #[error(
        "cannot reach {0:?}: this transport speaks http:// and https:// only; use such an address, \
         or a transport for that scheme"
    )]
    UnsupportedScheme(String),
    /// No connection came up.
    #[error("no connection to the service ({0}): it is down, or its address is wrong")]
    Connect(String),
    /// The connection broke, or the peer does not speak HTTP.
    #[error("the exchange with the service broke off: {0}")]
    Exchange(String),
    /// The time is over.
    #[error("the service did not answer within {0:?}")]
    Timeout(Duration),
    /// The answer's body is longer than allowed; the rest was not read.
    #[error("the service's answer is longer than {0} bytes")]
    BodyTooLarge(usize),
    /// None of a service's paths led to an answer.
    #[error(transparent)]
    Service(#[from] Box<AccessError>),
}

impl TransportError {
    /// Whether the request may have reached the service: then only what may be repeated is sent again.
    #[must_use]
    pub fn may_be_delivered(&self) -> bool {
        match self {
            Self::UnsupportedScheme(_) | Self::Connect(_) => false,
            Self::Exchange(_) | Self::Timeout(_) | Self::BodyTooLarge(_) => true,
            Self::Service(error) => error.may_be_delivered(),
        }
    }
}

/// The future of one exchange.
pub type ExchangeFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Response<Bytes>, TransportError>> + Send + 'a>>;

/// Carries HTTP requests. The request's URI is absolute.
pub trait HttpTransport: Send + Sync + 'static {
    /// Sends a request and receives the whole answer.
    fn exchange(&self, request: Request<Bytes>, limits: Limits) -> ExchangeFuture<'_>;
}

/// Receives a body of at most `max_bytes`; for implementations of [`HttpTransport`].
pub async fn receive_body<B>(body: B, max_bytes: usize) -> Result<Bytes, TransportError>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match Limited::new(body, max_bytes).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(TransportError::BodyTooLarge(max_bytes))
        }
        Err(error) => Err(TransportError::Exchange(chain(&*error))),
    }
}

/// HTTP/1.1 over TCP, or over TLS at `https://` addresses, with connection reuse.
///
/// Connections live on the tokio runtime that polls the first exchange of each; give every runtime
/// its own transport.
#[derive(Debug, Clone)]
pub struct TcpTransport {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl TcpTransport {
    /// A transport without connections.
    #[must_use]
    pub fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build(tls::over(connector));
        Self { client }
    }

    async fn exchange_unbounded(
        &self,
        request: Request<Bytes>,
        body_max_bytes: usize,
    ) -> Result<Response<Bytes>, TransportError> {
        match request.uri().scheme_str() {
            Some("http") => {}
            Some("https") => {
                if let Some(problem) = tls::problem() {
                    return Err(TransportError::Connect(problem.to_owned()));
                }
            }
            _ => return Err(TransportError::UnsupportedScheme(request.uri().to_string())),
        }
        let answer = self.client.request(request.map(Full::new)).await.map_err(|error| {
            let text = chain(&error);
            if error.is_connect() {
                TransportError::Connect(text)
            } else {
                TransportError::Exchange(text)
            }
        })?;
        let (head, body) = answer.into_parts();
        Ok(Response::from_parts(head, receive_body(body, body_max_bytes).await?))
    }
}

impl Default for TcpTransport {
    fn default() -> Self {
        Self::new()
    }
}

impl HttpTransport for TcpTransport {
    fn exchange(&self, request: Request<Bytes>, limits: Limits) -> ExchangeFuture<'_> {
        Box::pin(async move {
            let exchange = self.exchange_unbounded(request, limits.body_max_bytes);
            tokio::time::timeout(limits.timeout, exchange)
                .await
                .unwrap_or(Err(TransportError::Timeout(limits.timeout)))
        })
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
