//! The relay server: one listener and one [`Relay`] per worker thread, and a handle to all of them.
//!
//! ```text
//!            ┌ thread 0: driver ─ Relay ─ listener (SO_REUSEPORT) ┐
//!   Server ──┤ …                                                  ├── Cores (who is where) · Stats
//!            └ thread n: driver ─ Relay ─ listener                ┘
//! ```
//!
//! The kernel spreads connections over the listeners; threads share nothing on the data path. The protocol is all in
//! [`crate::relay`].

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::Ordering::Relaxed,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    driver::{
        self, DriverConfig, DriverKind, DriverStats, DriverThread, SocketOptions, UringConfig,
    },
    identity::{PublicKey, SecretKey},
    mux::MuxKind,
    relay::{
        ClientInfo, Command, Cores, RefuseReason, Relay, RelayConfig, RelayLimits, SessionEnd,
        Stats,
    },
};

/// Hints that may wait for one core: one each for the most sessions that it can have. What cores tell each other goes beyond it
/// and has bounds of its own (`relay/lanes.rs`).
const MAILBOX_MAX: usize = 65_536;

/// How long a port that is taken is tried again. The kernel takes a ring apart behind the back of a process that was
/// killed: its listener was seen to outlive it by up to 40 ms, and whoever restarts it at once must not fail.
const PORT_WAIT: Duration = Duration::from_millis(500);

/// Between two such tries.
const PORT_PAUSE: Duration = Duration::from_millis(10);

/// Connections the kernel may complete before we accept them.
const LISTEN_BACKLOG: i32 = 1024;

/// How a server behaves. [`ServerConfig::new`] gives the defaults.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Our identity.
    pub secret_key: SecretKey,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Worker threads, each with its own listener (`SO_REUSEPORT`). At least one.
    pub threads: u16,
    /// CPUs to pin the worker threads to, in their order and over again if there are more threads; none by default. For machines
    /// that do nothing else: a thread that is pinned beside other work waits for it.
    pub cpus: Vec<usize>,
    /// Which driver.
    pub driver: DriverKind,
    /// Sessions to advertise in discovery; twice as many are served.
    pub sessions_max: usize,
    /// Options of every connection.
    pub sockets: SocketOptions,
    /// The dimensions and the features of io_uring, where that is the driver.
    pub uring: UringConfig,
    /// Bounds of each core.
    pub limits: RelayLimits,
    /// Hears the key of each session that comes up, never waits. Whoever listens may look the key up in discovery and call
    /// [`Server::hint_mux`].
    pub newcomers: Option<SyncSender<PublicKey>>,
}

impl ServerConfig {
    /// Defaults: one thread, any driver, 2048 sessions as deployed servers advertise.
    #[must_use]
    pub fn new(secret_key: SecretKey, listen: SocketAddr) -> Self {
        Self {
            secret_key,
            listen,
            threads: 1,
            cpus: Vec::new(),
            driver: DriverKind::Auto,
            sessions_max: 2048,
            sockets: SocketOptions::default(),
            uring: UringConfig::default(),
            limits: RelayLimits::default(),
            newcomers: None,
        }
    }
}

/// What a server counts, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerStats {
    /// Sessions that are up.
    pub sessions: u64,
    /// Sessions that came up since start.
    pub sessions_total: u64,
    /// Connections in the handshake.
    pub handshakes: u64,
    /// Streams open, whether relayed or still being dialled.
    pub streams: u64,
    /// Streams accepted by their destination since start.
    pub streams_total: u64,
    /// Payload bytes relayed since start.
    pub relayed_bytes: u64,
    /// Bytes that wait for slow receivers.
    pub pending_bytes: u64,
    /// Liveness pings answered since start.
    pub pings_answered: u64,
    /// IP look-ups answered since start.
    pub ip_lookups: u64,
    /// Connections of all threads, those being closed included.
    pub connections: u64,
    /// Shared receive buffers of all threads: in all, and of those how many slices hold that wait. 0 on epoll.
    pub receive_buffers: u64,
    /// See above.
    pub receive_buffers_lent: u64,
    /// Receives since start that found no shared buffer and were begun anew.
    pub receive_buffers_missed: u64,
    /// Peers since start for whom there was no descriptor.
    pub turned_away: u64,
    /// Streams ended since start, by reason; reasons that never happened are left out.
    pub refused: Vec<(&'static str, u64)>,
    /// Sessions ended since start, by reason; reasons that never happened are left out.
    pub closed: Vec<(&'static str, u64)>,
}

/// A running relay server. Dropping it stops it.
pub struct Server {
    public_key: PublicKey,
    local_addr: SocketAddr,
    driver: DriverKind,
    sessions_max: usize,
    cores: Arc<Cores>,
    stats: Arc<Stats>,
    /// By core.
    drivers: Vec<Arc<DriverStats>>,
    threads: Vec<DriverThread<Command>>,
}

impl Server {
    /// Binds and starts.
    ///
    /// # Errors
    /// The address cannot be bound, or the driver that was asked for is not to be had.
    pub fn start(config: ServerConfig) -> io::Result<Self> {
        let count = config.threads.max(1);
        let cores = Arc::new(Cores::new(count));
        let stats = Arc::new(Stats::default());
        if count > 1 && config.listen.port() != 0 {
            // Listeners that share a port share it with another server too, where clients meet at random. One alone is refused.
            drop(listener(config.listen, false)?);
        }
        let first = listener(config.listen, count > 1)?;
        let local_addr = first.local_addr()?;
        let mut listeners = vec![first];
        for _ in 1..count {
            listeners.push(listener(local_addr, true)?);
        }
        let mut limits = config.limits.clone();
        // The kernel does not spread evenly, so each core may take all of them.
        limits.sessions_max = limits.sessions_max.min(config.sessions_max.saturating_mul(2));
        let secret_key = config.secret_key.clone();
        let relay = RelayConfig { secret_key, limits, newcomers: config.newcomers.clone() };
        let mut server = Self {
            public_key: config.secret_key.public_key(),
            local_addr,
            driver: config.driver,
            sessions_max: config.sessions_max,
            cores,
            stats,
            drivers: Vec::new(),
            threads: Vec::new(),
        };
        for (core, listener) in (0..count).zip(listeners) {
            let thread = server.start_core(core, listener, relay.clone(), &config)?;
            server.driver = thread.kind;
            server.threads.push(thread);
        }
        tracing::info!(
            key = %server.public_key, address = %local_addr, driver = ?server.driver, threads = count,
            "relay server is up"
        );
        Ok(server)
    }

    fn start_core(
        &mut self,
        core: u16,
        listener: TcpListener,
        relay: RelayConfig,
        config: &ServerConfig,
    ) -> io::Result<DriverThread<Command>> {
        let (cores, stats) = (Arc::clone(&self.cores), Arc::clone(&self.stats));
        let mut driver = DriverConfig::new(format!("dmsg-relay-{core}"));
        driver.kind = config.driver;
        driver.cpu = config.cpus.iter().cycle().nth(usize::from(core)).copied();
        driver.listeners = vec![listener];
        driver.mailbox_max = MAILBOX_MAX;
        driver.sockets = config.sockets;
        driver.uring = config.uring;
        self.drivers.push(Arc::clone(&driver.stats));
        driver::spawn(driver, move |mailbox| {
            cores.register(core, move |command| mailbox.post_release(command));
            Relay::new(relay, core, cores, stats)
        })
    }

    /// Our identity.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// The bound address (with the real port when 0 was asked for).
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The driver in use.
    #[must_use]
    pub fn driver(&self) -> DriverKind {
        self.driver
    }

    /// What discovery shall say: how many more sessions are welcome. None at a server that [has failed](Self::has_failed).
    #[must_use]
    pub fn available_sessions(&self) -> usize {
        let up = usize::try_from(self.stats.sessions.load(Relaxed)).unwrap_or(usize::MAX);
        if self.has_failed() { 0 } else { self.sessions_max.saturating_sub(up) }
    }

    /// How many sessions are advertised at most.
    #[must_use]
    pub fn sessions_max(&self) -> usize {
        self.sessions_max
    }

    /// Whether a worker thread has ended by itself: its driver failed, or it panicked; the log says why. Its sessions are lost,
    /// the others go on. Whoever runs the server had better start it anew.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.threads.iter().any(|thread| thread.thread.is_finished())
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> ServerStats {
        let stats = &self.stats;
        let sum = |of: fn(&DriverStats) -> u64| self.drivers.iter().map(|driver| of(driver)).sum();
        let nonzero = |(label, count): (&'static str, u64)| (count > 0).then_some((label, count));
        ServerStats {
            sessions: stats.sessions.load(Relaxed),
            sessions_total: stats.sessions_total.load(Relaxed),
            handshakes: stats.handshakes.load(Relaxed),
            streams: stats.streams.load(Relaxed),
            streams_total: stats.streams_total.load(Relaxed),
            relayed_bytes: stats.relayed_bytes.load(Relaxed),
            pending_bytes: stats.pending_bytes.load(Relaxed),
            pings_answered: stats.pings_answered.load(Relaxed),
            ip_lookups: stats.ip_lookups.load(Relaxed),
            connections: sum(|driver| driver.conns.load(Relaxed) as u64),
            receive_buffers: sum(|driver| driver.buffers_count.load(Relaxed) as u64),
            receive_buffers_lent: sum(|driver| driver.buffers_lent.load(Relaxed) as u64),
            receive_buffers_missed: sum(|driver| driver.buffers_missed.load(Relaxed)),
            turned_away: sum(|driver| driver.turned_away.load(Relaxed)),
            refused: RefuseReason::ALL
                .iter()
                .filter_map(|why| nonzero((why.label(), stats.refused_count(*why))))
                .collect(),
            closed: SessionEnd::ALL
                .iter()
                .filter_map(|why| nonzero((why.label(), stats.ended_count(*why))))
                .collect(),
        }
    }

    /// Keys of the sessions that are up.
    #[must_use]
    pub fn session_keys(&self) -> Vec<PublicKey> {
        self.cores.keys()
    }

    /// The clients and how much they do, the busiest first. Waits for the cores, `patience` at most; the clients of a core
    /// that does not answer are missing.
    #[must_use]
    pub fn clients(&self, patience: Duration) -> Vec<ClientInfo> {
        let answers = self.ask(Command::Census, patience);
        let mut clients: Vec<_> = answers.into_iter().flatten().flatten().collect();
        clients.sort_by_key(|client| {
            std::cmp::Reverse((client.received_bytes + client.sent_bytes, client.key))
        });
        clients
    }

    /// The cores that do not answer within `patience`: something holds them up, and their clients wait. One that [has
    /// ended](Self::has_failed) is none of them.
    #[must_use]
    pub fn stuck_cores(&self, patience: Duration) -> Vec<u16> {
        let answers = self.ask(Command::Probe, patience);
        (0..)
            .zip(answers)
            .filter(|(_, answer)| answer.is_none())
            .map(|(core, _)| core)
            .filter(|core| {
                self.threads
                    .get(usize::from(*core))
                    .is_some_and(|thread| !thread.thread.is_finished())
            })
            .collect()
    }

    /// What each core answers, in their order; all of them have the same time.
    fn ask<T>(
        &self,
        question: impl Fn(SyncSender<T>) -> Command,
        patience: Duration,
    ) -> Vec<Option<T>> {
        let deadline = Instant::now() + patience;
        let posted: Vec<Receiver<T>> = self
            .threads
            .iter()
            .map(|thread| {
                let (reply, answer) = sync_channel(1);
                // A core that takes no commands any more does not answer either.
                let _ = thread.mailbox.post(question(reply));
                answer
            })
            .collect();
        let left = || deadline.saturating_duration_since(Instant::now());
        posted.into_iter().map(|answer| answer.recv_timeout(left()).ok()).collect()
    }

    /// Tells which mux a client speaks, as its discovery entry has it (`wire.md §3.2`). Used only if the server has to speak
    /// before the client has, and dropped if the core is far behind with its commands: yamux is the better guess then.
    pub fn hint_mux(&self, client: &PublicKey, kind: MuxKind) {
        if let Some(session) = self.cores.find(client)
            && let Some(thread) = self.threads.get(usize::from(session.core))
        {
            let _dropped_when_full = thread.mailbox.post(Command::MuxHint(session.conn, kind));
        }
    }

    /// Stops: sessions are closed, threads joined.
    pub fn shutdown(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for thread in &self.threads {
            thread.mailbox.post_release(Command::Stop);
        }
        for thread in self.threads.drain(..) {
            // What went wrong with it is in the log since it did.
            drop(thread.thread.join());
        }
    }
}

fn listener(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let until = Instant::now() + PORT_WAIT;
    loop {
        match try_listen(address, shared) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                thread::sleep(PORT_PAUSE);
            }
            Err(error) => {
                let (kind, error) = (error.kind(), driver::explained(error));
                return Err(io::Error::new(kind, format!("cannot listen on {address}: {error}")));
            }
            Ok(listener) => return Ok(listener),
        }
    }
}

fn try_listen(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}
