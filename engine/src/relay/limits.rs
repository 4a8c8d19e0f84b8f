//! The bounds of a relay core. `docs/limits.md` has the table with each one's metric and test.

use std::time::Duration;

use crate::timers::LONGEST;

/// Bounds of one relay core. All have defaults; none is without effect.
#[derive(Debug, Clone)]
pub struct RelayLimits {
    /// Session handshake, from accept to the third message. Deployed servers use 5 s (`wire.md §2.4`).
    pub handshake_timeout: Duration,
    /// Connections in the handshake on this core. Beyond it the oldest is dropped. At 5 s each and about 150 µs of
    /// CPU per handshake a core serves 6,000/s, so 1,024 cover a burst of a fifth of a second of full load.
    pub handshakes_max: usize,
    /// Connections in the handshake from one address (IPv4, or IPv6 /56): a quarter of `handshakes_max`.
    pub handshakes_per_address_max: usize,
    /// Connections per second from one address in the long run, each a handshake of about 150 µs: 200/s are 3 % of a core.
    /// Beyond it they are closed unread. Loopback is exempt: who is on the machine, or forwards to it, is the operator's.
    pub handshakes_per_second_max: u32,
    /// Connections from one address that may come at once, on top of the rate: a site behind one address whose clients
    /// all come back after a restart.
    pub handshakes_burst_max: u32,
    /// Addresses whose rate is kept apart; the others share one. At about 64 bytes each, 16,384 are 1 MiB.
    pub addresses_max: usize,
    /// Sessions on this core. Beyond it new ones are closed. At 4 KiB each, 65,536 are 256 MiB.
    pub sessions_max: usize,
    /// Sessions from one address (IPv4, or IPv6 /56) on this core: a sixteenth of `sessions_max`, or one address with many keys
    /// could take all places. Loopback is exempt.
    pub sessions_per_address_max: usize,
    /// Streams open at once in one session, as deployed servers have it (`wire.md §4.7`).
    pub streams_per_session_max: usize,
    /// Waiting for a request on a stream that a client opened, and for the destination's answer (`wire.md §4.8`).
    pub dial_timeout: Duration,
    /// Neither direction of a relayed stream carried anything (`wire.md §4.8`).
    pub idle_timeout: Duration,
    /// One direction of a stream has ended, and neither what is still to be sent of it nor the other direction moves.
    pub linger_timeout: Duration,
    /// Bytes that wait for one stream's slow receiver. A yamux window is a twelfth of it; a peer without windows is no longer
    /// read at 384 KiB, and one receive of io_uring can bring all of its 2 MiB of buffers behind that.
    pub stream_pending_bytes_max: usize,
    /// Bytes that may wait for one session however full the core is: 32 streams with a full yamux window in flight. While a
    /// quarter of what the core has free is more, that is the bound. Beyond it the stream with the most is reset.
    pub session_pending_bytes_max: usize,
    /// Bytes that wait on this core: 32 sessions at their bound.
    pub core_pending_bytes_max: usize,
    /// Bytes that wait on all cores together: four cores at their bound. A core at which something arrives beyond it sheds
    /// of its own.
    pub process_pending_bytes_max: u64,
    /// Ping interval. A session that stays silent for another [`RelayLimits::ping_timeout`] after a ping is dead.
    pub ping_interval: Duration,
    /// See `ping_interval`; together 45 s, within which a vanished peer is noticed.
    pub ping_timeout: Duration,
    /// Streams that one session may open and then abandon before they are accepted, per `ping_interval`. An honest client
    /// that cancels 60 dials a second stays below it.
    pub resets_per_interval_max: u32,
    /// Requests of one session that are looked at per `ping_interval`, whatever comes of them; those beyond it are refused
    /// unread. Each costs the check of a signature, about 100 µs with all around it, so 30,000 are 10 % of a core. 1,000
    /// dials a second are more than any known client makes. A look-up of an address counts twice, since it is signed too.
    pub requests_per_interval_max: u32,
    /// Streams that one session may have refused for what it sent or asked for, per `ping_interval`: each costs the check of
    /// a signature, about 100 µs, so 10,000 are 3 % of a core.
    pub refusals_per_interval_max: u32,
    /// Data frames without a byte from one session, per `ping_interval`. No known peer sends any.
    pub empty_frames_per_interval_max: u64,
    /// Frames without payload (pings, updates, opens, ends, and what is for no stream) from one session, per
    /// `ping_interval`, on top of [`RelayLimits::CONTROL_PER_DATA_FRAME`] for each data frame to or from it. Each costs below
    /// 1 µs: 100,000 are less than 0.4 % of a core.
    pub control_frames_per_interval_max: u64,
}

impl RelayLimits {
    /// A stream opens, is acknowledged, updated and finished: so many frames without payload are honest beside one data frame.
    pub const CONTROL_PER_DATA_FRAME: u64 = 4;

    /// The same, with no time longer than a clock can tell ([`LONGEST`]).
    pub(super) fn bounded(mut self) -> Self {
        let times = [
            &mut self.handshake_timeout,
            &mut self.dial_timeout,
            &mut self.idle_timeout,
            &mut self.linger_timeout,
            &mut self.ping_interval,
            &mut self.ping_timeout,
        ];
        for time in times {
            *time = LONGEST.min(*time);
        }
        self
    }
}

impl Default for RelayLimits {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(5),
            handshakes_max: 1024,
            handshakes_per_address_max: 256,
            handshakes_per_second_max: 200,
            handshakes_burst_max: 1000,
            addresses_max: 16_384,
            sessions_max: 65_536,
            sessions_per_address_max: 4096,
            streams_per_session_max: 2048,
            dial_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(300),
            linger_timeout: Duration::from_secs(10),
            stream_pending_bytes_max: 3 << 20,
            session_pending_bytes_max: 8 * 1024 * 1024,
            core_pending_bytes_max: 256 * 1024 * 1024,
            process_pending_bytes_max: 1024 * 1024 * 1024,
            ping_interval: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(15),
            resets_per_interval_max: 2000,
            requests_per_interval_max: 30_000,
            refusals_per_interval_max: 10_000,
            empty_frames_per_interval_max: 1000,
            control_frames_per_interval_max: 100_000,
        }
    }
}
