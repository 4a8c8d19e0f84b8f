//! The services of a deployment: what they are called, and where one of them is reached.
//!
//! Names only. Where the addresses come from is the matter of the deployment document
//! (`deployment-config.md §1`), which way a request takes that of the access policy (`dmsg-http.md §6.4`), what the
//! services answer that of their clients (`services.md`).

use std::fmt;

use crate::url::DmsgUrl;

/// One of the seven infrastructure services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServiceKind {
    /// Hands out the deployment document.
    ConfigBootstrapper,
    /// Who is reachable through which relay servers.
    DmsgDiscovery,
    /// Which transports exist between visors.
    TransportDiscovery,
    /// Network addresses of visors that others connect to directly.
    AddressResolver,
    /// Routes over the transports.
    RouteFinder,
    /// Which visors are up, and for how long.
    UptimeTracker,
    /// Which visors offer what.
    ServiceDiscovery,
}

impl ServiceKind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::ConfigBootstrapper,
        Self::DmsgDiscovery,
        Self::TransportDiscovery,
        Self::AddressResolver,
        Self::RouteFinder,
        Self::UptimeTracker,
        Self::ServiceDiscovery,
    ];

    /// The name for people, logs and metric labels.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ConfigBootstrapper => "config-bootstrapper",
            Self::DmsgDiscovery => "dmsg-discovery",
            Self::TransportDiscovery => "transport-discovery",
            Self::AddressResolver => "address-resolver",
            Self::RouteFinder => "route-finder",
            Self::UptimeTracker => "uptime-tracker",
            Self::ServiceDiscovery => "service-discovery",
        }
    }

    /// The member of the deployment document that holds its HTTP address; that of the DMSG address ends in `_dmsg`.
    #[must_use]
    pub fn member(self) -> &'static str {
        match self {
            Self::ConfigBootstrapper => "conf",
            Self::DmsgDiscovery => "dmsg_discovery",
            Self::TransportDiscovery => "transport_discovery",
            Self::AddressResolver => "address_resolver",
            Self::RouteFinder => "route_finder",
            Self::UptimeTracker => "uptime_tracker",
            Self::ServiceDiscovery => "service_discovery",
        }
    }

    /// The member that holds its DMSG address.
    #[must_use]
    pub fn dmsg_member(self) -> &'static str {
        match self {
            Self::ConfigBootstrapper => "conf_dmsg",
            Self::DmsgDiscovery => "dmsg_discovery_dmsg",
            Self::TransportDiscovery => "transport_discovery_dmsg",
            Self::AddressResolver => "address_resolver_dmsg",
            Self::RouteFinder => "route_finder_dmsg",
            Self::UptimeTracker => "uptime_tracker_dmsg",
            Self::ServiceDiscovery => "service_discovery_dmsg",
        }
    }
}

impl fmt::Display for ServiceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a service is reached. Both absent: the deployment does not have it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// Its `http://` or `https://` address.
    pub http: Option<http::Uri>,
    /// Its `dmsg://` address.
    pub dmsg: Option<DmsgUrl>,
}
