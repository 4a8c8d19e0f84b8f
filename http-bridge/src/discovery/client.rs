//! The client of a discovery's HTTP API (`discovery.md §4`, `§5`).
//!
//! ```text
//!   entry · entries · servers …            one GET
//!   update(key, change)    ┌▶ GET own entry ─ change ─ sequence + 1 ─ sign ─ POST ─ ok
//!   withdraw(key, change)  └── wait ◀── sequence conflict · 429 · 503 ──┘            at most 5 tries
//! ```
//!
//! One update or withdrawal runs at a time; the next waits for it, but never longer than its own deadline.
//! Nothing a discovery answers is believed beyond need: answers are bounded, client entries must verify,
//! bad elements of a list are left out, and what is not JSON becomes a typed error.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dmsg_engine::identity::PublicKey;
use http::{Method, Request, StatusCode, header};

use super::{Clock, EntryError, UnixNanos, system_clock};
use crate::{
    retry_after,
    transport::{HttpTransport, Limits, TransportError},
};

mod answer;
mod calls;
mod directory;
mod pace;
mod registration;
mod update;

pub use answer::{FetchedEntry, Health};
pub use directory::{DirectoryOptions, HttpDirectory};
pub use registration::{RegistrationConfig, RegistrationStatus, ServerRegistration};
pub use update::UPDATE_TRIES_MAX;

/// A 429 or 503 that asks to wait at most this long is waited out once within a call.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);

/// Bytes of an unexpected answer that an error message quotes.
const QUOTE_BYTES_MAX: usize = 120;

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The discovery decided; asking again or elsewhere does not help.
    #[error("the discovery refused: {0}")]
    Refused(EntryError),
    /// Too many requests.
    #[error("the discovery limits our requests; try again in {retry_after:?}")]
    RateLimited {
        /// What the answer asks for; a second if it does not say.
        retry_after: Duration,
    },
    /// The discovery, or a proxy in front of it, could not serve the request.
    #[error("the discovery answered {status} ({text:?}): it is overloaded, or no discovery at all")]
    Unavailable {
        /// The HTTP status.
        status: StatusCode,
        /// The beginning of the body.
        text: String,
        /// What the answer asks to wait, if it does.
        retry_after: Option<Duration>,
    },
    /// A 200 whose body is not what the API says.
    #[error(
        "the discovery's answer to {path} does not parse: it is no discovery, or speaks another version"
    )]
    Malformed {
        /// The path of the request.
        path: String,
    },
    /// An answer about another key than we asked for.
    #[error("the discovery answered with the entry of another key than {0}")]
    WrongKey(PublicKey),
    /// A client's entry whose signature is missing or wrong.
    #[error("the entry of {0} does not carry its signature: the discovery or a proxy altered it")]
    Unverified(PublicKey),
    /// Another update held the lock until our deadline.
    #[error("another update of this client did not finish within {0:?}")]
    Busy(Duration),
    /// The update's own deadline came.
    #[error("the update did not finish within {0:?}")]
    Deadline(Duration),
    /// Every try met a newer entry.
    #[error("{0} tries met a newer entry each: is another process running with the same key?")]
    Conflict(u32),
    /// The stored sequence is the largest there is.
    #[error("the stored entry has the largest sequence number, so no newer one can exist")]
    SequenceExhausted,
    /// The base address is no URL.
    #[error("{0:?} is no base address: expected http://host:port or dmsg://key:port")]
    BadBase(String),
    /// The base address has a part that a discovery's does not have.
    #[error("the base address {base:?} has {what}: expected http://host:port or dmsg://key:port")]
    BadBasePart {
        /// The address.
        base: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// No answer came.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

impl ClientError {
    /// What the discovery asks to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after } => Some(*retry_after),
            Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether waiting and trying again may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Refused(error) => *error == EntryError::Unexpected,
            Self::RateLimited { .. }
            | Self::Unavailable { .. }
            | Self::Busy(_)
            | Self::Deadline(_)
            | Self::Conflict(_) => true,
            Self::Transport(error) => !matches!(error, TransportError::UnsupportedScheme(_)),
            _ => false,
        }
    }
}

/// How a client behaves.
#[derive(Clone)]
pub struct ClientOptions {
    /// Limit of one request, from call to last byte.
    pub exchange_timeout: Duration,
    /// Limit of one update or withdrawal with all its tries, waiting for the lock included.
    pub update_timeout: Duration,
    /// Where timestamps come from.
    pub clock: Clock,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            exchange_timeout: Duration::from_secs(10),
            update_timeout: Duration::from_secs(30),
            clock: system_clock(),
        }
    }
}

/// A client of one discovery.
pub struct DiscoveryClient {
    base: String,
    transport: Arc<dyn HttpTransport>,
    options: ClientOptions,
    writer: tokio::sync::Mutex<update::Written>,
}

impl DiscoveryClient {
    /// A client of the discovery at `base`, such as `http://dmsgd.example` or `dmsg://<key>:80`.
    pub fn new(
        base: &str,
        transport: Arc<dyn HttpTransport>,
        options: ClientOptions,
    ) -> Result<Self, ClientError> {
        Self::check_base(base)?;
        Ok(Self::with_base(base.trim_end_matches('/').to_owned(), transport, options))
    }

    /// The address of a discovery, if it can be one.
    pub fn check_base(base: &str) -> Result<http::Uri, ClientError> {
        let trimmed = base.trim_end_matches('/');
        let uri: http::Uri = trimmed.parse().map_err(|_| ClientError::BadBase(base.into()))?;
        if uri.scheme().is_none() || uri.authority().is_none() {
            return Err(ClientError::BadBase(base.into()));
        }
        match bad_part(&uri) {
            Some(what) => Err(ClientError::BadBasePart { base: base.into(), what }),
            None => Ok(uri),
        }
    }

    /// A client over a transport that is bound to the discovery already: requests have URIs in origin form
    /// (`/path?query`), as those to every service of a deployment.
    #[must_use]
    pub fn bound(transport: Arc<dyn HttpTransport>, options: ClientOptions) -> Self {
        Self::with_base(String::new(), transport, options)
    }

    fn with_base(base: String, transport: Arc<dyn HttpTransport>, options: ClientOptions) -> Self {
        Self { base, transport, options, writer: tokio::sync::Mutex::default() }
    }

    /// The base address, without trailing slash; empty over a bound transport.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    fn now(&self) -> UnixNanos {
        (self.options.clock)()
    }

    /// Sends a request; gives the body of a 200, else the error that the answer means.
    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        body_max_bytes: usize,
    ) -> Result<Bytes, ClientError> {
        let first = self.call_once(&method, path, body.clone(), body_max_bytes).await;
        let wait = first.as_ref().err().and_then(ClientError::retry_after);
        let Some(wait) = wait.filter(|wait| *wait <= RETRY_AFTER_MAX) else { return first };
        tokio::time::sleep(wait).await;
        self.call_once(&method, path, body, body_max_bytes).await
    }

    async fn call_once(
        &self,
        method: &Method,
        path: &str,
        body: Bytes,
        body_max_bytes: usize,
    ) -> Result<Bytes, ClientError> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request =
            request.body(body).map_err(|_| ClientError::BadBase(format!("{}{path}", self.base)))?;
        let limits = Limits { timeout: self.options.exchange_timeout, body_max_bytes };
        let answer = self.transport.exchange(request, limits).await?;
        if answer.status() == StatusCode::OK {
            return Ok(answer.into_body());
        }
        Err(refusal(&answer, self.now()))
    }
}

/// What an address must not have. A port that does not fit would silently become the scheme's own.
fn bad_part(uri: &http::Uri) -> Option<&'static str> {
    let authority = uri.authority()?.as_str();
    if authority.contains('@') {
        Some("a user name or password")
    } else if uri.query().is_some() {
        Some("a query")
    } else if !crate::url::has_valid_port(authority) {
        Some("no port from 1 to 65535 behind the colon")
    } else {
        None
    }
}

/// What an answer other than 200 means. The message decides, not the status; a body without one is quoted.
fn refusal(answer: &http::Response<Bytes>, now: UnixNanos) -> ClientError {
    let status = answer.status();
    let wait = retry_after::parse(answer.headers(), now.into());
    if status == StatusCode::TOO_MANY_REQUESTS {
        return ClientError::RateLimited { retry_after: wait.unwrap_or(retry_after::DEFAULT) };
    }
    if let Some(error) = answer::message(answer.body()).and_then(|m| EntryError::from_message(&m)) {
        return ClientError::Refused(error);
    }
    let body = answer.body();
    let quote = String::from_utf8_lossy(&body[..body.len().min(QUOTE_BYTES_MAX)]);
    ClientError::Unavailable { status, text: quote.trim().to_owned(), retry_after: wait }
}

#[cfg(test)]
mod tests;
