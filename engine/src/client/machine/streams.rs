//! The streams of a session: moving ciphertext between mux and pipes.
//!
//! ```text
//!   Slot::Dialing ──response checks──▶ Slot::Open ──both FINs, reset, session end──▶ gone
//!   Slot::Inbound ──request checks ──▶     │
//!                                          └─ handle dropped: rest and FIN go out, then LINGER for the peer's FIN
//! ```

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use super::{ClientMachine, DialId, Session, Timer};
use crate::{
    client::{
        error::{StreamEnd, TryCause},
        link::StreamKey,
        pipe::Pipe,
    },
    io::{CloseMode, ConnId, Io},
    pool::{Slice, StreamPermit},
    session::ObjectReader,
    wire::Addr,
};

/// How long a stream whose handle was dropped may take to send its rest and to see the peer's FIN,
/// before it is reset. Its port is free since the drop; what it still holds is a place in the
/// session's mux.
pub const LINGER: Duration = Duration::from_secs(10);

/// How long the reader of one stream may hold up its whole session where the mux has no windows
/// (smux v1), before the stream is reset; anew with each 64 KiB that it takes. Well below the silence that ends a session.
pub const HOLD_MAX: Duration = Duration::from_secs(10);

/// Bytes one stream may send before the next one's turn, when several wait for the connection.
const TURN_BYTES: usize = 16 * 1024;

/// What a stream of a session is.
pub(super) enum Slot {
    /// We opened it and wait for the response.
    Dialing {
        dial: DialId,
        to: Addr,
        reader: ObjectReader,
    },
    /// The server opened it and we wait for the request.
    Inbound {
        reader: ObjectReader,
        permit: StreamPermit,
    },
    Open(OpenStream),
}

/// A stream that an application uses, or used.
pub(super) struct OpenStream {
    pub(super) pipe: Arc<Pipe>,
    fin_sent: bool,
    fin_received: bool,
    /// In the session's list of streams that wait for the connection.
    blocked: bool,
    lingering: bool,
    /// The session is not read because too much of this stream waits.
    held: bool,
    heard_at: Instant,
}

impl OpenStream {
    pub(super) fn new(pipe: Arc<Pipe>, now: Instant) -> Self {
        Self {
            pipe,
            fin_sent: false,
            fin_received: false,
            blocked: false,
            lingering: false,
            held: false,
            heard_at: now,
        }
    }
}

/// From the wire.
impl ClientMachine {
    pub(super) fn slot(&mut self, key: StreamKey) -> Option<&mut Slot> {
        self.sessions.get_mut(&key.0)?.up_mut()?.streams.get_mut(&key.1)
    }

    fn open_stream(&mut self, key: StreamKey) -> Option<&mut OpenStream> {
        match self.slot(key)? {
            Slot::Open(open) => Some(open),
            _ => None,
        }
    }

    pub(super) fn stream_data(&mut self, io: &mut Io, key: StreamKey, data: Slice) {
        let now = io.now();
        let slot = self
            .sessions
            .get_mut(&key.0)
            .and_then(Session::up_mut)
            .and_then(|up| up.streams.get_mut(&key.1));
        match slot {
            Some(Slot::Open(open)) => {
                open.heard_at = now;
                let bytes = data.len() as u64;
                let pushed = open.pipe.push_inbound(data, &mut self.wakes);
                self.shared.board.received_bytes.fetch_add(bytes, Ordering::Relaxed);
                match pushed {
                    Ok(false) => {}
                    Ok(true) => self.hold_session(io, key),
                    Err(max) => self.end_stream(io, key, StreamEnd::Overrun(max)),
                }
            }
            Some(Slot::Dialing { .. }) => self.response_data(io, key, data),
            Some(Slot::Inbound { .. }) => self.request_data(io, key, data),
            None => {}
        }
    }

    pub(super) fn stream_finished(&mut self, io: &mut Io, key: StreamKey) {
        match self.slot(key) {
            Some(Slot::Open(open)) => {
                open.fin_received = true;
                open.pipe.finish_inbound();
                if open.fin_sent {
                    open.pipe.close();
                    self.forget_stream(io, key);
                } else {
                    // Nothing more of it can come.
                    self.release_session(io, key);
                }
            }
            Some(&mut Slot::Dialing { dial, .. }) => {
                self.reset_on_wire(io, key);
                self.fail_request(io, dial, key, TryCause::Refused);
            }
            Some(Slot::Inbound { .. }) => self.refuse(io, key, "closed_before_request"),
            None => {}
        }
    }

    pub(super) fn stream_reset(&mut self, io: &mut Io, key: StreamKey) {
        match self.slot(key) {
            Some(Slot::Open(open)) => {
                open.pipe.end(StreamEnd::Reset);
                self.forget_stream(io, key);
            }
            Some(&mut Slot::Dialing { dial, .. }) => {
                self.forget_stream(io, key);
                self.fail_request(io, dial, key, TryCause::Refused);
            }
            Some(Slot::Inbound { .. }) => {
                self.shared.board.inbound_refused.count("closed_before_request");
                self.forget_stream(io, key);
            }
            None => {}
        }
    }
}

/// From the pipes.
impl ClientMachine {
    pub(super) fn drain_marked(&mut self, io: &mut Io) {
        let link = Arc::clone(&self.link);
        link.begin_drain();
        while let Some(key) = link.next_marked() {
            self.serve_pipe(io, key);
        }
    }

    fn serve_pipe(&mut self, io: &mut Io, key: StreamKey) {
        let now = io.now();
        let Some(open) = self.open_stream(key) else { return };
        open.pipe.unmark();
        if open.pipe.is_reclaimed() {
            return self.reset_on_wire(io, key);
        }
        let grant = open.pipe.take_grant();
        let is_low = open.pipe.is_low();
        let begins_linger = open.pipe.is_dropped() && !open.lingering;
        open.lingering |= begins_linger;
        if begins_linger {
            self.timers.cancel(Timer::Idle(key));
            self.timers.set(Timer::Linger(key), now + LINGER);
        }
        if grant > 0
            && let Some(up) = self.sessions.get_mut(&key.0).and_then(Session::up_mut)
            && let Some(queue) = io.queue(key.0)
        {
            up.mux.grant(key.1, grant, false, queue);
        }
        if is_low {
            self.release_session(io, key);
        } else if grant > 0 && self.open_stream(key).is_some_and(|open| open.held) {
            // Its reader is slow, and reads.
            self.timers.set(Timer::Hold(key), now + HOLD_MAX);
        }
        self.pump(io, key);
    }

    /// Sends what the stream has, as far as window and connection allow.
    pub(super) fn pump(&mut self, io: &mut Io, key: StreamKey) {
        let (conn, id) = key;
        // Whoever waits for the connection already goes first.
        let queued =
            self.sessions.get(&conn).and_then(Session::up).is_some_and(|up| !up.blocked.is_empty());
        while !queued && !io.is_full(conn) {
            if !self.send_turn(io, key) {
                return;
            }
        }
        let Some(up) = self.sessions.get_mut(&conn).and_then(Session::up_mut) else { return };
        if let Some(Slot::Open(open)) = up.streams.get_mut(&id)
            && !open.blocked
        {
            open.blocked = true;
            up.blocked.push_back(id);
        }
    }

    /// The connection has room: each waiting stream sends its turn, over and over.
    pub(super) fn pump_blocked(&mut self, io: &mut Io, conn: ConnId) {
        while !io.is_full(conn) {
            let Some(up) = self.sessions.get_mut(&conn).and_then(Session::up_mut) else { return };
            let Some(id) = up.blocked.pop_front() else { return };
            if let Some(Slot::Open(open)) = up.streams.get_mut(&id) {
                open.blocked = false;
            }
            if self.send_turn(io, (conn, id))
                && let Some(up) = self.sessions.get_mut(&conn).and_then(Session::up_mut)
                && let Some(Slot::Open(open)) = up.streams.get_mut(&id)
            {
                open.blocked = true;
                up.blocked.push_back(id);
            }
        }
    }

    /// Sends up to [`TURN_BYTES`] of one stream, and its FIN when that was the rest. True if there
    /// is more that could go now.
    fn send_turn(&mut self, io: &mut Io, key: StreamKey) -> bool {
        let (conn, id) = key;
        let Some(up) = self.sessions.get_mut(&conn).and_then(Session::up_mut) else { return false };
        let Some(Slot::Open(open)) = up.streams.get_mut(&id) else { return false };
        let Some(queue) = io.queue(conn) else { return false };
        let credit = up.mux.send_credit(id) as usize;
        let mut room = TURN_BYTES.min(credit);
        let mut sent = 0;
        while room > 0
            && let Some(chunk) = open.pipe.pop_outbound(room)
        {
            room -= chunk.len();
            sent += chunk.len();
            up.mux.send(id, chunk, queue);
        }
        self.shared.board.sent_bytes.fetch_add(sent as u64, Ordering::Relaxed);
        let state = open.pipe.outbound_state();
        if state.waiting > 0 {
            return sent < credit;
        }
        if state.finish && !open.fin_sent {
            up.mux.finish(id, queue);
            open.fin_sent = true;
            open.pipe.note_finished();
            if open.fin_received {
                open.pipe.close();
                self.forget_stream(io, key);
            }
        }
        false
    }
}

/// Slowing down a peer whose mux has no windows: its whole session is not read for a while.
impl ClientMachine {
    fn hold_session(&mut self, io: &mut Io, key: StreamKey) {
        let Some(open) = self.open_stream(key).filter(|open| !open.held) else { return };
        open.held = true;
        self.timers.set(Timer::Hold(key), io.now() + HOLD_MAX);
        if let Some(up) = self.sessions.get_mut(&key.0).and_then(Session::up_mut) {
            up.holds += 1;
            io.pause(key.0);
        }
    }

    fn release_session(&mut self, io: &mut Io, key: StreamKey) {
        let Some(open) = self.open_stream(key).filter(|open| open.held) else { return };
        open.held = false;
        self.timers.cancel(Timer::Hold(key));
        self.drop_hold(io, key.0);
    }

    fn drop_hold(&mut self, io: &mut Io, conn: ConnId) {
        let Some(up) = self.sessions.get_mut(&conn).and_then(Session::up_mut) else { return };
        up.holds -= 1;
        // A full queue may be the other reason not to read; its end comes as `session_writable`.
        if up.holds == 0 && !io.is_full(conn) {
            io.resume(conn);
        }
    }

    pub(super) fn hold_due(&mut self, io: &mut Io, key: StreamKey) {
        let Some(open) = self.open_stream(key) else { return };
        let unread = open.pipe.unread_bytes();
        self.end_stream(io, key, StreamEnd::Overrun(unread));
    }
}

/// The end of a stream.
impl ClientMachine {
    /// Ends a stream whose handle may still be held: reset on the wire, and the handle's next call
    /// says why.
    pub(super) fn end_stream(&mut self, io: &mut Io, key: StreamKey, why: StreamEnd) {
        if let Some(open) = self.open_stream(key) {
            open.pipe.end(why);
        }
        self.reset_on_wire(io, key);
    }

    /// Resets a stream of any kind and forgets it.
    pub(super) fn reset_on_wire(&mut self, io: &mut Io, key: StreamKey) {
        if let Some(up) = self.sessions.get_mut(&key.0).and_then(Session::up_mut)
            && let Some(queue) = io.queue(key.0)
        {
            up.mux.reset(key.1, queue);
        }
        self.forget_stream(io, key);
    }

    /// Forgets a stream that is over on the wire.
    pub(super) fn forget_stream(&mut self, io: &mut Io, key: StreamKey) {
        self.cancel_stream_timers(key);
        let now = io.now();
        let Some(up) = self.sessions.get_mut(&key.0).and_then(Session::up_mut) else { return };
        let slot = up.streams.remove(&key.1);
        match &slot {
            Some(Slot::Inbound { .. }) => up.inbound_count -= 1,
            Some(Slot::Dialing { to, .. }) => up.turns.release(to),
            _ => {}
        }
        up.gauge.streams.store(up.streams.len(), Ordering::Relaxed);
        if up.streams.is_empty() {
            up.idle_since = now;
            if up.draining {
                let why = crate::client::error::SessionEnd::ClosedByServer;
                return self.end_session(io, key.0, why, Some(CloseMode::Flush));
            }
        }
        if let Some(Slot::Open(OpenStream { held: true, .. })) = slot {
            self.drop_hold(io, key.0);
        }
        self.advance_turns(io, key.0);
    }

    pub(super) fn cancel_stream_timers(&mut self, key: StreamKey) {
        let timers = [Timer::Inbound(key), Timer::Linger(key), Timer::Idle(key), Timer::Hold(key)];
        for timer in timers {
            self.timers.cancel(timer);
        }
    }

    pub(super) fn linger_due(&mut self, io: &mut Io, key: StreamKey) {
        self.end_stream(io, key, StreamEnd::Closed);
    }

    /// Starts the idle clock of a stream, if one is configured.
    pub(super) fn watch_idle(&mut self, io: &Io, key: StreamKey) {
        if let Some(limit) = self.config.stream_idle_timeout {
            self.timers.set(Timer::Idle(key), io.now() + limit);
        }
    }

    /// The idle clock ran out as set; what was received meanwhile moves it, so that data itself
    /// sets no timer.
    pub(super) fn idle_due(&mut self, io: &mut Io, key: StreamKey) {
        let Some(limit) = self.config.stream_idle_timeout else { return };
        let Some(open) = self.open_stream(key) else { return };
        let due = open.heard_at + limit;
        if due <= io.now() {
            self.end_stream(io, key, StreamEnd::Idle(limit));
        } else {
            self.timers.set(Timer::Idle(key), due);
        }
    }
}
