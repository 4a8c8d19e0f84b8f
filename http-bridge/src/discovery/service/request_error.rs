//! Why a request is refused, and with which status.

use http::StatusCode;

use super::BadPage;
use crate::discovery::{EntryError, store::StoreError};

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// A rule of the protocol.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The caller asks too fast.
    #[error("rate limit exceeded")]
    RateLimited,
    /// The body is longer than allowed.
    #[error("request body is too large")]
    BodyTooLarge,
    /// The body did not arrive in time, or broke off.
    #[error("request body did not arrive")]
    BodyMissing,
    /// No room for another key.
    #[error("the discovery is full")]
    Full,
    /// The store does not answer.
    #[error("the discovery's store does not answer, try again")]
    StoreUnavailable,
    /// No such path.
    #[error("no such path")]
    NoSuchPath,
    /// The path is served, but not with this method.
    #[error("method not allowed")]
    MethodNotAllowed,
}

impl RequestError {
    /// The HTTP status.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Entry(error) => error.status(),
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyMissing => StatusCode::REQUEST_TIMEOUT,
            Self::Full | Self::StoreUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoSuchPath => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        }
    }

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Entry(error) => error.label(),
            Self::Full => "full",
            Self::StoreUnavailable => "store_unavailable",
            _ => "refused",
        }
    }
}

impl From<BadPage> for RequestError {
    fn from(_: BadPage) -> Self {
        Self::Entry(EntryError::BadInput)
    }
}

impl From<StoreError> for RequestError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Entry(error) => Self::Entry(error),
            StoreError::Full(what) => {
                tracing::warn!(what, "the discovery's store is full");
                Self::Full
            }
            StoreError::Unavailable(_) | StoreError::Contended(_) | StoreError::Behind => {
                tracing::debug!(%error, "a request found no store");
                Self::StoreUnavailable
            }
            error => {
                tracing::error!(%error, "the discovery's store failed");
                Self::Entry(EntryError::Unexpected)
            }
        }
    }
}
