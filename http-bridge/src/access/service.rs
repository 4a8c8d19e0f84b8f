//! The access to one service: policy, budgets and fallbacks around two transports.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri};
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{Instant, sleep, timeout_at},
};

use super::{
    AccessError, AccessMetrics, AccessPolicy, BreakerConfig, BreakerState, Path, PathFailure,
    PathTaken, Readiness, ServiceStatus, is_repeatable, recovery, status::PathRecord,
};
use crate::{
    service::{Endpoints, ServiceKind},
    transport::{ExchangeFuture, HttpTransport, Limits, TransportError},
};

/// Limit of one probe, and bytes of its answer.
const PROBE_LIMITS: Limits = Limits { timeout: Duration::from_secs(5), body_max_bytes: 64 * 1024 };

/// After DMSG has become ready, services come back one after the other; so long no failure is counted against the path.
const SETTLING: Duration = Duration::from_secs(5);

/// How an access object behaves.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessConfig {
    /// Which paths, in which order.
    pub policy: AccessPolicy,
    /// When a path is given up for a while.
    pub breaker: BreakerConfig,
    /// Asking the second path when the first is slow; off by default.
    pub hedge: Option<HedgeConfig>,
    /// How long a request waits for DMSG when there is nothing else left. Default 5 s.
    pub ready_wait: Duration,
    /// How often a path whose breaker is not closed is probed with `GET /health`. Default 60 s, ± 20 %.
    pub probe_interval: Duration,
}

impl Default for AccessConfig {
    fn default() -> Self {
        Self {
            policy: AccessPolicy::default(),
            breaker: BreakerConfig::default(),
            hedge: None,
            ready_wait: Duration::from_secs(5),
            probe_interval: Duration::from_secs(60),
        }
    }
}

impl AccessConfig {
    /// The defaults with this policy.
    #[must_use]
    pub fn with_policy(policy: AccessPolicy) -> Self {
        Self { policy, ..Self::default() }
    }
}

/// When the second path is asked too. Only requests that may be repeated are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HedgeConfig {
    /// While the first path's latency is not known.
    pub first: Duration,
    /// Else after this many times its smoothed latency, if that is longer.
    pub factor: f64,
}

impl Default for HedgeConfig {
    fn default() -> Self {
        Self { first: Duration::from_millis(1500), factor: 3.0 }
    }
}

/// What carries the requests. The transports take absolute addresses.
#[derive(Clone)]
pub struct Paths {
    /// For `dmsg://` addresses.
    pub dmsg: Arc<dyn HttpTransport>,
    /// Whether DMSG can carry anything.
    pub readiness: watch::Receiver<Readiness>,
    /// For `http://` addresses.
    pub http: Arc<dyn HttpTransport>,
}

/// The access to one service; an [`HttpTransport`] whose requests have a URI in origin form, `/path?query`. Clones
/// share everything.
#[derive(Clone)]
pub struct ServiceAccess(Arc<Inner>);

/// One usable path.
struct Route {
    path: Path,
    /// The address without trailing slash, to which the request's path is appended.
    base: String,
    transport: Arc<dyn HttpTransport>,
}

pub(super) struct Inner {
    service: ServiceKind,
    config: AccessConfig,
    /// In the policy's order.
    routes: Vec<Route>,
    readiness: watch::Receiver<Readiness>,
    state: Mutex<State>,
    metrics: Arc<AccessMetrics>,
    started: Instant,
    recovery: Mutex<Option<AbortHandle>>,
}

struct State {
    /// One for each route.
    records: Vec<PathRecord>,
    in_use: Option<Path>,
    /// When DMSG became ready the last time.
    ready_at: Option<Instant>,
}

impl State {
    fn is_settling(&self, path: Path) -> bool {
        path == Path::Dmsg && self.ready_at.is_some_and(|at| at.elapsed() < SETTLING)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(task) = self.recovery.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

impl ServiceAccess {
    /// An access object. Its recovery task runs on the current tokio runtime.
    #[must_use]
    pub fn new(
        service: ServiceKind,
        endpoints: &Endpoints,
        paths: Paths,
        config: AccessConfig,
        metrics: Arc<AccessMetrics>,
    ) -> Self {
        let routes: Vec<_> = config
            .policy
            .order()
            .iter()
            .filter_map(|&path| {
                let (base, transport) = match path {
                    Path::Dmsg => (endpoints.dmsg.as_ref()?.to_string(), &paths.dmsg),
                    Path::Http => (endpoints.http.as_ref()?.to_string(), &paths.http),
                };
                let base = base.trim_end_matches('/').to_owned();
                Some(Route { path, base, transport: Arc::clone(transport) })
            })
            .collect();
        let records = routes.iter().map(|_| PathRecord::new(config.breaker)).collect();
        let interval = config.probe_interval;
        let inner = Arc::new(Inner {
            service,
            config,
            routes,
            readiness: paths.readiness.clone(),
            state: Mutex::new(State { records, in_use: None, ready_at: None }),
            metrics,
            started: Instant::now(),
            recovery: Mutex::default(),
        });
        let task = tokio::spawn(recovery::run(Arc::downgrade(&inner), paths.readiness, interval));
        *inner.recovery.lock().unwrap_or_else(PoisonError::into_inner) = Some(task.abort_handle());
        Self(inner)
    }

    /// Which service it leads to.
    #[must_use]
    pub fn service(&self) -> ServiceKind {
        self.0.service
    }

    /// Whether the deployment has the service on a path that the policy allows.
    #[must_use]
    pub fn has_address(&self) -> bool {
        !self.0.routes.is_empty()
    }

    /// How its paths fare.
    #[must_use]
    pub fn status(&self) -> ServiceStatus {
        self.0.status()
    }

    /// Asks the service's health page over this path, whatever the breaker says. Gives the time it took.
    ///
    /// # Errors
    /// There is no such path, DMSG is not ready, or the service does not answer.
    pub async fn probe(&self, path: Path) -> Result<Duration, PathFailure> {
        self.0.probe(path).await
    }

    /// Sends a request; the answer's extensions hold the [`PathTaken`].
    pub async fn send(
        &self,
        request: Request<Bytes>,
        limits: Limits,
    ) -> Result<Response<Bytes>, AccessError> {
        let call = Call {
            access: &self.0,
            is_repeatable: is_repeatable(request.method(), request.extensions()),
            deadline: Instant::now() + limits.timeout,
            body_max_bytes: limits.body_max_bytes,
            request,
            tries: Vec::new(),
            is_spent: false,
        };
        call.run().await
    }
}

impl HttpTransport for ServiceAccess {
    fn exchange(&self, request: Request<Bytes>, limits: Limits) -> ExchangeFuture<'_> {
        Box::pin(async move {
            self.send(request, limits).await.map_err(|error| TransportError::Service(error.into()))
        })
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index(&self, path: Path) -> Option<usize> {
        self.routes.iter().position(|route| route.path == path)
    }

    pub(super) fn service(&self) -> ServiceKind {
        self.service
    }

    pub(super) fn paths(&self) -> Vec<Path> {
        self.routes.iter().map(|route| route.path).collect()
    }

    pub(super) fn breaker(&self, path: Path) -> Option<BreakerState> {
        self.index(path).map(|index| self.state().records[index].breaker.state())
    }

    /// DMSG has become ready: what failed before no longer counts, and for a while nothing does.
    pub(super) fn note_ready(&self) {
        if let Some(index) = self.index(Path::Dmsg) {
            let mut state = self.state();
            state.ready_at = Some(Instant::now());
            state.records[index].breaker.succeed();
            self.metrics.set_breaker(self.service, Path::Dmsg, false);
        }
    }

    pub(super) async fn probe(&self, path: Path) -> Result<Duration, PathFailure> {
        let index = self.index(path).ok_or(PathFailure::NoAddress(path))?;
        self.ready(path)?;
        let request = Request::get("/health").body(Bytes::new()).expect("the request is constant");
        let begun = Instant::now();
        let admitted = Admitted { access: self, index, is_settled: false };
        admitted.exchange(&request, PROBE_LIMITS).await?;
        Ok(begun.elapsed())
    }

    fn status(&self) -> ServiceStatus {
        let state = self.state();
        let shown =
            |(route, record): (&Route, &PathRecord)| record.show(route.path, route.base.clone());
        ServiceStatus {
            service: self.service,
            policy: self.config.policy,
            in_use: state.in_use,
            paths: self.routes.iter().zip(&state.records).map(shown).collect(),
        }
    }

    fn ready(&self, path: Path) -> Result<(), PathFailure> {
        let readiness = self.readiness.borrow();
        if path == Path::Http || readiness.is_ready() {
            Ok(())
        } else {
            Err(PathFailure::NotReady(readiness.to_string()))
        }
    }

    /// Whether a request would be let onto the route now.
    fn is_usable(&self, index: usize, is_trial: bool) -> bool {
        let usable = self.state().records[index].breaker.admits(Instant::now(), is_trial);
        usable && self.ready(self.routes[index].path).is_ok()
    }

    fn admit(&self, index: usize, is_trial: bool) -> Result<Admitted<'_>, PathFailure> {
        self.ready(self.routes[index].path)?;
        let record = &mut self.state().records[index];
        if record.breaker.admit(Instant::now(), is_trial) {
            Ok(Admitted { access: self, index, is_settled: false })
        } else {
            Err(PathFailure::BreakerOpen { last_error: record.last_error() })
        }
    }

    /// Waits until DMSG is ready; gives up at `until`, or when it will never be.
    async fn wait_ready(&self, until: Instant) -> bool {
        let mut readiness = self.readiness.clone();
        let settled = readiness.wait_for(|now| !now.may_become_ready());
        match timeout_at(until, settled).await {
            Ok(Ok(now)) => now.is_ready(),
            _ => false,
        }
    }

    /// Waits until DMSG is no longer ready.
    async fn lost(&self) {
        let mut readiness = self.readiness.clone();
        if readiness.wait_for(|now| !now.is_ready()).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Notes which path answered a request, and says so when it is another one than before.
    fn note_use(&self, path: Path, passed_over: &[(Path, PathFailure)]) {
        self.metrics.note_fallbacks(self.service, passed_over);
        let before = self.state().in_use.replace(path);
        if before != Some(path) {
            let service = self.service.name();
            match passed_over.first() {
                Some((_, why)) => {
                    tracing::info!(service, path = path.name(), %why, "requests take this path now");
                }
                None => tracing::info!(service, path = path.name(), "requests take this path now"),
            }
        }
    }
}

/// The right to use a route; dropped without an outcome it gives a breaker's trial back.
struct Admitted<'a> {
    access: &'a Inner,
    index: usize,
    is_settled: bool,
}

impl Admitted<'_> {
    fn path(&self) -> Path {
        self.access.routes[self.index].path
    }

    /// Sends the request on this route and files the outcome.
    async fn exchange(
        mut self,
        request: &Request<Bytes>,
        limits: Limits,
    ) -> Result<Response<Bytes>, TransportError> {
        let route = &self.access.routes[self.index];
        let begun = Instant::now();
        let outcome = match absolute(&route.base, request) {
            Ok(request) => route.transport.exchange(request, limits).await,
            Err(error) => Err(error),
        };
        let elapsed = begun.elapsed();
        self.settle(&outcome, elapsed);
        tracing::debug!(
            service = self.access.service.name(),
            path = route.path.name(),
            method = %request.method(),
            target = request.uri().path(),
            status = outcome.as_ref().ok().map(|answer| answer.status().as_u16()),
            error = outcome.as_ref().err().map(tracing::field::display),
            ?elapsed,
            "request"
        );
        outcome
    }

    fn settle(&mut self, outcome: &Result<Response<Bytes>, TransportError>, elapsed: Duration) {
        let Inner { service, metrics, started, .. } = self.access;
        let path = self.path();
        self.is_settled = true;
        let mut state = self.access.state();
        let is_settling = state.is_settling(path);
        let record = &mut state.records[self.index];
        let failure = match outcome {
            Ok(answer) if is_gateway_failure(answer.status()) => {
                Some(format!("a gateway answered {}", answer.status()))
            }
            // It answered, and more than was wanted.
            Ok(_) | Err(TransportError::BodyTooLarge(_)) => None,
            Err(error) => Some(error.to_string()),
        };
        match failure {
            None => {
                record.note_answer(elapsed, *started);
                record.breaker.succeed();
                metrics.note_answer(*service, path, elapsed);
            }
            Some(error) => {
                record.note_failure(error);
                if is_settling {
                    record.breaker.release();
                } else {
                    record.breaker.fail(Instant::now(), rand::random_range(0.0..=1.0));
                }
                metrics.note_failure(*service, path);
            }
        }
        let is_open = record.breaker.state() != BreakerState::Closed;
        metrics.set_breaker(*service, path, is_open);
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if !self.is_settled {
            self.access.state().records[self.index].breaker.release();
        }
    }
}

/// What a proxy says whose service is away. Other answers, good or bad, show that the path works.
fn is_gateway_failure(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT)
}

/// The request with its address on a route.
fn absolute(base: &str, request: &Request<Bytes>) -> Result<Request<Bytes>, TransportError> {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let text = format!("{base}{target}");
    let uri: Uri = text.parse().map_err(|_| TransportError::UnsupportedScheme(text))?;
    let mut request = request.clone();
    *request.uri_mut() = uri;
    Ok(request)
}

/// One request on its way.
struct Call<'a> {
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

impl Call<'_> {
    async fn run(mut self) -> Result<Response<Bytes>, AccessError> {
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
        let half = self.deadline.saturating_duration_since(Instant::now()) / 2;
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
        let left = self.deadline.saturating_duration_since(Instant::now());
        Limits { timeout: left.min(most), body_max_bytes: self.body_max_bytes }
    }

    fn hedge_after(&self, index: usize) -> Duration {
        let Some(hedge) = self.access.config.hedge else { return Duration::MAX };
        let latency = self.access.state().records[index].latency();
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
            service: self.access.service,
            tries: self.tries,
            is_repeatable: self.is_repeatable,
        }
    }
}
