//! Deadlines of a state machine: at most one per key, earliest first.
//!
//! ```text
//!   by_key:  key ─▶ (at, serial)          by_time:  (at, serial) ─▶ key
//! ```
//!
//! Both maps hold the same entries. The serial keeps deadlines of one instant in the order they
//! were set, so a simulation replays. Everything is O(log n) in the number of keys, and the number
//! of keys is bounded by whoever owns them: setting a key again replaces its deadline.
//!
//! The queue reads no clock; a machine asks [`TimerQueue::next_at`] for [`crate::io::Io::wake_at`]
//! and drains [`TimerQueue::pop_due`] on `timeout`.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// The longest time that anybody is made to wait. Who configures more means for ever, and gets this, since a moment so far
/// away that no clock has it cannot be a deadline.
pub const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// A set of deadlines, one per key.
#[derive(Debug, Clone)]
pub struct TimerQueue<K> {
    by_time: BTreeMap<(Instant, u64), K>,
    by_key: BTreeMap<K, (Instant, u64)>,
    serial: u64,
}

impl<K> Default for TimerQueue<K> {
    fn default() -> Self {
        Self { by_time: BTreeMap::new(), by_key: BTreeMap::new(), serial: 0 }
    }
}

impl<K: Ord + Copy> TimerQueue<K> {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the deadline of `key`, in place of the one it had.
    pub fn set(&mut self, key: K, at: Instant) {
        self.cancel(key);
        self.serial += 1;
        self.by_time.insert((at, self.serial), key);
        self.by_key.insert(key, (at, self.serial));
    }

    /// Forgets the deadline of `key`, if it has one.
    pub fn cancel(&mut self, key: K) {
        if let Some(place) = self.by_key.remove(&key) {
            self.by_time.remove(&place);
        }
    }

    /// The deadline of `key`.
    #[must_use]
    pub fn at(&self, key: K) -> Option<Instant> {
        self.by_key.get(&key).map(|&(at, _)| at)
    }

    /// The earliest deadline.
    #[must_use]
    pub fn next_at(&self) -> Option<Instant> {
        self.by_time.first_key_value().map(|(&(at, _), _)| at)
    }

    /// Removes and returns the key with the earliest deadline, if that is not after `now`.
    pub fn pop_due(&mut self, now: Instant) -> Option<K> {
        let first = self.by_time.first_entry().filter(|entry| entry.key().0 <= now)?;
        let key = first.remove();
        self.by_key.remove(&key);
        Some(key)
    }

    /// Deadlines that are set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether no deadline is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn due(queue: &mut TimerQueue<u32>, now: Instant) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop_due(now)).collect()
    }

    #[test]
    fn keys_come_due_in_order_of_time_then_of_setting() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut queue = TimerQueue::new();
        for (key, ms) in [(1, 30), (2, 10), (9, 20), (3, 20)] {
            queue.set(key, at(ms));
        }
        assert_eq!(queue.next_at(), Some(at(10)));
        assert_eq!(due(&mut queue, at(20)), [2, 9, 3]);
        assert!(due(&mut queue, at(29)).is_empty());
        assert_eq!(due(&mut queue, at(30)), [1]);
        assert!(queue.is_empty() && queue.next_at().is_none());
    }

    #[test]
    fn setting_again_replaces_and_cancelling_forgets() {
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        let mut queue = TimerQueue::new();
        queue.set(7, start);
        queue.set(7, later);
        queue.set(8, start);
        queue.cancel(8);
        queue.cancel(8);
        assert_eq!((queue.len(), queue.at(7), queue.at(8)), (1, Some(later), None));
        assert!(due(&mut queue, start).is_empty());
        assert_eq!(due(&mut queue, later), [7]);
    }
}
