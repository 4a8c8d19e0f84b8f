//! A service that runs: its listeners, its maintenance, and what its health page has to know.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use dmsg_engine::client::Client;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::exit::{Exit, Failure};
use crate::{
    discovery::UnixNanos,
    http::{
        Accept,
        server::{ServeConfig, ServeStats, serve},
    },
    services::host::Service,
    url::DEFAULT_PORT,
};

/// How often expired records are removed and the list of servers on the health page is made true.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(1);

/// Clients of the clear-net side may sit behind one address.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 256;

/// A service with its listeners. [`Hosted::stop`] ends it.
pub(super) struct Hosted {
    router: Router,
    stats: Arc<ServeStats>,
    /// Where it listens for plain HTTP, if it does.
    pub(super) http: Option<SocketAddr>,
    /// The client on whose port 80 it is reached over DMSG.
    pub(super) client: Option<Client>,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Hosted {
    /// Serves plain HTTP on `listener` and DMSG on port 80 of `client`, as far as these are given.
    pub(super) fn start(
        router: Router,
        listener: Option<TcpListener>,
        client: Option<Client>,
    ) -> Result<Self, Failure> {
        Self::counted(router, Arc::default(), listener, client)
    }

    /// The same, with counters that somebody else reads.
    pub(super) fn counted(
        router: Router,
        stats: Arc<ServeStats>,
        listener: Option<TcpListener>,
        client: Option<Client>,
    ) -> Result<Self, Failure> {
        let http = listener.as_ref().map(TcpListener::local_addr).transpose();
        let http = http.map_err(|error| other(&error))?;
        let (tasks, stop) = (JoinSet::new(), CancellationToken::new());
        let mut hosted = Self { router, stats, http, client, tasks, stop };
        if let Some(listener) = listener {
            let config = ServeConfig {
                connections_per_key_max: CONNECTIONS_PER_ADDRESS_MAX,
                ..ServeConfig::default()
            };
            hosted.serve(listener, config);
        }
        if let Some(client) = &hosted.client {
            let listener = client.listen(DEFAULT_PORT).map_err(|error| other(&error))?;
            hosted.serve(listener, ServeConfig::default());
        }
        Ok(hosted)
    }

    /// Keeps the service tidy, and its health page true.
    pub(super) fn maintain(&mut self, service: Arc<dyn Service>) {
        self.run(maintain(service, self.client.clone()));
    }

    fn serve(&mut self, accept: impl Accept, config: ServeConfig) {
        let (router, stats, stop) =
            (self.router.clone(), Arc::clone(&self.stats), self.stop.clone());
        self.tasks.spawn(async move {
            serve(accept, router, config, stats, stop.cancelled_owned()).await;
        });
    }

    /// Runs something as long as the service.
    pub(super) fn run(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        let stopped = self.stop.clone().cancelled_owned();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stopped => {}
                () = work => {}
            }
        });
    }

    /// Lets running requests finish; what was acknowledged is on disk. The client is its owner's to close.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.tasks.join_all().await;
    }
}

/// Keeps the service tidy; never ends.
async fn maintain(service: Arc<dyn Service>, client: Option<Client>) {
    let mut ticks = tokio::time::interval(MAINTENANCE_INTERVAL);
    loop {
        ticks.tick().await;
        if let Some(client) = &client {
            let servers = client.sessions().iter().map(|session| session.server).collect();
            service.host().set_dmsg_servers(servers);
        }
        let service = Arc::clone(&service);
        let _ = tokio::task::spawn_blocking(move || service.expire(UnixNanos::system())).await;
    }
}

fn other(error: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::Other, error.to_string())
}
