//! Keeping the list of servers fresh (`discovery.md §6`).

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{names, status::Notes};
use crate::client::{Directory, EngineLink, machine::Command, stats::SessionGauge};

/// First wait while there is no list.
const RETRY_FIRST: Duration = Duration::from_secs(1);

/// Each further wait is longer by this factor …
const RETRY_FACTOR: f64 = 1.3;

/// … up to this, so that the first server to appear is found within 5 s.
const RETRY_MAX: Duration = Duration::from_secs(4);

/// Limit of one question to the directory.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// The list is asked for again after this while no session is up, however long the update interval: all that is on it may
/// be dead, and a server that nobody knew may have come instead. Found within 5 s, as one that comes back is.
const LONELY_FIRST: Duration = Duration::from_secs(4);

/// So often; about four minutes.
const LONELY_NEAR: u32 = 60;

/// Later after this, since by then a whole network may be asking.
const LONELY_LATER: Duration = Duration::from_secs(15);

/// Reads the list and hands it to the machine, for ever: at each interval, and when all sessions
/// were lost.
pub(super) async fn keep_fresh(
    directory: Arc<dyn Directory>,
    link: Arc<EngineLink>,
    mut sessions: watch::Receiver<Vec<Arc<SessionGauge>>>,
    notes: Notes,
    interval: Duration,
) {
    let mut retry = RETRY_FIRST;
    let mut known = BTreeSet::new();
    let mut asked_alone = 0;
    loop {
        let trouble = match timeout(LIST_TIMEOUT, directory.servers()).await {
            Ok(Ok(records)) if !records.is_empty() => {
                let keys: BTreeSet<_> = records.iter().map(|record| record.key).collect();
                if keys != known {
                    info!(count = keys.len(), "the list of servers has changed");
                    known = keys;
                }
                notes.set_list_trouble(None);
                link.post_release(Command::Servers(names::resolve_all(records).await));
                retry = RETRY_FIRST;
                let lonely = if asked_alone < LONELY_NEAR { LONELY_FIRST } else { LONELY_LATER };
                let was_alone = wait_for_need(&mut sessions, interval, lonely).await;
                asked_alone = if was_alone { asked_alone + 1 } else { 0 };
                continue;
            }
            Ok(Ok(_)) => "the list of servers is empty".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no list of servers in time".to_owned(),
        };
        warn!(trouble, ?retry, "no servers to connect to");
        notes.set_list_trouble(Some(trouble));
        sleep(retry).await;
        retry = retry.mul_f64(RETRY_FACTOR).min(RETRY_MAX);
    }
}

/// Waits for the interval (for `lonely` while no session is up), or for the loss of the last session. Whether none was up.
async fn wait_for_need(
    sessions: &mut watch::Receiver<Vec<Arc<SessionGauge>>>,
    interval: Duration,
    lonely: Duration,
) -> bool {
    tokio::select! {
        up = sessions.wait_for(|up| !up.is_empty()) => drop(up),
        () = sleep(lonely.min(interval)) => return true,
    }
    tokio::select! {
        lost = sessions.wait_for(Vec::is_empty) => drop(lost),
        () = sleep(interval) => return false,
    }
    // A session that comes back at once needs no new list.
    sleep(RETRY_FIRST).await;
    false
}
