//! `dmsg server`: a relay server, listed in a discovery if one is given.

mod admin;
mod listing;
mod watchdog;

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use dmsg_engine::server::{Server, ServerConfig};

use self::{admin::Admin, listing::DiscoveryAddress, watchdog::Watchdog};
use super::{
    exit::{Exit, Failure},
    flags::{CpuList, DriverFlag, IdentityFlags, ServerFlag},
    hints, stop_signal,
};
use crate::{
    discovery::{DiscoveryClient, ServerRegistration, client::RegistrationConfig},
    url::check_host_port,
};

/// Withdrawing the entry at the end may take this long, so that all is over within 2 s.
const WITHDRAW_TIMEOUT: Duration = Duration::from_millis(1500);

/// Open files that no session has: connections in their handshake, listeners, threads, the log.
const FILES_BESIDE_SESSIONS: u64 = 256;

/// How often the advertised capacity is compared with the true one.
const CAPACITY_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct ServerArgs {
    #[command(flatten)]
    identity: IdentityFlags,

    /// Where to listen.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,

    /// host:port under which clients reach this server; the listener's address if not given.
    #[arg(long, value_name = "HOST:PORT", value_parser = host_and_port)]
    public_address: Option<String>,

    /// Address of the discovery that shall list this server, http:// or dmsg://. The latter is reached
    /// through this very server, once the discovery is connected to it, and through those of --server.
    #[arg(long, value_name = "URL")]
    discovery: Option<String>,

    /// Another relay server through which a discovery at dmsg:// may be reached, <key>@<host>:<port>;
    /// may be repeated.
    #[arg(long, value_name = "KEY@ADDRESS")]
    server: Vec<ServerFlag>,

    /// Sessions to advertise.
    #[arg(long, value_name = "COUNT", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..))]
    sessions_max: u32,

    /// Worker threads.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,

    /// CPUs to pin the worker threads to, one after the other, such as 0,2-3; for machines that do nothing else.
    #[arg(long, value_name = "LIST")]
    cpus: Option<CpuList>,

    /// What moves the bytes.
    #[arg(long, value_enum, default_value_t)]
    driver: DriverFlag,

    /// Streams that one client may have open at once.
    #[arg(long, value_name = "COUNT", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    streams_per_client: u32,

    /// Memory for what waits for slow receivers, in MiB; beyond it the heaviest streams are reset.
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pending_max: u32,

    /// Where to serve /health, /metrics, /clients and /debug, such as 127.0.0.1:9091; nowhere if not given.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,

    /// File with a token that whoever asks for /clients or /debug has to present. Without it they are told on loopback only.
    #[arg(long, value_name = "FILE", requires = "admin")]
    admin_token_file: Option<PathBuf>,
}

pub(super) async fn run(args: ServerArgs) -> Result<(), Failure> {
    // What can be wrong is found before anything is up and told to anybody.
    let key = args.identity.required("a server")?;
    let discovery = args.discovery.as_deref().map(DiscoveryAddress::parse).transpose()?;
    if discovery.is_some() && args.public_address.is_none() && args.listen.ip().is_unspecified() {
        return Err(Failure::usage(format!(
            "--listen {} means every address of this machine, which the discovery cannot list: say \
             with --public-address HOST:PORT how clients reach this server, or --listen on one address",
            args.listen
        )));
    }
    let admin = match args.admin {
        Some(address) => Some(Admin::bind(address, args.admin_token_file.as_deref()).await?),
        None => None,
    };
    let (newcomers, heard) = hints::channel();
    let mut config = ServerConfig::new(key.clone(), args.listen);
    config.threads = args.threads;
    config.cpus = args.cpus.map(|list| list.0).unwrap_or_default();
    config.driver = args.driver.into();
    config.sessions_max = args.sessions_max as usize;
    config.limits.streams_per_session_max = args.streams_per_client as usize;
    config.limits.process_pending_bytes_max = u64::from(args.pending_max) << 20;
    config.newcomers = discovery.is_some().then_some(newcomers);
    let stop = stop_signal();
    let server = Server::start(config).map_err(|error| {
        Failure::new(Exit::Other, format!("cannot serve on {}: {error}", args.listen))
    })?;
    warn_of_few_files(args.sessions_max);
    let address = args.public_address.unwrap_or_else(|| reachable(server.local_addr()).to_string());
    println_server(&server, &address)?;
    let server = Arc::new(server);
    let watchdog = Watchdog::start(&server);
    if let Some(admin) = admin {
        admin.serve(&server, watchdog);
    }
    let discovery = discovery.map(|at| at.connect(&server, &args.server)).transpose()?;
    let (discovery, overlay) =
        discovery.map_or((None, None), |(client, overlay)| (Some(Arc::new(client)), overlay));
    let hints = discovery.as_ref().map(|discovery| {
        let discovery = Arc::clone(discovery);
        hints::spawn(heard, Arc::downgrade(&server), move |key| {
            let discovery = Arc::clone(&discovery);
            async move { hints::of_discovery(&discovery, key).await }
        })
    });
    let registration = discovery.map(|discovery| {
        let config = RegistrationConfig::new(key, address);
        register(discovery, config, &server)
    });
    let has_failed = tokio::select! {
        () = stop => false,
        () = follow_capacity(&server, registration.as_ref()) => true,
    };
    if let Some(registration) = registration {
        registration.close().await;
    }
    if let Some(overlay) = overlay {
        overlay.close().await;
    }
    drop(hints);
    // The admin page and the hints hold it weakly, so this is the last handle unless one of them answers right now.
    if let Some(server) = Arc::into_inner(server) {
        tokio::task::block_in_place(|| server.shutdown());
    }
    if has_failed {
        let what = "a worker thread of the server has failed (the log says why): start it again";
        return Err(Failure::new(Exit::Other, what.to_owned()));
    }
    Ok(())
}

/// Sessions are open files: says so when there are not enough for what is advertised.
fn warn_of_few_files(sessions_max: u32) {
    let Some(files) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current else {
        return;
    };
    if files < u64::from(sessions_max) + FILES_BESIDE_SESSIONS {
        tracing::warn!(
            "the open-files limit (ulimit -n) of {files} is too small for the {sessions_max} sessions that are advertised: \
             raise it, or lower --sessions-max"
        );
    }
}

/// A host and a port for others to connect to.
fn host_and_port(text: &str) -> Result<String, String> {
    check_host_port(text).map(|()| text.to_owned())
}

/// Where a client on this machine finds a listener on this address, told to somebody who may be elsewhere.
fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        tracing::info!("the address below is for this machine; others need --public-address");
    }
    on_this_machine(address)
}

/// Where a client on this machine finds a listener on this address.
fn on_this_machine(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// What others put behind `--server`.
fn println_server(server: &Server, address: &str) -> Result<(), Failure> {
    use std::io::Write;
    writeln!(std::io::stdout(), "{}@{address}", server.public_key()).or_else(|error| {
        match Failure::stdout(&error) {
            Failure { exit: Exit::Ok, .. } => Ok(()),
            failure => Err(failure),
        }
    })
}

fn register(
    discovery: Arc<DiscoveryClient>,
    mut config: RegistrationConfig,
    server: &Server,
) -> ServerRegistration {
    config.close_timeout = WITHDRAW_TIMEOUT;
    ServerRegistration::start(discovery, config, available(server))
}

fn available(server: &Server) -> u32 {
    u32::try_from(server.available_sessions()).unwrap_or(u32::MAX)
}

/// Keeps the advertised capacity true; ends when the server has failed.
pub(super) async fn follow_capacity(server: &Server, registration: Option<&ServerRegistration>) {
    let mut ticks = tokio::time::interval(CAPACITY_INTERVAL);
    loop {
        ticks.tick().await;
        if let Some(registration) = registration {
            registration.set_available_sessions(available(server));
        }
        if server.has_failed() {
            return;
        }
    }
}
