//! A client of the overlay with everything around it that a program needs: the resolver, its discovery, whether it is
//! ready, and access to services over it.
//!
//! ```text
//!   OverlayConfig::{direct, standard, dmsg_http} ─▶ Overlay ──┬─ client     dial, listen
//!                                                             ├─ readiness  a value to watch
//!                                                             └─ access     one service, by policy
//! ```
//!
//! Starting it never waits for the network. There is one client, whose own discovery is reached through itself: two
//! clients with one key would evict each other at every server (`dmsg-http.md §1.4`), and the engine refuses the second.

use std::sync::Arc;

use dmsg_engine::{
    client::{Client, ClientConfig, ServerRecord, StartError},
    identity::SecretKey,
};
use tokio::sync::watch;

use crate::{
    access::{AccessConfig, AccessMetrics, AccessPolicy, Paths, Readiness, ServiceAccess},
    discovery::{ClientOptions, DiscoveryClient, HttpDirectory, client::DirectoryOptions},
    http::{DmsgTransport, HttpClient, HttpConfig},
    resolve::{LateClient, PinnedDial, Resolver, ServerChoice, StaticMap},
    service::{Endpoints, ServiceKind},
    transport::TcpTransport,
    url::DmsgUrl,
};

/// How long a service with an HTTP address may take to be dialled over DMSG: one try of the engine's. A service
/// without one gets the whole of the engine's time.
const DIAL_TIMEOUT_WITH_FALLBACK: std::time::Duration = std::time::Duration::from_secs(5);

/// Streams of one service's access at once. Seven of them leave nine tenths of a client's 8,192 streams to others.
const STREAMS_PER_SERVICE_MAX: usize = 128;

/// Idle streams kept to one service.
const IDLE_PER_SERVICE_MAX: usize = 4;

/// What an [`Overlay`] is made of. The constructors are the three kinds of client; everything else is a field.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct OverlayConfig {
    /// The engine's part; its key is who we are.
    pub client: ClientConfig,
    /// Servers that are known beforehand.
    pub servers: Vec<ServerRecord>,
    /// Servers that the discovery listed before a restart; they count until it lists some again.
    pub kept_servers: Vec<ServerRecord>,
    /// Where the discovery is; nowhere for a direct client.
    pub discovery: Endpoints,
    /// How the discovery is accessed.
    pub access: AccessConfig,
    /// Whether the discovery's servers are used beside those of `servers`.
    pub choice: ServerChoice,
    /// Whether others shall find us in the discovery.
    pub publishes: bool,
    /// `client_type` of our entry.
    pub client_type: String,
}

impl OverlayConfig {
    fn new(
        key: SecretKey,
        servers: Vec<ServerRecord>,
        discovery: Endpoints,
        policy: AccessPolicy,
    ) -> Self {
        Self {
            client: ClientConfig::new(key),
            servers,
            kept_servers: Vec::new(),
            discovery,
            access: AccessConfig::with_policy(policy),
            choice: ServerChoice::Merged,
            publishes: true,
            client_type: String::new(),
        }
    }

    /// No discovery: every peer is sought behind these servers, and nobody is told that we are there
    /// (`dmsg-http.md §1.1`).
    #[must_use]
    pub fn direct(key: SecretKey, servers: Vec<ServerRecord>) -> Self {
        Self::new(key, servers, Endpoints::default(), AccessPolicy::DmsgOnly)
    }

    /// A discovery over plain HTTP, which names the servers too (`dmsg-http.md §1.2`).
    #[must_use]
    pub fn standard(key: SecretKey, discovery: http::Uri) -> Self {
        let endpoints = Endpoints { http: Some(discovery), dmsg: None };
        Self::new(key, Vec::new(), endpoints, AccessPolicy::HttpOnly)
    }

    /// A discovery over DMSG, reached through these servers (`dmsg-http.md §1.3`).
    #[must_use]
    pub fn dmsg_http(key: SecretKey, servers: Vec<ServerRecord>, discovery: DmsgUrl) -> Self {
        let endpoints = Endpoints { http: None, dmsg: Some(discovery) };
        Self::new(key, servers, endpoints, AccessPolicy::DmsgOnly)
    }

    /// Servers and a discovery as a deployment names them; over DMSG first if it has both addresses.
    #[must_use]
    pub fn deployed(key: SecretKey, servers: Vec<ServerRecord>, discovery: Endpoints) -> Self {
        Self::new(key, servers, discovery, AccessPolicy::DmsgFirst)
    }

    /// The same, without an entry in the discovery: for a client that only dials.
    #[must_use]
    pub fn hidden(self) -> Self {
        Self { publishes: false, ..self }
    }
}

/// A running client and what belongs to it. Clones share it; the last one's drop closes it.
#[derive(Clone)]
pub struct Overlay(Arc<Inner>);

struct Inner {
    client: Option<Client>,
    published: watch::Receiver<bool>,
    readiness: watch::Receiver<Readiness>,
    dial: PinnedDial,
    map: Arc<StaticMap>,
    discovery: Option<ServiceAccess>,
    metrics: Arc<AccessMetrics>,
}

impl Overlay {
    /// Starts the client on the current tokio runtime; returns at once, sessions come up behind.
    ///
    /// # Errors
    /// A client with this key runs in this process, or the engine could not start.
    pub fn start(config: OverlayConfig) -> Result<Self, StartError> {
        let map = Arc::new(StaticMap::new(config.servers).with_kept(config.kept_servers));
        let late = LateClient::default();
        let readiness = watch::Sender::new(Readiness::Starting);
        let mut parts = Inner {
            client: None,
            published: watch::Sender::new(true).subscribe(),
            readiness: readiness.subscribe(),
            dial: PinnedDial::new(late.clone(), Arc::clone(&map)),
            map: Arc::clone(&map),
            discovery: None,
            metrics: Arc::default(),
        };
        let has_discovery = config.discovery != Endpoints::default();
        let resolver = if has_discovery {
            let access = parts.access(ServiceKind::DmsgDiscovery, &config.discovery, config.access);
            let transport = Arc::new(access.clone());
            let client = DiscoveryClient::bound(transport, ClientOptions::default());
            parts.discovery = Some(access);
            let options = DirectoryOptions {
                all_servers: config.client.min_sessions == 0,
                client_type: config.client_type,
                ..DirectoryOptions::default()
            };
            let key = config.client.secret_key.clone();
            let directory = HttpDirectory::new(Arc::new(client), key, options);
            Resolver::layered(map, directory, config.choice, config.publishes)
        } else {
            Resolver::direct(map)
        };
        parts.published = resolver.published();
        let client = Client::start(config.client, Arc::new(resolver))?;
        late.set(&client);
        tokio::spawn(follow(client.status(), readiness));
        parts.client = Some(client);
        Ok(Self(Arc::new(parts)))
    }

    /// A process without DMSG: [`Readiness::Failed`] for this reason from the beginning. Services with an HTTP address
    /// are reached all the same.
    #[must_use]
    pub fn unavailable(reason: impl Into<String>) -> Self {
        let map = Arc::<StaticMap>::default();
        let reason = reason.into();
        Self(Arc::new(Inner {
            client: None,
            published: watch::Sender::new(false).subscribe(),
            readiness: watch::Sender::new(Readiness::Failed { reason }).subscribe(),
            dial: PinnedDial::new(LateClient::default(), Arc::clone(&map)),
            map,
            discovery: None,
            metrics: Arc::default(),
        }))
    }

    /// The engine's client; `None` only for [`Overlay::unavailable`].
    #[must_use]
    pub fn client(&self) -> Option<&Client> {
        self.0.client.as_ref()
    }

    /// Whether requests can go over DMSG, now and as it changes.
    #[must_use]
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.0.readiness.clone()
    }

    /// True as soon as peers can find us, or at once if nothing is published.
    #[must_use]
    pub fn published(&self) -> watch::Receiver<bool> {
        self.0.published.clone()
    }

    /// The servers known now: the configured ones and those of the discovery.
    #[must_use]
    pub fn servers(&self) -> Vec<ServerRecord> {
        self.0.map.servers()
    }

    /// The access to the discovery that the client itself uses.
    #[must_use]
    pub fn discovery(&self) -> Option<&ServiceAccess> {
        self.0.discovery.as_ref()
    }

    /// Access to a service of the deployment. Its key is sought behind the servers of its entry, if it has one, and behind
    /// the known ones.
    #[must_use]
    pub fn access(
        &self,
        service: ServiceKind,
        endpoints: &Endpoints,
        config: AccessConfig,
    ) -> ServiceAccess {
        self.0.access(service, endpoints, config)
    }

    /// What the access objects made here count.
    #[must_use]
    pub fn metrics(&self) -> &AccessMetrics {
        &self.0.metrics
    }

    /// Closes sessions and withdraws the entry; at most 2 s.
    pub async fn close(&self) {
        if let Some(client) = &self.0.client {
            client.close().await;
        }
    }
}

impl Inner {
    fn access(
        &self,
        service: ServiceKind,
        endpoints: &Endpoints,
        config: AccessConfig,
    ) -> ServiceAccess {
        match &endpoints.dmsg {
            Some(url) if service == ServiceKind::DmsgDiscovery => {
                self.map.pin_discovery(url.addr().key);
            }
            Some(url) => self.map.pin(url.addr().key),
            None => {}
        }
        let mut http = HttpConfig {
            streams_max: STREAMS_PER_SERVICE_MAX,
            idle_max: IDLE_PER_SERVICE_MAX,
            ..HttpConfig::default()
        };
        let falls_back = endpoints.http.is_some() && config.policy != AccessPolicy::DmsgOnly;
        if falls_back {
            http.connect_timeout = DIAL_TIMEOUT_WITH_FALLBACK;
        }
        let client = HttpClient::with_config(self.dial.clone(), http);
        let paths = Paths {
            dmsg: Arc::new(DmsgTransport::over(client)),
            readiness: self.readiness.clone(),
            http: Arc::new(TcpTransport::new()),
        };
        ServiceAccess::new(service, endpoints, paths, config, Arc::clone(&self.metrics))
    }
}

/// Tells in the words of [`Readiness`] what the client says of itself, until it is gone.
async fn follow(
    mut status: watch::Receiver<dmsg_engine::client::ClientStatus>,
    readiness: watch::Sender<Readiness>,
) {
    loop {
        let now = Readiness::from(&*status.borrow_and_update());
        let is_last = matches!(now, Readiness::Failed { .. });
        let before = readiness.send_replace(now.clone());
        if before.name() != now.name() {
            tracing::info!(state = now.name(), "DMSG is {now}");
        }
        if is_last || status.changed().await.is_err() {
            return;
        }
    }
}
