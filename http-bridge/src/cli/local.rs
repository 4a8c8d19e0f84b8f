//! `dmsg local`: a whole deployment in one process on loopback.
//!
//! ```text
//!   discovery ── HTTP on loopback, and DMSG port 80
//!   relay 1, relay 2 ── registered with it
//!   web ── a client whose port 80 shows the deployment's state; the same page on loopback for a browser
//! ```

mod state;

use std::{
    fs, io,
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use dmsg_engine::{
    client::{Client, ClientConfig},
    driver::DriverKind,
    identity::{PublicKey, SecretKey},
    server::{Server, ServerConfig},
};
use futures_util::future::join_all;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    discovery::{self, Running},
    exit::{Exit, Failure},
    flags::{DriverFlag, fresh_key, read_key},
    hints::{self, Hints},
    invocation,
    key::write_key,
    server::follow_capacity,
    stop_signal,
};
use crate::transport::TcpTransport;
use crate::{
    discovery::{
        ClientOptions, DiscoveryClient, DiscoveryConfig, HttpDirectory, ServerRegistration,
        client::{DirectoryOptions, RegistrationConfig, RegistrationStatus},
        store::Store,
    },
    http::server::{ServeConfig, ServeStats, serve},
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

    /// What moves the bytes.
    #[arg(long, value_enum, default_value_t)]
    driver: DriverFlag,
}

pub(super) async fn run(args: LocalArgs) -> Result<(), Failure> {
    if let Some(folder) = &args.dir {
        fs::create_dir_all(folder)
            .map_err(|error| Failure::new(Exit::Write, format!("{}: {error}", folder.display())))?;
    }
    let deployment = tokio::select! {
        deployment = Deployment::start(&args) => deployment?,
        () = stop_signal() => return Ok(()),
    };
    let hints = deployment.hints();
    match io::stdout().write_all(hints.as_bytes()).map_err(|error| Failure::stdout(&error)) {
        Err(failure) if failure.exit != Exit::Ok => return Err(failure),
        _ => {}
    }
    stop_signal().await;
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
    web: Client,
    page: SocketAddr,
    /// Where the discovery speaks HTTP.
    discovery_url: String,
    servers: Vec<tokio::task::JoinHandle<()>>,
    stop: CancellationToken,
}

impl Deployment {
    async fn start(args: &LocalArgs) -> Result<Self, Failure> {
        let folder = args.dir.as_deref();
        let driver = DriverKind::from(args.driver);
        let discovery_key = keep_key(folder, "discovery")?;
        let mut discovery =
            start_discovery(folder, args.discovery_port, discovery_key.public_key()).await?;
        let address = discovery.http.expect("it was started with a listener");
        let url = format!("http://{address}");
        let mut relays = Vec::new();
        for number in 1..=RELAY_COUNT {
            let store = Arc::clone(&discovery.store);
            let relay = Relay::start(folder, number, &url, store, driver)?;
            relay.registered().await?;
            relays.push(relay);
        }
        // Clients come after the relays they are to find, so that none has to look twice.
        discovery.serve_dmsg(discovery_key, Vec::new(), driver)?;
        let listener = listen(args.port, PAGE_PORT).await?;
        let page = listener.local_addr().map_err(|error| other(&error))?;
        let web = start_web(folder, &url, driver)?;
        let dmsg_listener = web.listen(DEFAULT_PORT).map_err(|error| other(&error))?;
        let stats = Arc::new(ServeStats::default());
        let router = state::router(state::Sources {
            relays: relays.iter().map(|relay| Arc::clone(&relay.server)).collect(),
            store: Arc::clone(&discovery.store),
            discovery_address: address,
            discovery_client: discovery.client.clone(),
            web: web.clone(),
            requests: Arc::clone(&stats),
            program: invocation::program(),
        });
        let stop = CancellationToken::new();
        let config = ServeConfig::default;
        let stopped = || stop.clone().cancelled_owned();
        let servers = vec![
            tokio::spawn(serve(listener, router.clone(), config(), Arc::clone(&stats), stopped())),
            tokio::spawn(serve(dmsg_listener, router, config(), stats, stopped())),
        ];
        let deployment = Self { discovery, relays, web, page, discovery_url: url, servers, stop };
        deployment.ready().await?;
        Ok(deployment)
    }

    /// Waits until a client that starts now finds everything.
    async fn ready(&self) -> Result<(), Failure> {
        let all = async {
            self.web.ready().await?;
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
    fn hints(&self) -> String {
        let web = self.web.public_key();
        let discovery = &self.discovery_url;
        let over_dmsg = self
            .discovery
            .client
            .as_ref()
            .map(|client| format!("dmsg://{}:{DEFAULT_PORT}", client.public_key()));
        let relay = self
            .relays
            .first()
            .map(|relay| format!("{}@{}", relay.server.public_key(), relay.server.local_addr()));
        let (over_dmsg, relay) = (over_dmsg.unwrap_or_default(), relay.unwrap_or_default());
        format!(
            "A DMSG network runs on this machine until you press Ctrl-C.\n\n\
             Its live state, in a browser:\n  http://{page}/\n\n\
             The same page through a relay:\n  \
             {dmsg} curl --discovery {discovery} dmsg://{web}/\n\n\
             Offer a folder (prints its dmsg:// address):\n  \
             {dmsg} serve --discovery {discovery} --dir .\n\n\
             Offer a local HTTP service:\n  \
             {dmsg} serve --discovery {discovery} --to http://127.0.0.1:3000\n\n\
             Without plain HTTP at all, the discovery itself reached through a relay:\n  \
             {dmsg} curl --discovery {over_dmsg} --server {relay} dmsg://{web}/\n",
            page = self.page,
            dmsg = invocation::program(),
        )
    }

    /// Everything at once, within 2 s.
    async fn stop(self) {
        self.stop.cancel();
        self.web.close().await;
        let (servers, withdrawals): (Vec<_>, Vec<_>) =
            self.relays.into_iter().map(Relay::stop).unzip();
        join_all(withdrawals).await;
        self.discovery.stop().await;
        for server in self.servers {
            let _ = server.await;
        }
        drop(self.web);
        tokio::task::block_in_place(|| drop(servers));
    }
}

impl Relay {
    fn start(
        folder: Option<&Path>,
        number: usize,
        discovery: &str,
        store: Arc<dyn Store>,
        driver: DriverKind,
    ) -> Result<Self, Failure> {
        let key = keep_key(folder, &format!("relay-{number}"))?;
        let (newcomers, heard) = hints::channel();
        let mut config = ServerConfig::new(key.clone(), (Ipv4Addr::LOCALHOST, 0).into());
        config.driver = driver;
        config.newcomers = Some(newcomers);
        let server = Arc::new(Server::start(config).map_err(|error| other(&error))?);
        let client = DiscoveryClient::new(
            discovery,
            Arc::new(TcpTransport::new()),
            ClientOptions::default(),
        )
        .map_err(|error| other(&error))?;
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

async fn start_discovery(
    folder: Option<&Path>,
    port: Option<u16>,
    key: PublicKey,
) -> Result<Running, Failure> {
    let store = discovery::open_store(folder.map(|f| f.join("discovery.redb")).as_deref())?;
    let config =
        DiscoveryConfig { test_mode: true, dmsg_key: Some(key), ..DiscoveryConfig::default() };
    Running::start(config, store, Some(listen(port, DISCOVERY_PORT).await?))
}

fn start_web(
    folder: Option<&Path>,
    discovery: &str,
    driver: DriverKind,
) -> Result<Client, Failure> {
    let key = keep_key(folder, "web")?;
    let client =
        DiscoveryClient::new(discovery, Arc::new(TcpTransport::new()), ClientOptions::default())
            .map_err(|error| other(&error))?;
    let options = DirectoryOptions { all_servers: true, ..DirectoryOptions::default() };
    let directory = HttpDirectory::new(Arc::new(client), key.clone(), options);
    let config = ClientConfig { min_sessions: 0, driver, ..ClientConfig::new(key) };
    Client::start(config, Arc::new(directory)).map_err(|error| other(&error))
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
