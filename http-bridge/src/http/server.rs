//! HTTP/1.1 on accepted streams (`dmsg-http.md §4`).
//!
//! [`serve`] runs an axum router (or any tower service of that shape) on whatever an [`Accept`]
//! yields. It keeps the limits: connections in all and per key, time and size of a request's head,
//! time between requests, time without progress of a body or a reply. A handler finds in the
//! request's extensions who is calling: [`CallerKey`], authenticated by the stream's handshake, and the
//! caller's address. A handler that panics answers 500 and harms nobody else.
//!
//! Limits are per connection; HTTP/1.1 runs one request at a time on it, so a bound on connections
//! bounds the requests too.

mod admission;
mod clock;
mod framing;

use std::{
    convert::Infallible, future::Future, panic::AssertUnwindSafe, pin::pin, sync::Arc,
    time::Duration,
};

use axum::body::Body;
use futures_util::FutureExt;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt};

use self::{
    admission::Admission,
    clock::{Clock, Clocked, ClockedBody},
};
use super::{Accept, Peer};

pub use self::admission::ServeStats;
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
    /// For requests under way at shutdown. Default 2 s.
    pub shutdown_grace: Duration,
    /// Bytes of a request's head. Default 16 KiB.
    pub head_max_bytes: usize,
    /// Connections at once. Default 1024.
    pub connections_max: usize,
    /// Connections of one key at once. Default 64, so that sixteen keys are needed to fill a server.
    pub connections_per_key_max: usize,
    /// Requests may name any host in absolute form, whatever their `Host` header says: a proxy follows the target
    /// (RFC 9112 §3.2.2), an origin refuses what disagrees. Default no.
    pub is_proxy: bool,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            head_timeout: Duration::from_secs(30),
            idle_timeout: super::SERVER_IDLE_TIMEOUT,
            stall_timeout: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(2),
            head_max_bytes: 16 * 1024,
            connections_max: 1024,
            connections_per_key_max: 64,
            is_proxy: false,
        }
    }
}

/// Serves until `shutdown` ends or no further stream can come; then lets running requests finish
/// within the grace. `stats` counts along and may be shared with a status page.
pub async fn serve<A, S>(
    mut accept: A,
    service: S,
    config: ServeConfig,
    stats: Arc<ServeStats>,
    shutdown: impl Future<Output = ()> + Send,
) where
    A: Accept,
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    let config = Arc::new(config);
    let admission = Admission::new(&config, Arc::clone(&stats));
    let stop = CancellationToken::new();
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
            stop: stop.clone(),
        };
        let service = service.clone();
        connections.spawn(async move {
            connection.run(stream, service).await;
            drop(permit);
        });
    }
    // The port is free for a successor as soon as we stop.
    drop(accept);
    stop.cancel();
    let all_done = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(config.shutdown_grace, all_done).await.is_err() {
        tracing::info!("requests were cut at shutdown: they took longer than the grace");
    }
}

struct Connection<P> {
    config: Arc<ServeConfig>,
    stats: Arc<ServeStats>,
    remote: P,
    stop: CancellationToken,
}

impl<P: Peer> Connection<P> {
    async fn run<T, S>(self, stream: T, service: S)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send,
    {
        let clock = Clock::new(&self.config);
        let (stats, remote) = (Arc::clone(&self.stats), self.remote.clone());
        let (stall_timeout, is_proxy) = (self.config.stall_timeout, self.config.is_proxy);
        let service = service_fn(|request: Request<Incoming>| {
            let (service, clock) = (service.clone(), clock.clone());
            let (stats, remote) = (Arc::clone(&stats), remote.clone());
            async move {
                let in_request = clock.begin_request();
                stats.note_request();
                let request = request.map(|body| Body::new(ClockedBody::new(body, stall_timeout)));
                let checked = check_request(&request, clock.saw_two_lengths(), is_proxy);
                let response = respond(service, request, remote, &stats, checked).await;
                Ok::<_, Infallible>(response.map(|body| in_request.until_sent(body)))
            }
        });
        let connection = http1::Builder::new()
            .max_buf_size(self.config.head_max_bytes.max(8 * 1024))
            // The clock keeps this limit, since it tells a head that comes slowly from no request at all.
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(Clocked::new(stream, clock.clone())), service)
            .with_upgrades();
        let mut connection = pin!(connection);
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

/// Runs the service on a request that is unambiguous; a panic becomes a 500.
async fn respond<S, P: Peer>(
    service: S,
    mut request: Request<Body>,
    remote: P,
    stats: &ServeStats,
    checked: Result<(), &'static str>,
) -> Response<Body>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    if let Err(why) = checked {
        stats.note_rejected();
        return refuse(StatusCode::BAD_REQUEST, why);
    }
    remote.introduce(request.extensions_mut());
    match AssertUnwindSafe(service.oneshot(request)).catch_unwind().await {
        Ok(Ok(response)) => response,
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
    has_two_lengths: bool,
    is_proxy: bool,
) -> Result<(), &'static str> {
    let headers = request.headers();
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err("more than one Host header\n");
    }
    if host.is_none() && request.version() >= Version::HTTP_11 {
        return Err("no Host header\n");
    }
    // hyper has removed one of them by now.
    if has_two_lengths {
        return Err("both Transfer-Encoding and Content-Length\n");
    }
    if let (Some(authority), Some(host)) = (request.uri().authority(), host)
        && !is_proxy
        && !authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes())
    {
        return Err("the Host header differs from the request target\n");
    }
    Ok(())
}

fn refuse(status: StatusCode, why: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(why));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
