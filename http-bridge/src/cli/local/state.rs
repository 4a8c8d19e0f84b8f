//! What the page of `dmsg local` shows, as JSON and as HTML.
//!
//! The page is one file that fetches `/state.json` every second and writes it with `textContent`, so nothing in
//! it can become markup. There is nothing secret here: keys are public keys, and counters.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use axum::{Json, Router, response::IntoResponse, routing::get};
use dmsg_engine::{client::Client, identity::PublicKey, server::Server};
use http::header;
use serde::Serialize;

use super::services::LocalService;
use crate::{
    cli::{flags::driver_name, page},
    discovery::{
        UnixNanos,
        store::{ClientFilter, Store},
    },
    http::server::ServeStats,
    service::ServiceKind,
    services::host::Service,
    url::DEFAULT_PORT,
};

/// Where the numbers come from.
#[derive(Clone)]
pub(super) struct Sources {
    pub(super) relays: Vec<Arc<Server>>,
    pub(super) store: Arc<dyn Store>,
    pub(super) discovery_http: Option<SocketAddr>,
    pub(super) discovery_client: Option<Client>,
    pub(super) services: Vec<Source>,
    pub(super) web: Client,
    pub(super) requests: Arc<ServeStats>,
    /// How the commands to copy begin.
    pub(super) program: String,
}

/// A service of the deployment.
#[derive(Clone)]
pub(super) struct Source {
    kind: ServiceKind,
    http: Option<SocketAddr>,
    client: Option<Client>,
    service: Option<Arc<dyn Service>>,
}

impl Source {
    pub(super) fn of(local: &LocalService) -> Self {
        Self {
            kind: local.kind,
            http: local.hosted.http,
            client: local.hosted.client.clone(),
            service: local.service.clone(),
        }
    }

    fn row(&self) -> ServiceRow {
        let tables = self.service.as_ref().map(|service| service.tables());
        ServiceRow {
            name: self.kind.name(),
            http: self.http.map(|address| format!("http://{address}")),
            dmsg: self.client.as_ref().map(url),
            sessions: self.client.as_ref().map_or(0, |client| client.sessions().len()),
            records: tables.map(|tables| tables.iter().map(|(_, count, _)| count).sum()),
            requests: self.service.as_ref().map(|service| service.host().requests()),
        }
    }
}

#[derive(Serialize)]
struct ServiceRow {
    name: &'static str,
    http: Option<String>,
    dmsg: Option<String>,
    sessions: usize,
    records: Option<usize>,
    requests: Option<u64>,
}

/// Clients that the page lists; the number of all is above the list.
const CLIENTS_SHOWN_MAX: usize = 100;

#[derive(Serialize)]
struct State {
    program: String,
    uptime_ms: u128,
    clients: Vec<Listed>,
    discovery: Discovery,
    services: Vec<ServiceRow>,
    relays: Vec<Relay>,
    web: Web,
}

#[derive(Serialize)]
struct Discovery {
    http: Option<String>,
    dmsg: Option<String>,
    sessions: usize,
    clients: usize,
    servers: usize,
}

#[derive(Serialize)]
struct Listed {
    key: String,
    /// Numbers of the relays it can be reached through.
    relays: Vec<usize>,
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
    refused: Vec<(&'static str, u64)>,
    closed: Vec<(&'static str, u64)>,
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
    Router::new().route("/", page::serve(include_str!("page.html"))).route(
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
            program: self.program.clone(),
            uptime_ms: started.elapsed().as_millis(),
            clients: self.clients(),
            discovery: Discovery {
                http: self.discovery_http.map(|address| format!("http://{address}")),
                dmsg: self.discovery_client.as_ref().map(url),
                sessions: self.discovery_client.as_ref().map_or(0, |c| c.sessions().len()),
                clients: counts.clients,
                servers: counts.servers,
            },
            services: self.services.iter().map(Source::row).collect(),
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

impl Sources {
    /// The clients that the discovery lists, and through which of our relays they are reached.
    fn clients(&self) -> Vec<Listed> {
        let now = UnixNanos::system();
        let mut keys = self.store.client_keys(ClientFilter::All, now).unwrap_or_default();
        keys.sort();
        keys.truncate(CLIENTS_SHOWN_MAX);
        let behind: Vec<Vec<PublicKey>> = self
            .relays
            .iter()
            .map(|relay| self.store.clients_of(&relay.public_key(), now).unwrap_or_default())
            .collect();
        let relays_of = |key: &PublicKey| {
            (1..).zip(&behind).filter(|(_, keys)| keys.contains(key)).map(|(n, _)| n).collect()
        };
        keys.iter().map(|key| Listed { key: key.to_string(), relays: relays_of(key) }).collect()
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
        refused: stats.refused,
        closed: stats.closed,
        session_keys: server.session_keys().iter().map(ToString::to_string).collect(),
    }
}
