//! Listeners and their accept queues (`wire.md §6.3`).

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use tokio::sync::mpsc;

use super::{
    error::{DialError, ListenError},
    stream::Stream,
};
use crate::{
    identity::PublicKey,
    pool::{PortGuard, PortPool},
    wire::{Addr, Port},
};

/// Why an inbound stream cannot be queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// Nobody listens on the port (306).
    NoListener,
    /// The accept queue is full (401).
    QueueFull,
}

#[derive(Default)]
struct Table {
    closed: bool,
    queues: BTreeMap<Port, mpsc::Sender<Stream>>,
}

/// Which ports of a client are listened on. Cloning shares it.
#[derive(Clone, Default)]
pub struct Listeners(Arc<Mutex<Table>>);

impl Listeners {
    /// Starts listening on `port` with a queue of `queue_max` streams.
    pub fn listen(
        &self,
        ports: &PortPool,
        key: PublicKey,
        port: Port,
        queue_max: usize,
    ) -> Result<Listener, ListenError> {
        let mut table = self.lock();
        if table.closed {
            return Err(ListenError::Closed);
        }
        let guard = ports.reserve(port).map_err(|_| ListenError::PortTaken(port))?;
        let (queue, streams) = mpsc::channel(queue_max.max(1));
        table.queues.insert(port, queue);
        Ok(Listener { local: Addr { key, port }, streams, table: self.clone(), _port: guard })
    }

    /// A place in the queue of `port`, to be filled when the response is out.
    pub(crate) fn place(&self, port: u16) -> Result<mpsc::OwnedPermit<Stream>, NoPlace> {
        let table = self.lock();
        let queue =
            Port::new(port).and_then(|port| table.queues.get(&port)).ok_or(NoPlace::NoListener)?;
        queue.clone().try_reserve_owned().map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => NoPlace::QueueFull,
            mpsc::error::TrySendError::Closed(_) => NoPlace::NoListener,
        })
    }

    /// Ends every listener, now and in future: `accept` returns what is queued, then `Closed`.
    pub(crate) fn close(&self) {
        let mut table = self.lock();
        table.closed = true;
        table.queues.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.lock().queues.keys()).finish()
    }
}

/// Accepts streams on one port. Dropping it frees the port and closes the streams that nobody
/// accepted.
pub struct Listener {
    local: Addr,
    streams: mpsc::Receiver<Stream>,
    table: Listeners,
    // Declared last: the port is free again only after the table has forgotten the queue (see
    // Drop).
    _port: PortGuard,
}

impl Listener {
    /// Our key and the port.
    #[must_use]
    pub fn local_addr(&self) -> Addr {
        self.local
    }

    /// The next stream. Errors when the client is closed.
    pub async fn accept(&mut self) -> Result<Stream, DialError> {
        self.streams.recv().await.ok_or(DialError::Closed)
    }

    /// The same as a poll.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<Stream, DialError>> {
        self.streams.poll_recv(cx).map(|stream| stream.ok_or(DialError::Closed))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.table.lock().queues.remove(&self.local.port);
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Listener({})", self.local)
    }
}
