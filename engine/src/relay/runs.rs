//! Plain data frames by the block: what needs no decision is forwarded in runs (`wire.md §4.6`).
//!
//! ```text
//!   received   │ 4│data│ 4│data│ 8│data│ 4│da      stream ids of the source's session
//!   planned    │ 2│data│ 2│data│ 6│data│ 2│da      rewritten where they are, if both sides speak the same mux
//!              ╰── run to b ──╯╰ to c ╯╰ to b      and the block is ours alone
//!   queued     b: one copy or one reference per run; a run up to 2 KiB is copied
//! ```
//!
//! Two passes over the block, since it can be written only as long as nothing refers to it: the first checks and
//! accounts each frame and rewrites its header, the second queues the runs. A frame takes this way when everything
//! about it is as usual: plain, its stream relayed, the other half on this core, with nothing waiting there, with room
//! and credit for it. The first that is not ends the plan and goes the general way (`forward.rs`), which knows all the
//! cases.

use std::{sync::atomic::Ordering::Relaxed, time::Instant};

use super::{
    Relay, Stage, StreamRef,
    session::{Phase, Session, Up},
    stream::{Half, Relaying},
};
use crate::{
    io::{ConnId, Io},
    mux::{
        MuxKind, StreamId,
        plain::{HEADER_MAX_BYTES, PlainFrame},
    },
    pool::{SendQueue, Slice, send_queue::COPY_MAX_BYTES},
};

/// A plan ends behind this many bytes. Room is looked for before anything of a plan is queued, so one receiver's queue may
/// get as much beyond its mark; twice the mark is what control frames have alone (`CONTROL_BYTES_MAX`).
const PLAN_BYTES_MAX: usize = 64 * 1024;

/// Ways that a plan keeps at hand, by the low bits of the stream's number: a session's ids are consecutive, so 64 streams find
/// room, and 4 KiB stay in the innermost cache. More streams than that in one block make more plans of it.
const WAYS: usize = 64;

/// Where the frames of one stream go, and what of it they have used in this plan.
#[derive(Debug, Clone)]
struct Way {
    /// The stream in the source's session; 0 for none.
    id: StreamId,
    /// The stream that its frames become.
    far_id: StreamId,
    to: ConnId,
    /// Of the receiving session.
    kind: MuxKind,
    /// What the source may still send, and what the receiver may still be sent.
    window: u32,
    credit: u32,
    /// Used of either, and in how many frames.
    taken: u32,
    spent: u32,
    frames: u32,
    first_run: u32,
    last_run: u32,
}

/// Bytes of the block that go one way. A list for each way leads through them in their order.
#[derive(Debug, Clone, Copy)]
struct Run {
    start: u32,
    end: u32,
    next: u32,
    /// Their header does not stand among them.
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
#[derive(Debug)]
pub(super) struct Plan {
    ways: Box<[Way; WAYS]>,
    /// Of those, the ones in use.
    used: Vec<u8>,
    runs: Vec<Run>,
}

impl Plan {
    pub(super) fn new() -> Self {
        let way = Way {
            id: StreamId(0),
            far_id: StreamId(0),
            to: ConnId::default(),
            kind: MuxKind::Yamux,
            window: 0,
            credit: 0,
            taken: 0,
            spent: 0,
            frames: 0,
            first_run: NONE,
            last_run: NONE,
        };
        let ways = vec![way; WAYS].try_into().expect("so many were made");
        Self { ways, used: Vec::with_capacity(WAYS), runs: Vec::new() }
    }

    /// Appends a run to its way, or to the way's last run if that ends where this one begins.
    #[inline]
    fn add_run(&mut self, place: usize, start: usize, end: usize, bare: bool) {
        let way = &mut self.ways[place];
        let number = self.runs.len() as u32;
        let (start, end) = (start as u32, end as u32);
        if let Some(last) = self.runs.get_mut(way.last_run as usize) {
            if last.end == start && !last.bare && !bare {
                last.end = end;
                return;
            }
            last.next = number;
        } else {
            way.first_run = number;
        }
        way.last_run = number;
        self.runs.push(Run { start, end, next: NONE, bare });
    }

    /// The runs of a way.
    fn runs_of(&self, way: &Way) -> impl Iterator<Item = Run> {
        let run = |number: u32| self.runs.get(number as usize).copied();
        std::iter::successors(run(way.first_run), move |last| run(last.next))
    }

    fn clear(&mut self) {
        for place in self.used.drain(..) {
            self.ways[usize::from(place)].id = StreamId(0);
        }
        self.runs.clear();
    }
}

/// Received bytes, writable or not.
trait Received {
    const WRITABLE: bool;
    fn bytes(&self) -> &[u8];
    fn write_header(&mut self, at: usize, kind: MuxKind, frame: PlainFrame);
}

impl Received for &mut [u8] {
    const WRITABLE: bool = true;

    fn bytes(&self) -> &[u8] {
        self
    }

    #[inline]
    fn write_header(&mut self, at: usize, kind: MuxKind, frame: PlainFrame) {
        kind.write_plain(frame, &mut self[at..]);
    }
}

impl Received for &[u8] {
    const WRITABLE: bool = false;

    fn bytes(&self) -> &[u8] {
        self
    }

    fn write_header(&mut self, _at: usize, _kind: MuxKind, _frame: PlainFrame) {}
}

impl Relay {
    /// Forwards as many plain frames as `data` begins with.
    pub(super) fn forward_runs(&mut self, io: &mut Io, conn: ConnId, data: &mut Slice) {
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
                self.stats.relayed_bytes.fetch_add(payload_bytes, Relaxed);
            }
            self.sessions[conn.index()] = Some(session);
            if used == 0 {
                // A way may have been found for a frame that then was not taken; the next plan is another session's.
                self.plan.clear();
                return;
            }
            self.queue_runs(io, data);
            data.advance(used);
        }
    }

    /// Queues the runs of the plan, and forgets it.
    fn queue_runs(&mut self, io: &mut Io, data: &Slice) {
        for place in &self.plan.used {
            let way = &self.plan.ways[usize::from(*place)];
            let Some(queue) = io.queue(way.to) else { continue };
            queue.reserve(self.plan.runs_of(way).map(|run| run.copied_bytes(way.kind)).sum());
            for run in self.plan.runs_of(way) {
                queue_run(queue, way, run, data);
            }
        }
        self.plan.clear();
    }
}

fn queue_run(queue: &mut SendQueue, way: &Way, run: Run, data: &Slice) {
    let (start, end) = (run.start as usize, run.end as usize);
    if run.bare {
        let frame = PlainFrame { id: way.far_id, len: run.end - run.start };
        let mut header = [0; HEADER_MAX_BYTES];
        way.kind.write_plain(frame, &mut header);
        queue.push_bytes(&header[..way.kind.header_bytes()]);
    }
    if run.len() <= COPY_MAX_BYTES {
        queue.push_bytes(&data[start..end]);
    } else {
        queue.push_slice(data.range(start, end));
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
        let mut at = match mux.plain_rest() {
            Some(rest) => self.plan_rest(source, rest, all),
            None if mux.is_between_frames() => 0,
            None => return 0,
        };
        let header_bytes = kind.header_bytes();
        while at < PLAN_BYTES_MAX
            && let Some(frame) = kind.peek_plain(&data.bytes()[at..])
        {
            let start = at + header_bytes;
            let here = frame.len.min((all - start) as u32);
            let Some(place) = self.way_of(source, frame.id) else { break };
            let way = &mut self.plan.ways[place];
            if here == 0
                || frame.len > way.window
                || here > way.credit
                || here > way.kind.plain_max_bytes()
            {
                break;
            }
            way.window -= frame.len;
            way.credit -= here;
            way.taken += frame.len;
            way.spent += here;
            way.frames += 1;
            let end = start + here as usize;
            if R::WRITABLE && way.kind == kind {
                data.write_header(at, kind, PlainFrame { id: way.far_id, len: here });
                self.plan.add_run(place, at, end, false);
            } else {
                self.plan.add_run(place, start, end, true);
            }
            at = end;
            if here < frame.len {
                let mux = source.mux.as_mut().expect("it was there above");
                mux.leave_plain_rest(frame.id, frame.len - here);
                break;
            }
        }
        at
    }

    /// The rest of a frame of which a part has gone before; its window is paid for.
    fn plan_rest(&mut self, source: &mut Up, rest: PlainFrame, all: usize) -> usize {
        let here = rest.len.min(all as u32);
        let Some(place) = self.way_of(source, rest.id) else { return 0 };
        let way = &mut self.plan.ways[place];
        if here > way.credit || here > way.kind.plain_max_bytes() {
            return 0;
        }
        way.credit -= here;
        way.spent += here;
        self.plan.add_run(place, 0, here as usize, true);
        if let Some(mux) = &mut source.mux {
            mux.leave_plain_rest(rest.id, rest.len - here);
        }
        here as usize
    }

    /// The way of a stream, found now if this is its first frame in the plan. `None` if it has to go the general way, or if
    /// another stream has its place.
    #[inline]
    fn way_of(&mut self, source: &mut Up, id: StreamId) -> Option<usize> {
        let place = (id.0 >> 1) as usize % WAYS;
        let way = &self.plan.ways[place];
        if way.id == id && id != StreamId(0) {
            return Some(place);
        }
        if way.id != StreamId(0) || id == StreamId(0) {
            return None;
        }
        self.plan.ways[place] = self.find_way(source, id)?;
        self.plan.used.push(place as u8);
        Some(place)
    }

    fn find_way(&mut self, source: &mut Up, id: StreamId) -> Option<Way> {
        let Up { mux: Some(mux), streams, .. } = source else { return None };
        let half = streams.get_mut(id)?;
        let Stage::Relaying(relaying) = &mut half.stage else { return None };
        let StreamRef { core, conn: to, id: far_id } = relaying.peer;
        if core != self.core || !self.io.has_room(to) {
            return None;
        }
        let Up { mux: Some(far_mux), streams: far_streams, .. } = up_of(self.sessions, to)? else {
            return None;
        };
        let far_half = far_streams.find(far_id, &mut relaying.peer_hint)?;
        let kind = far_mux.kind();
        // Without windows, how far a source is ahead and what its receiver takes is kept by the general way, unless neither side
        // has any: then both are the same.
        if !takes_at_once(far_half, StreamRef { core, conn: self.conn, id })
            || far_mux.has_windows() != mux.has_windows()
        {
            return None;
        }
        half.active = self.now;
        far_half.active = self.now;
        Some(Way {
            id,
            far_id,
            to,
            kind,
            window: mux.receive_window(id, &mut half.mux_hint),
            credit: far_mux.find_credit(far_id, &mut far_half.mux_hint),
            taken: 0,
            spent: 0,
            frames: 0,
            first_run: NONE,
            last_run: NONE,
        })
    }

    /// Accounts what the plan uses, on both sides of each way; returns the payload in it.
    fn account(&mut self, source: &mut Up) -> u64 {
        let mut payload_bytes = 0;
        for place in &self.plan.used {
            let Way { id, far_id, to, taken, spent, frames, .. } =
                self.plan.ways[usize::from(*place)];
            payload_bytes += u64::from(spent);
            let Some(half) = source.streams.get_mut(id) else { continue };
            if let Some(mux) = &mut source.mux {
                mux.take_plain(id, frames, taken, &mut half.mux_hint);
            }
            let Stage::Relaying(relaying) = &mut half.stage else { continue };
            if let Some(far) = up_of(self.sessions, to)
                && let Some(far_half) = far.streams.find(far_id, &mut relaying.peer_hint)
                && let Some(mux) = &mut far.mux
            {
                mux.spend(far_id, spent, &mut far_half.mux_hint);
                far.budget.note_data_sent(frames);
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

fn up_of(sessions: &mut [Option<Box<Session>>], conn: ConnId) -> Option<&mut Up> {
    let session = sessions.get_mut(conn.index())?.as_deref_mut().filter(|s| s.conn == conn)?;
    match &mut session.phase {
        Phase::Up(up) => Some(up),
        Phase::Handshake(_) => None,
    }
}
