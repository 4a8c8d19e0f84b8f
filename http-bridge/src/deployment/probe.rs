//! Trying every server and every service of a deployment, over each path that it names.
//!
//! ```text
//!   servers    one client each, until its session is up           8 at a time, each within a time limit
//!   services   GET /health over DMSG, through all servers;        the same
//!              GET /health over HTTP
//! ```

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use dmsg_engine::{
    client::{Client, ClientConfig, ClientStatus, ServerRecord, StaticDirectory},
    driver::DriverKind,
    identity::SecretKey,
};
use futures_util::{StreamExt, stream};
use http::Request;
use tokio::time::{Instant, timeout};

use super::{document::Services, fetch::Way, field::ServiceUrl};
use crate::{
    http::DmsgTransport,
    service::ServiceKind,
    transport::{HttpTransport, Limits, TcpTransport},
};

/// Probes at once: a client's two threads each for servers, so 16 threads.
pub const PROBES_MAX: usize = 8;

/// Bytes of a health page. Real ones have a few hundred.
const HEALTH_BYTES_MAX: usize = 64 * 1024;

/// What is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A relay server.
    Server(ServerRecord),
    /// A service over one way.
    Service(ServiceKind, Way, ServiceUrl),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(server) => write!(f, "server {} at {}", server.key, server.address),
            Self::Service(kind, way, url) => write!(f, "{kind} over {way} at {url}"),
        }
    }
}

/// What came of it: how long it took, or why there is nothing.
pub type Outcome = Result<Duration, String>;

/// Everything that a deployment names: servers first, then the services in their order.
#[must_use]
pub fn subjects(services: &Services) -> Vec<Subject> {
    let mut subjects: Vec<Subject> =
        services.server_records().into_iter().map(Subject::Server).collect();
    for kind in ServiceKind::ALL {
        let endpoints = services.endpoints(kind);
        let dmsg = endpoints.dmsg.map(|url| (Way::Dmsg, ServiceUrl::Dmsg(url)));
        let http = endpoints.http.map(|uri| (Way::Http, ServiceUrl::Http(uri)));
        for (way, url) in [dmsg, http].into_iter().flatten() {
            subjects.push(Subject::Service(kind, way, url));
        }
    }
    subjects
}

/// Tries all of it; `done` hears of each as it ends. The outcomes are in the order of [`subjects`]. Each probe takes at most
/// `limit`; those over DMSG wait for the first session as long again.
pub async fn probe(
    services: &Services,
    limit: Duration,
    driver: DriverKind,
    done: impl Fn(&Subject, &Outcome),
) -> Vec<(Subject, Outcome)> {
    let client = start(services.server_records(), driver);
    let transports = &Transports {
        dmsg: client.as_ref().ok().map(|client| DmsgTransport::new(client.clone())),
        client: client.as_ref().map_err(Clone::clone),
        http: TcpTransport::new(),
    };
    let done = &done;
    let probes = subjects(services).into_iter().map(|subject| async move {
        let outcome = match &subject {
            Subject::Server(server) => reach(server.clone(), limit, driver).await,
            Subject::Service(kind, Way::Dmsg, url) => transports.over_dmsg(*kind, url, limit).await,
            Subject::Service(kind, Way::Http, url) => {
                ask(&transports.http, *kind, url, limit).await
            }
        };
        done(&subject, &outcome);
        (subject, outcome)
    });
    let outcomes = stream::iter(probes).buffered(PROBES_MAX).collect().await;
    if let Ok(client) = &client {
        client.close().await;
    }
    outcomes
}

fn start(servers: Vec<ServerRecord>, driver: DriverKind) -> Result<Client, String> {
    let key = SecretKey::generate().map_err(|error| format!("no randomness: {error}"))?;
    let config = ClientConfig { min_sessions: 0, driver, ..ClientConfig::new(key) };
    Client::start(config, Arc::new(StaticDirectory { servers })).map_err(|error| error.to_string())
}

/// A session with this very server.
async fn reach(server: ServerRecord, limit: Duration, driver: DriverKind) -> Outcome {
    let started = Instant::now();
    let client = start(vec![server], driver)?;
    let outcome = match timeout(limit, client.ready()).await {
        Ok(Ok(())) => Ok(started.elapsed()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(match &*client.status().borrow() {
            ClientStatus::Degraded(why) => why.clone(),
            _ => format!("no session within {limit:?}"),
        }),
    };
    client.close().await;
    outcome
}

struct Transports<'a> {
    client: Result<&'a Client, String>,
    dmsg: Option<DmsgTransport<Client>>,
    http: TcpTransport,
}

impl Transports<'_> {
    async fn over_dmsg(&self, kind: ServiceKind, url: &ServiceUrl, limit: Duration) -> Outcome {
        let client = self.client.clone()?;
        let Some(transport) = &self.dmsg else { return Err("DMSG does not start".to_owned()) };
        match timeout(limit, client.ready()).await {
            Ok(Ok(())) => ask(transport, kind, url, limit).await,
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no session with any server within {limit:?}")),
        }
    }
}

async fn ask(
    transport: &dyn HttpTransport,
    kind: ServiceKind,
    url: &ServiceUrl,
    limit: Duration,
) -> Outcome {
    let request = Request::get(format!("{url}/health"))
        .body(Bytes::new())
        .map_err(|error| error.to_string())?;
    let limits = Limits { timeout: limit, body_max_bytes: HEALTH_BYTES_MAX };
    let started = Instant::now();
    match transport.exchange(request, limits).await {
        Ok(answer) if answer.status().is_success() => {
            let elapsed = started.elapsed();
            judge(kind, answer.body()).map(|()| elapsed)
        }
        Ok(answer) => Err(format!("answers {} to /health", answer.status())),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether this is the health page of such a service (`services.md §2`): a web server, or the page of a hotel's network,
/// answers everything with a 200.
fn judge(kind: ServiceKind, page: &[u8]) -> Result<(), String> {
    let page: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(page)
        .map_err(|_| "its /health is no JSON object: something else answers there".to_owned())?;
    let name = page.get("service_name").and_then(serde_json::Value::as_str);
    match ServiceKind::ALL.into_iter().find(|other| Some(other.name()) == name) {
        Some(other) if other != kind => Err(format!("its /health says that it is the {other}")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_health_page_of_such_a_service_counts() {
        let judge = |page: &str| judge(ServiceKind::DmsgDiscovery, page.as_bytes());
        for good in [
            r#"{"build_info":{"version":"v1.3.29"},"started_at":"2024-10-01T00:00:00Z"}"#,
            r#"{"service_name":"dmsg-discovery"}"#,
            r#"{"service_name":"what nobody here knows"}"#,
            "{}",
        ] {
            assert_eq!(judge(good), Ok(()), "{good}");
        }
        for bad in ["", "<html>", "[]", "null", "\"ok\"", r#"{"service_name":"route-finder"}"#] {
            assert!(judge(bad).is_err(), "{bad}");
        }
    }
}
