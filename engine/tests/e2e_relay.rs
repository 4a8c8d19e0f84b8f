//! Real sockets: two clients, one relay server, every driver this machine has, one and two relay threads.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "e2e_relay/idle.rs"]
mod idle;
#[path = "e2e_relay/overload.rs"]
mod overload;
#[path = "e2e_relay/trouble.rs"]
mod trouble;

use std::{sync::Arc, time::Duration};

use dmsg_engine::{
    client::{Client, ClientConfig, ServerRecord, StaticDirectory},
    driver::DriverKind,
    identity::SecretKey,
    mux::MuxKind,
    server::{Server, ServerConfig},
    wire::{Addr, Port},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A limit for what takes a moment: a test that hangs shall fail.
const LIMIT: Duration = Duration::from_secs(60);

/// The drivers that this machine allows.
fn drivers() -> Vec<DriverKind> {
    let key = SecretKey::generate().unwrap();
    let mut config = ServerConfig::new(key, "127.0.0.1:0".parse().unwrap());
    config.driver = DriverKind::Uring;
    match Server::start(config) {
        Ok(_) => vec![DriverKind::Epoll, DriverKind::Uring],
        Err(error) => {
            println!("skipped with io_uring: {error}");
            vec![DriverKind::Epoll]
        }
    }
}

fn server(driver: DriverKind, threads: u16) -> Server {
    let key = SecretKey::generate().unwrap();
    let mut config = ServerConfig::new(key, "127.0.0.1:0".parse().unwrap());
    config.driver = driver;
    config.threads = threads;
    Server::start(config).unwrap()
}

fn client(driver: DriverKind, server: &Server) -> Client {
    client_with(driver, server, MuxKind::Yamux)
}

fn client_with(driver: DriverKind, server: &Server, mux: MuxKind) -> Client {
    client_of(SecretKey::generate().unwrap(), driver, server, mux)
}

fn client_of(key: SecretKey, driver: DriverKind, server: &Server, mux: MuxKind) -> Client {
    let mut config = ClientConfig::new(key);
    config.driver = driver;
    config.mux = mux;
    let record = ServerRecord {
        key: server.public_key(),
        address: server.local_addr().to_string(),
        available_sessions: 1,
    };
    Client::start(config, Arc::new(StaticDirectory { servers: vec![record] })).unwrap()
}

/// Waits until so many sessions have come up at the server: a client is ready a moment before its server knows it, and
/// whoever dials it in that moment is refused.
async fn server_knows(server: &Server, sessions: u64) {
    while server.stats().sessions_total < sessions {
        tokio::task::yield_now().await;
    }
}

async fn echo_through(driver: DriverKind, threads: u16, bytes: usize) {
    let server = server(driver, threads);
    let (a, b) = (client(driver, &server), client(driver, &server));
    a.ready().await.unwrap();
    b.ready().await.unwrap();
    server_knows(&server, 2).await;
    echo(&server, &a, &b, bytes).await;
    a.close().await;
    b.close().await;
    assert_eq!(a.ports_in_use(), 0);
    let stats = server.stats();
    assert_eq!(stats.streams_total, 1);
    assert!(stats.relayed_bytes > 2 * bytes as u64, "both directions, sealed");
}

/// `b` listens and sends back what `a` sends.
async fn echo(server: &Server, a: &Client, b: &Client, bytes: usize) {
    let port = Port::new(80).unwrap();
    let mut listener = b.listen(port).unwrap();
    let echo = tokio::spawn(async move {
        let stream = listener.accept().await.unwrap();
        let from = stream.remote_addr().key;
        let (mut read, mut write) = tokio::io::split(stream);
        tokio::io::copy(&mut read, &mut write).await.unwrap();
        write.shutdown().await.unwrap();
        from
    });
    let stream = a.dial(Addr { key: b.public_key(), port }).await.unwrap();
    assert_eq!(stream.server(), server.public_key());
    let (mut read, mut write) = tokio::io::split(stream);
    let sent: Vec<u8> = (0..bytes).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect();
    let expected = sent.clone();
    let writer = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
        write
    });
    let mut got = Vec::with_capacity(bytes);
    read.read_to_end(&mut got).await.unwrap();
    assert!(got == expected, "{:?}: other bytes came back", server.driver());
    drop((read, writer.await.unwrap()));
    assert_eq!(echo.await.unwrap(), a.public_key(), "the caller's key is authenticated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_echo_of_8_mib_comes_back_over_every_driver() {
    for driver in drivers() {
        for threads in [1, 2, 16] {
            println!("{driver:?}, {threads} relay threads");
            tokio::time::timeout(LIMIT, echo_through(driver, threads, 8 << 20)).await.unwrap();
        }
    }
}

/// With many sessions on two threads about half of the streams cross from one core to the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_cross_between_relay_threads() {
    for driver in drivers() {
        let server = server(driver, 2);
        let clients: Vec<_> = (0..6).map(|_| client(driver, &server)).collect();
        let port = Port::new(7).unwrap();
        for client in &clients {
            tokio::time::timeout(LIMIT, client.ready()).await.unwrap().unwrap();
            let mut listener = client.listen(port).unwrap();
            tokio::spawn(async move {
                while let Ok(mut stream) = listener.accept().await {
                    let mut word = [0; 5];
                    stream.read_exact(&mut word).await.unwrap();
                    stream.write_all(&word).await.unwrap();
                    stream.shutdown().await.unwrap();
                }
            });
        }
        server_knows(&server, clients.len() as u64).await;
        for from in &clients {
            for to in &clients {
                let dial = from.dial(Addr { key: to.public_key(), port });
                let mut stream = tokio::time::timeout(LIMIT, dial).await.unwrap().unwrap();
                stream.write_all(b"hello").await.unwrap();
                let mut word = [0; 5];
                stream.read_exact(&mut word).await.unwrap();
                assert_eq!(&word, b"hello");
            }
        }
        assert_eq!(server.stats().streams_total, 36);
    }
}

/// smux v1 cannot slow a sender down, so the relay must not read faster from one than the other side takes,
/// also when that other side is on another thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_of_a_mux_without_windows_crosses_between_relay_threads() {
    for driver in drivers() {
        let server = server(driver, 2);
        let yamux = client(driver, &server);
        yamux.ready().await.unwrap();
        // Some of them are on the other thread.
        for others in 1..=4 {
            let smux = client_with(driver, &server, MuxKind::SmuxV1);
            smux.ready().await.unwrap();
            server_knows(&server, 1 + others).await;
            server.hint_mux(&smux.public_key(), MuxKind::SmuxV1);
            let there = echo(&server, &yamux, &smux, 8 << 20);
            tokio::time::timeout(LIMIT, there).await.unwrap();
            let back = echo(&server, &smux, &yamux, 8 << 20);
            tokio::time::timeout(LIMIT, back).await.unwrap();
            smux.close().await;
        }
        assert_eq!(server.stats().refused, []);
    }
}

/// The driver's own figures add up over the threads, and a connection has the options that the server was given.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_passes_on_what_its_drivers_are_told_and_tell() {
    for driver in drivers() {
        let mut config =
            ServerConfig::new(SecretKey::generate().unwrap(), "127.0.0.1:0".parse().unwrap());
        config.driver = driver;
        config.threads = 2;
        config.sockets.send_buffer_bytes = Some(64 * 1024);
        config.uring.buffers_count = 64;
        let server = Server::start(config).unwrap();
        let (a, b) = (client(driver, &server), client(driver, &server));
        a.ready().await.unwrap();
        b.ready().await.unwrap();
        server_knows(&server, 2).await;
        echo(&server, &a, &b, 1 << 20).await;
        let until = std::time::Instant::now() + LIMIT;
        while server.stats().connections != 2 && std::time::Instant::now() < until {
            tokio::task::yield_now().await;
        }
        let stats = server.stats();
        assert_eq!(stats.connections, 2, "{driver:?}");
        let buffers = if driver == DriverKind::Uring { 16..=128 } else { 0..=0 };
        assert!(buffers.contains(&stats.receive_buffers), "{driver:?}: {stats:?}");
        assert!(stats.receive_buffers_lent <= stats.receive_buffers, "{driver:?}: {stats:?}");
        a.close().await;
        b.close().await;
        while server.stats().connections != 0 && std::time::Instant::now() < until {
            tokio::task::yield_now().await;
        }
        assert_eq!(server.stats().connections, 0, "{driver:?}");
    }
}

/// Else the kernel would spread clients over both, and half of the dials would find nobody.
#[test]
fn a_second_server_on_the_same_port_is_refused_also_where_threads_share_it() {
    for threads in [1, 2] {
        let first = server(DriverKind::Epoll, threads);
        for threads in [1, 2] {
            let mut config = ServerConfig::new(SecretKey::generate().unwrap(), first.local_addr());
            config.driver = DriverKind::Epoll;
            config.threads = threads;
            let error = Server::start(config).map(drop).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse, "{error}");
        }
    }
}
