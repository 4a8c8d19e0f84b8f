//! A connection and everything the kernel may be using on its behalf.

use std::{collections::VecDeque, io, net::TcpStream, os::fd::AsRawFd};

use io_uring::{opcode, squeue, types::Fd};
use socket2::SockAddr;

use super::ops::Kind;
use crate::{
    io::{Closed, ConnId},
    pool::{Block, Segment, SendQueue, Slice},
};

/// Pieces of one send; more gain nothing.
const SEND_PIECES_MAX: usize = 64;

#[derive(Debug)]
pub(super) enum Phase {
    Connecting,
    Open,
    /// The machine closed it: what is queued is sent, what arrives is discarded.
    Flushing,
    /// All is sent, and writing is shut down; the peer's end of stream is awaited.
    Lingering,
    /// Its operations are being cancelled; with the last of them it is gone.
    Ending(Closed),
}

/// One direction's operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Armed {
    No,
    Yes,
    /// Its cancellation is under way.
    Cancelling,
}

/// Owns the descriptor and the memory of every operation in flight. Dropped only when `outstanding`
/// is zero: that is what makes the operations sound.
pub(super) struct Conn {
    pub(super) id: ConnId,
    pub(super) stream: TcpStream,
    pub(super) phase: Phase,
    /// Operations, cancellations included, whose last completion has not come.
    pub(super) outstanding: usize,
    pub(super) recv: Armed,
    pub(super) send: Armed,
    pub(super) connect: Armed,
    pub(super) watch: Armed,
    /// Arrived while the connection was paused: at most what one turn had completed before the
    /// receive was cancelled, so no more than the shared buffers hold.
    pub(super) held: VecDeque<Slice>,
    /// What comes after `held`.
    pub(super) ended: Option<Closed>,
    /// In the driver's list of connections to look at.
    pub(super) listed: bool,
    /// The receive buffer where the kernel has no shared ones.
    pub(super) block: Option<Block>,
    pub(super) address: Option<Box<SockAddr>>,
    /// The memory of the send in flight.
    pub(super) sending: Option<Box<Sending>>,
}

impl Conn {
    pub(super) fn new(id: ConnId, stream: TcpStream, phase: Phase) -> Self {
        Self {
            id,
            stream,
            phase,
            outstanding: 0,
            recv: Armed::No,
            send: Armed::No,
            connect: Armed::No,
            watch: Armed::No,
            held: VecDeque::new(),
            ended: None,
            listed: false,
            block: None,
            address: None,
            sending: None,
        }
    }

    pub(super) fn fd(&self) -> Fd {
        Fd(self.stream.as_raw_fd())
    }

    /// The state of the operation of `kind`.
    pub(super) fn armed(&mut self, kind: Kind) -> &mut Armed {
        match kind {
            Kind::Recv | Kind::CancelRecv => &mut self.recv,
            Kind::Send | Kind::CancelSend => &mut self.send,
            Kind::Connect | Kind::CancelConnect => &mut self.connect,
            _ => &mut self.watch,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    pub(super) fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Ending(_))
    }

    /// Whether what arrives is dropped unread.
    pub(super) fn discards(&self) -> bool {
        matches!(self.phase, Phase::Flushing | Phase::Lingering)
    }
}

/// The memory of a send in flight.
pub(super) struct Sending {
    segments: Vec<Segment>,
    head_sent: usize,
    pieces: [libc::iovec; SEND_PIECES_MAX],
    message: libc::msghdr,
}

impl Default for Sending {
    fn default() -> Self {
        // SAFETY: `msghdr` is plain data (on some targets with private padding), for which all zero
        // means nothing to send.
        let message = unsafe { std::mem::zeroed() };
        let nothing = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Self { segments: Vec::new(), head_sent: 0, pieces: [nothing; SEND_PIECES_MAX], message }
    }
}

impl Sending {
    /// Takes the front of `queue` and builds the operation that sends it.
    ///
    /// The operation points into `self`, which stays where it is and untouched until
    /// [`Sending::finish`].
    pub(super) fn begin(&mut self, queue: &mut SendQueue, fd: Fd) -> squeue::Entry {
        self.head_sent = queue.take_segments(&mut self.segments, SEND_PIECES_MAX);
        let mut skip = self.head_sent;
        for (piece, segment) in self.pieces.iter_mut().zip(&self.segments) {
            let bytes = &segment.as_bytes()[std::mem::take(&mut skip)..];
            // The kernel only reads it.
            *piece =
                libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        }
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        if let [only] = &self.segments[..] {
            // No message to copy and check, and most sends of a chatty connection are like this.
            let bytes = &only.as_bytes()[self.head_sent..];
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            return opcode::Send::new(fd, bytes.as_ptr(), len).flags(flags).build();
        }
        self.message.msg_iov = self.pieces.as_mut_ptr();
        self.message.msg_iovlen = self.segments.len() as _;
        opcode::SendMsg::new(fd, &raw const self.message).flags(flags as u32).build()
    }

    /// Ends the send: what was not sent goes back to `queue`, or is dropped with it.
    pub(super) fn finish(&mut self, queue: Option<&mut SendQueue>, sent: &io::Result<usize>) {
        if let Some(queue) = queue {
            queue.settle(&mut self.segments, self.head_sent, *sent.as_ref().unwrap_or(&0));
        }
        self.segments.clear();
    }
}
