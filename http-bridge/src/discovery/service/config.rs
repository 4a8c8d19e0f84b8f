//! What an operator sets.

use std::time::Duration;

use dmsg_engine::identity::{PublicKey, sha256};

use super::CLIENT_TTL;
use crate::discovery::{Clock, RateLimit, system_clock};

/// The secret that makes a server official (`discovery.md §4.2`). Only its hash is kept, and comparing hashes
/// tells nobody how much of a guess was right.
#[derive(Clone)]
pub struct Passphrase([u8; 32]);

impl Passphrase {
    /// `None` for the empty text, which is what servers without a passphrase send.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self(sha256(text.as_bytes())))
    }

    pub(super) fn is(&self, text: &str) -> bool {
        sha256(text.as_bytes()) == self.0
    }
}

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passphrase(redacted)")
    }
}

/// How a discovery behaves.
#[derive(Clone)]
pub struct DiscoveryConfig {
    /// Let servers advertise loopback addresses.
    pub test_mode: bool,
    /// For how long a client stays without a refresh; `None`: for ever. Default [`CLIENT_TTL`].
    pub client_ttl: Option<Duration>,
    /// Keys of the servers to label official.
    pub official_servers: Vec<PublicKey>,
    /// The `serverType` that makes any other server official.
    pub passphrase: Option<Passphrase>,
    /// Keys of the network monitors, which may deregister anybody.
    pub monitors: Vec<PublicKey>,
    /// What a DELETE over clear-net must prove (`discovery.md §7.1`). Off (the default): that it was signed for this, by
    /// a timestamp newer than the stored one, as our client sends it. On: nothing, as it may re-send the stored entry
    /// that anybody can look up; Go clients do that over clear-net, and otherwise expire. Over DMSG the stored entry does
    /// in either case, as the caller's key must be the entry's.
    pub lax_delete: bool,
    /// The key under which this discovery is reachable at DMSG port 80, for its health page.
    pub dmsg_key: Option<PublicKey>,
    /// For callers over DMSG.
    pub rate_limit: RateLimit,
    /// The time.
    pub clock: Clock,
}

impl Default for DiscoveryConfig {
    fn default() -> Self {
        Self {
            test_mode: false,
            client_ttl: Some(CLIENT_TTL),
            official_servers: Vec::new(),
            passphrase: None,
            monitors: Vec::new(),
            lax_delete: false,
            dmsg_key: None,
            rate_limit: RateLimit::default(),
            clock: system_clock(),
        }
    }
}
