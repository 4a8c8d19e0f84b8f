//! Our side: servers, clients, an echo and its dialler.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use dmsg_engine::{
    client::{Client, ClientConfig, Directory, ServerRecord, StaticDirectory, Stream},
    driver::DriverKind,
    identity::{PublicKey, SecretKey},
    mux::MuxKind,
    server::{Server, ServerConfig},
    wire::{Addr, Port},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use crate::peer::{LIMIT, Load};

/// Where echoes listen.
pub const ECHO_PORT: u16 = 7;

/// The drivers that this machine has.
pub fn drivers() -> Vec<DriverKind> {
    let wanted = [DriverKind::Epoll, DriverKind::Uring];
    let has = |&kind: &DriverKind| {
        let mut config = server_config();
        config.driver = kind;
        Server::start(config).is_ok_and(|server| server.driver() == kind)
    };
    wanted.into_iter().filter(has).collect()
}

/// A server on a free port, with a new key.
pub fn server_config() -> ServerConfig {
    ServerConfig::new(SecretKey::generate().unwrap(), "127.0.0.1:0".parse().unwrap())
}

/// Starts a server.
pub fn server(driver: DriverKind, threads: u16) -> Server {
    let mut config = server_config();
    config.driver = driver;
    config.threads = threads;
    Server::start(config).unwrap()
}

/// How a directory names our server.
pub fn record(server: &Server) -> ServerRecord {
    record_at(server.public_key(), server.local_addr())
}

pub fn record_at(key: PublicKey, address: SocketAddr) -> ServerRecord {
    ServerRecord { key, address: address.to_string(), available_sessions: 1 }
}

/// A client of one server that is up.
pub async fn client(server: &ServerRecord, driver: DriverKind, mux: MuxKind) -> Client {
    let mut config = ClientConfig::new(SecretKey::generate().unwrap());
    config.driver = driver;
    config.mux = mux;
    client_with(config, Arc::new(StaticDirectory { servers: vec![server.clone()] })).await
}

/// A client that is up.
pub async fn client_with(config: ClientConfig, directory: Arc<dyn Directory>) -> Client {
    let client = Client::start(config, directory).unwrap();
    timeout(LIMIT, client.ready()).await.expect("the client was not ready in time").unwrap();
    client
}

/// The address of an echo.
pub fn echo_addr(key: PublicKey) -> Addr {
    Addr { key, port: Port::new(ECHO_PORT).unwrap() }
}

/// Sends back what each stream to [`ECHO_PORT`] brings, until the client closes.
pub fn spawn_echo(client: &Client) -> JoinHandle<()> {
    let mut listener = client.listen(Port::new(ECHO_PORT).unwrap()).unwrap();
    tokio::spawn(async move {
        while let Ok(stream) = listener.accept().await {
            tokio::spawn(async move {
                let (read, mut write) = tokio::io::split(stream);
                let mut read = BufReader::with_capacity(64 * 1024, read);
                // The dialler judges; here a stream that breaks is only over.
                let _ = tokio::io::copy_buf(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    })
}

/// Dials `to` and checks the echo of `load`; how long it took.
pub async fn echo(client: &Client, to: Addr, load: Load) -> Duration {
    let started = Instant::now();
    let mut series = JoinSet::new();
    for number in 0..load.parallel {
        let client = client.clone();
        series.spawn(async move {
            for count in 0..load.count {
                let stream = client.dial(to).await.unwrap();
                exchange(stream, load.bytes, number * load.count + count).await;
            }
        });
    }
    while let Some(done) = timeout(LIMIT, series.join_next()).await.expect("an echo hangs") {
        done.unwrap();
    }
    started.elapsed()
}

/// Sends `bytes` and reads them back at once.
pub async fn exchange(stream: Stream, bytes: usize, seed: usize) {
    const CHUNK: usize = 64 * 1024;
    let chunk = move |from: usize| -> Vec<u8> {
        (from..bytes.min(from + CHUNK)).map(|i| (i ^ (i >> 8) ^ (i >> 16) ^ seed) as u8).collect()
    };
    let (mut read, mut write) = tokio::io::split(stream);
    let writer = tokio::spawn(async move {
        for from in (0..bytes).step_by(CHUNK) {
            write.write_all(&chunk(from)).await.unwrap();
        }
        write
    });
    let mut got = vec![0; CHUNK];
    for from in (0..bytes).step_by(CHUNK) {
        let expected = chunk(from);
        let got = &mut got[..expected.len()];
        read.read_exact(got).await.unwrap_or_else(|error| panic!("after {from} bytes: {error}"));
        assert!(got == expected, "other bytes came back after {from}");
    }
    writer.await.unwrap();
}

/// Dials an echo through a server until it answers.
pub async fn reach(server: &ServerRecord, to: Addr) {
    let mut config = ClientConfig::new(SecretKey::generate().unwrap());
    config.dial_timeout = Duration::from_secs(1);
    let client =
        client_with(config, Arc::new(StaticDirectory { servers: vec![server.clone()] })).await;
    let reached = async { while client.dial(to).await.is_err() {} };
    timeout(LIMIT, reached).await.expect("the echo is never reached");
    client.close().await;
}

/// Waits until `holds`; what is not told by an event is asked for again and again, up to a limit.
pub async fn until(what: &str, holds: impl Fn() -> bool) -> Duration {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < LIMIT, "never: {what}");
        sleep(Duration::from_millis(5)).await;
    }
    started.elapsed()
}
