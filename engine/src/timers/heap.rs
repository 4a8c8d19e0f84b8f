//! Deadlines whose owners remember where they are: a third of the memory of a [`super::TimerQueue`], for owners by the ten
//! thousand.
//!
//! ```text
//!   owner: Place ─▶ entries  │ at, serial, key, position │ …          heap (4-ary, by at and serial)  │ entry │ entry │ …
//!                                              ╰───────────────────────────────▶ where it stands
//! ```
//!
//! A place is a hint: whoever was popped or cancelled may keep it, since an entry counts only if its key is the owner's. So two
//! owners never have the same key, and an owner uses one place only.

use std::time::Instant;

/// Where an owner's deadline is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(u32);

impl Place {
    /// Nowhere.
    pub const NONE: Self = Self(u32::MAX);
}

impl Default for Place {
    fn default() -> Self {
        Self::NONE
    }
}

#[derive(Debug, Clone)]
struct Entry<K> {
    at: Instant,
    /// Keeps deadlines of one instant in the order they were set, so a simulation replays.
    serial: u32,
    /// In the heap; of a free entry, the next free one.
    position: u32,
    /// `None` for a free entry.
    key: Option<K>,
}

/// A set of deadlines, earliest first.
#[derive(Debug, Clone)]
pub struct TimerHeap<K> {
    entries: Vec<Entry<K>>,
    heap: Vec<u32>,
    first_free: u32,
    serial: u32,
}

/// No entry.
const NONE: u32 = u32::MAX;

/// Children of a node: a flatter heap has fewer entries to visit on the way.
const ARITY: usize = 4;

impl<K> Default for TimerHeap<K> {
    fn default() -> Self {
        Self { entries: Vec::new(), heap: Vec::new(), first_free: NONE, serial: 0 }
    }
}

impl<K: Copy + PartialEq> TimerHeap<K> {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the deadline of `key`, whose place is `place`, instead of the one it had.
    pub fn set(&mut self, place: &mut Place, key: K, at: Instant) {
        self.cancel(place, key);
        self.serial = self.serial.wrapping_add(1);
        let entry = Entry {
            at,
            serial: self.serial,
            position: u32::try_from(self.heap.len()).expect("deadlines are far below 2^32"),
            key: Some(key),
        };
        let number = self.first_free;
        if let Some(free) = self.entries.get_mut(number as usize) {
            self.first_free = free.position;
            *free = entry;
            place.0 = number;
        } else {
            place.0 = u32::try_from(self.entries.len()).expect("as above");
            self.entries.push(entry);
        }
        self.heap.push(place.0);
        self.rise(self.heap.len() - 1);
    }

    /// Forgets the deadline of `key`, if it has one.
    pub fn cancel(&mut self, place: &mut Place, key: K) {
        let number = std::mem::take(place).0;
        let entry = self.entries.get(number as usize).filter(|entry| entry.key == Some(key));
        if let Some(position) = entry.map(|entry| entry.position as usize) {
            self.remove(position);
        }
    }

    /// The earliest deadline.
    #[must_use]
    pub fn next_at(&self) -> Option<Instant> {
        Some(self.entries[*self.heap.first()? as usize].at)
    }

    /// Removes and returns the key with the earliest deadline, if that is not after `now`.
    pub fn pop_due(&mut self, now: Instant) -> Option<K> {
        if self.next_at()? > now {
            return None;
        }
        self.remove(0)
    }

    /// Deadlines that are set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether no deadline is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    fn remove(&mut self, position: usize) -> Option<K> {
        let number = self.heap.swap_remove(position);
        if position < self.heap.len() {
            self.entries[self.heap[position] as usize].position = position as u32;
            self.sink(position);
            self.rise(position);
        }
        let free = &mut self.entries[number as usize];
        let key = free.key.take();
        free.position = std::mem::replace(&mut self.first_free, number);
        if self.heap.is_empty() {
            // The memory of a heap that had many goes with the last.
            *self = Self { serial: self.serial, ..Self::default() };
        }
        key
    }

    fn is_before(&self, a: u32, b: u32) -> bool {
        let (a, b) = (&self.entries[a as usize], &self.entries[b as usize]);
        // Serials may wrap; those of one instant are near each other.
        a.at < b.at || a.at == b.at && b.serial.wrapping_sub(a.serial) < 1 << 31
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        for position in [a, b] {
            self.entries[self.heap[position] as usize].position = position as u32;
        }
    }

    fn rise(&mut self, mut position: usize) {
        while position > 0 {
            let parent = (position - 1) / ARITY;
            if !self.is_before(self.heap[position], self.heap[parent]) {
                return;
            }
            self.swap(position, parent);
            position = parent;
        }
    }

    fn sink(&mut self, mut position: usize) {
        loop {
            let children = ARITY * position + 1..(ARITY * (position + 1) + 1).min(self.heap.len());
            let least = children.reduce(|least, child| {
                if self.is_before(self.heap[child], self.heap[least]) { child } else { least }
            });
            let Some(child) = least else { return };
            if !self.is_before(self.heap[child], self.heap[position]) {
                return;
            }
            self.swap(position, child);
            position = child;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::timers::TimerQueue;

    proptest! {
        #[test]
        fn it_does_what_a_timer_queue_does(
            steps in proptest::collection::vec((0..24usize, 0..40u64, 0..6u8), 0..300),
        ) {
            let start = Instant::now();
            let (mut heap, mut queue) = (TimerHeap::new(), TimerQueue::new());
            let mut places = [Place::NONE; 24];
            heap.set(&mut places[0], 0, start);
            queue.set(0, start);
            for (key, ms, act) in steps {
                let at = start + Duration::from_millis(ms);
                match act {
                    0 => {
                        heap.cancel(&mut places[key], key);
                        queue.cancel(key);
                    }
                    1 => prop_assert_eq!(heap.pop_due(at), queue.pop_due(at)),
                    _ => {
                        heap.set(&mut places[key], key, at);
                        queue.set(key, at);
                    }
                }
                prop_assert_eq!((heap.next_at(), heap.len()), (queue.next_at(), queue.len()));
            }
            let end = start + Duration::from_secs(1);
            while let Some(key) = queue.pop_due(end) {
                prop_assert_eq!(heap.pop_due(end), Some(key));
            }
            prop_assert!(heap.is_empty() && heap.entries.capacity() == 0);
        }
    }
}
