//! A local HTTP service offered over DMSG (`dmsg serve --to`).
//!
//! ```text
//!   caller ══ DMSG ══▶ http::server ─▶ Proxy ── TCP, HTTP/1.1 ──▶ 127.0.0.1:port
//! ```
//!
//! Requests are parsed and written anew, never passed through as bytes, so both sides agree on where
//! one ends. Bodies stream in both directions, with announced trailers. The service learns the caller's key from
//! `Dmsg-Caller-Key` and `X-Forwarded-For`; whatever a caller put there itself is removed, in every spelling, from the head and
//! from the trailers.
//!
//! A request to switch protocols (web sockets) goes on as one, and only after the service's 101 do raw bytes pass
//! (`proxy/switch.rs`). A body behind `Expect: 100-continue` waits for the service's word. A request that has been here
//! before (`Via`) is a loop and refused. Not passed on: informational responses (hyper cannot send them), CONNECT and TRACE.

mod headers;
pub(crate) mod switch;
mod target;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{body::Body, response::IntoResponse};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header,
};
use http_body::{Frame, SizeHint};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokio::net::TcpStream;
use tower::{ServiceExt, util::MapResponse};

pub(crate) use self::headers::{ask_trailers, strip_hop_by_hop, takes_trailers};
use self::headers::{may_trail, request_headers};
pub use self::{
    headers::CALLER_KEY_HEADER,
    target::{Target, TargetError},
};
use crate::http::{
    BreakOff, Socket,
    expect::{self, Gate},
    length::{framing_problem, state_chunks},
    progress::Progress,
    server::CallerKey,
};

/// Of a connection to the service.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// From the last piece of the request to the service's response head, unless told otherwise: less than the 30 s that our
/// own clients wait, so that they learn who is slow.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(25);

/// Idle connections kept to the service.
const IDLE_MAX: usize = 32;

/// How long one is kept: less than the 5 s after which common servers close theirs, so that no request meets the closing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Bytes and headers of the service's response head.
const HEAD_MAX_BYTES: usize = 64 * 1024;
const HEADERS_MAX: usize = 100;

/// Connects to the service by sockets that can be broken off.
type Connector = MapResponse<HttpConnector, fn(TokioIo<TcpStream>) -> TokioIo<Socket>>;

/// Forwards requests to one service. Clones share its connections.
#[derive(Clone)]
pub struct Proxy {
    target: Target,
    client: Client<Connector, Forwarded>,
    answer_timeout: Duration,
    /// What we are called in `Via`: random, so that it says nothing, and nobody else has it.
    pseudonym: Arc<str>,
}

impl Proxy {
    /// A proxy to `target`.
    #[must_use]
    pub fn new(target: Target) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let wrap: fn(TokioIo<TcpStream>) -> TokioIo<Socket> =
            |stream| TokioIo::new(Socket::new(stream.into_inner()));
        let connector: Connector = ServiceExt::<Uri>::map_response(connector, wrap);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE_MAX)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .http1_max_buf_size(HEAD_MAX_BYTES)
            .http1_max_headers(HEADERS_MAX)
            .build(connector);
        let pseudonym = format!("dmsg-{:016x}", rand::random::<u64>()).into();
        Self { target, client, answer_timeout: ANSWER_TIMEOUT, pseudonym }
    }

    /// The same, with another limit from the end of a request to the head of the service's answer.
    #[must_use]
    pub fn with_answer_timeout(self, answer_timeout: Duration) -> Self {
        Self { answer_timeout, ..self }
    }

    /// Forwards a request and gives the service's answer, or says why there is none (400, 501, 502, 504, 508).
    pub async fn respond(&self, mut request: Request<Body>) -> Response<Body> {
        if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
            return problem(StatusCode::NOT_IMPLEMENTED, "this method is not forwarded\n");
        }
        if self.is_loop(request.headers()) {
            return problem(StatusCode::LOOP_DETECTED, "the service leads back to this proxy\n");
        }
        let Some(uri) = self.target.uri(request.method(), request.uri()) else {
            return problem(StatusCode::BAD_REQUEST, "the request target cannot be forwarded\n");
        };
        let switch = switch::asked(request.version(), request.headers());
        let caller_end = request.extensions().get::<BreakOff>().cloned();
        let caller_side = hyper::upgrade::on(&mut request);
        let (forwarded, waiting) = self.forwarded(request, uri, switch.as_ref());
        let reply = tokio::select! {
            reply = self.client.request(forwarded) => reply,
            () = waiting.progress.stalled(self.answer_timeout) => {
                return problem(StatusCode::GATEWAY_TIMEOUT, "the service does not answer\n");
            }
        };
        if let Some(keeper) = &waiting.keeper {
            keeper.refuse();
        }
        match reply {
            Ok(mut response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                let service_end = response.extensions().get::<BreakOff>().cloned();
                let service_side = hyper::upgrade::on(&mut response);
                let Some(agreed) = switch::agreed(response.into_parts().0, switch) else {
                    let why = "the service switched to what was not asked for\n";
                    return problem(StatusCode::BAD_GATEWAY, why);
                };
                switch::open(
                    switch::side(caller_side, caller_end),
                    switch::side(service_side, service_end),
                );
                agreed
            }
            Ok(response) => {
                let (mut head, body) = response.into_parts();
                if let Some(why) = framing_problem(&head.headers) {
                    return problem(
                        StatusCode::BAD_GATEWAY,
                        format!("the service's answer {why}\n"),
                    );
                }
                strip_hop_by_hop(&mut head.headers);
                self.localise_redirect(&mut head.headers);
                // Ours is HTTP/1.1, so that the end of a body without a length is said and not only heard.
                head.version = Version::HTTP_11;
                Response::from_parts(head, Body::new(Answer { body, keeper: waiting.keeper }))
            }
            Err(error) => {
                tracing::debug!(target = %self.target.authority, %error, "upstream failed");
                if is_callers_fault(&error) {
                    return problem(StatusCode::BAD_REQUEST, "the request's body broke off\n");
                }
                let why = if error.is_connect() {
                    "the service is not running\n"
                } else {
                    "the service broke off\n"
                };
                problem(StatusCode::BAD_GATEWAY, why)
            }
        }
    }

    /// The request as the service gets it.
    fn forwarded(
        &self,
        request: Request<Body>,
        uri: Uri,
        switch: Option<&HeaderValue>,
    ) -> (Request<Forwarded>, Waiting) {
        let caller = request.extensions().get::<CallerKey>().copied();
        let (head, body) = request.into_parts();
        let progress = Arc::new(Progress::default());
        let asks_first = head.version == Version::HTTP_11
            && !http_body::Body::is_end_stream(&body)
            && expect::asks_first(&head.headers);
        let (gate, keeper) = asks_first.then(expect::gate).unzip();
        let mut forwarded = Request::new(Forwarded { body, gate, progress: Arc::clone(&progress) });
        if let Some(keeper) = &keeper {
            expect::open_on_continue(&mut forwarded, keeper);
        }
        // A caller that takes trailers says so hop by hop, and so do we.
        let takes_trailers = takes_trailers(&head.headers);
        let mut headers = request_headers(head.headers, &self.target.authority, caller);
        if !asks_first {
            headers.remove(header::EXPECT);
        }
        if takes_trailers {
            ask_trailers(&mut headers);
        }
        if let Some(switch) = switch {
            switch::set(&mut headers, switch.clone());
        }
        state_chunks(&mut headers, &forwarded);
        if let Ok(via) = HeaderValue::try_from(format!("1.1 {}", self.pseudonym)) {
            headers.append(header::VIA, via);
        }
        *forwarded.method_mut() = head.method;
        *forwarded.uri_mut() = uri;
        *forwarded.headers_mut() = headers;
        (forwarded, Waiting { progress, keeper })
    }

    fn is_loop(&self, headers: &HeaderMap) -> bool {
        let mut via = headers.get_all(header::VIA).iter().filter_map(|via| via.to_str().ok());
        via.any(|via| via.contains(&*self.pseudonym))
    }

    /// A redirect to the service's own local address would lead callers to their own machine, and one that names the base
    /// would have it put in front once more.
    fn localise_redirect(&self, headers: &mut HeaderMap) {
        let location = headers.get(header::LOCATION).and_then(|location| location.to_str().ok());
        let local = location.and_then(|location| self.target.localised(location));
        if let Some(local) = local.and_then(|local| HeaderValue::try_from(local).ok()) {
            headers.insert(header::LOCATION, local);
        }
    }
}

fn problem(status: StatusCode, why: impl IntoResponse) -> Response<Body> {
    (status, why).into_response()
}

/// Whether the body to be sent failed, and not who was to get it.
fn is_callers_fault(error: &hyper_util::client::legacy::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref());
    cause.is_some_and(hyper::Error::is_user)
}

/// What the answer's side knows of a request on its way.
struct Waiting {
    progress: Arc<Progress>,
    keeper: Option<expect::GateKeeper>,
}

/// The body of the service's answer. With it ends the connection whose request body was refused.
struct Answer {
    body: hyper::body::Incoming,
    keeper: Option<expect::GateKeeper>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(keeper) = &self.keeper {
            keeper.close();
        }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request body on its way to the service.
struct Forwarded {
    body: Body,
    gate: Option<Gate>,
    progress: Arc<Progress>,
}

impl http_body::Body for Forwarded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(gate) = &self.gate {
            if gate.is_refused() {
                // The caller's side must not wait for somebody to read this.
                self.body = Body::empty();
            }
            let Some(gate) = &mut self.gate else { return Poll::Pending };
            ready!(gate.poll_open(cx)).map_err(axum::Error::new)?;
            self.gate = None;
        }
        let mut polled = Pin::new(&mut self.body).poll_frame(cx);
        if polled.is_ready() {
            self.progress.touch();
        }
        if let Poll::Ready(Some(Ok(frame))) = &mut polled
            && let Some(trailers) = frame.trailers_mut()
        {
            let names: Vec<HeaderName> =
                trailers.keys().filter(|name| !may_trail(name)).cloned().collect();
            names.iter().for_each(|name| drop(trailers.remove(name)));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
