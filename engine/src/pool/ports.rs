//! The ports of one client: listeners and outgoing streams share them (`wire.md §6`).
//!
//! ```text
//!   used:  one bit for each of 65536 ports
//!   free:  49153, 49154, … 65535, 49152      a queue: the port that rested longest goes out first
//! ```
//!
//! Reserving and releasing take constant time and never wait for anything but a lock held for a few
//! instructions; an empty pool is an immediate error. The queue order gives the numbers of a Go
//! client in the first round (its counter is raised before use, so the first port is 49153), and
//! afterwards the longest possible rest before a port is used again.
//!
//! A listener may take an ephemeral port out of turn. Its number then stays in the queue and is
//! skipped when it comes up; the bit in `queued` keeps every number in the queue at most once, so
//! the queue never grows.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::wire::{EPHEMERAL_PORT_FIRST, Port};

/// How many ephemeral ports there are: 49152 to 65535.
pub const EPHEMERAL_PORT_COUNT: usize = 65536 - EPHEMERAL_PORT_FIRST as usize;

/// All ephemeral ports are in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "all {EPHEMERAL_PORT_COUNT} ephemeral ports are in use: streams are held open or not read to their end"
)]
pub struct NoFreePort;

/// The port is in use, by a listener or by an outgoing stream (error 400).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("port {0} is taken by another listener or stream of this client")]
pub struct PortTaken(pub Port);

struct Ports {
    used: Box<[u64; 1024]>,
    used_count: usize,
    free: VecDeque<u16>,
    queued: Box<[u64; EPHEMERAL_PORT_COUNT / 64]>,
}

impl Ports {
    fn is_used(&self, port: u16) -> bool {
        self.used[usize::from(port) / 64] >> (port % 64) & 1 == 1
    }

    fn take(&mut self, port: u16) {
        self.used[usize::from(port) / 64] |= 1 << (port % 64);
        self.used_count += 1;
    }

    fn give_back(&mut self, port: u16) {
        self.used[usize::from(port) / 64] &= !(1 << (port % 64));
        self.used_count -= 1;
        if let Some(offset) = port.checked_sub(EPHEMERAL_PORT_FIRST) {
            let (word, bit) = (usize::from(offset) / 64, 1 << (offset % 64));
            if self.queued[word] & bit == 0 {
                self.queued[word] |= bit;
                self.free.push_back(port);
            }
        }
    }

    fn next_free(&mut self) -> Option<u16> {
        loop {
            let port = self.free.pop_front()?;
            let offset = port - EPHEMERAL_PORT_FIRST;
            self.queued[usize::from(offset) / 64] &= !(1 << (offset % 64));
            if !self.is_used(port) {
                return Some(port);
            }
        }
    }
}

/// The ports of one client. Cloning shares them.
#[derive(Clone)]
pub struct PortPool(Arc<Mutex<Ports>>);

impl Default for PortPool {
    fn default() -> Self {
        Self::new()
    }
}

impl PortPool {
    /// A pool with every port free.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Ports {
            used: Box::new([0; 1024]),
            used_count: 0,
            free: (EPHEMERAL_PORT_FIRST + 1..=u16::MAX).chain([EPHEMERAL_PORT_FIRST]).collect(),
            queued: Box::new([u64::MAX; EPHEMERAL_PORT_COUNT / 64]),
        })))
    }

    /// Reserves the ephemeral port that rested longest.
    pub fn reserve_ephemeral(&self) -> Result<PortGuard, NoFreePort> {
        let mut ports = self.lock();
        let port = ports.next_free().and_then(Port::new).ok_or(NoFreePort)?;
        ports.take(port.get());
        Ok(PortGuard { pool: self.clone(), port })
    }

    /// Reserves a port of the caller's choice, for a listener.
    pub fn reserve(&self, port: Port) -> Result<PortGuard, PortTaken> {
        let mut ports = self.lock();
        if ports.is_used(port.get()) {
            return Err(PortTaken(port));
        }
        ports.take(port.get());
        Ok(PortGuard { pool: self.clone(), port })
    }

    /// Ports in use, listeners and streams together.
    #[must_use]
    pub fn used_count(&self) -> usize {
        self.lock().used_count
    }

    fn lock(&self) -> MutexGuard<'_, Ports> {
        // Nothing below panics between two writes, so a poisoned pool is still whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for PortPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortPool({} used)", self.used_count())
    }
}

/// A reserved port. Dropping it, on any thread, frees the port.
#[derive(Debug)]
pub struct PortGuard {
    pool: PortPool,
    port: Port,
}

impl PortGuard {
    /// The number.
    #[must_use]
    pub fn port(&self) -> Port {
        self.port
    }
}

impl Drop for PortGuard {
    fn drop(&mut self) {
        self.pool.lock().give_back(self.port.get());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashSet;

    use super::*;

    fn port(number: u16) -> Port {
        Port::new(number).unwrap()
    }

    #[test]
    fn the_first_port_is_49153_and_the_last_of_a_round_49152() {
        let pool = PortPool::new();
        let all: Vec<_> =
            (0..EPHEMERAL_PORT_COUNT).map(|_| pool.reserve_ephemeral().unwrap()).collect();
        assert_eq!(all[0].port().get(), 49153);
        assert_eq!(all.last().unwrap().port().get(), 49152);
        let distinct: HashSet<_> = all.iter().map(PortGuard::port).collect();
        assert_eq!(distinct.len(), EPHEMERAL_PORT_COUNT);
        assert_eq!(pool.reserve_ephemeral().unwrap_err(), NoFreePort);
        drop(all);
        assert_eq!(pool.used_count(), 0);
    }

    #[test]
    fn a_freed_port_rests_until_all_others_were_used() {
        let pool = PortPool::new();
        let first = pool.reserve_ephemeral().unwrap().port();
        for _ in 1..EPHEMERAL_PORT_COUNT {
            assert_ne!(pool.reserve_ephemeral().unwrap().port(), first);
        }
        assert_eq!(pool.reserve_ephemeral().unwrap().port(), first);
    }

    #[test]
    fn listeners_and_streams_exclude_each_other() {
        let pool = PortPool::new();
        let stream = pool.reserve_ephemeral().unwrap();
        assert_eq!(pool.reserve(stream.port()).unwrap_err(), PortTaken(stream.port()));
        let listener = pool.reserve(port(49154)).unwrap();
        assert_eq!(pool.reserve_ephemeral().unwrap().port().get(), 49155);
        drop(listener);
        let well_known = pool.reserve(port(80)).unwrap();
        assert_eq!(pool.reserve(port(80)).unwrap_err(), PortTaken(port(80)));
        drop((stream, well_known));
        assert_eq!(pool.used_count(), 0);
    }

    #[test]
    fn listening_on_an_ephemeral_port_for_ever_does_not_grow_the_queue() {
        let pool = PortPool::new();
        for _ in 0..100_000 {
            drop(pool.reserve(port(50_000)).unwrap());
        }
        assert_eq!(pool.lock().free.len(), EPHEMERAL_PORT_COUNT);
        let all: Vec<_> = std::iter::from_fn(|| pool.reserve_ephemeral().ok()).collect();
        assert_eq!(all.len(), EPHEMERAL_PORT_COUNT);
    }

    #[test]
    fn guards_release_from_other_threads() {
        let pool = PortPool::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        drop(pool.reserve_ephemeral().unwrap());
                    }
                });
            }
        });
        assert_eq!(pool.used_count(), 0);
    }
}
