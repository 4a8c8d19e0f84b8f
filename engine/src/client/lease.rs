//! What a stream holds besides its session: a place among the client's streams, and an ephemeral
//! port if it was dialled.
//!
//! A lease is shared by the handle that uses the stream and the machine that moves its bytes.
//! Whoever ends the stream first releases it, on whatever thread: the handle when it is dropped (a
//! cancelled dial included), the machine when the stream or its session ends while somebody still
//! holds the handle.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use crate::{pool::PortGuard, wire::Port};

/// A counted limit of streams. Cloning shares it.
#[derive(Debug, Clone)]
pub struct StreamPermits(Arc<Permits>);

#[derive(Debug)]
struct Permits {
    max: usize,
    used: AtomicUsize,
}

impl StreamPermits {
    /// At most `max` at once.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Permits { max, used: AtomicUsize::new(0) }))
    }

    /// The limit.
    #[must_use]
    pub fn max(&self) -> usize {
        self.0.max
    }

    /// Permits taken.
    #[must_use]
    pub fn used_count(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// A permit, or `None` when all are taken.
    #[must_use]
    pub fn acquire(&self) -> Option<StreamPermit> {
        self.0
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                (used < self.0.max).then_some(used + 1)
            })
            .ok()
            .map(|_| StreamPermit(Arc::clone(&self.0)))
    }
}

/// One place among the client's streams; dropping it frees the place.
#[derive(Debug)]
pub struct StreamPermit(Arc<Permits>);

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Held {
    port: Option<PortGuard>,
    _permit: StreamPermit,
}

/// See the module.
#[derive(Debug)]
pub struct Lease(Mutex<Option<Held>>);

impl Lease {
    /// A lease without a port yet.
    #[must_use]
    pub fn new(permit: StreamPermit) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(Held { port: None, _permit: permit }))))
    }

    /// The port, if there is one and the lease is not released.
    #[must_use]
    pub fn port(&self) -> Option<Port> {
        self.lock().as_ref()?.port.as_ref().map(PortGuard::port)
    }

    /// Puts a port under the lease. False if the lease was released meanwhile; the port is then
    /// free again.
    pub fn hold(&self, port: PortGuard) -> bool {
        self.lock().as_mut().map(|held| held.port = Some(port)).is_some()
    }

    /// Frees port and place at once. A second call does nothing.
    pub fn release(&self) {
        drop(self.lock().take());
    }

    fn lock(&self) -> MutexGuard<'_, Option<Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::pool::PortPool;

    #[test]
    fn permits_end_at_the_limit_and_come_back() {
        let permits = StreamPermits::new(2);
        let held = [permits.acquire().unwrap(), permits.acquire().unwrap()];
        assert!(permits.acquire().is_none());
        drop(held);
        assert_eq!(permits.used_count(), 0);
    }

    #[test]
    fn a_port_that_comes_after_the_release_is_freed() {
        let (permits, ports) = (StreamPermits::new(1), PortPool::new());
        let lease = Lease::new(permits.acquire().unwrap());
        assert!(lease.hold(ports.reserve_ephemeral().unwrap()));
        assert_eq!(lease.port().unwrap().get(), 49153);
        lease.release();
        lease.release();
        assert!(!lease.hold(ports.reserve_ephemeral().unwrap()));
        assert_eq!((ports.used_count(), permits.used_count()), (0, 0));
    }
}
