//! What of a request's head, and of its trailers, reaches the service.

use http::{HeaderMap, HeaderName, HeaderValue, header, uri::Authority};

use crate::http::{
    list::{elements, is_named},
    server::CallerKey,
};

/// The header that names the caller. Only we set it.
pub const CALLER_KEY_HEADER: HeaderName = HeaderName::from_static("dmsg-caller-key");

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What the service sees: no hop-by-hop headers, its own host, and our word on who calls.
pub(super) fn request_headers(
    mut headers: HeaderMap,
    host: &Authority,
    caller: Option<CallerKey>,
) -> HeaderMap {
    let asked_host = headers.get(header::HOST).cloned();
    strip_hop_by_hop(&mut headers);
    let unwanted: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_claim(name.as_str()) || is_disguised(name))
        .cloned()
        .collect();
    for name in unwanted {
        headers.remove(name);
    }
    announce_allowed_trailers(&mut headers);
    if let Ok(host) = HeaderValue::from_str(host.as_str()) {
        headers.insert(header::HOST, host);
    }
    if let Some(CallerKey(key)) = caller
        && let Ok(key) = HeaderValue::from_str(&key.to_string())
    {
        headers.insert(X_FORWARDED_FOR, key.clone());
        headers.insert(CALLER_KEY_HEADER, key);
    }
    if let Some(host) = asked_host {
        headers.insert(X_FORWARDED_HOST, host);
    }
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    headers
}

/// Whether a header claims who the caller is. `_` counts as `-`: many services cannot tell them apart.
fn is_claim(name: &str) -> bool {
    let name = name.replace('_', "-");
    ["dmsg-", "x-forwarded-"].iter().any(|prefix| name.starts_with(prefix))
        || matches!(name.as_str(), "forwarded" | "x-real-ip")
}

/// Whether a name is another spelling, for services that take `_` for `-`, of one that decides how a message is read.
fn is_disguised(name: &HeaderName) -> bool {
    name.as_str().contains('_') && !may_trail(name)
}

/// Whether a field may come behind a caller's body. Services that merge trailers into the head must find nothing there that
/// they would not find in the head itself, or that decides how the message is read (RFC 9110 §6.5.1).
pub(super) fn may_trail(name: &HeaderName) -> bool {
    // As for claims, `_` counts as `-`.
    let Ok(name) = HeaderName::try_from(name.as_str().replace('_', "-")) else { return false };
    let decides = matches!(
        name,
        header::AUTHORIZATION
            | header::CONTENT_ENCODING
            | header::CONTENT_LENGTH
            | header::CONTENT_TYPE
            | header::COOKIE
            | header::EXPECT
            | header::HOST
            | header::TRAILER
            | header::VIA
    );
    !decides && !HOP_BY_HOP.contains(&name) && !is_claim(name.as_str())
}

fn announce_allowed_trailers(headers: &mut HeaderMap) {
    let allowed: Vec<HeaderName> = elements(headers, header::TRAILER)
        .filter_map(|name| name.parse().ok())
        .filter(may_trail)
        .collect();
    let allowed: Vec<&str> = allowed.iter().map(HeaderName::as_str).collect();
    match HeaderValue::try_from(allowed.join(", ")) {
        Ok(allowed) if !allowed.is_empty() => drop(headers.insert(header::TRAILER, allowed)),
        _ => drop(headers.remove(header::TRAILER)),
    }
}

/// Whether a caller takes trailers: it says so hop by hop, as `TE`, named in `Connection`.
pub(crate) fn takes_trailers(headers: &HeaderMap) -> bool {
    is_named(headers, "te") && headers.get(header::TE).is_some_and(|te| te == "trailers")
}

/// Says, hop by hop, that trailers are taken.
pub(crate) fn ask_trailers(headers: &mut HeaderMap) {
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.append(header::CONNECTION, HeaderValue::from_static("te"));
}

/// The names that always concern one connection only (RFC 9110 §7.6.1, RFC 7540 §3.2.1).
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// RFC 9110 §7.6.1.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = elements(headers, header::CONNECTION)
        .filter_map(|name| name.parse().ok())
        .filter(|name| !matches!(*name, header::HOST | header::CONTENT_LENGTH))
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_go_in_every_spelling() {
        for name in [
            "dmsg-caller-key",
            "dmsg_caller_key",
            "x-forwarded-for",
            "x_forwarded_host",
            "x_real_ip",
            "forwarded",
        ] {
            assert!(is_claim(name), "{name}");
        }
        assert!(!is_claim("accept"));
    }
}
