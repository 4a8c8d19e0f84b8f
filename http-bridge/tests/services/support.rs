//! A service on loopback with a clock that the test turns, and clients of it.
#![allow(clippy::unwrap_used)]

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use bytes::Bytes;
use dmsg_engine::identity::{PublicKey, SecretKey};
use dmsg_http::{
    discovery::UnixNanos,
    http::server::{ServeConfig, ServeStats, serve},
    service::ServiceKind,
    services::{
        Bound, CallOptions,
        host::{HostConfig, Service, router},
    },
    transport::{HttpTransport, Limits, TcpTransport},
};
use http::{Method, Request, Response};
use tokio::{net::TcpListener, task::JoinHandle};

/// 2024-10-01 00:00:00.
pub(crate) const START: i64 = 1_727_740_800_000_000_000;

pub(crate) fn secret(name: &str) -> SecretKey {
    SecretKey::from_seed(name.as_bytes())
}

pub(crate) fn key(name: &str) -> PublicKey {
    secret(name).public_key()
}

#[derive(Clone)]
pub(crate) struct TestClock(Arc<AtomicI64>);

impl TestClock {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicI64::new(START)))
    }

    pub(crate) fn advance(&self, seconds: i64) {
        self.0.fetch_add(seconds * 1_000_000_000, Ordering::SeqCst);
    }

    pub(crate) fn now(&self) -> UnixNanos {
        UnixNanos(self.0.load(Ordering::SeqCst))
    }
}

/// Defaults on this clock, on a network that is private as a whole.
pub(crate) fn config(kind: ServiceKind, clock: &TestClock) -> HostConfig {
    let clock = clock.clone();
    HostConfig {
        allow_private: true,
        clock: Arc::new(move || clock.now()),
        ..HostConfig::new(kind)
    }
}

/// A service that listens on loopback until it is dropped.
pub(crate) struct Running {
    pub(crate) base: String,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    pub(crate) async fn start(service: Arc<dyn Service>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let stats = Arc::new(ServeStats::default());
        let served =
            serve(listener, router(service), ServeConfig::default(), stats, std::future::pending());
        Self { base, task: tokio::spawn(served) }
    }

    pub(crate) fn transport(&self) -> Arc<dyn HttpTransport> {
        Arc::new(Bound::new(&self.base, TcpTransport::new()).unwrap())
    }

    /// A bare request, with headers and a body.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, String)],
        body: impl Into<Bytes>,
    ) -> Response<Bytes> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let limits =
            Limits { timeout: std::time::Duration::from_secs(20), body_max_bytes: 8 << 20 };
        self.transport().exchange(request.body(body.into()).unwrap(), limits).await.unwrap()
    }

    /// The number that the service expects of a key.
    pub(crate) async fn nonce(&self, key: PublicKey) -> u64 {
        let answer =
            self.send(Method::GET, &format!("/security/nonces/{key}"), &[], Bytes::new()).await;
        let value: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
        assert_eq!(value["edge"], key.to_string());
        value["next_nonce"].as_u64().unwrap()
    }
}

/// The headers of a request that is signed with this number.
pub(crate) fn signed(secret: &SecretKey, body: &[u8], nonce: u64) -> Vec<(&'static str, String)> {
    let signature =
        dmsg_http::services::auth::sign(secret, &Bytes::copy_from_slice(body), nonce).to_string();
    vec![
        ("sw-public", secret.public_key().to_string()),
        ("sw-nonce", nonce.to_string()),
        ("sw-sig", signature),
    ]
}

pub(crate) fn options() -> CallOptions {
    CallOptions::default()
}

#[track_caller]
pub(crate) fn is_flat_error(answer: &Response<Bytes>, status: u16, text: &str) {
    let value: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
    let message = value["error"].as_str().unwrap_or_else(|| panic!("{value}"));
    assert!(message.contains(text), "{message}");
    assert_eq!(answer.status().as_u16(), status);
}

#[track_caller]
pub(crate) fn is_nested_error(answer: &Response<Bytes>, status: u16, text: &str) {
    let value: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
    let message = value["error"]["message"].as_str().unwrap_or_else(|| panic!("{value}"));
    assert!(message.contains(text), "{message}");
    assert_eq!(value["error"]["code"], status);
    assert_eq!(answer.status().as_u16(), status);
}
