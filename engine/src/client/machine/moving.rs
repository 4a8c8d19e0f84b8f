//! Moving to a server with more room (`discovery.md §6`).
//!
//! Sessions stay where they are as long as they live, so that servers which run for long fill up while restarted ones idle.
//! A client that holds a few of many therefore looks from time to time whether some listed server has [`MOVE_RATIO`] times
//! the room of the fullest of its own:
//!
//! ```text
//!   look ─▶ session with the roomier one ─▶ the old one leaves: no longer shown or published, still used by what has it
//!                                             └─ no stream for two minutes: closed as any spare session
//! ```
//!
//! One session an hour, at a random time of it, so that a crowd does not go from one server to the next. No stream is cut.

use std::time::{Duration, Instant};

use tracing::info;

use super::{
    ClientMachine, Session, Timer,
    servers::{Server, random_u32},
};
use crate::{identity::PublicKey, io::Io};

/// At most one session moves in this time, and one looks within twice of it.
pub const MOVE_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// The other server has so many times the room.
const MOVE_RATIO: u32 = 3;

/// The other server has at least this much: less is gone when we come.
const MOVE_ROOM_MIN: u32 = 32;

impl ClientMachine {
    /// Looks from now on if there is anywhere to move to.
    pub(super) fn look_around(&mut self, io: &mut Io) {
        let min = self.config.min_sessions;
        let listed = self.servers.values().filter(|server| server.is_listed()).count();
        let before = std::mem::replace(&mut self.looks_around, min > 0 && listed > min);
        match (before, self.looks_around) {
            (false, true) => self.plan_move(io),
            (true, false) => self.timers.cancel(Timer::Move),
            _ => {}
        }
    }

    /// Sets when to look next.
    fn plan_move(&mut self, io: &mut Io) {
        let jitter = f64::from(random_u32(io)) / f64::from(u32::MAX);
        self.timers.set(Timer::Move, io.now() + MOVE_INTERVAL.mul_f64(1.0 + jitter));
    }

    /// Opens a session with a server that has much more room than one of ours, if there is one.
    pub(super) fn consider_move(&mut self, io: &mut Io) {
        self.plan_move(io);
        let Some((from, to)) = self.find_move(io.now()) else { return };
        info!(from = %from.short(), to = %to.short(), "another server has much more room: moving there");
        if let Some(server) = self.servers.get_mut(&to) {
            server.replaces = Some(from);
        }
        self.connect(io, to);
    }

    /// The fullest of our servers, and the roomiest of the others, if that is worth it. Nothing while not all is as wanted.
    fn find_move(&self, now: Instant) -> Option<(PublicKey, PublicKey)> {
        let room = |server: &&Server| server.target.weight;
        let (held, others): (Vec<_>, Vec<_>) = self
            .servers
            .values()
            .filter(|server| server.is_listed())
            .partition(|server| server.session.is_some());
        if self.config.min_sessions == 0 || held.len() != self.config.min_sessions {
            return None;
        }
        let fullest = held.into_iter().min_by_key(room)?;
        let roomiest = others.into_iter().filter(|server| server.may_dial(now)).max_by_key(room)?;
        let is_worth_it = roomiest.target.weight >= MOVE_ROOM_MIN
            && roomiest.target.weight / MOVE_RATIO >= fullest.target.weight;
        is_worth_it.then_some((fullest.target.key, roomiest.target.key))
    }

    /// A session is up; the one that it replaces goes when nobody uses it any more.
    pub(super) fn complete_move(&mut self, to: PublicKey) {
        let from = self.servers.get_mut(&to).and_then(|server| server.replaces.take());
        let Some(conn) = from.and_then(|from| self.servers.get(&from)?.session) else { return };
        if let Some(up) = self.sessions.get_mut(&conn).and_then(Session::up_mut) {
            up.leaving = true;
        }
    }

    /// Whether a session is on its way out for one that took its place.
    pub(super) fn is_leaving(&self, server: PublicKey) -> bool {
        let conn = self.servers.get(&server).and_then(|server| server.session);
        conn.and_then(|conn| self.sessions.get(&conn))
            .and_then(Session::up)
            .is_some_and(|up| up.leaving)
    }
}
