//! The HTTP side: requests in absolute form are sent anew, CONNECT opens a tunnel.
//!
//! ```text
//!   GET http://<key>.dmsg/path      ─▶ request over DMSG, response back
//!   the same with Upgrade           ─▶ the same, and after a 101 bytes (web sockets)
//!   GET http://other.host/path      ─▶ request over TCP, if that is allowed; no Upgrade
//!   CONNECT host:port               ─▶ 200, then bytes
//!   GET /                           ─▶ what this is and how it is used
//! ```
//!
//! `Host` is sent as the program wrote it, so that it agrees with the `Origin` that browsers send along; hop-by-hop headers
//! stay behind. What the far side refuses or breaks is told by a status and a sentence: 400 for what cannot be meant, 403
//! for what is not allowed, 502 and 504 for what failed. A response that breaks off after its head breaks the
//! program's connection, so that nobody takes a part for the whole.

use std::{convert::Infallible, pin::Pin, sync::Arc};

use ::http::{HeaderValue, Method, Request, Response, StatusCode, Version, header, uri::Authority};
use axum::{body::Body, response::IntoResponse};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tower::{Service, service_fn};

use super::{
    ConnectError, Destination, HostError, Shared, is_dial_timeout,
    over_tcp::{self, Limits},
    tunnel,
};
use crate::{
    http::{BreakOff, Dial, HttpError, Request as DmsgRequest, RequestBody, ResponseBody},
    proxy::{ask_trailers, strip_hop_by_hop, switch, takes_trailers},
    url::{DmsgUrl, has_valid_port},
};

/// Programs that open the proxy's own address learn what it is.
const ABOUT: &str = "This is a DMSG proxy. Set it as the HTTP or SOCKS5 proxy of a program, and open\n\
    http://<public key>.dmsg/ there. For one request: curl -x http://<this address> http://<public key>.dmsg/\n";

type Answered = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// The answer to every request of a connection.
pub(super) fn service<D: Dial>(
    shared: Arc<Shared<D>>,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = Answered>
+ Clone
+ Send
+ Sync
+ 'static {
    service_fn(move |request| {
        let shared = Arc::clone(&shared);
        let answered: Answered = Box::pin(async move { Ok(answer(&shared, request).await) });
        answered
    })
}

async fn answer<D: Dial>(shared: &Arc<Shared<D>>, request: Request<Body>) -> Response<Body> {
    let answered = if request.method() == Method::CONNECT {
        connect(shared, request).await
    } else if request.uri().authority().is_none() {
        return text(StatusCode::BAD_REQUEST, ABOUT.to_owned());
    } else {
        pass_on(shared, request).await
    };
    answered.unwrap_or_else(|problem| {
        tracing::info!(error = %problem, "proxy: not done");
        text(problem.status(), format!("{problem}\n"))
    })
}

/// Why a request is not answered by the one it was meant for.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("CONNECT wants host:port")]
    NoPort,
    #[error("a request to {0}:// goes through a tunnel: use CONNECT, as browsers and curl do")]
    Scheme(String),
    #[error("{0:?} has no port from 1 to 65535 behind the colon")]
    Port(String),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error(transparent)]
    Other(#[from] over_tcp::Failed),
    #[error("the service switched to a protocol that was not asked for")]
    Switched,
    #[error("the request cannot be sent: {0}")]
    Unsendable(#[from] ::http::Error),
}

impl Problem {
    fn status(&self) -> StatusCode {
        match self {
            Self::NoPort | Self::Scheme(_) | Self::Port(_) | Self::Unsendable(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::Host(_) => StatusCode::BAD_REQUEST,
            Self::Connect(error) if error.is_refusal() => StatusCode::FORBIDDEN,
            Self::Connect(error) if error.is_timeout() => StatusCode::GATEWAY_TIMEOUT,
            Self::Connect(ConnectError::TooMany)
            | Self::Http(HttpError::StreamsExhausted { .. }) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Http(HttpError::Connect { source, .. }) if is_dial_timeout(source) => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::Http(error) if error.is_timeout() => StatusCode::GATEWAY_TIMEOUT,
            Self::Other(over_tcp::Failed::TimedOut(_)) => StatusCode::GATEWAY_TIMEOUT,
            Self::Http(HttpError::Request(_) | HttpError::RequestBody(_)) => {
                StatusCode::BAD_REQUEST
            }
            Self::Connect(_) | Self::Http(_) | Self::Other(_) | Self::Switched => {
                StatusCode::BAD_GATEWAY
            }
        }
    }
}

async fn connect<D: Dial>(
    shared: &Shared<D>,
    mut request: Request<Body>,
) -> Result<Response<Body>, Problem> {
    let authority = request.uri().authority().ok_or(Problem::NoPort)?;
    let port = authority.port_u16().ok_or(Problem::NoPort)?;
    let far = shared.connect(Destination::parse(authority.host(), port)?).await?;
    let end = request.extensions().get::<BreakOff>().cloned();
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let ended = match upgrade.await {
            Ok(near) => {
                let near = (TokioIo::new(near), end);
                tunnel::run::<_, D>(near, far).await.map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "tunnel ended");
        }
    });
    Ok(Response::new(Body::empty()))
}

async fn pass_on<D: Dial>(
    shared: &Shared<D>,
    mut request: Request<Body>,
) -> Result<Response<Body>, Problem> {
    let switch = switch::asked(request.version(), request.headers());
    let end = request.extensions().get::<BreakOff>().cloned();
    let near = (hyper::upgrade::on(&mut request), end);
    let (head, body) = request.into_parts();
    let scheme = head.uri.scheme_str().unwrap_or("http");
    if scheme != "http" {
        return Err(Problem::Scheme(scheme.to_owned()));
    }
    let authority = head.uri.authority().cloned().ok_or(Problem::NoPort)?;
    if !has_valid_port(authority.as_str()) {
        return Err(Problem::Port(authority.to_string()));
    }
    let to = Destination::parse(authority.host(), authority.port_u16().unwrap_or(80))?;
    let mut headers = head.headers;
    let takes_trailers = takes_trailers(&headers);
    strip_hop_by_hop(&mut headers);
    if takes_trailers {
        ask_trailers(&mut headers);
    }
    headers.insert(header::HOST, host_of(&authority)?);
    let mut response = match to {
        Destination::Dmsg(addr) => {
            let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
            let url = DmsgUrl::verbatim(addr, target);
            let body = RequestBody::of(body);
            if let Some(switch) = &switch {
                switch::set(&mut headers, switch.clone());
            }
            // A program that does not say what it is has its reasons.
            headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(""));
            let request = DmsgRequest { method: head.method, url, headers, body };
            let response = shared.client.send(request).await?;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                return switched(response, switch, near);
            }
            response.map(Body::new)
        }
        Destination::Other { host, port } => {
            let connected = shared.connect_tcp(&host, port).await?;
            let config = shared.client.config();
            let limits = Limits { answer: config.head_timeout, idle: config.body_timeout };
            over_tcp::send(connected, head.method, &head.uri, headers, body, limits).await?
        }
    };
    strip_hop_by_hop(response.headers_mut());
    // Ours is HTTP/1.1, so that the end of a body without a length is said and not only heard.
    *response.version_mut() = Version::HTTP_11;
    Ok(response)
}

/// Joins program and service behind a 101.
fn switched(
    response: Response<ResponseBody>,
    asked: Option<HeaderValue>,
    (near, near_end): (OnUpgrade, Option<BreakOff>),
) -> Result<Response<Body>, Problem> {
    let (head, body) = response.into_parts();
    let agreed = switch::agreed(head, asked).ok_or(Problem::Switched)?;
    let far = async {
        let far = body.upgrade().await?;
        let end = far.break_off();
        Ok((far, end))
    };
    switch::open(switch::side(near, near_end), far);
    Ok(agreed)
}

fn host_of(authority: &Authority) -> Result<HeaderValue, Problem> {
    // Without the user's name and password, which no request line should have had.
    let text = authority.as_str();
    let host = text.rsplit_once('@').map_or(text, |(_, host)| host);
    HeaderValue::from_str(host).map_err(|error| Problem::Unsendable(error.into()))
}

fn text(status: StatusCode, text: String) -> Response<Body> {
    (status, text).into_response()
}
