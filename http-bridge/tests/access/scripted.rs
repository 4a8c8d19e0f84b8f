//! Transports that do what the test says, and write down what they were asked.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use dmsg_engine::identity::SecretKey;
use dmsg_http::{
    access::{
        AccessConfig, AccessMetrics, AccessPolicy, Path, PathTaken, Paths, Readiness, ServiceAccess,
    },
    service::{Endpoints, ServiceKind},
    transport::{ExchangeFuture, HttpTransport, Limits, TransportError},
};
use http::{Method, Request, Response, StatusCode};
use tokio::{sync::watch, time::sleep};

pub const LIMITS: Limits = Limits { timeout: Duration::from_secs(10), body_max_bytes: 1024 };

/// What a transport does with a request.
#[derive(Debug, Clone)]
pub enum Act {
    Answer(StatusCode),
    AnswerAfter(Duration),
    RefuseConnection,
    BreakOff,
    Hang,
    TooLong,
}

pub struct Scripted {
    act: Mutex<Act>,
    seen: Mutex<Vec<String>>,
    under_way: AtomicUsize,
}

struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Scripted {
    fn new() -> Arc<Self> {
        let act = Mutex::new(Act::Answer(StatusCode::OK));
        Arc::new(Self { act, seen: Mutex::default(), under_way: AtomicUsize::new(0) })
    }

    pub fn set(&self, act: Act) {
        *self.act.lock().unwrap() = act;
    }

    /// How many requests came.
    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// `METHOD address` of each.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    pub fn under_way(&self) -> usize {
        self.under_way.load(SeqCst)
    }
}

impl HttpTransport for Scripted {
    fn exchange(&self, request: Request<Bytes>, limits: Limits) -> ExchangeFuture<'_> {
        Box::pin(async move {
            self.seen.lock().unwrap().push(format!("{} {}", request.method(), request.uri()));
            self.under_way.fetch_add(1, SeqCst);
            let _guard = UnderWay(&self.under_way);
            let act = self.act.lock().unwrap().clone();
            let mut answer = Response::new(Bytes::from_static(b"{}"));
            match act {
                Act::Answer(status) => *answer.status_mut() = status,
                Act::AnswerAfter(wait) if wait < limits.timeout => sleep(wait).await,
                Act::AnswerAfter(_) | Act::Hang => {
                    sleep(limits.timeout).await;
                    return Err(TransportError::Timeout(limits.timeout));
                }
                Act::RefuseConnection => return Err(TransportError::Connect("refused".into())),
                Act::BreakOff => return Err(TransportError::Exchange("broke off".into())),
                Act::TooLong => return Err(TransportError::BodyTooLarge(limits.body_max_bytes)),
            }
            Ok(answer)
        })
    }
}

/// Two scripted paths to one service.
pub struct World {
    pub dmsg: Arc<Scripted>,
    pub http: Arc<Scripted>,
    pub readiness: watch::Sender<Readiness>,
    pub metrics: Arc<AccessMetrics>,
    pub access: ServiceAccess,
}

pub fn key() -> String {
    SecretKey::from_seed(b"service").public_key().to_string()
}

pub fn both() -> Endpoints {
    Endpoints {
        http: Some("http://tpd.example".parse().unwrap()),
        dmsg: Some(format!("dmsg://{}", key()).parse().unwrap()),
    }
}

pub fn ready() -> Readiness {
    Readiness::Ready { sessions: 1 }
}

impl World {
    /// Both addresses, DMSG ready, and the defaults.
    pub fn new() -> Self {
        Self::with(both(), AccessConfig::default())
    }

    pub fn with_policy(policy: AccessPolicy) -> Self {
        Self::with(both(), AccessConfig::with_policy(policy))
    }

    pub fn with(endpoints: Endpoints, config: AccessConfig) -> Self {
        let (dmsg, http) = (Scripted::new(), Scripted::new());
        let readiness = watch::Sender::new(ready());
        let metrics = Arc::<AccessMetrics>::default();
        let paths = Paths {
            dmsg: Arc::<Scripted>::clone(&dmsg),
            readiness: readiness.subscribe(),
            http: Arc::<Scripted>::clone(&http),
        };
        let kind = ServiceKind::TransportDiscovery;
        let access = ServiceAccess::new(kind, &endpoints, paths, config, Arc::clone(&metrics));
        Self { dmsg, http, readiness, metrics, access }
    }

    /// The path that a request took, or the error's text.
    pub async fn call(&self, method: Method) -> Result<Path, String> {
        self.taken(method).await.map(|taken| taken.path)
    }

    pub async fn get(&self) -> Result<Path, String> {
        self.call(Method::GET).await
    }

    pub async fn taken(&self, method: Method) -> Result<PathTaken, String> {
        let request = Request::builder().method(method).uri("/x?y=1").body(Bytes::new()).unwrap();
        let answer = self.access.exchange(request, LIMITS).await.map_err(|e| e.to_string())?;
        Ok(answer.extensions().get::<PathTaken>().unwrap().clone())
    }

    /// How many requests came to DMSG and to HTTP.
    pub fn counts(&self) -> (usize, usize) {
        (self.dmsg.count(), self.http.count())
    }
}
