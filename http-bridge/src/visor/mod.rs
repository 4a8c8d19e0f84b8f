//! The start-up of a visor as a library: from a configuration to calls of all its services (`dmsg-http.md §1.4, §6.5`).
//!
//! ```text
//!   VisorConfig ─▶ servers: those that its discovery listed last over those of the configuration
//!               ─▶ Overlay: one client, direct at first, its discovery over itself
//!               ─▶ one ServiceAccess per service ─▶ Watch: its calls, for ever
//!                                                    └─▶ VisorStatus, to be shown
//! ```
//!
//! [`Visor::start`] returns at once and cannot fail: what does not work shows in the status, and is tried again. A
//! visor whose DMSG is not there yet calls its services over HTTP, and moves to DMSG when it is.

mod calls;
mod status;
mod watch;

use std::{path::PathBuf, sync::Arc, time::Duration};

use dmsg_engine::{
    client::{ClientConfig, ServerRecord},
    driver::DriverKind,
    identity::{PublicKey, SecretKey},
};
use tokio::{sync, task::JoinSet, time::Instant};

pub use self::status::{CallStatus, ServiceView, VisorStatus};
use self::watch::Watched;
use crate::{
    access::{AccessConfig, AccessPolicy, Readiness, ServiceAccess},
    deployment::{
        Services,
        refresh::{ServerCache, follow_servers},
    },
    discovery::{ClientOptions, DiscoveryClient},
    overlay::{Overlay, OverlayConfig},
    service::ServiceKind,
};

/// What a visor is started with.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct VisorOptions {
    /// Who it is.
    pub secret_key: SecretKey,
    /// Where everything is.
    pub services: Services,
    /// Sessions to hold; 0 means one with every server.
    pub sessions: usize,
    /// Which paths its calls take.
    pub policy: AccessPolicy,
    /// What moves the bytes.
    pub driver: DriverKind,
    /// How often each service is called; more often until it has answered.
    pub call_interval: Duration,
    /// Folder with the list of servers that were found last; nothing is kept if not given.
    pub local_path: Option<PathBuf>,
}

impl VisorOptions {
    /// Two sessions, DMSG first, a call every 10 s, nothing on disk.
    #[must_use]
    pub fn new(secret_key: SecretKey, services: Services) -> Self {
        Self {
            secret_key,
            services,
            sessions: 2,
            policy: AccessPolicy::default(),
            driver: DriverKind::Auto,
            call_interval: Duration::from_secs(10),
            local_path: None,
        }
    }
}

/// A running visor, as far as it concerns DMSG and the services. Dropping it ends its tasks; [`Visor::close`] withdraws
/// its entry too.
pub struct Visor {
    key: PublicKey,
    overlay: Overlay,
    services: Vec<Arc<Watched>>,
    started: Instant,
    ready_after: Arc<std::sync::OnceLock<Duration>>,
    key_sets: sync::watch::Sender<Services>,
    tasks: JoinSet<()>,
}

impl Visor {
    /// Starts on the current tokio runtime and returns at once.
    #[must_use]
    pub fn start(options: VisorOptions) -> Self {
        let started = Instant::now();
        let key = options.secret_key.public_key();
        let discovery = options.services.endpoints(ServiceKind::DmsgDiscovery);
        let folder = options.local_path.as_deref();
        let cache = folder.and_then(|folder| ServerCache::new(folder, &discovery));
        let overlay = overlay(&options, cache.as_ref());
        let mut tasks = JoinSet::new();
        let ready_after = Arc::default();
        tasks.spawn(note_ready(overlay.readiness(), started, Arc::clone(&ready_after)));
        if let (Some(cache), Some(discovery)) = (cache, overlay.discovery()) {
            tasks.spawn(keep_cache(cache, discovery.clone(), overlay.readiness()));
        }
        let services = ServiceKind::ALL.map(|kind| {
            let access = match overlay.discovery().filter(|_| kind == ServiceKind::DmsgDiscovery) {
                Some(discovery) => discovery.clone(),
                None => {
                    let config = AccessConfig::with_policy(options.policy);
                    overlay.access(kind, &options.services.endpoints(kind), config)
                }
            };
            Arc::new(Watched::new(access, &options.secret_key))
        });
        for service in services.iter().filter(|service| service.access().has_address()) {
            let readiness = overlay.readiness();
            tasks.spawn(Arc::clone(service).run(readiness, options.call_interval));
        }
        let key_sets = sync::watch::Sender::new(options.services.key_sets());
        Self { key, overlay, services: services.into(), started, ready_after, key_sets, tasks }
    }

    /// The deployment's sets of keys (who may set up routes and transports, who may read the survey) as they are now.
    #[must_use]
    pub fn key_sets(&self) -> sync::watch::Receiver<Services> {
        self.key_sets.subscribe()
    }

    /// Takes the key sets of a refreshed deployment over, at once; whether anything changed. Its addresses count after a restart.
    pub fn refresh_key_sets(&self, deployment: &Services) -> bool {
        let new = deployment.key_sets();
        self.key_sets.send_if_modified(|current| {
            let is_new = *current != new;
            *current = new;
            is_new
        })
    }

    /// The client of the overlay and what belongs to it.
    #[must_use]
    pub fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    /// How everything stands now.
    #[must_use]
    pub fn status(&self) -> VisorStatus {
        VisorStatus {
            public_key: self.key,
            uptime: self.started.elapsed(),
            readiness: self.overlay.readiness().borrow().clone(),
            ready_after: self.ready_after.get().copied(),
            published: *self.overlay.published().borrow(),
            sessions: self
                .overlay
                .client()
                .map(dmsg_engine::client::Client::sessions)
                .unwrap_or_default(),
            services: self.services.iter().map(|service| service.view()).collect(),
            key_sets: self.key_sets.borrow().clone(),
        }
    }

    /// Ends the calls, closes the sessions and withdraws the entry; at most 2 s.
    pub async fn close(mut self) {
        self.tasks.shutdown().await;
        self.overlay.close().await;
    }
}

/// The client, or the reason why there is none.
fn overlay(options: &VisorOptions, cache: Option<&ServerCache>) -> Overlay {
    let servers = options.services.server_records();
    let kept = cache.map(ServerCache::read).unwrap_or_default();
    let discovery = options.services.endpoints(ServiceKind::DmsgDiscovery);
    if options.policy == AccessPolicy::HttpOnly {
        return Overlay::unavailable("the policy is to use HTTP only");
    }
    if servers.is_empty() && kept.is_empty() && discovery.http.is_none() {
        return Overlay::unavailable(
            "the configuration names no DMSG server, and no discovery over HTTP that would",
        );
    }
    let key = options.secret_key.clone();
    let mut config = OverlayConfig::deployed(key, servers, discovery);
    config.kept_servers = kept;
    config.client =
        ClientConfig { min_sessions: options.sessions, driver: options.driver, ..config.client };
    config.access.policy = options.policy;
    config.client_type = "visor".to_owned();
    Overlay::start(config).unwrap_or_else(|error| {
        tracing::error!(%error, "there is no DMSG in this process");
        Overlay::unavailable(error.to_string())
    })
}

async fn note_ready(
    mut readiness: sync::watch::Receiver<Readiness>,
    started: Instant,
    ready_after: Arc<std::sync::OnceLock<Duration>>,
) {
    if readiness.wait_for(Readiness::is_ready).await.is_ok() {
        let _ = ready_after.set(started.elapsed());
    }
}

/// Writes down which servers the discovery lists, so that the next start finds them even if the configuration is old.
async fn keep_cache(
    cache: ServerCache,
    discovery: ServiceAccess,
    mut readiness: tokio::sync::watch::Receiver<Readiness>,
) {
    if readiness.wait_for(Readiness::is_ready).await.is_err() {
        return;
    }
    let discovery = DiscoveryClient::bound(Arc::new(discovery), ClientOptions::default());
    let write = |servers: Vec<ServerRecord>| {
        let (cache, path) = (cache.clone(), cache.path().to_owned());
        let written = tokio::task::spawn_blocking(move || cache.write(&servers));
        async move {
            if let Ok(Err(error)) = written.await {
                tracing::warn!(file = %path.display(), %error, "the list of servers was not kept");
            }
        }
    };
    follow_servers(discovery, write).await;
}
