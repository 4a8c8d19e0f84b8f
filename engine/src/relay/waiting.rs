//! What one connection cannot take at once: it waits in the half of its stream, within budgets (`wire.md §4.6`).
//!
//! ```text
//!   pushed ─▶ pending ── listed in `ready` while there is credit ── its turn, and room ─▶ header + payload in the send queue
//! ```
//!
//! Most halves never have anything waiting, so the queue for it comes with the first byte and goes with the last; a few are kept
//! for the next.

use std::sync::atomic::Ordering::Relaxed;

use super::{
    Half, RefuseReason, Relay, RelayLimits, Stage, StreamMsg, StreamRef, session::up_of,
    stream::pending_len,
};
use crate::{
    io::{ConnId, Io},
    mux::{
        StreamId,
        plain::{HEADER_MAX_BYTES, PlainFrame},
    },
    pool::SendQueue,
};

/// A half hands over this much before the next one of its session gets its turn.
const TURN_BYTES: usize = 16 * 1024;

/// Empty queues kept for halves that will need one: some 200 bytes each.
const SPARE_MAX: usize = 256;

/// A session may have this part of what its core has free, if that is more than its bound.
const SESSION_SHARE: usize = 4;

/// The queue of what waits in a half, if anything does.
#[derive(Debug, Default)]
pub(super) struct Pending(Option<Box<SendQueue>>);

/// Queues of halves where nothing waits any more.
pub(super) type SpareQueues = Vec<Box<SendQueue>>;

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| queue.len())
    }

    fn queue(&mut self, spare: &mut SpareQueues) -> &mut SendQueue {
        self.0.get_or_insert_with(|| spare.pop().unwrap_or_default())
    }

    /// Lets the queue go if it is empty.
    fn tidy(&mut self, spare: &mut SpareQueues) {
        if let Some(queue) = self.0.take_if(|queue| queue.is_empty())
            && spare.len() < SPARE_MAX
        {
            spare.push(queue);
        }
    }
}

impl Relay {
    /// Has what `push` queues wait in a half that is relaying.
    pub(super) fn wait(
        &mut self,
        io: &mut Io,
        conn: ConnId,
        id: StreamId,
        push: impl FnOnce(&mut SendQueue),
    ) {
        let Some(up) = up_of(&mut self.sessions, conn) else { return };
        let Some(half) = up.streams.get_mut(id) else { return };
        half.active = io.now();
        let Stage::Relaying(relaying) = &mut half.stage else { return };
        let pending = relaying.pending.queue(&mut self.spare_queues);
        let before = pending.len();
        push(pending);
        let len = pending.len() - before;
        relaying.pending.tidy(&mut self.spare_queues);
        up.pending_bytes += len;
        self.pending_bytes += len;
        self.stats.pending_bytes.fetch_add(len as u64, Relaxed);
        self.list_ready(conn, id);
        // There may be credit for a part of it, and nothing else that would ever send that part.
        self.drain(io, conn);
        let waiting = self.half(conn, id).map_or(0, |half| pending_len(half));
        self.enforce_budget(io, conn, id, waiting);
    }

    /// Gives a half with something pending its place among those that may send, unless it waits for credit.
    pub(super) fn list_ready(&mut self, conn: ConnId, id: StreamId) {
        let Some(up) = self.up(conn) else { return };
        let Some(half) = up.streams.get_mut(id) else { return };
        let Stage::Relaying(relaying) = &mut half.stage else { return };
        if relaying.queued || relaying.pending.is_empty() {
            return;
        }
        let Some(mux) = &mut up.mux else { return };
        if mux.find_credit(id, &mut half.mux_hint) > 0 {
            relaying.queued = true;
            up.ready.push_back(id);
        }
    }

    /// Hands over what waits in a session, each half in its turn, while there is room.
    pub(super) fn drain(&mut self, io: &mut Io, conn: ConnId) {
        let mut drained = 0;
        while !io.is_full(conn)
            && let Some(id) = self.up(conn).and_then(|up| up.ready.pop_front())
        {
            drained += self.drain_half(io, conn, id);
        }
        if drained > 0 {
            self.pending_bytes -= drained;
            self.stats.pending_bytes.fetch_sub(drained as u64, Relaxed);
        }
    }

    /// A turn of a half: one frame. Returns its payload's length, which only the session's account knows of yet.
    fn drain_half(&mut self, io: &mut Io, conn: ConnId, id: StreamId) -> usize {
        let now = io.now();
        let Some(up) = up_of(&mut self.sessions, conn) else { return 0 };
        let (Some(mux), Some(half)) = (&mut up.mux, up.streams.get_mut(id)) else { return 0 };
        let Half { stage: Stage::Relaying(relaying), mux_hint, active, .. } = half else {
            return 0;
        };
        relaying.queued = false;
        let credit = mux.find_credit(id, mux_hint) as usize;
        let (Some(pending), Some(queue)) = (&mut relaying.pending.0, io.queue(conn)) else {
            return 0;
        };
        let len = pending.front_len(credit.min(TURN_BYTES));
        if len == 0 {
            // Out of credit: it comes back with the next window update.
            return 0;
        }
        *active = now;
        let frame = PlainFrame { id, len: len as u32 };
        let mut header = [0; HEADER_MAX_BYTES];
        mux.kind().write_plain(frame, &mut header);
        mux.spend(id, frame.len, mux_hint);
        queue.push_bytes(&header[..mux.kind().header_bytes()]);
        pending.move_front(len, queue);
        relaying.pending.tidy(&mut self.spare_queues);
        up.budget.note_data_sent(1);
        up.account.sent_bytes += u64::from(frame.len);
        up.pending_bytes -= len;
        relaying.queued = !relaying.pending.is_empty();
        if relaying.queued {
            up.ready.push_back(id);
        }
        let (peer, takes_all) = (relaying.peer, !mux.has_windows());
        let is_last = relaying.peer_done && !relaying.queued;
        if takes_all {
            // smux v1 tells us nothing of its receiver; what the connection takes counts as taken.
            let here = StreamRef { core: self.core, conn, id };
            self.tell(io, peer, here, StreamMsg::Credit(frame.len));
        }
        if is_last {
            self.finish_if_drained(io, conn, id);
        }
        len
    }

    /// Keeps what waits within its bounds: the heaviest stream goes, of this session or, if the core is full, of the
    /// heaviest session.
    fn enforce_budget(&mut self, io: &mut Io, conn: ConnId, id: StreamId, waiting: usize) {
        let stream_max = self.limits.stream_pending_bytes_max;
        if waiting > stream_max {
            return self.break_off(io, conn, id, RefuseReason::SlowReceiver);
        }
        while let Some((conn, id)) = self.heaviest_over_budget(conn) {
            self.break_off(io, conn, id, RefuseReason::SlowReceiver);
        }
    }

    /// Bytes that may wait for one session now: its bound, or a quarter of what the core has free. So a client that downloads
    /// from many at once, slower than they send, loses none of it while there is room; and few that do not read cannot fill the
    /// core, since each leaves three quarters of what it found.
    fn session_pending_max(&self) -> usize {
        let RelayLimits { session_pending_bytes_max, core_pending_bytes_max, .. } = self.limits;
        let free = core_pending_bytes_max.saturating_sub(self.pending_bytes);
        session_pending_bytes_max.max(free / SESSION_SHARE)
    }

    /// The stream that must go for the budgets of a session and of the core to hold.
    fn heaviest_over_budget(&mut self, conn: ConnId) -> Option<(ConnId, StreamId)> {
        let session_max = self.session_pending_max();
        let over_session = self.up(conn).is_some_and(|up| up.pending_bytes > session_max);
        let conn = if over_session {
            conn
        } else if self.pending_bytes > self.limits.core_pending_bytes_max
            || self.stats.pending_bytes.load(Relaxed) > self.limits.process_pending_bytes_max
        {
            let sessions = self.sessions.iter().flatten();
            sessions.max_by_key(|session| session.pending_bytes())?.conn
        } else {
            return None;
        };
        let streams = self.up(conn)?.streams.iter().map(|(id, half)| (pending_len(half), id));
        streams.max().filter(|(waiting, _)| *waiting > 0).map(|(_, id)| (conn, id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_beyond_the_spare_ones_are_let_go() {
        let mut spare = SpareQueues::new();
        let mut waiting: Vec<_> = (0..SPARE_MAX + 10).map(|_| Pending::default()).collect();
        for pending in &mut waiting {
            pending.queue(&mut spare).push_bytes(b"x");
            pending.tidy(&mut spare);
            assert_eq!(pending.len(), 1, "what waits stays");
        }
        for pending in &mut waiting {
            pending.queue(&mut spare).clear();
            pending.tidy(&mut spare);
            assert!(pending.is_empty());
        }
        assert_eq!(spare.len(), SPARE_MAX);
        waiting[0].queue(&mut spare);
        assert_eq!(spare.len(), SPARE_MAX - 1, "and used again");
    }
}
