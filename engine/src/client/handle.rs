//! The handle of a running client.

use std::{
    fmt,
    future::Future,
    net::IpAddr,
    sync::{Arc, Weak, mpsc},
    time::{Duration, Instant},
};

use tokio::sync::{mpsc::UnboundedSender, oneshot, watch};

use super::{
    ClientConfig, ClientStats, ClientStatus, DialError, Directory, EngineLink, Lease, ListenError,
    Listener, SessionInfo, StartError, Stream,
    control::{Control, EntryCache, Request},
    machine::{ClientMachine, Command, DialId, DialRequest, Purpose, ServerTarget, Shared},
    registry::KeyGuard,
};
use crate::{
    driver::{self, DriverConfig, PostError},
    identity::PublicKey,
    pool::{CensusLine, Holder, StreamPermit, StreamPool},
    wire::{Addr, Port},
};

struct Inner {
    key: PublicKey,
    dial_timeout: Duration,
    stream_wait_timeout: Duration,
    accept_queue_max: usize,
    link: Arc<EngineLink>,
    shared: Arc<Shared>,
    cache: Arc<EntryCache>,
    requests: UnboundedSender<Request>,
    status: watch::Receiver<ClientStatus>,
}

/// A handle to a running client: `Send + Sync + Clone`, usable from any runtime. The last clone's
/// drop closes it.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

/// How a stream is dialled; see [`Client::dial_with`].
#[derive(Debug, Clone)]
pub struct DialOptions {
    /// What for, in [`Client::census`]: a service, a part of the program.
    pub label: Arc<str>,
    /// Whether the stream may be reset, when the client has no place for another, if its data lies
    /// unread. For streams whose reader is not known to read on: response bodies, for one.
    pub reclaimable: bool,
}

impl Default for DialOptions {
    fn default() -> Self {
        Self { label: "stream".into(), reclaimable: false }
    }
}

/// A handle that does not keep the client running; for a [`Directory`] that works over the client
/// itself.
#[derive(Clone)]
pub struct WeakClient(Weak<Inner>);

impl WeakClient {
    /// The client, if it still runs.
    #[must_use]
    pub fn upgrade(&self) -> Option<Client> {
        self.0.upgrade().map(Client)
    }
}

impl Client {
    /// Starts the engine; returns at once, sessions come up behind.
    ///
    /// # Errors
    /// A client with the same key runs in this process, or a thread or the driver could not start.
    pub fn start(config: ClientConfig, directory: Arc<dyn Directory>) -> Result<Self, StartError> {
        let config = config.bounded();
        let key = config.secret_key.public_key();
        let guard = KeyGuard::acquire(key).ok_or(StartError::KeyInUse(key))?;
        let shared = Shared::new(StreamPool::new(config.stream_limits()));
        let driver = DriverConfig {
            kind: config.driver,
            ..DriverConfig::new(format!("dmsg-{}", key.short()))
        };
        let (link_to, link_from) = mpsc::channel();
        let (machine_config, machine_shared) = (config.clone(), Arc::clone(&shared));
        let engine = driver::spawn(driver, move |mailbox| {
            let link = Arc::new(EngineLink::new(mailbox));
            drop(link_to.send(Arc::clone(&link)));
            ClientMachine::new(machine_config, link, machine_shared)
        })?;
        let link = link_from.recv().map_err(|_| {
            std::io::Error::other("the engine's thread died before its machine was built")
        })?;
        let cache = Arc::new(EntryCache::new(config.memory));
        let (requests, inbox) = tokio::sync::mpsc::unbounded_channel();
        let status = watch::Sender::new(ClientStatus::Starting);
        let inner = Inner {
            key,
            dial_timeout: config.dial_timeout,
            stream_wait_timeout: config.stream_wait_timeout,
            accept_queue_max: config.accept_queue_max,
            link: Arc::clone(&link),
            shared: Arc::clone(&shared),
            cache: Arc::clone(&cache),
            requests,
            status: status.subscribe(),
        };
        let update_interval = config.update_interval;
        let control =
            Control { directory, update_interval, link, shared, cache, requests: inbox, status };
        control.spawn(engine.thread, guard)?;
        Ok(Self(Arc::new(inner)))
    }

    /// Our identity.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.0.key
    }

    /// A handle that does not keep the client running.
    #[must_use]
    pub fn downgrade(&self) -> WeakClient {
        WeakClient(Arc::downgrade(&self.0))
    }

    /// How the client fares, now and as it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<ClientStatus> {
        self.0.status.clone()
    }

    /// Waits until a first session is up and its publication was acknowledged, or has failed once.
    /// Errors when closed.
    pub async fn ready(&self) -> Result<(), DialError> {
        let mut status = self.status();
        let settled = status
            .wait_for(|now| matches!(now, ClientStatus::Ready { .. } | ClientStatus::Closed))
            .await;
        match settled.as_deref() {
            Ok(ClientStatus::Ready { .. }) => Ok(()),
            _ => Err(DialError::Closed),
        }
    }

    /// Opens a stream. Dropping the future frees the stream and its port at once. A peer that is slow to answer may be asked
    /// through a second server too, and then sees two streams, of which one is reset at once.
    ///
    /// # Errors
    /// One variant per cause; see [`DialError`]. Within `dial_timeout` in any case.
    pub fn dial(
        &self,
        to: Addr,
    ) -> impl Future<Output = Result<Stream, DialError>> + Send + 'static {
        self.dial_with(to, DialOptions::default())
    }

    /// Like [`Client::dial`], with a label for the census, and with leave to reclaim the stream.
    ///
    /// # Errors
    /// As those of [`Client::dial`].
    pub fn dial_with(
        &self,
        to: Addr,
        options: DialOptions,
    ) -> impl Future<Output = Result<Stream, DialError>> + Send + 'static {
        let client = self.0.clone();
        async move {
            let started = Instant::now();
            let deadline = started + client.dial_timeout;
            let holder = Holder { label: options.label, destination: Some(to.key) };
            let permit = client.place(holder, deadline).await?;
            let lease =
                if options.reclaimable { Lease::reclaimable(permit) } else { Lease::new(permit) };
            let candidates = client
                .candidates(to.key, started, deadline)
                .await
                .inspect_err(|error| client.shared.board.note_failed_dial(error))?;
            let (reply, outcome) = oneshot::channel();
            let purpose = Purpose::Stream { to, reply };
            let candidates = candidates.to_vec();
            let guard = client.post_dial(purpose, candidates, lease, started, deadline)?;
            let outcome = outcome.await.unwrap_or(Err(DialError::Closed));
            guard.done();
            if matches!(outcome, Err(DialError::Refused { .. } | DialError::Unreachable { .. })) {
                // The peer may have moved: the next dial asks the directory again.
                client.cache.forget(&to.key);
            }
            outcome
        }
    }

    /// Accepts streams on a port.
    ///
    /// # Errors
    /// The port is taken, by a listener or a dialled stream, or the client is closed.
    pub fn listen(&self, port: Port) -> Result<Listener, ListenError> {
        let Inner { shared, key, accept_queue_max, .. } = &*self.0;
        shared.listeners.listen(&shared.ports, *key, port, *accept_queue_max)
    }

    /// Our address as a server sees it (`wire.md §5.1`): that server's, or any server's. It is what
    /// the server says, and may be a private address if the server is in the same network. Servers
    /// of 2023 do not answer.
    ///
    /// # Errors
    /// Like a dial's.
    pub fn lookup_ip(
        &self,
        server: Option<PublicKey>,
    ) -> impl Future<Output = Result<IpAddr, DialError>> + Send + 'static {
        let client = self.0.clone();
        async move {
            let started = Instant::now();
            let deadline = started + client.dial_timeout;
            let holder = Holder { label: "address lookup".into(), destination: server };
            let lease = Lease::new(client.place(holder, deadline).await?);
            let (reply, outcome) = oneshot::channel();
            let purpose = Purpose::Address { reply };
            // The machine knows the addresses of its servers; without a key it takes any of them.
            let candidates = server
                .map(|key| ServerTarget { key, addresses: Vec::new(), weight: 1 })
                .into_iter()
                .collect();
            let guard = client.post_dial(purpose, candidates, lease, started, deadline)?;
            let outcome = outcome.await.unwrap_or(Err(DialError::Closed));
            guard.done();
            outcome
        }
    }

    /// The sessions that are up.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionInfo> {
        self.0.shared.board.sessions()
    }

    /// Ports in use, by listeners and dialled streams.
    #[must_use]
    pub fn ports_in_use(&self) -> usize {
        self.0.shared.ports.used_count()
    }

    /// Who holds how many streams, and since when without progress; the largest first.
    #[must_use]
    pub fn census(&self) -> Vec<CensusLine> {
        self.0.shared.permits.census()
    }

    /// What is counted.
    #[must_use]
    pub fn stats(&self) -> ClientStats {
        self.0.shared.stats()
    }

    /// Closes sessions, withdraws the entry; at most 2 s.
    pub async fn close(&self) {
        let mut status = self.status();
        // The control thread is gone only after it has said `Closed`.
        drop(self.0.requests.send(Request::Close));
        drop(status.wait_for(|now| *now == ClientStatus::Closed).await);
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({}, {:?})", self.0.key.short(), *self.0.status.borrow())
    }
}

impl Inner {
    /// A place among the client's streams: at once, or in the queue until one comes free.
    async fn place(&self, holder: Holder, deadline: Instant) -> Result<StreamPermit, DialError> {
        let permits = &self.shared.permits;
        let full = match permits.try_acquire(&holder) {
            Ok(permit) => return Ok(permit),
            Err(full) => full,
        };
        let note = |error: DialError| {
            self.shared.board.note_failed_dial(&error);
            error
        };
        let turn =
            permits.enqueue(holder).map_err(|full| note(DialError::StreamsExhausted(full)))?;
        let deadline = deadline.min(Instant::now() + self.stream_wait_timeout);
        let (reply, place) = oneshot::channel();
        self.requests
            .send(Request::Place { turn, deadline, reply })
            .map_err(|_| note(DialError::Closed))?;
        // `None`: the time is over. No answer at all: the client is closed.
        match place.await {
            Ok(Some(permit)) => Ok(permit),
            Ok(None) => Err(note(DialError::StreamsExhausted(full))),
            Err(_) => Err(note(DialError::Closed)),
        }
    }

    async fn candidates(
        &self,
        peer: PublicKey,
        started: Instant,
        deadline: Instant,
    ) -> Result<Arc<[ServerTarget]>, DialError> {
        let (reply, answer) = oneshot::channel();
        if let Some(known) = self.cache.look(&peer, started) {
            if known.wants_refresh {
                let refresh = Request::Resolve { peer, started, deadline, reply };
                drop(self.requests.send(refresh));
            }
            return known.answer;
        }
        self.requests
            .send(Request::Resolve { peer, started, deadline, reply })
            .map_err(|_| DialError::Closed)?;
        answer.await.unwrap_or(Err(DialError::Closed))
    }

    fn post_dial(
        &self,
        purpose: Purpose,
        candidates: Vec<ServerTarget>,
        lease: Arc<Lease>,
        started: Instant,
        deadline: Instant,
    ) -> Result<DialGuard, DialError> {
        let id = self.link.next_dial_id();
        let held = Arc::clone(&lease);
        let request = DialRequest { id, purpose, candidates, lease, started, deadline };
        let error = match self.link.post(Command::Dial(Box::new(request))) {
            Ok(()) => return Ok(DialGuard { id, link: Arc::clone(&self.link), lease: Some(held) }),
            Err(PostError::Full(_)) => DialError::Overloaded,
            Err(PostError::Stopped(_)) => DialError::Closed,
        };
        self.shared.board.note_failed_dial(&error);
        Err(error)
    }
}

/// Cancels a dial when it is dropped before its end: port and place are free at once, and the
/// engine is told to end the stream.
struct DialGuard {
    id: DialId,
    link: Arc<EngineLink>,
    lease: Option<Arc<Lease>>,
}

impl DialGuard {
    /// The dial is over; if it gave a stream, that has the lease now.
    fn done(mut self) {
        self.lease = None;
    }
}

impl Drop for DialGuard {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.release();
            self.link.post_release(Command::CancelDial(self.id));
        }
    }
}
