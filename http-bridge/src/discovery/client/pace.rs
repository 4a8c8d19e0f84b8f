//! How fast one client looks peers up: below what a discovery takes of one caller (`discovery.md §4.1`), so that whoever
//! dials thousands of peers waits a little here instead of being refused there, and leaves room for others behind the same
//! address.
//!
//! The arithmetic is in [`pace`](crate::pace); a turn that would come too late is refused.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::ClientError;
use crate::pace::Pace;

/// Half of the 100 a second that discoveries allow.
const PER_SECOND: u32 = 50;

/// Half of the 200 that they allow at once.
const AT_ONCE: u32 = 100;

/// Gaps of one length: these are to be as many as allowed, and not to keep out of each other's step.
const NO_CHANCE: f64 = 0.5;

/// Nobody waits longer for its turn; the engine gives a look-up 10 s in all. So 350 look-ups may be under way.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// The pace of one client.
#[derive(Debug)]
pub(super) struct LookUpPace(Mutex<Pace>);

impl Default for LookUpPace {
    fn default() -> Self {
        // One goes at once anyway.
        Self(Mutex::new(Pace::new(Duration::from_secs(1) / PER_SECOND, AT_ONCE - 1)))
    }
}

impl LookUpPace {
    /// Waits until one more look-up may go out.
    pub(super) async fn turn(&self) -> Result<(), ClientError> {
        let turn = {
            let mut pace = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            pace.turn(Instant::now(), WAIT_MAX, NO_CHANCE)
        };
        let wait = turn.map_err(|retry_after| ClientError::RateLimited { retry_after })?;
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_goes_out_at_once_then_fifty_a_second_and_what_would_wait_for_long_fails() {
        let pace = Arc::new(LookUpPace::default());
        let begun = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..1000 {
            let pace = Arc::clone(&pace);
            tasks.spawn(async move { pace.turn().await.map(|()| begun.elapsed()) });
        }
        let (mut gone, mut refused) = (Vec::new(), 0);
        while let Some(outcome) = tasks.join_next().await {
            match outcome.unwrap() {
                Ok(after) => gone.push(after),
                Err(_) => refused += 1,
            }
        }
        let within = |limit: u64| gone.iter().filter(|at| at.as_millis() <= limit.into()).count();
        assert_eq!((within(0), within(1000), within(5001), refused), (100, 150, 350, 650));
        tokio::time::advance(Duration::from_secs(60)).await;
        let again = Instant::now();
        for _ in 0..100 {
            pace.turn().await.unwrap();
        }
        assert_eq!(again.elapsed(), Duration::ZERO, "full again");
    }
}
