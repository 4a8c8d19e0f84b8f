//! A memory of bounded size by public key, which forgets whom it has not met for longest.
//!
//! ```text
//!   keep ──▶ recent ──full──▶ earlier ──recent is full again──▶ forgotten
//!               ▲                │
//!               └─────── get ────┘
//! ```

use std::{collections::BTreeMap, fmt};

use crate::identity::PublicKey;

/// Keys of one generation.
const GENERATION_MAX: usize = 512;

/// Entries of both generations.
#[cfg(test)]
pub(crate) const RECENT_MAX: usize = 2 * GENERATION_MAX;

type Key = [u8; PublicKey::LEN];

/// See the module.
pub(crate) struct Recent<V> {
    recent: BTreeMap<Key, V>,
    earlier: BTreeMap<Key, V>,
}

impl<V> Recent<V> {
    /// What is kept under `key`, which counts as met now.
    pub(crate) fn get(&mut self, key: &Key) -> Option<&mut V> {
        if let Some(value) = self.earlier.remove(key) {
            self.keep(*key, value);
        }
        self.recent.get_mut(key)
    }

    /// Keeps `value` in the place of what was there.
    pub(crate) fn keep(&mut self, key: Key, value: V) {
        if self.recent.len() >= GENERATION_MAX && !self.recent.contains_key(&key) {
            self.earlier = std::mem::take(&mut self.recent);
        }
        self.earlier.remove(&key);
        self.recent.insert(key, value);
    }

    /// Forgets all for which `is_wanted` is false.
    pub(crate) fn retain(&mut self, mut is_wanted: impl FnMut(&mut V) -> bool) {
        self.recent.retain(|_, value| is_wanted(value));
        self.earlier.retain(|_, value| is_wanted(value));
    }

    /// How many are kept: two generations at most.
    pub(crate) fn len(&self) -> usize {
        self.recent.len() + self.earlier.len()
    }
}

impl<V> Default for Recent<V> {
    fn default() -> Self {
        Self { recent: BTreeMap::new(), earlier: BTreeMap::new() }
    }
}

impl<V> fmt::Debug for Recent<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recent({} kept)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Key {
        let mut key = [0; PublicKey::LEN];
        key[..8].copy_from_slice(&number.to_be_bytes());
        key
    }

    #[test]
    fn the_last_met_stay_and_there_are_never_more_than_two_generations() {
        let mut recent = Recent::default();
        recent.keep(key(0), 0);
        for number in 1..3 * GENERATION_MAX {
            recent.keep(key(number), number);
            assert_eq!(recent.get(&key(0)), Some(&mut 0), "at {number}");
            assert!(recent.len() <= RECENT_MAX);
        }
        assert_eq!(recent.get(&key(1)), None);
        assert_eq!(format!("{recent:?}"), format!("Recent({} kept)", recent.len()));
    }

    #[test]
    fn a_key_is_kept_once_and_goes_when_it_is_not_wanted() {
        let mut recent = Recent::default();
        for number in 0..=GENERATION_MAX {
            recent.keep(key(number), 1);
        }
        // Key 1 is in the earlier generation by now.
        recent.keep(key(1), 2);
        assert_eq!(recent.get(&key(1)), Some(&mut 2));
        assert_eq!(recent.len(), GENERATION_MAX + 1);
        recent.retain(|value| *value == 2);
        assert_eq!((recent.len(), recent.get(&key(1))), (1, Some(&mut 2)));
    }
}
