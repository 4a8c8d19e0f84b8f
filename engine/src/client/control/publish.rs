//! Publishing which servers we have sessions with (`discovery.md §7.1`).
//!
//! One publication is under way at a time. The first goes out with the first session; later changes
//! are gathered for one to two times [`COALESCE`], and nothing is sent if the set equals the last one acknowledged,
//! but for the periodic refresh.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{debug, warn};

use super::status::Notes;
use crate::{
    client::{Directory, stats::SessionGauge},
    identity::PublicKey,
};

/// Changes of the set of sessions within this time make one publication. As much again is random, as it is with the other
/// times here: the clients of a server that was restarted all change at once.
const COALESCE: Duration = Duration::from_secs(1);

/// Limit of one publication.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(15);

/// First wait after a failure; doubled each time …
const RETRY_FIRST: Duration = Duration::from_secs(1);

/// … up to this.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// An unchanged entry is published again after this, below the time after which discoveries forget
/// clients.
const REFRESH: Duration = Duration::from_secs(5 * 60);

/// Publishes for ever.
pub(super) async fn keep_published(
    directory: Arc<dyn Directory>,
    mut sessions: watch::Receiver<Vec<Arc<SessionGauge>>>,
    notes: Notes,
) {
    // And when it is due again.
    let mut acknowledged: Option<(BTreeSet<PublicKey>, Instant)> = None;
    let mut retry = RETRY_FIRST;
    loop {
        let current: BTreeSet<_> =
            sessions.borrow_and_update().iter().map(|gauge| gauge.server).collect();
        // An entry without servers helps nobody: the old one stands until there is a session again.
        let due = match &acknowledged {
            _ if current.is_empty() => None,
            Some((set, refresh_at)) if *set == current => Some(*refresh_at),
            _ => Some(Instant::now()),
        };
        if due.is_none_or(|at| at > Instant::now()) {
            let refresh = async {
                match due {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = sessions.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if acknowledged.is_some() {
                        sleep(COALESCE + jitter(COALESCE)).await;
                    }
                }
                () = refresh => {}
            }
            continue;
        }
        let servers = current.iter().copied().collect();
        let trouble = match timeout(PUBLISH_TIMEOUT, directory.publish(servers)).await {
            Ok(Ok(())) => {
                debug!(servers = current.len(), "entry published");
                let refresh_at = Instant::now() + REFRESH - jitter(REFRESH / 5);
                acknowledged = Some((current, refresh_at));
                notes.note_publication(true);
                retry = RETRY_FIRST;
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        warn!(trouble, ?retry, "the entry was not published");
        notes.note_publication(false);
        sleep(retry / 2 + jitter(retry / 2)).await;
        retry = (retry * 2).min(RETRY_MAX);
    }
}

/// A random time up to `most`. Without randomness there is none, and everybody comes in step.
fn jitter(most: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or_default();
    most.mul_f64(f64::from(random) / f64::from(u32::MAX))
}
