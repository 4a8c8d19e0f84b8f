//! What a visor asks of each service, again and again: the call that shows that it works.

use std::sync::Arc;

use dmsg_engine::identity::SecretKey;

use crate::{
    access::ServiceAccess,
    deployment::Services,
    discovery::{ClientOptions, DiscoveryClient},
    service::ServiceKind,
    services::{
        CallOptions,
        address_resolver::AddressResolverClient,
        config_bootstrapper::ConfigBootstrapperClient,
        route_finder::RouteFinderClient,
        service_discovery::{Query, ServiceDiscoveryClient},
        transport_discovery::TransportDiscoveryClient,
        uptime_tracker::UptimeTrackerClient,
    },
};

/// What the visor calls itself towards services.
const VERSION: &str = concat!("dmsg-", env!("CARGO_PKG_VERSION"));

/// The client of one service, for the visor with one key.
pub(super) enum Caller {
    ConfigBootstrapper(ConfigBootstrapperClient),
    DmsgDiscovery(DiscoveryClient, SecretKey),
    TransportDiscovery(TransportDiscoveryClient, SecretKey),
    AddressResolver(AddressResolverClient),
    RouteFinder(RouteFinderClient),
    UptimeTracker(UptimeTrackerClient),
    ServiceDiscovery(ServiceDiscoveryClient),
}

impl Caller {
    pub(super) fn new(access: &ServiceAccess, secret: &SecretKey) -> Self {
        let (transport, options) = (Arc::new(access.clone()), CallOptions::default());
        let key = secret.clone();
        match access.service() {
            ServiceKind::ConfigBootstrapper => {
                Self::ConfigBootstrapper(ConfigBootstrapperClient::new(transport, options))
            }
            ServiceKind::DmsgDiscovery => Self::DmsgDiscovery(
                DiscoveryClient::bound(transport, ClientOptions::default()),
                key,
            ),
            ServiceKind::TransportDiscovery => Self::TransportDiscovery(
                TransportDiscoveryClient::new(transport, key.clone(), options),
                key,
            ),
            ServiceKind::AddressResolver => {
                Self::AddressResolver(AddressResolverClient::new(transport, key, options))
            }
            ServiceKind::RouteFinder => {
                Self::RouteFinder(RouteFinderClient::new(transport, options))
            }
            ServiceKind::UptimeTracker => {
                Self::UptimeTracker(UptimeTrackerClient::new(transport, key, options))
            }
            ServiceKind::ServiceDiscovery => {
                Self::ServiceDiscovery(ServiceDiscoveryClient::new(transport, key, options))
            }
        }
    }

    /// What [`Caller::call`] asks, in a few words.
    pub(super) fn what(&self) -> &'static str {
        match self {
            Self::ConfigBootstrapper(_) => "fetch the deployment",
            Self::DmsgDiscovery(..) => "look up our own entry",
            Self::TransportDiscovery(..) => "list our transports",
            Self::AddressResolver(_) | Self::RouteFinder(_) => "ask for its health",
            Self::UptimeTracker(_) => "heartbeat",
            Self::ServiceDiscovery(_) => "list public visors",
        }
    }

    /// Asks it. Gives a few words about the answer.
    pub(super) async fn call(&self) -> Result<String, String> {
        let text = |error: crate::services::ServiceError| error.to_string();
        match self {
            Self::ConfigBootstrapper(client) => {
                let document = client.document().await.map_err(text)?;
                let read = std::str::from_utf8(&document).map_err(|_| "it is no text".to_owned());
                let (services, _) = Services::parse(read?).map_err(|problems| {
                    problems.iter().next().map_or_else(String::new, ToString::to_string)
                })?;
                Ok(format!(
                    "a deployment with {}",
                    counted(services.servers().len(), "DMSG server")
                ))
            }
            Self::DmsgDiscovery(client, key) => match client.entry(key.public_key()).await {
                Ok(entry) => Ok(format!(
                    "our entry names {} servers",
                    entry.entry().delegated_servers().len()
                )),
                Err(error) if error.is_not_found() => Ok("we have no entry yet".to_owned()),
                Err(error) => Err(error.to_string()),
            },
            Self::TransportDiscovery(client, key) => {
                match client.transports_of(key.public_key()).await {
                    Ok(transports) => Ok(counted(transports.len(), "transport")),
                    Err(error) if error.is_not_found() => Ok("no transports".to_owned()),
                    Err(error) => Err(error.to_string()),
                }
            }
            Self::AddressResolver(client) => {
                client.caller().health().await.map(|_| "healthy".to_owned()).map_err(text)
            }
            Self::RouteFinder(client) => {
                client.caller().health().await.map(|_| "healthy".to_owned()).map_err(text)
            }
            Self::UptimeTracker(client) => {
                client.heartbeat(VERSION).await.map(|()| "counted".to_owned()).map_err(text)
            }
            Self::ServiceDiscovery(client) => {
                let offers = client.list(&Query::of("visor")).await.map_err(text)?;
                Ok(counted(offers.len(), "public visor"))
            }
        }
    }
}

fn counted(count: usize, what: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {what}{s}")
}
