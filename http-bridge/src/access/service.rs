//! The access to one service: its routes, what is known of each, and who may use one. The way of one request over them is
//! [`Call`]'s.

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
    Readiness, ServiceStatus, call::Call, recovery, status::PathRecord,
};
use crate::{
    pace::Pace,
    service::{Endpoints, ServiceKind},
    transport::{ExchangeFuture, HttpTransport, Limits, TransportError},
};

/// Limit of one probe, and bytes of its answer.
const PROBE_LIMITS: Limits = Limits { timeout: Duration::from_secs(5), body_max_bytes: 64 * 1024 };

/// After DMSG has become ready, services come back one after the other; so long no failure is counted against the path.
const SETTLING: Duration = Duration::from_secs(5);

/// Requests that no path takes are told so at once as long as they come slower than one in this time, …
const REFUSAL_GAP: Duration = Duration::from_millis(5);

/// … but for so many at once; …
const REFUSALS_AT_ONCE: u32 = 100;

/// … beyond that after this long: a caller in a loop would otherwise take all of a CPU to hear the same again and again.
const REFUSAL_WAIT_MAX: Duration = Duration::from_millis(100);

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
pub(super) struct Route {
    pub(super) path: Path,
    /// The address without trailing slash, to which the request's path is appended.
    base: String,
    transport: Arc<dyn HttpTransport>,
}

pub(super) struct Inner {
    service: ServiceKind,
    pub(super) config: AccessConfig,
    /// In the policy's order.
    pub(super) routes: Vec<Route>,
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
    /// Of requests that no path took.
    refusals: Pace,
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
            state: Mutex::new(State {
                records,
                in_use: None,
                ready_at: None,
                refusals: Pace::new(REFUSAL_GAP, REFUSALS_AT_ONCE),
            }),
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

    /// Sends a request; the answer's extensions hold the [`PathTaken`](super::PathTaken).
    pub async fn send(
        &self,
        request: Request<Bytes>,
        limits: Limits,
    ) -> Result<Response<Bytes>, AccessError> {
        Call::new(&self.0, request, limits).run().await
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

    pub(super) fn index(&self, path: Path) -> Option<usize> {
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

    /// How long answers on the route take, if that is known.
    pub(super) fn latency(&self, index: usize) -> Option<Duration> {
        self.state().records[index].latency()
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
    pub(super) fn is_usable(&self, index: usize, is_trial: bool) -> bool {
        let usable = self.state().records[index].breaker.admits(Instant::now(), is_trial);
        usable && self.ready(self.routes[index].path).is_ok()
    }

    pub(super) fn admit(&self, index: usize, is_trial: bool) -> Result<Admitted<'_>, PathFailure> {
        self.ready(self.routes[index].path)?;
        let record = &mut self.state().records[index];
        if record.breaker.admit(Instant::now(), is_trial) {
            Ok(Admitted { access: self, index, is_settled: false })
        } else {
            Err(PathFailure::BreakerOpen { last_error: record.last_error() })
        }
    }

    /// A request that cost nothing is about to fail; those who come in a loop are held up a little, `most` at most.
    pub(super) async fn refuse(&self, most: Duration) {
        let (most, draw) = (most.min(REFUSAL_WAIT_MAX), rand::random_range(0.0..=1.0));
        let wait = self.state().refusals.turn(Instant::now(), most, draw).unwrap_or(most);
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }

    /// Waits until DMSG is ready; gives up at `until`, or when it will never be.
    pub(super) async fn wait_ready(&self, until: Instant) -> bool {
        let mut readiness = self.readiness.clone();
        let settled = readiness.wait_for(|now| !now.may_become_ready());
        match timeout_at(until, settled).await {
            Ok(Ok(now)) => now.is_ready(),
            _ => false,
        }
    }

    /// Waits until DMSG is no longer ready.
    pub(super) async fn lost(&self) {
        let mut readiness = self.readiness.clone();
        if readiness.wait_for(|now| !now.is_ready()).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Notes which path answered a request, and says so when it is another one than before.
    pub(super) fn note_use(&self, path: Path, passed_over: &[(Path, PathFailure)]) {
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
pub(super) struct Admitted<'a> {
    access: &'a Inner,
    pub(super) index: usize,
    is_settled: bool,
}

impl Admitted<'_> {
    pub(super) fn path(&self) -> Path {
        self.access.routes[self.index].path
    }

    /// Sends the request on this route and files the outcome.
    pub(super) async fn exchange(
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
