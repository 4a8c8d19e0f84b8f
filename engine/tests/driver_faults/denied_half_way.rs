//! io_uring is there, but a filter forbids a part of its use: the driver says so and runs on epoll.

use std::collections::BTreeMap;

use dmsg_engine::driver::{DriverConfig, DriverKind, Features, probe, spawn};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use crate::driver_support::*;

/// Forbids the calls to this thread and those that it starts.
fn forbid(calls: &[i64]) {
    let filter = SeccompFilter::new(
        calls.iter().map(|call| (*call, vec![])).collect::<BTreeMap<_, _>>(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
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

/// As on a kernel that has none; what they forbid is tested where they are made.
#[test]
fn a_ring_without_restrictions_serves_the_same() {
    if probe().is_err() {
        return println!("skipped: no io_uring here at all");
    }
    let features = Features { restrictions: false, ..Features::ALL };
    let bed = Bed::start(&Variant::uring("no restrictions", features), Role::Echo);
    let peer = bed.connect();
    let writer = write_pattern(&peer, 4_000_000, 100_000);
    read_pattern(&peer, 4_000_000, 70_000);
    writer.join().unwrap();
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
