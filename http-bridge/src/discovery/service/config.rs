//! What an operator sets.

use std::{sync::Arc, time::Duration};

use dmsg_engine::identity::{PublicKey, sha256};

use super::CLIENT_TTL;
use crate::discovery::{Clock, RateLimit, UnixNanos, system_clock};

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

/// Who hears of the visors that registered, and when; must not wait.
pub type Seen = Arc<dyn Fn(PublicKey, UnixNanos) + Send + Sync>;

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
    /// Hears of each visor's entry that was stored: since 2026 that is a sign of life (`services.md §8`).
    pub seen: Option<Seen>,
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
            seen: None,
            rate_limit: RateLimit::default(),
            clock: system_clock(),
        }
    }
}
