//! io_uring is there, but a filter forbids a part of its use: the driver says so and runs on epoll.

use std::collections::BTreeMap;

use dmsg_engine::{
    driver::{DriverConfig, DriverKind, probe, spawn},
    identity::SecretKey,
    server::{Server, ServerConfig},
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::driver_support::*;

/// Forbids the calls to this thread and those that it starts.
fn forbid(calls: &[i64]) {
    seccompiler::apply_filter(&filter(calls)).unwrap();
}

fn filter(calls: &[i64]) -> BpfProgram {
    let filter = SeccompFilter::new(
        calls.iter().map(|call| (*call, vec![])).collect::<BTreeMap<_, _>>(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    filter.unwrap().try_into().unwrap()
}

#[test]
fn a_forbidden_half_of_io_uring_means_epoll_and_a_reason() {
    if probe().is_err() {
        return println!("skipped: no io_uring here at all");
    }
    for call in [libc::SYS_io_uring_register, libc::SYS_io_uring_enter] {
        std::thread::spawn(move || {
            forbid(&[call]);
            let config = DriverConfig { kind: DriverKind::Uring, ..DriverConfig::new("wanted") };
            let error = spawn(config, |_| Lab::new(Role::Sink, std::sync::mpsc::channel().0))
                .expect_err("the filter forbids it");
            for part in ["forbidden here", "seccomp", "EPERM"] {
                assert!(error.to_string().contains(part), "{part} is missing in: {error}");
            }
            let variant = Variant { name: "halved", kind: DriverKind::Auto, ..Variant::epoll() };
            let bed = Bed::start_as(&variant, Role::Echo, DriverKind::Epoll);
            let peer = bed.connect();
            let writer = write_pattern(&peer, 1_000_000, 100_000);
            read_pattern(&peer, 1_000_000, 70_000);
            writer.join().unwrap();
        })
        .join()
        .unwrap();
    }
}

#[test]
fn a_ring_that_is_forbidden_while_it_runs_ends_its_driver_with_the_reason() {
    if probe().is_err() {
        return println!("skipped: no io_uring here at all");
    }
    let variant = Variant { name: "later", kind: DriverKind::Uring, ..Variant::epoll() };
    let mut bed = Bed::start_as(&variant, Role::Sink, DriverKind::Uring);
    let (_peer, _conn) = bed.connected_pair();
    bed.order(Order::Call(Box::new(|_| forbid(&[libc::SYS_io_uring_enter]))));
    let _ = bed.mailbox.post(Order::Number(1));
    let driver = bed.driver.take().unwrap();
    let error = driver.thread.join().unwrap().expect_err("the ring is of no use any more");
    assert!(error.to_string().contains("forbidden here"), "{error}");
}

/// In a process of its own, since the filter is for all its threads.
#[test]
fn a_server_whose_driver_has_failed_says_so() {
    if probe().is_err() {
        return println!("skipped: no io_uring here at all");
    }
    let name = "denied_half_way::the_process_of_a_server_whose_driver_fails";
    let itself = std::env::current_exe().unwrap();
    let output = std::process::Command::new(itself).args(["--ignored", "--exact", name]).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{output:?}");
}

#[test]
#[ignore = "run by the test above"]
fn the_process_of_a_server_whose_driver_fails() {
    let key = SecretKey::generate().unwrap();
    let mut config = ServerConfig::new(key, "127.0.0.1:0".parse().unwrap());
    config.driver = DriverKind::Uring;
    let server = Server::start(config).unwrap();
    assert!(!server.has_failed() && server.available_sessions() > 0);
    seccompiler::apply_filter_all_threads(&filter(&[libc::SYS_io_uring_enter])).unwrap();
    // It sleeps in the call that is forbidden from now on: this wakes it.
    drop(std::net::TcpStream::connect(server.local_addr()));
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !server.has_failed() {
        assert!(std::time::Instant::now() < until, "nobody notices");
        std::thread::yield_now();
    }
    assert_eq!(server.available_sessions(), 0);
}
