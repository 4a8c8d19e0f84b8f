//! One request to a service: which routes it tries, in which order, and how much of its time each may take.
//!
//! ```text
//!   route 1 ──answer──▶ done
//!      │ failed, or no answer in half the time     with hedging: the next route is asked too, the first answer wins
//!      ▼
//!   route 2 ──answer──▶ done
//!      │ failed
//!      ▼
//!   wait for DMSG if it was not ready, try it; else the failure of every path
//! ```
//!
//! A request that may have been delivered is never sent again unless it may be repeated.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use tokio::time::{Instant, sleep};

use super::{
    AccessError, Path, PathFailure, PathTaken, is_repeatable,
    service::{Admitted, Inner},
};
use crate::transport::{Limits, TransportError};

/// One request on its way.
pub(super) struct Call<'a> {
    access: &'a Inner,
    request: Request<Bytes>,
    is_repeatable: bool,
    deadline: Instant,
    body_max_bytes: usize,
    tries: Vec<(Path, PathFailure)>,
    /// It may have been delivered, and must not be sent again.
    is_spent: bool,
}

/// An answer, and whether another path was asked at the same time.
type Answer = (Path, Response<Bytes>, bool);

impl<'a> Call<'a> {
    pub(super) fn new(access: &'a Inner, request: Request<Bytes>, limits: Limits) -> Self {
        Self {
            access,
            is_repeatable: is_repeatable(request.method(), request.extensions()),
            deadline: Instant::now() + limits.timeout,
            body_max_bytes: limits.body_max_bytes,
            request,
            tries: Vec::new(),
            is_spent: false,
        }
    }

    /// Sends it on the routes in the policy's order until one answers.
    pub(super) async fn run(mut self) -> Result<Response<Bytes>, AccessError> {
        for index in 0..self.access.routes.len() {
            if let Some(answer) = self.try_route(index).await {
                return Ok(self.answered(answer));
            }
            if self.is_spent {
                return Err(self.failed());
            }
        }
        // Nothing else is left, so DMSG is worth waiting for.
        if let Some(index) = self.access.index(Path::Dmsg)
            && let Some(place) = self.place_of_not_ready()
        {
            let until = self.deadline.min(Instant::now() + self.access.config.ready_wait);
            if self.access.wait_ready(until).await {
                self.tries.remove(place);
                if let Some(answer) = self.try_route(index).await {
                    return Ok(self.answered(answer));
                }
            }
        }
        if self.tries.iter().all(|(_, failure)| !matches!(failure, PathFailure::Transport(_))) {
            self.access.refuse(self.left()).await;
        }
        Err(self.failed())
    }

    /// Where among the tries it stands that DMSG was not ready.
    fn place_of_not_ready(&self) -> Option<usize> {
        self.tries.iter().position(|(_, failure)| matches!(failure, PathFailure::NotReady(_)))
    }

    /// Tries one route; what went wrong is added to `tries`.
    async fn try_route(&mut self, index: usize) -> Option<Answer> {
        let access = self.access;
        let path = access.routes[index].path;
        if Instant::now() >= self.deadline {
            self.tries.push((path, PathFailure::NoTimeLeft));
            return None;
        }
        // A request that cannot be repeated is not what a doubtful path is tested with, unless there is no other.
        let is_trial = self.is_repeatable || access.routes.len() == 1;
        let admitted = match access.admit(index, is_trial) {
            Ok(admitted) => admitted,
            Err(failure) => {
                self.tries.push((path, failure));
                return None;
            }
        };
        let next = (index + 1..access.routes.len()).find(|&next| access.is_usable(next, is_trial));
        match next.filter(|_| self.is_repeatable) {
            None => self.alone(admitted).await,
            Some(next) => self.with_fallback(admitted, next).await,
        }
    }

    /// Sends it with all the time there is.
    async fn alone(&mut self, admitted: Admitted<'_>) -> Option<Answer> {
        let path = admitted.path();
        let limits = self.limits(Duration::MAX);
        let outcome = admitted.exchange(&self.request, limits).await;
        self.judge(path, outcome)
    }

    /// Sends it with half the time, so that as much is left for the next route; asks that one early if the policy says
    /// so. A request that waits for a network that is gone moves on at once.
    async fn with_fallback(&mut self, admitted: Admitted<'_>, next: usize) -> Option<Answer> {
        let access = self.access;
        let path = admitted.path();
        let half = self.left() / 2;
        let limits = self.limits(half);
        let hedge_after = self.hedge_after(admitted.index);
        let request = self.request.clone();
        let first = admitted.exchange(&request, limits);
        tokio::pin!(first);
        let outcome = tokio::select! {
            outcome = &mut first => outcome,
            () = access.lost(), if path == Path::Dmsg => {
                let why = "lost in the middle of the request".to_owned();
                self.tries.push((path, PathFailure::NotReady(why)));
                return None;
            }
            () = sleep(hedge_after) => {
                let Ok(second) = access.admit(next, true) else {
                    let outcome = first.await;
                    return self.judge(path, outcome);
                };
                return self.race(path, first, second).await;
            }
        };
        self.judge(path, outcome)
    }

    /// The first answer wins, and the other exchange is cancelled.
    async fn race(
        &mut self,
        path: Path,
        mut first: impl Future<Output = Result<Response<Bytes>, TransportError>> + Unpin,
        second: Admitted<'_>,
    ) -> Option<Answer> {
        let other = second.path();
        let limits = self.limits(Duration::MAX);
        let request = self.request.clone();
        let second = second.exchange(&request, limits);
        tokio::pin!(second);
        let (path, outcome) = tokio::select! {
            outcome = &mut first => match outcome {
                Ok(answer) => (path, Ok(answer)),
                Err(error) => {
                    self.tries.push((path, error.into()));
                    (other, second.await)
                }
            },
            outcome = &mut second => match outcome {
                Ok(answer) => (other, Ok(answer)),
                Err(error) => {
                    self.tries.push((other, error.into()));
                    (path, first.await)
                }
            },
        };
        self.judge(path, outcome).map(|(path, answer, _)| (path, answer, true))
    }

    fn judge(
        &mut self,
        path: Path,
        outcome: Result<Response<Bytes>, TransportError>,
    ) -> Option<Answer> {
        match outcome {
            Ok(answer) => Some((path, answer, false)),
            Err(error) => {
                // A longer answer than allowed is the same everywhere.
                self.is_spent = matches!(error, TransportError::BodyTooLarge(_))
                    || (error.may_be_delivered() && !self.is_repeatable);
                self.tries.push((path, error.into()));
                None
            }
        }
    }

    /// At most `most` of the time that is left.
    fn limits(&self, most: Duration) -> Limits {
        Limits { timeout: self.left().min(most), body_max_bytes: self.body_max_bytes }
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn hedge_after(&self, index: usize) -> Duration {
        let Some(hedge) = self.access.config.hedge else { return Duration::MAX };
        let latency = self.access.latency(index);
        latency.map_or(hedge.first, |latency| latency.mul_f64(hedge.factor).max(hedge.first))
    }

    fn answered(self, (path, mut answer, hedged): Answer) -> Response<Bytes> {
        let mut passed_over = self.tries;
        passed_over.retain(|(passed, _)| *passed != path);
        self.access.note_use(path, &passed_over);
        answer.extensions_mut().insert(PathTaken { path, passed_over, hedged });
        answer
    }

    fn failed(mut self) -> AccessError {
        for &path in self.access.config.policy.order() {
            if self.access.index(path).is_none() {
                self.tries.push((path, PathFailure::NoAddress(path)));
            }
        }
        AccessError {
            service: self.access.service(),
            tries: self.tries,
            is_repeatable: self.is_repeatable,
        }
    }
}
