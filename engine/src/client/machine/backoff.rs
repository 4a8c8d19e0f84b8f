//! How long to wait before the next session dial to one server.

use std::time::Duration;

/// The first wait after a failure.
pub(super) const BACKOFF_FIRST: Duration = Duration::from_millis(500);

/// The longest wait. A server that was away for long is found again within this.
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// The longest wait while there is no session with any server, for servers that could not be reached at all: nothing else
/// works until one of them is back, and a connection that nobody answers costs little.
pub(super) const LONELY_MAX: Duration = Duration::from_secs(4);

/// Doubling waits with jitter.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: BACKOFF_FIRST }
    }
}

impl Backoff {
    /// The wait after one more failure: between half of the current step and all of it, as `random`
    /// decides, so that the clients of a restarted server do not come back in step.
    pub(super) fn fail(&mut self, random: u32) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(BACKOFF_MAX);
        step / 2 + (step / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// Starts over.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_start_over() {
        let mut backoff = Backoff::default();
        let longest: Vec<_> = (0..8).map(|_| backoff.fail(u32::MAX).as_millis()).collect();
        assert_eq!(longest, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        backoff.reset();
        assert_eq!(backoff.fail(0).as_millis(), 250);
    }
}
