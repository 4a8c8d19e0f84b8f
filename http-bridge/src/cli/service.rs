//! `dmsg service NAME`: one of the small services, over DMSG port 80 and over HTTP (`services.md`).
//!
//! ```text
//!   --deployment, or --discovery and --server ─▶ client with a session to every server, listed in the discovery
//!   --store FILE ─▶ Records ─▶ service ─▶ router ─┬─ DMSG port 80
//!   route-finder: --transport-discovery ─┘        └─ HTTP, unless --dmsg-only
//! ```

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use clap::{Args, ValueEnum};
use dmsg_engine::identity::{PublicKey, SecretKey};
use tokio::net::{TcpListener, UdpSocket};

use super::{
    deployment::DeploymentFlags,
    exit::{Exit, Failure, say},
    flags::{
        ClientFlags, DriverFlag, IdentityFlags, ServerChoiceFlag, ServerFlag, fresh_key, seconds,
    },
    hosting::Hosted,
    stop_signal,
};
use crate::{
    access::{AccessConfig, AccessPolicy},
    deployment::{ServiceUrl, Services, file},
    overlay::{Overlay, OverlayConfig},
    service::{Endpoints, ServiceKind},
    services::{
        CallOptions, GeoTable, TABLE_BYTES_MAX,
        address_resolver::AddressResolver,
        host::{HostConfig, Quirks, Service, router},
        records::{Database, RecordsError},
        route_finder::RouteFinder,
        service_discovery::ServiceDiscovery,
        transport_discovery::{TransportDiscovery, TransportDiscoveryClient},
        uptime_tracker::UptimeTracker,
    },
    url::DEFAULT_PORT,
};

/// How often the client looks for servers that it has no session with, so that it is reached through all of them.
const UPDATE_INTERVAL: Duration = Duration::from_secs(10);

/// The services that this program can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ServiceName {
    /// Which transports exist between visors.
    #[value(alias = "tpd")]
    TransportDiscovery,
    /// Which visors offer what.
    #[value(alias = "sd")]
    ServiceDiscovery,
    /// Network addresses of visors (stcpr, and sudph with --udp).
    #[value(alias = "ar")]
    AddressResolver,
    /// Routes over the transports.
    #[value(alias = "rf")]
    RouteFinder,
    /// Which visors are up, and for how long.
    #[value(alias = "ut")]
    UptimeTracker,
}

impl ServiceName {
    pub(super) const ALL: [Self; 5] = [
        Self::TransportDiscovery,
        Self::ServiceDiscovery,
        Self::AddressResolver,
        Self::RouteFinder,
        Self::UptimeTracker,
    ];

    pub(super) fn kind(self) -> ServiceKind {
        match self {
            Self::TransportDiscovery => ServiceKind::TransportDiscovery,
            Self::ServiceDiscovery => ServiceKind::ServiceDiscovery,
            Self::AddressResolver => ServiceKind::AddressResolver,
            Self::RouteFinder => ServiceKind::RouteFinder,
            Self::UptimeTracker => ServiceKind::UptimeTracker,
        }
    }

    /// The usual port for HTTP (`deployment-config.md §8`).
    pub(super) fn port(self) -> u16 {
        match self {
            Self::ServiceDiscovery => 9091,
            Self::RouteFinder => 9092,
            Self::AddressResolver => 9093,
            Self::TransportDiscovery => 9094,
            Self::UptimeTracker => 9096,
        }
    }
}

/// A way in which deployed services differ from their description.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum QuirkFlag {
    /// A nonce counts only if the answer is exactly 200.
    Only200Counts,
    /// Empty lists are null.
    NullLists,
    /// What is not there is a 500.
    GoStatuses,
    /// 429 comes as plain text.
    Plain429,
    /// The nonce endpoint tells one too many.
    WrongNonce,
    /// Bodies break off in the middle.
    TruncatedBodies,
    /// Answers come two seconds late.
    Late,
}

#[derive(Debug, Args)]
pub(super) struct ServiceArgs {
    /// Which service.
    #[arg(value_enum)]
    name: ServiceName,

    #[command(flatten)]
    identity: IdentityFlags,

    /// File with the deployment document that names discovery, relay servers and services.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["discovery", "server"])]
    deployment: Option<PathBuf>,

    /// Use the document's deployment for developers (test) rather than the one for users (prod).
    #[arg(long, requires = "deployment")]
    testenv: bool,

    /// URL of the discovery that shall list this service: http://host:port, or dmsg://<key> together
    /// with --server.
    #[arg(long, value_name = "URL")]
    discovery: Option<String>,

    /// A relay server to be reached through, <key>@<host>:<port>; may be repeated.
    #[arg(long, value_name = "KEY@ADDRESS")]
    server: Vec<ServerFlag>,

    /// Where to listen for HTTP; the service's usual port on every address if not given.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "dmsg_only")]
    listen: Option<SocketAddr>,

    /// No HTTP at all: serve over DMSG, and ask other services over DMSG.
    #[arg(long)]
    dmsg_only: bool,

    /// File that keeps what was registered over restarts; it is in memory only if not given.
    #[arg(long, value_name = "FILE")]
    store: Option<PathBuf>,

    /// For a route finder: the transport discovery, http:// or dmsg://; that of --deployment if not given.
    #[arg(long, value_name = "URL")]
    transport_discovery: Option<String>,

    /// Key of a network monitor, which may deregister anybody; may be repeated.
    #[arg(long, value_name = "KEY")]
    monitor: Vec<PublicKey>,

    /// Seconds for which what was registered stays without a refresh, 0 for ever; the service's usual
    /// time if not given.
    #[arg(long, value_name = "SECONDS")]
    entry_timeout: Option<f64>,

    /// Take addresses that are not public; for networks that are private as a whole.
    #[arg(long)]
    allow_private: bool,

    /// For an address resolver: where to listen for sudph over UDP. Visors take the port of our HTTP address, or 30178 if
    /// that has none, unless they read it from our health page.
    #[arg(long, value_name = "ADDRESS")]
    udp: Option<SocketAddr>,

    /// What the health page says of --udp, HOST:PORT; for a resolver behind a NAT, or on all addresses.
    #[arg(long, value_name = "HOST:PORT", requires = "udp")]
    udp_public: Option<String>,

    /// File that says where networks are, {"203.0.113.0/24": {"lat": 52.5, "lon": 13.4, "country": "DE",
    /// "region": "BE"}}; for a service discovery's geo members and an uptime tracker's map.
    #[arg(long, value_name = "FILE")]
    geo: Option<PathBuf>,

    /// Imitate an oddity of deployed services, to test clients against; may be repeated.
    #[arg(long, value_enum, value_name = "QUIRK")]
    quirk: Vec<QuirkFlag>,

    /// What moves the bytes of the DMSG side.
    #[arg(long, value_enum, default_value_t)]
    driver: DriverFlag,
}

pub(super) async fn run(args: ServiceArgs) -> Result<(), Failure> {
    // What can be wrong is found before anything is up.
    let deployment = args.deployment()?;
    let key = args.key()?;
    let transports = args.transports(deployment.as_ref())?;
    let config = args.config(key.as_ref().map(SecretKey::public_key))?;
    let database = open_database(args.store.as_deref())?;
    let listener = args.bind().await?;
    let udp = args.bind_udp().await?;
    let overlay = match &key {
        Some(key) => Some(args.overlay(key.clone(), deployment.as_ref())?),
        None => None,
    };
    let Built { service, finder, resolver } = build(args.name, config, &database)?;
    let client = overlay.as_ref().and_then(Overlay::client);
    let stop = stop_signal();
    let mut hosted = Hosted::start(router(Arc::clone(&service)), listener, client.cloned())?;
    hosted.maintain(service);
    if let (Some(resolver), Some(udp)) = (resolver, udp) {
        let local =
            udp.local_addr().map_err(|error| Failure::new(Exit::Other, error.to_string()))?;
        say(format!("udp://{local}"))?;
        let told = args.udp_public.clone().unwrap_or_else(|| match local.ip().is_unspecified() {
            // Who would dial that? Better to say nothing.
            true => String::new(),
            false => local.to_string(),
        });
        hosted.run(resolver.sudph(told).serve(udp));
    }
    if let (Some(finder), Some(endpoints)) = (finder, transports) {
        let key = key.map_or_else(fresh_key, Ok)?;
        hosted.run(finder.follow(args.transport_client(&endpoints, key, overlay.as_ref())));
    }
    if let Some(address) = hosted.http {
        say(format!("http://{address}"))?;
    }
    let result = tokio::select! {
        () = stop => Ok(()),
        result = announce(overlay.as_ref()) => result,
    };
    hosted.stop().await;
    if let Some(overlay) = &overlay {
        overlay.close().await;
    }
    result
}

impl ServiceArgs {
    /// Our key, if we are reached over DMSG.
    fn key(&self) -> Result<Option<SecretKey>, Failure> {
        let has_network =
            self.deployment.is_some() || self.discovery.is_some() || !self.server.is_empty();
        if self.dmsg_only || has_network {
            if !has_network {
                return Err(Failure::usage(
                    "no way into the network: give --deployment FILE, or --discovery URL and --server",
                ));
            }
            return self.identity.required("a service over DMSG").map(Some);
        }
        if self.identity.given()?.is_some() {
            return Err(Failure::usage(
                "a secret key is for a service over DMSG: give --deployment FILE, or --discovery URL, too",
            ));
        }
        Ok(None)
    }

    fn deployment(&self) -> Result<Option<Services>, Failure> {
        if self.deployment.is_none() {
            return Ok(None);
        }
        let flags = DeploymentFlags { deployment: self.deployment.clone(), testenv: self.testenv };
        flags.services().map(Some)
    }

    /// Where a route finder learns of the transports.
    fn transports(&self, deployment: Option<&Services>) -> Result<Option<Endpoints>, Failure> {
        if self.name != ServiceName::RouteFinder {
            return match &self.transport_discovery {
                None => Ok(None),
                Some(_) => Err(Failure::usage("--transport-discovery is for a route finder")),
            };
        }
        let kind = ServiceKind::TransportDiscovery;
        let mut endpoints = match &self.transport_discovery {
            Some(url) => match ServiceUrl::parse(url) {
                Ok(ServiceUrl::Http(url)) => Endpoints { http: Some(url), dmsg: None },
                Ok(ServiceUrl::Dmsg(url)) => Endpoints { http: None, dmsg: Some(url) },
                Err(error) => {
                    return Err(Failure::new(Exit::Url, format!("--transport-discovery: {error}")));
                }
            },
            None => deployment.map(|services| services.endpoints(kind)).unwrap_or_default(),
        };
        if self.dmsg_only {
            endpoints.http = None;
        }
        if endpoints == Endpoints::default() {
            let only = if self.dmsg_only { " over DMSG" } else { "" };
            return Err(Failure::usage(format!(
                "a route finder needs a transport discovery{only}: give --transport-discovery URL, or a \
                 --deployment that has one"
            )));
        }
        Ok(Some(endpoints))
    }

    /// Refuses options that the service has no use for.
    fn check_options(&self) -> Result<(), Failure> {
        use ServiceName as N;
        let (tpd, sd, ar, ut) =
            (N::TransportDiscovery, N::ServiceDiscovery, N::AddressResolver, N::UptimeTracker);
        for (is_given, option, services) in [
            (self.entry_timeout.is_some(), "--entry-timeout", &[tpd, sd, ar][..]),
            (self.geo.is_some(), "--geo", &[sd, ut]),
            (self.allow_private, "--allow-private", &[sd, ar]),
            (self.store.is_some(), "--store", &[tpd, sd, ar, ut]),
        ] {
            if is_given && !services.contains(&self.name) {
                return Err(Failure::usage(format!("{option} does nothing for this service")));
            }
        }
        Ok(())
    }

    fn config(&self, key: Option<PublicKey>) -> Result<HostConfig, Failure> {
        self.check_options()?;
        let mut config = HostConfig::new(self.name.kind());
        config.dmsg_key = key;
        config.monitors.clone_from(&self.monitor);
        config.allow_private = self.allow_private;
        config.quirks = quirks(&self.quirk);
        if let Some(path) = &self.geo {
            let table =
                file::read_existing(path, TABLE_BYTES_MAX).map_err(|error| error.to_string());
            config.geo = table.and_then(|text| GeoTable::parse(&text)).map_err(|error| {
                Failure::new(Exit::Read, format!("--geo: {}: {error}", path.display()))
            })?;
        }
        if let Some(time) = self.entry_timeout {
            let time = seconds("--entry-timeout", time)?;
            config.entry_ttl = (!time.is_zero()).then_some(time);
        }
        Ok(config)
    }

    async fn bind(&self) -> Result<Option<TcpListener>, Failure> {
        if self.dmsg_only {
            return Ok(None);
        }
        let address = self.listen.unwrap_or_else(|| ([0, 0, 0, 0], self.name.port()).into());
        TcpListener::bind(address).await.map(Some).map_err(|error| {
            Failure::new(Exit::Other, format!("cannot listen on {address}: {error}"))
        })
    }

    async fn bind_udp(&self) -> Result<Option<UdpSocket>, Failure> {
        let Some(address) = self.udp else { return Ok(None) };
        if self.name != ServiceName::AddressResolver {
            return Err(Failure::usage("--udp is for an address resolver"));
        }
        UdpSocket::bind(address).await.map(Some).map_err(|error| {
            Failure::new(Exit::Other, format!("cannot listen on UDP {address}: {error}"))
        })
    }

    /// A client with a session to every server, since nobody knows through which one a caller comes.
    fn overlay(&self, key: SecretKey, deployment: Option<&Services>) -> Result<Overlay, Failure> {
        let mut config = match deployment {
            Some(services) => {
                let mut discovery = services.endpoints(ServiceKind::DmsgDiscovery);
                if self.dmsg_only {
                    discovery.http = None;
                }
                OverlayConfig::deployed(key, services.server_records(), discovery)
            }
            None => {
                let is_http =
                    self.discovery.as_deref().is_some_and(|url| !url.starts_with("dmsg://"));
                if self.dmsg_only && is_http {
                    return Err(Failure::usage(
                        "--dmsg-only: --discovery must be a dmsg:// address",
                    ));
                }
                let flags = ClientFlags {
                    identity: self.identity.clone(),
                    discovery: self.discovery.clone(),
                    server: self.server.clone(),
                    server_choice: ServerChoiceFlag::Strict,
                    sessions: 0,
                    driver: self.driver,
                };
                flags.overlay(key)?
            }
        };
        if config.servers.is_empty() && config.discovery.http.is_none() {
            return Err(Failure::usage(
                "no way into the network: no relay server is known, and no discovery over HTTP that \
                 would name some",
            ));
        }
        config.client.min_sessions = 0;
        config.client.update_interval = UPDATE_INTERVAL;
        config.client.driver = self.driver.into();
        if self.dmsg_only {
            config.access.policy = AccessPolicy::DmsgOnly;
        }
        Overlay::start(config).map_err(|error| Failure::new(Exit::Other, error.to_string()))
    }

    fn transport_client(
        &self,
        endpoints: &Endpoints,
        key: SecretKey,
        overlay: Option<&Overlay>,
    ) -> TransportDiscoveryClient {
        let policy = match (&endpoints.http, &endpoints.dmsg) {
            (None, _) => AccessPolicy::DmsgOnly,
            (_, None) => AccessPolicy::HttpOnly,
            _ => AccessPolicy::DmsgFirst,
        };
        let none = Overlay::unavailable("this service is not on DMSG");
        let overlay = overlay.unwrap_or(&none);
        let config = AccessConfig::with_policy(policy);
        let access = overlay.access(ServiceKind::TransportDiscovery, endpoints, config);
        TransportDiscoveryClient::new(Arc::new(access), key, CallOptions::default())
    }
}

/// A service, and what somebody has to keep going beside it.
pub(super) struct Built {
    pub(super) service: Arc<dyn Service>,
    /// If it is a route finder: that has to be told of the transports.
    pub(super) finder: Option<Arc<RouteFinder>>,
    /// If it is an address resolver: that may have a UDP side.
    pub(super) resolver: Option<Arc<AddressResolver>>,
}

/// The service of this name.
pub(super) fn build(
    name: ServiceName,
    config: HostConfig,
    database: &Database,
) -> Result<Built, Failure> {
    let (mut finder, mut resolver) = (None, None);
    let service: Result<Arc<dyn Service>, RecordsError> = match name {
        ServiceName::TransportDiscovery => {
            TransportDiscovery::new(config, database).map(|service| Arc::new(service) as _)
        }
        ServiceName::ServiceDiscovery => {
            ServiceDiscovery::new(config, database).map(|service| Arc::new(service) as _)
        }
        ServiceName::UptimeTracker => {
            UptimeTracker::new(config, database).map(|service| Arc::new(service) as _)
        }
        ServiceName::AddressResolver => AddressResolver::new(config, database)
            .map(|service| Arc::clone(resolver.insert(Arc::new(service))) as _),
        ServiceName::RouteFinder => {
            Ok(Arc::clone(finder.insert(Arc::new(RouteFinder::new(config)))) as _)
        }
    };
    let service = service.map_err(|error| Failure::new(Exit::Other, error.to_string()))?;
    Ok(Built { service, finder, resolver })
}

/// The records in a file, or in memory.
pub(super) fn open_database(path: Option<&std::path::Path>) -> Result<Database, Failure> {
    match path {
        None => Ok(Database::memory()),
        Some(path) => {
            Database::open(path).map_err(|error| Failure::new(Exit::Other, error.to_string()))
        }
    }
}

fn quirks(flags: &[QuirkFlag]) -> Quirks {
    let mut quirks = Quirks::default();
    for flag in flags {
        match flag {
            QuirkFlag::Only200Counts => quirks.counts_only_200 = true,
            QuirkFlag::NullLists => quirks.null_lists = true,
            QuirkFlag::GoStatuses => quirks.go_statuses = true,
            QuirkFlag::Plain429 => quirks.plain_429 = true,
            QuirkFlag::WrongNonce => quirks.wrong_nonce = true,
            QuirkFlag::TruncatedBodies => quirks.truncated_bodies = true,
            QuirkFlag::Late => quirks.delay = Some(Duration::from_secs(2)),
        }
    }
    quirks
}

/// Prints the DMSG address once others can find us; never ends but with an error.
async fn announce(overlay: Option<&Overlay>) -> Result<(), Failure> {
    if let Some(overlay) = overlay
        && let Some(client) = overlay.client()
    {
        client.ready().await?;
        let _ = overlay.published().wait_for(|published| *published).await;
        say(format!("dmsg://{}:{DEFAULT_PORT}", client.public_key()))?;
    }
    std::future::pending().await
}
