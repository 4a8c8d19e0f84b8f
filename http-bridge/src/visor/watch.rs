//! One service of a visor: its calls, and what came of them.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dmsg_engine::identity::SecretKey;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{
    calls::Caller,
    status::{CallStatus, ServiceView},
};
use crate::access::{Path, Readiness, ServiceAccess};

/// Between two calls until every path has answered once.
const EAGER_INTERVAL: Duration = Duration::from_secs(1);

/// So often at most calls are that close; then the service or a path of it is down for longer.
const EAGER_CALLS_MAX: u32 = 30;

pub(super) struct Watched {
    access: ServiceAccess,
    caller: Caller,
    started: Instant,
    last: Mutex<Option<Last>>,
}

struct Last {
    outcome: Result<String, String>,
    at: Instant,
    /// From the start of the visor to the first call that succeeded.
    first_success: Option<Duration>,
    calls: u64,
}

impl Watched {
    pub(super) fn new(access: ServiceAccess, secret: &SecretKey) -> Self {
        let caller = Caller::new(&access, secret);
        Self { access, caller, started: Instant::now(), last: Mutex::default() }
    }

    pub(super) fn access(&self) -> &ServiceAccess {
        &self.access
    }

    pub(super) fn view(&self) -> ServiceView {
        let last = self.last();
        ServiceView {
            call: self.caller.what(),
            last_call: last.as_ref().map(|last| CallStatus {
                outcome: last.outcome.clone(),
                ago: last.at.elapsed(),
                count: last.calls,
            }),
            first_success: last.as_ref().and_then(|last| last.first_success),
            access: self.access.status(),
        }
    }

    /// Calls for ever; at once when DMSG becomes ready or is lost.
    pub(super) async fn run(
        self: Arc<Self>,
        mut readiness: watch::Receiver<Readiness>,
        interval: Duration,
    ) {
        let mut eager_left = EAGER_CALLS_MAX;
        loop {
            let was_ready = readiness.borrow_and_update().is_ready();
            self.call().await;
            self.ask_idle_paths(interval).await;
            let is_eager = eager_left > 0 && !self.has_answered_everywhere();
            eager_left = eager_left.saturating_sub(1);
            let wait = if is_eager { EAGER_INTERVAL.min(interval) } else { interval };
            let turned = async {
                if readiness.wait_for(|now| now.is_ready() != was_ready).await.is_err() {
                    // Nobody will tell any more.
                    std::future::pending::<()>().await;
                }
            };
            let _ = timeout(wait, turned).await;
        }
    }

    async fn call(&self) {
        let outcome = self.caller.call().await;
        if let Err(error) = &outcome {
            tracing::debug!(service = %self.access.service(), error, "the call failed");
        }
        let now = Instant::now();
        let mut last = self.last();
        let before = last.take();
        let succeeded = outcome.is_ok().then(|| now.duration_since(self.started));
        *last = Some(Last {
            first_success: before.as_ref().and_then(|last| last.first_success).or(succeeded),
            calls: before.map_or(0, |last| last.calls) + 1,
            outcome,
            at: now,
        });
    }

    /// Asks the paths that no call took lately, so that their latency and their trouble can be shown.
    async fn ask_idle_paths(&self, interval: Duration) {
        for path in self.access.status().paths {
            if path.last_answer.is_none_or(|ago| ago >= interval * 3) {
                let _ = self.access.probe(path.path).await;
            }
        }
    }

    fn has_answered_everywhere(&self) -> bool {
        self.access.status().paths.iter().all(|path| path.answered > 0)
            && self.access.status().in_use.is_none_or(|path| path == self.preferred())
    }

    fn preferred(&self) -> Path {
        self.access.status().policy.order()[0]
    }

    fn last(&self) -> MutexGuard<'_, Option<Last>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
