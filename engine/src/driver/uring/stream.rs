//! Receiving and sending on one connection.

use std::{net::Shutdown, os::fd::AsRawFd, sync::atomic::Ordering::Relaxed};

use io_uring::{opcode, squeue, types::Fd};

use super::{
    Driver, FREE_SENDINGS_MAX,
    buffers::GROUP,
    conn::{Armed, Conn, Phase},
    ops::Kind,
    ring::Completion,
    sys,
};
use crate::{
    io::{Closed, ConnId, Machine},
    pool::Slice,
};

/// Receiving.
impl<M: Machine> Driver<M> {
    /// Brings a connection in line with what changed: hands over what was held, begins or cancels
    /// its receive.
    pub(super) fn look(&mut self, id: ConnId) {
        let Some(conn) = self.conn(id) else { return };
        conn.listed = false;
        if matches!(conn.phase, Phase::Connecting | Phase::Ending(_)) {
            return;
        }
        self.hand_over_held(id);
        let paused = self.host.io.is_paused(id);
        let multishot = self.features.multishot_recv;
        let Some(conn) = self.conn(id).filter(|conn| !conn.is_ending()) else { return };
        if paused && conn.is_open() {
            if conn.recv == Armed::No {
                self.arm_watch(id);
            } else if multishot {
                self.cancel(id, Kind::Recv);
            }
            // A one-shot receive stays: at most one slice arrives, and is held.
        } else if conn.recv == Armed::No && conn.ended.is_none() {
            self.arm_recv(id);
        }
    }

    fn hand_over_held(&mut self, id: ConnId) {
        while !self.host.io.is_paused(id) {
            let Some(conn) = self.conn(id).filter(|conn| conn.is_open()) else { return };
            if let Some(slice) = conn.held.pop_front() {
                self.host.machine.received(&mut self.host.io, id, slice);
                self.carry_out();
            } else {
                if let Some(why) = conn.ended.take() {
                    self.end(id, why);
                }
                return;
            }
        }
    }

    fn arm_recv(&mut self, id: ConnId) {
        let block_bytes = self.pool.block_bytes() as u32;
        let Some(conn) = self.conns.get_mut(id.index()).and_then(Option::as_mut) else { return };
        let fd = conn.fd();
        let entry = if self.features.bundles {
            opcode::RecvMultiBundle::new(fd, GROUP).build()
        } else if self.features.multishot_recv {
            opcode::RecvMulti::new(fd, GROUP).build()
        } else if self.features.buffer_ring {
            let recv = opcode::Recv::new(fd, std::ptr::null_mut(), 0);
            recv.buf_group(GROUP).build().flags(squeue::Flags::BUFFER_SELECT)
        } else {
            let block = conn.block.get_or_insert_with(|| self.pool.take());
            opcode::Recv::new(fd, block.memory_mut().as_mut_ptr(), block_bytes).build()
        };
        // SAFETY: the connection owns the descriptor and its block, which nobody touches while the
        // receive is in flight; provided buffers live in `buffers` until the ring is idle.
        unsafe { self.submit(id, Kind::Recv, entry) };
    }

    /// A paused connection has no receive that would tell of a reset, so something else must.
    fn arm_watch(&mut self, id: ConnId) {
        let Some(conn) = self.conn(id).filter(|conn| conn.watch == Armed::No) else { return };
        // Errors and hang-ups are always reported; nothing else is asked for.
        let entry = opcode::PollAdd::new(conn.fd(), 0).build();
        // SAFETY: the connection owns the descriptor.
        unsafe { self.submit(id, Kind::Watch, entry) };
    }

    pub(super) fn complete_watch(&mut self, id: ConnId) {
        let paused = self.host.io.is_paused(id);
        let Some(conn) = self.conn(id).filter(|conn| conn.is_open()) else { return };
        if paused
            && conn.held.is_empty()
            && let Some(error) = sys::failure(&conn.stream)
        {
            self.end(id, Closed::Error(error));
        }
    }

    pub(super) fn complete_recv(&mut self, id: ConnId, completion: Completion) {
        let received = self.take_received(id, completion);
        if completion.result == -libc::ENOBUFS {
            self.host.stats.buffers_missed.fetch_add(1, Relaxed);
        }
        let Some(conn) = self.conn(id).filter(|conn| !conn.is_ending()) else { return };
        if received {
            if conn.discards() {
                conn.held.clear();
            }
        } else if let Some(why) = end_of_stream(completion) {
            if conn.discards() {
                return self.discarding_ended(id, why);
            }
            // An error is told even when nobody reads, unless bytes lie before it.
            let failed = matches!(why, Closed::Error(_)) && conn.held.is_empty();
            conn.ended = Some(why);
            if failed && let Some(why) = conn.ended.take() {
                return self.end(id, why);
            }
        } else if completion.result == -libc::EINVAL && self.features.multishot_recv {
            // If it is the flag that this kernel lacks, the one-shot receive works.
            self.features.multishot_recv = std::mem::take(&mut self.features.bundles);
        }
        self.hand_over_held(id);
        if !completion.is_followed() {
            self.list(id);
        }
    }

    /// Puts the bytes of a completed receive into `held`; false when there are none. Its buffers are taken back whatever
    /// becomes of the connection.
    fn take_received(&mut self, id: ConnId, completion: Completion) -> bool {
        let len = completion.outcome().unwrap_or(0);
        let conn = self.conns.get_mut(id.index()).and_then(Option::as_mut);
        let Some(conn) = conn.filter(|conn| conn.id == id) else { return len > 0 };
        match (completion.buffer(), &mut self.buffers) {
            (Some(first), Some(buffers)) if len > 0 => buffers.take(first, len, &mut conn.held),
            (Some(buffer), Some(buffers)) => buffers.take_back(buffer),
            _ if len == 0 => {}
            _ if len <= self.pool.block_bytes() / 4 => {
                if let Some(block) = &mut conn.block {
                    conn.held.push_back(Slice::copy_from(&block.memory_mut()[..len]));
                }
            }
            _ => conn.held.extend(conn.block.take().map(|block| block.freeze(len))),
        }
        len > 0
    }

    /// The peer of a closing connection has closed too.
    fn discarding_ended(&mut self, id: ConnId, why: Closed) {
        let Some(conn) = self.conn(id) else { return };
        if matches!(conn.phase, Phase::Flushing) && matches!(why, Closed::ByPeer) {
            // It may still read what is being flushed.
            conn.ended = Some(why);
        } else {
            self.end(id, Closed::ByUs);
        }
    }
}

/// What a receive without bytes says about the stream; `None` when it is to be repeated.
fn end_of_stream(completion: Completion) -> Option<Closed> {
    match completion.outcome() {
        Ok(_) => Some(Closed::ByPeer),
        Err(error) => match error.raw_os_error() {
            // Cancelled; no buffer at that moment; a signal; an ability that this kernel lacks.
            Some(libc::ECANCELED | libc::ENOBUFS | libc::EINTR | libc::EAGAIN | libc::EINVAL) => {
                None
            }
            _ => Some(Closed::Error(error)),
        },
    }
}

/// Sending.
impl<M: Machine> Driver<M> {
    /// Begins to send what is queued, unless a send is in flight.
    pub(super) fn send(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id.index()).and_then(Option::as_mut) else { return };
        let sends = matches!(conn.phase, Phase::Open | Phase::Flushing);
        if conn.id != id || !sends || conn.send != Armed::No {
            return;
        }
        let Some(queue) = self.host.io.driver_queue(id) else { return };
        if queue.is_empty() {
            if matches!(conn.phase, Phase::Flushing) {
                self.linger(id);
            }
            return;
        }
        let sending =
            conn.sending.get_or_insert_with(|| self.free_sendings.pop().unwrap_or_default());
        let entry = sending.begin(queue, Fd(conn.stream.as_raw_fd()));
        // SAFETY: the connection owns the descriptor and, boxed, the message, its pieces and their
        // bytes; none is touched before the send has completed, since `send` is armed until then.
        unsafe { self.submit(id, Kind::Send, entry) };
    }

    pub(super) fn complete_send(&mut self, id: ConnId, completion: Completion) {
        let Some(conn) = self.conns.get_mut(id.index()).and_then(Option::as_mut) else { return };
        let Conn { sending, phase, .. } = conn;
        let outcome = completion.outcome();
        let ending = matches!(phase, Phase::Ending(_));
        if let Some(mut sending) = sending.take() {
            sending.finish(self.host.io.driver_queue(id).filter(|_| !ending), &outcome);
            if self.free_sendings.len() < FREE_SENDINGS_MAX {
                self.free_sendings.push(sending);
            }
        }
        if ending {
            return;
        }
        match outcome {
            Ok(_) => {
                self.host.sent(id);
                self.send(id);
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN) => self.send(id),
                _ if conn.discards() => self.end(id, Closed::ByUs),
                _ => self.end(id, Closed::Error(error)),
            },
        }
    }

    /// Ends a flush: at once when the peer's kernel has everything, else when the peer has closed
    /// too.
    fn linger(&mut self, id: ConnId) {
        let Some(conn) = self.conn(id) else { return };
        let delivered = sys::unacknowledged_bytes(&conn.stream) == 0;
        let shut = conn.stream.shutdown(Shutdown::Write);
        // Closing over unread bytes would reset the connection.
        let ended = sys::discard_input(&conn.stream) || conn.ended.is_some();
        conn.phase = Phase::Lingering;
        if delivered || ended || shut.is_err() {
            self.end(id, Closed::ByUs);
        }
    }
}
