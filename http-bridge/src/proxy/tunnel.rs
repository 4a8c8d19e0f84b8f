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
//! What a caller sends before the 101 stays with the server's parser; it never reaches the service as raw bytes unless the
//! service agreed to it.

use http::{HeaderMap, HeaderValue, Version, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

/// The protocol a request asks to switch to: `Upgrade`, named in `Connection`, in HTTP/1.1.
pub(super) fn asked(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    let is_asked = version == Version::HTTP_11 && is_named(headers, "upgrade");
    is_asked.then(|| headers.get(header::UPGRADE).cloned())?
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
pub(super) fn set(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, protocol);
}

/// Joins both sides as soon as both have switched. The end of one direction is passed on; both end the tunnel.
pub(super) fn open(caller: OnUpgrade, service: OnUpgrade) {
    tokio::spawn(async move {
        let (caller, service) = match futures_util::future::try_join(caller, service).await {
            Ok(both) => both,
            Err(error) => return tracing::debug!(%error, "a switch of protocols failed"),
        };
        let (mut caller, mut service) = (TokioIo::new(caller), TokioIo::new(service));
        match tokio::io::copy_bidirectional(&mut caller, &mut service).await {
            Ok((sent, received)) => tracing::debug!(sent, received, "tunnel closed"),
            Err(error) => tracing::debug!(%error, "tunnel broke"),
        }
    });
}
