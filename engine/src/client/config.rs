//! What a client is started with.

use std::time::Duration;

use crate::{driver::DriverKind, identity::SecretKey, mux::MuxKind};

/// How a client behaves. `ClientConfig::new(key)` gives the defaults.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Our identity.
    pub secret_key: SecretKey,
    /// Sessions to hold; 0 means every server known.
    pub min_sessions: usize,
    /// Which driver.
    pub driver: DriverKind,
    /// Which multiplexer. Nothing on the wire negotiates it (`wire.md §3.2`): every server speaks
    /// yamux, smux only those that were told.
    pub mux: MuxKind,
    /// Limit of one dial, from call to stream.
    pub dial_timeout: Duration,
    /// Limit of one try through one server while others are left to try. The last candidate may
    /// take what remains of `dial_timeout`, since a responder of 2024 may take 20 s (`wire.md
    /// §4.8`).
    pub try_timeout: Duration,
    /// Streams at once, dialled and accepted, handshakes included.
    pub streams_max: usize,
    /// Streams waiting in one listener's accept queue.
    pub accept_queue_max: usize,
    /// A stream that receives nothing for this long is reset. Off by default: an idle limit is the
    /// matter of whoever knows the protocol above. Clients of 2026 use 2 min, servers of 2026 cut
    /// each quiet direction after 5 min (`wire.md §4.8`), whatever is set here.
    pub stream_idle_timeout: Option<Duration>,
    /// How often the list of servers is read again.
    pub update_interval: Duration,
    /// How long what the directory says of a peer is remembered.
    pub memory: Memory,
}

/// How long the answers of a directory are remembered (`discovery.md §8`).
///
/// ```text
///   asked ─── entry_ttl ───┬─── stale_max ─────────┬──▶ asked before the dial
///     used as it is        │ used, and asked again │
/// ```
///
/// A dial that the peer's servers refuse forgets the entry at once. While the directory does not answer, the last entry
/// stands, old as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// A peer's servers are used without asking again.
    pub entry_ttl: Duration,
    /// After that they are used for so long while the directory is asked in the background.
    pub stale_max: Duration,
    /// The absence of a peer is believed.
    pub absent_ttl: Duration,
}

impl Default for Memory {
    /// 5 min, 1 h and 5 s. Clients publish anew every 5 min; a peer that is absent may be just starting.
    fn default() -> Self {
        Self {
            entry_ttl: Duration::from_secs(5 * 60),
            stale_max: Duration::from_secs(60 * 60),
            absent_ttl: Duration::from_secs(5),
        }
    }
}

impl ClientConfig {
    /// Defaults.
    #[must_use]
    pub fn new(secret_key: SecretKey) -> Self {
        Self {
            secret_key,
            min_sessions: 1,
            driver: DriverKind::Auto,
            mux: MuxKind::Yamux,
            dial_timeout: Duration::from_secs(20),
            try_timeout: Duration::from_secs(5),
            streams_max: 8192,
            accept_queue_max: 256,
            stream_idle_timeout: None,
            update_interval: Duration::from_secs(5 * 60),
            memory: Memory::default(),
        }
    }
}
