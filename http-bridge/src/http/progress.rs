//! When something last moved, for limits that count from the last progress.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// The time of the last progress; shared between whoever makes it and whoever waits for it.
pub(crate) struct Progress {
    begun: Instant,
    last_ms: AtomicU64,
}

impl Default for Progress {
    fn default() -> Self {
        Self { begun: Instant::now(), last_ms: AtomicU64::new(0) }
    }
}

impl Progress {
    /// Notes progress.
    pub(crate) fn touch(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now, Relaxed);
    }

    /// When there last was some.
    pub(crate) fn last(&self) -> Instant {
        self.begun + Duration::from_millis(self.last_ms.load(Relaxed))
    }

    /// Ends when there has been none for `limit`.
    pub(crate) async fn stalled(&self, limit: Duration) {
        loop {
            // What is too far away to be a time never comes.
            let Some(deadline) = self.last().checked_add(limit) else {
                return std::future::pending().await;
            };
            if Instant::now() >= deadline {
                return;
            }
            sleep_until(deadline).await;
        }
    }
}
