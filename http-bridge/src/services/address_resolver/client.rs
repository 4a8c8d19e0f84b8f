//! The client of an Address Resolver (`services.md §6.1`).

use std::sync::Arc;

use dmsg_engine::identity::{PublicKey, SecretKey};
use http::Method;

use super::{Binding, Bound, Network, Resolved};
use crate::{
    services::{
        CallOptions, Caller, Monitor, ServiceError,
        call::{LIST_BYTES_MAX, SMALL_BYTES_MAX},
        keys::KeyText,
    },
    transport::HttpTransport,
};

/// A client of one Address Resolver.
#[derive(Clone)]
pub struct AddressResolverClient(Caller);

impl AddressResolverClient {
    /// The client of the visor with this key; `transport` is bound to the service.
    #[must_use]
    pub fn new(transport: Arc<dyn HttpTransport>, secret: SecretKey, options: CallOptions) -> Self {
        Self(Caller::signing(transport, secret, options))
    }

    /// What every service has: health, and our claimed address (needed over DMSG, see [`Caller::set_public_ip`]).
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.0
    }

    /// Binds us for `stcpr`: others find us at our public address and this port. The public address must be among
    /// `binding.addresses`.
    pub async fn bind(&self, binding: &Binding) -> Result<(), ServiceError> {
        self.0.signed_send(Method::POST, "/bind/stcpr", binding, SMALL_BYTES_MAX).await.map(drop)
    }

    /// Undoes [`AddressResolverClient::bind`].
    pub async fn unbind(&self) -> Result<(), ServiceError> {
        let nothing = serde_json::Map::new();
        match self.0.signed_send(Method::DELETE, "/bind/stcpr", &nothing, SMALL_BYTES_MAX).await {
            Ok(_) | Err(ServiceError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Where a visor is; [`ServiceError::NotFound`] if it is not bound.
    pub async fn resolve(
        &self,
        network: Network,
        key: PublicKey,
    ) -> Result<Resolved, ServiceError> {
        self.0.signed_get(&format!("/resolve/{}/{key}", network.name()), SMALL_BYTES_MAX).await
    }

    /// Everybody who can be resolved.
    pub async fn bound(&self) -> Result<Bound, ServiceError> {
        self.0.get("/transports", LIST_BYTES_MAX).await
    }

    /// The `host:port` of the resolver's UDP side for `sudph`, which a resolver reached over DMSG tells in its health
    /// page; `None` if it does not, and then there is no `sudph`.
    pub async fn udp_address(&self) -> Result<Option<String>, ServiceError> {
        let health = self.0.health().await?;
        Ok(Some(health.udp_address).filter(|address| !address.is_empty()))
    }

    /// Unbinds anybody, as a network monitor.
    pub async fn deregister(
        &self,
        monitor: &Monitor,
        network: Network,
        keys: &[PublicKey],
    ) -> Result<(), ServiceError> {
        let keys: Vec<_> = keys.iter().copied().map(KeyText).collect();
        monitor.deregister(&self.0, &format!("/deregister/{}", network.name()), &keys).await
    }

    /// Whether a visor may be in our own network, so that its interface addresses are worth a try: it has our public
    /// address.
    #[must_use]
    pub fn may_be_local(resolved: &Resolved, our_public_ip: std::net::IpAddr) -> bool {
        let host = resolved.remote_addr.parse::<std::net::SocketAddr>().map(|address| address.ip());
        let host = host.or_else(|_| resolved.remote_addr.parse());
        resolved.is_local
            || host.is_ok_and(|host| host.to_canonical() == our_public_ip.to_canonical())
    }
}
