//! The other services of `dmsg local`, each with a key and a client of its own, and the document that names them all.

use std::{net::SocketAddr, path::Path, sync::Arc};

use axum::Router;
use dmsg_engine::{client::Client, driver::DriverKind, server::Server};
use futures_util::future::join_all;
use tokio::net::UdpSocket;

use super::{Running, keep_key, listen};
use crate::{
    cli::{
        discovery::InProcess,
        exit::{Exit, Failure},
        hosting::Hosted,
        service::{Built, ServiceName, build, open_database},
    },
    deployment::{
        DmsgServer, Document, Field, ServiceUrl, Services, Value, bootstrapper::Bootstrapper,
    },
    service::ServiceKind,
    services::{
        CallOptions,
        address_resolver::sudph::SUDPH_PORT,
        host::{HostConfig, Service, router},
        transport_discovery::TransportDiscoveryClient,
    },
    url::DEFAULT_PORT,
};

/// The usual port of the config bootstrapper.
const BOOTSTRAPPER_PORT: u16 = 9082;

/// A service of the deployment that runs.
pub(super) struct LocalService {
    pub(super) kind: ServiceKind,
    pub(super) hosted: Hosted,
    /// What it keeps; nothing for the bootstrapper.
    pub(super) service: Option<Arc<dyn Service>>,
}

impl LocalService {
    fn client(&self) -> &Client {
        self.hosted.client.as_ref().expect("each is started with one")
    }

    /// Waits until it can be reached over DMSG.
    async fn ready(&self) -> Result<(), Failure> {
        Ok(self.client().ready().await?)
    }

    async fn stop(self) {
        let client = self.client().clone();
        tokio::join!(self.hosted.stop(), client.close());
    }
}

/// All of them.
pub(super) struct LocalServices(pub(super) Vec<LocalService>);

/// What they are started with.
pub(super) struct Plan<'a> {
    pub(super) folder: Option<&'a Path>,
    pub(super) discovery: &'a Running,
    pub(super) relays: Vec<Arc<Server>>,
    pub(super) driver: DriverKind,
    pub(super) dmsg_only: bool,
}

impl LocalServices {
    /// Starts the five services, and then the bootstrapper, which hands out where they are.
    pub(super) async fn start(plan: &Plan<'_>) -> Result<Self, Failure> {
        let mut all = Self(Vec::new());
        let mut transports = None;
        for name in ServiceName::ALL {
            let kind = name.kind();
            let key = keep_key(plan.folder, kind.name())?;
            let mut config = HostConfig::new(kind);
            config.dmsg_key = Some(key.public_key());
            // Everybody here is on loopback.
            config.allow_private = true;
            // A route finder keeps nothing.
            let folder = plan.folder.filter(|_| name != ServiceName::RouteFinder);
            let file = folder.map(|folder| folder.join(format!("{kind}.redb")));
            let database = open_database(file.as_deref())?;
            let Built { service, finder, resolver } = build(name, config, &database)?;
            let router = router(Arc::clone(&service));
            if name == ServiceName::TransportDiscovery {
                transports = Some(router.clone());
            }
            let client = plan.discovery.listed_client(key.clone(), plan.driver)?;
            let mut hosted = plan.host(router, name.port(), client).await?;
            hosted.maintain(Arc::clone(&service));
            if let Some(resolver) = resolver {
                // Visors that know its HTTP address go to the same port over UDP (`services.md §6.2`).
                let usual = hosted.http.map_or(SUDPH_PORT, |http| http.port());
                let (socket, address) = udp(usual).await?;
                hosted.run(resolver.sudph(address).serve(socket));
            }
            if let (Some(finder), Some(transports)) = (finder, &transports) {
                let transport = Arc::new(InProcess(transports.clone()));
                let options = CallOptions::default();
                hosted.run(finder.follow(TransportDiscoveryClient::new(transport, key, options)));
            }
            all.0.push(LocalService { kind, hosted, service: Some(service) });
        }
        all.add_bootstrapper(plan).await?;
        Ok(all)
    }

    async fn add_bootstrapper(&mut self, plan: &Plan<'_>) -> Result<(), Failure> {
        let kind = ServiceKind::ConfigBootstrapper;
        let key = keep_key(plan.folder, kind.name())?;
        let client = plan.discovery.listed_client(key.clone(), plan.driver)?;
        // Its own address is in what it hands out, so the listener comes first.
        let listener = plan.listener(BOOTSTRAPPER_PORT).await?;
        let http = listener.as_ref().map(tokio::net::TcpListener::local_addr).transpose();
        let http = http.map_err(|error| Failure::new(Exit::Other, error.to_string()))?;
        let mut document = self.document(plan);
        set_urls(&mut document, kind, http, &client);
        let bootstrapper = Bootstrapper::new(document, Some(key.public_key()));
        let hosted = Hosted::start(bootstrapper.router(), listener, Some(client))?;
        self.0.push(LocalService { kind, hosted, service: None });
        Ok(())
    }

    /// Where everything is.
    pub(super) fn document(&self, plan: &Plan<'_>) -> Services {
        let mut document = Services::default();
        if let Some(client) = &plan.discovery.client {
            set_urls(&mut document, ServiceKind::DmsgDiscovery, plan.discovery.http, client);
        }
        for service in &self.0 {
            set_urls(&mut document, service.kind, service.hosted.http, service.client());
        }
        let server = |relay: &Arc<Server>| {
            DmsgServer::new(relay.public_key(), relay.local_addr().to_string())
        };
        let servers = plan.relays.iter().map(server).collect();
        document.set(Field::DmsgServers, Value::Servers(servers));
        document
    }

    /// Waits until all can be reached over DMSG.
    pub(super) async fn ready(&self) -> Result<(), Failure> {
        join_all(self.0.iter().map(LocalService::ready)).await.into_iter().collect()
    }

    pub(super) async fn stop(self) {
        join_all(self.0.into_iter().map(LocalService::stop)).await;
    }
}

impl Plan<'_> {
    async fn listener(&self, usual: u16) -> Result<Option<tokio::net::TcpListener>, Failure> {
        if self.dmsg_only { Ok(None) } else { listen(None, usual).await.map(Some) }
    }

    async fn host(&self, router: Router, usual: u16, client: Client) -> Result<Hosted, Failure> {
        Hosted::start(router, self.listener(usual).await?, Some(client))
    }
}

/// A socket on the usual port of loopback, or else on any, and its address.
async fn udp(usual: u16) -> Result<(UdpSocket, String), Failure> {
    let bind = |port| UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, port));
    let bound = match bind(usual).await {
        Ok(socket) => Ok(socket),
        Err(_) => bind(0).await,
    };
    let with_address = bound.and_then(|socket| Ok((socket.local_addr()?.to_string(), socket)));
    with_address
        .map(|(address, socket)| (socket, address))
        .map_err(|error| Failure::new(Exit::Other, format!("cannot listen on UDP: {error}")))
}

fn set_urls(document: &mut Services, kind: ServiceKind, http: Option<SocketAddr>, client: &Client) {
    let mut set = |field, text: String| match ServiceUrl::parse(&text) {
        Ok(url) => document.set(field, Value::Url(url)),
        Err(error) => tracing::error!(text, error, "an address of ours is none"),
    };
    if let Some(http) = http {
        set(Field::Service(kind), format!("http://{http}"));
    }
    set(Field::ServiceDmsg(kind), format!("dmsg://{}:{DEFAULT_PORT}", client.public_key()));
}

/// The document as a file has it: for users and for developers alike.
pub(super) fn file_text(services: &Services) -> String {
    let mut document = Document::default();
    (document.prod, document.test) = (services.clone(), services.clone());
    document.to_json().to_pretty()
}
