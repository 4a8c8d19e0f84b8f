//! How long to wait before the next session dial to one server.

use std::time::Duration;

/// The first wait after a failure.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);

/// The longest wait. A server that was away for long is found again within this.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// The longest wait for a server that could not be reached or closed the session, …
const NEAR_MAX: Duration = Duration::from_secs(5);

/// … for so many tries, which are about four minutes: a server that was restarted or killed, even several times, is found again
/// within [`NEAR_MAX`], and one that is gone for good is asked less often.
const NEAR_TRIES: u32 = 60;

/// The longest wait while there is no session with any server, for servers that could not be reached at all: nothing else
/// works until one of them is back, and a connection that nobody answers costs little.
pub(super) const LONELY_MAX: Duration = Duration::from_secs(4);

/// Doubling waits with jitter.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    next: Duration,
    near_tries_left: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: BACKOFF_FIRST, near_tries_left: NEAR_TRIES }
    }
}

impl Backoff {
    /// The wait after one more failure: between half of the current step and all of it, as `random`
    /// decides, so that the clients of a restarted server do not come back in step.
    pub(super) fn fail(&mut self, random: u32) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(BACKOFF_MAX);
        jittered(step, random)
    }

    /// The same, if it says nothing against another try.
    pub(super) fn fail_near(&mut self, random: u32) -> Duration {
        let wait = self.fail(random);
        match self.near_tries_left.checked_sub(1) {
            None => wait,
            Some(left) => {
                self.near_tries_left = left;
                wait.min(jittered(NEAR_MAX, random))
            }
        }
    }

    /// Starts over.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

/// Between half of a step and all of it.
pub(super) fn jittered(step: Duration, random: u32) -> Duration {
    step / 2 + (step / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
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

    #[test]
    fn a_server_that_is_not_there_is_tried_every_five_seconds_for_some_minutes() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..=NEAR_TRIES).map(|_| backoff.fail_near(u32::MAX)).collect();
        let first: Vec<_> = waits[..6].iter().map(Duration::as_millis).collect();
        assert_eq!(first, [500, 1000, 2000, 4000, 5000, 5000]);
        let near: Duration = waits[..NEAR_TRIES as usize].iter().sum();
        assert_eq!((near.as_secs(), waits[NEAR_TRIES as usize]), (287, BACKOFF_MAX));
        backoff.reset();
        assert_eq!(backoff.fail_near(0).as_millis(), 250);
    }
}
