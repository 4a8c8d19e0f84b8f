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

use http::{HeaderMap, HeaderValue, Version, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::http::{BreakOff, join::join};

/// The protocols a request asks to switch to, without those that carry requests: `Upgrade`, named in `Connection`, in
/// HTTP/1.1.
pub(crate) fn asked(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    if version != Version::HTTP_11 || !is_named(headers, "upgrade") {
        return None;
    }
    let asked: Vec<&str> = protocols(headers).filter(|name| !carries_requests(name)).collect();
    HeaderValue::try_from(asked.join(", ")).ok().filter(|asked| !asked.is_empty())
}

/// Whether what a service switches to was asked for. A service that does not say means the only one, or the first.
pub(crate) fn is_among(asked: &HeaderValue, answer: &HeaderMap) -> bool {
    let asked = asked.to_str().unwrap_or_default();
    protocols(answer).all(|name| asked.split(", ").any(|asked| asked.eq_ignore_ascii_case(name)))
}

fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(header::UPGRADE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty())
}

/// Whether a protocol is HTTP in another form, or one that may hold it.
fn carries_requests(protocol: &str) -> bool {
    let protocol = protocol.to_ascii_lowercase();
    ["http", "h2", "h3", "shttp", "spdy", "ssl", "tls"]
        .iter()
        .any(|carrier| protocol.starts_with(carrier))
}

/// Whether `Connection` names this option.
pub(super) fn is_named(headers: &HeaderMap, option: &str) -> bool {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|named| named.trim().eq_ignore_ascii_case(option))
}

/// Says, hop by hop, that this message switches to `protocol`.
pub(crate) fn set(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol);
}

/// Joins both sides as soon as both have switched.
pub(super) fn open(
    (caller, caller_end): (OnUpgrade, Option<BreakOff>),
    (service, service_end): (OnUpgrade, Option<BreakOff>),
) {
    tokio::spawn(async move {
        let (caller, service) = match futures_util::future::try_join(caller, service).await {
            Ok(both) => both,
            Err(error) => return tracing::debug!(%error, "a switch of protocols failed"),
        };
        let (caller, service) = (TokioIo::new(caller), TokioIo::new(service));
        match join((caller, caller_end), (service, service_end)).await {
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
