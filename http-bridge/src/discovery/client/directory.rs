//! The engine's [`Directory`], answered by a discovery (`discovery.md §6`, `§7.1`, `§8`).

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use dmsg_engine::{
    client::{Directory, DirectoryError, DirectoryFuture, ServerRecord},
    identity::{PublicKey, SecretKey},
};

use super::{ClientError, DiscoveryClient, FetchedEntry, pace::LookUpPace};
use crate::discovery::{ClientPart, DELEGATED_SERVERS_MAX, Entry, EntryError};

/// Servers of one peer that are looked up one by one when the list lacks them. A peer holds a few sessions;
/// one that names more is still reachable through the first.
const LOOKUPS_MAX: usize = 16;

/// How long a failure to list the servers is remembered; each server is asked for by itself meanwhile.
const FAILURE_TTL: Duration = Duration::from_secs(5);

/// What a directory is asked to do beyond the defaults.
#[derive(Debug, Clone)]
pub struct DirectoryOptions {
    /// Offer servers without free capacity too; for services that hold a session with every server.
    pub all_servers: bool,
    /// `client_type` to publish: `"visor"`, `"test"` or empty.
    pub client_type: String,
    /// `protocol` to publish: `"smux"` for a client whose `ClientConfig::mux` is smux, else empty (`§7.3`).
    pub protocol: String,
    /// How long a fetched list of servers resolves peers.
    pub servers_ttl: Duration,
}

impl Default for DirectoryOptions {
    fn default() -> Self {
        Self {
            all_servers: false,
            client_type: String::new(),
            protocol: String::new(),
            servers_ttl: Duration::from_secs(60),
        }
    }
}

type ServerMap = Arc<HashMap<PublicKey, ServerRecord>>;

/// A [`Directory`] that asks a discovery and publishes with our secret key.
pub struct HttpDirectory {
    client: Arc<DiscoveryClient>,
    secret: SecretKey,
    options: DirectoryOptions,
    pace: LookUpPace,
    /// Until when the list is good, and the list.
    servers: tokio::sync::Mutex<Option<(Instant, ServerMap)>>,
}

impl HttpDirectory {
    /// A directory for the client with this secret key.
    #[must_use]
    pub fn new(client: Arc<DiscoveryClient>, secret: SecretKey, options: DirectoryOptions) -> Self {
        let (pace, servers) = (LookUpPace::default(), tokio::sync::Mutex::default());
        Self { client, secret, options, pace, servers }
    }

    async fn servers(&self) -> Result<Vec<ServerRecord>, ClientError> {
        let list = if self.options.all_servers {
            self.client.all_servers().await
        } else {
            self.client.available_servers().await
        };
        match list {
            Ok(entries) => Ok(entries.iter().filter_map(record).collect()),
            Err(ClientError::Refused(EntryError::NoServers)) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Looks a key up, when it is our turn.
    async fn entry(&self, key: PublicKey) -> Result<FetchedEntry, ClientError> {
        self.pace.turn().await?;
        self.client.entry(key).await
    }

    /// The servers that the entry of `peer` names, where the discovery says they are. It may know a server less well than we do,
    /// one that has not registered yet: `at_hand` has what is known of it otherwise.
    pub(crate) async fn resolve_among(
        &self,
        peer: PublicKey,
        at_hand: &[ServerRecord],
    ) -> Result<Vec<ServerRecord>, DirectoryError> {
        self.records_of(peer, at_hand).await.map_err(Self::failed(peer))
    }

    async fn records_of(
        &self,
        peer: PublicKey,
        at_hand: &[ServerRecord],
    ) -> Result<Vec<ServerRecord>, ClientError> {
        let at_hand = |key: &PublicKey| at_hand.iter().find(|server| server.key == *key).cloned();
        let fetched = self.entry(peer).await?;
        let delegated = fetched.entry().delegated_servers();
        if delegated.is_empty() {
            return Ok(Vec::new());
        }
        let known = self.known_servers().await;
        let mut lookups_left = LOOKUPS_MAX;
        let mut records = Vec::with_capacity(delegated.len());
        let mut failure = None;
        for key in delegated {
            if let Some(server) = known.get(key) {
                records.push(server.clone());
            } else if let Some(left) = lookups_left.checked_sub(1) {
                lookups_left = left;
                let found = match self.entry(*key).await {
                    Ok(entry) => record(&entry),
                    Err(error) if error.is_not_found() => None,
                    Err(error) => {
                        failure = Some(error);
                        None
                    }
                };
                records.extend(found.or_else(|| at_hand(key)));
            }
        }
        match failure {
            Some(error) if records.is_empty() => Err(error),
            _ => Ok(records),
        }
    }

    /// The servers of the last list, fetched anew when it is old. The lock lets one caller fetch while the others
    /// wait for its answer. An empty map if the discovery cannot say: then each server is asked for by itself.
    async fn known_servers(&self) -> ServerMap {
        let mut cached = self.servers.lock().await;
        if let Some((until, servers)) = &*cached
            && Instant::now() < *until
        {
            return Arc::clone(servers);
        }
        let Ok(entries) = self.client.all_servers().await else {
            // Remembered too, or all who wait here would wait for a failure of their own, one after the other.
            let servers = ServerMap::default();
            let ttl = self.options.servers_ttl.min(FAILURE_TTL);
            *cached = Some((Instant::now() + ttl, Arc::clone(&servers)));
            return servers;
        };
        let servers: ServerMap =
            Arc::new(entries.iter().filter_map(record).map(|r| (r.key, r)).collect());
        *cached = Some((Instant::now() + self.options.servers_ttl, Arc::clone(&servers)));
        servers
    }

    fn change(&self, delegated: Vec<PublicKey>) -> impl Fn(&mut Entry) + Send + Sync + use<'_> {
        move |entry| {
            entry.client = Some(ClientPart { delegated_servers: Some(delegated.clone()) });
            entry.client_type.clone_from(&self.options.client_type);
            entry.protocol.clone_from(&self.options.protocol);
        }
    }

    /// A failed call in the engine's words; `peer` is whom it was about.
    fn failed(peer: PublicKey) -> impl Fn(ClientError) -> DirectoryError {
        move |error| {
            if error.is_not_found() {
                DirectoryError::NotFound(peer)
            } else {
                DirectoryError::Unavailable(error.to_string())
            }
        }
    }
}

impl Directory for HttpDirectory {
    fn servers(&self) -> DirectoryFuture<'_, Vec<ServerRecord>> {
        let us = self.secret.public_key();
        Box::pin(async move { Self::servers(self).await.map_err(Self::failed(us)) })
    }

    fn resolve(&self, peer: PublicKey) -> DirectoryFuture<'_, Vec<ServerRecord>> {
        Box::pin(async move { self.resolve_among(peer, &[]).await })
    }

    fn publish(&self, mut delegated: Vec<PublicKey>) -> DirectoryFuture<'_, ()> {
        delegated.truncate(DELEGATED_SERVERS_MAX);
        Box::pin(async move {
            let change = self.change(delegated);
            let published = self.client.update(&self.secret, &[], &change).await;
            published.map(drop).map_err(Self::failed(self.secret.public_key()))
        })
    }

    fn withdraw(&self) -> DirectoryFuture<'_, ()> {
        Box::pin(async move {
            let change = self.change(Vec::new());
            let withdrawn = self.client.withdraw(&self.secret, &[], &change).await;
            withdrawn.map_err(Self::failed(self.secret.public_key()))
        })
    }
}

/// What the engine needs to know of a server; `None` for an entry that names no server or no address.
fn record(fetched: &FetchedEntry) -> Option<ServerRecord> {
    let server = fetched.entry().server.as_ref().filter(|server| !server.address.is_empty())?;
    let sessions = server.available_sessions.clamp(1, i64::from(u32::MAX));
    Some(ServerRecord {
        key: fetched.entry().key?,
        address: server.address.clone(),
        available_sessions: u32::try_from(sessions).unwrap_or(1),
    })
}
