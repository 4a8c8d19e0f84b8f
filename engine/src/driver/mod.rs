//! Drivers: the only place with syscalls, clocks and threads.
//!
//! A driver runs one [`Machine`] on one thread: io_uring where the kernel allows it, epoll elsewhere,
//! a simulated network in tests ([`sim`]). All keep the rules of [`crate::io`].

use std::{io, net::TcpListener, sync::Arc, thread::JoinHandle};

use crate::io::Machine;

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
}

/// Posts commands to a machine on its driver's thread. Cheap to clone.
pub struct Mailbox<C>(Arc<std::marker::PhantomData<fn(C)>>);

impl<C> Clone for Mailbox<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// The driver has stopped, or its mailbox is full; the command comes back.
#[derive(Debug)]
pub enum PostError<C> {
    /// `mailbox_max` commands wait.
    Full(C),
    /// The driver's thread has ended.
    Stopped(C),
}

impl<C: Send + 'static> Mailbox<C> {
    /// Posts a command and wakes the driver (one eventfd write at most until it runs).
    pub fn post(&self, _command: C) -> Result<(), PostError<C>> {
        todo!()
    }
    /// Posts beyond `mailbox_max`: for releases, whose number is bounded by the guards that post them.
    pub fn post_release(&self, _command: C) {
        todo!()
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

/// Starts a driver thread and builds the machine on it.
pub fn spawn<M, F>(_config: DriverConfig, _build: F) -> io::Result<DriverThread<M::Command>>
where
    M: Machine + 'static,
    F: FnOnce(Mailbox<M::Command>) -> M + Send + 'static,
{
    todo!()
}
