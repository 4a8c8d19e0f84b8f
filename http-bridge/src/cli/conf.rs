//! `dmsg conf`: the config bootstrapper, over DMSG and over HTTP (`deployment-config.md §4`).
//!
//! ```text
//!   document + --lists ─▶ Bootstrapper ◀─ servers ─ discovery, at the start and every 5 min
//!    (read again when       │      └─ last good list kept in --dir
//!     a file changes)       │
//!                           ├─ DMSG port 80, through every server
//!                           └─ HTTP, unless --dmsg-only
//! ```

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use clap::Args;
use dmsg_engine::{client::ServerRecord, identity::SecretKey};
use tokio::net::TcpListener;

use super::{
    deployment::DeploymentFlags,
    exit::{Exit, Failure, say},
    flags::{DriverFlag, IdentityFlags},
    hosting::Hosted,
    stop_signal,
};
use crate::{
    access::AccessPolicy,
    deployment::{
        DOCUMENT_BYTES_MAX, Services,
        bootstrapper::Bootstrapper,
        file,
        refresh::{ServerCache, follow_servers},
    },
    discovery::{ClientOptions, DiscoveryClient},
    overlay::{Overlay, OverlayConfig},
    service::{Endpoints, ServiceKind},
    transport::TcpTransport,
    url::DEFAULT_PORT,
};

/// How often the client looks for servers that it has no session with, so that it is reached through all of them.
const UPDATE_INTERVAL: Duration = Duration::from_secs(60);

/// How often the files are looked at: an operator's change is handed out within this.
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(super) struct ConfArgs {
    #[command(flatten)]
    identity: IdentityFlags,

    #[command(flatten)]
    deployment: DeploymentFlags,

    /// File with lists that replace the document's: stun_servers, route_setup_nodes, survey_whitelist,
    /// transport_setup.
    #[arg(long, value_name = "FILE")]
    lists: Option<PathBuf>,

    /// Where to listen for HTTP.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9082")]
    listen: SocketAddr,

    /// No HTTP at all: serve over DMSG, and ask the discovery over DMSG.
    #[arg(long)]
    dmsg_only: bool,

    /// Folder that keeps the last good list of servers over restarts; made if missing.
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,

    /// What moves the bytes of the DMSG side.
    #[arg(long, value_enum, default_value_t)]
    driver: DriverFlag,
}

pub(super) async fn run(args: ConfArgs) -> Result<(), Failure> {
    // What can be wrong is found before anything is up.
    let key = if args.dmsg_only {
        Some(args.identity.required("a bootstrapper over DMSG")?)
    } else {
        args.identity.given()?
    };
    let seen = args.stamps();
    let mut services = args.deployment.services()?;
    override_lists(&mut services, &args)?;
    let place = services.endpoints(ServiceKind::DmsgDiscovery);
    let cache = args.dir.as_deref().and_then(|folder| ServerCache::new(folder, &place));
    let listener = if args.dmsg_only { None } else { Some(listen(args.listen).await?) };
    let public_key = key.as_ref().map(SecretKey::public_key);
    let kept = cache.as_ref().map(ServerCache::read).unwrap_or_default();
    let overlay = key.map(|key| start(key, &services, kept, &args)).transpose()?;
    let configured = services.server_records();
    let bootstrapper = Bootstrapper::new(services, public_key);
    if let Some(cache) = &cache {
        bootstrapper.begin_with_servers(&cache.over(configured));
    }
    let discovery = discovery_client(&bootstrapper.services(), overlay.as_ref())?;
    let client = overlay.as_ref().and_then(Overlay::client).cloned();
    let stop = stop_signal();
    let mut hosted = Hosted::start(bootstrapper.router(), listener, client)?;
    if let Some(address) = hosted.http {
        say(format!("http://{address}"))?;
    }
    hosted.run(reload(args, seen, bootstrapper.clone()));
    if let Some(discovery) = discovery {
        hosted.run(async move {
            let take = |servers| keep(bootstrapper.clone(), cache.clone(), place.clone(), servers);
            follow_servers(discovery, take).await;
        });
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

fn override_lists(services: &mut Services, args: &ConfArgs) -> Result<(), Failure> {
    let Some(path) = &args.lists else { return Ok(()) };
    let name = path.display().to_string();
    let text = file::read_existing(path, DOCUMENT_BYTES_MAX)
        .map_err(|error| Failure::new(Exit::Read, format!("{name}: {error}")))?;
    services
        .override_lists(&text)
        .map(drop)
        .map_err(|problems| Failure::usage(problems.in_file(&name)))
}

/// Length and time of change of a file, if there is one.
type Stamp = Option<(u64, SystemTime)>;

/// Reads the files again when one of them has changed, and hands out what they say; never ends. What is wrong with them is
/// logged, and what was handed out stays. `seen` is how the files were before they were read first.
async fn reload(args: ConfArgs, mut seen: Vec<Stamp>, bootstrapper: Bootstrapper) {
    let mut looks = tokio::time::interval(RELOAD_INTERVAL);
    loop {
        looks.tick().await;
        let stamps = args.stamps();
        if stamps == seen {
            continue;
        }
        seen = stamps;
        let read = args.deployment.services().and_then(|mut services| {
            override_lists(&mut services, &args)?;
            Ok(services)
        });
        match read {
            Ok(services) => {
                bootstrapper.replace(services);
                tracing::info!("the deployment was read again, and is handed out");
            }
            Err(failure) => {
                tracing::warn!("the deployment was not read again: {}", failure.message);
            }
        }
    }
}

impl ConfArgs {
    fn stamps(&self) -> Vec<Stamp> {
        let document = self.deployment.deployment.clone();
        let document = document.or_else(|| std::env::var_os("SKYDEPLOY").map(PathBuf::from));
        let files = [document.as_ref(), self.lists.as_ref()];
        let stamp = |path: Option<&PathBuf>| {
            let file = std::fs::metadata(path?).ok()?;
            Some((file.len(), file.modified().ok()?))
        };
        files.map(stamp).into()
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address)
        .await
        .map_err(|error| Failure::new(Exit::Other, format!("cannot listen on {address}: {error}")))
}

/// A client with a session to every server, since nobody knows through which one a newcomer asks.
fn start(
    key: SecretKey,
    services: &Services,
    kept: Vec<ServerRecord>,
    args: &ConfArgs,
) -> Result<Overlay, Failure> {
    let servers = services.server_records();
    let mut discovery = services.endpoints(ServiceKind::DmsgDiscovery);
    if args.dmsg_only {
        discovery.http = None;
    }
    if servers.is_empty() && kept.is_empty() && discovery.http.is_none() {
        return Err(Failure::usage(
            "no way into the network: the deployment lists no servers, and no discovery over HTTP \
             that would name some",
        ));
    }
    let mut config = OverlayConfig::deployed(key, servers, discovery);
    config.kept_servers = kept;
    config.client.min_sessions = 0;
    config.client.update_interval = UPDATE_INTERVAL;
    config.client.driver = args.driver.into();
    if args.dmsg_only {
        config.access.policy = AccessPolicy::DmsgOnly;
    }
    Overlay::start(config).map_err(|error| other(&error))
}

/// Whom to ask for the servers: over DMSG first, if we have that.
fn discovery_client(
    services: &Services,
    overlay: Option<&Overlay>,
) -> Result<Option<DiscoveryClient>, Failure> {
    let options = ClientOptions::default();
    if let Some(access) = overlay.and_then(Overlay::discovery) {
        return Ok(Some(DiscoveryClient::bound(Arc::new(access.clone()), options)));
    }
    let Some(uri) = services.endpoints(ServiceKind::DmsgDiscovery).http else {
        tracing::warn!("without a secret key a discovery over DMSG cannot be asked for servers");
        return Ok(None);
    };
    DiscoveryClient::new(&uri.to_string(), Arc::new(TcpTransport::new()), options)
        .map(Some)
        .map_err(|error| Failure::new(Exit::Url, error.to_string()))
}

/// Hands a list of the discovery out and keeps it, unless the document names another discovery by now.
async fn keep(
    bootstrapper: Bootstrapper,
    cache: Option<ServerCache>,
    discovery: Endpoints,
    servers: Vec<ServerRecord>,
) {
    if bootstrapper.services().endpoints(ServiceKind::DmsgDiscovery) != discovery {
        tracing::warn!("the deployment names another discovery now; restart to ask that one");
        return;
    }
    if !bootstrapper.set_servers(&servers) {
        return;
    }
    tracing::info!(servers = servers.len(), "the list of servers is new");
    if let Some(cache) = cache {
        let written = tokio::task::spawn_blocking(move || cache.write(&servers)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "the list of servers is not kept");
        }
    }
}

/// Prints the DMSG address once it can be reached; never ends but with an error.
async fn announce(overlay: Option<&Overlay>) -> Result<(), Failure> {
    if let Some(overlay) = overlay
        && let Some(client) = overlay.client()
    {
        client.ready().await?;
        say(format!("dmsg://{}:{DEFAULT_PORT}", client.public_key()))?;
    }
    std::future::pending().await
}

fn other(error: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::Other, error.to_string())
}
