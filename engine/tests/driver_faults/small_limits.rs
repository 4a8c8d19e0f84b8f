//! Small resource limits. Each runs in a process of its own, since limits belong to the process.

use std::process::Command;

use dmsg_engine::driver::{DriverConfig, DriverKind, spawn};

use crate::driver_support::*;

const ROLE: &str = "DMSG_TEST_SMALL_LIMIT";

fn set(resource: libc::__rlimit_resource_t, value: u64) {
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: a valid `rlimit`.
    assert_eq!(unsafe { libc::setrlimit(resource, &raw const limit) }, 0);
}

/// Not a test of its own: what the children below do.
#[test]
fn child() {
    match std::env::var(ROLE).as_deref() {
        Ok("memlock") => {
            set(libc::RLIMIT_MEMLOCK, 0);
            let variant = Variant { name: "unlocked", kind: DriverKind::Auto, ..Variant::epoll() };
            let mut config = variant.config();
            config.listeners.push(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
            let address = config.listeners[0].local_addr().unwrap();
            let driver =
                spawn(config, |_| Lab::new(Role::Echo, std::sync::mpsc::channel().0)).unwrap();
            let peer = connect(address);
            let writer = write_pattern(&peer, 1_000_000, 50_000);
            read_pattern(&peer, 1_000_000, 50_000);
            writer.join().unwrap();
            println!("echoed on {:?}", driver.kind);
        }
        Ok("nofile") => {
            // SAFETY: no pointers. The lowest number that is free; the duplicate lives on, it is in nobody's way.
            let free = 1 + unsafe { libc::dup(0) } as u64;
            // With the room of no descriptor, then one more each time, until a driver starts.
            for room in 0..20 {
                set_soft_files(free + room);
                for kind in [DriverKind::Auto, DriverKind::Uring, DriverKind::Epoll] {
                    let config = DriverConfig { kind, ..DriverConfig::new("cramped") };
                    let lab = |_| Lab::new(Role::Sink, std::sync::mpsc::channel().0);
                    match spawn(config, lab) {
                        Ok(driver) => {
                            let _ = driver.mailbox.post(Order::Stop);
                            driver.thread.join().unwrap().unwrap();
                            if kind == DriverKind::Epoll {
                                return println!("started with room for {room}");
                            }
                        }
                        Err(error) => println!("{kind:?} {room}: {error}"),
                    }
                }
            }
            panic!("no driver starts with room for 20 descriptors");
        }
        _ => {}
    }
}

fn set_soft_files(soft: u64) {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: 1024 };
    // SAFETY: a valid `rlimit`.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
}

fn run_child(role: &str) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "small_limits::child", "--nocapture"])
        .env(ROLE, role)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn no_locked_memory_is_needed() {
    let text = run_child("memlock");
    assert!(text.contains("echoed on"), "{text}");
}

#[test]
fn a_driver_starts_or_says_which_limit_is_too_small() {
    let text = run_child("nofile");
    assert!(text.contains("started with room for"), "{text}");
    assert!(text.contains("open files") || text.contains("ulimit -n"), "{text}");
}
