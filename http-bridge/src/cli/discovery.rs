//! `dmsg discovery`: the directory of a network, over TCP and, with a key, over DMSG (`discovery.md §4`).

use std::{
    io::{self, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body};
use bytes::Bytes;
use clap::Args;
use dmsg_engine::{
    client::{Client, ClientConfig, ServerRecord},
    driver::DriverKind,
    identity::{PublicKey, SecretKey},
};
use http::Request;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{
    exit::{Exit, Failure},
    flags::{DriverFlag, IdentityFlags, ServerFlag, record, seconds},
    service::open_database,
    stop_signal,
};
use crate::transport::{ExchangeFuture, HttpTransport, Limits, TransportError, receive_body};
use crate::{
    discovery::{
        ClientOptions, DiscoveryClient, DiscoveryConfig, DiscoveryService, HttpDirectory,
        UnixNanos,
        client::DirectoryOptions,
        router,
        store::{MemoryStore, RedbStore, RedisStore, Store, StoreLimits},
        system_clock,
    },
    http::{
        Accept,
        server::{ServeConfig, serve},
    },
    resolve::{Resolver, ServerChoice, StaticMap},
    services::uptime_tracker::{Ledger, summaries},
    url::DEFAULT_PORT,
};

/// How often the discovery looks for servers that it has no session with. It asks itself, so this costs nothing,
/// and until it has one, clients behind a new server cannot reach it over DMSG.
const SERVERS_INTERVAL: Duration = Duration::from_secs(1);

/// Clients of the clear-net side may sit behind one address.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 256;

#[derive(Debug, Args)]
pub(super) struct DiscoveryArgs {
    #[command(flatten)]
    identity: IdentityFlags,

    /// Where to listen for HTTP.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9090")]
    listen: SocketAddr,

    /// No HTTP: it is reached over DMSG only, for which it needs a key and the first servers.
    #[arg(long, requires = "server")]
    dmsg_only: bool,

    /// A relay server to be reached through before it has registered, <key>@<host>:<port>; may be
    /// repeated. Those that register are used too.
    #[arg(long, value_name = "KEY@ADDRESS")]
    server: Vec<ServerFlag>,

    /// File that keeps the entries over restarts; they are in memory only if not given.
    #[arg(long, value_name = "FILE")]
    store: Option<PathBuf>,

    /// Redis that keeps the entries, shared with other discoveries: redis://[user:password@]host:port[/db]
    /// or redis+unix:///path. Repeated: nodes of a Redis Cluster.
    #[arg(long, value_name = "URL", conflicts_with = "store", hide_env_values = true)]
    redis: Vec<String>,

    /// Let servers advertise loopback addresses; for tests.
    #[arg(long)]
    allow_loopback: bool,

    /// Take a DELETE over TCP that re-sends the stored entry, as Go clients do over plain HTTP. Anybody can look that
    /// entry up, so anybody can then delete anybody until the next refresh. Without this their entries expire.
    #[arg(long)]
    lax_delete: bool,

    /// Key of a network monitor, which may deregister anybody; may be repeated.
    #[arg(long, value_name = "KEY")]
    monitor: Vec<PublicKey>,

    /// Seconds for which a client's entry stays without a refresh, 0 for ever; an hour if not given.
    #[arg(long, value_name = "SECONDS")]
    entry_timeout: Option<f64>,

    /// Key of a server to label official; may be repeated.
    #[arg(long, value_name = "KEY")]
    official_servers: Vec<PublicKey>,

    /// What moves the bytes of the DMSG side.
    #[arg(long, value_enum, default_value_t)]
    driver: DriverFlag,
}

pub(super) async fn run(args: DiscoveryArgs) -> Result<(), Failure> {
    let key = if args.dmsg_only {
        Some(args.identity.required("a discovery over DMSG")?)
    } else {
        args.identity.given()?
    };
    let store = match &args.redis[..] {
        [] => open_store(args.store.as_deref())?,
        urls => open_redis(urls).await?,
    };
    let listener = match args.dmsg_only {
        true => None,
        false => Some(TcpListener::bind(args.listen).await.map_err(|error| {
            Failure::new(Exit::Other, format!("cannot listen on {}: {error}", args.listen))
        })?),
    };
    let mut config = DiscoveryConfig {
        test_mode: args.allow_loopback,
        lax_delete: args.lax_delete,
        official_servers: args.official_servers,
        monitors: args.monitor,
        dmsg_key: key.as_ref().map(SecretKey::public_key),
        ..DiscoveryConfig::default()
    };
    if let Some(time) = args.entry_timeout {
        let time = seconds("--entry-timeout", time)?;
        config.client_ttl = (!time.is_zero()).then_some(time);
    }
    let uptimes = open_uptimes(args.store.as_deref())?;
    let stop = stop_signal();
    let mut running = Running::start(config, store, uptimes, listener)?;
    if let Some(key) = key {
        let servers = args.server.iter().map(record).collect();
        running.serve_dmsg(key, servers, args.driver.into())?;
    }
    let mut lines = running.http.map(|at| format!("http://{at}\n")).unwrap_or_default();
    if let Some(client) = &running.client {
        lines.push_str(&format!("dmsg://{}:{DEFAULT_PORT}\n", client.public_key()));
    }
    match io::stdout().write_all(lines.as_bytes()).map_err(|error| Failure::stdout(&error)) {
        Err(failure) if failure.exit != Exit::Ok => return Err(failure),
        _ => {}
    }
    tracing::info!(listen = ?running.http, "discovery is up");
    stop.await;
    running.stop().await;
    Ok(())
}

/// The store in a file, or in memory.
pub(super) fn open_store(path: Option<&Path>) -> Result<Arc<dyn Store>, Failure> {
    let limits = StoreLimits::default();
    match path {
        None => Ok(Arc::new(MemoryStore::new(limits))),
        Some(path) => RedbStore::open(path, limits, UnixNanos::system())
            .map(|store| Arc::new(store) as Arc<dyn Store>)
            .map_err(|error| Failure::new(Exit::Other, error.to_string())),
    }
}

/// Which visors were seen and when, in a file beside the entries', or in memory; with Redis, each discovery has its own.
pub(super) fn open_uptimes(store: Option<&Path>) -> Result<Arc<Ledger>, Failure> {
    let beside = store.map(|path| {
        let mut name = path.as_os_str().to_owned();
        name.push(".uptimes");
        PathBuf::from(name)
    });
    let database = open_database(beside.as_deref())?;
    Ledger::open(&database, UnixNanos::system()).map(Arc::new).map_err(|error| other(&error))
}

/// The store in Redis. The addresses are not repeated in errors: they may hold a password.
async fn open_redis(urls: &[String]) -> Result<Arc<dyn Store>, Failure> {
    if !urls.iter().all(|url| RedisStore::is_address(url)) {
        return Err(Failure::usage(
            "--redis: no address of a Redis; write redis://[user:password@]host:port[/db] or redis+unix:///path",
        ));
    }
    match RedisStore::connect(urls, StoreLimits::default()).await {
        Ok(store) => Ok(Arc::new(store)),
        Err(error) => Err(Failure::new(Exit::Connect, format!("--redis: {error}"))),
    }
}

/// A discovery that runs. [`Running::stop`] ends it.
pub(super) struct Running {
    pub(super) store: Arc<dyn Store>,
    /// Where it listens for plain HTTP, if it does.
    pub(super) http: Option<SocketAddr>,
    /// The client on whose port 80 it is reached over DMSG.
    pub(super) client: Option<Client>,
    service: DiscoveryService,
    uptimes: Arc<Ledger>,
    tasks: Vec<JoinHandle<()>>,
    stop: CancellationToken,
    _maintenance: crate::discovery::service::Maintenance,
}

impl Running {
    /// Serves plain HTTP on `listener`, if there is one.
    pub(super) fn start(
        mut config: DiscoveryConfig,
        store: Arc<dyn Store>,
        uptimes: Arc<Ledger>,
        listener: Option<TcpListener>,
    ) -> Result<Self, Failure> {
        let seen = Arc::clone(&uptimes);
        config.seen = Some(Arc::new(move |key, now| seen.note(key, "", now)));
        let service = DiscoveryService::new(config, Arc::clone(&store));
        let http = listener.as_ref().map(TcpListener::local_addr).transpose();
        let http = http.map_err(|error| other(&error))?;
        let maintenance = service.spawn_maintenance();
        let (client, tasks, stop) = (None, Vec::new(), CancellationToken::new());
        let mut running =
            Self { store, http, client, service, uptimes, tasks, stop, _maintenance: maintenance };
        if let Some(listener) = listener {
            let config = ServeConfig {
                connections_per_key_max: CONNECTIONS_PER_ADDRESS_MAX,
                ..ServeConfig::default()
            };
            running.serve(listener, config);
        }
        Ok(running)
    }

    /// Serves over DMSG too, on port 80 of this key, through the servers that register and these.
    pub(super) fn serve_dmsg(
        &mut self,
        key: SecretKey,
        servers: Vec<ServerRecord>,
        driver: DriverKind,
    ) -> Result<(), Failure> {
        let client = self.start_client(key, servers, driver, false)?;
        let listener = client.listen(DEFAULT_PORT).map_err(|error| other(&error))?;
        self.serve(listener, ServeConfig::default());
        let shown = show_servers(client.clone(), self.service.clone());
        let stopped = self.stop.clone().cancelled_owned();
        self.tasks.push(tokio::spawn(async move {
            tokio::select! {
                () = stopped => {}
                () = shown => {}
            }
        }));
        self.client = Some(client);
        Ok(())
    }

    /// A client of this process that is listed in the discovery, with a session to every server.
    pub(super) fn listed_client(
        &self,
        key: SecretKey,
        driver: DriverKind,
    ) -> Result<Client, Failure> {
        self.start_client(key, Vec::new(), driver, true)
    }

    /// A client with a session to every server in our own store (`discovery.md §4.4`), and to `servers`. The discovery
    /// itself has no entry in itself.
    fn start_client(
        &self,
        key: SecretKey,
        servers: Vec<ServerRecord>,
        driver: DriverKind,
        publishes: bool,
    ) -> Result<Client, Failure> {
        let options = DirectoryOptions { all_servers: true, ..DirectoryOptions::default() };
        let directory = HttpDirectory::new(Arc::new(self.ask()), key.clone(), options);
        let map = Arc::new(StaticMap::new(servers));
        let directory = Resolver::layered(map, directory, ServerChoice::Merged, publishes);
        let config = ClientConfig {
            min_sessions: 0,
            driver,
            update_interval: SERVERS_INTERVAL,
            ..ClientConfig::new(key)
        };
        Client::start(config, Arc::new(directory)).map_err(|error| other(&error))
    }

    /// A client of the discovery's API that takes no socket.
    pub(super) fn ask(&self) -> DiscoveryClient {
        let transport = Arc::new(InProcess(router(self.service.clone())));
        DiscoveryClient::bound(transport, ClientOptions::default())
    }

    fn serve(&mut self, accept: impl Accept, config: ServeConfig) {
        let uptimes = summaries(Arc::clone(&self.uptimes), system_clock());
        let router = router(self.service.clone()).merge(uptimes);
        let stopped = self.stop.clone().cancelled_owned();
        self.tasks.push(tokio::spawn(serve(accept, router, config, Arc::default(), stopped)));
    }

    /// Waits until it is reached through this many servers.
    pub(super) async fn reachable(&self, servers: usize) {
        let Some(client) = &self.client else { return };
        let mut status = client.status();
        while client.sessions().len() < servers {
            // The status tells of most changes; the limit is for those it does not tell.
            let _ = tokio::time::timeout(Duration::from_millis(100), status.changed()).await;
        }
        note_servers(client, &self.service);
    }

    /// Lets running requests finish, and closes the sessions.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        if let Some(client) = &self.client {
            client.close().await;
        }
        for task in self.tasks {
            let _ = task.await;
        }
    }
}

fn other(error: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::Other, error.to_string())
}

/// Keeps the health page's list of servers true; never ends.
async fn show_servers(client: Client, service: DiscoveryService) {
    let mut ticks = tokio::time::interval(SERVERS_INTERVAL);
    loop {
        ticks.tick().await;
        note_servers(&client, &service);
    }
}

fn note_servers(client: &Client, service: &DiscoveryService) {
    service.set_dmsg_servers(client.sessions().iter().map(|session| session.server).collect());
}

/// Requests to a router of this process.
pub(super) struct InProcess(pub(super) Router);

impl HttpTransport for InProcess {
    fn exchange(&self, request: Request<Bytes>, limits: Limits) -> ExchangeFuture<'_> {
        let answer = self.0.clone().oneshot(request.map(Body::from));
        Box::pin(async move {
            let Ok(answer) = tokio::time::timeout(limits.timeout, answer)
                .await
                .map_err(|_| TransportError::Timeout(limits.timeout))?;
            let (head, body) = answer.into_parts();
            let body = receive_body(body, limits.body_max_bytes).await?;
            Ok(http::Response::from_parts(head, body))
        })
    }
}
