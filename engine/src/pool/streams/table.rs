//! What the lock of a [`super::StreamPool`] guards.
//!
//! The order of candidates is lazy: an entry stands where it was when it was queued, and only when
//! it comes up is it compared with what its stream did since, and moved. So progress costs no lock,
//! and each move is paid for by a stream that made some.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::sync::oneshot;

use super::{
    BUSY, CensusLine, Holder, IDLE, RECLAIMED, Scope, StreamCounts, StreamLimits, StreamPermit,
    StreamUse, StreamsExhausted, UNREAD, lock, pack,
};
use crate::identity::PublicKey;

/// Idle ones first, then by last progress; the number makes it unique.
type Key = (bool, u64, u64);

type Destination = Option<PublicKey>;

#[derive(Default)]
struct Place {
    used: usize,
    order: BTreeSet<Key>,
    waiting: VecDeque<(Holder, oneshot::Sender<StreamPermit>)>,
}

struct Slot {
    usage: Arc<StreamUse>,
    key: Option<Key>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Table {
    live: HashMap<u64, Slot>,
    order: BTreeSet<Key>,
    destinations: HashMap<Destination, Place>,
    /// Destinations that somebody waits for, in the order of their turns.
    turns: VecDeque<Destination>,
    waiting_count: usize,
    next_id: u64,
    used_peak: usize,
    reclaimed: u64,
    pub(super) is_pumping: bool,
}

/// What a pump does next.
pub(super) enum Step {
    Grant(Holder, oneshot::Sender<StreamPermit>),
    Reclaim(Victim),
    Done,
}

/// A stream that was taken back; its place is free already.
pub(super) struct Victim {
    usage: Arc<StreamUse>,
    unread_for: Duration,
}

impl Victim {
    /// Ends the stream; not under the pool's lock.
    pub(super) fn fire(self) {
        let callbacks = std::mem::take(&mut *lock(&self.usage.on_reclaim));
        for end in callbacks {
            end(self.unread_for);
        }
    }
}

/// Places.
impl Table {
    pub(super) fn used(&self) -> usize {
        self.live.len()
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.turns.is_empty()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.live.is_empty()
            && self.order.is_empty()
            && self.destinations.is_empty()
            && self.turns.is_empty()
            && self.waiting_count == 0
    }

    pub(super) fn counts(&self) -> StreamCounts {
        StreamCounts {
            used: self.used(),
            used_peak: self.used_peak,
            waiting: self.waiting_count,
            reclaimed: self.reclaimed,
        }
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Which limit stands in the holder's way.
    pub(super) fn full(&self, holder: &Holder, limits: &StreamLimits) -> Option<Scope> {
        if self.is_capped(holder.destination, limits) {
            return Some(Scope::Destination);
        }
        // Whoever waits and could have the place goes first.
        let claimed = self.turns.iter().filter(|&&other| !self.is_capped(other, limits)).count();
        (self.used() + claimed >= limits.total_max).then_some(Scope::Total)
    }

    pub(super) fn insert(&mut self, usage: Arc<StreamUse>) {
        self.destinations.entry(usage.holder.destination).or_default().used += 1;
        self.live.insert(usage.id, Slot { usage, key: None });
        self.used_peak = self.used_peak.max(self.live.len());
    }

    pub(super) fn release(&mut self, id: u64) -> Option<Arc<StreamUse>> {
        self.unqueue(id);
        let usage = self.live.remove(&id)?.usage;
        if let Some(place) = self.destinations.get_mut(&usage.holder.destination) {
            place.used -= 1;
        }
        self.tidy(usage.holder.destination);
        Some(usage)
    }

    fn is_capped(&self, destination: Destination, limits: &StreamLimits) -> bool {
        let used = self.destinations.get(&destination).map_or(0, |place| place.used);
        destination.is_some() && used >= limits.per_destination_max
    }

    /// Forgets a destination without streams and without anybody waiting.
    fn tidy(&mut self, destination: Destination) {
        if self
            .destinations
            .get(&destination)
            .is_some_and(|place| place.used == 0 && place.waiting.is_empty())
        {
            self.destinations.remove(&destination);
        }
    }

    pub(super) fn census(&self, now: u64) -> Vec<CensusLine> {
        let mut lines: BTreeMap<&Holder, CensusLine> = BTreeMap::new();
        for Slot { usage, .. } in self.live.values() {
            let line = lines.entry(&usage.holder).or_insert_with(|| CensusLine {
                holder: usage.holder.clone(),
                streams: 0,
                unread: 0,
                oldest_progress: Duration::ZERO,
            });
            let (state, since) = usage.load();
            let age = Duration::from_micros(now.saturating_sub(since));
            line.streams += 1;
            line.unread += usize::from(state == UNREAD);
            line.oldest_progress = line.oldest_progress.max(age);
        }
        let mut lines: Vec<_> = lines.into_values().collect();
        lines.sort_by_key(|line| std::cmp::Reverse(line.streams));
        lines
    }
}

/// The queue.
impl Table {
    pub(super) fn enqueue(
        &mut self,
        holder: Holder,
        turn: oneshot::Sender<StreamPermit>,
        limits: &StreamLimits,
    ) -> Result<(), StreamsExhausted> {
        let destination = holder.destination;
        let waiting = self.destinations.get(&destination).map_or(0, |place| place.waiting.len());
        if waiting >= limits.waiting_per_destination_max || self.waiting_count >= limits.waiting_max
        {
            self.forget_those_who_left();
        }
        let waiting = self.destinations.get(&destination).map_or(0, |place| place.waiting.len());
        if self.waiting_count >= limits.waiting_max {
            return Err(StreamsExhausted { max: limits.total_max, scope: Scope::Total });
        }
        if waiting >= limits.waiting_per_destination_max {
            let max = limits.per_destination_max;
            return Err(StreamsExhausted { max, scope: Scope::Destination });
        }
        if waiting == 0 {
            self.turns.push_back(destination);
        }
        self.destinations.entry(destination).or_default().waiting.push_back((holder, turn));
        self.waiting_count += 1;
        Ok(())
    }

    pub(super) fn forget_those_who_left(&mut self) {
        for place in self.destinations.values_mut() {
            place.waiting.retain(|(_, turn)| !turn.is_closed());
        }
        self.waiting_count = self.destinations.values().map(|place| place.waiting.len()).sum();
        let (destinations, turns) = (&self.destinations, &mut self.turns);
        turns.retain(|key| destinations.get(key).is_some_and(|place| !place.waiting.is_empty()));
        self.destinations.retain(|_, place| place.used > 0 || !place.waiting.is_empty());
    }

    /// The next grant, or the reclaim that makes room for it. Destinations take turns, so nobody's
    /// crowd holds up somebody else.
    pub(super) fn step(&mut self, limits: &StreamLimits, now: u64) -> Step {
        let is_full = self.used() >= limits.total_max;
        for _ in 0..self.turns.len() {
            let Some(destination) = self.turns.pop_front() else { break };
            let is_capped = self.is_capped(destination, limits);
            if is_capped || is_full {
                let scope = if is_capped { Scope::Destination } else { Scope::Total };
                let victim = self.victim(destination, scope, limits, now);
                if victim.is_none() && is_capped {
                    self.turns.push_back(destination);
                    continue;
                }
                // It stays its turn.
                self.turns.push_front(destination);
                return victim.map_or(Step::Done, Step::Reclaim);
            }
            if let Some(waiting) = self.next_waiting(destination) {
                return Step::Grant(waiting.0, waiting.1);
            }
        }
        Step::Done
    }

    /// The first who still waits for `destination`, which then is last in the turns again.
    fn next_waiting(
        &mut self,
        destination: Destination,
    ) -> Option<(Holder, oneshot::Sender<StreamPermit>)> {
        let place = self.destinations.get_mut(&destination)?;
        let mut found = None;
        while found.is_none()
            && let Some(waiting) = place.waiting.pop_front()
        {
            self.waiting_count -= 1;
            found = Some(waiting).filter(|(_, turn)| !turn.is_closed());
        }
        if place.waiting.is_empty() {
            self.tidy(destination);
        } else {
            self.turns.push_back(destination);
        }
        found
    }
}

/// Reclaiming.
impl Table {
    /// Notes a stream among the candidates, where its state puts it now.
    pub(super) fn queue(&mut self, usage: &StreamUse) {
        self.unqueue(usage.id);
        let (state, since) = usage.load();
        let Some(slot) = self.live.get_mut(&usage.id) else { return };
        let key = match state {
            UNREAD => (true, since, usage.id),
            IDLE => (false, since, usage.id),
            _ => {
                usage.queued.store(false, Ordering::SeqCst);
                // It may have become a candidate just before that.
                match usage.load() {
                    (UNREAD, since) => (true, since, usage.id),
                    (IDLE, since) => (false, since, usage.id),
                    _ => return,
                }
            }
        };
        usage.queued.store(true, Ordering::SeqCst);
        slot.key = Some(key);
        self.order.insert(key);
        if let Some(place) = self.destinations.get_mut(&usage.holder.destination) {
            place.order.insert(key);
        }
    }

    fn unqueue(&mut self, id: u64) {
        let Some(slot) = self.live.get_mut(&id) else { return };
        let Some(key) = slot.key.take() else { return };
        self.order.remove(&key);
        if let Some(place) = self.destinations.get_mut(&slot.usage.holder.destination) {
            place.order.remove(&key);
        }
    }

    /// The stalest stream that may be taken back for `destination`; its place is free then.
    pub(super) fn victim(
        &mut self,
        destination: Destination,
        scope: Scope,
        limits: &StreamLimits,
        now: u64,
    ) -> Option<Victim> {
        loop {
            let first = match scope {
                Scope::Total => self.order.first(),
                Scope::Destination => self.destinations.get(&destination)?.order.first(),
            };
            let key @ (_, _, id) = *first?;
            let usage = Arc::clone(&self.live.get(&id)?.usage);
            if !is_at(&usage, key) {
                self.queue(&usage);
                continue;
            }
            if !is_ripe(key, limits, now) {
                return None;
            }
            if let Some(victim) = self.take_at(&usage, key, now) {
                return Some(victim);
            }
        }
    }

    /// Like [`Table::victim`], among the streams with a tag.
    pub(super) fn victim_tagged(
        &mut self,
        tag: u64,
        limits: &StreamLimits,
        now: u64,
    ) -> Option<Victim> {
        let found = self.order.iter().copied().find(|&key| {
            is_ripe(key, limits, now)
                && self.live.get(&key.2).is_some_and(|slot| {
                    slot.usage.tag.load(Ordering::Relaxed) == tag && is_at(&slot.usage, key)
                })
        })?;
        let usage = Arc::clone(&self.live.get(&found.2)?.usage);
        self.take_at(&usage, found, now)
    }

    /// Takes back whatever state it is in.
    pub(super) fn take_back(&mut self, id: u64, now: u64) -> Option<Victim> {
        let victim = self.give_up(id, now)?;
        self.reclaimed += 1;
        Some(victim)
    }

    /// The same at its holder's wish.
    pub(super) fn give_up(&mut self, id: u64, now: u64) -> Option<Victim> {
        let usage = self.release(id)?;
        let (_, since) = usage.load();
        usage.state.store(pack(RECLAIMED, since), Ordering::SeqCst);
        Some(Victim { usage, unread_for: Duration::from_micros(now.saturating_sub(since)) })
    }

    /// Takes a stream back unless it has moved on meanwhile.
    fn take_at(&mut self, usage: &Arc<StreamUse>, key: Key, now: u64) -> Option<Victim> {
        let state = if key.0 { UNREAD } else { IDLE };
        let (from, to) = (pack(state, key.1), pack(RECLAIMED, key.1));
        usage.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).ok()?;
        self.release(usage.id);
        self.reclaimed += 1;
        let unread_for = Duration::from_micros(now.saturating_sub(key.1));
        Some(Victim { usage: Arc::clone(usage), unread_for })
    }
}

/// Whether the stream is still as it was when it was queued.
fn is_at(usage: &StreamUse, key: Key) -> bool {
    match usage.load() {
        (UNREAD, since) => (true, since) == (key.0, key.1),
        (IDLE, since) => (false, since) == (key.0, key.1),
        (BUSY | RECLAIMED, _) | (_, _) => false,
    }
}

/// Whether a stream has been abandoned for long enough.
fn is_ripe(key: Key, limits: &StreamLimits, now: u64) -> bool {
    match limits.unread_min_age {
        Some(min) => !key.0 || u128::from(now.saturating_sub(key.1)) >= min.as_micros(),
        None => false,
    }
}
