//! The HTTP/1.1 client (`dmsg-http.md §3`).
//!
//! One request runs at a time on a stream; finished streams wait in the pool for the next request to
//! the same destination. A pooled stream may have been closed by the peer meanwhile. Then the request
//! is sent once more on a fresh stream, unseen by the caller, but only where that cannot repeat
//! anything: if none of it was written, or if its method is idempotent and its body in memory.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::BytesMut;
use dmsg_engine::wire::Addr;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version, header};
use http_body::Body;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    Dial, HttpError, POOL_IDLE_TIMEOUT, Request, ResponseBody, SERVER_IDLE_TIMEOUT,
    failing::Failing,
    length::framing_problem,
    list::is_named,
    live::{BodyLimits, Live},
    pool::{Conn, Lease, Pool},
    request::SentBody,
};
use crate::url::DmsgUrl;

/// Redirects followed by [`HttpClient::send_following`].
const REDIRECTS_MAX: usize = 5;

/// How long a pooled stream may take to say that it is ready; it says so at once or never.
const POOLED_READY_TIMEOUT: Duration = Duration::from_millis(250);

/// Limits and deadlines of an [`HttpClient`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HttpConfig {
    /// From the call of the dial to the stream. Default 20 s, the peers' handshake limit.
    pub connect_timeout: Duration,
    /// From the last piece of the request to the response head. Default 30 s.
    pub head_timeout: Duration,
    /// Between two pieces of a response body that is being read. Default 30 s.
    pub body_timeout: Duration,
    /// From the call of `send` to the last byte of the response's body, whatever happens in between. Default none: a
    /// download may take hours, and the other limits notice when it stops.
    pub total_timeout: Option<Duration>,
    /// Bytes of a request's body. Default no limit: it is the caller's own.
    pub request_body_max_bytes: u64,
    /// Bytes of a response's body. Default no limit for who reads it piece by piece; whoever wants it whole says how much
    /// he takes ([`ResponseBody::read_to_end`], [`super::WHOLE_BODY_MAX_BYTES`]).
    pub response_body_max_bytes: u64,
    /// Bytes of a response's head. Default 64 KiB; hyper needs 8 KiB at least.
    pub head_max_bytes: usize,
    /// Headers of a response. Default 100.
    pub headers_max: usize,
    /// How long an idle stream is kept. Default 90 s, below the 115 s of our own server and the
    /// 120 s of a stream, so that we rarely write to one that the peer is closing.
    pub idle_timeout: Duration,
    /// A response that nobody reads or drops for this long loses its stream. Default 5 min.
    pub abandoned_timeout: Duration,
    /// Idle streams kept per destination. Default 64: with those in use, the 256 that our servers take of one caller. With 0,
    /// requests say `Connection: close`.
    pub idle_per_destination_max: usize,
    /// Idle streams kept in all. Default 256.
    pub idle_max: usize,
    /// What for, in the census of streams. Default `http`.
    pub label: Arc<str>,
    /// Requests that may wait for a stream when all are in use. Default 1024: as many again.
    pub waiting_max: usize,
    /// How long they may, and how long a request waits for its turn at a destination that has not answered of late. Default 5 s.
    pub wait_timeout: Duration,
    /// When a stream is needed and all are in use, the response is given up that has lain unread for
    /// longest, and for at least this long; `None`: none is. Default 250 ms.
    pub unread_min_age: Option<Duration>,
    /// Bytes of short responses that are read into memory when many lie unread, so that their streams are free at once; when it
    /// is full, what has lain there for longest gives way, after `unread_min_age`. Default 32 MiB: of 4 KiB each,
    /// 32 MiB / 0.25 s are 32,768 leaks a second; 0: none is.
    pub unread_buffer_max_bytes: usize,
    /// Streams in use at once. Default 1024: an eighth of a client's streams, so that one HTTP
    /// client cannot starve the rest of the process.
    pub streams_max: usize,
    /// Streams in use at once to one destination. Default 192, three quarters of what our servers take of one caller, so that
    /// unread responses give way here before a server refuses us.
    pub streams_per_destination_max: usize,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(20),
            head_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            total_timeout: None,
            request_body_max_bytes: u64::MAX,
            response_body_max_bytes: u64::MAX,
            head_max_bytes: 64 * 1024,
            headers_max: 100,
            idle_timeout: POOL_IDLE_TIMEOUT,
            abandoned_timeout: Duration::from_secs(300),
            idle_per_destination_max: 64,
            idle_max: 256,
            label: "http".into(),
            waiting_max: 1024,
            wait_timeout: Duration::from_secs(5),
            unread_min_age: Some(Duration::from_millis(250)),
            unread_buffer_max_bytes: 32 * 1024 * 1024,
            streams_max: 1024,
            streams_per_destination_max: 192,
        }
    }
}

/// An HTTP client over the streams of `D`. Clones share the pool.
pub struct HttpClient<D> {
    inner: Arc<Inner<D>>,
}

struct Inner<D> {
    dial: D,
    config: HttpConfig,
    pool: Arc<Pool>,
    failing: Failing,
}

impl<D> Clone for HttpClient<D> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

/// A failed exchange, and the request if none of it was written.
struct Failed {
    error: HttpError,
    unsent: Option<Request>,
}

impl From<HttpError> for Failed {
    fn from(error: HttpError) -> Self {
        Self { error, unsent: None }
    }
}

impl<D: Dial> HttpClient<D> {
    /// A client with the default limits.
    #[must_use]
    pub fn new(dial: D) -> Self {
        Self::with_config(dial, HttpConfig::default())
    }

    /// A client with its own limits.
    #[must_use]
    pub fn with_config(dial: D, config: HttpConfig) -> Self {
        let mut config = config;
        if config.idle_timeout >= SERVER_IDLE_TIMEOUT {
            tracing::warn!(
                asked = ?config.idle_timeout, used = ?POOL_IDLE_TIMEOUT,
                "idle streams must be given up before servers close them"
            );
            config.idle_timeout = POOL_IDLE_TIMEOUT;
        }
        let pool = Pool::new(config.clone());
        Self { inner: Arc::new(Inner { dial, config, pool, failing: Failing::default() }) }
    }

    /// Where streams come from.
    #[must_use]
    pub fn dialer(&self) -> &D {
        &self.inner.dial
    }

    pub(crate) fn config(&self) -> &HttpConfig {
        &self.inner.config
    }

    /// Streams idle in the pool, and streams in use.
    #[must_use]
    pub fn stream_counts(&self) -> (usize, usize) {
        self.inner.pool.counts()
    }

    /// Bytes of responses that were read into memory because nobody read them ([`HttpConfig::unread_buffer_max_bytes`]).
    #[must_use]
    pub fn unread_buffer_bytes(&self) -> usize {
        self.inner.pool.ahead.bytes()
    }

    /// Closes the idle streams.
    pub fn close_idle(&self) {
        self.inner.pool.close_idle();
    }

    /// Sends a request and waits for the response head. Dropping the future closes the stream.
    ///
    /// The head of a response to `Expect: 100-continue` comes without the body having been sent, if the peer wants it so; a 101
    /// comes with a body that turns into the raw stream ([`ResponseBody::upgrade`]).
    pub async fn send(&self, request: Request) -> Result<Response<ResponseBody>, HttpError> {
        self.send_within(request, self.inner.config.total_timeout).await
    }

    pub(super) fn total_timeout(&self) -> Option<Duration> {
        self.inner.config.total_timeout
    }

    /// The same with another limit for the whole exchange.
    pub(super) async fn send_within(
        &self,
        request: Request,
        total: Option<Duration>,
    ) -> Result<Response<ResponseBody>, HttpError> {
        // What is too far away to be a time is no limit.
        let begun = Instant::now();
        let deadline = total.and_then(|after| Some((begun.checked_add(after)?, after)));
        let to = request.url.addr();
        let patience = self.inner.config.wait_timeout.min(total.map_or(Duration::MAX, |t| t / 2));
        let answer = async {
            self.inner.failing.turn(to, patience).await;
            self.send_until(request, deadline).await
        };
        let outcome = match deadline {
            None => answer.await,
            Some((at, after)) => {
                timeout_at(at, answer).await.unwrap_or(Err(HttpError::TotalTimeout { to, after }))
            }
        };
        match &outcome {
            Err(error) if error.is_without_answer() => self.inner.failing.fail(to),
            // The caller's own fault, or an answer that he does not take.
            Err(_) => {}
            Ok(_) => self.inner.failing.succeed(to),
        }
        outcome
    }

    async fn send_until(
        &self,
        mut request: Request,
        deadline: Option<(Instant, Duration)>,
    ) -> Result<Response<ResponseBody>, HttpError> {
        let to = request.url.addr();
        let place = match self.stream_or_place(to).await? {
            Err(place) => place,
            Ok(conn) => {
                let replay = request.replay().filter(|request| request.method.is_idempotent());
                match self.exchange(conn, request, deadline).await {
                    Ok(response) => return Ok(response),
                    Err(Failed { error, unsent }) => {
                        request = match unsent.or_else(|| replay.filter(|_| error.is_stale())) {
                            Some(again) => again,
                            None => return Err(error),
                        };
                        tracing::debug!(%to, %error, "pooled stream was stale, dialling a fresh one");
                    }
                }
                self.inner.pool.lease(to).await?
            }
        };
        let conn = self.connect(to, place).await?;
        self.exchange(conn, request, deadline).await.map_err(|failed| failed.error)
    }

    /// Like [`HttpClient::send`], following at most five redirects that stay at the same key. Gives the final URL too.
    /// A redirect that wants a body once more which can be sent once only is an error.
    pub async fn send_following(
        &self,
        request: Request,
    ) -> Result<(DmsgUrl, Response<ResponseBody>), HttpError> {
        self.follow_within(request, self.inner.config.total_timeout).await
    }

    /// The same with another limit for all of it.
    pub(super) async fn follow_within(
        &self,
        mut request: Request,
        total: Option<Duration>,
    ) -> Result<(DmsgUrl, Response<ResponseBody>), HttpError> {
        let begun = Instant::now();
        for _ in 0..=REDIRECTS_MAX {
            let url = request.url.clone();
            let (next, again) = (request.without_body(), request.replay());
            let left = total.map(|total| total.saturating_sub(begun.elapsed()));
            let response = self.send_within(request, left).await?;
            let location = response
                .headers()
                .get(header::LOCATION)
                .and_then(|location| location.to_str().ok())
                .map(str::to_owned);
            let (Some(location), true) = (location, is_redirect(response.status())) else {
                return Ok((url, response));
            };
            let target = url.redirect(&location)?;
            request = if becomes_get(&next.method, response.status()) {
                next.into_get()
            } else {
                again.ok_or(HttpError::RedirectedBody(response.status()))?
            };
            request.url = target;
        }
        Err(HttpError::TooManyRedirects(REDIRECTS_MAX))
    }

    /// A stream that was idle, or a place for a new one. The place comes first, since a stream may become idle while it is
    /// waited for.
    async fn stream_or_place(&self, to: Addr) -> Result<Result<Conn, Lease>, HttpError> {
        let pool = &self.inner.pool;
        loop {
            match pool.take(to, pool.lease(to).await?) {
                Ok(mut conn) => {
                    let ready = timeout(POOLED_READY_TIMEOUT, conn.sender.ready()).await;
                    if matches!(ready, Ok(Ok(()))) {
                        return Ok(Ok(conn));
                    }
                }
                Err(place) => return Ok(Err(place)),
            }
        }
    }

    async fn connect(&self, to: Addr, lease: Lease) -> Result<Conn, HttpError> {
        let Inner { dial, config, pool, .. } = &*self.inner;
        let after = config.connect_timeout;
        let stream = timeout(after, dial.dial_for(to, &config.label))
            .await
            .map_err(|_| HttpError::ConnectTimeout { to, after })?
            .map_err(|source| HttpError::Connect { to, source })?;
        let below = D::usage(&stream);
        let (sender, connection) = http1::Builder::new()
            .title_case_headers(true)
            .max_buf_size(config.head_max_bytes.max(8 * 1024))
            .max_headers(config.headers_max)
            .handshake::<_, SentBody>(TokioIo::new(stream))
            .await
            .map_err(|error| HttpError::from_hyper(to, error))?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%to, %error, "HTTP stream ended");
            }
        });
        Ok(pool.conn(to, sender, task.abort_handle(), below, lease))
    }

    async fn exchange(
        &self,
        mut conn: Conn,
        mut request: Request,
        deadline: Option<(Instant, Duration)>,
    ) -> Result<Response<ResponseBody>, Failed> {
        let (to, config) = (conn.to, &self.inner.config);
        if config.idle_per_destination_max == 0 && !request.headers.contains_key(header::CONNECTION)
        {
            // The peer's end comes along with its answer then, and not as an answer to ours.
            request.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let lease = Arc::clone(conn.state());
        let url = request.url.clone();
        let keeps_alive = !wants_close(&request.headers);
        let wants_upgrade = request.headers.contains_key(header::UPGRADE);
        let (sent, sending) =
            request.into_hyper(Arc::clone(&lease), config.request_body_max_bytes)?;
        let after = config.head_timeout;
        let mut reply = pin!(conn.sender.try_send_request(sent));
        // Dropped before `reply`.
        let unanswered = conn.give_up_on_drop();
        let reply = tokio::select! {
            reply = &mut reply => reply,
            () = lease.progress.stalled(after) => return Err(HttpError::HeadTimeout { to, after }.into()),
        };
        unanswered.disarm();
        match reply {
            Ok(mut response) => {
                sending.answered();
                check_framing(to, response.headers())?;
                lease.progress.touch();
                let limits = BodyLimits {
                    idle: config.body_timeout,
                    deadline,
                    max_bytes: config.response_body_max_bytes,
                };
                if response.body().size_hint().lower() > limits.max_bytes {
                    return Err(HttpError::BodyTooLarge { max: limits.max_bytes }.into());
                }
                if response.status() == StatusCode::SWITCHING_PROTOCOLS && !wants_upgrade {
                    let reason = "it switches protocols, and nobody asked".to_owned();
                    return Err(HttpError::Malformed { to, reason }.into());
                }
                let upgrade = (response.status() == StatusCode::SWITCHING_PROTOCOLS)
                    .then(|| hyper::upgrade::on(&mut response));
                let keeps_alive = keeps_alive
                    && upgrade.is_none()
                    && response.version() >= Version::HTTP_11
                    && !wants_close(response.headers());
                let head = std::mem::take(response.headers_mut());
                *response.headers_mut() = own_head(head);
                Ok(response.map(|incoming| {
                    ResponseBody::new(Live {
                        incoming,
                        conn,
                        keeps_alive,
                        sending,
                        upgrade,
                        limits,
                        read_bytes: 0,
                        idle: None,
                        is_waiting: false,
                    })
                }))
            }
            Err(_) if lease.is_reclaimed() => {
                Err(HttpError::Reclaimed { to, unread_for: Duration::ZERO }.into())
            }
            Err(mut failed) => Err(Failed {
                unsent: failed.take_message().map(|sent| Request::from_hyper(url, sent)),
                error: HttpError::from_hyper(to, failed.into_error()),
            }),
        }
    }
}

fn wants_close(headers: &HeaderMap) -> bool {
    is_named(headers, "close")
}

fn check_framing(to: Addr, headers: &HeaderMap) -> Result<(), HttpError> {
    framing_problem(headers)
        .map_or(Ok(()), |why| Err(HttpError::Malformed { to, reason: format!("it {why}") }))
}

/// A head of its own: hyper's keeps the read buffer alive, which its values lie in, and the table of the request's headers,
/// which it is parsed into.
fn own_head(headers: HeaderMap) -> HeaderMap {
    let mut values = BytesMut::with_capacity(headers.values().map(HeaderValue::len).sum());
    headers.values().for_each(|value| values.extend_from_slice(value.as_bytes()));
    let mut values = values.freeze();
    let mut owned = HeaderMap::with_capacity(headers.keys_len());
    for (name, value) in &headers {
        // What was a value is one.
        if let Ok(value) = HeaderValue::from_maybe_shared(values.split_to(value.len())) {
            owned.append(name.clone(), value);
        }
    }
    owned
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Whether a redirect turns a request into a GET (RFC 9110 §15.4): 303 does with all but GET and HEAD, 301 and 302 do with POST
/// alone.
fn becomes_get(method: &Method, status: StatusCode) -> bool {
    match status.as_u16() {
        303 => !matches!(*method, Method::GET | Method::HEAD),
        301 | 302 => *method == Method::POST,
        _ => false,
    }
}
