//! One call of a service: a request, signed if need be, and its answer or the error that it means.
//!
//! ```text
//!   open call           ─▶ exchange ─▶ 2xx │ error       429 and 503 that ask for a short wait are waited
//!   authenticated call  ─▶ NonceQueue ─▶ exchange …       out once, within the call's deadline
//! ```

use std::{future::Future, net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use dmsg_engine::identity::{PublicKey, SecretKey, Signature};
use http::{Method, Request, Response, StatusCode, header};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{ServiceError, auth::NonceQueue};
use crate::transport::{HttpTransport, Limits};

/// A 429 or 503 that asks to wait at most this long is waited out once within a call.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);

/// Bytes of an answer that is one object.
pub(super) const SMALL_BYTES_MAX: usize = 64 * 1024;

/// Bytes of an answer that is a list: 100,000 transports of 320 bytes, or 200,000 keys and their uptimes.
pub(super) const LIST_BYTES_MAX: usize = 32 * 1024 * 1024;

/// How long calls may take.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CallOptions {
    /// Limit of one request, from call to last byte. Default 10 s.
    pub exchange_timeout: Duration,
    /// Limit of one call with its turn, its retries and its waits. Default 30 s.
    pub call_timeout: Duration,
    /// Authenticated calls of one client that may wait for their turn. Default 256: at 20 ms each, 5 s.
    pub queue_max: usize,
}

impl Default for CallOptions {
    fn default() -> Self {
        Self {
            exchange_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(30),
            queue_max: 256,
        }
    }
}

/// Calls one service; the typed clients are thin layers over it. Cheap to clone; clones share the nonce.
#[derive(Clone)]
pub struct Caller(Arc<Inner>);

struct Inner {
    transport: Arc<dyn HttpTransport>,
    options: CallOptions,
    nonces: Option<NonceQueue>,
}

impl Caller {
    /// Open calls only.
    #[must_use]
    pub fn open(transport: Arc<dyn HttpTransport>, options: CallOptions) -> Self {
        Self(Arc::new(Inner { transport, options, nonces: None }))
    }

    /// Open calls, and such that prove that we hold `secret`. One client per key and service: two would take each
    /// other's nonces, which costs both a round trip now and then.
    #[must_use]
    pub fn signing(
        transport: Arc<dyn HttpTransport>,
        secret: SecretKey,
        options: CallOptions,
    ) -> Self {
        let nonces = NonceQueue::new(secret, options.queue_max);
        Self(Arc::new(Inner { transport, options, nonces: Some(nonces) }))
    }

    /// Our key, if we sign.
    #[must_use]
    pub fn public_key(&self) -> Option<PublicKey> {
        self.0.nonces.as_ref().map(NonceQueue::public_key)
    }

    /// What we claim as our public address (`SW-PublicIP`): services cannot see it when we come over DMSG.
    pub fn set_public_ip(&self, address: Option<IpAddr>) {
        if let Some(nonces) = &self.0.nonces {
            nonces.set_public_ip(address);
        }
    }

    /// An open call.
    pub async fn call(
        &self,
        request: Request<Bytes>,
        body_max_bytes: usize,
    ) -> Result<Response<Bytes>, ServiceError> {
        self.within_deadline(async { self.exchange(request, body_max_bytes).await }).await
    }

    /// An authenticated call. Fails with [`ServiceError::Unauthorised`] if this caller does not sign.
    pub async fn signed_call(
        &self,
        request: Request<Bytes>,
        body_max_bytes: usize,
    ) -> Result<Response<Bytes>, ServiceError> {
        let Some(nonces) = &self.0.nonces else {
            return Err(ServiceError::Unauthorised(
                "this client was made without a key".to_owned(),
            ));
        };
        self.within_deadline(nonces.call(self, request, body_max_bytes)).await
    }

    async fn within_deadline(
        &self,
        call: impl Future<Output = Result<Response<Bytes>, ServiceError>>,
    ) -> Result<Response<Bytes>, ServiceError> {
        let limit = self.0.options.call_timeout;
        let answer = tokio::time::timeout(limit, call)
            .await
            .map_err(|_| ServiceError::Deadline(limit))??;
        if answer.status().is_success() { Ok(answer) } else { Err(ServiceError::of(&answer)) }
    }

    /// One exchange; a short wait that the answer asks for is kept, once.
    async fn exchange(
        &self,
        request: Request<Bytes>,
        body_max_bytes: usize,
    ) -> Result<Response<Bytes>, ServiceError> {
        let answer = self.exchange_once(request.clone(), body_max_bytes).await?;
        match short_wait(&answer) {
            None => Ok(answer),
            Some(wait) => {
                tokio::time::sleep(wait).await;
                self.exchange_once(request, body_max_bytes).await
            }
        }
    }

    /// One exchange and no more.
    pub(super) async fn exchange_once(
        &self,
        request: Request<Bytes>,
        body_max_bytes: usize,
    ) -> Result<Response<Bytes>, ServiceError> {
        let limits = Limits { timeout: self.0.options.exchange_timeout, body_max_bytes };
        Ok(self.0.transport.exchange(request, limits).await?)
    }

    /// A GET whose answer is JSON.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        body_max_bytes: usize,
    ) -> Result<T, ServiceError> {
        let answer = self.call(request(Method::GET, path, Bytes::new())?, body_max_bytes).await?;
        read(path, answer.body())
    }

    /// An authenticated GET whose answer is JSON.
    pub(super) async fn signed_get<T: DeserializeOwned>(
        &self,
        path: &str,
        body_max_bytes: usize,
    ) -> Result<T, ServiceError> {
        let request = request(Method::GET, path, Bytes::new())?;
        read(path, self.signed_call(request, body_max_bytes).await?.body())
    }

    /// An authenticated request with a JSON body.
    pub(super) async fn signed_send(
        &self,
        method: Method,
        path: &str,
        body: &(impl Serialize + ?Sized + Sync),
        body_max_bytes: usize,
    ) -> Result<Response<Bytes>, ServiceError> {
        self.signed_call(request(method, path, json(path, body)?)?, body_max_bytes).await
    }

    /// The health page, which every service has (`services.md §2`).
    pub async fn health(&self) -> Result<Health, ServiceError> {
        self.get("/health", SMALL_BYTES_MAX).await
    }
}

/// The wait that a 429 or 503 asks for, if it is short enough to be waited out within the call.
pub(super) fn short_wait(answer: &Response<Bytes>) -> Option<Duration> {
    let is_busy =
        matches!(answer.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    let wait = is_busy.then(|| ServiceError::of(answer).retry_after()).flatten();
    wait.filter(|wait| *wait <= RETRY_AFTER_MAX)
}

/// The health page of a service (`services.md §2`); what is absent stays empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// Which service it is; since 2026.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service_name: String,
    /// What was built: version, commit, date.
    #[serde(skip_serializing_if = "serde_json::Value::is_null")]
    pub build_info: serde_json::Value,
    /// When it started, RFC 3339.
    pub started_at: String,
    /// `<key>:<port>` under which it is reached over DMSG.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub dmsg_address: String,
    /// Keys of the servers it holds sessions with.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dmsg_servers: Vec<String>,
    /// The UDP address of an Address Resolver; since 2026.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub udp_address: String,
}

/// A network monitor, which may deregister others (`services.md §2`).
pub struct Monitor {
    key: PublicKey,
    signature: Signature,
}

impl Monitor {
    /// The monitor with this key. Beware: its signature is the same for ever, so whoever sees one can replay it.
    #[must_use]
    pub fn new(secret: &SecretKey) -> Self {
        let key = secret.public_key();
        Self { key, signature: Signature::sign(secret, key.to_string().as_bytes()) }
    }

    pub(super) async fn deregister(
        &self,
        caller: &Caller,
        path: &str,
        body: &(impl Serialize + ?Sized + Sync),
    ) -> Result<(), ServiceError> {
        let mut request = request(Method::DELETE, path, json(path, body)?)?;
        let value = |text: String| text.parse().expect("hex digits are a header value");
        request.headers_mut().insert("nm-pk", value(self.key.to_string()));
        request.headers_mut().insert("nm-sign", value(self.signature.to_string()));
        caller.call(request, SMALL_BYTES_MAX).await.map(drop)
    }
}

/// A request in origin form.
pub(super) fn request(
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Request<Bytes>, ServiceError> {
    let mut request = Request::builder().method(method).uri(path);
    if !body.is_empty() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    request.body(body).map_err(|error| ServiceError::malformed(path, error))
}

/// A body as JSON.
pub(super) fn json(path: &str, body: &(impl Serialize + ?Sized)) -> Result<Bytes, ServiceError> {
    serde_json::to_vec(body).map(Bytes::from).map_err(|error| ServiceError::malformed(path, error))
}

/// An answer's body from JSON.
pub(super) fn read<T: DeserializeOwned>(path: &str, body: &[u8]) -> Result<T, ServiceError> {
    serde_json::from_slice(body).map_err(|error| ServiceError::malformed(path, error))
}

/// A list from JSON, in which `null` is an empty one (`services.md §2`); elements that do not parse are left out.
pub(super) fn read_list<T: DeserializeOwned>(
    path: &str,
    body: &[u8],
) -> Result<Vec<T>, ServiceError> {
    let list: Option<Vec<Box<serde_json::value::RawValue>>> = read(path, body)?;
    let items = list.unwrap_or_default();
    Ok(items.iter().filter_map(|item| serde_json::from_str(item.get()).ok()).collect())
}

/// Text in a path or query, percent-encoded.
pub(super) fn quoted(text: &str) -> percent_encoding::PercentEncode<'_> {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
}
