//! Asking a config bootstrapper for the deployment (`deployment-config.md §6`).
//!
//! ```text
//!   over DMSG ── fails ──▶ over HTTP, then supplemented ── fails ──▶ what the caller has
//!   each step: one request, 200 only, no redirect, 15 s from start to last byte, 1 MiB
//! ```
//!
//! Every step says why it failed; nothing is tried twice. The DMSG step runs a client of its own with a fresh key, and
//! reaches the bootstrapper through the servers of the deployment that is asked for.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use dmsg_engine::{
    client::{Client, ClientConfig, ClientStatus, StaticDirectory},
    driver::DriverKind,
    identity::SecretKey,
};
use http::{Request, StatusCode};
use tokio::time::{Instant, timeout_at};

use super::{
    document::{DOCUMENT_BYTES_MAX, Services},
    field::{Field, ServiceUrl},
    problem::Problems,
};
use crate::{
    http::DmsgTransport,
    service::ServiceKind,
    transport::{HttpTransport, Limits, TcpTransport, TransportError},
};

/// How long one step may take, from its start to the last byte of the answer.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(15);

/// A way to the bootstrapper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Over DMSG.
    Dmsg,
    /// Over plain HTTP.
    Http,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dmsg => "DMSG",
            Self::Http => "HTTP",
        })
    }
}

/// Why a step gave nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The deployment we start from does not say where to ask.
    #[error("the deployment at hand has no {0}")]
    NoAddress(&'static str),
    /// The engine did not start.
    #[error("DMSG does not start: {0}")]
    Start(String),
    /// No session came up.
    #[error("none of the {servers} DMSG servers was reached within {limit:?}: {why}")]
    NoSession {
        /// How many were tried.
        servers: usize,
        /// For how long.
        limit: Duration,
        /// What the last of them said.
        why: String,
    },
    /// No answer.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// An answer that is none.
    #[error("it answered {0}; only 200 is taken, and redirects are not followed")]
    Status(StatusCode),
    /// What it answered is no text.
    #[error("its answer is no UTF-8 text")]
    NoText,
    /// What it answered is no deployment.
    #[error("its answer is no deployment: {}", first(.0))]
    Document(Problems),
}

/// The first problem and the number of the others: an answer's lines are of no use to whoever reads this.
fn first(problems: &Problems) -> String {
    let count = problems.iter().count() + problems.left_out();
    let first = problems.iter().next().map(ToString::to_string).unwrap_or_default();
    if count > 1 { format!("{first} (and {} more)", count - 1) } else { first }
}

/// What a bootstrapper answered.
#[derive(Debug)]
pub struct Fetched {
    /// The deployment, supplemented if it came over HTTP.
    pub services: Services,
    /// Whom it came from.
    pub from: ServiceUrl,
    /// What is strange about it.
    pub warnings: Problems,
    /// What was added to it.
    pub added: Vec<Field>,
}

/// How to ask.
#[derive(Debug, Clone, Copy)]
pub struct FetchOptions {
    /// Limit of each step.
    pub timeout: Duration,
    /// What moves the bytes of the DMSG step.
    pub driver: DriverKind,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self { timeout: STEP_TIMEOUT, driver: DriverKind::Auto }
    }
}

/// Asks over DMSG, through the servers that `known` lists.
pub async fn over_dmsg(known: &Services, options: FetchOptions) -> Result<Fetched, FetchError> {
    let Some(url) = known.endpoints(ServiceKind::ConfigBootstrapper).dmsg else {
        return Err(FetchError::NoAddress("conf_dmsg"));
    };
    let servers = known.server_records();
    if servers.is_empty() {
        return Err(FetchError::NoAddress("dmsg_servers"));
    }
    let until = Instant::now() + options.timeout;
    let count = servers.len();
    let key = SecretKey::generate().map_err(|error| FetchError::Start(error.to_string()))?;
    let config = ClientConfig {
        // All at once: addresses may be months old, and any server that is there will do.
        min_sessions: 0,
        driver: options.driver,
        ..ClientConfig::new(key)
    };
    let client = Client::start(config, Arc::new(StaticDirectory { servers }))
        .map_err(|error| FetchError::Start(error.to_string()))?;
    let answer = match timeout_at(until, client.ready()).await {
        Ok(Ok(())) => {
            let transport = DmsgTransport::new(client.clone());
            let base = ServiceUrl::Dmsg(url);
            ask(&transport, base, until.duration_since(Instant::now())).await.map_err(|error| {
                match error {
                    // What is left of the time means nothing to whoever set the whole of it.
                    FetchError::Transport(TransportError::Timeout(_)) => {
                        TransportError::Timeout(options.timeout).into()
                    }
                    error => error,
                }
            })
        }
        failed => {
            let why = match (&*client.status().borrow(), failed) {
                (ClientStatus::Degraded(why), _) => why.clone(),
                (_, Ok(Err(error))) => error.to_string(),
                _ => "no answer to our connections".to_owned(),
            };
            Err(FetchError::NoSession { servers: count, limit: options.timeout, why })
        }
    };
    client.close().await;
    answer
}

/// Asks over HTTP, and adds the DMSG addresses that an old bootstrapper does not know.
pub async fn over_http(known: &Services, options: FetchOptions) -> Result<Fetched, FetchError> {
    let Some(uri) = known.endpoints(ServiceKind::ConfigBootstrapper).http else {
        return Err(FetchError::NoAddress("conf"));
    };
    let transport = TcpTransport::new();
    let mut fetched = ask(&transport, ServiceUrl::Http(uri), options.timeout).await?;
    fetched.added = fetched.services.supplement(known);
    Ok(fetched)
}

async fn ask(
    transport: &dyn HttpTransport,
    base: ServiceUrl,
    timeout: Duration,
) -> Result<Fetched, FetchError> {
    let request = Request::get(format!("{base}/"))
        .body(Bytes::new())
        .map_err(|error| TransportError::Exchange(error.to_string()))?;
    let limits = Limits { timeout, body_max_bytes: DOCUMENT_BYTES_MAX };
    let answer = transport.exchange(request, limits).await?;
    if answer.status() != StatusCode::OK {
        return Err(FetchError::Status(answer.status()));
    }
    let text = std::str::from_utf8(answer.body()).map_err(|_| FetchError::NoText)?;
    let (services, warnings) = Services::parse(text).map_err(FetchError::Document)?;
    Ok(Fetched { services, from: base, warnings, added: Vec::new() })
}
