//! Why a call of a service failed.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde::Deserialize;

use crate::{retry_after, transport::TransportError};

/// Bytes of an unexpected answer that an error message quotes.
const QUOTE_BYTES_MAX: usize = 160;

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// 404: what was asked for is not there.
    #[error("the service has nothing there: {0}")]
    NotFound(String),
    /// 401, after our nonce was fetched again: the service does not take our signature.
    #[error(
        "the service does not accept our signature ({0}): is another process using the same key, or a proxy \
         changing requests?"
    )]
    Unauthorised(String),
    /// Another answer from 400 to 499: the service decided; asking again does not help.
    #[error("the service refused with {status}: {message}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// The service's words.
        message: String,
    },
    /// 429.
    #[error("the service limits our requests; try again in {retry_after:?}")]
    RateLimited {
        /// What the answer asks for; a second if it does not say.
        retry_after: Duration,
    },
    /// Any other status: the service, or a proxy before it, could not serve the request.
    #[error(
        "the service answered {status} ({text:?}): it is overloaded or broken, or not that service"
    )]
    Unavailable {
        /// The HTTP status.
        status: StatusCode,
        /// The beginning of what it said.
        text: String,
        /// What the answer asks to wait, if it does.
        retry_after: Option<Duration>,
    },
    /// The answer is not what the API says.
    #[error(
        "the answer to {path} does not parse ({reason}): it is not that service, or another version"
    )]
    Malformed {
        /// The path of the request.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Too many calls of this client wait for their turn.
    #[error(
        "{0} authenticated calls of this client wait already: the service is too slow for our rate"
    )]
    Busy(usize),
    /// The call's own deadline came, waiting for its turn included.
    #[error("the call did not end within {0:?}")]
    Deadline(Duration),
    /// No answer came.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

impl ServiceError {
    /// Whether waiting and trying again may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::RateLimited { .. }
            | Self::Unavailable { .. }
            | Self::Busy(_)
            | Self::Deadline(_) => true,
            Self::Transport(error) => !matches!(error, TransportError::UnsupportedScheme(_)),
            _ => false,
        }
    }

    /// Whether the service says that what was asked for does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound(_))
    }

    /// What the service asks to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after } => Some(*retry_after),
            Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    pub(super) fn malformed(path: &str, reason: impl ToString) -> Self {
        // The path without its query: that may be long, and says nothing here.
        let path = path.split('?').next().unwrap_or_default().to_owned();
        Self::Malformed { path, reason: reason.to_string() }
    }

    /// What an answer other than a success means.
    pub(super) fn of(answer: &Response<Bytes>) -> Self {
        let status = answer.status();
        let wait = retry_after::parse(answer.headers(), std::time::SystemTime::now());
        let text = message(answer.body());
        match status {
            StatusCode::NOT_FOUND => Self::NotFound(text),
            StatusCode::UNAUTHORIZED => Self::Unauthorised(text),
            StatusCode::TOO_MANY_REQUESTS => {
                Self::RateLimited { retry_after: wait.unwrap_or(retry_after::DEFAULT) }
            }
            StatusCode::REQUEST_TIMEOUT => Self::Unavailable { status, text, retry_after: wait },
            status if status.is_client_error() => Self::Refused { status, message: text },
            status => Self::Unavailable { status, text, retry_after: wait },
        }
    }
}

/// The words of an error answer: `{"error":"…"}`, `{"error":{"message":"…"}}`, `{"message":"…"}`, or plain text.
pub(super) fn message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Shape {
        Flat { error: String },
        Nested { error: Inner },
        Bare { message: String },
    }
    #[derive(Deserialize)]
    struct Inner {
        message: String,
    }
    let text = match serde_json::from_slice(body) {
        Ok(Shape::Flat { error: text } | Shape::Nested { error: Inner { message: text } }) => text,
        Ok(Shape::Bare { message }) => message,
        Err(_) => String::from_utf8_lossy(&body[..body.len().min(QUOTE_BYTES_MAX)]).into_owned(),
    };
    text.trim().chars().filter(|c| !c.is_control()).take(QUOTE_BYTES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_of_an_error_is_read() {
        for (body, expected) in [
            (r#"{"error":"transport not found"}"#, "transport not found"),
            (r#"{"error":{"message":"no route","code":404}}"#, "no route"),
            (r#"{"message":"wait","code":429}"#, "wait"),
            ("rate limit exceeded\n", "rate limit exceeded"),
            ("", ""),
            ("\u{1b}[31mred", "[31mred"),
        ] {
            assert_eq!(message(body.as_bytes()), expected);
        }
        assert_eq!(message(&[b'x'; 10_000]).len(), QUOTE_BYTES_MAX);
    }
}
