//! Where a client learns of servers and peers: one resolver in layers (`dmsg-http.md §1.4`, `§6.3`).
//!
//! ```text
//!   dial(peer) ─▶ cache of the engine ─▶ Resolver ─▶ 1 static map     the discovery itself, and where services are sought
//!                 TTL, absent peers,                  2 discovery      over DMSG, then over HTTP, or as its
//!                 stale while asking again                │            access policy says
//!                 one question per peer at a time         ▼
//!                                      ServiceAccess ── PinnedDial ── only keys of the static map
//! ```
//!
//! Reaching the discovery over DMSG takes a dial, which needs a look-up, which must not ask the discovery. It cannot:
//! what the discovery's transport dials with is a [`PinnedDial`], which refuses every key that is not in the
//! [`StaticMap`]; and the discovery's own key is answered from that map by a function that is not even `async`.
//!
//! A service of the deployment is sought behind the servers that its entry names, if it has one (ours have, Go's have not), and
//! behind the known servers in any case. The entry is waited for for a second: a discovery that is away keeps nobody from a
//! service that is not.
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
    /// The same, and those of the configuration come first as long as they can be had.
    Preferred,
}

/// How long a service's entry is waited for; a discovery answers within some tens of milliseconds.
const ENTRY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(1);

/// The engine's [`Directory`] in layers; see the module.
pub struct Resolver {
    map: Arc<StaticMap>,
    discovery: Option<Arc<HttpDirectory>>,
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
        Self { map, discovery: Some(Arc::new(discovery)), choice, publishes, published }
    }

    /// True as soon as peers can find us: when the discovery took our entry, or at once if there is nothing to publish.
    #[must_use]
    pub fn published(&self) -> watch::Receiver<bool> {
        self.published.subscribe()
    }

    fn publishing(&self) -> Option<&HttpDirectory> {
        self.discovery.as_deref().filter(|_| self.publishes)
    }

    async fn list_servers(&self) -> Result<Vec<ServerRecord>, DirectoryError> {
        // What is configured or kept is there at once; only from then on can a discovery over DMSG be asked.
        let is_first = self.map.begin();
        let asks = match self.choice {
            ServerChoice::Configured => !self.map.has_configured(),
            ServerChoice::Merged | ServerChoice::Preferred => !self.map.has_servers() || !is_first,
        };
        if let Some(discovery) = self.discovery.as_ref().filter(|_| asks) {
            match discovery.servers().await {
                Ok(listed) => self.map.learn(listed),
                Err(error) if !self.map.has_servers() => return Err(error),
                Err(error) => tracing::debug!(%error, "the known list of servers stands"),
            }
        }
        let mut servers = self.map.servers();
        if self.choice == ServerChoice::Preferred {
            // What has the most room is drawn first, and moved to if it comes back.
            for server in &mut servers {
                if self.map.is_configured(&server.key) {
                    server.available_sessions = u32::MAX;
                }
            }
        }
        Ok(servers)
    }
}

impl Directory for Resolver {
    fn servers(&self) -> DirectoryFuture<'_, Vec<ServerRecord>> {
        Box::pin(self.list_servers())
    }

    fn resolve(&self, peer: PublicKey) -> DirectoryFuture<'_, Vec<ServerRecord>> {
        match &self.discovery {
            Some(discovery) if !self.map.is_pinned(&peer) => {
                Box::pin(async move { discovery.resolve_among(peer, &self.map.servers()).await })
            }
            Some(discovery) if self.map.may_have_entry(&peer) => Box::pin(async move {
                let named = named_servers(discovery, peer, &self.map.servers()).await;
                Ok(self.map.servers_of_service(named))
            }),
            Some(_) => Box::pin(std::future::ready(Ok(self.map.servers_of_pinned()))),
            None => Box::pin(std::future::ready(Ok(self.map.servers()))),
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

/// The servers that a service's entry names; none if it has none, or if that is not known in time.
async fn named_servers(
    discovery: &HttpDirectory,
    peer: PublicKey,
    at_hand: &[ServerRecord],
) -> Vec<ServerRecord> {
    match tokio::time::timeout(ENTRY_TIMEOUT, discovery.resolve_among(peer, at_hand)).await {
        Ok(Ok(servers)) => servers,
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "a service's entry is not known");
            Vec::new()
        }
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use bytes::Bytes;
    use dmsg_engine::{identity::SecretKey, wire::Addr};
    use http::{Request, Response};

    use super::*;
    use crate::{
        discovery::{ClientOptions, DiscoveryClient, client::DirectoryOptions},
        http::Dial,
        transport::{ExchangeFuture, HttpTransport, Limits},
        url::DEFAULT_PORT,
    };

    /// A discovery that has nothing, and counts how often it is asked.
    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl HttpTransport for Counting {
        fn exchange(&self, _: Request<Bytes>, _: Limits) -> ExchangeFuture<'_> {
            self.0.fetch_add(1, SeqCst);
            Box::pin(std::future::ready(Ok(Response::new(Bytes::from_static(b"[]")))))
        }
    }

    fn key(name: &str) -> SecretKey {
        SecretKey::from_seed(name.as_bytes())
    }

    fn server() -> ServerRecord {
        let key = key("server").public_key();
        ServerRecord { key, address: "127.0.0.1:1".to_owned(), available_sessions: 1 }
    }

    fn layered(servers: Vec<ServerRecord>, choice: ServerChoice) -> (Arc<Counting>, Resolver) {
        let asked = Arc::<Counting>::default();
        let transport = Arc::<Counting>::clone(&asked);
        let client = Arc::new(DiscoveryClient::bound(transport, ClientOptions::default()));
        let directory = HttpDirectory::new(client, key("us"), DirectoryOptions::default());
        let map = Arc::new(StaticMap::new(servers));
        map.pin_discovery(key("discovery").public_key());
        map.pin(key("service").public_key());
        (asked, Resolver::layered(map, directory, choice, false))
    }

    #[tokio::test]
    async fn the_discovery_is_found_without_asking_and_other_peers_are_asked_for() {
        let (asked, resolver) = layered(vec![server()], ServerChoice::Configured);
        let discovery = key("discovery").public_key();
        assert_eq!(resolver.resolve(discovery).await, Ok(vec![server()]));
        assert_eq!(asked.0.load(SeqCst), 0);
        resolver.resolve(key("anybody").public_key()).await.unwrap_err();
        assert!(asked.0.load(SeqCst) > 0);
        // Nor when no server is known: there is nothing to ask that could lead back here.
        let (asked, resolver) = layered(Vec::new(), ServerChoice::Configured);
        assert_eq!(resolver.resolve(discovery).await, Ok(Vec::new()));
        assert_eq!(asked.0.load(SeqCst), 0);
    }

    #[tokio::test]
    async fn a_service_without_an_entry_is_sought_behind_the_known_servers() {
        let (asked, resolver) = layered(vec![server()], ServerChoice::Configured);
        assert_eq!(resolver.resolve(key("service").public_key()).await, Ok(vec![server()]));
        assert!(asked.0.load(SeqCst) > 0);
    }

    /// Answers nothing, ever.
    struct Silent;

    impl HttpTransport for Silent {
        fn exchange(&self, _: Request<Bytes>, _: Limits) -> ExchangeFuture<'_> {
            Box::pin(std::future::pending())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_discovery_keeps_nobody_from_a_service_for_long() {
        let client = Arc::new(DiscoveryClient::bound(Arc::new(Silent), ClientOptions::default()));
        let directory = HttpDirectory::new(client, key("us"), DirectoryOptions::default());
        let map = Arc::new(StaticMap::new(vec![server()]));
        map.pin(key("service").public_key());
        let resolver = Resolver::layered(map, directory, ServerChoice::Configured, false);
        let started = tokio::time::Instant::now();
        assert_eq!(resolver.resolve(key("service").public_key()).await, Ok(vec![server()]));
        assert_eq!(started.elapsed(), ENTRY_TIMEOUT);
    }

    #[tokio::test]
    async fn configured_servers_are_there_at_once_and_the_discovery_is_asked_from_then_on() {
        for (choice, asked_at_last) in [(ServerChoice::Configured, 0), (ServerChoice::Merged, 1)] {
            let (asked, resolver) = layered(vec![server()], choice);
            assert_eq!(resolver.servers().await, Ok(vec![server()]));
            assert_eq!(asked.0.load(SeqCst), 0, "{choice:?}");
            assert_eq!(
                resolver.servers().await,
                Ok(vec![server()]),
                "an empty list erases nothing"
            );
            assert_eq!(asked.0.load(SeqCst), asked_at_last, "{choice:?}");
        }
    }

    #[tokio::test]
    async fn preferred_servers_have_more_room_than_any_whatever_the_discovery_says_of_them() {
        let (asked, resolver) = layered(vec![server()], ServerChoice::Preferred);
        resolver.servers().await.unwrap();
        let other = ServerRecord { key: key("other").public_key(), ..server() };
        let listed = ServerRecord { address: "127.0.0.1:2".to_owned(), ..server() };
        resolver.map.learn(vec![other.clone(), listed.clone()]);
        let mut servers = resolver.servers().await.unwrap();
        assert_eq!(asked.0.load(SeqCst), 1);
        servers.sort_by_key(|server| server.available_sessions);
        let preferred = ServerRecord { available_sessions: u32::MAX, ..listed };
        assert_eq!(servers, [other, preferred]);
    }

    #[tokio::test]
    async fn without_a_discovery_every_peer_is_sought_behind_the_servers() {
        let resolver = Resolver::direct(Arc::new(StaticMap::new(vec![server()])));
        assert_eq!(resolver.resolve(key("anybody").public_key()).await, Ok(vec![server()]));
        assert_eq!(resolver.publish(Vec::new()).await, Ok(()));
        assert!(*resolver.published().borrow());
    }

    #[tokio::test]
    async fn a_dial_from_within_a_look_up_reaches_pinned_peers_only() {
        let map = Arc::new(StaticMap::default());
        map.pin(key("service").public_key());
        let dial = PinnedDial::new(LateClient::default(), map);
        let to = |name: &str| Addr { key: key(name).public_key(), port: DEFAULT_PORT };
        let refused = dial.dial(to("anybody")).await.err().unwrap().to_string();
        assert!(refused.ends_with("is no service of this deployment"), "{refused}");
        let passed = dial.dial(to("service")).await.err().unwrap().to_string();
        assert_eq!(passed, "the client is still starting");
    }
}
