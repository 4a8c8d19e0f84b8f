//! The epoll instance: registration and waiting.

use std::{
    io,
    net::TcpListener,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    time::Duration,
};

use super::super::sys::check;
use crate::io::ConnId;

/// Events fetched by one wait.
const EVENTS_MAX: usize = 256;

/// Generations are told apart by this many bits: a stale event is at most one turn old.
const GENERATION_MASK: u32 = 0x3fff_ffff;
const MAILBOX: u64 = u64::MAX;
const LISTENER: u64 = 1 << 63;

const READ: u32 = (libc::EPOLLIN | libc::EPOLLRDHUP) as u32;
const HANGUP: u32 = (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32;
const FAILED: u32 = (libc::EPOLLERR | libc::EPOLLHUP) as u32;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Mailbox,
    Listener(usize),
    /// Slot and generation of a connection.
    Conn(usize, u32),
}

impl Token {
    pub(super) fn of(conn: ConnId) -> Self {
        Self::Conn(conn.index(), conn.generation() & GENERATION_MASK)
    }

    fn encode(self) -> u64 {
        match self {
            Self::Mailbox => MAILBOX,
            Self::Listener(index) => LISTENER | index as u64,
            Self::Conn(index, generation) => u64::from(generation) << 32 | index as u64,
        }
    }

    fn decode(data: u64) -> Self {
        match data {
            MAILBOX => Self::Mailbox,
            _ if data & LISTENER != 0 => Self::Listener((data & !LISTENER) as usize),
            _ => Self::Conn((data & u64::from(u32::MAX)) as usize, (data >> 32) as u32),
        }
    }
}

/// What happened to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Readiness(u32);

impl Readiness {
    pub(super) fn is_readable(self) -> bool {
        self.0 & (READ | HANGUP) != 0
    }
    pub(super) fn is_writable(self) -> bool {
        self.0 & (libc::EPOLLOUT as u32 | FAILED) != 0
    }
    /// The end of the stream or an error lies behind what can be read.
    pub(super) fn is_hangup(self) -> bool {
        self.0 & HANGUP != 0
    }
    pub(super) fn is_failed(self) -> bool {
        self.0 & FAILED != 0
    }
}

pub(in super::super) struct Poller {
    epoll: OwnedFd,
    pub(super) listeners: Vec<TcpListener>,
    events: Vec<libc::epoll_event>,
}

impl Poller {
    /// Watches the listeners and the mailbox.
    pub(in super::super) fn new(listeners: Vec<TcpListener>, mailbox: RawFd) -> io::Result<Self> {
        listeners.iter().try_for_each(|listener| listener.set_nonblocking(true))?;
        // SAFETY: no pointers; the result is checked.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: `fd` is a fresh descriptor that nothing else owns.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        let events = vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX];
        let poller = Self { epoll, listeners, events };
        let edge = (libc::EPOLLIN | libc::EPOLLET) as u32;
        poller.control(libc::EPOLL_CTL_ADD, mailbox, edge, Token::Mailbox)?;
        for index in 0..poller.listeners.len() {
            poller.control_listener(libc::EPOLL_CTL_ADD, index, libc::EPOLLIN as u32)?;
        }
        Ok(poller)
    }

    /// Watches a connection, once for its whole life: each event reports a change.
    pub(super) fn add_conn(&self, fd: RawFd, conn: ConnId) -> io::Result<()> {
        let events = READ | (libc::EPOLLOUT | libc::EPOLLET) as u32;
        self.control(libc::EPOLL_CTL_ADD, fd, events, Token::of(conn))
    }

    /// Watches the listeners, or leaves them alone while there are no descriptors.
    pub(super) fn arm_listeners(&self, armed: bool) -> io::Result<()> {
        let events = if armed { libc::EPOLLIN as u32 } else { 0 };
        (0..self.listeners.len())
            .try_for_each(|index| self.control_listener(libc::EPOLL_CTL_MOD, index, events))
    }

    /// Closes the listeners. They are deregistered first, since a duplicate of the descriptor would
    /// keep them registered.
    pub(super) fn drop_listeners(&mut self) {
        for index in 0..self.listeners.len() {
            let _ = self.control_listener(libc::EPOLL_CTL_DEL, index, 0);
        }
        self.listeners.clear();
    }

    /// Waits for events, at most `timeout` (rounded up to milliseconds), and gives their number.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        let timeout_ms = timeout.map_or(-1, |time| {
            libc::c_int::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(libc::c_int::MAX)
        });
        let (events, len) = (self.events.as_mut_ptr(), EVENTS_MAX as libc::c_int);
        // SAFETY: `events` points to EVENTS_MAX writable entries.
        match check(unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events, len, timeout_ms) }) {
            Ok(count) => Ok(count as usize),
            // A signal: the caller looks at its timers and waits again.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// The `index`th event of the last wait.
    pub(super) fn event(&self, index: usize) -> (Token, Readiness) {
        let event = self.events[index];
        (Token::decode(event.u64), Readiness(event.events))
    }

    fn control_listener(&self, op: libc::c_int, index: usize, events: u32) -> io::Result<()> {
        self.control(op, self.listeners[index].as_raw_fd(), events, Token::Listener(index))
    }

    fn control(&self, op: libc::c_int, fd: RawFd, events: u32, token: Token) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: token.encode() };
        // SAFETY: `event` outlives the call, which only reads it.
        check(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), op, fd, &raw mut event) }).map(drop)
    }
}
