//! How a request can fail.

use std::{io, time::Duration};

use dmsg_engine::wire::Addr;

use http::StatusCode;

use super::{BoxError, request::TooMuchSent};
use crate::{
    transport::chain,
    url::{DmsgUrl, RedirectError, UrlError},
};

/// Why a request gave no response, or a response no body.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// No stream to the destination; the engine's error is the source.
    #[error("cannot connect to {to}: {source}")]
    Connect {
        /// The destination.
        to: Addr,
        /// The dial's error.
        source: BoxError,
    },
    /// The dial took too long.
    #[error("no stream to {to} within {after:?}: the peer or its servers do not answer")]
    ConnectTimeout {
        /// The destination.
        to: Addr,
        /// The limit.
        after: Duration,
    },
    /// Every stream of this client is in use, and none is stale.
    #[error(
        "all {max} streams of this HTTP client, or those to one destination, are in use: read or drop response bodies"
    )]
    StreamsExhausted {
        /// [`super::HttpConfig::streams_max`], or [`super::HttpConfig::streams_per_destination_max`].
        max: usize,
    },
    /// The request was sent, and no response head came.
    #[error("{to} sent no response for {after:?}: the service is slow or stuck")]
    HeadTimeout {
        /// The destination.
        to: Addr,
        /// The limit, counted from the last progress of the request's body.
        after: Duration,
    },
    /// The stream ended before the response was complete.
    #[error("{to} closed the stream before the response was complete")]
    Incomplete {
        /// The destination.
        to: Addr,
    },
    /// The peer does not speak HTTP/1.1 as we read it.
    #[error("{to} sent a malformed response: {reason}")]
    Malformed {
        /// The destination.
        to: Addr,
        /// Which rule it breaks.
        reason: String,
    },
    /// The stream failed in the middle.
    #[error("the stream to {to} failed: {}", chain(&**source))]
    Stream {
        /// The destination.
        to: Addr,
        /// What the stream said.
        source: BoxError,
    },
    /// The body stopped coming.
    #[error("{to} sent nothing of the body for {after:?}")]
    BodyTimeout {
        /// The destination.
        to: Addr,
        /// The limit between two pieces.
        after: Duration,
    },
    /// The whole exchange took too long.
    #[error("the exchange with {to} was not done within {after:?}")]
    TotalTimeout {
        /// The destination.
        to: Addr,
        /// The limit, from the call to the last byte of the body.
        after: Duration,
    },
    /// The holder of a body neither read nor dropped it, and its stream was needed or timed out.
    #[error(
        "the response of {to} was neither read nor dropped for {unread_for:?}, so its stream was taken back for others: read \
         or drop response bodies"
    )]
    Reclaimed {
        /// The destination.
        to: Addr,
        /// Since its holder last made progress.
        unread_for: Duration,
    },
    /// The body is larger than its reader allows.
    #[error("the body is larger than the {max} bytes allowed")]
    BodyTooLarge {
        /// The reader's limit, bytes.
        max: u64,
    },
    /// The request's body is larger than this client sends.
    #[error("the request's body is larger than the {max} bytes allowed")]
    RequestTooLarge {
        /// [`super::HttpConfig::request_body_max_bytes`].
        max: u64,
    },
    /// The URL breaks a rule.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// A status that the caller takes for a failure.
    #[error("{url} answered {status}")]
    Status {
        /// The status.
        status: StatusCode,
        /// Whose.
        url: DmsgUrl,
    },
    /// A redirect that is not followed.
    #[error(transparent)]
    Redirect(#[from] RedirectError),
    /// A redirect wants the body again, and it was a stream.
    #[error(
        "redirected by {0}, but the body was read while it was sent and cannot be sent again; ask at the new address"
    )]
    RedirectedBody(StatusCode),
    /// One redirect after the other.
    #[error("more than {0} redirects in a row")]
    TooManyRedirects(usize),
    /// The body of the request failed while it was sent: a file that cannot be read on, say.
    #[error("the request's body broke off: {0}")]
    RequestBody(String),
    /// The request itself cannot be sent.
    #[error("the request cannot be sent: {0}")]
    Request(String),
}

impl HttpError {
    /// Whether a time limit of ours ended it.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(
            self,
            Self::ConnectTimeout { .. }
                | Self::HeadTimeout { .. }
                | Self::BodyTimeout { .. }
                | Self::TotalTimeout { .. }
        )
    }

    /// Whether it failed before a byte of the request was written.
    #[must_use]
    pub fn is_before_request(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. }
                | Self::ConnectTimeout { .. }
                | Self::StreamsExhausted { .. }
                | Self::Request(_)
                | Self::Url(_)
        )
    }

    /// Whether the destination gave no answer that could be read, for whatever reason that is not the caller's own.
    pub(super) fn is_without_answer(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. }
                | Self::Incomplete { .. }
                | Self::Malformed { .. }
                | Self::Stream { .. }
        ) || self.is_timeout()
    }

    /// Whether the stream ended under the request, as one does that the peer closed while it idled.
    pub(super) fn is_stale(&self) -> bool {
        matches!(self, Self::Incomplete { .. } | Self::Stream { .. })
    }

    /// Sorts what hyper reports about the exchange with `to`.
    pub(super) fn from_hyper(to: Addr, error: hyper::Error) -> Self {
        if error.is_parse() {
            Self::Malformed { to, reason: error.to_string() }
        } else if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
            Self::Incomplete { to }
        } else if error.is_user() {
            let cause = std::error::Error::source(&error);
            match cause.and_then(|cause| cause.downcast_ref()) {
                Some(TooMuchSent { max }) => Self::RequestTooLarge { max: *max },
                None => cause.map_or_else(
                    || Self::Request(error.to_string()),
                    |cause| Self::RequestBody(chain(cause)),
                ),
            }
        } else {
            let end = std::error::Error::source(&error)
                .and_then(|source| source.downcast_ref::<io::Error>())
                .is_some_and(|io| io.kind() == io::ErrorKind::UnexpectedEof);
            if end { Self::Incomplete { to } } else { Self::Stream { to, source: error.into() } }
        }
    }
}
