//! Switching protocols through the proxy (RFC 9110 §7.8).
//!
//! ```text
//!   caller                         proxy                            service
//!     │ GET, Upgrade: x              │ GET, Upgrade: x                │
//!     ├─────────────────────────────▶├───────────────────────────────▶│
//!     │ 101                          │ 101                            │
//!     │◀─────────────────────────────┤◀───────────────────────────────┤
//!     │◀════════════ bytes, both directions, until one side ends ════▶│
//! ```
//!
//! Only protocols that know nothing of requests are switched to. Behind a switch to HTTP/2 (`h2c`), or to TLS with HTTP in it, a
//! caller would speak to the service by itself: with any path, and any word on who calls.
//!
//! What a caller sends before the 101 stays with the server's parser; it never reaches the service as raw bytes unless the
//! service agreed to it.

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Response, Version, header, response::Parts};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::strip_hop_by_hop;
use crate::http::{
    BoxError, BreakOff,
    join::join,
    list::{elements, is_named},
};

/// The protocols a request asks to switch to, without those that carry requests: `Upgrade`, named in `Connection`, in
/// HTTP/1.1.
pub(crate) fn asked(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    if version != Version::HTTP_11 || !is_named(headers, "upgrade") {
        return None;
    }
    let asked: Vec<&str> =
        elements(headers, header::UPGRADE).filter(|name| !carries_requests(name)).collect();
    HeaderValue::try_from(asked.join(", ")).ok().filter(|asked| !asked.is_empty())
}

/// Whether what a service switches to was asked for. A service that does not say means the only one, or the first.
fn is_among(asked: &HeaderValue, answer: &HeaderMap) -> bool {
    let asked = asked.to_str().unwrap_or_default();
    elements(answer, header::UPGRADE)
        .all(|name| asked.split(", ").any(|asked| asked.eq_ignore_ascii_case(name)))
}

/// Whether a protocol is HTTP in another form, or one that may hold it.
fn carries_requests(protocol: &str) -> bool {
    let protocol = protocol.to_ascii_lowercase();
    ["http", "h2", "h3", "shttp", "spdy", "ssl", "tls"]
        .iter()
        .any(|carrier| protocol.starts_with(carrier))
}

/// Says, hop by hop, that this message switches to `protocol`.
pub(crate) fn set(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.append(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol);
}

/// A service's 101 as ours; `None` if it switches to what was not asked for.
pub(crate) fn agreed(mut head: Parts, asked: Option<HeaderValue>) -> Option<Response<Body>> {
    let asked = asked.filter(|asked| is_among(asked, &head.headers))?;
    let protocol = head.headers.get(header::UPGRADE).cloned().unwrap_or(asked);
    strip_hop_by_hop(&mut head.headers);
    set(&mut head.headers, protocol);
    Some(Response::from_parts(head, Body::empty()))
}

/// One side of a switch: its stream, and what breaks it off.
pub(crate) type Side<S> = Result<(S, Option<BreakOff>), BoxError>;

/// A side that hyper hands over.
pub(crate) async fn side(on: OnUpgrade, end: Option<BreakOff>) -> Side<TokioIo<Upgraded>> {
    Ok((TokioIo::new(on.await?), end))
}

/// Joins both sides as soon as both have switched.
pub(crate) fn open<A, B>(
    caller: impl Future<Output = Side<A>> + Send + 'static,
    service: impl Future<Output = Side<B>> + Send + 'static,
) where
    A: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    B: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    tokio::spawn(async move {
        let joined = async {
            let (caller, service) = futures_util::future::try_join(caller, service).await?;
            Ok::<_, BoxError>(join(caller, service).await?)
        };
        match joined.await {
            Ok((sent, received)) => tracing::debug!(sent, received, "tunnel closed"),
            Err(error) => tracing::debug!(%error, "tunnel broke"),
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_protocols_without_requests_are_asked_for() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade, HTTP2-Settings"));
            for value in values {
                headers.append(header::UPGRADE, HeaderValue::from_static(value));
            }
            asked(Version::HTTP_11, &headers)
        };
        for none in
            [&["h2c"][..], &["H2C"], &["HTTP/2.0", "TLS/1.2, h2"], &["SPDY/3.1"], &[","], &[]]
        {
            assert_eq!(of(none), None, "{none:?}");
        }
        for (some, left) in [
            (&["websocket"][..], "websocket"),
            (&["h2c, websocket"], "websocket"),
            (&["h2c", "WebSocket", "tcp,TLS/1.0"], "WebSocket, tcp"),
        ] {
            assert_eq!(of(some).as_ref().map(HeaderValue::as_bytes), Some(left.as_bytes()));
        }
    }
}
