//! The ways a stream ends, and what each gives back (`wire.md §4.7`, `§4.8`).
//!
//! Half-close is carried through. A stream ends when both directions have ended, on a reset, or when nothing moves
//! for the idle limit (the linger limit once one direction has ended).
//!
//! | end | on the wire | the other half |
//! | --- | --- | --- |
//! | both directions finished | our FIN behind what waited | had its own FIN |
//! | refused before it was relayed | FIN; what still comes is dropped for the linger limit, then reset | hears `Reset` |
//! | broken off: idle, lingering, too slow | reset | hears `Reset` |

use std::{sync::atomic::Ordering::Relaxed, time::Instant};

use super::{
    Half, RefuseReason, Relay, SessionEnd, Stage, StreamMsg, StreamRef, TimerKey,
    session::up_of,
    stream::{Relaying, pending_len},
};
use crate::{
    io::{ConnId, Io},
    mux::StreamId,
};

impl Relay {
    /// Sends our FIN once everything that waited is out.
    pub(super) fn finish_if_drained(&mut self, io: &mut Io, conn: ConnId, id: StreamId) {
        let Some(up) = self.up(conn) else { return };
        let Some(Half { stage: Stage::Relaying(relaying), .. }) = up.streams.get_mut(id) else {
            return;
        };
        if !relaying.peer_done || !relaying.pending.is_empty() || relaying.fin_sent {
            return;
        }
        relaying.fin_sent = true;
        let over = relaying.client_done;
        if let Some(queue) = io.queue(conn) {
            up.mux().finish(id, queue);
        }
        if over {
            self.drop_half(io, conn, id);
        }
    }

    /// A stream that was never relayed ends: FIN, and what still comes is dropped (`wire.md §4.7`, G26).
    pub(super) fn refuse(&mut self, io: &mut Io, conn: ConnId, id: StreamId, why: RefuseReason) {
        self.stats.refused(why);
        let max = self.limits.refusals_per_interval_max;
        if why.is_initiators_doing() && self.up(conn).is_some_and(|up| up.budget.refusal(max)) {
            return self.end_session(io, conn, SessionEnd::RefusalFlood);
        }
        if let Some(up) = self.up(conn) {
            tracing::debug!(client = %up.key.short(), reason = why.label(), "stream refused");
        }
        if let Some(Half { stage: Stage::Dialing { peer: Some(peer) }, .. }) = self.half(conn, id) {
            let (to, here) = (*peer, StreamRef { core: self.core, conn, id });
            self.tell(io, to, here, StreamMsg::Reset);
        }
        self.close_half(io, conn, id);
    }

    /// Finishes our direction and waits for the client's FIN.
    pub(super) fn close_half(&mut self, io: &mut Io, conn: ConnId, id: StreamId) {
        self.acknowledge(io, conn, id);
        let linger = io.now() + self.limits.linger_timeout;
        let Some(up) = self.up(conn) else { return };
        let Some(half) = up.streams.get_mut(id) else { return };
        half.stage = Stage::Closing;
        if let Some(queue) = io.queue(conn) {
            up.mux().finish(id, queue);
        }
        self.set_deadline(conn, id, linger);
    }

    /// Breaks a relayed stream off in both directions.
    pub(super) fn break_off(&mut self, io: &mut Io, conn: ConnId, id: StreamId, why: RefuseReason) {
        self.stats.refused(why);
        let here = StreamRef { core: self.core, conn, id };
        if let Some(Half { stage: Stage::Relaying(Relaying { peer, .. }), .. }) =
            self.reset_half(io, conn, id)
        {
            self.tell(io, peer, here, StreamMsg::Reset);
        }
    }

    pub(super) fn reset_half(&mut self, io: &mut Io, conn: ConnId, id: StreamId) -> Option<Half> {
        if let (Some(up), Some(queue)) = (self.up(conn), io.queue(conn)) {
            up.mux().reset(id, queue);
        }
        self.drop_half(io, conn, id)
    }

    /// Forgets a half and gives back all that it held.
    pub(super) fn drop_half(&mut self, io: &mut Io, conn: ConnId, id: StreamId) -> Option<Half> {
        let up = self.up(conn)?;
        let mut half = up.streams.remove(id)?;
        let waiting = pending_len(&half);
        up.unacked_count -= usize::from(half.unacked);
        up.pending_bytes -= waiting;
        up.owing.remove(&id);
        if matches!(&half.stage, Stage::Relaying(relaying) if relaying.queued) {
            up.ready.retain(|other| *other != id);
        }
        self.pending_bytes -= waiting;
        self.stats.pending_bytes.fetch_sub(waiting as u64, Relaxed);
        self.stats.half_ends(id);
        self.timers.cancel(&mut half.timer, TimerKey::Stream(conn, id));
        if matches!(&half.stage, Stage::Relaying(relaying) if relaying.hold.is_some()) {
            self.release(io, conn);
        }
        Some(half)
    }

    /// Sets the deadline of a half's stage.
    pub(super) fn set_deadline(&mut self, conn: ConnId, id: StreamId, at: Instant) {
        if let Some(half) = up_of(&mut self.sessions, conn).and_then(|up| up.streams.get_mut(id)) {
            self.timers.set(&mut half.timer, TimerKey::Stream(conn, id), at);
        }
    }

    /// The deadline of a half's stage has come, or of its ACK.
    pub(super) fn stream_deadline(&mut self, io: &mut Io, conn: ConnId, id: StreamId) {
        let now = io.now();
        let (idle, linger) = (self.limits.idle_timeout, self.limits.linger_timeout);
        let dial_timeout = self.limits.dial_timeout;
        let was_unacked = self.acknowledge(io, conn, id);
        let Some(half) = self.half(conn, id) else { return };
        if was_unacked && let Some(due) = half.dial_deadline(dial_timeout).filter(|due| *due > now)
        {
            return self.set_deadline(conn, id, due);
        }
        match &half.stage {
            Stage::Request(_) => self.refuse(io, conn, id, RefuseReason::RequestTimeout),
            Stage::Dialing { .. } => self.refuse(io, conn, id, RefuseReason::AnswerTimeout),
            Stage::Answer(_) => self.decline(io, conn, id, RefuseReason::AnswerTimeout),
            Stage::Closing => drop(self.reset_half(io, conn, id)),
            Stage::Relaying(relaying) if relaying.hold.is_some() => {
                self.break_off(io, conn, id, RefuseReason::SlowReceiver);
            }
            Stage::Relaying(relaying) => {
                // After an end the half towards the one who is still listening decides: all that moves, moves through it.
                let (limit, why) = if relaying.peer_done {
                    (linger, RefuseReason::Linger)
                } else {
                    (idle, RefuseReason::Idle)
                };
                let due = half.active + limit;
                if due <= now {
                    self.break_off(io, conn, id, why);
                } else {
                    self.set_deadline(conn, id, due);
                }
            }
        }
    }
}
