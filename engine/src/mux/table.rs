//! The streams of one connection: which ids exist, who may open, and which halves are still open.
//!
//! ```text
//!            open / admit
//!   (gone) ───────────────▶ both halves open ── one FIN ──▶ one half open ── other FIN ──▶ (gone)
//!                                  └───────────── reset, from either state ──────────────────▲
//! ```
//!
//! Shared by the protocols; what a stream's windows are is theirs (`W`).

use super::{
    ACCEPT_BACKLOG, StreamId,
    id_map::{Hint, IdMap},
};

/// One stream.
#[derive(Debug)]
pub(super) struct Stream<W> {
    /// Credit in both directions.
    pub(super) windows: W,
    /// We may still send: no FIN from us yet.
    pub(super) local_open: bool,
    /// The peer may still send: no FIN from it yet.
    pub(super) remote_open: bool,
    /// We accepted it (theirs), or they acknowledged it (ours).
    answered: bool,
}

/// All streams of a connection.
#[derive(Debug)]
pub(super) struct StreamTable<W> {
    streams: IdMap<Stream<W>>,
    streams_max: usize,
    /// The id of the next stream of ours; `None` when they are used up.
    next_id: Option<u32>,
    /// The lowest bit of our ids.
    parity: u32,
    /// Streams of the peer that were not accepted yet, and of ours that were not acknowledged.
    unaccepted_count: usize,
    unacked_count: usize,
    /// We said that we take no more streams; the peer said it.
    pub(super) refuses_theirs: bool,
    pub(super) refuses_ours: bool,
}

impl<W> StreamTable<W> {
    /// No streams; ours will get `first_id` and every second id after it.
    pub(super) fn new(first_id: u32, streams_max: usize) -> Self {
        Self {
            streams: IdMap::default(),
            streams_max,
            next_id: Some(first_id),
            parity: first_id & 1,
            unaccepted_count: 0,
            unacked_count: 0,
            refuses_theirs: false,
            refuses_ours: false,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.streams.len()
    }

    pub(super) fn ids(&self) -> Vec<StreamId> {
        self.streams.ids()
    }

    pub(super) fn unacked_count(&self) -> usize {
        self.unacked_count
    }

    pub(super) fn get(&self, id: StreamId) -> Option<&Stream<W>> {
        self.streams.get(id)
    }

    pub(super) fn get_mut(&mut self, id: StreamId) -> Option<&mut Stream<W>> {
        self.streams.get_mut(id)
    }

    /// The same for whoever has found it before.
    #[inline]
    pub(super) fn find(&mut self, id: StreamId, hint: &mut Hint) -> Option<&mut Stream<W>> {
        self.streams.find(id, hint)
    }

    /// Whether the peer may open a stream under `id`, were it free.
    pub(super) fn is_theirs(&self, id: StreamId) -> bool {
        id.0 != 0 && id.0 & 1 != self.parity
    }

    /// Takes in a stream that the peer opens under a free id of its own; false when there is no
    /// room for it and it must be refused.
    pub(super) fn admit(&mut self, id: StreamId, windows: W) -> bool {
        debug_assert!(
            self.is_theirs(id) && self.streams.get(id).is_none(),
            "checked by the caller"
        );
        let room = !self.refuses_theirs
            && self.streams.len() < self.streams_max
            && self.unaccepted_count < ACCEPT_BACKLOG;
        if room {
            self.unaccepted_count += 1;
            self.insert(id, windows, false);
        }
        room
    }

    /// Makes a stream of ours; `awaits_ack` where the protocol acknowledges.
    pub(super) fn open(&mut self, windows: W, awaits_ack: bool) -> Option<StreamId> {
        if self.refuses_ours || self.streams.len() >= self.streams_max {
            return None;
        }
        let id = StreamId(self.next_id?);
        self.next_id = id.0.checked_add(2);
        self.unacked_count += usize::from(awaits_ack);
        self.insert(id, windows, !awaits_ack);
        Some(id)
    }

    fn insert(&mut self, id: StreamId, windows: W, answered: bool) {
        let stream = Stream { windows, local_open: true, remote_open: true, answered };
        self.streams.insert(id, stream);
    }

    /// Notes that we accepted a stream of theirs; true the first time.
    pub(super) fn accept(&mut self, id: StreamId) -> bool {
        let first = self.is_theirs(id) && self.answer(id);
        self.unaccepted_count -= usize::from(first);
        first
    }

    /// Notes that they acknowledged a stream of ours; true the first time.
    pub(super) fn acknowledge(&mut self, id: StreamId) -> bool {
        let first = !self.is_theirs(id) && self.answer(id);
        self.unacked_count -= usize::from(first);
        first
    }

    fn answer(&mut self, id: StreamId) -> bool {
        self.get_mut(id).is_some_and(|stream| !std::mem::replace(&mut stream.answered, true))
    }

    /// Ends our direction; true if it was open, so that a FIN is due. The stream may be gone after
    /// it.
    pub(super) fn finish_local(&mut self, id: StreamId) -> bool {
        let Some(stream) = self.get_mut(id) else { return false };
        let was_open = std::mem::replace(&mut stream.local_open, false);
        if !stream.remote_open {
            self.remove(id);
        }
        was_open
    }

    /// Ends their direction; true if it was open. The stream may be gone after it.
    pub(super) fn finish_remote(&mut self, id: StreamId) -> bool {
        let Some(stream) = self.get_mut(id) else { return false };
        let was_open = std::mem::replace(&mut stream.remote_open, false);
        if !stream.local_open {
            self.remove(id);
        }
        was_open
    }

    /// Forgets a stream; every count it stood in goes back.
    pub(super) fn remove(&mut self, id: StreamId) -> Option<Stream<W>> {
        let stream = self.streams.remove(id)?;
        let unanswered = usize::from(!stream.answered);
        if self.is_theirs(id) {
            self.unaccepted_count -= unanswered;
        } else {
            self.unacked_count -= unanswered;
        }
        Some(stream)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn table(first_id: u32, streams_max: usize) -> StreamTable<()> {
        StreamTable::new(first_id, streams_max)
    }

    #[test]
    fn ids_end_at_the_top_and_do_not_wrap() {
        let mut odd = table(u32::MAX - 2, 8);
        assert_eq!(odd.open((), true), Some(StreamId(u32::MAX - 2)));
        assert_eq!(odd.open((), true), Some(StreamId(u32::MAX)));
        assert_eq!(odd.open((), true), None);
        let mut even = table(u32::MAX - 1, 8);
        assert_eq!(even.open((), true), Some(StreamId(u32::MAX - 1)));
        assert_eq!(even.open((), true), None);
    }

    #[test]
    fn zero_and_our_parity_are_not_theirs() {
        let (odd, even) = (table(1, 8), table(2, 8));
        let theirs =
            |table: &StreamTable<()>| [0, 1, 2, u32::MAX].map(|id| table.is_theirs(StreamId(id)));
        assert_eq!(theirs(&odd), [false, false, true, false]);
        assert_eq!(theirs(&even), [false, true, false, true]);
    }

    #[test]
    fn the_backlog_fills_and_every_way_out_makes_room() {
        let mut table = table(1, 10_000);
        let ids: Vec<_> = (1..=ACCEPT_BACKLOG as u32).map(|n| StreamId(n * 2)).collect();
        assert!(ids.iter().all(|&id| table.admit(id, ())));
        let extra = StreamId(9000);
        assert!(!table.admit(extra, ()));
        assert!(table.accept(ids[0]) && !table.accept(ids[0]), "accepted once");
        assert!(table.admit(extra, ()));
        assert!(!table.admit(StreamId(9002), ()));
        table.remove(ids[1]);
        assert!(table.admit(StreamId(9002), ()));
        assert!(table.finish_local(ids[2]) && table.finish_remote(ids[2]));
        assert!(table.admit(StreamId(9004), ()));
        assert_eq!(table.len(), ACCEPT_BACKLOG + 1);
    }

    #[test]
    fn both_directions_share_the_limit() {
        let mut table = table(1, 2);
        let ours = table.open((), false).unwrap();
        assert!(table.admit(StreamId(2), ()));
        assert!(!table.admit(StreamId(4), ()));
        assert_eq!(table.open((), false), None);
        table.remove(ours);
        assert!(table.open((), false).is_some());
    }

    #[test]
    fn a_stream_is_gone_when_both_halves_have_ended() {
        let mut table = table(1, 8);
        let id = table.open((), true).unwrap();
        assert_eq!(table.unacked_count(), 1);
        assert!(table.finish_local(id) && !table.finish_local(id));
        assert_eq!(table.len(), 1);
        assert!(table.finish_remote(id) && !table.finish_remote(id));
        assert_eq!((table.len(), table.unacked_count()), (0, 0));
    }
}
