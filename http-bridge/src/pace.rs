//! A pace for those who come faster than is good: so many at once, then one after the other with a gap between.
//!
//! ```text
//!   burst        │││││                 at once
//!   then              │    │    │      one per gap, ± half of it at random, so that nobody goes in step
//! ```
//!
//! The gaps are handed out as they are asked for, so a crowd stands in line without a queue: each learns how long it is to wait.
//! Time and chance are arguments.

use std::time::Duration;

use tokio::time::Instant;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    gap: Duration,
    burst: u32,
    /// When everybody who came so far has had his gap.
    busy_until: Option<Instant>,
}

impl Pace {
    /// One per `gap`, and `burst` more at once.
    pub(crate) fn new(gap: Duration, burst: u32) -> Self {
        Self { gap, burst, busy_until: None }
    }

    /// How long whoever comes at `now` is to wait, if that is `most` at most. Else the turn would come after the time that the
    /// error says, and is not taken from those who come later. `draw` is uniform in 0..=1; 0.5 for gaps without chance.
    pub(crate) fn turn(
        &mut self,
        now: Instant,
        most: Duration,
        draw: f64,
    ) -> Result<Duration, Duration> {
        let busy_until = self.busy_until.map_or(now, |until| until.max(now));
        let wait = busy_until.duration_since(now).saturating_sub(self.gap * self.burst);
        if wait > most {
            return Err(wait);
        }
        self.busy_until = Some(busy_until + self.gap.mul_f64(0.5 + draw.clamp(0.0, 1.0)));
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAP: Duration = Duration::from_millis(10);
    const MOST: Duration = Duration::from_millis(100);

    #[test]
    fn a_burst_passes_and_then_one_per_gap_up_to_the_longest_wait() {
        let (mut pace, now) = (Pace::new(GAP, 3), Instant::now());
        let waits: Vec<_> = (0..20).map(|_| pace.turn(now, MOST, 0.5)).collect();
        let expected = [0, 0, 0, 0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100];
        assert_eq!(waits[..14], expected.map(|ms| Ok(Duration::from_millis(ms))));
        // They took no turns: the line is as long as it was.
        assert!(waits[14..].iter().all(|&wait| wait == Err(MOST + GAP)), "{waits:?}");
        assert_eq!(pace.turn(now + GAP, MOST, 0.5), Ok(MOST));
    }

    #[test]
    fn who_comes_slowly_never_waits_and_a_rest_brings_the_burst_back() {
        let (mut pace, mut now) = (Pace::new(GAP, 1), Instant::now());
        for _ in 0..100 {
            assert_eq!(pace.turn(now, MOST, 1.0), Ok(Duration::ZERO));
            now += GAP * 3 / 2;
        }
        let waits = [0; 4].map(|_| pace.turn(now, MOST, 0.0));
        assert_eq!(waits, [0, 0, 0, 5].map(|ms| Ok(Duration::from_millis(ms))));
    }
}
