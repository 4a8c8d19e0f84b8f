//! Plain data frames by the block: what needs no decision is forwarded in runs (`wire.md §4.6`).
//!
//! ```text
//!   received   │ 4│data│ 4│data│ 8│data│ 4│da      stream ids of the source's session
//!   planned    │ 2│data│ 2│data│ 6│data│ 2│da      rewritten where they are, if both sides speak the same mux
//!              ╰── run to b ──╯╰ to c ╯╰ to b      and the block is ours alone
//!   queued     b: one copy or one reference per run; a run up to 2 KiB is copied
//! ```
//!
//! A [`Way`] keeps what a stream may use and uses, a [`List`] the runs of all streams that go into the same send queue. So the
//! frames of many streams between the same two sessions are one run, however small they are.
//!
//! Two passes over the block, since it can be written only as long as nothing refers to it: the first checks and
//! accounts each frame and rewrites its header, the second queues the runs. A frame takes this way when it is plain, its stream
//! is relayed, and it is no longer than that may send. If the receiver is on another core, has no room or credit, or has
//! something waiting, the payload is told to the other half instead of queued. The first frame that is not so ends the plan and
//! goes the general way (`forward.rs`), which knows all the cases.

#[cfg(test)]
mod tests;

use std::{sync::atomic::Ordering::Relaxed, time::Instant};

use super::{
    Relay, Stage, StreamMsg, StreamRef,
    session::{Phase, Session, Up, up_of},
    stream::{Half, Relaying},
};
use crate::{
    io::{ConnId, Io},
    mux::{
        MuxKind, StreamId,
        plain::{HEADER_MAX_BYTES, ID_AT, PlainFrame},
    },
    pool::{SendQueue, Slice, send_queue::COPY_MAX_BYTES},
};

/// A plan ends behind the frame that goes beyond this many bytes. Room is looked for before anything of a plan is queued, so one
/// receiver's queue may get as much beyond its mark, and what of that frame one receive has brought.
const PLAN_BYTES_MAX: usize = 64 * 1024;

/// Ways that a plan keeps at hand, by the low bits of the stream's number: a session's ids are consecutive, so as many streams find
/// room as a block can have frames of 64 bytes. Of the 48 KiB only those in use come into the cache. Streams that want the same
/// place make more plans of a block.
const WAYS: usize = 1024;

/// Where the frames of one stream go, and what of it they have used in this plan.
#[derive(Debug, Clone)]
struct Way {
    /// The stream in the source's session; 0 for none.
    id: StreamId,
    /// The stream that its frames become.
    far_id: StreamId,
    /// The receiving session's core and connection.
    core: u16,
    to: ConnId,
    /// Its mux, if the frames go into its send queue at once. Otherwise their payload is told to the other half, since that is on
    /// another core, or has to wait.
    kind: Option<MuxKind>,
    /// What the source may send and the receiver may be sent, at the begin of the plan and now.
    allowed: u32,
    left: u32,
    /// Frames begun in the plan.
    frames: u32,
    /// Of `allowed - left`, what belongs to a frame that began before, and what has not come yet of one that is cut.
    rest_bytes: u32,
    missing_bytes: u32,
    /// Where its runs are.
    list: u16,
}

impl Way {
    /// No way.
    const NONE: Self = Self {
        id: StreamId(0),
        far_id: StreamId(0),
        core: 0,
        to: ConnId::NONE,
        kind: None,
        allowed: 0,
        left: 0,
        frames: 0,
        rest_bytes: 0,
        missing_bytes: 0,
        list: 0,
    };

    fn frame_max_bytes(&self) -> u32 {
        self.kind.map_or(u32::MAX, MuxKind::plain_max_bytes)
    }
}

/// Runs in their order: of all ways that lead into one send queue, or of one way that is told.
#[derive(Debug, Clone, Copy)]
struct List {
    to: ConnId,
    /// The receiver's mux; `None` if its runs are told.
    kind: Option<MuxKind>,
    /// The place of the way that made it.
    way: u16,
    first_run: u32,
    last_run: u32,
}

/// Bytes of the block that go one way. A list leads through them in their order.
#[derive(Debug, Clone, Copy)]
struct Run {
    start: u32,
    end: u32,
    next: u32,
    /// The place of its way; that of the first, if it is of several.
    way: u16,
    /// Its header does not stand in it.
    bare: bool,
}

impl Run {
    fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    /// What of it goes into a batch, its header included.
    fn copied_bytes(self, kind: MuxKind) -> usize {
        let header = if self.bare { kind.header_bytes() } else { 0 };
        header + if self.len() <= COPY_MAX_BYTES { self.len() } else { 0 }
    }
}

/// No run.
const NONE: u32 = u32::MAX;

/// The plan for one block; kept by the relay for its memory.
#[derive(Debug, Default)]
pub(super) struct Plan {
    ways: Vec<Way>,
    /// Places of those in use.
    used: Vec<u16>,
    lists: Vec<List>,
    runs: Vec<Run>,
    /// A mux at one end of a way has no windows: see [`Relay::settle_windowless`].
    has_windowless: bool,
    /// Every frame takes the general way; for the comparison of both.
    #[cfg(test)]
    is_off: bool,
}

impl Plan {
    pub(super) fn new() -> Self {
        Self { ways: vec![Way::NONE; WAYS], ..Self::default() }
    }

    /// The list of a way that leads to `to`: one of its own if it is told, else that of the receiver, which `hint` may know.
    fn list_for(&mut self, place: usize, to: ConnId, queue: Option<(MuxKind, &mut u16)>) -> u16 {
        let (kind, hint) = queue.unzip();
        let is_it = |list: &List| list.to == to && list.kind.is_some();
        if let Some(hint) = &hint
            && self.lists.get(usize::from(**hint)).is_some_and(is_it)
        {
            return **hint;
        }
        let number = self.lists.len() as u16;
        self.lists.push(List { to, kind, way: place as u16, first_run: NONE, last_run: NONE });
        if let Some(hint) = hint {
            *hint = number;
        }
        number
    }

    /// Appends a run to the list of its way, or to the last run there if that ends where this one begins.
    #[inline]
    fn add_run(&mut self, place: usize, start: usize, end: usize, bare: bool) {
        let list = &mut self.lists[usize::from(self.ways[place].list)];
        let number = self.runs.len() as u32;
        let (start, end) = (start as u32, end as u32);
        if let Some(last) = self.runs.get_mut(list.last_run as usize) {
            if last.end == start && !last.bare && !bare {
                last.end = end;
                return;
            }
            last.next = number;
        } else {
            list.first_run = number;
        }
        list.last_run = number;
        self.runs.push(Run { start, end, next: NONE, way: place as u16, bare });
    }

    /// The runs of a list.
    fn runs_of(&self, list: &List) -> impl Iterator<Item = Run> {
        let run = |number: u32| self.runs.get(number as usize).copied();
        std::iter::successors(run(list.first_run), move |last| run(last.next))
    }

    fn clear(&mut self) {
        for place in self.used.drain(..) {
            self.ways[usize::from(place)].id = StreamId(0);
        }
        self.lists.clear();
        self.runs.clear();
        self.has_windowless = false;
    }
}

/// Received bytes, writable or not.
trait Received {
    const WRITABLE: bool;
    fn bytes(&self) -> &[u8];
    /// Puts another id into the header at `at`.
    fn write_id(&mut self, at: usize, kind: MuxKind, id: StreamId);
    /// Puts another header in its place.
    fn write_header(&mut self, at: usize, kind: MuxKind, frame: PlainFrame);
}

impl Received for &mut [u8] {
    const WRITABLE: bool = true;

    fn bytes(&self) -> &[u8] {
        self
    }

    #[inline]
    fn write_id(&mut self, at: usize, kind: MuxKind, id: StreamId) {
        self[at + ID_AT..at + ID_AT + 4].copy_from_slice(&kind.id_bytes(id));
    }

    fn write_header(&mut self, at: usize, kind: MuxKind, frame: PlainFrame) {
        kind.write_plain(frame, &mut self[at..]);
    }
}

impl Received for &[u8] {
    const WRITABLE: bool = false;

    fn bytes(&self) -> &[u8] {
        self
    }

    fn write_id(&mut self, _at: usize, _kind: MuxKind, _id: StreamId) {}

    fn write_header(&mut self, _at: usize, _kind: MuxKind, _frame: PlainFrame) {}
}

impl Relay {
    /// Forwards as many plain frames as `data` begins with.
    pub(super) fn forward_runs(&mut self, io: &mut Io, conn: ConnId, data: &mut Slice) {
        #[cfg(test)]
        if self.plan.is_off {
            return;
        }
        loop {
            let place = self.sessions.get_mut(conn.index());
            let Some(mut session) = place.and_then(|s| s.take_if(|s| s.conn == conn)) else {
                return;
            };
            let mut used = 0;
            if let Phase::Up(source) = &mut session.phase {
                let now = io.now();
                let (core, plan) = (self.core, &mut self.plan);
                let mut planner =
                    Planner { sessions: &mut self.sessions, io, plan, core, conn, now };
                used = match data.get_mut() {
                    Some(bytes) => planner.plan(source, bytes),
                    None => planner.plan(source, &**data),
                };
                let payload_bytes = planner.account(source);
                source.account.received_bytes += payload_bytes;
                self.stats.relayed_bytes.fetch_add(payload_bytes, Relaxed);
            }
            self.sessions[conn.index()] = Some(session);
            // Also when there is nothing in it: its ways hold for this block and this session only.
            self.queue_runs(io, conn, data);
            if used == 0 {
                return;
            }
            data.advance(used);
        }
    }

    /// Queues the runs of the plan, and forgets it.
    fn queue_runs(&mut self, io: &mut Io, conn: ConnId, data: &Slice) {
        let plan = std::mem::take(&mut self.plan);
        for list in &plan.lists {
            if let (Some(kind), Some(queue)) = (list.kind, io.queue(list.to)) {
                plan.queue_list(list, kind, data, queue);
            }
        }
        // Only now, as whoever is told may do anything to any session.
        for list in plan.lists.iter().filter(|list| list.kind.is_none()) {
            let way = &plan.ways[usize::from(list.way)];
            let to = StreamRef { core: way.core, conn: way.to, id: way.far_id };
            let from = StreamRef { core: self.core, conn, id: way.id };
            if to.core != self.core {
                plan.tell_list(list, data, |data| self.tell(io, to, from, StreamMsg::Data(data)));
            } else if self.half(to.conn, to.id).is_some_and(|half| half.hears(from)) {
                self.wait(io, to.conn, to.id, |pending| plan.leave_list(list, data, pending));
            } else {
                self.tell(io, from, to, StreamMsg::Reset);
            }
        }
        if plan.has_windowless {
            self.settle_windowless(io, conn, &plan);
        }
        self.plan = plan;
        self.plan.clear();
    }

    /// What takes the place of credit where a mux has no windows. A source without them is held when it is too far ahead of
    /// its receiver; what the connection of a receiver without them has taken counts as taken by the receiver. Between two
    /// such, either makes up for the other.
    fn settle_windowless(&mut self, io: &mut Io, conn: ConnId, plan: &Plan) {
        let Some(has_windows) = self.up(conn).map(|up| up.mux().has_windows()) else { return };
        for place in &plan.used {
            let way = &plan.ways[usize::from(*place)];
            let spent = way.allowed - way.left - way.missing_bytes;
            let is_taken = way.kind == Some(MuxKind::SmuxV1);
            if spent == 0 || is_taken != has_windows {
                continue;
            }
            if is_taken {
                self.peer_credit(io, conn, way.id, spent);
            } else {
                self.note_ahead(io, conn, way.id, spent);
            }
        }
    }
}

impl Plan {
    /// Queues the runs of a list as frames.
    fn queue_list(&self, list: &List, kind: MuxKind, data: &Slice, queue: &mut SendQueue) {
        let (mut copied_bytes, mut all_copied) = (0, true);
        for run in self.runs_of(list) {
            copied_bytes += run.copied_bytes(kind);
            all_copied &= !run.bare && run.len() <= COPY_MAX_BYTES;
        }
        queue.reserve(copied_bytes);
        let runs = self.runs_of(list);
        if all_copied {
            queue.push_all(runs.map(|run| &data[run.start as usize..run.end as usize]));
        } else {
            runs.for_each(|run| self.queue_run(run, kind, data, queue));
        }
    }

    fn queue_run(&self, run: Run, kind: MuxKind, data: &Slice, queue: &mut SendQueue) {
        let (start, end) = (run.start as usize, run.end as usize);
        if run.bare {
            let id = self.ways[usize::from(run.way)].far_id;
            let mut header = [0; HEADER_MAX_BYTES];
            kind.write_plain(PlainFrame { id, len: run.end - run.start }, &mut header);
            queue.push_bytes(&header[..kind.header_bytes()]);
        }
        if run.len() <= COPY_MAX_BYTES {
            queue.push_bytes(&data[start..end]);
        } else {
            queue.push_slice(data.range(start, end));
        }
    }

    /// Leaves the payload of a list to wait: where frames began and ended means nothing.
    fn leave_list(&self, list: &List, data: &Slice, pending: &mut SendQueue) {
        let small = |run: &Run| run.len() <= COPY_MAX_BYTES;
        pending.reserve(self.runs_of(list).filter(small).map(Run::len).sum());
        for run in self.runs_of(list) {
            let (start, end) = (run.start as usize, run.end as usize);
            if small(&run) {
                pending.push_bytes(&data[start..end]);
            } else {
                pending.push_slice(data.range(start, end).compact());
            }
        }
    }

    /// Tells the payload of a list to another core, in pieces as they suit us.
    fn tell_list(&self, list: &List, data: &Slice, mut tell: impl FnMut(Slice)) {
        let is_small = |run: &Run| run.len() <= COPY_MAX_BYTES;
        // What has come, and not what its headers announce.
        let small_bytes = self.runs_of(list).filter(is_small).map(Run::len).sum();
        let mut small = Vec::new();
        for run in self.runs_of(list) {
            let (start, end) = (run.start as usize, run.end as usize);
            if is_small(&run) {
                if small.is_empty() {
                    small.reserve_exact(small_bytes);
                }
                small.extend_from_slice(&data[start..end]);
            } else {
                if !small.is_empty() {
                    tell(Slice::from_vec(std::mem::take(&mut small)));
                }
                tell(data.range(start, end));
            }
        }
        if !small.is_empty() {
            tell(Slice::from_vec(small));
        }
    }
}

/// The sessions but the source's, and where things go.
struct Planner<'a> {
    sessions: &'a mut [Option<Box<Session>>],
    io: &'a mut Io,
    plan: &'a mut Plan,
    core: u16,
    conn: ConnId,
    now: Instant,
}

impl Planner<'_> {
    /// Plans from the front of `data` on, and returns how far.
    fn plan<R: Received>(&mut self, source: &mut Up, mut data: R) -> usize {
        let Some(mux) = &source.mux else { return 0 };
        let (kind, all) = (mux.kind(), data.bytes().len());
        let mut at = 0;
        if let Some(rest) = mux.plain_rest() {
            at = self.plan_rest(source, rest, all);
            if at < rest.len as usize {
                return at;
            }
        } else if !mux.is_between_frames() {
            return 0;
        }
        let header_bytes = kind.header_bytes();
        while at < PLAN_BYTES_MAX
            && let Some(frame) = kind.peek_plain(&data.bytes()[at..])
        {
            let start = at + header_bytes;
            let here = frame.len.min((all - start) as u32);
            let Some(place) = self.way_of(source, frame.id) else { break };
            let way = &mut self.plan.ways[place];
            if here == 0 || frame.len > way.left || here > way.frame_max_bytes() {
                break;
            }
            way.left -= frame.len;
            way.frames += 1;
            let (far_id, end) = (way.far_id, start + here as usize);
            let in_place = R::WRITABLE && way.kind == Some(kind);
            if here < frame.len {
                // The last of the block.
                way.missing_bytes = frame.len - here;
                let mux = source.mux.as_mut().expect("it was there above");
                mux.leave_plain_rest(frame.id, frame.len - here);
                data.write_header(at, kind, PlainFrame { id: far_id, len: here });
            } else {
                data.write_id(at, kind, far_id);
            }
            self.plan.add_run(place, if in_place { at } else { start }, end, !in_place);
            at = end;
        }
        at
    }

    /// The rest of a frame of which a part has gone before; its window is paid for.
    fn plan_rest(&mut self, source: &mut Up, rest: PlainFrame, all: usize) -> usize {
        let here = rest.len.min(all as u32);
        let Some(place) = self.way_of(source, rest.id) else { return 0 };
        let way = &mut self.plan.ways[place];
        if here > way.left || here > way.frame_max_bytes() {
            return 0;
        }
        way.left -= here;
        way.rest_bytes = here;
        self.plan.add_run(place, 0, here as usize, true);
        if let Some(mux) = &mut source.mux {
            mux.leave_plain_rest(rest.id, rest.len - here);
        }
        here as usize
    }

    /// The way of a stream, found now if this is its first frame in the plan. `None` if it has to go the general way, or if
    /// another stream has its place.
    #[inline(always)]
    fn way_of(&mut self, source: &mut Up, id: StreamId) -> Option<usize> {
        let place = (id.0 >> 1) as usize % WAYS;
        let way = &self.plan.ways[place];
        if way.id == id && id != StreamId(0) {
            return Some(place);
        }
        if way.id != StreamId(0) || id == StreamId(0) {
            return None;
        }
        self.plan.ways[place] = self.find_way(source, id, place)?;
        self.plan.used.push(place as u16);
        Some(place)
    }

    #[inline(never)]
    fn find_way(&mut self, source: &mut Up, id: StreamId, place: usize) -> Option<Way> {
        let Up { mux: Some(mux), streams, .. } = source else { return None };
        let half = streams.get_mut(id)?;
        let Stage::Relaying(relaying) = &mut half.stage else { return None };
        let StreamRef { core, conn: to, id: far_id } = relaying.peer;
        let window = mux.receive_window(id, &mut half.mux_hint);
        half.active = self.now;
        let way = Way { id, far_id, core, to, allowed: window, left: window, ..Way::NONE };
        let plan = &mut *self.plan;
        plan.has_windowless |= !mux.has_windows();
        let mut told = || Some(Way { list: plan.list_for(place, to, None), ..way.clone() });
        if core != self.core || !self.io.has_room(to) {
            return told();
        }
        let Up { mux: Some(far_mux), streams: far_streams, plan_list, .. } =
            up_of(self.sessions, to)?
        else {
            return None;
        };
        let far_half = far_streams.find(far_id, &mut relaying.peer_hint)?;
        let kind = far_mux.kind();
        if !takes_at_once(far_half, StreamRef { core, conn: self.conn, id }) {
            return told();
        }
        let credit = far_mux.find_credit(far_id, &mut far_half.mux_hint);
        if credit == 0 {
            return told();
        }
        far_half.active = self.now;
        plan.has_windowless |= !far_mux.has_windows();
        let allowed = window.min(credit);
        let list = plan.list_for(place, to, Some((kind, plan_list)));
        Some(Way { kind: Some(kind), allowed, left: allowed, list, ..way })
    }

    /// Accounts what the plan uses, on both sides of each way; returns the payload in it.
    fn account(&mut self, source: &mut Up) -> u64 {
        let mut payload_bytes = 0;
        for place in &self.plan.used {
            let way = &self.plan.ways[usize::from(*place)];
            let Way { id, far_id, to, kind, frames, .. } = *way;
            let used = way.allowed - way.left;
            let (taken, spent) = (used - way.rest_bytes, used - way.missing_bytes);
            payload_bytes += u64::from(spent);
            let Some(half) = source.streams.get_mut(id) else { continue };
            if let Some(mux) = &mut source.mux {
                mux.take_plain(id, frames, taken, &mut half.mux_hint);
            }
            let Stage::Relaying(relaying) = &mut half.stage else { continue };
            if kind.is_some()
                && let Some(far) = up_of(self.sessions, to)
                && let Some(far_half) = far.streams.find(far_id, &mut relaying.peer_hint)
                && let Some(mux) = &mut far.mux
            {
                mux.spend(far_id, spent, &mut far_half.mux_hint);
                far.budget.note_data_sent(frames);
                far.account.sent_bytes += u64::from(spent);
            }
        }
        payload_bytes
    }
}

/// Whether nothing stands before new data of `source` in this half.
fn takes_at_once(half: &Half, source: StreamRef) -> bool {
    matches!(&half.stage, Stage::Relaying(Relaying { peer, pending, peer_done: false, .. })
        if *peer == source && pending.is_empty())
}
