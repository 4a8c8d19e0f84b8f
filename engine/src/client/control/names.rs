//! Host names of servers.

use std::{net::SocketAddr, time::Duration};

use tokio::{net::lookup_host, task::JoinSet, time::timeout};
use tracing::debug;

use crate::client::{ServerRecord, machine::ServerTarget};

/// Limit of one name.
const NAME_TIMEOUT: Duration = Duration::from_secs(5);

/// Addresses of one server that are kept.
const ADDRESSES_MAX: usize = 8;

/// Resolves the addresses of all records, names side by side. The order stays; a name that does not
/// resolve gives a target without addresses, which can still be used through a session that is up.
pub(super) async fn resolve_all(records: Vec<ServerRecord>) -> Vec<ServerTarget> {
    let mut names = JoinSet::new();
    let mut targets = Vec::with_capacity(records.len());
    for (index, record) in records.into_iter().enumerate() {
        let literal = record.address.parse().ok().filter(is_sensible);
        if literal.is_none() {
            names.spawn(async move { (index, resolve(&record.address).await) });
        }
        targets.push(ServerTarget {
            key: record.key,
            addresses: literal.into_iter().collect(),
            weight: record.available_sessions,
        });
    }
    while let Some(done) = names.join_next().await {
        if let Ok((index, addresses)) = done {
            targets[index].addresses = addresses;
        }
    }
    targets
}

async fn resolve(address: &str) -> Vec<SocketAddr> {
    match timeout(NAME_TIMEOUT, lookup_host(address)).await {
        Ok(Ok(found)) => found.filter(is_sensible).take(ADDRESSES_MAX).collect(),
        Ok(Err(error)) => {
            debug!(address, %error, "a server's host name does not resolve");
            Vec::new()
        }
        Err(_) => {
            debug!(address, "a server's host name did not resolve in time");
            Vec::new()
        }
    }
}

/// Whether one can connect there at all.
fn is_sensible(address: &SocketAddr) -> bool {
    let ip = address.ip();
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast()
}
