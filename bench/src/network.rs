//! A relay, a service and a caller in this process, for runs whose subject is not speed but what is left behind.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use dmsg_bench::Result;
use dmsg_engine::{
    client::{Client, ClientConfig, ServerRecord, StaticDirectory},
    identity::SecretKey,
    server::{Server, ServerConfig},
    wire::{Addr, Port},
};
use dmsg_http::url::DmsgUrl;

pub(crate) struct Network {
    pub(crate) relay: Server,
    pub(crate) service: Client,
    pub(crate) caller: Client,
}

impl Network {
    /// Keys come from `seed`. With `unread_min_age` off, the clients take back no stream.
    pub(crate) async fn start(seed: &str, reclaims: bool) -> Result<Self> {
        let key = |who: &str| SecretKey::from_seed(format!("{seed} {who}").as_bytes());
        let address = (Ipv4Addr::LOCALHOST, 0).into();
        let mut config = ServerConfig::new(key("relay"), address);
        // Thousands of dials a second, most of them given up, are no flood here.
        config.limits.resets_per_interval_max = u32::MAX;
        config.limits.refusals_per_interval_max = u32::MAX;
        config.limits.requests_per_interval_max = u32::MAX;
        config.limits.control_frames_per_interval_max = u64::MAX;
        let relay = Server::start(config)?;
        let servers = vec![ServerRecord {
            key: relay.public_key(),
            address: relay.local_addr().to_string(),
            available_sessions: 1,
        }];
        let start = |who: &str| {
            let mut config = ClientConfig::new(key(who));
            if !reclaims {
                config.unread_min_age = None;
            }
            Client::start(config, Arc::new(StaticDirectory { servers: servers.clone() }))
        };
        let (service, caller) = (start("service")?, start("caller")?);
        tokio::try_join!(service.ready(), caller.ready())?;
        Ok(Self { relay, service, caller })
    }

    pub(crate) fn addr(&self, port: Port) -> Addr {
        Addr { key: self.service.public_key(), port }
    }

    pub(crate) fn url(&self, port: Port, target: &str) -> Result<DmsgUrl> {
        Ok(DmsgUrl::new(self.addr(port), target)?)
    }

    pub(crate) async fn close(self) {
        tokio::join!(self.caller.close(), self.service.close());
        self.relay.shutdown();
    }
}

/// Asks `is_so` every 20 ms until it is, within `limit`; how long it took, or `None`.
pub(crate) async fn until(limit: Duration, mut is_so: impl FnMut() -> bool) -> Option<Duration> {
    let begun = std::time::Instant::now();
    loop {
        if is_so() {
            return Some(begun.elapsed());
        }
        if begun.elapsed() > limit {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
