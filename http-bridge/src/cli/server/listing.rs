//! How a relay server reaches the discovery that lists it.

use std::sync::Arc;

use dmsg_engine::{client::ServerRecord, server::Server};

use crate::{
    access::{AccessConfig, AccessPolicy},
    cli::{
        exit::{Exit, Failure},
        flags::{ServerFlag, check_http, fresh_key, record},
    },
    discovery::{ClientError, ClientOptions, DiscoveryClient},
    overlay::{Overlay, OverlayConfig},
    service::{Endpoints, ServiceKind},
    transport::TcpTransport,
    url::DmsgUrl,
};

/// Where the discovery is that shall list us.
pub(super) enum DiscoveryAddress {
    Http(String),
    Dmsg(DmsgUrl),
}

impl DiscoveryAddress {
    pub(super) fn parse(url: &str) -> Result<Self, Failure> {
        let bad = |error: ClientError| Failure::new(Exit::Url, format!("--discovery: {error}"));
        if url.starts_with("dmsg://") {
            DiscoveryClient::check_base(url).map_err(bad)?;
            return Ok(Self::Dmsg(url.parse()?));
        }
        check_http(url)?;
        DiscoveryClient::check_base(url).map_err(bad)?;
        Ok(Self::Http(url.to_owned()))
    }

    /// A client of it, and the overlay that it needs. Over DMSG the discovery is reached through servers, and we may be
    /// the first: so we are one of them, and our own client with a key for the occasion.
    pub(super) fn connect(
        self,
        server: &Server,
        others: &[ServerFlag],
    ) -> Result<(DiscoveryClient, Option<Overlay>), Failure> {
        let other = |error: &dyn std::error::Error| Failure::new(Exit::Other, error.to_string());
        match self {
            Self::Http(url) => {
                let transport = Arc::new(TcpTransport::new());
                let client = DiscoveryClient::new(&url, transport, ClientOptions::default())
                    .map_err(|error| other(&error))?;
                Ok((client, None))
            }
            Self::Dmsg(url) => {
                let ourselves = ServerRecord {
                    key: server.public_key(),
                    address: super::on_this_machine(server.local_addr()).to_string(),
                    available_sessions: 1,
                };
                let servers = std::iter::once(ourselves).chain(others.iter().map(record)).collect();
                let overlay = Overlay::start(OverlayConfig::direct(fresh_key()?, servers))
                    .map_err(|error| other(&error))?;
                let endpoints = Endpoints { http: None, dmsg: Some(url) };
                let config = AccessConfig::with_policy(AccessPolicy::DmsgOnly);
                let access = overlay.access(ServiceKind::DmsgDiscovery, &endpoints, config);
                let client = DiscoveryClient::bound(Arc::new(access), ClientOptions::default());
                Ok((client, Some(overlay)))
            }
        }
    }
}
