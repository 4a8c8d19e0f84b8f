//! The ways between cores: one bounded queue for each ordered pair of them.
//!
//! ```text
//!   core 0: outbox ── a batch per verb ──▶ lane 0→1 ──▶ core 1, in its turn
//!                └─ nobody announced it yet? one `Command::Mail` wakes core 1
//! ```
//!
//! Whatever a verb has to say to another core is gathered and leaves as one batch when the verb ends, and a core that has
//! been told of mail is not told again before it has looked. So a busy pair of cores pays one push per received
//! block and no wake-up, and a quiet one a single wake-up per burst.
//!
//! What waits in a lane is bounded in bytes, what the messages themselves take included. Above [`LANE_HIGH_BYTES`] the session
//! whose bytes went there last is not read from until the far core has worked off all but [`LANE_LOW_BYTES`]. That depends on
//! nobody but the far core: a receiver that does not read is the matter of the budgets there.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use crossbeam::queue::SegQueue;

use super::{Command, Relay, StreamMsg};
use crate::io::{ConnId, Io};

/// Bytes in one lane at which its source is held: 64 receive blocks of 64 KiB, a few milliseconds of a far core's work.
/// What goes beyond is what one verb says: a block, or 2,048 resets.
pub const LANE_HIGH_BYTES: usize = 4 << 20;

/// Bytes in a lane at which its source goes on.
pub const LANE_LOW_BYTES: usize = 1 << 20;

/// Bytes in a lane above which slices that are a small part of their block are put into memory of their own: what waits behind
/// so much may wait for long, and a lane counts bytes, not blocks.
pub(super) const LANE_COMPACT_BYTES: usize = 256 << 10;

/// Bytes that a core takes out of a lane before its sockets get their turn again.
const TURN_BYTES: usize = 1 << 20;

type Post = Box<dyn Fn(Command) + Send + Sync>;

/// The lanes of a server, and how to wake each core.
pub(super) struct Lanes {
    count: usize,
    /// From core `f` to core `t` at `f * count + t`.
    lanes: Vec<Lane>,
    posts: Vec<OnceLock<Post>>,
}

#[derive(Default)]
struct Lane {
    batches: SegQueue<Batch>,
    bytes: AtomicUsize,
    /// The far core has been told and has not looked yet.
    is_announced: AtomicBool,
    /// The near core waits for the lane to be worked off.
    is_awaited: AtomicBool,
    /// The far core has ended.
    is_closed: AtomicBool,
}

/// What one verb had to say to one core.
#[derive(Default)]
struct Batch {
    commands: Vec<Command>,
    bytes: usize,
}

/// What this verb says to other cores.
pub(super) struct Outbox {
    /// By core.
    batches: Vec<Batch>,
    has_mail: bool,
}

impl Outbox {
    pub(super) fn new(count: u16) -> Self {
        Self { batches: (0..count).map(|_| Batch::default()).collect(), has_mail: false }
    }

    /// Adds something that another core shall hear when this verb ends.
    pub(super) fn push(&mut self, core: u16, command: Command) {
        if let Some(batch) = self.batches.get_mut(usize::from(core)) {
            batch.bytes += bytes_of(&command);
            batch.commands.push(command);
            self.has_mail = true;
        }
    }
}

impl Lanes {
    pub(super) fn new(count: u16) -> Self {
        let count = usize::from(count);
        Self {
            count,
            lanes: std::iter::repeat_with(Lane::default).take(count * count).collect(),
            posts: std::iter::repeat_with(OnceLock::new).take(count).collect(),
        }
    }

    pub(super) fn count(&self) -> u16 {
        u16::try_from(self.count).expect("made from one")
    }

    pub(super) fn register(&self, core: u16, post: Post) {
        if let Some(slot) = self.posts.get(usize::from(core)) {
            drop(slot.set(post));
        }
    }

    /// Wakes a core with a command. To a core that is not (or no longer) there it does nothing: its sessions are gone too.
    pub(super) fn post(&self, core: u16, command: Command) {
        if let Some(post) = self.posts.get(usize::from(core)).and_then(OnceLock::get) {
            post(command);
        }
    }

    fn lane(&self, from: u16, to: u16) -> &Lane {
        &self.lanes[usize::from(from) * self.count + usize::from(to)]
    }

    /// Bytes that wait on the way from one core to another.
    pub(super) fn bytes(&self, from: u16, to: u16) -> usize {
        self.lane(from, to).bytes.load(Ordering::Relaxed)
    }

    /// Sends a batch; true if the lane is over its mark.
    fn send(&self, from: u16, to: u16, batch: Batch) -> bool {
        let lane = self.lane(from, to);
        if lane.is_closed.load(Ordering::SeqCst) {
            return false;
        }
        let bytes = lane.bytes.fetch_add(batch.bytes, Ordering::SeqCst) + batch.bytes;
        lane.batches.push(batch);
        if !lane.is_announced.swap(true, Ordering::SeqCst) {
            self.post(to, Command::Mail(from));
        }
        bytes > LANE_HIGH_BYTES
    }

    /// Notes that `from` waits; false if the lane has been worked off meanwhile and there is nothing to wait for.
    fn await_room(&self, from: u16, to: u16) -> bool {
        let lane = self.lane(from, to);
        lane.is_awaited.store(true, Ordering::SeqCst);
        // Each side stores first and looks second, so one of them sees the other.
        let has_room = lane.bytes.load(Ordering::SeqCst) <= LANE_LOW_BYTES
            || lane.is_closed.load(Ordering::SeqCst);
        !(has_room && lane.is_awaited.swap(false, Ordering::SeqCst))
    }

    /// The next batch; the core that waits for room hears when there is enough.
    fn take(&self, from: u16, to: u16) -> Option<Batch> {
        let lane = self.lane(from, to);
        let batch = lane.batches.pop()?;
        let left = lane.bytes.fetch_sub(batch.bytes, Ordering::SeqCst) - batch.bytes;
        if left <= LANE_LOW_BYTES && lane.is_awaited.swap(false, Ordering::SeqCst) {
            self.post(from, Command::LaneHasRoom);
        }
        Some(batch)
    }

    /// A core has ended: what waits for it is dropped, and nobody waits for it any more.
    pub(super) fn close(&self, core: u16) {
        for from in 0..self.count() {
            let lane = self.lane(from, core);
            lane.is_closed.store(true, Ordering::SeqCst);
            while self.take(from, core).is_some() {}
            if lane.is_awaited.swap(false, Ordering::SeqCst) {
                self.post(from, Command::LaneHasRoom);
            }
        }
    }
}

/// What a message takes up in a lane.
fn bytes_of(command: &Command) -> usize {
    let held = match command {
        Command::Deliver(delivery) => delivery.request.as_bytes().len(),
        Command::Stream { msg: StreamMsg::Data(data), .. } => data.len(),
        Command::Stream { msg: StreamMsg::Accepted(object), .. } => object.as_bytes().len(),
        _ => 0,
    };
    size_of::<Command>() + held
}

/// The ends of the lanes at one core.
impl Relay {
    /// Sends what was gathered; a core whose lane is full now, if there is one.
    pub(super) fn send_mail(&mut self) -> Option<u16> {
        let mut full = None;
        if std::mem::take(&mut self.outbox.has_mail) {
            for core in 0..self.cores.count() {
                let batch = std::mem::take(&mut self.outbox.batches[usize::from(core)]);
                if !batch.commands.is_empty() && self.cores.lanes().send(self.core, core, batch) {
                    full = full.or(Some(core));
                }
            }
        }
        full
    }

    /// Does not read a session further until the lane to `core` has room.
    pub(super) fn hold_for_lane(&mut self, io: &mut Io, conn: ConnId, core: u16) {
        let Some(session) = self.session(conn) else { return };
        if std::mem::replace(&mut session.lane_hold, true) {
            return;
        }
        self.hold(io, conn);
        self.lane_held.push(conn);
        if !self.cores.lanes().await_room(self.core, core) {
            self.lane_has_room(io);
        }
    }

    /// A lane that somebody waited for has room again. Whoever still overfills another one is held again at its next block.
    pub(super) fn lane_has_room(&mut self, io: &mut Io) {
        for conn in std::mem::take(&mut self.lane_held) {
            if let Some(session) = self.session(conn)
                && std::mem::take(&mut session.lane_hold)
            {
                self.release(io, conn);
            }
        }
    }

    /// Works off what `from` has sent; what does not fit a turn waits for the next.
    pub(super) fn read_mail(&mut self, io: &mut Io, from: u16) {
        let cores = std::sync::Arc::clone(&self.cores);
        let (lanes, here) = (cores.lanes(), self.core);
        lanes.lane(from, here).is_announced.store(false, Ordering::SeqCst);
        let mut bytes = 0;
        while bytes < TURN_BYTES {
            let Some(batch) = lanes.take(from, here) else { return };
            bytes += batch.bytes;
            for command in batch.commands {
                self.obey(io, command);
            }
        }
        if !lanes.lane(from, here).is_announced.swap(true, Ordering::SeqCst) {
            lanes.post(here, Command::Mail(from));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    type Posted = Arc<Mutex<Vec<&'static str>>>;

    fn lanes() -> (Lanes, [Posted; 2]) {
        let lanes = Lanes::new(2);
        let posted = [Posted::default(), Posted::default()];
        for (core, log) in (0..).zip(&posted) {
            let log = Arc::clone(log);
            lanes.register(
                core,
                Box::new(move |command| {
                    let name = match command {
                        Command::Mail(_) => "mail",
                        Command::LaneHasRoom => "room",
                        _ => "else",
                    };
                    log.lock().expect("nobody panics with it").push(name);
                }),
            );
        }
        (lanes, posted)
    }

    fn batch(bytes: usize) -> Batch {
        Batch { commands: vec![Command::Stop], bytes }
    }

    fn log(posted: &Posted) -> Vec<&'static str> {
        std::mem::take(&mut *posted.lock().expect("nobody panics with it"))
    }

    #[test]
    fn a_burst_is_announced_once() {
        let (lanes, [_, far]) = lanes();
        for _ in 0..100 {
            assert!(!lanes.send(0, 1, batch(10)));
        }
        assert_eq!((log(&far), lanes.bytes(0, 1)), (vec!["mail"], 1000));
        lanes.lane(0, 1).is_announced.store(false, Ordering::SeqCst);
        assert_eq!(std::iter::from_fn(|| lanes.take(0, 1)).count(), 100);
        lanes.send(0, 1, batch(10));
        assert_eq!(log(&far), ["mail"]);
    }

    #[test]
    fn a_full_lane_is_reopened_at_its_low_mark_and_not_before() {
        let (lanes, [near, _]) = lanes();
        assert!(!lanes.send(0, 1, batch(LANE_LOW_BYTES)));
        assert!(lanes.send(0, 1, batch(LANE_HIGH_BYTES)));
        assert!(lanes.await_room(0, 1));
        lanes.send(0, 1, batch(LANE_LOW_BYTES / 2));
        lanes.take(0, 1);
        assert!(log(&near).is_empty());
        lanes.take(0, 1);
        assert_eq!(log(&near), ["room"]);
        lanes.take(0, 1);
        assert!(log(&near).is_empty(), "told once");
        assert!(!lanes.await_room(0, 1), "an empty lane is not waited for");
    }

    #[test]
    fn a_core_that_ends_is_not_waited_for() {
        let (lanes, [near, _]) = lanes();
        assert!(lanes.send(0, 1, batch(2 * LANE_HIGH_BYTES)));
        assert!(lanes.await_room(0, 1));
        lanes.close(1);
        assert_eq!((log(&near), lanes.bytes(0, 1)), (vec!["room"], 0));
        assert!(!lanes.send(0, 1, batch(2 * LANE_HIGH_BYTES)));
        assert_eq!(lanes.bytes(0, 1), 0);
    }
}
