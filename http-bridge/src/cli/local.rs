//! `dmsg local`: a whole deployment in one process on loopback.
//!
//! ```text
//!   discovery ── HTTP on loopback, and DMSG port 80
//!   relay 1, relay 2 ── registered with it
//!   transport discovery, service discovery, address resolver, route finder, uptime tracker,
//!   config bootstrapper ── HTTP on loopback, and DMSG port 80 of a key each
//!   web ── a client whose port 80 shows the deployment's state; the same page on loopback for a browser
//! ```
//!
//! The parts find each other within the process, so with `--dmsg-only` nothing listens but the relays.

mod services;
mod state;

use std::{
    fs, io,
    io::Write,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use dmsg_engine::{
    client::Client,
    driver::DriverKind,
    identity::{PublicKey, SecretKey},
    server::{Server, ServerConfig},
};
use futures_util::future::join_all;
use tokio::net::TcpListener;

use self::services::{LocalServices, Plan};
use super::{
    discovery::{self, Running},
    exit::{Exit, Failure},
    flags::{CpuList, DriverFlag, fresh_key, read_key},
    hints::{self, Hints},
    hosting::Hosted,
    invocation,
    key::write_key,
    server::follow_capacity,
    stop_signal,
};
use crate::{
    deployment::file::{self, Access},
    discovery::{
        DiscoveryConfig, ServerRegistration,
        client::{RegistrationConfig, RegistrationStatus},
    },
    service::ServiceKind,
    url::DEFAULT_PORT,
};

/// Where the page is, unless something else is there or `--port` says otherwise.
const PAGE_PORT: u16 = 8080;

/// Where the discovery is, likewise.
const DISCOVERY_PORT: u16 = 9090;

/// Relay servers of the deployment: two, so that there is something to choose from.
const RELAY_COUNT: usize = 2;

/// Withdrawing the relays' entries may take this long, so that all is over within 2 s.
const WITHDRAW_TIMEOUT: Duration = Duration::from_secs(1);

/// How often, and at what distance, a relay's port of the last time is tried.
const PORT_TRIES_MAX: u32 = 20;
const PORT_RETRY: Duration = Duration::from_millis(100);

/// How long the parts may take to find each other.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(super) struct LocalArgs {
    /// Folder that keeps keys and entries, so that addresses survive a restart; made if missing.
    /// Without it, everything is new at each start.
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,

    /// Loopback port of the page; 8080 if it is free, else any.
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,

    /// Loopback port of the discovery; 9090 if it is free, else any.
    #[arg(long, value_name = "PORT")]
    discovery_port: Option<u16>,

    /// No HTTP at all: everything is reached through the relays, this network's page too.
    #[arg(long, conflicts_with_all = ["port", "discovery_port"])]
    dmsg_only: bool,

    /// File to write the deployment document into, as visors and `dmsg config` read it.
    #[arg(long, value_name = "FILE")]
    deployment_out: Option<PathBuf>,

    /// CPUs to pin the relays to, one after the other, such as 0,2-3.
    #[arg(long, value_name = "LIST")]
    cpus: Option<CpuList>,

    /// What moves the bytes.
    #[arg(long, value_enum, default_value_t)]
    driver: DriverFlag,
}

pub(super) async fn run(args: LocalArgs) -> Result<(), Failure> {
    if let Some(folder) = &args.dir {
        fs::create_dir_all(folder)
            .map_err(|error| Failure::new(Exit::Write, format!("{}: {error}", folder.display())))?;
    }
    let mut stop = pin!(stop_signal());
    let deployment = tokio::select! {
        deployment = Deployment::start(&args) => deployment?,
        () = &mut stop => return Ok(()),
    };
    let hints = deployment.hints(args.deployment_out.as_deref());
    match io::stdout().write_all(hints.as_bytes()).map_err(|error| Failure::stdout(&error)) {
        Err(failure) if failure.exit != Exit::Ok => return Err(failure),
        _ => {}
    }
    stop.await;
    deployment.stop().await;
    Ok(())
}

/// A relay and its place in the discovery.
struct Relay {
    server: Arc<Server>,
    registration: Arc<ServerRegistration>,
    capacity: tokio::task::JoinHandle<()>,
    hints: Hints,
}

struct Deployment {
    discovery: Running,
    relays: Vec<Relay>,
    services: LocalServices,
    web: Hosted,
}

impl Deployment {
    async fn start(args: &LocalArgs) -> Result<Self, Failure> {
        let folder = args.dir.as_deref();
        let driver = DriverKind::from(args.driver);
        let discovery_key = keep_key(folder, "discovery")?;
        let mut discovery = start_discovery(args, discovery_key.public_key()).await?;
        let mut relays = Vec::new();
        for number in 1..=RELAY_COUNT {
            let cpu = args.cpus.iter().flat_map(|list| &list.0).cycle().nth(number - 1);
            let relay = Relay::start(folder, number, &discovery, driver, cpu.copied()).await?;
            relay.registered().await?;
            relays.push(relay);
        }
        // Clients come after the relays they are to find, so that none has to look twice.
        discovery.serve_dmsg(discovery_key, Vec::new(), driver)?;
        let plan = Plan {
            folder,
            discovery: &discovery,
            relays: relays.iter().map(|relay| Arc::clone(&relay.server)).collect(),
            driver,
            dmsg_only: args.dmsg_only,
        };
        let services = LocalServices::start(&plan).await?;
        let document = services.document(&plan);
        let web = discovery.listed_client(keep_key(folder, "web")?, driver)?;
        let requests = Arc::default();
        let router = state::router(state::Sources {
            relays: plan.relays,
            store: Arc::clone(&discovery.store),
            discovery_http: discovery.http,
            discovery_client: discovery.client.clone(),
            services: services.0.iter().map(state::Source::of).collect(),
            web: web.clone(),
            requests: Arc::clone(&requests),
            program: invocation::program(),
        });
        let listener = match args.dmsg_only {
            true => None,
            false => Some(listen(args.port, PAGE_PORT).await?),
        };
        let web = Hosted::counted(router, requests, listener, Some(web))?;
        let deployment = Self { discovery, relays, services, web };
        deployment.ready().await?;
        if let Some(path) = &args.deployment_out {
            write_document(path, &document)?;
        }
        Ok(deployment)
    }

    fn web_client(&self) -> &Client {
        self.web.client.as_ref().expect("it was started with one")
    }

    /// Waits until a client that starts now finds everything.
    async fn ready(&self) -> Result<(), Failure> {
        let all = async {
            self.web_client().ready().await?;
            self.services.ready().await?;
            // One session per relay, so that clients behind either can ask.
            self.discovery.reachable(RELAY_COUNT).await;
            Ok(())
        };
        tokio::time::timeout(READY_TIMEOUT, all).await.unwrap_or_else(|_| {
            let why = format!("the deployment was not ready within {READY_TIMEOUT:?}");
            Err(Failure::new(Exit::Timeout, why))
        })
    }

    /// Commands to copy.
    fn hints(&self, document: Option<&Path>) -> String {
        let (dmsg, web) = (invocation::program(), self.web_client().public_key());
        let over_dmsg = self.discovery.client.as_ref().map(dmsg_url).unwrap_or_default();
        let relay = self
            .relays
            .first()
            .map(|relay| format!("{}@{}", relay.server.public_key(), relay.server.local_addr()));
        let over_dmsg = format!("{over_dmsg} --server {}", relay.unwrap_or_default());
        let discovery = match self.discovery.http {
            Some(address) => format!("http://{address}"),
            None => over_dmsg.clone(),
        };
        let mut text = "A DMSG network runs on this machine until you press Ctrl-C.\n\n".to_owned();
        let mut add = |what: &str, command: String| {
            text.push_str(&format!("{what}:\n  {command}\n\n"));
        };
        if let Some(page) = self.web.http {
            add("Its live state, in a browser", format!("http://{page}/"));
        }
        let page = format!("{dmsg} curl --discovery {discovery} dmsg://{web}/");
        add("The same page through a relay", page);
        let serve = |what: &str| format!("{dmsg} serve --discovery {discovery} {what}");
        add("Offer a folder (prints its dmsg:// address)", serve("--dir ."));
        add("Offer a local HTTP service", serve("--to http://127.0.0.1:3000"));
        let proxy = format!("{dmsg} proxy --discovery {discovery}");
        add("Let browsers, curl and git in (a local HTTP and SOCKS5 proxy)", proxy);
        if self.discovery.http.is_some() {
            add(
                "Without plain HTTP at all, the discovery itself reached through a relay",
                format!("{dmsg} curl --discovery {over_dmsg} dmsg://{web}/"),
            );
        }
        for service in &self.services.0 {
            let Some(client) = &service.hosted.client else { continue };
            if service.kind == ServiceKind::ConfigBootstrapper {
                let url = format!("{}/", dmsg_url(client));
                add(
                    "The deployment, for visors",
                    format!("{dmsg} curl --discovery {over_dmsg} {url}"),
                );
            }
        }
        if let Some(path) = document {
            let check = format!("{dmsg} config check --probe --deployment {}", path.display());
            add("Every server and service of it, tried", check);
        }
        text.push_str("Its services:\n");
        for service in &self.services.0 {
            let http =
                service.hosted.http.map(|http| format!("http://{http} ")).unwrap_or_default();
            let dmsg = service.hosted.client.as_ref().map(dmsg_url).unwrap_or_default();
            text.push_str(&format!("  {:<20} {http}{dmsg}\n", service.kind.name()));
        }
        text
    }

    /// Everything at once, within 2 s.
    async fn stop(self) {
        let web = self.web_client().clone();
        tokio::join!(self.services.stop(), self.web.stop(), web.close());
        let (servers, withdrawals): (Vec<_>, Vec<_>) =
            self.relays.into_iter().map(Relay::stop).unzip();
        join_all(withdrawals).await;
        self.discovery.stop().await;
        drop(web);
        tokio::task::block_in_place(|| drop(servers));
    }
}

impl Relay {
    async fn start(
        folder: Option<&Path>,
        number: usize,
        discovery: &Running,
        driver: DriverKind,
        cpu: Option<usize>,
    ) -> Result<Self, Failure> {
        let key = keep_key(folder, &format!("relay-{number}"))?;
        let store = Arc::clone(&discovery.store);
        let (newcomers, heard) = hints::channel();
        let start = |port| {
            let mut config = ServerConfig::new(key.clone(), (Ipv4Addr::LOCALHOST, port).into());
            config.driver = driver;
            config.cpus = cpu.into_iter().collect();
            config.newcomers = Some(newcomers.clone());
            Server::start(config)
        };
        let kept = folder.map(|folder| folder.join(format!("relay-{number}.port")));
        let server = on_kept_port(kept.as_deref(), start).await?;
        let (server, client) = (Arc::new(server), discovery.ask());
        let config = RegistrationConfig {
            close_timeout: WITHDRAW_TIMEOUT,
            ..RegistrationConfig::new(key, server.local_addr().to_string())
        };
        let capacity = u32::try_from(server.available_sessions()).unwrap_or(u32::MAX);
        let registration = Arc::new(ServerRegistration::start(Arc::new(client), config, capacity));
        let (watched, told) = (Arc::clone(&server), Arc::clone(&registration));
        let capacity = tokio::spawn(async move { follow_capacity(&watched, Some(&*told)).await });
        let hints = hints::spawn(heard, Arc::downgrade(&server), move |key| {
            let store = Arc::clone(&store);
            async move { hints::of_store(&*store, key) }
        });
        Ok(Self { server, registration, capacity, hints })
    }

    /// Waits until the discovery lists it.
    async fn registered(&self) -> Result<(), Failure> {
        let mut status = self.registration.status();
        let listed = status.wait_for(|s| matches!(s, RegistrationStatus::Registered { .. }));
        match tokio::time::timeout(READY_TIMEOUT, listed).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Failure::new(Exit::Timeout, "the discovery did not list a relay in time")),
        }
    }

    /// The server, still running, and the withdrawal of its entry.
    fn stop(self) -> (Arc<Server>, impl Future<Output = ()>) {
        let Self { server, registration, capacity, hints } = self;
        drop(hints);
        capacity.abort();
        let withdrawal = async move {
            let _ = capacity.await;
            if let Some(registration) = Arc::into_inner(registration) {
                registration.close().await;
            }
        };
        (server, withdrawal)
    }
}

/// Starts a relay on the port that the file names, so that documents and clients from before a restart find it again. A
/// process that was killed may hold its port for a moment longer; if somebody else has it, any port is taken.
async fn on_kept_port(
    kept: Option<&Path>,
    start: impl Fn(u16) -> io::Result<Server>,
) -> Result<Server, Failure> {
    let last: Option<u16> =
        kept.and_then(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    let mut server = start(last.unwrap_or(0));
    for _ in 0..PORT_TRIES_MAX {
        if server.is_ok() || last.is_none() {
            break;
        }
        tokio::time::sleep(PORT_RETRY).await;
        server = start(last.unwrap_or(0));
    }
    let server = server.or_else(|_| start(0)).map_err(|error| other(&error))?;
    if let Some(path) = kept {
        let port = server.local_addr().port();
        fs::write(path, port.to_string())
            .map_err(|error| Failure::new(Exit::Write, format!("{}: {error}", path.display())))?;
        if last.is_some_and(|last| last != port) {
            tracing::warn!(port, "a relay's port of the last time is taken; its address is new");
        }
    }
    Ok(server)
}

async fn start_discovery(args: &LocalArgs, key: PublicKey) -> Result<Running, Failure> {
    let file = args.dir.as_ref().map(|folder| folder.join("discovery.redb"));
    let store = discovery::open_store(file.as_deref())?;
    let uptimes = discovery::open_uptimes(file.as_deref())?;
    let config =
        DiscoveryConfig { test_mode: true, dmsg_key: Some(key), ..DiscoveryConfig::default() };
    let listener = match args.dmsg_only {
        true => None,
        false => Some(listen(args.discovery_port, DISCOVERY_PORT).await?),
    };
    Running::start(config, store, uptimes, listener)
}

/// Replaces the file as a whole.
fn write_document(path: &Path, document: &crate::deployment::Services) -> Result<(), Failure> {
    file::replace(path, services::file_text(document).as_bytes(), Access::Shared)
        .map_err(|error| Failure::new(Exit::Write, format!("{}: {error}", path.display())))
}

fn dmsg_url(client: &Client) -> String {
    format!("dmsg://{}:{DEFAULT_PORT}", client.public_key())
}

/// The asked-for port, or else the usual one, or else any.
pub(super) async fn listen(asked: Option<u16>, usual: u16) -> Result<TcpListener, Failure> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let bound = match asked {
        Some(port) => bind(port).await,
        None => match bind(usual).await {
            Ok(listener) => Ok(listener),
            Err(_) => bind(0).await,
        },
    };
    bound.map_err(|error| {
        let port = asked.unwrap_or(usual);
        Failure::new(Exit::Other, format!("cannot listen on 127.0.0.1:{port}: {error}"))
    })
}

/// The key that the folder keeps under this name, made if it has none yet.
fn keep_key(folder: Option<&Path>, name: &str) -> Result<SecretKey, Failure> {
    let Some(folder) = folder else { return fresh_key() };
    let path = folder.join(format!("{name}.key"));
    if path.exists() {
        return read_key(&path);
    }
    let key = fresh_key()?;
    write_key(&path, &key)?;
    Ok(key)
}

fn other(error: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::Other, error.to_string())
}
