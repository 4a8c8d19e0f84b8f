//! Receiving and sending on one connection.

use std::{
    io::{self, IoSlice, Read},
    net::Shutdown,
};

use socket2::SockRef;

use super::{Driver, Phase, scratch::READ_BYTES, sys};
use crate::io::{Closed, ConnId, Machine};

/// Pieces of one send call; more gain nothing.
const SEND_PIECES_MAX: usize = 64;

impl<M: Machine> Driver<M> {
    /// Receives once.
    pub(super) fn read(&mut self, id: ConnId) {
        let paused = self.host.io.is_paused(id);
        let Some(conn) = self.conns.get_mut(id.index()).and_then(Option::as_mut) else { return };
        if conn.id != id {
            return;
        }
        conn.listed = false;
        if paused && conn.phase == Phase::Open {
            return;
        }
        let result = conn.stream.read_vectored(&mut self.scratch.memory());
        match result {
            Ok(0) if conn.phase == Phase::Flushing => conn.readable = false,
            Ok(0) if conn.phase == Phase::Lingering => self.end(id, Closed::ByUs),
            Ok(0) => self.end(id, Closed::ByPeer),
            Ok(len) => {
                // Less than was asked for: the rest will be a new event, unless the end is here
                // already.
                conn.readable = len == READ_BYTES || conn.hangup;
                self.received(id, len);
                self.list(id);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => conn.readable = false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.list(id),
            Err(_) if conn.phase != Phase::Open => self.end(id, Closed::ByUs),
            Err(error) => self.end(id, Closed::Error(error)),
        }
    }

    /// Hands over the first `len` bytes of the scratch blocks.
    fn received(&mut self, id: ConnId, len: usize) {
        for index in 0.. {
            if self.conn(id).is_none_or(|conn| conn.phase != Phase::Open) {
                return;
            }
            let Some(slice) = self.scratch.take(index, len) else { return };
            self.host.machine.received(&mut self.host.io, id, slice);
            self.carry_out();
        }
    }

    /// Sends what is queued, as far as the kernel takes it.
    pub(super) fn send(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id.index()).and_then(Option::as_mut) else { return };
        if conn.id != id || !matches!(conn.phase, Phase::Open | Phase::Flushing) {
            return;
        }
        let Some(queue) = self.host.io.driver_queue(id) else { return };
        while conn.writable && !queue.is_empty() {
            let mut pieces = [IoSlice::new(&[]); SEND_PIECES_MAX];
            let mut count = 0;
            for (slot, piece) in pieces.iter_mut().zip(queue.pieces()) {
                *slot = IoSlice::new(piece);
                count += 1;
            }
            let socket = SockRef::from(&conn.stream);
            let sent = match &pieces[..count] {
                // No message to copy and check, and most sends of a chatty connection are like this.
                [only] => socket.send_with_flags(only, libc::MSG_NOSIGNAL),
                pieces => socket.send_vectored_with_flags(pieces, libc::MSG_NOSIGNAL),
            };
            match sent {
                Ok(len) => queue.advance(len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => conn.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) if conn.phase == Phase::Flushing => return self.end(id, Closed::ByUs),
                Err(error) => return self.end(id, Closed::Error(error)),
            }
        }
        let flushed = queue.is_empty() && conn.phase == Phase::Flushing;
        self.host.sent(id);
        if flushed {
            self.linger(id);
        }
    }

    /// Ends a flush: at once when the peer's kernel has everything, else when the peer has closed
    /// too.
    fn linger(&mut self, id: ConnId) {
        let Some(conn) = self.conn(id) else { return };
        let delivered = sys::unacknowledged_bytes(&conn.stream) == 0;
        let shut = conn.stream.shutdown(Shutdown::Write);
        // Closing over unread bytes would reset the connection.
        let ended = sys::discard_input(&conn.stream);
        if delivered || ended || shut.is_err() {
            return self.end(id, Closed::ByUs);
        }
        conn.phase = Phase::Lingering;
    }
}
