//! The driver for kernels and containers without io_uring.
//!
//! ```text
//!  wait ─▶ note readiness ─▶ read each ready one once ─▶ verbs due, timers ─▶ send queues ─┐
//!    ▲                                                                                     │
//!    └─────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Edge-triggered: a connection is registered once, and what is ready is remembered here until a
//! call says it is not. One vectored read per connection and turn is both the large receive that
//! makes epoll fast and the bound that keeps one busy peer from starving the others.
//!
//! Invariant: a connection that is readable, not paused, and not gone is in `ready`.

mod poller;
mod scratch;
mod stream;

use std::{
    collections::VecDeque,
    io,
    net::{SocketAddr, TcpStream},
    os::fd::AsRawFd,
    time::Instant,
};

pub(super) use self::poller::Poller;
use self::{
    poller::{Readiness, Token},
    scratch::Scratch,
};
use super::{
    host::Host,
    sys::{self, SpareFd},
};
use crate::io::{Action, CloseMode, Closed, ConnId, Machine};

/// Connections accepted in one turn at most.
const ACCEPTS_PER_TURN: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connecting,
    Open,
    /// The machine closed it: what is queued is sent, what arrives is discarded.
    Flushing,
    /// All is sent, and writing is shut down; the peer's end of stream is awaited.
    Lingering,
}

struct Conn {
    id: ConnId,
    stream: TcpStream,
    phase: Phase,
    readable: bool,
    writable: bool,
    hangup: bool,
    /// It is in `ready`.
    listed: bool,
}

struct Driver<M: Machine> {
    host: Host<M>,
    poller: Poller,
    conns: Vec<Option<Conn>>,
    ready: VecDeque<ConnId>,
    scratch: Scratch,
    spare: SpareFd,
    /// The listeners rest until then.
    rest_until: Option<Instant>,
}

/// Runs the machine until it asks to stop.
pub(super) fn run<M: Machine>(host: Host<M>, poller: Poller) -> io::Result<()> {
    let scratch = Scratch::new();
    let (conns, ready) = (Vec::new(), VecDeque::new());
    let spare = SpareFd::new();
    let mut driver = Driver { host, poller, conns, ready, scratch, spare, rest_until: None };
    while !driver.host.is_done() {
        driver.turn()?;
    }
    Ok(())
}

impl<M: Machine> Driver<M> {
    fn turn(&mut self) -> io::Result<()> {
        let busy = !self.ready.is_empty();
        let timeout = self.host.sleep_time(busy, self.rest_until);
        let count = self.poller.wait(timeout)?;
        self.host.inbox.awake();
        self.host.tick();
        for index in 0..count {
            match self.poller.event(index) {
                (Token::Mailbox, _) => self.host.inbox.clear_signal(),
                (Token::Listener(index), _) => self.accept(index)?,
                (token, readiness) => self.note(token, readiness),
            }
        }
        for _ in 0..self.ready.len() {
            if let Some(id) = self.ready.pop_front() {
                self.read(id);
            }
        }
        self.host.run_due();
        self.carry_out();
        while let Some(id) = self.host.io.next_dirty() {
            self.send(id);
        }
        while let Some(id) = self.host.next_flush_end() {
            self.abort(id, Closed::ByUs);
        }
        if self.rest_until.is_some_and(|at| at <= self.host.io.now()) {
            self.end_rest()?;
        }
        if self.host.begins_to_stop() {
            self.poller.drop_listeners();
            self.carry_out();
        }
        Ok(())
    }

    fn conn(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.conns.get_mut(id.index())?.as_mut().filter(|conn| conn.id == id)
    }

    fn insert(&mut self, id: ConnId, stream: TcpStream, phase: Phase) -> io::Result<()> {
        self.poller.add_conn(stream.as_raw_fd(), id)?;
        if self.conns.len() <= id.index() {
            self.conns.resize_with(id.index() + 1, || None);
        }
        let writable = phase == Phase::Open;
        let conn =
            Conn { id, stream, phase, readable: false, writable, hangup: false, listed: false };
        self.conns[id.index()] = Some(conn);
        Ok(())
    }

    /// Closes the descriptor; `closed` is due.
    fn end(&mut self, id: ConnId, why: Closed) {
        if self.conn(id).is_some() {
            self.conns[id.index()] = None;
            self.host.end(id, why);
            if self.rest_until.is_some() {
                // There is a descriptor again.
                self.rest_until = Some(self.host.io.now());
            }
        }
    }

    fn abort(&mut self, id: ConnId, why: Closed) {
        if let Some(conn) = self.conn(id) {
            sys::reset_on_close(&conn.stream);
            self.end(id, why);
        }
    }

    /// Does what the machine has asked for.
    fn carry_out(&mut self) {
        while let Some(action) = self.host.io.next_action() {
            match action {
                Action::Connect(id, to) => {
                    if let Err(error) = self.connect(id, to) {
                        self.host.end(id, Closed::Error(error));
                    }
                }
                Action::Close(id, mode) => self.close(id, mode),
                Action::Pause(_) => {}
                Action::Resume(id) => self.list(id),
            }
        }
    }

    fn connect(&mut self, id: ConnId, to: SocketAddr) -> io::Result<()> {
        if self.host.is_stopping() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let socket = sys::stream_socket(to, true, &self.host.sockets)?;
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => self.insert(id, socket.into(), Phase::Connecting),
        }
    }

    fn close(&mut self, id: ConnId, mode: CloseMode) {
        let Some(conn) = self.conn(id) else { return };
        if mode == CloseMode::Abort || conn.phase != Phase::Open {
            return self.abort(id, Closed::ByUs);
        }
        conn.phase = Phase::Flushing;
        self.host.flush_begins(id);
        self.list(id);
        self.send(id);
    }

    /// Puts a connection that can be read into `ready`.
    fn list(&mut self, id: ConnId) {
        let paused = self.host.io.is_paused(id);
        let Some(conn) = self.conn(id) else { return };
        let wanted = conn.phase != Phase::Open || !paused;
        if conn.readable && wanted && !conn.listed && conn.phase != Phase::Connecting {
            conn.listed = true;
            self.ready.push_back(id);
        }
    }
}

/// Events.
impl<M: Machine> Driver<M> {
    fn accept(&mut self, index: usize) -> io::Result<()> {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = self.poller.listeners.get(index) else { break };
            match listener.accept() {
                Ok((stream, peer)) => self.accepted(stream, peer),
                Err(error) if sys::is_futile(&error) => {
                    let turned_away = self.spare.turn_away(listener);
                    self.rest_until = Some(self.host.cannot_accept(&error, turned_away));
                    return self.poller.arm_listeners(false);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The peer gave up while it waited: the next one may not have.
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn accepted(&mut self, stream: TcpStream, peer: SocketAddr) {
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        let id = self.host.io.add_conn();
        if self.insert(id, stream, Phase::Open).is_err() {
            return self.host.io.remove_conn(id);
        }
        self.host.machine.accepted(&mut self.host.io, id, peer);
        self.carry_out();
    }

    fn end_rest(&mut self) -> io::Result<()> {
        self.rest_until = None;
        self.poller.arm_listeners(true)
    }

    /// Remembers what became ready.
    fn note(&mut self, token: Token, readiness: Readiness) {
        let Token::Conn(index, _) = token else { return };
        let Some(conn) = self.conns.get_mut(index).and_then(Option::as_mut) else { return };
        let id = conn.id;
        if Token::of(id) != token {
            return;
        }
        if conn.phase == Phase::Connecting {
            return self.note_connecting(id, readiness);
        }
        conn.readable |= readiness.is_readable();
        conn.hangup |= readiness.is_hangup();
        if readiness.is_writable() && !conn.writable {
            conn.writable = true;
            self.send(id);
        }
        self.list(id);
        if readiness.is_failed() && self.host.io.is_paused(id) {
            self.note_failed_while_paused(id);
        }
    }

    fn note_connecting(&mut self, id: ConnId, readiness: Readiness) {
        let Some(conn) = self.conn(id) else { return };
        match conn.stream.take_error() {
            Ok(None) if readiness.is_failed() || !readiness.is_writable() => {}
            Ok(None) => {
                conn.phase = Phase::Open;
                conn.writable = true;
                conn.readable = readiness.is_readable();
                conn.hangup = readiness.is_hangup();
                self.host.machine.connected(&mut self.host.io, id);
                self.carry_out();
                self.list(id);
            }
            Ok(Some(error)) | Err(error) => self.end(id, Closed::Error(error)),
        }
    }

    /// A reset of a connection that nobody reads is reported, unless bytes lie before it.
    fn note_failed_while_paused(&mut self, id: ConnId) {
        let Some(conn) = self.conn(id) else { return };
        if conn.phase != Phase::Open {
            return;
        }
        if let Some(error) = sys::failure(&conn.stream) {
            self.end(id, Closed::Error(error));
        }
    }
}
