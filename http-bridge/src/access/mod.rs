//! Which way a request takes to a service: over DMSG, over plain HTTP, or from one to the other (`dmsg-http.md §6`).
//!
//! ```text
//!   typed client ── HttpTransport ──▶ ServiceAccess ──┬─ breaker ─ readiness ─▶ DMSG transport
//!                   /path?query        policy, budget └─ breaker ─────────────▶ TCP transport
//!                                      recovery task ──▶ GET /health on a path whose breaker is not closed
//! ```
//!
//! Rules, in this order:
//!
//! 1. [`AccessPolicy`] and the service's addresses say which paths there are, and in which order they are tried.
//! 2. A path that cannot work now costs nothing: DMSG that is not [`Readiness::Ready`] and a path whose [`Breaker`] is
//!    open are passed over at once. Only when nothing else is left does a request wait for DMSG, within bounds.
//! 3. A request that failed is sent on the next path if it cannot have been delivered, or if it may be repeated.
//! 4. Where no path takes a request, it is told so at once; a caller that asks on in a loop is held up a little each time,
//!    or it would take a whole CPU to hear the same.
//! 5. Every answer says which path it took ([`PathTaken`]), and so do the metrics and the log.
//!
//! Time is tokio's, so that all of this runs with a paused clock.

mod breaker;
mod call;
mod error;
mod metrics;
mod readiness;
mod recovery;
mod service;
mod status;
mod tower;

use std::fmt;

use http::{Extensions, Method};

pub use self::tower::DEFAULT_LIMITS;
pub use breaker::{Breaker, BreakerConfig, BreakerState};
pub use error::{AccessError, PathFailure};
pub use metrics::AccessMetrics;
pub use readiness::Readiness;
pub use service::{AccessConfig, HedgeConfig, Paths, ServiceAccess};
pub use status::{PathStatus, ServiceStatus};

/// Which paths a service's requests may take, and which is preferred.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum AccessPolicy {
    /// DMSG or nothing.
    DmsgOnly,
    /// DMSG, and plain HTTP while that does not work.
    #[default]
    DmsgFirst,
    /// Plain HTTP, and DMSG while that does not work.
    HttpFirst,
    /// Plain HTTP or nothing.
    HttpOnly,
}

impl AccessPolicy {
    /// The paths, the preferred one first.
    #[must_use]
    pub fn order(self) -> &'static [Path] {
        match self {
            Self::DmsgOnly => &[Path::Dmsg],
            Self::DmsgFirst => &[Path::Dmsg, Path::Http],
            Self::HttpFirst => &[Path::Http, Path::Dmsg],
            Self::HttpOnly => &[Path::Http],
        }
    }
}

/// A way to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Path {
    /// Through a relay, encrypted end to end.
    Dmsg,
    /// Plain HTTP over TCP.
    Http,
}

impl Path {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Dmsg, Self::Http];

    /// The name in metric labels, logs and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dmsg => "dmsg",
            Self::Http => "http",
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dmsg => "DMSG",
            Self::Http => "HTTP",
        })
    }
}

/// In the extensions of each answer of a [`ServiceAccess`]: how it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTaken {
    /// The path that answered.
    pub path: Path,
    /// What was wrong with the paths before it; empty when the preferred one answered.
    pub passed_over: Vec<(Path, PathFailure)>,
    /// Whether another path was asked at the same time and answered later.
    pub hedged: bool,
}

/// In the extensions of a request: whether it may be sent twice. Without it the method decides (RFC 9110 §9.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeatable(pub bool);

fn is_repeatable(method: &Method, extensions: &Extensions) -> bool {
    extensions.get::<Repeatable>().map_or_else(|| method.is_idempotent(), |said| said.0)
}
