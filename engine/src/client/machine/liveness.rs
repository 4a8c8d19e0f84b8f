//! Is the server still there: pings, round trips, and what their clock decides on the side.

use std::time::{Duration, Instant};

use super::{ClientMachine, Session, Timer, servers::SETTLED};
use crate::{
    client::error::SessionEnd,
    io::{CloseMode, ConnId, Io},
    mux::MuxKind,
};

/// A yamux ping is sent this often.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// A ping must be answered within this. With the interval: a dead session is known after 40 s at
/// most.
pub const PONG_TIMEOUT: Duration = Duration::from_secs(10);

/// A ping that waits behind unsent data is given this long since the server was last heard: as long as the drivers let
/// the kernel wait for acknowledgements.
const UNSENT_PATIENCE: Duration = Duration::from_secs(45);

/// An smux NOP is sent this often.
const NOP_INTERVAL: Duration = Duration::from_secs(10);

/// An smux session is dead when nothing was heard for this long.
const NOP_SILENCE: Duration = Duration::from_secs(30);

/// A session beyond `min_sessions` is closed when it carried no stream for this long.
const SPARE_IDLE: Duration = Duration::from_secs(120);

impl ClientMachine {
    /// Sends a ping or NOP, and looks whether the session settled, is dead, or is spare.
    pub(super) fn keep_alive(&mut self, io: &mut Io, conn: ConnId) {
        let now = io.now();
        let Some(session) = self.sessions.get_mut(&conn) else { return };
        let server = session.server;
        let Some(up) = session.up_mut() else { return };
        let Some(queue) = io.queue(conn) else { return };
        let yamux = up.mux.kind() == MuxKind::Yamux;
        if !yamux && now.duration_since(up.heard_at.unwrap_or(up.since)) >= NOP_SILENCE {
            return self.end_session(
                io,
                conn,
                SessionEnd::Silent(NOP_SILENCE),
                Some(CloseMode::Abort),
            );
        }
        up.mux.ping(up.next_ping, queue);
        if yamux && up.ping_sent.is_none() {
            up.ping_sent = Some((up.next_ping, now));
            self.timers.set(Timer::Pong(conn), now + PONG_TIMEOUT);
        }
        up.next_ping = up.next_ping.wrapping_add(1);
        let settled = now.duration_since(up.since) >= SETTLED;
        let idle = up.streams.is_empty() && now.duration_since(up.idle_since) >= SPARE_IDLE;
        let interval = if yamux { KEEP_ALIVE_INTERVAL } else { NOP_INTERVAL };
        self.timers.set(Timer::KeepAlive(conn), now + interval);
        if settled {
            self.note_settled(server);
        }
        if idle && self.is_spare(server) {
            self.end_session(io, conn, SessionEnd::Idle, Some(CloseMode::Flush));
        }
    }

    /// A request through this session was not answered, and nothing was heard of the server since it went out: dials go elsewhere
    /// first, and a ping tells whether the server is dead, sooner than the next would.
    pub(super) fn suspect(&mut self, io: &mut Io, conn: ConnId, asked_at: Instant) {
        let Some(up) = self.sessions.get_mut(&conn).and_then(Session::up_mut) else { return };
        if up.heard_at.unwrap_or(up.since) > asked_at {
            return;
        }
        up.is_suspect = true;
        if up.ping_sent.is_none() {
            self.keep_alive(io, conn);
        }
    }

    /// A pong is overdue. It may be behind much data on a slow line, and the ping may not even have left: a server that
    /// is heard of lives, and one that has not got our ping is given the time that the kernel gives it.
    pub(super) fn pong_due(&mut self, io: &mut Io, conn: ConnId) {
        let now = io.now();
        let unsent = io.queued_bytes(conn) > 0;
        let Some(up) = self.sessions.get_mut(&conn).and_then(Session::up_mut) else { return };
        let patience = if unsent { UNSENT_PATIENCE } else { PONG_TIMEOUT };
        let due = up.heard_at.unwrap_or(up.since) + patience;
        if due > now {
            return self.timers.set(Timer::Pong(conn), due.min(now + PONG_TIMEOUT));
        }
        let silent = KEEP_ALIVE_INTERVAL + PONG_TIMEOUT;
        self.end_session(io, conn, SessionEnd::Silent(silent), Some(CloseMode::Abort));
    }

    pub(super) fn pong(&mut self, io: &mut Io, conn: ConnId, value: u32) {
        let Some(up) = self.sessions.get_mut(&conn).and_then(Session::up_mut) else { return };
        if let Some((_, sent)) = up.ping_sent.take_if(|(sent, _)| *sent == value) {
            up.gauge.set_rtt(io.now().duration_since(sent));
            self.timers.cancel(Timer::Pong(conn));
        }
    }
}
