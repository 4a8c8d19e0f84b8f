//! What a client is started with.

use std::time::Duration;

use crate::{
    driver::DriverKind, identity::SecretKey, mux::MuxKind, pool::StreamLimits, timers::LONGEST,
};

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
    /// Streams at once, dialled and accepted, handshakes included. Default 8,192: half of the
    /// ephemeral ports.
    pub streams_max: usize,
    /// Streams at once through one server. Default 2,048: what deployed servers take.
    pub streams_per_session_max: usize,
    /// Dialled streams at once to one peer. Default 4,096: half of `streams_max`, so that no peer,
    /// dead or slow, takes the others' places.
    pub streams_per_destination_max: usize,
    /// Dials that may wait for a place when all are taken; a quarter of them for one peer. Default
    /// 1,024.
    pub stream_waiters_max: usize,
    /// How long a dial waits for a place. Default 5 s.
    pub stream_wait_timeout: Duration,
    /// When a place is needed and all are taken, the stalest reclaimable stream is reset that has
    /// had unread data for at least this long; `None`: never. Default 250 ms: longer than a reader
    /// that is at work pauses, and short enough for 8,192 / 0.25 s = 32,768 leaks a second.
    pub unread_min_age: Option<Duration>,
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
    /// Whether peers that can do so are dialled again, and dial us again, without a handshake of their own for each stream
    /// (`docs/extensions.md §1`). Default true. Without, every stream's keys are of its own handshake.
    pub resume_dials: bool,
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
            streams_per_session_max: 2048,
            streams_per_destination_max: 4096,
            stream_waiters_max: 1024,
            stream_wait_timeout: Duration::from_secs(5),
            unread_min_age: Some(Duration::from_millis(250)),
            accept_queue_max: 256,
            stream_idle_timeout: None,
            update_interval: Duration::from_secs(5 * 60),
            memory: Memory::default(),
            resume_dials: true,
        }
    }

    /// The same, with no time longer than a clock can tell ([`LONGEST`]).
    pub(crate) fn bounded(mut self) -> Self {
        let Memory { entry_ttl, stale_max, absent_ttl } = &mut self.memory;
        let times = [
            &mut self.dial_timeout,
            &mut self.try_timeout,
            &mut self.stream_wait_timeout,
            &mut self.update_interval,
            entry_ttl,
            stale_max,
            absent_ttl,
        ];
        for time in times.into_iter().chain(&mut self.stream_idle_timeout) {
            *time = LONGEST.min(*time);
        }
        self
    }

    /// The limits of the client's streams.
    #[must_use]
    pub fn stream_limits(&self) -> StreamLimits {
        StreamLimits {
            total_max: self.streams_max,
            per_destination_max: self.streams_per_destination_max,
            waiting_max: self.stream_waiters_max,
            waiting_per_destination_max: self.stream_waiters_max.div_ceil(4),
            unread_min_age: self.unread_min_age,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_one_that_a_clock_can_tell() {
        let max = Duration::MAX;
        let mut config = ClientConfig::new(SecretKey::from_seed(b"times"));
        config.dial_timeout = max;
        config.try_timeout = max;
        config.stream_wait_timeout = max;
        config.update_interval = max;
        config.stream_idle_timeout = Some(max);
        config.memory = Memory { entry_ttl: max, stale_max: max, absent_ttl: max };
        let config = config.bounded();
        let Memory { entry_ttl, stale_max, absent_ttl } = config.memory;
        let times = [
            config.dial_timeout,
            config.try_timeout,
            config.stream_wait_timeout,
            config.update_interval,
            config.stream_idle_timeout.unwrap_or(max),
            entry_ttl,
            stale_max,
            absent_ttl,
        ];
        assert_eq!(times, [LONGEST; 8]);
    }
}
