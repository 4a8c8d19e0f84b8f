//! DMSG discovery: who is reachable through which relay servers (`discovery.md`).
//!
//! ```text
//!   DiscoveryClient ── HttpTransport ──▶ router ─▶ DiscoveryService ─▶ Store (memory │ redb │ Redis)
//!     ├─ HttpDirectory        what the engine's client asks        │
//!     └─ ServerRegistration   keeps a relay server listed          └─ validate · rate limit · metrics
//!                        Entry · RawEntry · EntryError: shared by both sides
//! ```
//!
//! [`Entry`] is the signed record of one key. [`router`] serves the HTTP API on any byte stream: TCP, or
//! a DMSG stream, whose authenticated peer the embedder puts into the request's extensions as [`CallerKey`].
//!
//! What is left out: the CXO feed and the DHT mirror. `/uptimes` (2026) is
//! [`services::uptime_tracker`](crate::services::uptime_tracker)'s, which whoever runs a discovery puts beside the router.
//! Time is an argument throughout; only the edges ([`UnixNanos::system`]) read a clock.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use dmsg_engine::identity::PublicKey;

mod api;
pub mod client;
mod codec;
mod entry;
mod error;
mod metrics;
mod rate_limit;
pub mod service;
pub mod store;
mod validate;

pub use api::router;
pub use client::{ClientError, ClientOptions, DiscoveryClient, HttpDirectory, ServerRegistration};
pub use codec::{RawEntry, Signed};
pub use entry::{ClientPart, ENTRY_VERSION, Entry, ServerPart};
pub use error::EntryError;
pub use rate_limit::RateLimit;
pub(crate) use rate_limit::RateLimiter;
pub(crate) use service::admit_monitor;
pub use service::{DiscoveryConfig, DiscoveryService, PAGE_MAX};
pub use validate::{TIMESTAMP_AHEAD_MAX, TIMESTAMP_BEHIND_MAX, check_iteration, check_new};

/// Bytes of one entry at most (`discovery.md §3`). 512 delegated servers at 69 bytes are 35 KiB; the
/// rest of an entry stays under 2 KiB.
pub const ENTRY_BYTES_MAX: usize = 64 * 1024;

/// Bytes of an entry with a `server` part at most, so that a list of
/// [`SERVERS_MAX`](store::SERVERS_MAX) of them stays within 16 MiB.
pub const SERVER_ENTRY_BYTES_MAX: usize = 8 * 1024;

/// Bytes of an array of keys in a request at most (`discovery.md §3`); about 15,000 keys.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// Delegated servers of one entry at most. A client holds a handful of sessions; 512 is what
/// `available_servers` hands out at most.
pub const DELEGATED_SERVERS_MAX: usize = 512;

/// The key that a DMSG stream's handshake authenticated. Whoever serves [`router`] over DMSG streams
/// puts it into each request's extensions; a request without it came over clear-net.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallerKey(pub PublicKey);

/// Wall-clock time in nanoseconds since 1970, as entries carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixNanos(pub i64);

impl UnixNanos {
    /// Later than every other time; the deadline of what never expires.
    pub const NEVER: Self = Self(i64::MAX);

    /// The system's time. A clock before 1970 or after 2262 reads as that bound.
    #[must_use]
    pub fn system() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    }

    /// This time, `duration` later; saturates.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// How much later than `earlier` this is; zero when it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// A time as `2026-01-31T12:34:56Z`. The proleptic Gregorian calendar, counted in years that begin in March, so
    /// that the leap day is their last.
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        let seconds = self.0.div_euclid(1_000_000_000);
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        // Day 0 of an era of 400 years is 1 March of year 0; 1970-01-01 is day 719,468.
        let days = days + 719_468;
        let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day_of_month = day - (153 * month + 2) / 5 + 1;
        let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        let year = era * 400 + year + next;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

impl From<UnixNanos> for SystemTime {
    fn from(time: UnixNanos) -> Self {
        UNIX_EPOCH + time.since(UnixNanos(0))
    }
}

/// Where the edges read the time: the system's clock, or a test's.
pub type Clock = Arc<dyn Fn() -> UnixNanos + Send + Sync>;

/// The system's clock as a [`Clock`].
#[must_use]
pub fn system_clock() -> Clock {
    Arc::new(UnixNanos::system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(UnixNanos(seconds * 1_000_000_000).to_rfc3339(), text);
        }
    }
}
