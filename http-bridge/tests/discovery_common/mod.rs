//! A discovery on loopback with a clock that the test turns, and bare HTTP requests to it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use axum::Extension;
use bytes::Bytes;
use dmsg_engine::identity::{PublicKey, SecretKey};
use dmsg_http::discovery::{
    CallerKey, ClientOptions, Clock, DiscoveryClient, DiscoveryConfig, DiscoveryService, Entry,
    RawEntry, UnixNanos, router,
    store::{MemoryStore, Store, StoreLimits},
};
use dmsg_http::transport::{HttpTransport, Limits, TcpTransport};
use http::{HeaderMap, Method, Request, StatusCode};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};

pub const START: i64 = 1_700_000_000_000_000_000;

pub fn secret(name: &str) -> SecretKey {
    SecretKey::from_seed(name.as_bytes())
}

pub fn key(name: &str) -> PublicKey {
    secret(name).public_key()
}

/// A clock that stands still until it is turned.
#[derive(Clone)]
pub struct TestClock(Arc<AtomicI64>);

impl TestClock {
    pub fn new() -> Self {
        Self(Arc::new(AtomicI64::new(START)))
    }

    pub fn advance(&self, seconds: i64) {
        self.0.fetch_add(seconds * 1_000_000_000, Ordering::SeqCst);
    }

    pub fn now(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    pub fn clock(&self) -> Clock {
        let time = Arc::clone(&self.0);
        Arc::new(move || UnixNanos(time.load(Ordering::SeqCst)))
    }
}

/// A task that ends with its owner.
pub struct Running(JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub struct Discovery {
    pub clock: TestClock,
    pub service: DiscoveryService,
    pub base: String,
    http: TcpTransport,
    _listening: Vec<Running>,
}

impl Discovery {
    pub async fn start(change: impl FnOnce(&mut DiscoveryConfig)) -> Self {
        Self::start_with(Arc::new(MemoryStore::new(StoreLimits::default())), change).await
    }

    pub async fn start_with(
        store: Arc<dyn Store>,
        change: impl FnOnce(&mut DiscoveryConfig),
    ) -> Self {
        let clock = TestClock::new();
        let mut config = DiscoveryConfig { clock: clock.clock(), ..DiscoveryConfig::default() };
        change(&mut config);
        let service = DiscoveryService::new(config, store);
        let (address, running) = serve(router(service.clone())).await;
        Self {
            clock,
            service,
            base: format!("http://{address}"),
            http: TcpTransport::new(),
            _listening: vec![running],
        }
    }

    /// A second address, whose callers all appear as `caller`, as they would over DMSG streams.
    pub async fn listen_as(&mut self, caller: PublicKey) -> String {
        let app = router(self.service.clone()).layer(Extension(CallerKey(caller)));
        let (address, running) = serve(app).await;
        self._listening.push(running);
        format!("http://{address}")
    }

    pub async fn request(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Answer {
        self.request_at(&self.base, method, path, body, &[]).await
    }

    pub async fn request_at(
        &self,
        base: &str,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("{base}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let limits = Limits { timeout: Duration::from_secs(20), body_max_bytes: 64 << 20 };
        let answer = self.http.exchange(request.body(body.into()).unwrap(), limits).await.unwrap();
        Answer {
            status: answer.status(),
            headers: answer.headers().clone(),
            body: answer.into_body(),
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.request(Method::GET, path, Bytes::new()).await
    }

    pub async fn post(&self, body: impl Into<Bytes>) -> Answer {
        self.request(Method::POST, "/dmsg-discovery/entry/", body).await
    }

    pub async fn delete(&self, body: impl Into<Bytes>) -> Answer {
        self.request(Method::DELETE, "/dmsg-discovery/entry", body).await
    }

    pub async fn stored(&self, name: &str) -> Option<RawEntry> {
        let answer = self.get(&format!("/dmsg-discovery/entry/{}", key(name))).await;
        (answer.status == StatusCode::OK).then(|| RawEntry::parse(&answer.body).unwrap())
    }

    pub fn client(&self) -> DiscoveryClient {
        client_of(&self.base, self.clock.clock())
    }

    pub fn client_entry(&self, name: &str, delegated: &[&str]) -> Entry {
        let mut entry = Entry::client(key(name), delegated.iter().map(|d| key(d)).collect());
        entry.timestamp = self.clock.now();
        entry
    }

    pub fn server_entry(&self, name: &str, available_sessions: i64) -> Entry {
        let mut entry = Entry::server(key(name), "203.0.113.5:8080", available_sessions);
        entry.timestamp = self.clock.now();
        entry
    }

    /// Posts a fresh entry and insists that it is taken.
    pub async fn put(&self, entry: Entry, name: &str) -> String {
        let text = signed(entry, name);
        let answer = self.post(text.clone()).await;
        assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
        text
    }
}

pub fn client_of(base: &str, clock: Clock) -> DiscoveryClient {
    let options = ClientOptions { clock, ..ClientOptions::default() };
    DiscoveryClient::new(base, Arc::new(TcpTransport::new()), options).unwrap()
}

pub fn signed(mut entry: Entry, name: &str) -> String {
    entry.sign(&secret(name));
    entry.to_text()
}

async fn serve(app: axum::Router) -> (SocketAddr, Running) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (address, Running(task))
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        assert_eq!(self.headers["content-type"], "application/json");
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The keys of an array, sorted.
    pub fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = serde_json::from_slice(&self.body).unwrap();
        keys.sort();
        keys
    }

    #[track_caller]
    pub fn is(&self, status: u16, message: &str) {
        assert_eq!(self.json(), serde_json::json!({"message": message, "code": status}));
        assert_eq!(self.status.as_u16(), status);
    }
}

pub fn sorted_keys(names: &[&str]) -> Vec<String> {
    let mut keys: Vec<_> = names.iter().map(|name| key(name).to_string()).collect();
    keys.sort();
    keys
}
