//! The relay server: listeners, one relay machine per core (`wire.md §4.7`).
//! STUB of the public interface.

use std::{io, net::SocketAddr};

use crate::{
    driver::DriverKind,
    identity::{PublicKey, SecretKey},
};

/// How a server behaves. `ServerConfig::new(key, listen)` gives the defaults.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Our identity.
    pub secret_key: SecretKey,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Worker threads, each with its own listener (`SO_REUSEPORT`).
    pub threads: usize,
    /// Which driver.
    pub driver: DriverKind,
    /// Sessions to advertise and hold.
    pub sessions_max: usize,
}

impl ServerConfig {
    /// Defaults.
    #[must_use]
    pub fn new(secret_key: SecretKey, listen: SocketAddr) -> Self {
        Self { secret_key, listen, threads: 1, driver: DriverKind::Auto, sessions_max: 2048 }
    }
}

/// What a server counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerStats {
    /// Sessions that are up.
    pub sessions: u64,
    /// Streams being relayed.
    pub streams: u64,
    /// Payload bytes relayed since start.
    pub relayed_bytes: u64,
    /// Streams refused since start, by reason.
    pub refused: Vec<(&'static str, u64)>,
    /// Sessions closed since start, by reason.
    pub closed: Vec<(&'static str, u64)>,
}

/// A running relay server. Dropping it stops it.
pub struct Server {}

impl Server {
    /// Binds and starts.
    pub fn start(_config: ServerConfig) -> io::Result<Self> {
        todo!()
    }
    /// Our identity.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        todo!()
    }
    /// The bound address (with the real port when 0 was asked for).
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        todo!()
    }
    /// The driver in use.
    #[must_use]
    pub fn driver(&self) -> DriverKind {
        todo!()
    }
    /// Counters.
    #[must_use]
    pub fn stats(&self) -> ServerStats {
        todo!()
    }
    /// Keys of the sessions that are up.
    #[must_use]
    pub fn session_keys(&self) -> Vec<PublicKey> {
        todo!()
    }
    /// Stops: sessions are closed, threads joined.
    pub fn shutdown(self) {
        todo!()
    }
}
