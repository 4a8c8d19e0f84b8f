//! The flow of a relayed stream: data and credit (`wire.md §4.6`). What waits is in `waiting.rs`, how a stream ends in `ends.rs`.
//!
//! ```text
//!   client A ─Data─▶ half A ─StreamMsg::Data─▶ half B ─ credit and room? ─▶ send queue of B
//!                                                 └─ no ─▶ pending of B ─(writable · credit)─▶ send queue
//!   client B ─window update─▶ half B ─StreamMsg::Credit─▶ half A ─▶ window update to A
//! ```

use std::sync::atomic::Ordering::Relaxed;

use super::{
    Command, Half, RefuseReason, Relay, SessionEnd, Stage, StreamMsg, StreamRef,
    lanes::LANE_COMPACT_BYTES, stream::Relaying,
};
use crate::{
    io::{ConnId, Io},
    mux::{INITIAL_WINDOW_BYTES, StreamId},
    pool::Slice,
};

/// A client without windows may send this much more than its receiver has granted, then its session
/// is not read. A receiver's first window is not granted but given, hence the larger part. The rest
/// waits here, well within [`RelayLimits::stream_pending_bytes_max`](super::RelayLimits). Counted where
/// the data comes in, since a half on another core would object too late.
const AHEAD_MAX_BYTES: i64 = AHEAD_LOW_BYTES + 128 * 1024;

/// Its session is read again when it is this much ahead. A receiver who has read everything has
/// granted all but less than its first window, so this is always reached.
const AHEAD_LOW_BYTES: i64 = INITIAL_WINDOW_BYTES as i64;

/// A receiver who takes so much while its source's session is held gets its time anew: with ten seconds of it, 50 kbit/s. One
/// that takes less is as good as stalled, and its source has other streams.
const HOLD_STEP_BYTES: u32 = 64 * 1024;

/// What our client's frames mean for its half.
impl Relay {
    pub(super) fn client_data(&mut self, io: &mut Io, conn: ConnId, id: StreamId, data: Slice) {
        let now = io.now();
        let Some(half) = self.half(conn, id) else { return };
        match &mut half.stage {
            Stage::Relaying(relaying) => {
                half.active = now;
                let (peer, len) = (relaying.peer, data.len() as u32);
                self.stats.relayed_bytes.fetch_add(u64::from(len), Relaxed);
                if let Some(up) = self.up(conn) {
                    up.account.received_bytes += u64::from(len);
                }
                self.note_ahead(io, conn, id, len);
                let here = StreamRef { core: self.core, conn, id };
                self.tell(io, peer, here, StreamMsg::Data(data));
            }
            Stage::Request(_) => self.request_bytes(io, conn, id, data),
            Stage::Answer(_) => self.answer_bytes(io, conn, id, data),
            Stage::Dialing { .. } => self.refuse(io, conn, id, RefuseReason::EarlyData),
            Stage::Closing => {}
        }
    }

    pub(super) fn client_credit(&mut self, io: &mut Io, conn: ConnId, id: StreamId, bytes: u32) {
        let now = io.now();
        let Some(half) = self.half(conn, id) else { return };
        half.active = now;
        if let Stage::Relaying(relaying) = &half.stage {
            let peer = relaying.peer;
            let here = StreamRef { core: self.core, conn, id };
            if bytes > 0 {
                self.tell(io, peer, here, StreamMsg::Credit(bytes));
            }
            self.list_ready(conn, id);
            self.drain(io, conn);
        } else {
            half.early_credit = half.early_credit.saturating_add(bytes);
        }
    }

    pub(super) fn client_finished(&mut self, io: &mut Io, conn: ConnId, id: StreamId) {
        let here = StreamRef { core: self.core, conn, id };
        let Some(half) = self.half(conn, id) else { return };
        match &mut half.stage {
            Stage::Relaying(relaying) => {
                relaying.client_done = true;
                let (peer, over) = (relaying.peer, relaying.fin_sent);
                self.tell(io, peer, here, StreamMsg::Finish);
                if over {
                    self.drop_half(io, conn, id);
                } else {
                    // Nothing more of it can come, so there is nothing to hold its session for. How long the other
                    // direction may linger is for the other half to say: it sees what is still sent of this one.
                    self.source_release(io, conn, id);
                }
            }
            Stage::Request(_) => {
                self.close_half(io, conn, id);
                self.drop_half(io, conn, id);
                self.note_abandoned(io, conn);
            }
            Stage::Dialing { peer } => {
                if let Some(peer) = *peer {
                    self.tell(io, peer, here, StreamMsg::Reset);
                }
                self.close_half(io, conn, id);
                self.drop_half(io, conn, id);
                self.note_abandoned(io, conn);
            }
            Stage::Answer(_) => {
                self.decline(io, conn, id, RefuseReason::Declined);
                self.drop_half(io, conn, id);
            }
            Stage::Closing => drop(self.drop_half(io, conn, id)),
        }
    }

    pub(super) fn client_reset(&mut self, io: &mut Io, conn: ConnId, id: StreamId) {
        let here = StreamRef { core: self.core, conn, id };
        let Some(half) = self.drop_half(io, conn, id) else { return };
        let abandoned = matches!(half.stage, Stage::Request(_) | Stage::Dialing { .. });
        match half.stage {
            Stage::Relaying(Relaying { peer, .. }) | Stage::Dialing { peer: Some(peer) } => {
                self.tell(io, peer, here, StreamMsg::Reset);
            }
            Stage::Answer(answer) => {
                if let Some(to) = answer.initiator {
                    self.tell(io, to, here, StreamMsg::Refused(RefuseReason::Declined));
                }
            }
            _ => {}
        }
        if abandoned {
            self.note_abandoned(io, conn);
        }
    }

    /// Opening and abandoning streams costs us checks and the destination a handshake: it has a budget per session.
    fn note_abandoned(&mut self, io: &mut Io, conn: ConnId) {
        let max = self.limits.resets_per_interval_max;
        if self.up(conn).is_some_and(|up| up.budget.abandoned(max)) {
            self.end_session(io, conn, SessionEnd::ResetFlood);
        }
    }
}

/// What the other half says.
impl Relay {
    /// Speaks to a half: directly on this core, through a lane on another.
    pub(super) fn tell(&mut self, io: &mut Io, to: StreamRef, from: StreamRef, msg: StreamMsg) {
        if to.core == self.core {
            self.stream_message(io, to, from, msg);
        } else {
            let waiting = self.cores.lanes().bytes(self.core, to.core);
            let msg = match msg {
                StreamMsg::Data(data) if waiting > LANE_COMPACT_BYTES => {
                    StreamMsg::Data(data.compact())
                }
                msg => msg,
            };
            self.outbox.push(to.core, Command::Stream { to, from, msg });
        }
    }

    pub(super) fn stream_message(
        &mut self,
        io: &mut Io,
        to: StreamRef,
        from: StreamRef,
        msg: StreamMsg,
    ) {
        let (conn, id) = (to.conn, to.id);
        let Some(half) = self.half(conn, id).filter(|half| listens_to(half, from, &msg)) else {
            // Our half is gone. If both its directions have ended, what is still said of credit is for nobody, while the
            // half that speaks may be sending what waits. Who still dials or sends must hear that it is over.
            if matches!(msg, StreamMsg::Delivered | StreamMsg::Accepted(_) | StreamMsg::Data(_)) {
                self.tell(io, from, to, StreamMsg::Reset);
            }
            return;
        };
        match (&mut half.stage, msg) {
            (Stage::Relaying(_), StreamMsg::Data(data)) => self.peer_data(io, conn, id, data),
            (Stage::Relaying(relaying), StreamMsg::Credit(bytes)) => {
                relaying.ahead_bytes -= i64::from(bytes);
                if relaying.ahead_bytes <= AHEAD_LOW_BYTES {
                    self.source_release(io, conn, id);
                } else if let Some(taken) = &mut relaying.hold {
                    *taken = taken.saturating_add(bytes);
                    if *taken >= HOLD_STEP_BYTES {
                        *taken = 0;
                        self.set_deadline(conn, id, io.now() + self.limits.linger_timeout);
                    }
                }
                self.peer_credit(io, conn, id, bytes);
            }
            (Stage::Relaying(relaying), StreamMsg::Finish) => {
                relaying.peer_done = true;
                self.set_deadline(conn, id, io.now() + self.limits.linger_timeout);
                self.finish_if_drained(io, conn, id);
            }
            (Stage::Relaying(_), StreamMsg::Reset | StreamMsg::Refused(_)) => {
                self.reset_half(io, conn, id);
            }
            (Stage::Dialing { peer }, StreamMsg::Delivered) => *peer = Some(from),
            (Stage::Dialing { .. }, StreamMsg::Accepted(response)) => {
                self.dial_accepted(io, conn, id, from, &response);
            }
            (Stage::Dialing { .. }, StreamMsg::Refused(why)) => self.refuse(io, conn, id, why),
            (Stage::Dialing { .. }, StreamMsg::Reset) => {
                self.refuse(io, conn, id, RefuseReason::PeerSessionEnded);
            }
            (Stage::Answer(answer), StreamMsg::Reset) => answer.initiator = None,
            // Nothing else is ever said at these stages.
            _ => debug_assert!(false, "a half spoke out of turn"),
        }
    }

    /// Data for our client: into its send queue if there is room and credit, else it waits here.
    fn peer_data(&mut self, io: &mut Io, conn: ConnId, id: StreamId, data: Slice) {
        let full = io.is_full(conn);
        let now = io.now();
        let Some(up) = self.up(conn) else { return };
        let credit = up.mux().send_credit(id) as usize;
        let Some(half) = up.streams.get_mut(id) else { return };
        half.active = now;
        let Stage::Relaying(relaying) = &half.stage else { return };
        if !full && relaying.pending.is_empty() && credit >= data.len() {
            return self.hand_over(io, conn, id, data);
        }
        self.wait(io, conn, id, |pending| pending.push_slice(data.compact()));
    }

    /// Puts payload into our client's send queue.
    fn hand_over(&mut self, io: &mut Io, conn: ConnId, id: StreamId, data: Slice) {
        let bytes = u32::try_from(data.len()).expect("a slice is below 4 GiB");
        let (Some(up), Some(queue)) = (self.up(conn), io.queue(conn)) else { return };
        up.budget.note_data_sent(1);
        up.account.sent_bytes += u64::from(bytes);
        let mux = up.mux();
        mux.send(id, data, queue);
        if !mux.has_windows() {
            // smux v1 tells us nothing of its receiver; what the connection takes counts as taken.
            let Some(Half { stage: Stage::Relaying(Relaying { peer, .. }), .. }) =
                up.streams.get(id)
            else {
                return;
            };
            let (to, here) = (*peer, StreamRef { core: self.core, conn, id });
            self.tell(io, to, here, StreamMsg::Credit(bytes));
        }
    }

    /// The far receiver lets our client send more. What our client's connection cannot take now is gathered, or a far
    /// receiver that gives it byte by byte would fill the queue of a client that does not read.
    pub(super) fn peer_credit(&mut self, io: &mut Io, conn: ConnId, id: StreamId, bytes: u32) {
        let (now, full) = (io.now(), io.is_full(conn));
        let Some(up) = self.up(conn) else { return };
        let Some(half) = up.streams.get_mut(id) else { return };
        half.active = now;
        let Stage::Relaying(relaying) = &mut half.stage else { return };
        relaying.owed = relaying.owed.saturating_add(bytes);
        if full {
            up.owing.insert(id);
        } else {
            let owed = std::mem::take(&mut relaying.owed);
            if let Some(queue) = io.queue(conn) {
                up.mux().grant(id, owed, true, queue);
            }
        }
    }

    /// Tells our client all the credit that was gathered for it.
    pub(super) fn pay_owed(&mut self, io: &mut Io, conn: ConnId) {
        let Some(up) = self.up(conn) else { return };
        for id in std::mem::take(&mut up.owing) {
            if let Some(Half { stage: Stage::Relaying(relaying), .. }) = up.streams.get_mut(id)
                && let Some(queue) = io.queue(conn)
            {
                let owed = std::mem::take(&mut relaying.owed);
                up.mux().grant(id, owed, true, queue);
            }
        }
    }

    /// Our client's mux may have no windows; then the only way to slow it down is not to read from it. For as long as the
    /// receiver goes on taking, and no longer than the linger limit while it does not: a receiver that stalls must not hold up
    /// the source's other streams.
    fn source_hold(&mut self, io: &mut Io, conn: ConnId, id: StreamId) {
        let Some(up) = self.up(conn) else { return };
        if up.mux().has_windows() {
            return;
        }
        if let Some(Half { stage: Stage::Relaying(relaying), .. }) = self.half(conn, id)
            && relaying.hold.is_none()
        {
            relaying.hold = Some(0);
            self.hold(io, conn);
            self.set_deadline(conn, id, io.now() + self.limits.linger_timeout);
        }
    }

    /// Our client sent `bytes`, which counts where its mux has no windows.
    pub(super) fn note_ahead(&mut self, io: &mut Io, conn: ConnId, id: StreamId, bytes: u32) {
        if let Some(Half { stage: Stage::Relaying(relaying), .. }) = self.half(conn, id) {
            relaying.ahead_bytes += i64::from(bytes);
            if relaying.ahead_bytes > AHEAD_MAX_BYTES {
                self.source_hold(io, conn, id);
            }
        }
    }

    fn source_release(&mut self, io: &mut Io, conn: ConnId, id: StreamId) {
        if let Some(Half { stage: Stage::Relaying(relaying), .. }) = self.half(conn, id)
            && relaying.hold.take().is_some()
        {
            let peer_done = relaying.peer_done;
            self.release(io, conn);
            let limits = &self.limits;
            let limit = if peer_done { limits.linger_timeout } else { limits.idle_timeout };
            self.set_deadline(conn, id, io.now() + limit);
        }
    }

    pub(super) fn flush_early_credit(&mut self, io: &mut Io, conn: ConnId, id: StreamId) {
        let here = StreamRef { core: self.core, conn, id };
        let Some(half) = self.half(conn, id) else { return };
        let bytes = std::mem::take(&mut half.early_credit);
        if let Stage::Relaying(Relaying { peer, .. }) = half.stage
            && bytes > 0
        {
            self.tell(io, peer, here, StreamMsg::Credit(bytes));
        }
    }
}

/// Whether `half` expects to hear `msg` from `from`.
fn listens_to(half: &Half, from: StreamRef, msg: &StreamMsg) -> bool {
    match &half.stage {
        Stage::Relaying(relaying) => relaying.peer == from,
        Stage::Dialing { peer: Some(peer) } => *peer == from,
        // Whatever else comes was meant for a former stream of the same id: peers may use ids again at once.
        Stage::Dialing { peer: None } => {
            matches!(msg, StreamMsg::Delivered | StreamMsg::Refused(_))
        }
        Stage::Answer(answer) => answer.initiator == Some(from),
        Stage::Request(_) | Stage::Closing => false,
    }
}
