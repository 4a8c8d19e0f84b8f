//! The client's side: authenticated requests in a row, each with the number that its service expects (`services.md §1.5`).
//!
//! ```text
//!   call ─▶ turn (first come, first served) ─▶ nonce known? ─no─▶ GET /security/nonces/{key}
//!                                               │ yes                        │
//!                                               ▼                            ▼
//!                     sign, send ─ 200 ─▶ nonce + 1, done      401 ─▶ fetch, jitter, sign again (twice at most)
//!                                └ no answer, or dropped ─▶ nonce unknown: the next call fetches it
//! ```
//!
//! Whoever has the turn holds the nonce, so calls of one client never take each other's. When a call ends without
//! an answer nobody knows whether the service counted it; so the number is taken out of its place for the time of
//! the exchange, and only an answer puts one back.
//!
//! Services differ in what they count: Go's only an answer of exactly 200, ours every request that passed the check. The
//! queue finds out: if a number is off by one after another answer than 200, this service counts those too.

use std::{
    net::IpAddr,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use dmsg_engine::identity::{PublicKey, SecretKey};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde::Deserialize;

use super::{NONCE, PUBLIC, PUBLIC_IP, SIGNATURE, sign};
use crate::access::Repeatable;
use crate::services::{
    ServiceError,
    call::{Caller, SMALL_BYTES_MAX, request, short_wait},
    error::message,
};

/// How often one call fetches the nonce anew after a 401.
const RESYNCS_MAX: u32 = 2;

/// What is waited at most before a request is signed again. Two processes with one key so get out of step.
const RESYNC_JITTER_MAX: Duration = Duration::from_millis(100);

/// Authenticates the requests of one key to one service.
pub(crate) struct NonceQueue {
    secret: SecretKey,
    turn: tokio::sync::Mutex<Nonce>,
    public_ip: RwLock<Option<IpAddr>>,
    waiting: AtomicUsize,
    waiting_max: usize,
}

/// What we know of the service's count.
#[derive(Default)]
struct Nonce {
    next: Option<u64>,
    /// A number that an answer other than 200 may or may not have used up.
    doubtful: Option<u64>,
    /// Whether this service counts answers other than 200.
    counts_all: bool,
}

impl Nonce {
    /// An answer other than 401 came to the request with this number.
    fn used(&mut self, nonce: u64, status: StatusCode) {
        let counted = status == StatusCode::OK || self.counts_all;
        self.doubtful = (!counted).then_some(nonce);
        // A service that ran out of numbers will say so itself.
        self.next = if counted { nonce.checked_add(1) } else { Some(nonce) };
    }

    /// The service told its count.
    fn fetched(&mut self, next: u64) {
        self.counts_all |=
            self.doubtful.take().is_some_and(|nonce| nonce.checked_add(1) == Some(next));
        self.next = Some(next);
    }
}

/// Counts who waits, for as long as they do.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl NonceQueue {
    pub(crate) fn new(secret: SecretKey, waiting_max: usize) -> Self {
        Self {
            secret,
            turn: tokio::sync::Mutex::default(),
            public_ip: RwLock::default(),
            waiting: AtomicUsize::new(0),
            waiting_max,
        }
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        self.secret.public_key()
    }

    pub(crate) fn set_public_ip(&self, address: Option<IpAddr>) {
        *self.public_ip.write().unwrap_or_else(PoisonError::into_inner) = address;
    }

    /// Sends `unsigned` signed, in its turn. Any answer but the last 401 is the caller's to judge.
    pub(crate) async fn call(
        &self,
        caller: &Caller,
        unsigned: Request<Bytes>,
        body_max_bytes: usize,
    ) -> Result<Response<Bytes>, ServiceError> {
        let waiting = Waiting(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.waiting_max {
            return Err(ServiceError::Busy(self.waiting_max));
        }
        let mut state = self.turn.lock().await;
        drop(waiting);
        let (mut resyncs_left, mut waits_left) = (RESYNCS_MAX, 1);
        let mut nonce = match state.next.take() {
            Some(nonce) => nonce,
            None => self.fetch(caller, &mut state).await?,
        };
        loop {
            let answer =
                caller.exchange_once(self.signed(&unsigned, nonce), body_max_bytes).await?;
            if answer.status() != StatusCode::UNAUTHORIZED {
                state.used(nonce, answer.status());
                match short_wait(&answer).filter(|_| waits_left > 0) {
                    None => return Ok(answer),
                    Some(wait) => tokio::time::sleep(wait).await,
                }
                waits_left -= 1;
                // The answer may have used the number up: the same signature would not do.
                nonce = match state.next.take() {
                    Some(nonce) => nonce,
                    None => self.fetch(caller, &mut state).await?,
                };
                continue;
            }
            if resyncs_left < RESYNCS_MAX {
                tokio::time::sleep(rand::random_range(Duration::ZERO..=RESYNC_JITTER_MAX)).await;
            }
            let expected = self.fetch(caller, &mut state).await?;
            // A right number and still no: it is not about the number.
            let is_about_nonce = expected != nonce || is_nonce_message(answer.body());
            if resyncs_left == 0 || !is_about_nonce {
                state.next = Some(expected);
                return Ok(answer);
            }
            resyncs_left -= 1;
            nonce = expected;
        }
    }

    /// What the service expects next. It is out of its place until an answer puts it back.
    async fn fetch(&self, caller: &Caller, state: &mut Nonce) -> Result<u64, ServiceError> {
        #[derive(Deserialize)]
        struct NextNonce {
            edge: String,
            next_nonce: u64,
        }
        let path = format!("/security/nonces/{}", self.public_key());
        let request = request(Method::GET, &path, Bytes::new())?;
        let mut answer = caller.exchange_once(request.clone(), SMALL_BYTES_MAX).await?;
        if let Some(wait) = short_wait(&answer) {
            tokio::time::sleep(wait).await;
            answer = caller.exchange_once(request, SMALL_BYTES_MAX).await?;
        }
        if answer.status() != StatusCode::OK {
            return Err(ServiceError::of(&answer));
        }
        let read: NextNonce = serde_json::from_slice(answer.body())
            .map_err(|error| ServiceError::malformed(&path, error))?;
        if read.edge.parse() != Ok(self.public_key()) {
            return Err(ServiceError::malformed(&path, "it is about another key"));
        }
        state.fetched(read.next_nonce);
        state.next = None;
        Ok(read.next_nonce)
    }

    fn signed(&self, unsigned: &Request<Bytes>, nonce: u64) -> Request<Bytes> {
        let value = |text: String| HeaderValue::try_from(text).expect("digits are a header value");
        let mut request = unsigned.clone();
        let signature = sign(&self.secret, request.body(), nonce);
        let headers = request.headers_mut();
        headers.insert(PUBLIC, value(self.public_key().to_string()));
        headers.insert(NONCE, value(nonce.to_string()));
        headers.insert(SIGNATURE, value(signature.to_string()));
        if let Some(address) = *self.public_ip.read().unwrap_or_else(PoisonError::into_inner) {
            headers.insert(PUBLIC_IP, value(address.to_string()));
        }
        // The number lets it through once, however often it arrives.
        request.extensions_mut().insert(Repeatable(true));
        request
    }
}

/// Whether the service complains of the number.
fn is_nonce_message(body: &[u8]) -> bool {
    message(body).contains("SW-Nonce")
}

#[cfg(test)]
mod tests;
