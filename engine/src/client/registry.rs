//! Which keys run a client in this process.
//!
//! A server keeps one session per key, the newest (`wire.md §3.1`). Two clients with one key would
//! close each other's sessions for ever, so the second is refused at its start.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::identity::PublicKey;

static KEYS: Mutex<BTreeSet<PublicKey>> = Mutex::new(BTreeSet::new());

fn keys() -> MutexGuard<'static, BTreeSet<PublicKey>> {
    KEYS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The right to run the client of one key; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct KeyGuard(PublicKey);

impl KeyGuard {
    /// `None` when a client with this key runs already.
    pub(crate) fn acquire(key: PublicKey) -> Option<Self> {
        // Lazily: a guard made and dropped here would give back the key that another one holds.
        let inserted = keys().insert(key);
        inserted.then(|| Self(key))
    }
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        keys().remove(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::SecretKey;

    #[test]
    fn a_key_is_held_once_and_comes_back() {
        let key = SecretKey::from_seed(b"registry").public_key();
        let first = KeyGuard::acquire(key);
        assert!(first.is_some() && KeyGuard::acquire(key).is_none());
        drop(first);
        assert!(KeyGuard::acquire(key).is_some());
    }
}
