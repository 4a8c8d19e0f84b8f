//! A second request beside one that is slow to be answered (user wish 61).
//!
//! ```text
//!   request to A ── 300 ms, or three round trips to the server ──▶ request to B beside it
//!        │                                                             │
//!        └────────────── first good response wins, the other is reset ─┘
//!                        one that fails leaves the other; the next candidate may come in its place
//! ```
//!
//! Only through sessions that are not silent, and through which the peer did not just fail; where there is none, one is
//! opened after a second. Never more than two at once; both with the dial's one port and place. A peer that was only slow
//! accepts both and sees one of them reset at once.
//!
//! Of the two, [`Dial::wait`] has the one that the last event was about, and [`Dial::beside`] the other.

use std::time::{Duration, Instant};

use super::{Dial, DialId, Outstanding, Wait};
use crate::{
    client::{
        link::StreamKey,
        machine::{ClientMachine, Session, Timer, servers::random_u32},
    },
    io::{ConnId, Io},
};

/// A request that is not answered for so long has another beside it, …
const HEDGE_MIN: Duration = Duration::from_millis(300);

/// … or for so many round trips to its server: the way from there to the peer may be as long again.
const HEDGE_ROUND_TRIPS: u32 = 3;

/// A session of its own costs a handshake at both ends, so it is sought only after this.
const SEEK_AFTER: Duration = Duration::from_secs(1);

/// The other of two requests.
pub(super) struct Beside {
    pub(super) outstanding: Box<Outstanding>,
    pub(super) began: Instant,
}

impl Dial {
    /// Makes the request on this stream the one at hand.
    fn turn_to(&mut self, key: StreamKey) {
        if let Wait::Response(at_hand) = &mut self.wait
            && let Some(beside) = self.beside.as_mut().filter(|other| other.outstanding.key == key)
        {
            std::mem::swap(at_hand, &mut beside.outstanding);
            std::mem::swap(&mut self.try_started, &mut beside.began);
        }
    }

    /// The one at hand is over: goes on with the other. False if there is none.
    pub(super) fn go_on_with_the_other(&mut self) -> bool {
        let Some(Beside { outstanding, began }) = self.beside.take() else { return false };
        self.wait = Wait::Response(outstanding);
        self.try_started = began;
        true
    }
}

impl ClientMachine {
    /// A request went out on `conn`: sets when another may go beside it, if there is anybody else to try.
    pub(super) fn plan_hedge(&mut self, io: &Io, id: DialId, conn: ConnId) {
        let Some(dial) = self.dials.get(&id) else { return };
        if dial.beside.is_some() || dial.peer().is_none() || dial.untried().next().is_none() {
            return self.timers.cancel(Timer::Hedge(id));
        }
        let rtt = self.sessions.get(&conn).and_then(Session::up).and_then(|up| up.gauge.rtt());
        let wait = HEDGE_MIN.max(rtt.unwrap_or_default() * HEDGE_ROUND_TRIPS);
        self.timers.set(Timer::Hedge(id), io.now() + wait);
    }

    pub(in crate::client::machine) fn hedge_due(&mut self, io: &mut Io, id: DialId) {
        let best = self.best_session(io, id);
        let Some((_, target)) = best.filter(|(rank, _)| !rank.is_suspect && !rank.has_failed)
        else {
            return self.seek(io, id);
        };
        let Some(conn) = self.usable_session(target.key) else { return };
        let Some(dial) = self.dials.get_mut(&id) else { return };
        if dial.beside.is_some() || !matches!(dial.wait, Wait::Response(_)) {
            return;
        }
        if let Wait::Response(outstanding) =
            std::mem::replace(&mut dial.wait, Wait::Session(target.key))
        {
            dial.beside = Some(Beside { outstanding, began: dial.try_started });
        }
        dial.tried.insert(target.key);
        dial.try_started = io.now();
        self.limit_try(io, id);
        self.try_session(io, id, conn);
        let Some(dial) = self.dials.get_mut(&id) else { return };
        let is_queued = matches!(dial.wait, Wait::Session(_));
        if !matches!(dial.wait, Wait::Response(_)) {
            dial.go_on_with_the_other();
        }
        if is_queued {
            // Its turn comes only behind others: that is no short cut.
            dial.tried.remove(&target.key);
            let to = dial.to(target.key);
            self.give_up_turn(id, &to, target.key);
        }
    }

    /// No session that is up will do: opens one, and looks again while it is on its way.
    fn seek(&mut self, io: &mut Io, id: DialId) {
        let now = io.now();
        let Some(dial) = self.dials.get(&id) else { return };
        if !matches!(dial.wait, Wait::Response(_)) || dial.beside.is_some() {
            return;
        }
        match dial.seeks {
            None if now < dial.try_started + SEEK_AFTER => {
                return self.timers.set(Timer::Hedge(id), dial.try_started + SEEK_AFTER);
            }
            None => {
                let Some(target) = self.choose_server(io, id) else { return };
                if let Some(dial) = self.dials.get_mut(&id) {
                    dial.seeks = Some(target.key);
                    dial.connects_left -= 1;
                }
                self.want_session(io, target);
            }
            Some(server) if self.servers.get(&server).is_none_or(|s| s.session.is_none()) => return,
            Some(_) => {}
        }
        self.timers.set(Timer::Hedge(id), now + HEDGE_MIN);
    }

    /// The other request of a dial was answered first. Its server comes behind the others for a while, and if nothing was heard
    /// of it at all, a ping tells whether it is dead.
    pub(super) fn beaten(&mut self, io: &mut Io, loser: &Beside) {
        let Outstanding { key, server, to, .. } = *loser.outstanding;
        self.reset_on_wire(io, key);
        self.patience.fail(to, server, loser.began, io.now(), random_u32(io));
        self.suspect(io, key.0, loser.began);
    }

    /// Makes the request on stream `key` the one that its dial's next event is about.
    pub(in crate::client::machine) fn turn_to(&mut self, id: DialId, key: StreamKey) {
        if let Some(dial) = self.dials.get_mut(&id) {
            dial.turn_to(key);
        }
    }

    /// The request at hand failed and is filed. True if there is another, with which the dial goes on.
    pub(super) fn go_on_with_the_other(&mut self, io: &Io, id: DialId) -> bool {
        let Some(dial) = self.dials.get_mut(&id) else { return false };
        if !dial.go_on_with_the_other() {
            return false;
        }
        let Wait::Response(outstanding) = &dial.wait else { return false };
        let conn = outstanding.key.0;
        self.limit_try(io, id);
        self.plan_hedge(io, id, conn);
        true
    }
}
