//! Values by stream id, found in constant time whatever ids a peer chooses.
//!
//! ```text
//!   index: id ─▶ slot          slots:  │ id, value │ id, value │ (free) │ …
//!                                          ▲
//!   a hint of whoever was here before ─────┘   checked by the id, so a stale one costs a look-up and nothing else
//! ```
//!
//! A frame names its stream by id, and peers choose half of the ids: hence a keyed hash. What is found through another
//! stream's state (the far half of a relayed stream) is found by a [`Hint`], without any hash.
//!
//! Nothing depends on the order of slots or of the index, so runs repeat although the key is random; whoever
//! needs an order gets [`IdMap::ids`], ascending.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hasher, RandomState},
    sync::LazyLock,
};

use super::StreamId;

/// Where a value was seen last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Hint(u32);

#[derive(Debug)]
struct Slot<T> {
    id: StreamId,
    value: Option<T>,
}

/// A map of stream ids.
#[derive(Debug)]
pub(crate) struct IdMap<T> {
    index: HashMap<StreamId, Hint, KeyedHash>,
    slots: Vec<Slot<T>>,
    free: Vec<Hint>,
}

impl<T> Default for IdMap<T> {
    fn default() -> Self {
        Self { index: HashMap::default(), slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> IdMap<T> {
    /// Values in the map.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// The ids, ascending.
    pub(crate) fn ids(&self) -> Vec<StreamId> {
        let mut ids: Vec<_> = self.index.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// All values with their ids, in no order that means anything.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (StreamId, &T)> {
        self.slots.iter().filter_map(|slot| slot.value.as_ref().map(|value| (slot.id, value)))
    }

    /// All values by ascending id.
    pub(crate) fn into_sorted(self) -> Vec<(StreamId, T)> {
        let slots = self.slots.into_iter();
        let mut all: Vec<_> = slots.filter_map(|s| s.value.map(|value| (s.id, value))).collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }

    /// The value of `id`.
    pub(crate) fn get(&self, id: StreamId) -> Option<&T> {
        let hint = self.index.get(&id)?;
        self.slots[hint.0 as usize].value.as_ref()
    }

    /// The same, to change it.
    pub(crate) fn get_mut(&mut self, id: StreamId) -> Option<&mut T> {
        let hint = self.index.get(&id)?;
        self.slots[hint.0 as usize].value.as_mut()
    }

    /// The value of `id`, looked for at `hint` first; `hint` is right afterwards.
    #[inline]
    pub(crate) fn find(&mut self, id: StreamId, hint: &mut Hint) -> Option<&mut T> {
        let is_here = |slot: &Slot<T>| slot.id == id && slot.value.is_some();
        if !self.slots.get(hint.0 as usize).is_some_and(is_here) {
            *hint = *self.index.get(&id)?;
        }
        self.slots[hint.0 as usize].value.as_mut()
    }

    /// Enters a value under an id that is free.
    pub(crate) fn insert(&mut self, id: StreamId, value: T) {
        debug_assert!(!self.index.contains_key(&id), "{id:?} is in use");
        let slot = Slot { id, value: Some(value) };
        let hint = match self.free.pop() {
            Some(hint) => {
                self.slots[hint.0 as usize] = slot;
                hint
            }
            None => {
                let hint = u32::try_from(self.slots.len()).expect("streams are far below 2^32");
                if self.slots.len() == self.slots.capacity() {
                    // By a quarter instead of doubling: a relay holds many maps, and most stay as they are.
                    self.slots.reserve_exact((self.slots.len() / 4).max(4));
                }
                self.slots.push(slot);
                Hint(hint)
            }
        };
        self.index.insert(id, hint);
    }

    /// Takes a value out. The memory of a map that had many goes with the last.
    pub(crate) fn remove(&mut self, id: StreamId) -> Option<T> {
        let hint = self.index.remove(&id)?;
        let value = self.slots[hint.0 as usize].value.take();
        self.free.push(hint);
        if self.index.is_empty() && self.slots.len() > KEPT_SLOTS {
            *self = Self::default();
        }
        value
    }
}

/// An empty map keeps so many slots: streams that come one after another need no allocation.
const KEPT_SLOTS: usize = 4;

/// One key for the process: peers do not know it, and cannot look for ids that meet in one place.
static KEY: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0u64));

/// An odd number without a pattern: 2⁶⁴ / φ.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

#[derive(Debug, Clone)]
struct KeyedHash(u64);

impl Default for KeyedHash {
    fn default() -> Self {
        Self(*KEY)
    }
}

impl BuildHasher for KeyedHash {
    type Hasher = IdHasher;

    fn build_hasher(&self) -> IdHasher {
        IdHasher { key: self.0, hash: 0 }
    }
}

/// Hashes one `u32`: both halves of a long product, which depend on all bits of id and key.
struct IdHasher {
    key: u64,
    hash: u64,
}

impl Hasher for IdHasher {
    fn write_u32(&mut self, id: u32) {
        let product = u128::from(self.key ^ u64::from(id).wrapping_mul(FACTOR))
            * u128::from(self.key.rotate_left(32) | 1);
        #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
        let (low, high) = (product as u64, (product >> 64) as u64);
        self.hash = low ^ high;
    }

    fn write(&mut self, _bytes: &[u8]) {
        debug_assert!(false, "an id is hashed as one u32");
    }

    fn finish(&self) -> u64 {
        self.hash
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map(steps in proptest::collection::vec((0u32..40, any::<bool>()), 0..400)) {
            let (mut map, mut oracle) = (IdMap::default(), BTreeMap::new());
            let mut hints = vec![Hint::default(); 40];
            for (serial, (number, insert)) in steps.into_iter().enumerate() {
                let id = StreamId(number);
                if insert && !oracle.contains_key(&id) {
                    map.insert(id, serial);
                    oracle.insert(id, serial);
                } else if !insert {
                    prop_assert_eq!(map.remove(id), oracle.remove(&id));
                }
                for (number, hint) in (0..).zip(&mut hints) {
                    let id = StreamId(number);
                    prop_assert_eq!(map.find(id, hint).copied(), oracle.get(&id).copied());
                    prop_assert_eq!(map.get(id), oracle.get(&id));
                }
            }
            prop_assert_eq!(map.ids(), oracle.keys().copied().collect::<Vec<_>>());
            prop_assert_eq!(map.into_sorted(), oracle.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn ids_of_any_stride_spread_over_the_index() {
        for stride in [1, 2, 1 << 8, 1 << 16, 1 << 20] {
            let mut buckets = [0u32; 256];
            for n in 0..4096u32 {
                let hash = KeyedHash::default().hash_one(StreamId(n.wrapping_mul(stride)));
                buckets[(hash & 255) as usize] += 1;
            }
            let fullest = buckets.iter().max().unwrap();
            assert!(*fullest < 64, "stride {stride}: {fullest} of 4096 in one of 256");
        }
    }

    #[test]
    fn a_map_that_had_many_lets_the_memory_go() {
        let mut map = IdMap::default();
        for n in 0..1000 {
            map.insert(StreamId(n), n);
        }
        for n in 0..1000 {
            map.remove(StreamId(n));
        }
        assert_eq!((map.slots.capacity(), map.index.capacity()), (0, 0));
    }
}
