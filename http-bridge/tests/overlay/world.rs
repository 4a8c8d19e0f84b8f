//! A service that listens on TCP and on DMSG, and a relay that comes and goes.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{Extension, Router, routing::get};
use bytes::Bytes;
use dmsg_engine::{
    client::ServerRecord,
    identity::SecretKey,
    server::{Server, ServerConfig},
    wire::Addr,
};
use dmsg_http::{
    access::{AccessConfig, AccessError, Path, PathTaken, ServiceAccess},
    http::server::{CallerKey, ServeConfig, serve},
    overlay::{Overlay, OverlayConfig},
    service::{Endpoints, ServiceKind},
    transport::Limits,
    url::{DEFAULT_PORT, DmsgUrl},
};
use http::{Method, Request, Response};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};

pub const LIMITS: Limits = Limits { timeout: Duration::from_secs(10), body_max_bytes: 1024 };

/// Longer than anything here takes; only a failing test waits for it.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn key(name: &str) -> SecretKey {
    SecretKey::from_seed(name.as_bytes())
}

/// A loopback address where nobody listens, for a relay to come.
pub async fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap()
}

pub fn relay(name: &str, address: SocketAddr) -> Server {
    Server::start(ServerConfig::new(key(name), address)).unwrap()
}

pub fn record(name: &str, address: SocketAddr) -> ServerRecord {
    let key = key(name).public_key();
    ServerRecord { key, address: address.to_string(), available_sessions: 1 }
}

/// A service on both paths. What comes over DMSG to `/hang` is reported and never answered.
pub struct Service {
    pub endpoints: Endpoints,
    pub overlay: Overlay,
    pub hanging: mpsc::UnboundedReceiver<Method>,
}

impl Service {
    pub async fn start(name: &str, servers: Vec<ServerRecord>) -> Self {
        let overlay = Overlay::start(OverlayConfig::direct(key(name), servers)).unwrap();
        let (hangs, hanging) = mpsc::unbounded_channel();
        let hang = move |method: Method, caller: Option<Extension<CallerKey>>| async move {
            if caller.is_some() {
                hangs.send(method).unwrap();
                std::future::pending::<()>().await;
            }
            "late"
        };
        let router = Router::new()
            .route("/x", get(|| async { "x" }))
            .route("/health", get(|| async { r#"{"service_name":"a test's"}"# }))
            .route("/hang", get(hang.clone()).post(hang));
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let http = format!("http://{}", tcp.local_addr().unwrap()).parse().unwrap();
        let client = overlay.client().unwrap();
        let dmsg = client.listen(DEFAULT_PORT).unwrap();
        let address = Addr { key: client.public_key(), port: DEFAULT_PORT };
        let url = DmsgUrl::new(address, "/").unwrap();
        let forever = std::future::pending;
        let config = ServeConfig::default;
        tokio::spawn(serve(tcp, router.clone(), config(), Arc::default(), forever()));
        tokio::spawn(serve(dmsg, router, config(), Arc::default(), forever()));
        Self { endpoints: Endpoints { http: Some(http), dmsg: Some(url) }, overlay, hanging }
    }

    /// How somebody else reaches it.
    pub fn access(&self, from: &Overlay) -> ServiceAccess {
        let kind = ServiceKind::TransportDiscovery;
        from.access(kind, &self.endpoints, AccessConfig::default())
    }
}

pub async fn ready(overlay: &Overlay) {
    let mut readiness = overlay.readiness();
    let is_ready = readiness.wait_for(dmsg_http::access::Readiness::is_ready);
    timeout(PATIENCE, is_ready).await.expect("DMSG is not ready in time").unwrap();
}

pub async fn send(
    access: &ServiceAccess,
    method: Method,
    path: &str,
) -> Result<Response<Bytes>, AccessError> {
    let request = Request::builder().method(method).uri(path).body(Bytes::new()).unwrap();
    access.send(request, LIMITS).await
}

pub fn path_of(answer: &Response<Bytes>) -> Path {
    answer.extensions().get::<PathTaken>().unwrap().path
}

/// Stops a relay without holding the runtime up.
pub async fn kill(relay: Server) {
    tokio::task::spawn_blocking(move || relay.shutdown()).await.unwrap();
}
