//! Ways in which deployed services differ from their description, to test clients against (`services.md §11`).

use std::time::Duration;

use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderValue, StatusCode, header};

use super::OBJECT_BYTES_MAX;

/// What to imitate; nothing by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Quirks {
    /// A nonce counts only if the answer is exactly 200, after the handler.
    pub counts_only_200: bool,
    /// Empty lists are `null`.
    pub null_lists: bool,
    /// What is not there is a 500 with the database's words, and what does not parse is a 200 where Go has it so.
    pub go_statuses: bool,
    /// 429 comes as plain text.
    pub plain_429: bool,
    /// The nonce endpoint tells one too many.
    pub wrong_nonce: bool,
    /// Bodies break off in the middle.
    pub truncated_bodies: bool,
    /// Answers take this much longer.
    pub delay: Option<Duration>,
}

/// Changes answers as the quirks say.
pub(super) async fn distort(
    State(quirks): State<Quirks>,
    request: Request,
    next: Next,
) -> Response {
    if let Some(delay) = quirks.delay {
        tokio::time::sleep(delay).await;
    }
    let mut answer = next.run(request).await;
    if quirks.plain_429 && answer.status() == StatusCode::TOO_MANY_REQUESTS {
        *answer.body_mut() = Body::from("rate limit exceeded\n");
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        answer.headers_mut().insert(header::CONTENT_TYPE, plain);
        answer.headers_mut().remove(header::CONTENT_LENGTH);
    }
    if quirks.truncated_bodies {
        let (mut head, body) = answer.into_parts();
        let body = to_bytes(body, OBJECT_BYTES_MAX).await.unwrap_or_default();
        // What is promised is more than what comes: the connection breaks behind it.
        head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        let half = body.slice(..body.len() / 2);
        let pieces =
            futures_util::stream::iter([Ok(half), Err(std::io::Error::other("truncated"))]);
        answer = Response::from_parts(head, Body::from_stream(pieces));
    }
    answer
}
