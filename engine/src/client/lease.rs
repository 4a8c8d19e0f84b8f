//! What a stream holds besides its session: a place among the client's streams, and an ephemeral
//! port if it was dialled.
//!
//! A lease is shared by the handle that uses the stream and the machine that moves its bytes.
//! Whoever ends the stream first releases it, on whatever thread: the handle when it is dropped (a
//! cancelled dial included), the machine when the stream or its session ends while somebody still
//! holds the handle.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{
    pool::{PortGuard, StreamPermit, StreamUse},
    wire::Port,
};

#[derive(Debug)]
struct Held {
    port: Option<PortGuard>,
    _permit: StreamPermit,
}

/// See the module.
#[derive(Debug)]
pub struct Lease {
    usage: Arc<StreamUse>,
    follows_reads: bool,
    held: Mutex<Option<Held>>,
}

impl Lease {
    /// A lease without a port yet. Its stream is reclaimed only if its holder tells
    /// [`Lease::usage`] that it may be.
    #[must_use]
    pub fn new(permit: StreamPermit) -> Arc<Self> {
        Self::with(permit, false)
    }

    /// The same; the stream counts as abandoned while data waits that its holder does not read.
    #[must_use]
    pub fn reclaimable(permit: StreamPermit) -> Arc<Self> {
        Self::with(permit, true)
    }

    fn with(permit: StreamPermit, follows_reads: bool) -> Arc<Self> {
        let usage = Arc::clone(permit.usage());
        let held = Mutex::new(Some(Held { port: None, _permit: permit }));
        Arc::new(Self { usage, follows_reads, held })
    }

    /// The record of the stream's use.
    #[must_use]
    pub fn usage(&self) -> &Arc<StreamUse> {
        &self.usage
    }

    /// The same if reads are to be noted there.
    pub(super) fn followed(&self) -> Option<&StreamUse> {
        self.follows_reads.then_some(&*self.usage)
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
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::pool::{Holder, PortPool, StreamLimits, StreamPool};

    #[test]
    fn a_port_that_comes_after_the_release_is_freed() {
        let (permits, ports) = (StreamPool::new(StreamLimits::flat(1)), PortPool::new());
        let holder = Holder { label: "test".into(), destination: None };
        let lease = Lease::new(permits.try_acquire(&holder).unwrap());
        assert!(lease.hold(ports.reserve_ephemeral().unwrap()));
        assert_eq!(lease.port().unwrap().get(), 49153);
        lease.release();
        lease.release();
        assert!(!lease.hold(ports.reserve_ephemeral().unwrap()));
        assert_eq!((ports.used_count(), permits.used_count()), (0, 0));
    }
}
