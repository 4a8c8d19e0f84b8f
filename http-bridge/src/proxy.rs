//! A local HTTP service offered over DMSG (`dmsg serve --to`).
//!
//! ```text
//!   caller ══ DMSG ══▶ http::server ─▶ Proxy ── TCP, HTTP/1.1 ──▶ 127.0.0.1:port
//! ```
//!
//! Requests are parsed and written anew, never passed through as bytes, so both sides agree on where
//! one ends. Bodies stream in both directions, with announced trailers. The service learns the caller's key from
//! `Dmsg-Caller-Key` and `X-Forwarded-For`; whatever a caller put there itself is removed, in every spelling.
//!
//! A request to switch protocols (web sockets) goes on as one, and only after the service's 101 do raw bytes pass
//! (`proxy/tunnel.rs`). A body behind `Expect: 100-continue` waits for the service's word. A request that has been here
//! before (`Via`) is a loop and refused. Not passed on: informational responses (hyper cannot send them), CONNECT and TRACE.

mod tunnel;

use std::{
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::{Frame, SizeHint};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};

use crate::http::{
    expect::{self, Gate},
    progress::Progress,
    server::CallerKey,
};

/// The header that names the caller. Only we set it.
pub const CALLER_KEY_HEADER: HeaderName = HeaderName::from_static("dmsg-caller-key");

/// Of a connection to the service.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// From the last piece of the request to the service's response head, unless told otherwise: less than the 30 s that our
/// own clients wait, so that they learn who is slow.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(25);

/// Idle connections kept to the service.
const IDLE_MAX: usize = 32;

/// How long one is kept: less than the 5 s after which common servers close theirs, so that no request meets the closing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Bytes and headers of the service's response head.
const HEAD_MAX_BYTES: usize = 64 * 1024;
const HEADERS_MAX: usize = 100;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Why an address is not proxied to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// Not an absolute `http://` URL.
    #[error("{0:?} is no http:// URL: write http://127.0.0.1:PORT")]
    NotHttp(String),
    /// The port does not fit.
    #[error("{0:?} has no port from 1 to 65535 behind the colon: write http://127.0.0.1:PORT")]
    Port(String),
    /// A query or a fragment, which no request could be appended to.
    #[error("{0:?} has a query: only http://host:port, with a path at most, can be a target")]
    Query(String),
    /// Another machine.
    #[error(
        "{0} is not on this machine: whoever reaches this service could reach into your network \
         through it; if you mean it, say --allow-remote-target"
    )]
    NotLoopback(String),
}

/// The service behind a [`Proxy`].
#[derive(Debug, Clone)]
pub struct Target {
    authority: Authority,
    /// Without a slash at its end.
    base: String,
}

impl Target {
    /// Reads `http://host[:port][/base]`. Hosts other than this machine's loopback need `allow_remote`.
    pub fn parse(text: &str, allow_remote: bool) -> Result<Self, TargetError> {
        let not_http = || TargetError::NotHttp(text.to_owned());
        let uri: Uri = text.trim().parse().map_err(|_| not_http())?;
        let authority = uri.authority().cloned().ok_or_else(not_http)?;
        if uri.scheme() != Some(&Scheme::HTTP) || authority.as_str().contains('@') {
            return Err(not_http());
        }
        if !crate::url::has_valid_port(authority.as_str()) {
            return Err(TargetError::Port(text.to_owned()));
        }
        if uri.query().is_some() {
            return Err(TargetError::Query(text.to_owned()));
        }
        if !allow_remote && !is_loopback(authority.host()) {
            return Err(TargetError::NotLoopback(authority.host().to_owned()));
        }
        let base = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { authority, base })
    }

    fn uri(&self, of: &Uri) -> Option<Uri> {
        let tail = of.path_and_query().map_or("/", PathAndQuery::as_str);
        // A service that resolves `..` would leave the base.
        if !tail.starts_with('/') || (!self.base.is_empty() && has_dot_segment(of.path())) {
            return None;
        }
        Uri::builder()
            .scheme(Scheme::HTTP)
            .authority(self.authority.clone())
            .path_and_query(format!("{}{tail}", self.base))
            .build()
            .ok()
    }
}

/// Whether a path goes up or stays, in any spelling that services are known to resolve.
fn has_dot_segment(path: &str) -> bool {
    let is_dots = |segment: &str| {
        let segment = segment.to_ascii_lowercase().replace("%2e", ".");
        let name = segment.split(';').next().unwrap_or_default();
        matches!(name, "." | "..")
    };
    let path = path.replace("%2f", "/").replace("%2F", "/").replace("%5c", "/").replace("%5C", "/");
    path.split(['/', '\\']).any(is_dots)
}

/// An IPv4 address inside an IPv6 one is that IPv4 address; 0.0.0.0 is not loopback, whatever the kernel makes of it.
fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().map_or_else(
        |_| bare.eq_ignore_ascii_case("localhost"),
        |ip| ip.to_canonical().is_loopback(),
    )
}

/// Forwards requests to one service. Clones share its connections.
#[derive(Clone)]
pub struct Proxy {
    target: Target,
    client: Client<HttpConnector, Forwarded>,
    answer_timeout: Duration,
    /// What we are called in `Via`: random, so that it says nothing, and nobody else has it.
    pseudonym: Arc<str>,
}

impl Proxy {
    /// A proxy to `target`.
    #[must_use]
    pub fn new(target: Target) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE_MAX)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .http1_max_buf_size(HEAD_MAX_BYTES)
            .http1_max_headers(HEADERS_MAX)
            .build(connector);
        let pseudonym = format!("dmsg-{:016x}", rand::random::<u64>()).into();
        Self { target, client, answer_timeout: ANSWER_TIMEOUT, pseudonym }
    }

    /// The same, with another limit from the end of a request to the head of the service's answer.
    #[must_use]
    pub fn with_answer_timeout(self, answer_timeout: Duration) -> Self {
        Self { answer_timeout, ..self }
    }

    /// Forwards a request and gives the service's answer, or says why there is none (400, 501, 502, 504, 508).
    pub async fn respond(&self, mut request: Request<Body>) -> Response<Body> {
        if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
            return problem(StatusCode::NOT_IMPLEMENTED, "this method is not forwarded\n");
        }
        if self.is_loop(request.headers()) {
            return problem(StatusCode::LOOP_DETECTED, "the service leads back to this proxy\n");
        }
        let Some(uri) = self.target.uri(request.uri()) else {
            return problem(StatusCode::BAD_REQUEST, "the request target cannot be forwarded\n");
        };
        let switch = tunnel::asked(request.version(), request.headers());
        let caller_side = hyper::upgrade::on(&mut request);
        let (forwarded, waiting) = self.forwarded(request, uri, switch.as_ref());
        let reply = tokio::select! {
            reply = self.client.request(forwarded) => reply,
            () = waiting.progress.stalled(self.answer_timeout) => {
                return problem(StatusCode::GATEWAY_TIMEOUT, "the service does not answer\n");
            }
        };
        if let Some(keeper) = &waiting.keeper {
            keeper.refuse();
        }
        match reply {
            Ok(mut response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                let Some(switch) = switch else {
                    return problem(StatusCode::BAD_GATEWAY, "the service switched unasked\n");
                };
                tunnel::open(caller_side, hyper::upgrade::on(&mut response));
                let (mut head, _) = response.into_parts();
                let switched = head.headers.get(header::UPGRADE).cloned().unwrap_or(switch);
                strip_hop_by_hop(&mut head.headers);
                tunnel::set(&mut head.headers, switched);
                Response::from_parts(head, Body::empty())
            }
            Ok(response) => {
                let (mut head, body) = response.into_parts();
                if has_two_lengths(&head.headers) {
                    let why = "the service states the length of its answer twice\n";
                    return problem(StatusCode::BAD_GATEWAY, why);
                }
                strip_hop_by_hop(&mut head.headers);
                self.localise_redirect(&mut head.headers);
                // Ours is HTTP/1.1, so that the end of a body without a length is said and not only heard.
                head.version = Version::HTTP_11;
                Response::from_parts(head, Body::new(Answer { body, keeper: waiting.keeper }))
            }
            Err(error) => {
                tracing::debug!(target = %self.target.authority, %error, "upstream failed");
                let why = if error.is_connect() {
                    "the service is not running\n"
                } else {
                    "the service broke off\n"
                };
                problem(StatusCode::BAD_GATEWAY, why)
            }
        }
    }

    /// The request as the service gets it.
    fn forwarded(
        &self,
        request: Request<Body>,
        uri: Uri,
        switch: Option<&HeaderValue>,
    ) -> (Request<Forwarded>, Waiting) {
        let caller = request.extensions().get::<CallerKey>().copied();
        let (head, body) = request.into_parts();
        let progress = Arc::new(Progress::default());
        let asks_first = head.version == Version::HTTP_11
            && !http_body::Body::is_end_stream(&body)
            && expect::asks_first(&head.headers);
        let (gate, keeper) = asks_first.then(expect::gate).unzip();
        let mut forwarded = Request::new(Forwarded { body, gate, progress: Arc::clone(&progress) });
        if let Some(keeper) = &keeper {
            expect::open_on_continue(&mut forwarded, keeper);
        }
        // A caller that takes trailers says so hop by hop, and so do we.
        let takes_trailers = tunnel::is_named(&head.headers, "te")
            && head.headers.get(header::TE).is_some_and(|te| te.as_bytes() == b"trailers");
        let mut headers = request_headers(head.headers, &self.target.authority, caller);
        if !asks_first {
            headers.remove(header::EXPECT);
        }
        if takes_trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
        }
        if let Some(switch) = switch {
            tunnel::set(&mut headers, switch.clone());
        }
        if let Ok(via) = HeaderValue::try_from(format!("1.1 {}", self.pseudonym)) {
            headers.append(header::VIA, via);
        }
        *forwarded.method_mut() = head.method;
        *forwarded.uri_mut() = uri;
        *forwarded.headers_mut() = headers;
        (forwarded, Waiting { progress, keeper })
    }

    fn is_loop(&self, headers: &HeaderMap) -> bool {
        let mut via = headers.get_all(header::VIA).iter().filter_map(|via| via.to_str().ok());
        via.any(|via| via.contains(&*self.pseudonym))
    }

    /// A redirect to the service's own local address would lead callers to their own machine.
    fn localise_redirect(&self, headers: &mut HeaderMap) {
        let local = headers
            .get(header::LOCATION)
            .and_then(|location| Uri::try_from(location.as_bytes()).ok())
            .filter(|uri| uri.authority() == Some(&self.target.authority))
            .and_then(|uri| uri.path_and_query().cloned());
        if let Some(local) = local
            && let Some(path) = local.as_str().strip_prefix(&self.target.base)
            && let Ok(path) = HeaderValue::from_str(path)
        {
            headers.insert(header::LOCATION, path);
        }
    }
}

/// What the service sees: no hop-by-hop headers, its own host, and our word on who calls.
fn request_headers(
    mut headers: HeaderMap,
    host: &Authority,
    caller: Option<CallerKey>,
) -> HeaderMap {
    let asked_host = headers.get(header::HOST).cloned();
    strip_hop_by_hop(&mut headers);
    let claims: Vec<HeaderName> =
        headers.keys().filter(|name| is_claim(name.as_str())).cloned().collect();
    for name in claims {
        headers.remove(name);
    }
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

/// RFC 9110 §7.6.1.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| !matches!(*name, header::HOST | header::CONTENT_LENGTH))
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        header::CONNECTION,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ] {
        headers.remove(name);
    }
}

/// Whoever reads such a response otherwise than we do sees another one behind it.
fn has_two_lengths(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return false };
    // A list of equal lengths is still more than one.
    lengths.next().is_some()
        || !length.as_bytes().iter().all(u8::is_ascii_digit)
        || headers.contains_key(header::TRANSFER_ENCODING)
}

fn problem(status: StatusCode, why: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(why));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// What the answer's side knows of a request on its way.
struct Waiting {
    progress: Arc<Progress>,
    keeper: Option<expect::GateKeeper>,
}

/// The body of the service's answer. With it ends the connection whose request body was refused.
struct Answer {
    body: hyper::body::Incoming,
    keeper: Option<expect::GateKeeper>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(keeper) = &self.keeper {
            keeper.close();
        }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request body on its way to the service.
struct Forwarded {
    body: Body,
    gate: Option<Gate>,
    progress: Arc<Progress>,
}

impl http_body::Body for Forwarded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(gate) = &self.gate {
            if gate.is_refused() {
                // The caller's side must not wait for somebody to read this.
                self.body = Body::empty();
            }
            let Some(gate) = &mut self.gate else { return Poll::Pending };
            ready!(gate.poll_open(cx)).map_err(axum::Error::new)?;
            self.gate = None;
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if polled.is_ready() {
            self.progress.touch();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_a_target_unless_told() {
        for good in [
            "http://127.0.0.1:80",
            "http://localhost:8080/base/",
            "http://[::1]:80",
            "http://[::ffff:127.0.0.1]:80",
            "http://127.9.9.9",
        ] {
            Target::parse(good, false).unwrap();
        }
        for remote in [
            "http://10.0.0.1",
            "http://169.254.169.254/latest",
            "http://0.0.0.0:80",
            "http://[::]:80",
            "http://[::ffff:10.0.0.1]:80",
            "http://localhost.example.com",
            "http://2130706433",
        ] {
            let error = Target::parse(remote, false).unwrap_err();
            assert!(matches!(error, TargetError::NotLoopback(_)), "{remote}");
            Target::parse(remote, true).unwrap();
        }
        for bad in [
            "https://127.0.0.1",
            "127.0.0.1:80",
            "/x",
            "",
            "http://u:p@127.0.0.1",
            "ftp://localhost",
        ] {
            assert!(matches!(Target::parse(bad, true), Err(TargetError::NotHttp(_))), "{bad}");
        }
        for bad in
            ["http://127.0.0.1:99999", "http://127.0.0.1:0", "http://[::1]:", "http://a:70000/x"]
        {
            assert!(matches!(Target::parse(bad, true), Err(TargetError::Port(_))), "{bad}");
        }
        let query = Target::parse("http://127.0.0.1:1/?a", true).unwrap_err();
        assert!(matches!(query, TargetError::Query(_)));
    }

    #[test]
    fn the_path_is_appended_to_the_base() {
        let target = Target::parse("http://localhost:1/base/", false).unwrap();
        let uri = target.uri(&"/x?y".parse().unwrap()).unwrap();
        assert_eq!(uri.to_string(), "http://localhost:1/base/x?y");
        let uri = target.uri(&"http://evil/x".parse().unwrap()).unwrap();
        assert_eq!(uri.to_string(), "http://localhost:1/base/x");
        for out in ["/..", "/../x", "/a/%2e%2E/x", "/.%2e;a/x", "/a%2f..%2fx", "/a\\..\\x", "*"] {
            let Ok(uri) = out.parse() else { continue };
            assert!(target.uri(&uri).is_none(), "{out}");
        }
        let bare = Target::parse("http://localhost:1", false).unwrap();
        assert!(bare.uri(&"/../x".parse().unwrap()).is_some(), "there is no base to leave");
    }

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
