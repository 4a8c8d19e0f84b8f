//! A bootstrapper that does whatever a test wants, over HTTP and over DMSG; a relay; and documents. All on loopback.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr, TcpListener as StdListener},
    path::{Path, PathBuf},
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{Response, StatusCode, header},
};
use bytes::Bytes;
use dmsg_engine::{
    client::{Client, ClientConfig, ServerRecord, StaticDirectory},
    identity::SecretKey,
    server::{Server, ServerConfig},
};
use dmsg_http::{
    http::server::{ServeConfig, serve},
    url::DEFAULT_PORT,
};
use futures_util::{StreamExt, stream};

use crate::program::{assert_exit, dmsg, stderr, stdout};

/// What a bootstrapper answers.
#[derive(Clone)]
pub(crate) enum Answer {
    /// This text, with this status.
    Text(u16, String),
    /// These bytes.
    Bytes(Vec<u8>),
    /// A redirect to a page that would do.
    Redirect(String),
    /// 1 GiB.
    Endless,
    /// A byte now and then.
    Trickle,
    /// Nothing, ever.
    Silence,
}

impl Answer {
    pub(crate) fn ok(text: impl Into<String>) -> Self {
        Self::Text(200, text.into())
    }

    fn response(&self) -> Response<Body> {
        let response = Response::builder();
        match self {
            Self::Text(status, text) => response.status(*status).body(Body::from(text.clone())),
            Self::Bytes(bytes) => response.body(Body::from(bytes.clone())),
            Self::Redirect(to) => {
                response.status(StatusCode::FOUND).header(header::LOCATION, to).body(Body::empty())
            }
            Self::Endless => {
                let piece = Bytes::from(vec![b' '; 64 * 1024]);
                let pieces =
                    stream::iter(0..16 * 1024).map(move |_| Ok::<_, Infallible>(piece.clone()));
                response.body(Body::from_stream(pieces))
            }
            Self::Trickle => {
                let pieces = stream::unfold((), |()| async {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    Some((Ok::<_, Infallible>(Bytes::from_static(b" ")), ()))
                });
                response.body(Body::from_stream(pieces))
            }
            Self::Silence => unreachable!("never answered"),
        }
        .unwrap()
    }
}

fn router(answer: Answer, asked: Arc<AtomicUsize>) -> Router {
    Router::new().fallback(move |request: Request| {
        let answer = answer.clone();
        assert_eq!(request.uri().path(), "/", "only the document is asked for");
        asked.fetch_add(1, Relaxed);
        async move {
            if let Answer::Silence = answer {
                std::future::pending::<()>().await;
            }
            answer.response()
        }
    })
}

/// A bootstrapper over HTTP.
pub(crate) struct OverHttp {
    pub(crate) url: String,
    asked: Arc<AtomicUsize>,
}

impl OverHttp {
    pub(crate) async fn start(answer: Answer) -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let router = router(answer, Arc::clone(&asked));
        let never = std::future::pending();
        tokio::spawn(serve(listener, router, ServeConfig::default(), Arc::default(), never));
        Self { url, asked }
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Relaxed)
    }
}

/// A relay server.
pub(crate) struct Relay {
    server: Server,
}

impl Relay {
    pub(crate) fn start() -> Self {
        let key = SecretKey::generate().unwrap();
        let config = ServerConfig::new(key, (Ipv4Addr::LOCALHOST, 0).into());
        Self { server: Server::start(config).unwrap() }
    }

    pub(crate) fn record(&self) -> ServerRecord {
        let address = self.server.local_addr().to_string();
        ServerRecord { key: self.server.public_key(), address, available_sessions: 1 }
    }

    /// Its element in a document.
    pub(crate) fn element(&self) -> String {
        element(&self.record().key.to_string(), &self.record().address)
    }
}

pub(crate) fn element(key: &str, address: &str) -> String {
    format!(r#"{{"static":"{key}","server":{{"address":"{address}"}}}}"#)
}

/// A bootstrapper over DMSG, behind one relay.
pub(crate) struct OverDmsg {
    pub(crate) url: String,
    asked: Arc<AtomicUsize>,
    _client: Client,
}

impl OverDmsg {
    pub(crate) async fn start(relay: &Relay, answer: Answer) -> Self {
        let asked = Arc::new(AtomicUsize::new(0));
        let (client, url) = serve_over_dmsg(relay, router(answer, Arc::clone(&asked))).await;
        Self { url, asked, _client: client }
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Relaxed)
    }
}

/// Serves a router on DMSG port 80 of a fresh key.
pub(crate) async fn serve_over_dmsg(relay: &Relay, router: Router) -> (Client, String) {
    let directory = StaticDirectory { servers: vec![relay.record()] };
    let config = ClientConfig::new(SecretKey::generate().unwrap());
    let client = Client::start(config, Arc::new(directory)).unwrap();
    let listener = client.listen(DEFAULT_PORT).unwrap();
    let never = std::future::pending();
    tokio::spawn(serve(listener, router, ServeConfig::default(), Arc::default(), never));
    client.ready().await.unwrap();
    let url = format!("dmsg://{}:80", client.public_key());
    (client, url)
}

/// An address where nobody listens, and nobody else will during this test.
pub(crate) struct Closed(StdListener);

impl Closed {
    /// Bound, but its backlog is never served: a connection succeeds and then nothing happens.
    pub(crate) fn new() -> Self {
        Self(StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }
}

/// A port of loopback on which nobody can listen without being root, and nobody does.
pub(crate) const REFUSED: &str = "127.0.0.1:1";

/// A key that nobody has.
pub(crate) fn key(name: &str) -> String {
    SecretKey::from_seed(name.as_bytes()).public_key().to_string()
}

/// A folder with the files of one test.
pub(crate) struct Place {
    pub(crate) folder: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A document whose `prod` has these members beside the addresses that every test's deployment has.
    pub(crate) fn document(&self, members: &str) -> PathBuf {
        self.write("deployment.json", &format!("{{\"prod\":{}}}", deployment("at-hand", members)))
    }
}

/// A deployment whose transport discovery shows where it came from.
pub(crate) fn deployment(mark: &str, members: &str) -> String {
    let comma = if members.is_empty() { "" } else { "," };
    format!(
        r#"{{"dmsg_discovery":"http://{REFUSED}","transport_discovery":"http://{mark}.invalid"{comma}{members}}}"#
    )
}

/// `dmsg config gen` to stdout, at the highest verbosity.
pub(crate) async fn generate(document: &Path, extra: &[&str]) -> Generated {
    let mut command = dmsg(&["config", "gen", "-o", "-", "--timeout", "1.5", "--log", "trace"]);
    command.arg("--deployment").arg(document).args(extra).env_remove("SKYDEPLOY");
    let started = Instant::now();
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    Generated { output, took: started.elapsed() }
}

pub(crate) struct Generated {
    pub(crate) output: Output,
    pub(crate) took: Duration,
}

impl Generated {
    /// The configuration; stdout must be JSON and nothing else.
    #[track_caller]
    pub(crate) fn config(&self) -> serde_json::Value {
        assert_exit(&self.output, 0);
        serde_json::from_str(&stdout(&self.output)).unwrap()
    }

    /// Asserts where the deployment came from, and that stderr says all of this.
    #[track_caller]
    pub(crate) fn came_from(&self, mark: &str, said: &[&str]) {
        let config = self.config();
        assert_eq!(config["transport"]["discovery"], format!("http://{mark}.invalid"));
        let stderr = stderr(&self.output);
        for text in said {
            assert!(stderr.contains(text), "not said: {text}\n{}", notes(&stderr));
        }
        assert!(self.took < Duration::from_secs(20), "it took {:?}", self.took);
    }
}

/// What is not a line of the log.
fn notes(stderr: &str) -> String {
    let is_note = |line: &&str| line.contains(": ") && !line.starts_with("20");
    stderr.lines().filter(is_note).collect::<Vec<_>>().join("\n")
}
