//! io_uring is forbidden, as Docker does by default: `Auto` says so and runs on epoll, `Uring` is
//! an error that an operator understands. The filter holds for the thread that sets it and for
//! those it starts.
#![allow(clippy::unwrap_used)]

mod driver_support;

use std::{
    collections::BTreeMap,
    hash::RandomState,
    io::{Read, Write},
    net::TcpStream,
    sync::{Arc, Mutex},
};

use dmsg_engine::{
    driver::{DriverConfig, DriverKind, probe, spawn},
    identity::SecretKey,
    server::{Server, ServerConfig},
    session::SessionHandshake,
};
use driver_support::*;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// Runs `scenario` where `io_uring_setup` fails with `errno`.
fn without_io_uring(errno: i32, scenario: impl FnOnce() + Send + 'static) {
    without(libc::SYS_io_uring_setup, errno, scenario);
}

/// Runs `scenario` where a system call fails with `errno`.
fn without(call: libc::c_long, errno: i32, scenario: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        let filter = SeccompFilter::new(
            BTreeMap::from([(call, vec![])]),
            SeccompAction::Allow,
            SeccompAction::Errno(errno as u32),
            std::env::consts::ARCH.try_into().unwrap(),
        );
        let program: BpfProgram = filter.unwrap().try_into().unwrap();
        // The seeds of this thread's hash maps, without which there is no map.
        let _ = RandomState::new();
        seccompiler::apply_filter(&program).unwrap();
        scenario();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn auto_says_why_and_echoes_on_epoll() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
    without_io_uring(libc::EPERM, || {
        let variant = Variant { name: "contained", kind: DriverKind::Auto, ..Variant::epoll() };
        let bed = Bed::start_as(&variant, Role::Echo, DriverKind::Epoll);
        let peer = bed.connect();
        let writer = write_pattern(&peer, 4_000_000, 100_000);
        read_pattern(&peer, 4_000_000, 70_000);
        writer.join().unwrap();
    });
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let line = log.lines().find(|line| line.contains("contained")).expect(&log);
    for part in
        ["INFO", "forbidden here", "seccomp", "kernel.io_uring_disabled", "EPERM", "using epoll"]
    {
        assert!(line.contains(part), "{part} is missing in: {line}");
    }
}

#[test]
fn uring_is_an_error_that_names_the_cause() {
    for (errno, part) in [(libc::EPERM, "seccomp"), (libc::ENOSYS, "older than 5.11")] {
        without_io_uring(errno, move || {
            assert_eq!(probe().unwrap_err().errno, errno);
            let config = DriverConfig { kind: DriverKind::Uring, ..DriverConfig::new("wanted") };
            let error = spawn(config, |_| Lab::new(Role::Sink, std::sync::mpsc::channel().0))
                .expect_err("the filter forbids it");
            assert!(error.to_string().contains(part), "{error}");
        });
    }
}

/// Threat 35. A server without randomness says nothing at all: no handshake with a key that somebody could guess.
#[test]
fn randomness_that_fails_is_an_error_and_never_a_constant() {
    without(libc::SYS_getrandom, libc::EIO, || {
        let Err(error) = SecretKey::generate() else {
            return println!("skipped: randomness comes without a system call here");
        };
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
        let key = SecretKey::from_seed(b"a server without randomness");
        let address = "127.0.0.1:0".parse().unwrap();
        for driver in [DriverKind::Epoll, DriverKind::Auto] {
            let mut config = ServerConfig::new(key.clone(), address);
            config.driver = driver;
            let server = Server::start(config).unwrap();
            let (client, ephemeral) = (SecretKey::from_seed(b"c"), SecretKey::from_seed(b"e"));
            let mut hello = Vec::new();
            let _handshake =
                SessionHandshake::initiator(&client, key.public_key(), ephemeral, &mut hello);
            // It may be gone already, at each of these steps.
            let mut answer = Vec::new();
            if let Ok(mut peer) = TcpStream::connect(server.local_addr()) {
                let _ = peer.write_all(&hello);
                let _ = peer.read_to_end(&mut answer);
            }
            assert_eq!(answer, b"", "{driver:?}");
            while !server.has_failed() {
                std::thread::yield_now();
            }
        }
    });
}
