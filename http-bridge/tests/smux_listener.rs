//! A client that speaks smux and only listens is reached behind relays that look entries up (`discovery.md §7.3`): the
//! look-up neither delays nor confuses anything. Ours shows its mux early; that a hint decides where a client has been
//! silent is tested with the relay (`engine/tests/relay/muxes_meet.rs`), and the look-up in `cli/hints.rs`.
#![allow(clippy::unwrap_used)]

#[path = "common/program.rs"]
mod program;

use std::{sync::Arc, time::Duration};

use axum::{Router, routing::get};
use dmsg_engine::{
    client::{Client, ClientConfig},
    identity::SecretKey,
    mux::MuxKind,
};
use dmsg_http::transport::TcpTransport;
use dmsg_http::{
    discovery::{ClientOptions, DiscoveryClient, HttpDirectory, client::DirectoryOptions},
    http::server::{ServeConfig, ServeStats, serve},
};
use program::{LocalNetwork, Running, assert_exit, run, stdout};

/// A client of this test that serves one page and never dials.
fn smux_listener(discovery: &str) -> Client {
    let key = SecretKey::generate().unwrap();
    let discovery =
        DiscoveryClient::new(discovery, Arc::new(TcpTransport::new()), ClientOptions::default());
    let options = DirectoryOptions { protocol: "smux".to_owned(), ..DirectoryOptions::default() };
    let directory = HttpDirectory::new(Arc::new(discovery.unwrap()), key.clone(), options);
    let config = ClientConfig { mux: MuxKind::SmuxV2, ..ClientConfig::new(key) };
    let client = Client::start(config, Arc::new(directory)).unwrap();
    let listener = client.listen(80.try_into().unwrap()).unwrap();
    let page = Router::new().route("/", get(|| async { "over smux" }));
    let stats = Arc::new(ServeStats::default());
    tokio::spawn(serve(listener, page, ServeConfig::default(), stats, std::future::pending()));
    client
}

/// Fetches the page. The relay looks the entry up when the session is up, and a few times more until it is there.
async fn assert_reached(client: &Client, discovery: &str) {
    let url = format!("dmsg://{}/", client.public_key());
    let args = ["curl", "--discovery", discovery, "-f", &url].map(str::to_owned);
    let fetch = move || run(&args.each_ref().map(String::as_str));
    let mut tries = 20;
    let output = loop {
        let output = tokio::task::spawn_blocking(fetch.clone()).await.unwrap();
        tries -= 1;
        // Until the entry is published and seen by the relay.
        if output.status.success() || tries == 0 {
            break output;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    };
    assert_exit(&output, 0);
    assert_eq!(stdout(&output), "over smux");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_reached_behind_the_relays_of_local() {
    let network = LocalNetwork::start(&[]);
    let client = smux_listener(&network.discovery);
    client.ready().await.unwrap();
    assert_reached(&client, &network.discovery).await;
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_reached_behind_a_relay_that_asks_a_discovery_elsewhere() {
    let mut discovery = Running::start(&[
        "discovery",
        "--listen",
        "127.0.0.1:0",
        "--allow-loopback",
        "--log",
        "warn",
    ]);
    let discovery_url = discovery.line();
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    let key = key.to_str().unwrap();
    assert_exit(&run(&["key", "new", "--out", key]), 0);
    let mut server = Running::start(&[
        "server",
        "--listen",
        "127.0.0.1:0",
        "--discovery",
        &discovery_url,
        "--secret-key-file",
        key,
        "--log",
        "warn",
    ]);
    server.line();
    let client = smux_listener(&discovery_url);
    client.ready().await.unwrap();
    assert_reached(&client, &discovery_url).await;
    client.close().await;
}
