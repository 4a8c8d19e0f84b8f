//! HTTP over DMSG: each server answers each client the same bytes.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use axum::{Router, body::Bytes, routing::post};
use dmsg_engine::identity::{PublicKey, SecretKey};
use tempfile::TempDir;

use crate::{
    networks::{By, Network, Programs},
    peer::{Peer, programs},
    report,
};

/// Bytes of the large file: not a multiple of any frame or window.
const LARGE_BYTES: u32 = 8 * 1024 * 1024 + 13;

struct Site {
    folder: TempDir,
    large: Vec<u8>,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let large: Vec<u8> = (0..LARGE_BYTES).map(|i| (i ^ (i >> 7) ^ (i >> 15)) as u8).collect();
        fs::write(folder.path().join("large.bin"), &large).unwrap();
        fs::write(folder.path().join("hello.txt"), "hello over dmsg\n").unwrap();
        Self { folder, large }
    }

    fn path(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }
}

/// Somebody who serves the site.
struct WebServer {
    name: &'static str,
    url: String,
    _peer: Peer,
}

async fn serve_site(network: &Network, site: &Site, http: &Path, example: &Path) -> Vec<WebServer> {
    let mut servers = Vec::new();
    for name in ["dmsghttp", "dmsg-example-http-server", "dmsg serve"] {
        let secret = SecretKey::generate().unwrap();
        let hex = secret.to_hex();
        let peer = match name {
            "dmsghttp" => {
                Peer::start(http, ["-d", site.path(), "-p", "80", "-D", &network.url, "-s", &hex])
            }
            "dmsg serve" => {
                Peer::ours(&secret, &["serve", "--dir", site.path(), "--discovery", &network.url])
            }
            _ => {
                let args = ["-dir", site.path(), "-disc", &network.url, "-port", "80", "-sk", &hex];
                Peer::start(example, args)
            }
        };
        network.listed(name, secret.public_key()).await;
        let url = format!("dmsg://{}:80", secret.public_key());
        servers.push(WebServer { name, url, _peer: peer });
    }
    servers
}

/// A client of each kind, fetching to a file.
struct Fetch<'a> {
    network: &'a Network,
    curl: &'a Path,
    to: PathBuf,
}

impl Fetch<'_> {
    async fn by_go(&self, url: &str, extra: &[&str]) -> Vec<u8> {
        let to = self.to.to_str().unwrap();
        // A relay of 2024 drops the session of a client that dials at once, and this one does.
        let args = ["-c", &self.network.url, "-o", to, "-r", "-t", "5", "-w", "1"];
        let args = args.iter().chain(extra).chain([&url]);
        Peer::start(self.curl, args).succeed().await;
        fs::read(&self.to).unwrap()
    }

    async fn by_us(&self, url: &str, extra: &[&str]) -> Vec<u8> {
        let to = self.to.to_str().unwrap();
        let args = [&["curl", "--discovery", &self.network.url, "-o", to], extra, &[url]].concat();
        Peer::ours(&SecretKey::generate().unwrap(), &args).succeed().await;
        fs::read(&self.to).unwrap()
    }
}

fn tools() -> Option<(Programs, [PathBuf; 3])> {
    let network = Programs::find();
    let tools = programs(["DMSG_GO_CURL_BIN", "DMSG_GO_HTTP_BIN", "DMSG_GO_EXAMPLE_BIN"]);
    Some((network?, tools?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_come_whole_from_every_server_to_every_client() {
    let Some((programs, [curl, http, example])) = tools() else { return };
    let site = Site::new();
    let out = tempfile::tempdir().unwrap();
    for (discovery, server) in [(By::Go, By::Go), (By::Us, By::Us)] {
        let network = Network::start(&programs, discovery, server).await;
        let fetch = Fetch { network: &network, curl: &curl, to: out.path().join("out") };
        for web in serve_site(&network, &site, &http, &example).await {
            let small = format!("{}/hello.txt", web.url);
            assert_eq!(fetch.by_go(&small, &[]).await, b"hello over dmsg\n", "{}", web.name);
            assert_eq!(fetch.by_us(&small, &[]).await, b"hello over dmsg\n", "{}", web.name);
            let large = format!("{}/large.bin", web.url);
            let started = Instant::now();
            assert!(fetch.by_go(&large, &[]).await == site.large, "{}", web.name);
            let by_go = started.elapsed();
            let started = Instant::now();
            assert!(fetch.by_us(&large, &[]).await == site.large, "{}", web.name);
            let by_us = started.elapsed();
            let part = fetch.by_us(&large, &["-r", "70000-4200000"]).await;
            assert!(part == site.large[70_000..=4_200_000], "{}: a range", web.name);
            report!(
                "network by {server:?}: {}: {LARGE_BYTES} bytes by dmsgcurl in {by_go:.2?}, by dmsg curl in {by_us:.2?}, and a range",
                web.name
            );
            let missing = format!("{}/missing", web.url);
            let args = ["curl", "--fail", "--discovery", &network.url, &missing];
            let (code, log) =
                Peer::ours(&SecretKey::generate().unwrap(), &args).end_with_code().await;
            assert_eq!(code, Some(22), "{}:\n{}", web.name, log.join("\n"));
        }
    }
}

/// `dmsg serve --to`, in front of a service that sends back what is posted.
async fn our_proxy(network: &Network) -> (Peer, PublicKey) {
    let service = Router::new().route("/echo", post(async |body: Bytes| body));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, service).await.unwrap() });
    let secret = SecretKey::generate().unwrap();
    let peer = Peer::ours(&secret, &["serve", "--to", &target, "--discovery", &network.url]);
    network.listed("dmsg serve --to", secret.public_key()).await;
    (peer, secret.public_key())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_go_posts_reaches_a_service_behind_ours() {
    let Some((programs, [curl, ..])) = tools() else { return };
    let out = tempfile::tempdir().unwrap();
    for (discovery, server) in [(By::Go, By::Go), (By::Us, By::Us)] {
        let network = Network::start(&programs, discovery, server).await;
        let (_proxy, key) = our_proxy(&network).await;
        let fetch = Fetch { network: &network, curl: &curl, to: out.path().join("out") };
        let url = format!("dmsg://{key}:80/echo");
        // A relay of 2024 drops the session of a client that dials at once, as this one does, and
        // it does not try again.
        let mut tries = if server == By::Go { 10 } else { 1 };
        loop {
            let args = ["-c", &network.url, "-d", "posted by Go", &url];
            let lines = Peer::start(&curl, args).end().await;
            if lines.iter().any(|line| line.contains("posted by Go")) {
                break;
            }
            tries -= 1;
            assert!(tries > 0, "{}", lines.join("\n"));
        }
        assert_eq!(fetch.by_us(&url, &["-d", "posted by us"]).await, b"posted by us");
        report!("network by {server:?}: bodies posted by dmsgcurl and dmsg curl came back");
    }
}

/// Our discovery is itself reached over DMSG, here through a Go server, to fetch from a Go web server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_discovery_is_asked_over_dmsg_through_a_go_server() {
    let Some((programs, [_, http, example])) = tools() else { return };
    let site = Site::new();
    let network = Network::start(&programs, By::Us, By::Go).await;
    network.discovery_is_on_dmsg().await;
    let servers = serve_site(&network, &site, &http, &example).await;
    let discovery = format!("dmsg://{}", network.discovery_key);
    let server = format!("{}@{}", network.server.key, network.server.address);
    let url = format!("{}/hello.txt", servers[0].url);
    let args = ["curl", "--discovery", &discovery, "--server", &server, &url];
    let started = Instant::now();
    let (code, lines) = Peer::ours(&SecretKey::generate().unwrap(), &args).end_with_code().await;
    assert_eq!(code, Some(0), "{}", lines.join("\n"));
    assert!(lines.contains(&"hello over dmsg".to_owned()), "{}", lines.join("\n"));
    report!("dmsg curl with a dmsg:// discovery: {:.2?}", started.elapsed());
}
