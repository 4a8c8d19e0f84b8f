//! Errors as the services write them: `{"error":"…"}`, or `{"error":{"message":"…","code":…}}`.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use crate::services::records::RecordsError;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    message: String,
    nested: bool,
    retry_after: Option<Duration>,
}

impl ApiError {
    /// `{"error":"…"}`.
    pub(in crate::services) fn flat(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), nested: false, retry_after: None }
    }

    /// `{"error":{"message":"…","code":…}}`.
    pub(in crate::services) fn nested(status: StatusCode, message: impl Into<String>) -> Self {
        Self { nested: true, ..Self::flat(status, message) }
    }

    /// 400 with `{"error":"…"}`.
    pub(in crate::services) fn bad(message: impl std::fmt::Display) -> Self {
        Self::flat(StatusCode::BAD_REQUEST, message.to_string())
    }

    /// 429, and when to come back.
    pub(in crate::services) fn rate_limited(retry_after: Duration) -> Self {
        let error = Self::flat(StatusCode::TOO_MANY_REQUESTS, "rate limit exceeded");
        Self { retry_after: Some(retry_after), ..error }
    }

    /// 503 with Go's nested form, and when to come back.
    pub(in crate::services) fn busy(message: &str) -> Self {
        let error = Self::nested(StatusCode::SERVICE_UNAVAILABLE, message);
        Self { retry_after: Some(Duration::from_secs(1)), ..error }
    }
}

impl From<RecordsError> for ApiError {
    fn from(error: RecordsError) -> Self {
        let (status, message) = match error {
            RecordsError::Full(_) | RecordsError::Busy => {
                tracing::warn!(%error, "a registration was refused");
                (StatusCode::SERVICE_UNAVAILABLE, error.to_string())
            }
            RecordsError::Disk { .. } => {
                tracing::error!(%error, "a registration was lost");
                (StatusCode::INTERNAL_SERVER_ERROR, "the store failed".to_owned())
            }
        };
        let retry_after =
            (status == StatusCode::SERVICE_UNAVAILABLE).then_some(Duration::from_secs(1));
        Self { retry_after, ..Self::flat(status, message) }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = if self.nested {
            json!({"error": {"message": self.message, "code": self.status.as_u16()}})
        } else {
            json!({"error": self.message})
        };
        let mut response = (self.status, axum::Json(body)).into_response();
        if let Some(wait) = self.retry_after {
            let seconds = HeaderValue::from(wait.as_secs().max(1));
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}
