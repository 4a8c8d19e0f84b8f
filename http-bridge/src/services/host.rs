//! What the small services have in common: who asks, how often, health, and the shapes of errors (`services.md §1–§2`).
//!
//! ```text
//!   request ─▶ rate limit ─▶ handler ─▶ Host::signed: body (bounded) ─ Guard ─▶ the service's own work
//!      │ DMSG stream: CallerKey in the extensions        │
//!      └ TCP: SocketAddr in the extensions               └ 401 {"error":{"message":…,"code":401}}
//! ```
//!
//! A header such as `X-Forwarded-For` is nobody's proof and is not looked at.

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use dmsg_engine::identity::PublicKey;
use http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;

use super::{
    GeoTable, Health,
    auth::{Authority, Guard, GuardConfig},
};
use crate::{
    discovery::{CallerKey, Clock, RateLimit, RateLimiter, UnixNanos, admit_monitor, system_clock},
    service::ServiceKind,
    transport::{TransportError, receive_body},
    url::DEFAULT_PORT,
};

mod answer;
mod error;
mod quirks;
mod shared;

pub(super) use answer::{json, list, list_text, null, read_list};
pub use error::ApiError;
pub use quirks::Quirks;
pub(super) use shared::{SharedText, json_text};

/// Bytes of a request's body that is one object.
pub(super) const OBJECT_BYTES_MAX: usize = 64 * 1024;

/// Bytes of a request's body that is a list: 1,500 signed transports, 15,000 keys.
pub(super) const LIST_BYTES_MAX: usize = 1024 * 1024;

/// New records that one TCP address may register at once, and between two more: a farm of eighty visors with fifty
/// transports each starts within a second, and in the 15 min that a transport lives nobody gets beyond 8,000 of 100,000.
/// Keys are free, so a limit of each key bounds nobody. Loopback is not limited.
const NEW_BURST: u32 = 4096;
const NEW_INTERVAL: Duration = Duration::from_millis(250);
const NEW_ADDRESSES_MAX: usize = 65_536;

/// How long a request's body may take; as the discovery's.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How a service behaves.
#[derive(Clone)]
pub struct HostConfig {
    /// Which service it is.
    pub kind: ServiceKind,
    /// The key under which it is reachable at DMSG port 80, for its health page.
    pub dmsg_key: Option<PublicKey>,
    /// Keys of the network monitors, which may deregister anybody.
    pub monitors: Vec<PublicKey>,
    /// For each caller: a DMSG key, or an address other than loopback.
    pub rate_limit: RateLimit,
    /// For how long what was registered stays without a refresh; `None`: for ever. Each service has its default.
    pub entry_ttl: Option<Duration>,
    /// Take addresses that are not public ones; for networks that are private as a whole.
    pub allow_private: bool,
    /// Where callers are, for services that tell.
    pub geo: GeoTable,
    /// Whom to imitate.
    pub quirks: Quirks,
    /// The time.
    pub clock: Clock,
}

impl HostConfig {
    /// The defaults of a service.
    #[must_use]
    pub fn new(kind: ServiceKind) -> Self {
        let minutes = |count: u64| Some(Duration::from_secs(60 * count));
        Self {
            kind,
            dmsg_key: None,
            monitors: Vec::new(),
            rate_limit: RateLimit::default(),
            entry_ttl: match kind {
                // Three rounds of the visors' own check, each 5 min.
                ServiceKind::TransportDiscovery | ServiceKind::AddressResolver => minutes(15),
                // Three refreshes of 90 s, and some more.
                ServiceKind::ServiceDiscovery => minutes(5),
                _ => None,
            },
            allow_private: false,
            geo: GeoTable::default(),
            quirks: Quirks::default(),
            clock: system_clock(),
        }
    }
}

/// Who is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum CallerId {
    Key(PublicKey),
    Address(IpAddr),
}

/// The common part of a service.
pub struct Host {
    config: HostConfig,
    guard: Guard,
    limiter: RateLimiter<CallerId>,
    new_records: RateLimiter<IpAddr>,
    started_at: UnixNanos,
    dmsg_servers: RwLock<Vec<PublicKey>>,
    udp_address: RwLock<String>,
    counts: Counts,
}

/// What is counted.
#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    unauthorised: AtomicU64,
    rate_limited: AtomicU64,
}

/// What the layers in front know of a request's origin.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin {
    /// The key of the DMSG stream.
    pub(super) stream_key: Option<PublicKey>,
    /// The address of the TCP connection.
    pub(super) address: Option<IpAddr>,
}

impl Origin {
    pub(super) fn of(request: &Request) -> Self {
        let extensions = request.extensions();
        let address = extensions.get::<SocketAddr>().map(|address| address.ip().to_canonical());
        Self { stream_key: extensions.get::<CallerKey>().map(|caller| caller.0), address }
    }

    /// By what its requests are counted.
    pub(super) fn caller(self) -> Option<CallerId> {
        self.stream_key.map(CallerId::Key).or_else(|| self.address.map(CallerId::Address))
    }
}

impl Host {
    /// The host of a service that starts now.
    #[must_use]
    pub fn new(config: HostConfig) -> Self {
        let started_at = (config.clock)();
        let guard_config = GuardConfig {
            counts_only_200: config.quirks.counts_only_200,
            ..GuardConfig::default()
        };
        Self {
            guard: Guard::new(guard_config, started_at),
            limiter: RateLimiter::new(config.rate_limit),
            new_records: RateLimiter::one_each(NEW_INTERVAL, NEW_BURST, NEW_ADDRESSES_MAX),
            started_at,
            dmsg_servers: RwLock::default(),
            udp_address: RwLock::default(),
            counts: Counts::default(),
            config,
        }
    }

    /// How it behaves.
    #[must_use]
    pub fn config(&self) -> &HostConfig {
        &self.config
    }

    /// Tells the servers with which the service holds sessions, for its health page.
    pub fn set_dmsg_servers(&self, servers: Vec<PublicKey>) {
        *self.dmsg_servers.write().unwrap_or_else(PoisonError::into_inner) = servers;
    }

    /// Tells `host:port` of the service's UDP side, for its health page.
    pub fn set_udp_address(&self, address: String) {
        *self.udp_address.write().unwrap_or_else(PoisonError::into_inner) = address;
    }

    /// Requests so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.counts.requests.load(Ordering::Relaxed)
    }

    pub(super) fn now(&self) -> UnixNanos {
        (self.config.clock)()
    }

    /// When what is registered now expires.
    pub(super) fn deadline(&self) -> UnixNanos {
        self.config.entry_ttl.map_or(UnixNanos::NEVER, |ttl| self.now().plus(ttl))
    }

    /// Whether the address of a connection may register so many records that were not there before.
    pub(super) fn admit_new(&self, peer: Option<IpAddr>, count: usize) -> Result<(), ApiError> {
        let Some(peer) = peer.filter(|peer| !peer.is_loopback()) else { return Ok(()) };
        let count = u32::try_from(count).unwrap_or(u32::MAX).min(NEW_BURST);
        if self.new_records.admit_many(peer, count, Instant::now()) {
            return Ok(());
        }
        self.counts.rate_limited.fetch_add(1, Ordering::Relaxed);
        Err(ApiError::rate_limited(NEW_INTERVAL * count))
    }

    pub(super) fn sweep(&self) {
        self.limiter.sweep(Instant::now());
        self.new_records.sweep(Instant::now());
    }

    /// Answers an authenticated request: receives the body, proves the caller, and counts the nonce.
    pub(super) async fn signed<F>(
        &self,
        request: Request,
        body_max_bytes: usize,
        handle: impl FnOnce(Authority, Bytes) -> F,
    ) -> Response
    where
        F: Future<Output = Result<Response, ApiError>>,
    {
        let origin = Origin::of(&request);
        let (head, body) = request.into_parts();
        let body = match receive(body, body_max_bytes).await {
            Ok(body) => body,
            Err(error) => return error.into_response(),
        };
        match self.guard.admit(&head.headers, &body, origin.stream_key, origin.address) {
            Ok(authority) => {
                let answer = handle(authority, body).await.into_response();
                self.guard.answered(&authority, answer.status());
                answer
            }
            Err(message) => {
                self.counts.unauthorised.fetch_add(1, Ordering::Relaxed);
                ApiError::nested(StatusCode::UNAUTHORIZED, message).into_response()
            }
        }
    }

    /// Answers a network monitor, which sends a list of what is to go: bodies of refusals are empty, as Go's are.
    pub(super) async fn monitored<T: DeserializeOwned>(
        &self,
        headers: &HeaderMap,
        body: Body,
        remove: impl AsyncFnOnce(Vec<T>) -> Result<Response, ApiError>,
    ) -> Response {
        if let Err(status) = admit_monitor(&self.config.monitors, headers) {
            return status.into_response();
        }
        let work = async { remove(read_list(&receive(body, LIST_BYTES_MAX).await?)?).await };
        work.await.unwrap_or_else(ApiError::into_response)
    }

    fn health(&self) -> Health {
        let servers = self.dmsg_servers.read().unwrap_or_else(PoisonError::into_inner);
        let key = self.config.dmsg_key;
        Health {
            service_name: self.config.kind.name().to_owned(),
            build_info: serde_json::json!({"version": env!("CARGO_PKG_VERSION")}),
            started_at: self.started_at.to_rfc3339(),
            dmsg_address: key.map(|key| format!("{key}:{DEFAULT_PORT}")).unwrap_or_default(),
            dmsg_servers: servers.iter().map(ToString::to_string).collect(),
            udp_address: self.udp_address.read().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    fn metrics(&self, tables: &[(&'static str, usize, usize)]) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        for (name, help, value) in [
            ("requests", "Requests that came.", &self.counts.requests),
            (
                "unauthorised",
                "Requests whose signature or nonce was refused.",
                &self.counts.unauthorised,
            ),
            ("rate_limited", "Requests refused with 429.", &self.counts.rate_limited),
        ] {
            let value = value.load(Ordering::Relaxed);
            let _ = write!(
                text,
                "# HELP dmsg_service_{name}_total {help}\n# TYPE dmsg_service_{name}_total counter\n\
                 dmsg_service_{name}_total {value}\n"
            );
        }
        text.push_str(
            "# HELP dmsg_service_records Records kept.\n# TYPE dmsg_service_records gauge\n",
        );
        for (table, count, _) in tables {
            let _ = writeln!(text, "dmsg_service_records{{table=\"{table}\"}} {count}");
        }
        text.push_str("# HELP dmsg_service_records_max Records kept at most.\n");
        text.push_str("# TYPE dmsg_service_records_max gauge\n");
        for (table, _, max) in tables {
            let _ = writeln!(text, "dmsg_service_records_max{{table=\"{table}\"}} {max}");
        }
        text
    }
}

/// A service that can be served: its own paths, and what all have.
pub trait Service: Send + Sync + 'static {
    /// The common part.
    fn host(&self) -> &Host;

    /// The service's own paths.
    fn paths(self: Arc<Self>) -> Router;

    /// Removes what has expired.
    fn expire(&self, now: UnixNanos);

    /// Name, records, and how many there may be, of each table.
    fn tables(&self) -> Vec<(&'static str, usize, usize)>;
}

/// The whole HTTP API of a service.
pub fn router(service: Arc<dyn Service>) -> Router {
    let nonces = Arc::clone(&service);
    let (health, metrics) = (Arc::clone(&service), Arc::clone(&service));
    let limit = middleware::from_fn_with_state(Arc::clone(&service), limit_rate);
    let odd = middleware::from_fn_with_state(service.host().config.quirks.clone(), quirks::distort);
    let common = Router::new()
        .route(
            "/security/nonces/{key}",
            get(move |Path(key): Path<String>| async move { next_nonce(nonces.host(), &key) }),
        )
        .route("/health", get(async move || json(&health.host().health())))
        .route(
            "/metrics",
            get(async move || {
                let kind = "text/plain; version=0.0.4";
                ([(header::CONTENT_TYPE, kind)], metrics.host().metrics(&metrics.tables()))
            }),
        );
    service
        .paths()
        .merge(common)
        .fallback(async || ApiError::flat(StatusCode::NOT_FOUND, "no such path"))
        .method_not_allowed_fallback(async || {
            ApiError::flat(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")
        })
        .layer(limit)
        .layer(odd)
}

async fn limit_rate(
    State(service): State<Arc<dyn Service>>,
    request: Request,
    next: Next,
) -> Response {
    let host = service.host();
    host.counts.requests.fetch_add(1, Ordering::Relaxed);
    let limited = Origin::of(&request).caller().filter(|caller| match caller {
        CallerId::Key(_) => true,
        CallerId::Address(address) => !address.is_loopback(),
    });
    if limited.is_some_and(|caller| !host.limiter.admit(caller, Instant::now())) {
        host.counts.rate_limited.fetch_add(1, Ordering::Relaxed);
        return ApiError::rate_limited(Duration::from_secs(1)).into_response();
    }
    next.run(request).await
}

fn next_nonce(host: &Host, key: &str) -> Response {
    let Ok(key) = key.parse::<PublicKey>() else {
        return ApiError::nested(StatusCode::BAD_REQUEST, "Invalid public key").into_response();
    };
    let next = host.guard.next_nonce(&key).wrapping_add(u64::from(host.config.quirks.wrong_nonce));
    json(&serde_json::json!({"edge": key.to_string(), "next_nonce": next}))
}

/// Receives a body, bounded in length and time.
pub(super) async fn receive(body: Body, max_bytes: usize) -> Result<Bytes, ApiError> {
    match tokio::time::timeout(BODY_TIMEOUT, receive_body(body, max_bytes)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(TransportError::BodyTooLarge(_))) => {
            let text = format!("request body is longer than {max_bytes} bytes");
            Err(ApiError::flat(StatusCode::PAYLOAD_TOO_LARGE, text))
        }
        Ok(Err(_)) | Err(_) => {
            Err(ApiError::flat(StatusCode::REQUEST_TIMEOUT, "request body did not arrive"))
        }
    }
}

/// The pairs of a query, decoded; the first of each name counts.
pub(super) fn query(request: &Request) -> std::collections::HashMap<String, String> {
    let mut pairs = std::collections::HashMap::new();
    for pair in request.uri().query().unwrap_or_default().split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decode = |text: &str| {
            percent_encoding::percent_decode_str(&text.replace('+', " "))
                .decode_utf8_lossy()
                .into_owned()
        };
        pairs.entry(decode(name)).or_insert_with(|| decode(value));
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_records_of_one_address_are_bounded_and_another_address_is_not_touched() {
        let host = Host::new(HostConfig::new(ServiceKind::TransportDiscovery));
        let peer = |last: u8| Some(IpAddr::from([203, 0, 113, last]));
        // Whatever keys it uses: requests of 256 each, as the Transport Discovery takes them.
        let admitted = (0..391).filter(|_| host.admit_new(peer(1), 256).is_ok()).count();
        assert_eq!(admitted, NEW_BURST as usize / 256);
        assert!(host.admit_new(peer(1), 0).is_ok(), "what is there may be said again");
        assert!(host.admit_new(peer(2), 256).is_ok());
        assert!(host.admit_new(None, 100_000).is_ok(), "over DMSG each key has its limit");
        assert!(host.admit_new(Some(IpAddr::from([127, 0, 0, 1])), 100_000).is_ok());
    }
}
