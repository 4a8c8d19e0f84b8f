//! The DMSG client: sessions to servers, dialled and accepted streams (`wire.md §3–6`).
//! STUB of the public interface; the client package replaces it.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use crate::{
    driver::DriverKind,
    identity::{PublicKey, SecretKey},
    wire::{Addr, Port},
};

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
#[derive(Debug, Clone, thiserror::Error)]
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
/// tokio runtime (current-thread, with time and net) that the client owns.
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

/// How a client behaves. `ClientConfig::new(key)` gives the defaults.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Our identity.
    pub secret_key: SecretKey,
    /// Sessions to hold; 0 means every server known.
    pub min_sessions: usize,
    /// Which driver.
    pub driver: DriverKind,
    /// Limit of one dial, from call to stream.
    pub dial_timeout: Duration,
    /// Streams at once, dialled and accepted.
    pub streams_max: usize,
    /// Streams waiting in one listener's accept queue.
    pub accept_queue_max: usize,
}

impl ClientConfig {
    /// Defaults.
    #[must_use]
    pub fn new(secret_key: SecretKey) -> Self {
        Self {
            secret_key,
            min_sessions: 1,
            driver: DriverKind::Auto,
            dial_timeout: Duration::from_secs(20),
            streams_max: 8192,
            accept_queue_max: 256,
        }
    }
}

/// Why a client did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The driver could not start.
    #[error("the engine did not start: {0}")]
    Driver(#[from] io::Error),
}

/// Why a dial failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// STUB: the client package gives one variant per cause, each with peer, server, phase, elapsed.
    #[error("the client is closed")]
    Closed,
}

/// Why a port cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Error 400.
    #[error("port {0} is taken by another listener or stream of this client")]
    PortTaken(Port),
    /// The client is closed.
    #[error("the client is closed")]
    Closed,
}

/// A session as `Client::sessions` shows it.
#[derive(Debug, Clone)]
pub struct SessionInfo {
    /// The server.
    pub server: PublicKey,
    /// Its TCP address.
    pub address: SocketAddr,
    /// Open streams.
    pub streams: usize,
    /// Last measured round trip.
    pub rtt: Option<Duration>,
}

/// A handle to a running client: `Send + Sync + Clone`, usable from any runtime. The last clone's drop closes it.
#[derive(Clone)]
pub struct Client {}

impl Client {
    /// Starts the engine; returns at once, sessions come up behind.
    pub fn start(
        _config: ClientConfig,
        _directory: Arc<dyn Directory>,
    ) -> Result<Self, StartError> {
        todo!()
    }
    /// Our identity.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        todo!()
    }
    /// Waits until a first session is up (and, best effort, published). Errors when closed.
    pub async fn ready(&self) -> Result<(), DialError> {
        todo!()
    }
    /// Opens a stream. Dropping the future frees the stream and its port at once.
    pub async fn dial(&self, _to: Addr) -> Result<Stream, DialError> {
        todo!()
    }
    /// Accepts streams on a port.
    pub fn listen(&self, _port: Port) -> Result<Listener, ListenError> {
        todo!()
    }
    /// Our address as a server sees it (`wire.md §5.1`).
    pub async fn lookup_ip(&self, _server: Option<PublicKey>) -> Result<IpAddr, DialError> {
        todo!()
    }
    /// The sessions that are up.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionInfo> {
        todo!()
    }
    /// Ephemeral ports in use.
    #[must_use]
    pub fn ports_in_use(&self) -> usize {
        todo!()
    }
    /// Closes sessions, withdraws the entry; at most 2 s.
    pub async fn close(&self) {
        todo!()
    }
}

/// An encrypted byte stream between two clients. Dropping it closes it.
pub struct Stream {}

impl Stream {
    /// Our key and port.
    #[must_use]
    pub fn local_addr(&self) -> Addr {
        todo!()
    }
    /// The peer's key (authenticated by the handshake) and port.
    #[must_use]
    pub fn remote_addr(&self) -> Addr {
        todo!()
    }
    /// The server it runs through.
    #[must_use]
    pub fn server(&self) -> PublicKey {
        todo!()
    }
}

impl tokio::io::AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        _buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        todo!()
    }
}
impl tokio::io::AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        _buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        todo!()
    }
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        todo!()
    }
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        todo!()
    }
}

/// Accepts streams on one port. Dropping it frees the port.
pub struct Listener {}

impl Listener {
    /// Our key and the port.
    #[must_use]
    pub fn local_addr(&self) -> Addr {
        todo!()
    }
    /// The next stream. Errors when the client is closed.
    pub async fn accept(&mut self) -> Result<Stream, DialError> {
        todo!()
    }
}
