//! Out of descriptors: peers are turned away, nothing spins, and connections are accepted again as
//! soon as descriptors are free. One test, since the limit belongs to the process.
#![allow(clippy::unwrap_used)]

mod driver_support;

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use driver_support::*;
use socket2::{Domain, Socket, Type};

/// Connections for which there are descriptors.
const ROOM: usize = 6;

fn set_limit(soft: u64) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a valid `rlimit`.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        let before = std::mem::replace(&mut limit.rlim_cur, soft);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
        before
    }
}

/// Leaves `free` descriptors to the process, and gives the former limit.
fn leave_descriptors(free: usize) -> u64 {
    let mut free = free;
    let mut limit = 0;
    while free > 0 {
        // SAFETY: no pointers; a bad descriptor is an error, which is the question.
        let used = unsafe { libc::fcntl(limit, libc::F_GETFD) } >= 0;
        free -= usize::from(!used);
        limit += 1;
    }
    set_limit(limit as u64)
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn cpu_time() -> Duration {
    // SAFETY: `rusage` is plain data, and the call gets a valid one.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, &raw mut usage), 0);
        usage
    };
    [usage.ru_utime, usage.ru_stime]
        .map(|t| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000))
        .iter()
        .sum()
}

#[test]
fn peers_are_turned_away_and_later_ones_are_served() {
    for variant in variants() {
        println!("on {}", variant.name);
        // io_uring takes the limit of the moment when it begins to accept, so it is set before.
        let before_start = open_descriptors();
        let mut trial = Bed::start(&variant, Role::Echo);
        trial.settle();
        let needed = open_descriptors() - before_start;
        drop(trial);
        let sockets: Vec<_> = (0..ROOM + 20)
            .map(|_| Socket::new(Domain::IPV4, Type::STREAM, None).unwrap())
            .collect();
        let before = leave_descriptors(needed + ROOM);
        let mut bed = Bed::start(&variant, Role::Echo);
        let mut peers: Vec<TcpStream> = sockets
            .into_iter()
            .map(|socket| {
                socket.connect(&bed.address.into()).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket.into()
            })
            .collect();
        let accepted: Vec<_> = (0..ROOM).map(|_| bed.wait_accepted()).collect();
        // All are kept, since each that is dropped makes room for another.
        let (mut served, mut turned_away) = (Vec::new(), Vec::new());
        for mut peer in peers.drain(..) {
            // A peer that was turned away may see that before or after it writes.
            let written = peer.write_all(b"hello").is_ok();
            let mut answer = [0; 5];
            if written && peer.read_exact(&mut answer).is_ok() {
                assert_eq!(&answer, b"hello");
                served.push(peer);
            } else {
                turned_away.push(peer);
            }
        }
        assert_eq!((served.len(), turned_away.len()), (ROOM, 20));

        let (start, cpu_before) = (Instant::now(), cpu_time());
        bed.order(Order::WakeAt(start + Duration::from_millis(300)));
        bed.wait(|seen| matches!(seen, Seen::Timeout(_)).then_some(()));
        let cpu = cpu_time() - cpu_before;
        assert!(cpu < Duration::from_millis(150), "{cpu:?} of CPU time to wait 0.3 s");

        drop(served);
        for conn in accepted {
            assert_eq!(bed.wait_closed(conn), "by peer");
        }
        let peer = bed.connect();
        let writer = write_pattern(&peer, 100_000, 10_000);
        read_pattern(&peer, 100_000, 10_000);
        drop(writer.join().unwrap());
        set_limit(before);
    }
}
