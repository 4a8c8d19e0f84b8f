//! Drivers: the only place with syscalls, clocks and threads.
//!
//! A driver runs one [`Machine`] on one thread: io_uring where the kernel allows it ([`probe`]),
//! epoll elsewhere, a simulated network in tests ([`sim`]). All keep the rules of [`crate::io`].
//! Beyond those rules:
//!
//! - a flushed connection is shut down for writing, then closed as soon as the peer's kernel has
//!   acknowledged everything or the peer has closed, at the latest
//!   [`FLUSH_TIMEOUT`](crate::io::FLUSH_TIMEOUT) after the request; what the peer still sends is
//!   discarded, because closing over unread bytes would reset the connection and destroy what was
//!   flushed;
//! - an aborted connection is reset; so is one that is flushed before it is up;
//! - after [`Io::stop`](crate::io::Io::stop) the open connections are flushed and closed, each with
//!   its `closed`;
//! - whoever drops the last [`Mailbox`] does not stop the driver: a command must ask the machine
//!   for it.

mod arena;
mod epoll;
mod host;
mod mailbox;
mod options;
#[cfg(any(feature = "monoio", feature = "tokio-uring"))]
pub(crate) mod owned;
pub mod sim;
mod sys;
mod uring;

use std::{
    fmt, io,
    net::TcpListener,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

pub(crate) use self::{arena::Lease, sys::explained};
use self::{host::Host, mailbox::Inbox};
pub use self::{
    mailbox::{Mailbox, PostError},
    options::{DriverStats, SocketOptions},
    uring::{Features, Unavailable, UringConfig, probe},
};
use crate::io::Machine;

pub use self::options::USER_TIMEOUT;

/// An idle connection is probed after this long …
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

/// … then at this interval …
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// … and given up after this many probes without answer, or at the first one due after [`USER_TIMEOUT`] where that is set.
pub const KEEPALIVE_COUNT: u32 = 3;

/// Commands a mailbox holds by default.
pub const MAILBOX_MAX: usize = 16 * 1024;

/// Which driver to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DriverKind {
    /// io_uring if the kernel allows it, else epoll; what was chosen and why is logged.
    #[default]
    Auto,
    /// io_uring or a start error that says why not.
    Uring,
    /// epoll.
    Epoll,
}

/// What a driver thread is started with.
#[derive(Debug)]
pub struct DriverConfig {
    /// Thread name.
    pub name: String,
    /// Which driver.
    pub kind: DriverKind,
    /// Bound listeners to accept from (may be empty).
    pub listeners: Vec<TcpListener>,
    /// Commands waiting at most.
    pub mailbox_max: usize,
    /// Pin the thread to this CPU.
    pub cpu: Option<usize>,
    /// Options of every connection.
    pub sockets: SocketOptions,
    /// What the driver tells of itself.
    pub stats: Arc<DriverStats>,
    /// The dimensions and the features of io_uring, where that is the driver.
    pub uring: UringConfig,
}

impl DriverConfig {
    /// The defaults: the best driver there is, no listener, [`MAILBOX_MAX`] commands, any CPU.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            kind: DriverKind::Auto,
            listeners: Vec::new(),
            mailbox_max: MAILBOX_MAX,
            cpu: None,
            sockets: SocketOptions::default(),
            stats: Arc::default(),
            uring: UringConfig::default(),
        }
    }
}

/// A running driver thread.
pub struct DriverThread<C> {
    /// Its mailbox.
    pub mailbox: Mailbox<C>,
    /// `DriverKind::Uring` or `DriverKind::Epoll`.
    pub kind: DriverKind,
    /// Ends when the machine calls [`crate::io::Io::stop`].
    pub thread: JoinHandle<io::Result<()>>,
}

impl<C> fmt::Debug for DriverThread<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DriverThread({:?}, {:?})", self.thread.thread().name(), self.kind)
    }
}

/// Starts a driver thread and builds the machine on it. Returns when the driver is ready; `build`
/// may still run.
///
/// # Errors
/// When the thread, its descriptors or the CPU cannot be had, or `DriverKind::Uring` is asked for
/// and io_uring is not available here.
pub fn spawn<M, F>(config: DriverConfig, build: F) -> io::Result<DriverThread<M::Command>>
where
    M: Machine + 'static,
    F: FnOnce(Mailbox<M::Command>) -> M + Send + 'static,
{
    spawn_thread(config, build).map_err(sys::explained)
}

fn spawn_thread<M, F>(config: DriverConfig, build: F) -> io::Result<DriverThread<M::Command>>
where
    M: Machine + 'static,
    F: FnOnce(Mailbox<M::Command>) -> M + Send + 'static,
{
    let (mailbox, inbox) = Inbox::new(config.mailbox_max)?;
    let (ready, readiness) = mpsc::channel();
    let (own, name) = (mailbox.clone(), config.name.clone());
    let thread = thread::Builder::new().name(config.name.clone()).spawn(move || {
        // A ring belongs to the thread that makes it, so the driver is chosen over there.
        match Ready::start(config, inbox) {
            Ok(driver) => {
                let _ = ready.send(Ok(driver.kind()));
                driver.run(build(own)).inspect_err(|error| {
                    // Whoever joins the thread may do so much later.
                    tracing::error!(thread = %name, %error, "a driver has failed and ends");
                })
            }
            Err(error) => {
                let _ = ready.send(Err(error));
                Ok(())
            }
        }
    })?;
    match readiness.recv() {
        Ok(kind) => Ok(DriverThread { mailbox, kind: kind?, thread }),
        Err(_) => Err(io::Error::other("the driver's thread died before it was ready")),
    }
}

/// A driver that has all it needs but the machine.
struct Ready<C> {
    inbox: Inbox<C>,
    sockets: SocketOptions,
    stats: Arc<DriverStats>,
    back_end: BackEnd,
}

enum BackEnd {
    Uring(Box<uring::Setup>),
    Epoll(epoll::Poller),
}

impl<C: Send + 'static> Ready<C> {
    fn start(config: DriverConfig, inbox: Inbox<C>) -> io::Result<Self> {
        if let Some(cpu) = config.cpu {
            sys::pin_thread(cpu)?;
        }
        let (sockets, stats) = (config.sockets, Arc::clone(&config.stats));
        config.listeners.iter().for_each(|listener| sys::tune(listener, &sockets));
        let back_end = match choose(&config)? {
            Some(mut setup) => {
                setup.listen(config.listeners)?;
                BackEnd::Uring(Box::new(setup))
            }
            None => BackEnd::Epoll(epoll::Poller::new(config.listeners, inbox.event_fd())?),
        };
        Ok(Self { inbox, sockets, stats, back_end })
    }

    fn kind(&self) -> DriverKind {
        match self.back_end {
            BackEnd::Uring(_) => DriverKind::Uring,
            BackEnd::Epoll(_) => DriverKind::Epoll,
        }
    }

    fn run<M: Machine<Command = C>>(self, machine: M) -> io::Result<()> {
        let host = Host::new(machine, self.inbox, self.sockets, self.stats);
        match self.back_end {
            BackEnd::Uring(setup) => uring::run(host, *setup),
            BackEnd::Epoll(poller) => epoll::run(host, poller),
        }
    }
}

/// A ring if that is the driver, `None` for epoll; says in the log which and why.
fn choose(config: &DriverConfig) -> io::Result<Option<uring::Setup>> {
    let thread = config.name.as_str();
    if config.kind == DriverKind::Epoll {
        tracing::info!(thread, "using epoll, as configured");
        return Ok(None);
    }
    match uring::Setup::new(config.uring) {
        Ok(setup) => {
            tracing::info!(thread, "using io_uring");
            Ok(Some(setup))
        }
        Err(unavailable) if config.kind == DriverKind::Auto => {
            tracing::info!(thread, "{unavailable}; using epoll");
            Ok(None)
        }
        Err(unavailable) => Err(unavailable.into()),
    }
}
