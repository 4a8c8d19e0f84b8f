//! Publishing which servers we have sessions with (`discovery.md §7.1`).
//!
//! One publication is under way at a time. The first goes out with the first session; later changes
//! are gathered for [`COALESCE`], and nothing is sent if the set equals the last one acknowledged,
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

/// Changes of the set of sessions within this time make one publication.
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
    let mut acknowledged: Option<(BTreeSet<PublicKey>, Instant)> = None;
    let mut retry = RETRY_FIRST;
    loop {
        let current: BTreeSet<_> =
            sessions.borrow_and_update().iter().map(|gauge| gauge.server).collect();
        // An entry without servers helps nobody: the old one stands until there is a session again.
        let due = match &acknowledged {
            _ if current.is_empty() => None,
            Some((set, at)) if *set == current => Some(*at + REFRESH),
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
                        sleep(COALESCE).await;
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
                acknowledged = Some((current, Instant::now()));
                notes.note_publication(true);
                retry = RETRY_FIRST;
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        warn!(trouble, ?retry, "the entry was not published");
        notes.note_publication(false);
        sleep(retry).await;
        retry = (retry * 2).min(RETRY_MAX);
    }
}
