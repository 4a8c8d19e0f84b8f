//! What a relay server tells its operator, over HTTP on an address of its own:
//!
//! | path | who may | what |
//! | --- | --- | --- |
//! | `/health` | anybody who reaches it | whether it works (200) or not (503), and how full it is |
//! | `/metrics` | anybody who reaches it | Prometheus' text format; no label names a peer |
//! | `/clients?limit=N` | the operator | the busiest clients: streams, bytes, round trip |
//! | `/debug` | the operator | threads, memory, descriptors, lines missing from the log |
//!
//! The operator is who has the token of `--admin-token-file`, in `Authorization: Bearer`; without one, whoever reaches an
//! address on loopback, and on another address nobody.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{Query, Request, State},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use dmsg_engine::{mux::MuxKind, relay::ClientInfo, server::Server};
use http::{StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use zeroize::Zeroizing;

use super::watchdog::{Watchdog, threads};
use crate::cli::{
    exit::{Exit, Failure},
    flags::{driver_name, warn_of_readers},
    logging,
};

/// A shorter token can be guessed.
const TOKEN_BYTES_MIN: usize = 16;

/// A longer file is none of a token.
const TOKEN_BYTES_MAX: usize = 1024;

/// Clients of one answer, unless it is asked for more: 300 bytes each.
const CLIENTS_LIMIT: usize = 100;

/// How long the cores may take to tell of their clients.
const CLIENTS_PATIENCE: Duration = Duration::from_secs(2);

/// The admin page, bound and not yet served.
pub(super) struct Admin {
    listener: TcpListener,
    token: Option<Zeroizing<String>>,
    is_local: bool,
}

impl Admin {
    pub(super) async fn bind(address: SocketAddr, token: Option<&Path>) -> Result<Self, Failure> {
        let token = token.map(read_token).transpose()?;
        let is_local = address.ip().to_canonical().is_loopback();
        if !is_local {
            tracing::warn!(%address, "the admin page is open to the network");
        }
        let listener = TcpListener::bind(address).await.map_err(|error| {
            Failure::new(Exit::Other, format!("cannot serve the admin page on {address}: {error}"))
        })?;
        Ok(Self { listener, token, is_local })
    }

    /// Serves as long as the process lives. The server is held weakly, so that its owner can end it.
    pub(super) fn serve(self, server: &Arc<Server>, watchdog: Watchdog) {
        let Self { listener, token, is_local } = self;
        if let Ok(address) = listener.local_addr() {
            tracing::info!(%address, "/health, /metrics, /clients and /debug are up");
        }
        let seen = Seen { server: Arc::downgrade(server), watchdog, started: Instant::now() };
        let gate = Arc::new(Gate { token, is_local });
        let gated = Router::new()
            .route("/clients", get(clients))
            .route("/debug", get(debug))
            .layer(from_fn_with_state(gate, operator_only));
        let router = Router::new()
            .route("/health", get(health))
            .route("/metrics", get(metrics))
            .merge(gated)
            .with_state(seen);
        tokio::spawn(async move { axum::serve(listener, router).await });
    }
}

fn read_token(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let fail = |what: String| Failure::new(Exit::Read, format!("{}: {what}", path.display()));
    let text = Zeroizing::new(fs::read_to_string(path).map_err(|error| fail(error.to_string()))?);
    warn_of_readers(path);
    let token = text.trim();
    if !(TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&token.len()) {
        return Err(fail(format!(
            "no token: {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} characters are wanted, such as \
             `openssl rand -hex 32` gives"
        )));
    }
    Ok(Zeroizing::new(token.to_owned()))
}

struct Gate {
    token: Option<Zeroizing<String>>,
    is_local: bool,
}

async fn operator_only(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let refuse = |status, what: &str| (status, format!("{what}\n")).into_response();
    match &gate.token {
        None if gate.is_local => next.run(request).await,
        None => refuse(
            StatusCode::FORBIDDEN,
            "this names clients: start the server with --admin-token-file FILE, or with --admin on loopback",
        ),
        Some(token) => {
            let given = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes());
            let given = given.and_then(|value| value.strip_prefix(b"Bearer ")).unwrap_or_default();
            if bool::from(given.ct_eq(token.as_bytes())) {
                return next.run(request).await;
            }
            let mut response = refuse(
                StatusCode::UNAUTHORIZED,
                "Authorization: Bearer <token of the server's --admin-token-file>",
            );
            let scheme = header::HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
            response
        }
    }
}

/// What the pages look at.
#[derive(Clone)]
struct Seen {
    server: Weak<Server>,
    watchdog: Watchdog,
    started: Instant,
}

impl Seen {
    fn server(&self) -> Result<Arc<Server>, StatusCode> {
        self.server.upgrade().ok_or(StatusCode::SERVICE_UNAVAILABLE)
    }
}

async fn health(State(seen): State<Seen>) -> Result<Response, StatusCode> {
    let server = seen.server()?;
    let stats = server.stats();
    let stuck = seen.watchdog.stuck();
    let state = match () {
        () if server.has_failed() => "failed",
        () if !stuck.is_empty() => "stuck",
        () => "ok",
    };
    let status = if state == "ok" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "state": state,
        "public_key": server.public_key().to_string(),
        "driver": driver_name(server.driver()),
        "sessions": stats.sessions,
        "sessions_max": server.sessions_max(),
        "available_sessions": server.available_sessions(),
        "streams": stats.streams,
        "stuck_cores": stuck,
        "uptime_seconds": seen.started.elapsed().as_secs(),
    });
    Ok((status, Json(body)).into_response())
}

#[derive(Deserialize)]
struct ClientsQuery {
    limit: Option<usize>,
}

async fn clients(
    State(seen): State<Seen>,
    Query(query): Query<ClientsQuery>,
) -> Result<Json<Value>, StatusCode> {
    let server = seen.server()?;
    let found = tokio::task::spawn_blocking(move || server.clients(CLIENTS_PATIENCE)).await;
    let found = found.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let limit = query.limit.unwrap_or(CLIENTS_LIMIT);
    let listed: Vec<_> = found.iter().take(limit).map(client).collect();
    Ok(Json(json!({ "count": found.len(), "clients": listed })))
}

fn client(info: &ClientInfo) -> Value {
    json!({
        "public_key": info.key.to_string(),
        "address": info.address.to_string(),
        "core": info.core,
        "mux": info.mux.map(|kind| match kind {
            MuxKind::Yamux => "yamux",
            MuxKind::SmuxV1 => "smux 1",
            MuxKind::SmuxV2 => "smux 2",
        }),
        "age_seconds": info.age.as_secs(),
        "streams": info.streams,
        "received_bytes": info.received_bytes,
        "sent_bytes": info.sent_bytes,
        "pending_bytes": info.pending_bytes,
        "rtt_ms": info.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
    })
}

async fn debug(State(seen): State<Seen>) -> Json<Value> {
    let missing = logging::missing();
    let threads: Vec<_> = threads()
        .into_iter()
        .map(|thread| {
            json!({
                "name": thread.name,
                "state": thread.state.to_string(),
                "cpu_seconds": thread.cpu_seconds,
            })
        })
        .collect();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| {
        line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok()
    });
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": seen.started.elapsed().as_secs(),
        "resident_bytes": resident.map(|kib| kib * 1024),
        "open_descriptors": fs::read_dir("/proc/self/fd").map(Iterator::count).ok(),
        "stuck_cores": seen.watchdog.stuck(),
        "log_lines_left_out": missing.left_out,
        "log_lines_lost": missing.lost,
        "threads": threads,
    }))
}

async fn metrics(State(seen): State<Seen>) -> Result<Response, StatusCode> {
    let text = exposition(&*seen.server()?, &seen.watchdog);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

/// Prometheus text format. Labels are names in the code, never keys of peers: their number is bounded.
fn exposition(server: &Server, watchdog: &Watchdog) -> String {
    use std::fmt::Write;
    let stats = server.stats();
    let missing = logging::missing();
    let mut text = String::new();
    for (name, kind, help, value) in [
        ("sessions", "gauge", "Sessions that are up.", stats.sessions),
        (
            "sessions_max",
            "gauge",
            "Sessions that are advertised at most.",
            server.sessions_max() as u64,
        ),
        ("sessions_total", "counter", "Sessions that came up.", stats.sessions_total),
        ("handshakes", "gauge", "Connections in the handshake.", stats.handshakes),
        ("streams", "gauge", "Streams open.", stats.streams),
        ("streams_total", "counter", "Streams accepted.", stats.streams_total),
        ("relayed_bytes_total", "counter", "Payload bytes relayed.", stats.relayed_bytes),
        ("pending_bytes", "gauge", "Bytes that wait for slow receivers.", stats.pending_bytes),
        ("pings_answered_total", "counter", "Liveness pings answered.", stats.pings_answered),
        ("ip_lookups_total", "counter", "Address look-ups answered.", stats.ip_lookups),
        ("connections", "gauge", "Connections, those being closed included.", stats.connections),
        (
            "receive_buffers",
            "gauge",
            "Receive buffers that connections share (io_uring).",
            stats.receive_buffers,
        ),
        (
            "receive_buffers_lent",
            "gauge",
            "Of those, how many hold bytes that wait.",
            stats.receive_buffers_lent,
        ),
        (
            "receive_buffers_missed_total",
            "counter",
            "Receives that found no shared buffer and were begun anew.",
            stats.receive_buffers_missed,
        ),
        (
            "turned_away_total",
            "counter",
            "Peers for whom there was no file descriptor.",
            stats.turned_away,
        ),
        (
            "stuck_cores",
            "gauge",
            "Worker threads that do not answer.",
            watchdog.stuck().len() as u64,
        ),
        (
            "log_lines_left_out_total",
            "counter",
            "Lines beyond the limit of their kind.",
            missing.left_out,
        ),
        ("log_lines_lost_total", "counter", "Lines that stderr did not take.", missing.lost),
    ] {
        let _ = write!(
            text,
            "# HELP dmsg_server_{name} {help}\n# TYPE dmsg_server_{name} {kind}\n\
             dmsg_server_{name} {value}\n"
        );
    }
    for (name, help, counts) in [
        ("streams_ended_total", "Streams ended, by reason.", &stats.refused),
        ("sessions_ended_total", "Sessions ended, by reason.", &stats.closed),
    ] {
        let _ =
            write!(text, "# HELP dmsg_server_{name} {help}\n# TYPE dmsg_server_{name} counter\n");
        for (reason, count) in counts {
            let _ = writeln!(text, "dmsg_server_{name}{{reason=\"{reason}\"}} {count}");
        }
    }
    text
}
