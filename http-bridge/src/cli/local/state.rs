//! What the page of `dmsg local` shows, as JSON and as HTML.
//!
//! The page is one file that fetches `/state.json` every second and writes it with `textContent`, so nothing in
//! it can become markup. There is nothing secret here: keys are public keys, and counters.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use axum::{Json, Router, response::IntoResponse, routing::get};
use dmsg_engine::{client::Client, server::Server};
use http::header;
use serde::Serialize;

use crate::{
    cli::flags::driver_name, discovery::store::Store, http::server::ServeStats, url::DEFAULT_PORT,
};

/// Where the numbers come from.
#[derive(Clone)]
pub(super) struct Sources {
    pub(super) relays: Vec<Arc<Server>>,
    pub(super) store: Arc<dyn Store>,
    pub(super) discovery_address: SocketAddr,
    pub(super) discovery_client: Option<Client>,
    pub(super) web: Client,
    pub(super) requests: Arc<ServeStats>,
}

#[derive(Serialize)]
struct State {
    uptime_seconds: u64,
    discovery: Discovery,
    relays: Vec<Relay>,
    web: Web,
}

#[derive(Serialize)]
struct Discovery {
    http: String,
    dmsg: Option<String>,
    sessions: usize,
    clients: usize,
    servers: usize,
}

#[derive(Serialize)]
struct Relay {
    key: String,
    address: String,
    driver: &'static str,
    sessions: u64,
    streams: u64,
    streams_total: u64,
    relayed_bytes: u64,
    pending_bytes: u64,
    session_keys: Vec<String>,
}

#[derive(Serialize)]
struct Web {
    dmsg: String,
    sessions: usize,
    streams: usize,
    connections: u64,
    requests: u64,
}

/// The page, and its data.
pub(super) fn router(sources: Sources) -> Router {
    let started = Instant::now();
    let page = (
        [
            (header::CONTENT_TYPE, "text/html; charset=utf-8"),
            (
                header::CONTENT_SECURITY_POLICY,
                "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                 connect-src 'self'",
            ),
        ],
        include_str!("page.html"),
    );
    Router::new().route("/", get(move || async move { page })).route(
        "/state.json",
        get(move || {
            let state = sources.state(started);
            async move { ([(header::CACHE_CONTROL, "no-store")], Json(state)).into_response() }
        }),
    )
}

impl Sources {
    fn state(&self, started: Instant) -> State {
        let counts = self.store.counts();
        State {
            uptime_seconds: started.elapsed().as_secs(),
            discovery: Discovery {
                http: format!("http://{}", self.discovery_address),
                dmsg: self.discovery_client.as_ref().map(url),
                sessions: self.discovery_client.as_ref().map_or(0, |c| c.sessions().len()),
                clients: counts.clients,
                servers: counts.servers,
            },
            relays: self.relays.iter().map(|server| relay(server)).collect(),
            web: Web {
                dmsg: url(&self.web),
                sessions: self.web.sessions().len(),
                streams: self.web.stats().streams,
                connections: self.requests.connections(),
                requests: self.requests.requests(),
            },
        }
    }
}

fn url(client: &Client) -> String {
    format!("dmsg://{}:{DEFAULT_PORT}", client.public_key())
}

fn relay(server: &Server) -> Relay {
    let stats = server.stats();
    Relay {
        key: server.public_key().to_string(),
        address: server.local_addr().to_string(),
        driver: driver_name(server.driver()),
        sessions: stats.sessions,
        streams: stats.streams,
        streams_total: stats.streams_total,
        relayed_bytes: stats.relayed_bytes,
        pending_bytes: stats.pending_bytes,
        session_keys: server.session_keys().iter().map(ToString::to_string).collect(),
    }
}
