//! How fast one client looks peers up: below what a discovery takes of one caller (`discovery.md §4.1`), so that whoever
//! dials thousands of peers waits a little here instead of being refused there, and leaves room for others behind the same
//! address.
//!
//! A bucket is one moment, as in `rate_limit.rs`: when it would be full again. Here a caller that finds it empty waits for
//! its token.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::ClientError;

/// Half of the 100 a second that discoveries allow.
const PER_SECOND: u32 = 50;

/// Half of the 200 that they allow at once.
const AT_ONCE: u32 = 100;

/// Nobody waits longer for its turn; the engine gives a look-up 10 s in all. So 350 look-ups may be under way.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// The bucket of one client; empty means that it is full.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<Option<Instant>>);

impl Pace {
    /// Waits until one more look-up may go out.
    pub(super) async fn turn(&self) -> Result<(), ClientError> {
        let cost = Duration::from_secs(1) / PER_SECOND;
        let now = Instant::now();
        let wait = {
            let mut full_at = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let next = full_at.unwrap_or(now).max(now) + cost;
            let wait = (next - now).saturating_sub(cost * AT_ONCE);
            if wait > WAIT_MAX {
                return Err(ClientError::RateLimited { retry_after: wait });
            }
            *full_at = Some(next);
            wait
        };
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
        let pace = Arc::new(Pace::default());
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
