//! Where a client learns of servers and peers, and publishes itself.

use std::{future::Future, pin::Pin};

use crate::identity::PublicKey;

/// A relay server, as discovery or configuration names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerRecord {
    /// Its identity.
    pub key: PublicKey,
    /// `host:port` as written in its entry; resolved when dialled.
    pub address: String,
    /// Weight for choosing (free capacity); 1 when unknown.
    pub available_sessions: u32,
}

/// Why a directory could not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// Error 100.
    #[error("no discovery entry for {0}: the peer is offline, or its key is mistyped")]
    NotFound(PublicKey),
    /// Anything else.
    #[error("discovery did not answer: {0}")]
    Unavailable(String),
}

/// A boxed future of a directory call.
pub type DirectoryFuture<'a, T> =
    Pin<Box<dyn Future<Output = Result<T, DirectoryError>> + Send + 'a>>;

/// Where a client learns of servers and peers, and publishes itself. Its futures are polled on a
/// tokio runtime (current-thread, with time and net) that the client owns. They may dial through
/// the same client, by a [`crate::client::WeakClient`], as long as resolving the peer they dial
/// does not lead back to themselves.
pub trait Directory: Send + Sync + 'static {
    /// Servers to hold sessions with.
    fn servers(&self) -> DirectoryFuture<'_, Vec<ServerRecord>>;
    /// The delegated servers of a peer.
    fn resolve(&self, peer: PublicKey) -> DirectoryFuture<'_, Vec<ServerRecord>>;
    /// Publishes that `delegated` are the servers we have sessions with.
    fn publish(&self, delegated: Vec<PublicKey>) -> DirectoryFuture<'_, ()>;
    /// Withdraws our entry.
    fn withdraw(&self) -> DirectoryFuture<'_, ()>;
}

/// The directory of a direct client: a fixed list of servers, through which every peer is tried.
#[derive(Debug, Clone)]
pub struct StaticDirectory {
    /// The servers.
    pub servers: Vec<ServerRecord>,
}

impl Directory for StaticDirectory {
    fn servers(&self) -> DirectoryFuture<'_, Vec<ServerRecord>> {
        Box::pin(std::future::ready(Ok(self.servers.clone())))
    }

    fn resolve(&self, _peer: PublicKey) -> DirectoryFuture<'_, Vec<ServerRecord>> {
        self.servers()
    }

    fn publish(&self, _delegated: Vec<PublicKey>) -> DirectoryFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn withdraw(&self) -> DirectoryFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
}
