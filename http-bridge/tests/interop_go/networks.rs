//! Whole networks with a discovery: each of discovery and relay server is Go's or ours.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use dmsg_engine::{
    client::{Client, ClientConfig, ServerRecord},
    identity::{PublicKey, SecretKey},
};
use dmsg_http::discovery::{
    ClientOptions, DiscoveryClient, HttpDirectory, client::DirectoryOptions,
};
use dmsg_http::transport::TcpTransport;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::{
    ours,
    peer::{GoEcho, LIMIT, Load, Peer, Via, free_port, go_echo, programs},
    report,
};

/// Who runs a part of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Go,
    Us,
}

/// The programs of a Go network.
pub struct Programs {
    discovery: PathBuf,
    redis: PathBuf,
    server: PathBuf,
}

impl Programs {
    pub fn find() -> Option<Self> {
        let [discovery, redis, server] =
            programs(["DMSG_GO_DISCOVERY_BIN", "DMSG_GO_REDIS_BIN", "DMSG_GO_SERVER_BIN"])?;
        Some(Self { discovery, redis, server })
    }
}

/// A discovery and one server that it lists.
pub struct Network {
    pub url: String,
    pub server: ServerRecord,
    pub discovery_key: PublicKey,
    _parts: Vec<Peer>,
    _folder: TempDir,
}

impl Network {
    pub async fn start(programs: &Programs, discovery: By, server: By) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let discovery_secret = SecretKey::generate().unwrap();
        let (url, mut parts) = match discovery {
            By::Go => go_discovery(programs, &folder).await,
            By::Us => our_discovery(&discovery_secret).await,
        };
        let (part, server) = match server {
            By::Go => go_server(programs, &folder, &url).await,
            By::Us => our_server(&url).await,
        };
        parts.push(part);
        let network = Self {
            url,
            server,
            discovery_key: discovery_secret.public_key(),
            _parts: parts,
            _folder: folder,
        };
        network.listed("the server", network.server.key).await;
        network
    }

    fn client(&self) -> Arc<DiscoveryClient> {
        let transport = Arc::new(TcpTransport::new());
        Arc::new(DiscoveryClient::new(&self.url, transport, ClientOptions::default()).unwrap())
    }

    /// Waits until the discovery has an entry of `key`, with servers if it is a client's.
    pub async fn listed(&self, who: &str, key: PublicKey) {
        let client = self.client();
        let there = async {
            loop {
                if let Ok(fetched) = client.entry(key).await
                    && (fetched.entry().server.is_some()
                        || !fetched.entry().delegated_servers().is_empty())
                {
                    return;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LIMIT, there).await.unwrap_or_else(|_| panic!("{who} is never listed"));
    }

    /// Waits until the discovery has a session with the server.
    pub async fn discovery_is_on_dmsg(&self) {
        let (client, server) = (self.client(), self.server.key.to_string());
        let there = async {
            while !client.health().await.unwrap().dmsg_servers.contains(&server) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LIMIT, there).await.expect("our discovery never connects to the server");
    }

    /// Waits until the discovery has no entry of `key`.
    async fn withdrawn(&self, key: PublicKey) {
        let client = self.client();
        let gone = async {
            while !client.entry(key).await.is_err_and(|error| error.is_not_found()) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LIMIT, gone).await.expect("the entry is never withdrawn");
    }

    /// A client of ours that finds its way by the discovery.
    async fn our_client(&self) -> Client {
        let config = ClientConfig::new(SecretKey::generate().unwrap());
        let secret = config.secret_key.clone();
        let directory = HttpDirectory::new(self.client(), secret, DirectoryOptions::default());
        ours::client_with(config, Arc::new(directory)).await
    }
}

async fn go_discovery(programs: &Programs, folder: &TempDir) -> (String, Vec<Peer>) {
    let redis_port = free_port().to_string();
    let folder = folder.path().to_str().unwrap();
    let args = ["--port", &redis_port, "--bind", "127.0.0.1", "--save", "", "--dir", folder];
    let redis = Peer::start(&programs.redis, args);
    redis.line("Ready to accept connections").await;
    let listen = format!("127.0.0.1:{}", free_port());
    let redis_url = format!("redis://127.0.0.1:{redis_port}");
    // `-t`: servers may advertise loopback addresses.
    let args = ["-t", "-a", &listen, "--redis", &redis_url];
    let discovery = Peer::start(&programs.discovery, args);
    let up = async {
        while tokio::net::TcpStream::connect(&listen).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, up).await.expect("the Go discovery does not listen");
    (format!("http://{listen}"), vec![redis, discovery])
}

async fn our_discovery(secret: &SecretKey) -> (String, Vec<Peer>) {
    let args = ["discovery", "--listen", "127.0.0.1:0", "--allow-loopback"];
    let discovery = Peer::ours(secret, &args);
    (discovery.line("http://").await, vec![discovery])
}

async fn go_server(programs: &Programs, folder: &TempDir, url: &str) -> (Peer, ServerRecord) {
    let secret = SecretKey::generate().unwrap();
    let address = format!("127.0.0.1:{}", free_port());
    let config = serde_json::json!({
        "public_key": secret.public_key().to_string(),
        "secret_key": &*secret.to_hex(),
        "discovery": url,
        "public_address": address,
        "local_address": address,
        "health_endpoint_address": format!("127.0.0.1:{}", free_port()),
        "log_level": "info",
        "update_interval": 60_000_000_000_u64,
        "max_sessions": 2048,
    });
    let file = folder.path().join("server.json");
    fs::write(&file, config.to_string()).unwrap();
    let server = Peer::start(&programs.server, ["start", file.to_str().unwrap()]);
    // It takes sessions only after it was registered.
    server.line("Accepting sessions").await;
    (server, ServerRecord { key: secret.public_key(), address, available_sessions: 1 })
}

async fn our_server(url: &str) -> (Peer, ServerRecord) {
    let secret = SecretKey::generate().unwrap();
    let args = ["server", "--listen", "127.0.0.1:0", "--threads", "2", "--discovery", url];
    let server = Peer::ours(&secret, &args);
    let line = server.line(&secret.public_key().to_string()).await;
    let (_, address) = line.trim().split_once('@').unwrap();
    let record = ServerRecord {
        key: secret.public_key(),
        address: address.to_owned(),
        available_sessions: 1,
    };
    (server, record)
}

/// All clients meet by the discovery, and withdraw from it in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_find_each_other_by_either_discovery_through_either_server() {
    let Some(programs) = Programs::find() else { return };
    let Some([echo, dial]) = crate::peer::programs(["DMSG_GO_ECHO_BIN", "DMSG_GO_DIAL_BIN"]) else {
        return;
    };
    for (discovery, server) in
        [(By::Go, By::Go), (By::Go, By::Us), (By::Us, By::Go), (By::Us, By::Us)]
    {
        let network = Network::start(&programs, discovery, server).await;
        let via = Via::Discovery(&network.url);
        let go = GoEcho::start(&echo, via, &[]).await;
        network.listed("the Go echo", go.key).await;
        let us = network.our_client().await;
        ours::spawn_echo(&us);
        network.listed("our echo", us.public_key()).await;
        let dialler = network.our_client().await;
        let (to_go, to_us) = (ours::echo_addr(go.key), ours::echo_addr(us.public_key()));
        for load in [Load::one(1 << 20), Load { bytes: 64 << 10, count: 25, parallel: 4 }] {
            let go_go = go_echo(&dial, via, &to_go.to_string(), load, &[]).await;
            let go_us = go_echo(&dial, via, &to_us.to_string(), load, &[]).await;
            let us_go = ours::echo(&dialler, to_go, load).await;
            let us_us = ours::echo(&dialler, to_us, load).await;
            report!(
                "discovery by {discovery:?}, server by {server:?}: {load}: Go to Go {go_go:.2?}, Go to ours {go_us:.2?}, ours to Go {us_go:.2?}, ours to ours {us_us:.2?}"
            );
        }
        us.close().await;
        dialler.close().await;
        network.withdrawn(us.public_key()).await;
        network.withdrawn(dialler.public_key()).await;
    }
}
