//! What is known of the paths of one service, and how it is shown.

use std::time::Duration;

use tokio::time::Instant;

use super::{AccessPolicy, Breaker, BreakerConfig, BreakerState, Path};
use crate::service::ServiceKind;

/// How much one exchange moves the smoothed latency: an eighth, as TCP does it.
const SMOOTHING: u32 = 8;

/// One path, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStatus {
    /// Which one.
    pub path: Path,
    /// The service's address on it.
    pub address: String,
    /// Its breaker.
    pub breaker: BreakerState,
    /// Smoothed time from call to last byte; `None` before the first answer.
    pub latency: Option<Duration>,
    /// Requests and probes that were answered.
    pub answered: u64,
    /// Requests and probes that were not.
    pub failed: u64,
    /// The last failure, and how long ago it was. It stays when requests succeed again.
    pub last_error: Option<(String, Duration)>,
    /// How long ago the last answer came.
    pub last_answer: Option<Duration>,
    /// From the start of the access object to the first answer.
    pub first_answer: Option<Duration>,
}

/// One service, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceStatus {
    /// Which one.
    pub service: ServiceKind,
    /// What is preferred.
    pub policy: AccessPolicy,
    /// The path of the last answer to a request; probes do not count. `None` before the first.
    pub in_use: Option<Path>,
    /// The paths that the policy allows and the deployment has, the preferred one first.
    pub paths: Vec<PathStatus>,
}

/// What is kept of one path.
#[derive(Debug)]
pub(super) struct PathRecord {
    pub(super) breaker: Breaker,
    latency: Option<Duration>,
    answered: u64,
    failed: u64,
    last_error: Option<(String, Instant)>,
    last_answer: Option<Instant>,
    first_answer: Option<Duration>,
}

impl PathRecord {
    pub(super) fn new(config: BreakerConfig) -> Self {
        Self {
            breaker: Breaker::new(config),
            latency: None,
            answered: 0,
            failed: 0,
            last_error: None,
            last_answer: None,
            first_answer: None,
        }
    }

    pub(super) fn latency(&self) -> Option<Duration> {
        self.latency
    }

    pub(super) fn last_error(&self) -> String {
        self.last_error.as_ref().map(|(text, _)| text.clone()).unwrap_or_default()
    }

    /// Files an answer that took `elapsed`; `started` is when the access object was made.
    pub(super) fn note_answer(&mut self, elapsed: Duration, started: Instant) {
        let now = Instant::now();
        self.answered += 1;
        self.last_answer = Some(now);
        self.first_answer.get_or_insert_with(|| now.duration_since(started));
        self.latency = Some(match self.latency {
            None => elapsed,
            Some(smoothed) => (smoothed * (SMOOTHING - 1) + elapsed) / SMOOTHING,
        });
    }

    /// Files a failure.
    pub(super) fn note_failure(&mut self, error: String) {
        self.failed += 1;
        self.last_error = Some((error, Instant::now()));
    }

    pub(super) fn show(&self, path: Path, address: String) -> PathStatus {
        PathStatus {
            path,
            address,
            breaker: self.breaker.state(),
            latency: self.latency,
            answered: self.answered,
            failed: self.failed,
            last_error: self.last_error.as_ref().map(|(text, at)| (text.clone(), at.elapsed())),
            last_answer: self.last_answer.map(|at| at.elapsed()),
            first_answer: self.first_answer,
        }
    }
}
