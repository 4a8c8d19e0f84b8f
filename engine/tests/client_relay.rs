//! Clients of this engine through this engine's relay, over real sockets, on each driver.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{sync::Arc, time::Duration};

use dmsg_engine::{
    client::{Client, ClientConfig, DialError, ServerRecord, StaticDirectory, Stream},
    driver::DriverKind,
    identity::SecretKey,
    mux::MuxKind,
    server::{Server, ServerConfig},
    wire::{Addr, Port},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct Deployment {
    server: Server,
    near: Client,
    far: Client,
}

impl Deployment {
    async fn start(name: &str, kind: DriverKind, configure: impl Fn(&mut ClientConfig)) -> Self {
        let key = |role: &str| SecretKey::from_seed(format!("{name} {kind:?} {role}").as_bytes());
        let mut config = ServerConfig::new(key("server"), "127.0.0.1:0".parse().unwrap());
        config.driver = kind;
        let server = Server::start(config).unwrap();
        let servers = vec![ServerRecord {
            key: server.public_key(),
            address: server.local_addr().to_string(),
            available_sessions: 1,
        }];
        let directory = Arc::new(StaticDirectory { servers });
        let client = |role| {
            let mut config = ClientConfig::new(key(role));
            config.driver = kind;
            configure(&mut config);
            Client::start(config, directory.clone()).unwrap()
        };
        let (near, far) = (client("near"), client("far"));
        tokio::try_join!(near.ready(), far.ready()).unwrap();
        Self { server, near, far }
    }

    async fn pair(&self) -> (Stream, Stream) {
        let port = Port::new(80).unwrap();
        let mut listener = self.far.listen(port).unwrap();
        let to = Addr { key: self.far.public_key(), port };
        let (near, far) = tokio::join!(self.near.dial(to), listener.accept());
        (near.unwrap(), far.unwrap())
    }

    async fn end(self) {
        tokio::join!(self.near.close(), self.far.close());
        self.server.shutdown();
    }
}

async fn echo(mut near: Stream, mut far: Stream, bytes: u32) {
    let sent: Vec<u8> = (0..bytes).map(|i| (i ^ i >> 9) as u8).collect();
    let expected = sent.clone();
    let echo = tokio::spawn(async move {
        let mut received = Vec::new();
        far.read_to_end(&mut received).await.unwrap();
        far.write_all(&received).await.unwrap();
        far.shutdown().await.unwrap();
    });
    near.write_all(&sent).await.unwrap();
    near.shutdown().await.unwrap();
    let mut back = Vec::new();
    near.read_to_end(&mut back).await.unwrap();
    echo.await.unwrap();
    assert!(back == expected, "{} bytes of {bytes} came back", back.len());
}

/// The drivers of this machine.
fn drivers() -> Vec<DriverKind> {
    let mut config =
        ServerConfig::new(SecretKey::from_seed(b"probe"), "127.0.0.1:0".parse().unwrap());
    config.driver = DriverKind::Uring;
    match Server::start(config) {
        Ok(server) => {
            server.shutdown();
            vec![DriverKind::Epoll, DriverKind::Uring]
        }
        Err(error) => {
            eprintln!("io_uring is not tested: {error}");
            vec![DriverKind::Epoll]
        }
    }
}

#[tokio::test]
async fn eight_mebibytes_there_and_back_on_each_driver_and_mux() {
    for kind in drivers() {
        for mux in [MuxKind::Yamux, MuxKind::SmuxV2] {
            let name = format!("echo {mux:?}");
            let deployment = Deployment::start(&name, kind, |config| config.mux = mux).await;
            if mux != MuxKind::Yamux {
                // The server must be told, or have heard the client, before it opens a stream to
                // it.
                deployment.server.hint_mux(&deployment.near.public_key(), mux);
                deployment.server.hint_mux(&deployment.far.public_key(), mux);
            }
            let (near, far) = deployment.pair().await;
            let bytes = if mux == MuxKind::Yamux { 8 << 20 } else { 1 << 20 };
            echo(near, far, bytes).await;
            assert_eq!(deployment.near.ports_in_use(), 0);
            deployment.end().await;
        }
    }
}

#[tokio::test]
async fn the_relay_refuses_an_absent_peer_at_once() {
    let deployment = Deployment::start("absent", DriverKind::Epoll, |_| {}).await;
    let peer = SecretKey::from_seed(b"nobody at all").public_key();
    let to = Addr { key: peer, port: Port::new(80).unwrap() };
    let dial = tokio::time::timeout(Duration::from_secs(2), deployment.near.dial(to));
    let error = dial.await.expect("at once").unwrap_err();
    assert!(matches!(error, DialError::Refused { .. }), "{error}");
    deployment.end().await;
}

#[tokio::test]
async fn the_relay_tells_our_address() {
    let deployment = Deployment::start("address", DriverKind::Epoll, |_| {}).await;
    let address = deployment.near.lookup_ip(None).await.unwrap();
    assert!(address.is_loopback());
    deployment.end().await;
}

#[tokio::test]
async fn a_thousand_streams_at_once_and_then_none() {
    let deployment = Deployment::start("thousand", DriverKind::Epoll, |_| {}).await;
    let port = Port::new(80).unwrap();
    let mut listener = deployment.far.listen(port).unwrap();
    let accept = tokio::spawn(async move {
        let mut streams = Vec::new();
        while streams.len() < 1000 {
            streams.push(listener.accept().await.unwrap());
        }
        streams
    });
    let to = Addr { key: deployment.far.public_key(), port };
    let dials: Vec<_> = (0..1000).map(|_| tokio::spawn(deployment.near.dial(to))).collect();
    let mut near = Vec::new();
    for dial in dials {
        near.push(dial.await.unwrap().unwrap());
    }
    let far = accept.await.unwrap();
    assert_eq!((near.len(), far.len(), deployment.near.ports_in_use()), (1000, 1000, 1000));
    drop((near, far));
    assert_eq!(deployment.near.ports_in_use(), 0);
    assert_eq!(deployment.near.stats().streams, 0);
    deployment.end().await;
}

#[tokio::test]
async fn a_server_that_goes_away_ends_streams_and_is_found_again() {
    let deployment = Deployment::start("restart", DriverKind::Epoll, |_| {}).await;
    let (mut near, _far) = deployment.pair().await;
    let address = deployment.server.local_addr();
    let Deployment { server, near: client, far } = deployment;
    server.shutdown();
    assert!(near.read_u8().await.is_err());
    assert_eq!(client.ports_in_use(), 0);
    let key = SecretKey::from_seed(format!("restart {:?} server", DriverKind::Epoll).as_bytes());
    let mut config = ServerConfig::new(key, address);
    config.driver = DriverKind::Epoll;
    let server = Server::start(config).unwrap();
    let back = async {
        while client.sessions().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), back).await.expect("back within 5 s");
    Deployment { server, near: client, far }.end().await;
}
