//! The config bootstrapper: hands the deployment out (`deployment-config.md §4`).
//!
//! ```text
//!   GET /          one flat deployment                        GET /health   who we are
//!   GET /dmsghttp  the servers and the DMSG addresses alone
//! ```
//!
//! The answers are made when something changes, not when somebody asks. An empty list of servers changes nothing: the
//! last good one stays. Where the list comes from, and on what the router is served, is the matter of `dmsg conf`.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use dmsg_engine::{client::ServerRecord, identity::PublicKey};

use super::{
    document::Services,
    field::{Field, ServiceUrl, Value},
    json::{Json, Object},
    problem::Problems,
    server::DmsgServer,
};
use crate::{discovery::UnixNanos, service::ServiceKind, url::DEFAULT_PORT};

/// The lists that an operator may set beside the document; one that is there replaces the document's.
pub const LISTS: [Field; 4] =
    [Field::StunServers, Field::RouteSetupNodes, Field::SurveyWhitelist, Field::TransportSetup];

/// What is handed out. Clones share it.
#[derive(Clone)]
pub struct Bootstrapper(Arc<Inner>);

struct Inner {
    content: RwLock<Content>,
    key: Option<PublicKey>,
    started_at: String,
}

struct Content {
    services: Services,
    /// The servers are the discovery's, no longer the document's.
    has_fresh_servers: bool,
    flat: Bytes,
    dmsg_http: Bytes,
}

impl Content {
    fn new(services: Services) -> Self {
        let flat = Json::Object(services.to_object()).to_pretty().into();
        let dmsg_http = Json::Object(dmsg_http(&services)).to_pretty().into();
        Self { services, has_fresh_servers: false, flat, dmsg_http }
    }
}

impl Bootstrapper {
    /// Hands out `services`. With a key, that is where the bootstrapper itself is reached over DMSG, and what the
    /// deployment says of that if it says nothing.
    #[must_use]
    pub fn new(services: Services, key: Option<PublicKey>) -> Self {
        let started_at = UnixNanos::system().to_rfc3339();
        let content = RwLock::new(Content::new(with_own_address(services, key)));
        Self(Arc::new(Inner { content, key, started_at }))
    }

    /// Hands out another document from now on. The servers of the discovery stay, being newer than any document's, unless
    /// the document names another discovery.
    pub fn replace(&self, services: Services) {
        let mut services = with_own_address(services, self.0.key);
        let mut content = self.0.content.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let discovery = |services: &Services| services.endpoints(ServiceKind::DmsgDiscovery);
        let stays =
            content.has_fresh_servers && discovery(&services) == discovery(&content.services);
        if stays {
            let servers = content.services.servers().to_vec();
            services.set(Field::DmsgServers, Value::Servers(servers));
        }
        *content = Content { has_fresh_servers: stays, ..Content::new(services) };
    }

    /// What is handed out at present.
    #[must_use]
    pub fn services(&self) -> Services {
        self.read(|content| content.services.clone())
    }

    /// Takes a discovery's fresh list of servers over, as far as it is fit for a document; what the document says beyond
    /// key and address of a server stays as long as its address does, since it may be signed. Whether anything changed.
    pub fn set_servers(&self, servers: &[ServerRecord]) -> bool {
        self.change_servers(servers, true)
    }

    /// The same with servers that were listed before a restart: another document's count more.
    pub fn begin_with_servers(&self, servers: &[ServerRecord]) -> bool {
        self.change_servers(servers, false)
    }

    fn change_servers(&self, servers: &[ServerRecord], has_fresh_servers: bool) -> bool {
        let mut fresh = DmsgServer::listable(servers);
        let mut content = self.0.content.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = content.services.servers();
        let known: HashMap<_, &DmsgServer> =
            before.iter().map(|server| (server.key, server)).collect();
        for server in &mut fresh {
            if let Some(known) = known.get(&server.key)
                && known.address == server.address
            {
                server.clone_from(known);
            }
        }
        if fresh.is_empty() {
            return false;
        }
        if fresh == before {
            content.has_fresh_servers |= has_fresh_servers;
            return false;
        }
        let mut services = content.services.clone();
        services.set(Field::DmsgServers, Value::Servers(fresh));
        *content = Content { has_fresh_servers, ..Content::new(services) };
        true
    }

    /// The HTTP API.
    pub fn router(&self) -> Router {
        let flat = |State(this): State<Self>| async move { json(this.read(|c| c.flat.clone())) };
        let short =
            |State(this): State<Self>| async move { json(this.read(|c| c.dmsg_http.clone())) };
        let health = |State(this): State<Self>| async move { json(this.health()) };
        Router::new()
            .route("/", get(flat))
            .route("/dmsghttp", get(short))
            .route("/health", get(health))
            .fallback(async || refuse(StatusCode::NOT_FOUND, "no such path"))
            .method_not_allowed_fallback(async || {
                refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET is served")
            })
            .with_state(self.clone())
    }

    fn read<T>(&self, read: impl FnOnce(&Content) -> T) -> T {
        read(&self.0.content.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn health(&self) -> Bytes {
        let build = Object::from([("version", env!("CARGO_PKG_VERSION").into())]);
        let mut health = Object::from([
            ("service_name", ServiceKind::ConfigBootstrapper.name().into()),
            ("build_info", build.into()),
            ("started_at", self.0.started_at.as_str().into()),
        ]);
        if let Some(key) = self.0.key {
            health.set("dmsg_address", format!("{key}:{DEFAULT_PORT}"));
        }
        Json::Object(health).to_string().into()
    }
}

/// With a key, that is where the bootstrapper itself is reached over DMSG, and what the deployment says of that if it says
/// nothing.
fn with_own_address(mut services: Services, key: Option<PublicKey>) -> Services {
    let place = Field::ServiceDmsg(ServiceKind::ConfigBootstrapper);
    match (key, services.endpoints(ServiceKind::ConfigBootstrapper).dmsg) {
        (Some(key), None) => {
            if let Ok(url) = ServiceUrl::parse(&format!("dmsg://{key}:{DEFAULT_PORT}")) {
                services.set(place, Value::Url(url));
            }
        }
        (Some(key), Some(url)) if url.addr().key != key => {
            tracing::warn!(
                document = %url.addr().key, ours = %key,
                "the deployment names another key for its config bootstrapper than ours"
            );
        }
        _ => {}
    }
    services
}

impl Services {
    /// Takes over the lists of a file that has no other members (`§4`).
    pub fn override_lists(&mut self, text: &str) -> Result<Problems, Problems> {
        let (lists, warnings) = Self::parse_fields(text, &LISTS)?;
        for field in LISTS {
            if let Some(list) = lists.get(field) {
                self.set(field, list.clone());
            }
        }
        Ok(warnings)
    }
}

/// The short answer: members as in the file of 2024 that it replaces, with the addresses over DMSG.
fn dmsg_http(services: &Services) -> Object {
    let servers = services.servers().iter();
    let servers = servers.map(|server| DmsgServer::new(server.key, server.address.clone()));
    let mut object = Object::default();
    object.set("dmsg_servers", Value::Servers(servers.collect()).to_json());
    for kind in ServiceKind::ALL.into_iter().filter(|k| *k != ServiceKind::ConfigBootstrapper) {
        if let Some(url) = services.endpoints(kind).dmsg {
            object.set(kind.member(), ServiceUrl::Dmsg(url).to_string());
        }
    }
    object
}

fn json(body: Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn refuse(status: StatusCode, why: &str) -> Response {
    let body = Json::Object(Object::from([("error", why.into())])).to_string();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
