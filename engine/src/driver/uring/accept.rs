//! Listeners, and the mailbox that wakes the driver.

use std::{
    io,
    net::TcpStream,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use io_uring::{opcode, types::Fd};

use super::{
    Driver,
    conn::{Armed, Conn, Phase},
    ops::{Kind, Op},
    ring::Completion,
};
use crate::{driver::sys, io::Machine};

impl<M: Machine> Driver<M> {
    pub(super) fn arm_mailbox(&mut self) {
        let fd = Fd(self.host.inbox.event_fd());
        let entry = opcode::PollAdd::new(fd, libc::POLLIN as u32).build();
        self.mailbox = Armed::Yes;
        // SAFETY: `host` keeps the descriptor open until after the ring is gone.
        unsafe { self.ring.push(entry.user_data(Op::new(Kind::Mailbox, 0).encode())) };
    }

    pub(super) fn arm_listeners(&mut self) {
        for index in 0..self.listeners.len() {
            self.arm_accept(index);
        }
    }

    fn arm_accept(&mut self, index: usize) {
        let idle = self.dropping || self.host.is_stopping() || self.rest_until.is_some();
        let listener = &mut self.listeners[index];
        if idle || listener.accept != Armed::No {
            return;
        }
        let fd = Fd(listener.socket.as_raw_fd());
        let entry = if self.features.multishot_accept {
            opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build()
        } else {
            let (nowhere, no_len) = (std::ptr::null_mut(), std::ptr::null_mut());
            opcode::Accept::new(fd, nowhere, no_len).flags(libc::SOCK_CLOEXEC).build()
        };
        listener.accept = Armed::Yes;
        // SAFETY: listeners are closed only with the driver, after the ring; no memory is named.
        unsafe { self.ring.push(entry.user_data(Op::new(Kind::Accept, index).encode())) };
    }

    pub(super) fn cancel_accept(&mut self, index: usize) {
        if self.listeners[index].accept == Armed::Yes {
            self.listeners[index].accept = Armed::Cancelling;
            self.push_cancel(Op::new(Kind::Accept, index));
        }
    }

    /// Cancels an operation that belongs to no connection.
    pub(super) fn push_cancel(&mut self, op: Op) {
        let entry = opcode::AsyncCancel::new(op.encode()).build();
        // SAFETY: a cancellation names no descriptor and no memory.
        unsafe { self.ring.push(entry.user_data(op.counterpart().encode())) };
    }

    pub(super) fn complete_accept(&mut self, index: usize, completion: Completion) {
        if !completion.is_followed() {
            self.listeners[index].accept = Armed::No;
        }
        match completion.outcome() {
            Ok(fd) => {
                // SAFETY: an accept that succeeds gives a fresh descriptor, which nothing else
                // owns.
                let fd = unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) };
                self.accepted(fd.into());
            }
            Err(error)
                if error.raw_os_error() == Some(libc::EINVAL)
                    && std::mem::take(&mut self.features.multishot_accept) =>
            {
                // If it is the flag that this kernel lacks, the one-shot accept works.
            }
            Err(error) if sys::is_futile(&error) => self.rest(index, &error),
            // Cancelled, or the peer gave up while it waited.
            Err(_) => {}
        }
        self.arm_accept(index);
    }

    fn accepted(&mut self, stream: TcpStream) {
        // A peer without an address has gone again.
        let Ok(peer) = stream.peer_addr() else { return };
        if self.dropping || self.host.is_stopping() {
            return;
        }
        let id = self.host.io.add_conn();
        self.insert(Conn::new(id, stream, Phase::Open));
        self.list(id);
        self.host.machine.accepted(&mut self.host.io, id, peer);
        self.carry_out();
    }

    /// Out of descriptors: turns away who waits, and lets the listeners rest.
    fn rest(&mut self, index: usize, error: &io::Error) {
        let socket = &self.listeners[index].socket;
        // Nobody else accepts here meanwhile, yet a peer may give up: an accept must not wait for
        // the next one.
        let mut turned_away = 0;
        if socket.set_nonblocking(true).is_ok() {
            turned_away = self.spare.turn_away(socket);
            let _ = socket.set_nonblocking(false);
        }
        self.rest_until = Some(self.host.cannot_accept(error, turned_away));
    }
}
