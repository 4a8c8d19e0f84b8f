//! What brings a path back that requests are kept from.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{BreakerState, Readiness, service::Inner};

/// Runs until the access object is gone. Two things bring a path back before a request has to try it: DMSG becoming
/// ready, which makes what failed before a matter of the past, and a probe that succeeds.
pub(super) async fn run(
    access: Weak<Inner>,
    mut readiness: watch::Receiver<Readiness>,
    interval: Duration,
) {
    let mut watches = true;
    let mut probe_at = Instant::now() + varied(interval);
    loop {
        let was_ready = readiness.borrow_and_update().is_ready();
        tokio::select! {
            changed = readiness.changed(), if watches => {
                watches = changed.is_ok();
                let Some(access) = access.upgrade() else { return };
                if !was_ready && readiness.borrow().is_ready() {
                    access.note_ready();
                }
            }
            () = sleep_until(probe_at) => {
                let Some(access) = access.upgrade() else { return };
                probe(&access).await;
                probe_at = Instant::now() + varied(interval);
            }
        }
    }
}

async fn probe(access: &Arc<Inner>) {
    for path in access.paths() {
        if access.breaker(path) != Some(BreakerState::Closed) {
            let outcome = access.probe(path).await;
            tracing::debug!(service = %access.service(), path = path.name(), ?outcome, "probed");
        }
    }
}

/// ± 20 %, so that the clients of a service do not probe it in step.
fn varied(interval: Duration) -> Duration {
    interval.mul_f64(rand::random_range(0.8..=1.2))
}
