//! HTTP/1.1 on accepted streams (`dmsg-http.md §4`).
//!
//! [`serve`] runs an axum router (or any tower service of requests) on whatever an [`Accept`]
//! yields. It keeps the limits: connections in all and per key, time and size of a request's head, time, rate and size of
//! its body, time between requests, time without progress of a reply. Requests that two parsers could read in two ways are
//! refused (`framing.rs`). A handler may switch protocols (web sockets); its stream keeps its place among the connections. It
//! finds in the request's extensions who is calling: [`CallerKey`], authenticated by the stream's handshake, and the
//! caller's address. A handler that panics answers 500 and harms nobody else.
//!
//! Limits are per connection; HTTP/1.1 runs one request at a time on it, so a bound on connections
//! bounds the requests too.

mod admission;
mod clock;
mod framing;
mod listed;
mod reply;

use std::{
    convert::Infallible, future::Future, panic::AssertUnwindSafe, pin::pin, sync::Arc,
    time::Duration,
};

use axum::{body::Body, response::IntoResponse};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Body as HttpBody;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt};

use self::{
    admission::{Admission, Permit},
    clock::{Clock, Clocked, ClockedBody, TOO_LARGE},
    reply::Reply,
};
use super::{
    Accept, BoxError, BreakOff, POOL_IDLE_TIMEOUT, Peer, SERVER_IDLE_TIMEOUT, STREAM_IDLE_TIMEOUT,
    expect,
};

pub use self::{admission::ServeStats, listed::serve_listed};
pub use crate::discovery::CallerKey;

/// Limits of [`serve`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServeConfig {
    /// From the first byte of a request's head to its end. Default 30 s.
    pub head_timeout: Duration,
    /// Between two requests on a connection. Default 115 s: 5 s below the idle limit of a stream, and
    /// above the callers' periods of a minute, so that their pools work.
    pub idle_timeout: Duration,
    /// Without progress of a request body that is being read, or of a reply that is being
    /// written. Default 30 s.
    pub stall_timeout: Duration,
    /// For requests under way at shutdown; upgraded streams end as soon as these are done. Default 2 s.
    pub shutdown_grace: Duration,
    /// Bytes of a request's head. Default 16 KiB.
    pub head_max_bytes: usize,
    /// Bytes of a request's body. Default 1 GiB: bodies stream, so this bounds no memory, only how long one caller can keep a
    /// handler busy. Extractors of axum keep their own limit, 2 MiB.
    pub body_max_bytes: u64,
    /// Connections at once, upgraded ones included. Default 4096.
    pub connections_max: usize,
    /// Connections of one key at once. Default 256, so that sixteen keys are needed to fill a server.
    pub connections_per_key_max: usize,
    /// Requests may name any host in absolute form, whatever their `Host` header says: a proxy follows the target
    /// (RFC 9112 §3.2.2), an origin refuses what disagrees. Default no.
    pub is_proxy: bool,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            head_timeout: Duration::from_secs(30),
            idle_timeout: SERVER_IDLE_TIMEOUT,
            stall_timeout: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(2),
            head_max_bytes: 16 * 1024,
            body_max_bytes: 1 << 30,
            connections_max: 4096,
            connections_per_key_max: 256,
            is_proxy: false,
        }
    }
}

impl ServeConfig {
    /// The same with an idle limit that ends before that of a stream, as the callers' does before ours: whoever may write
    /// has to be the first to give up.
    fn checked(mut self) -> Self {
        if self.idle_timeout >= STREAM_IDLE_TIMEOUT {
            tracing::warn!(
                asked = ?self.idle_timeout, used = ?SERVER_IDLE_TIMEOUT,
                "idle connections must be closed before their streams are given up"
            );
            self.idle_timeout = SERVER_IDLE_TIMEOUT;
        } else if self.idle_timeout <= POOL_IDLE_TIMEOUT {
            tracing::info!(
                idle = ?self.idle_timeout, pool = ?POOL_IDLE_TIMEOUT,
                "callers keep streams for longer than this server; now and then one asks again on a fresh stream"
            );
        }
        self
    }
}

/// What can be served: any tower service, so an axum router too, that answers requests with bodies of type `B`.
pub trait HttpService<B>:
    Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S, B> HttpService<B> for S where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// Serves until `shutdown` ends or no further stream can come; then lets running requests finish
/// within the grace. `stats` counts along and may be shared with a status page.
pub async fn serve<A, S, B>(
    mut accept: A,
    service: S,
    config: ServeConfig,
    stats: Arc<ServeStats>,
    shutdown: impl Future<Output = ()> + Send,
) where
    A: Accept,
    S: HttpService<B>,
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let config = Arc::new(config.checked());
    let admission = Admission::new(&config, Arc::clone(&stats));
    let (stop, cut) = (CancellationToken::new(), CancellationToken::new());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            _ = connections.join_next(), if !connections.is_empty() => continue,
            accepted = accept.accept() => accepted,
        };
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "no further streams");
                break;
            }
        };
        // The permit is taken before the task exists: a flood costs a counter, no memory.
        let Some(permit) = admission.admit(remote.id()) else {
            tracing::debug!(caller = %remote.label(), "connection refused: too many");
            continue;
        };
        let connection = Connection {
            config: Arc::clone(&config),
            stats: Arc::clone(&stats),
            remote,
            break_off: A::break_off(&stream),
            stop: stop.clone(),
            cut: cut.clone(),
        };
        let service = service.clone();
        connections.spawn(connection.run(stream, service, permit));
    }
    // The port is free for a successor as soon as we stop.
    drop(accept);
    stop.cancel();
    let all_done = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(config.shutdown_grace, all_done).await.is_err() {
        tracing::info!("requests were cut at shutdown: they took longer than the grace");
    }
    cut.cancel();
}

struct Connection<P> {
    config: Arc<ServeConfig>,
    stats: Arc<ServeStats>,
    remote: P,
    /// Makes the end of its stream a reset.
    break_off: Option<BreakOff>,
    stop: CancellationToken,
    /// Ends upgraded streams.
    cut: CancellationToken,
}

impl<P: Peer> Connection<P> {
    async fn run<T, S, B>(self, stream: T, service: S, permit: Permit<P::Id>)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: HttpService<B>,
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let clock = Clock::new(&self.config);
        let (stats, remote) = (Arc::clone(&self.stats), self.remote.clone());
        let (body_max_bytes, is_proxy) = (self.config.body_max_bytes, self.config.is_proxy);
        let service = service_fn(|request: Request<Incoming>| {
            let (service, clock) = (service.clone(), clock.clone());
            let (stats, remote) = (Arc::clone(&stats), remote.clone());
            let break_off = self.break_off.clone();
            async move {
                let has_body = !request.body().is_end_stream();
                let in_request = clock.begin_request(!has_body);
                stats.note_request();
                let bound = |body| ClockedBody::new(body, clock.clone(), body_max_bytes);
                let mut request = request.map(|body| Body::new(bound(body)));
                if let Some(break_off) = &break_off {
                    request.extensions_mut().insert(break_off.clone());
                }
                // HTTP/1.0 has no other sign than the end of the connection that a body is over.
                let break_off = break_off.filter(|_| request.version() < Version::HTTP_11);
                let checked = check_request(&request, clock.ambiguity(), is_proxy)
                    .and_then(|()| check_size(&request, body_max_bytes));
                let expects = has_body && expect::asks_first(request.headers());
                let mut response = match checked {
                    Ok(()) => respond(service, request, remote, &stats, &clock).await,
                    Err((status, why)) => {
                        stats.note_rejected();
                        refuse(status, why)
                    }
                };
                // Refused before its body: whether that still comes is not known (RFC 9110 §10.1.1).
                if expects && !clock.is_body_asked() {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(header::CONNECTION, close);
                }
                Ok::<_, Infallible>(
                    response.map(|body| Reply::body(body, clock, in_request, break_off)),
                )
            }
        });
        let stream = Clocked::new(stream, clock.clone(), self.cut.clone(), permit);
        let connection = http1::Builder::new()
            .max_buf_size(self.config.head_max_bytes.max(8 * 1024))
            // The clock keeps this limit, since it tells a head that comes slowly from no request at all.
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = pin!(connection);
        // Declared behind it, so dropped before it.
        let _cut_short = CutShort { clock: &clock, break_off: self.break_off.as_ref() };
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            why = clock.expired() => {
                tracing::debug!(caller = %remote.label(), why, "HTTP connection timed out");
                self.stats.note_timeout();
                return;
            }
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(caller = %remote.label(), %error, "HTTP connection ended");
        }
    }
}

/// What is cut in the middle of a request ends by a reset: a caller of HTTP/1.0 would take the part for the whole.
struct CutShort<'a> {
    clock: &'a Clock,
    break_off: Option<&'a BreakOff>,
}

impl Drop for CutShort<'_> {
    fn drop(&mut self) {
        if self.clock.is_in_request() {
            self.break_off.iter().for_each(|break_off| break_off.now());
        }
    }
}

/// Runs the service on a request; an error or a panic becomes a 500.
async fn respond<S, B, P: Peer>(
    service: S,
    mut request: Request<Body>,
    remote: P,
    stats: &ServeStats,
    clock: &Clock,
) -> Response<Body>
where
    S: HttpService<B>,
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    remote.introduce(request.extensions_mut());
    let is_connect = request.method() == Method::CONNECT;
    let asks_upgrade = request.headers().contains_key(header::UPGRADE);
    match AssertUnwindSafe(service.oneshot(request)).catch_unwind().await {
        Ok(Ok(response)) => {
            let status = response.status();
            if status == StatusCode::SWITCHING_PROTOCOLS {
                if !asks_upgrade {
                    tracing::error!("a handler switched protocols, and nobody asked; answered 500");
                    return refuse(StatusCode::INTERNAL_SERVER_ERROR, "the service failed\n");
                }
                clock.upgrade();
            } else if is_connect && status.is_success() {
                clock.upgrade();
            } else if status.as_u16() >= 400
                && let Some((status, why)) = clock.body_problem()
            {
                return refuse(status, why);
            }
            response.map(Body::new)
        }
        Ok(Err(error)) => {
            let error: BoxError = error.into();
            tracing::error!(caller = %remote.label(), %error, "a service failed; answered 500");
            refuse(StatusCode::INTERNAL_SERVER_ERROR, "the service failed\n")
        }
        Err(_) => {
            stats.note_panic();
            tracing::error!(caller = %remote.label(), "a handler panicked; answered 500");
            refuse(StatusCode::INTERNAL_SERVER_ERROR, "the service failed\n")
        }
    }
}

/// What hyper lets pass but two parsers could read in two ways (RFC 9112 §3.2, §6.3).
fn check_request(
    request: &Request<Body>,
    ambiguity: Option<&'static str>,
    is_proxy: bool,
) -> Result<(), (StatusCode, &'static str)> {
    let bad = |why| Err((StatusCode::BAD_REQUEST, why));
    let headers = request.headers();
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return bad("more than one Host header\n");
    }
    if host.is_none() && request.version() >= Version::HTTP_11 {
        return bad("no Host header\n");
    }
    if let Some(why) = ambiguity {
        return bad(why);
    }
    if let (Some(authority), Some(host)) = (request.uri().authority(), host)
        && !is_proxy
        && !authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes())
    {
        return bad("the Host header differs from the request target\n");
    }
    Ok(())
}

/// A body that states a length above the bound is not waited for.
fn check_size(request: &Request<Body>, max_bytes: u64) -> Result<(), (StatusCode, &'static str)> {
    if request.body().size_hint().lower() > max_bytes {
        return Err((StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE));
    }
    Ok(())
}

fn refuse(status: StatusCode, why: &'static str) -> Response<Body> {
    (status, [(header::CONNECTION, "close")], why).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::HttpConfig;

    #[test]
    fn each_side_gives_up_before_the_next() {
        let (client, server) = (HttpConfig::default(), ServeConfig::default());
        assert!(client.idle_timeout < server.idle_timeout);
        assert!(server.idle_timeout < STREAM_IDLE_TIMEOUT);
        for (asked, used) in [
            (STREAM_IDLE_TIMEOUT, SERVER_IDLE_TIMEOUT),
            (Duration::MAX, SERVER_IDLE_TIMEOUT),
            (SERVER_IDLE_TIMEOUT, SERVER_IDLE_TIMEOUT),
            // Short ones are an operator's right.
            (Duration::from_secs(1), Duration::from_secs(1)),
        ] {
            let config = ServeConfig { idle_timeout: asked, ..ServeConfig::default() };
            assert_eq!(config.checked().idle_timeout, used);
        }
    }
}
