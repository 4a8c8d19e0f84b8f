//! A Route Finder (`services.md §7`): answers from a picture of the transports that is at most some seconds old.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use axum::{
    Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::post,
};
use http::StatusCode;
use serde::Deserialize;
use tokio::{sync::Semaphore, time::timeout};

use super::{Edge, RouteOptions, Routes, graph::Graph};
use crate::{
    discovery::UnixNanos,
    services::{
        host::{ApiError, Host, HostConfig, OBJECT_BYTES_MAX, Service, receive},
        transport_discovery::{TRANSPORTS_MAX, Transport, TransportDiscoveryClient},
    },
};

/// Edges of one request at most; visors ask for two. Each costs up to 20 ms.
pub const EDGES_MAX: usize = 16;

/// Requests that are searched for at once, so that searches take two cores at most and 20 MiB. Others wait.
const SEARCHES_MAX: usize = 2;

/// How long a request waits for its turn: what four full ones take.
const TURN_TIMEOUT: Duration = Duration::from_secs(2);

/// How old the picture of the transports gets.
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(2);

/// After a failure to look at the transports; the last picture stands meanwhile.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// The service.
pub struct RouteFinder {
    host: Host,
    graph: RwLock<Arc<Graph>>,
    turns: Arc<Semaphore>,
}

impl RouteFinder {
    /// A finder that knows no transport yet.
    #[must_use]
    pub fn new(config: HostConfig) -> Self {
        let turns = Arc::new(Semaphore::new(SEARCHES_MAX));
        Self { host: Host::new(config), graph: RwLock::default(), turns }
    }

    /// These are the transports now.
    pub fn set_transports(&self, transports: &[Transport]) {
        let graph = Graph::new(transports.iter().take(TRANSPORTS_MAX));
        *self.graph.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(graph);
    }

    /// Asks a Transport Discovery for ever. When it does not answer, the last picture stands.
    pub async fn follow(self: Arc<Self>, transports: TransportDiscoveryClient) {
        let mut failing = false;
        loop {
            let wait = match transports.all().await {
                Ok(list) => {
                    self.set_transports(&list);
                    failing = false;
                    REFRESH_INTERVAL
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "the transports are not known; the last picture stands");
                    }
                    error
                        .retry_after()
                        .unwrap_or_default()
                        .clamp(RETRY_INTERVAL, 12 * RETRY_INTERVAL)
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    fn graph(&self) -> Arc<Graph> {
        Arc::clone(&self.graph.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Service for RouteFinder {
    fn host(&self) -> &Host {
        &self.host
    }

    fn paths(self: Arc<Self>) -> Router {
        Router::new().route("/routes", post(routes)).with_state(self)
    }

    fn expire(&self, _: UnixNanos) {
        self.host.sweep();
    }

    fn tables(&self) -> Vec<(&'static str, usize, usize)> {
        Vec::new()
    }
}

#[derive(Deserialize)]
struct Question {
    #[serde(rename = "Edges", alias = "edges")]
    edges: Vec<Edge>,
    #[serde(rename = "Opts", alias = "opts", default)]
    options: Option<RouteOptions>,
}

async fn routes(State(service): State<Arc<RouteFinder>>, request: Request) -> Response {
    let work = async {
        let body = receive(request.into_body(), OBJECT_BYTES_MAX).await?;
        let bad = |text: String| ApiError::nested(StatusCode::BAD_REQUEST, text);
        let question: Question =
            serde_json::from_slice(&body).map_err(|error| bad(error.to_string()))?;
        if question.edges.len() > EDGES_MAX {
            return Err(bad(format!("more than {EDGES_MAX} edges in one request")));
        }
        let turn = timeout(TURN_TIMEOUT, Arc::clone(&service.turns).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(ApiError::busy("too many searches at once")) };
        let graph = service.graph();
        // A search goes on when its caller has left, and its turn with it.
        let search = move || {
            let _turn = turn;
            answer(&graph, &question)
        };
        let found = tokio::task::spawn_blocking(search).await;
        let unexpected =
            |_| ApiError::nested(StatusCode::INTERNAL_SERVER_ERROR, "the search did not end");
        Ok(axum::Json(found.map_err(unexpected)??).into_response())
    };
    work.await.unwrap_or_else(ApiError::into_response)
}

/// Routes for every edge, or 404 for the whole request.
fn answer(graph: &Graph, question: &Question) -> Result<Routes, ApiError> {
    let options = question.options.unwrap_or_default();
    let mut routes = Routes::new();
    for edge in &question.edges {
        let found = graph.routes(*edge, options);
        if found.is_empty() {
            let text = if graph.contains(edge.from) {
                format!("no routes from {} to {}", edge.from, edge.to)
            } else {
                format!("{} has no transports", edge.from)
            };
            return Err(ApiError::nested(StatusCode::NOT_FOUND, text));
        }
        routes.insert(*edge, found);
    }
    Ok(routes)
}
