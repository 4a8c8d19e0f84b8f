//! A circuit breaker for one path to one service (`dmsg-http.md §6.4`).
//!
//! ```text
//!              3 failures in a row               its time is over, one trial
//!   Closed ──────────────────────────▶ Open ─────────────────────────────────▶ HalfOpen
//!     ▲                                 ▲  5 s, doubling to 5 min, ± 20 %        │  │
//!     │                                 └─────────────── the trial failed ───────┘  │
//!     └──────────────────────────────────────────────── the trial succeeded ────────┘
//! ```
//!
//! Time and jitter are arguments. Whoever was admitted must report one of `succeed`, `fail` and `release`.

use std::time::Duration;

use tokio::time::Instant;

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BreakerConfig {
    /// Failures in a row that open it.
    pub failures_max: u32,
    /// How long it is open at first.
    pub open_first: Duration,
    /// How long at most; it doubles with each trial that fails.
    pub open_max: Duration,
    /// The part by which the open time varies to either side, so that clients do not come back in step.
    pub jitter: f64,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failures_max: 3,
            open_first: Duration::from_secs(5),
            open_max: Duration::from_secs(300),
            jitter: 0.2,
        }
    }
}

/// What a breaker shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Requests pass.
    Closed,
    /// Requests are turned away until then.
    Open {
        /// When a trial is let through.
        until: Instant,
    },
    /// A trial may pass, or is under way.
    HalfOpen {
        /// One is under way.
        trying: bool,
    },
}

impl BreakerState {
    /// The name in metrics and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen { .. } => "half-open",
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Breaker {
    config: BreakerConfig,
    state: BreakerState,
    /// In a row, while closed.
    failures: u32,
    open_next: Duration,
}

impl Breaker {
    /// A closed one.
    #[must_use]
    pub fn new(config: BreakerConfig) -> Self {
        Self { config, state: BreakerState::Closed, failures: 0, open_next: config.open_first }
    }

    /// How it stands.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        self.state
    }

    /// Whether [`Breaker::admit`] would let a request pass; `is_trial` requests only may test a path that failed.
    #[must_use]
    pub fn admits(&self, now: Instant, is_trial: bool) -> bool {
        match self.state {
            BreakerState::Closed => true,
            BreakerState::Open { until } => is_trial && now >= until,
            BreakerState::HalfOpen { trying } => is_trial && !trying,
        }
    }

    /// Lets a request pass, or not.
    pub fn admit(&mut self, now: Instant, is_trial: bool) -> bool {
        let admitted = self.admits(now, is_trial);
        if admitted && self.state != BreakerState::Closed {
            self.state = BreakerState::HalfOpen { trying: true };
        }
        admitted
    }

    /// The path works, whatever was thought of it before.
    pub fn succeed(&mut self) {
        *self = Self::new(self.config);
    }

    /// A request failed. `draw` is uniform in 0..=1.
    pub fn fail(&mut self, now: Instant, draw: f64) {
        match self.state {
            BreakerState::Closed => {
                self.failures += 1;
                if self.failures >= self.config.failures_max {
                    self.open(now, draw);
                }
            }
            BreakerState::HalfOpen { .. } => self.open(now, draw),
            // A request from before it opened tells nothing new.
            BreakerState::Open { .. } => {}
        }
    }

    /// A request ended without showing anything about the path.
    pub fn release(&mut self) {
        if let BreakerState::HalfOpen { trying } = &mut self.state {
            *trying = false;
        }
    }

    fn open(&mut self, now: Instant, draw: f64) {
        let factor = 1.0 + self.config.jitter * (2.0 * draw.clamp(0.0, 1.0) - 1.0);
        self.state = BreakerState::Open { until: now + self.open_next.mul_f64(factor.max(0.0)) };
        self.open_next = (self.open_next * 2).min(self.config.open_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The middle of the jitter.
    const MIDDLE: f64 = 0.5;

    fn opened() -> (Breaker, Instant) {
        let (mut breaker, now) = (Breaker::new(BreakerConfig::default()), Instant::now());
        for _ in 0..3 {
            assert!(breaker.admit(now, false));
            breaker.fail(now, MIDDLE);
        }
        (breaker, now)
    }

    #[test]
    fn three_failures_in_a_row_open_it_and_a_success_between_does_not() {
        let (mut breaker, now) = (Breaker::new(BreakerConfig::default()), Instant::now());
        for _ in 0..5 {
            breaker.fail(now, MIDDLE);
            breaker.fail(now, MIDDLE);
            breaker.succeed();
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
        let (breaker, now) = opened();
        assert_eq!(breaker.state(), BreakerState::Open { until: now + Duration::from_secs(5) });
    }

    #[test]
    fn one_trial_passes_when_the_time_is_over_and_only_a_trial() {
        let (mut breaker, now) = opened();
        let later = now + Duration::from_secs(5);
        assert!(!breaker.admit(later - Duration::from_millis(1), true));
        assert!(!breaker.admit(later, false));
        assert!(breaker.admit(later, true));
        assert!(!breaker.admit(later, true), "one at a time");
        breaker.release();
        assert!(breaker.admit(later, true), "a cancelled trial gives its place back");
        breaker.succeed();
        assert!(breaker.admit(later, false));
    }

    #[test]
    fn the_open_time_doubles_to_its_maximum_with_jitter() {
        let (mut breaker, mut now) = opened();
        let mut waits = Vec::new();
        for _ in 0..8 {
            let BreakerState::Open { until } = breaker.state() else { panic!("it is open") };
            waits.push((until - now).as_secs());
            now = until;
            assert!(breaker.admit(now, true));
            breaker.fail(now, MIDDLE);
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300]);
        for (draw, seconds) in [(0.0, 4), (1.0, 6)] {
            let (mut breaker, now) = (Breaker::new(BreakerConfig::default()), Instant::now());
            (0..3).for_each(|_| breaker.fail(now, draw));
            let until = now + Duration::from_secs(seconds);
            assert_eq!(breaker.state(), BreakerState::Open { until });
        }
    }

    #[test]
    fn failures_of_old_requests_do_not_prolong_it() {
        let (mut breaker, now) = opened();
        breaker.fail(now + Duration::from_secs(4), MIDDLE);
        assert_eq!(breaker.state(), BreakerState::Open { until: now + Duration::from_secs(5) });
    }
}
