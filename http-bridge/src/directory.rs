//! The directory of a client that knows some servers beforehand (`dmsg-http.md §1.4`, `§6.3`).
//!
//! ```text
//!   servers  : the fixed ones, else the discovery's
//!   resolve  : a fixed peer → the fixed servers;   any other → the discovery
//! ```
//!
//! A discovery reached over DMSG is itself a fixed peer. So looking it up never asks the discovery, by
//! construction, and there is one client with one set of sessions rather than two that evict each other.

use std::sync::{Arc, OnceLock};

use dmsg_engine::{
    client::{
        Client, Directory, DirectoryError, DirectoryFuture, ServerRecord, Stream, WeakClient,
    },
    identity::PublicKey,
    wire::Addr,
};

use tokio::sync::watch;

use crate::{
    discovery::HttpDirectory,
    http::{BoxError, Dial},
};

/// A directory in two layers: fixed servers and peers, and a discovery above them.
pub struct LayeredDirectory {
    servers: Vec<ServerRecord>,
    fixed_peers: Vec<PublicKey>,
    upstream: Option<HttpDirectory>,
    publishes: bool,
    published: watch::Sender<bool>,
}

impl LayeredDirectory {
    /// No discovery: every peer is sought behind these servers.
    #[must_use]
    pub fn fixed(servers: Vec<ServerRecord>) -> Self {
        Self::new(servers, Vec::new(), None)
    }

    /// A discovery, and peers that are found behind the fixed servers without it.
    #[must_use]
    pub fn layered(
        servers: Vec<ServerRecord>,
        fixed_peers: Vec<PublicKey>,
        upstream: HttpDirectory,
    ) -> Self {
        Self::new(servers, fixed_peers, Some(upstream))
    }

    fn new(
        servers: Vec<ServerRecord>,
        fixed_peers: Vec<PublicKey>,
        upstream: Option<HttpDirectory>,
    ) -> Self {
        let publishes = upstream.is_some();
        let published = watch::Sender::new(!publishes);
        Self { servers, fixed_peers, upstream, publishes, published }
    }

    /// True as soon as peers can find us: when the discovery took our entry, or at once if there is nothing to publish.
    #[must_use]
    pub fn published(&self) -> watch::Receiver<bool> {
        self.published.subscribe()
    }

    /// The same, without publishing an entry: for a client that only dials.
    #[must_use]
    pub fn hidden(self) -> Self {
        self.published.send_replace(true);
        Self { publishes: false, ..self }
    }

    fn publishing(&self) -> Option<&HttpDirectory> {
        self.upstream.as_ref().filter(|_| self.publishes)
    }

    fn fixed_servers(&self) -> DirectoryFuture<'_, Vec<ServerRecord>> {
        Box::pin(std::future::ready(Ok(self.servers.clone())))
    }
}

impl Directory for LayeredDirectory {
    fn servers(&self) -> DirectoryFuture<'_, Vec<ServerRecord>> {
        match &self.upstream {
            Some(upstream) if self.servers.is_empty() => upstream.servers(),
            _ => self.fixed_servers(),
        }
    }

    fn resolve(&self, peer: PublicKey) -> DirectoryFuture<'_, Vec<ServerRecord>> {
        match &self.upstream {
            Some(upstream) if !self.fixed_peers.contains(&peer) => upstream.resolve(peer),
            _ => self.fixed_servers(),
        }
    }

    fn publish(&self, delegated: Vec<PublicKey>) -> DirectoryFuture<'_, ()> {
        match self.publishing() {
            Some(upstream) => Box::pin(async move {
                let reachable = !delegated.is_empty();
                upstream.publish(delegated).await?;
                self.published.send_replace(reachable);
                Ok(())
            }),
            None => Box::pin(std::future::ready(Ok::<_, DirectoryError>(()))),
        }
    }

    fn withdraw(&self) -> DirectoryFuture<'_, ()> {
        match self.publishing() {
            Some(upstream) => upstream.withdraw(),
            None => Box::pin(std::future::ready(Ok::<_, DirectoryError>(()))),
        }
    }
}

/// The client that a directory dials through, once there is one: the directory is made before it, and must
/// not keep it running.
#[derive(Clone, Default)]
pub struct LateClient(Arc<OnceLock<WeakClient>>);

impl LateClient {
    /// Names the client. Only the first call counts.
    pub fn set(&self, client: &Client) {
        let _ = self.0.set(client.downgrade());
    }
}

impl Dial for LateClient {
    type Stream = Stream;

    async fn dial(&self, to: Addr) -> Result<Stream, BoxError> {
        let client = self.0.get().ok_or("the client is still starting")?;
        let client = client.upgrade().ok_or("the client is closed")?;
        Dial::dial(&client, to).await
    }
}
