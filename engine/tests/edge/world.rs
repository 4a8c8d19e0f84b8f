//! A relay and two clients, and what they send.

use std::{future::Future, sync::Arc};

use dmsg_engine::{
    client::{Client, ClientConfig, ServerRecord, StaticDirectory},
    identity::SecretKey,
    server::{Server, ServerConfig},
    wire::{Addr, Port},
};

/// Several windows of the mux, and no multiple of a frame.
pub const BYTES: usize = 3_000_001;

pub struct World {
    pub service: Client,
    pub caller: Client,
    pub addr: Addr,
    _server: Server,
}

impl World {
    pub fn new() -> Self {
        let key = || SecretKey::generate().unwrap();
        let server =
            Server::start(ServerConfig::new(key(), "127.0.0.1:0".parse().unwrap())).unwrap();
        let record = ServerRecord {
            key: server.public_key(),
            address: server.local_addr().to_string(),
            available_sessions: 1,
        };
        let start = || {
            let directory = StaticDirectory { servers: vec![record.clone()] };
            Client::start(ClientConfig::new(key()), Arc::new(directory)).unwrap()
        };
        let (service, caller) = (start(), start());
        let addr = Addr { key: service.public_key(), port: Port::new(7).unwrap() };
        Self { service, caller, addr, _server: server }
    }

    pub async fn ready(&self) {
        self.service.ready().await.unwrap();
        self.caller.ready().await.unwrap();
    }

    /// Whatever was opened is closed again.
    pub fn assert_idle(&self) {
        assert_eq!(self.caller.ports_in_use(), 0, "the dialled port is free");
    }
}

pub fn pattern() -> Vec<u8> {
    (0..BYTES as u32).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

/// Runs on a thread of its own and fails if it takes more than a minute.
pub fn within_a_minute<F: Future<Output = ()> + 'static>(
    run: impl FnOnce() -> F + Send + 'static,
    on: fn(F),
) {
    let (done, wait) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        on(run());
        done.send(()).unwrap();
    });
    match wait.recv_timeout(std::time::Duration::from_secs(60)) {
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("hangs"),
        _ => thread.join().unwrap(),
    }
}
