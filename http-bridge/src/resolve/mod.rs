//! Where a client learns of servers and peers: one resolver in layers (`dmsg-http.md §1.4`, `§6.3`).
//!
//! ```text
//!   dial(peer) ─▶ cache of the engine ─▶ Resolver ─▶ 1 static map     from memory, never asks anybody
//!                 TTL, absent peers,                  2 discovery      over DMSG, then over HTTP, or as its
//!                 stale while asking again                │            access policy says
//!                 one question per peer at a time         ▼
//!                                      ServiceAccess ── PinnedDial ── only keys of the static map
//! ```
//!
//! Reaching the discovery over DMSG takes a dial, which needs a look-up, which must not ask the discovery. It cannot:
//! what the discovery's transport dials with is a [`PinnedDial`], which refuses every key that is not in the
//! [`StaticMap`]; and what the map holds is answered by a function that is not even `async`.
//!
//! The three kinds of client are presets of it: [`OverlayConfig::direct`](crate::overlay::OverlayConfig::direct) has no
//! discovery, [`standard`](crate::overlay::OverlayConfig::standard) one over HTTP,
//! [`dmsg_http`](crate::overlay::OverlayConfig::dmsg_http) one over DMSG.

mod map;
mod pinned;

use std::sync::Arc;

use dmsg_engine::{
    client::{Directory, DirectoryError, DirectoryFuture, ServerRecord},
    identity::PublicKey,
};
use tokio::sync::watch;

pub use self::{
    map::StaticMap,
    pinned::{LateClient, PinnedDial},
};
use crate::discovery::HttpDirectory;

/// Which servers a client with a discovery holds sessions with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerChoice {
    /// Those of the configuration, unless it names none.
    Configured,
    /// Those of the configuration at first, then those of the discovery too.
    Merged,
}

/// The engine's [`Directory`] in layers; see the module.
pub struct Resolver {
    map: Arc<StaticMap>,
    discovery: Option<HttpDirectory>,
    choice: ServerChoice,
    publishes: bool,
    published: watch::Sender<bool>,
}

impl Resolver {
    /// The static map, and no discovery: peers that it does not hold are sought behind its servers as well.
    #[must_use]
    pub fn direct(map: Arc<StaticMap>) -> Self {
        let (discovery, choice) = (None, ServerChoice::Configured);
        Self { map, discovery, choice, publishes: false, published: watch::Sender::new(true) }
    }

    /// The static map and a discovery for everything else. `publishes`: whether others shall find us there.
    #[must_use]
    pub fn layered(
        map: Arc<StaticMap>,
        discovery: HttpDirectory,
        choice: ServerChoice,
        publishes: bool,
    ) -> Self {
        let published = watch::Sender::new(!publishes);
        Self { map, discovery: Some(discovery), choice, publishes, published }
    }

    /// True as soon as peers can find us: when the discovery took our entry, or at once if there is nothing to publish.
    #[must_use]
    pub fn published(&self) -> watch::Receiver<bool> {
        self.published.subscribe()
    }

    fn publishing(&self) -> Option<&HttpDirectory> {
        self.discovery.as_ref().filter(|_| self.publishes)
    }

    async fn list_servers(&self) -> Result<Vec<ServerRecord>, DirectoryError> {
        // What is configured is there at once; only from then on can a discovery over DMSG be asked.
        let is_first = self.map.begin();
        let configured = self.map.has_configured();
        let asks = match self.choice {
            ServerChoice::Configured => !configured,
            ServerChoice::Merged => !configured || !is_first,
        };
        if let Some(discovery) = self.discovery.as_ref().filter(|_| asks) {
            match discovery.servers().await {
                Ok(listed) => self.map.learn(listed),
                Err(error) if !self.map.has_servers() => return Err(error),
                Err(error) => tracing::debug!(%error, "the known list of servers stands"),
            }
        }
        Ok(self.map.servers())
    }
}

impl Directory for Resolver {
    fn servers(&self) -> DirectoryFuture<'_, Vec<ServerRecord>> {
        Box::pin(self.list_servers())
    }

    fn resolve(&self, peer: PublicKey) -> DirectoryFuture<'_, Vec<ServerRecord>> {
        match &self.discovery {
            Some(discovery) if !self.map.is_pinned(&peer) => discovery.resolve(peer),
            _ => Box::pin(std::future::ready(Ok(self.map.servers()))),
        }
    }

    fn publish(&self, delegated: Vec<PublicKey>) -> DirectoryFuture<'_, ()> {
        match self.publishing() {
            Some(discovery) => Box::pin(async move {
                let reachable = !delegated.is_empty();
                discovery.publish(delegated).await?;
                self.published.send_replace(reachable);
                Ok(())
            }),
            None => Box::pin(std::future::ready(Ok::<_, DirectoryError>(()))),
        }
    }

    fn withdraw(&self) -> DirectoryFuture<'_, ()> {
        match self.publishing() {
            Some(discovery) => discovery.withdraw(),
            None => Box::pin(std::future::ready(Ok::<_, DirectoryError>(()))),
        }
    }
}
