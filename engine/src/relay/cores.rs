//! Who is where: with the lanes between cores ([`Lanes`]) the only state that the cores of a server share.
//!
//! Asked once per dial and once per session, never per frame. Sharded, so that cores rarely meet; no lock is
//! held while anything else happens.

use std::{
    borrow::Borrow,
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{Command, lanes::Lanes};
use crate::{identity::PublicKey, io::ConnId};

/// Shards of the table: a few times the cores of a large machine.
const SHARDS: usize = 64;

/// Where a session lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionRef {
    /// Index of the core.
    pub core: u16,
    /// Its connection there.
    pub conn: ConnId,
}

/// The table can be asked for bytes that nobody has checked: what it finds is a key.
#[derive(PartialEq, Eq, Hash)]
struct TableKey(PublicKey);

impl Borrow<[u8; PublicKey::LEN]> for TableKey {
    fn borrow(&self) -> &[u8; PublicKey::LEN] {
        self.0.as_bytes()
    }
}

/// The session table of a server, and the way to each core.
pub struct Cores {
    shards: Vec<Mutex<HashMap<TableKey, SessionRef>>>,
    lanes: Lanes,
}

impl Cores {
    /// A table for `count` cores.
    #[must_use]
    pub fn new(count: u16) -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), lanes: Lanes::new(count) }
    }

    /// Tells how commands reach a core; each core does this once as it starts.
    pub fn register(&self, core: u16, post: impl Fn(Command) + Send + Sync + 'static) {
        self.lanes.register(core, Box::new(post));
    }

    /// Bytes that wait on the way from one core to another.
    #[must_use]
    pub fn bytes_between(&self, from: u16, to: u16) -> usize {
        self.lanes.bytes(from, to)
    }

    /// How many cores there are.
    #[must_use]
    pub fn count(&self) -> u16 {
        self.lanes.count()
    }

    pub(super) fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    /// Enters a session and returns the one it replaces.
    pub(super) fn enter(&self, key: PublicKey, session: SessionRef) -> Option<SessionRef> {
        self.shard(key.as_bytes()).insert(TableKey(key), session)
    }

    /// Removes `session`, unless a newer one of the same key has taken its place.
    pub(super) fn leave(&self, key: &PublicKey, session: SessionRef) {
        let mut shard = self.shard(key.as_bytes());
        if shard.get(key.as_bytes()) == Some(&session) {
            shard.remove(key.as_bytes());
        }
    }

    /// Removes all sessions of a core.
    pub(super) fn leave_all(&self, core: u16) {
        for shard in &self.shards {
            lock(shard).retain(|_, session| session.core != core);
        }
    }

    /// The session of a key.
    #[must_use]
    pub fn find(&self, key: &PublicKey) -> Option<SessionRef> {
        self.shard(key.as_bytes()).get(key.as_bytes()).copied()
    }

    /// The session of whatever key these bytes are, and the key.
    pub(super) fn find_bytes(&self, key: &[u8; PublicKey::LEN]) -> Option<(PublicKey, SessionRef)> {
        self.shard(key).get_key_value(key).map(|(key, session)| (key.0, *session))
    }

    /// Keys of all sessions.
    #[must_use]
    pub fn keys(&self) -> Vec<PublicKey> {
        self.shards
            .iter()
            .flat_map(|s| lock(s).keys().map(|key| key.0).collect::<Vec<_>>())
            .collect()
    }

    fn shard(&self, key: &[u8; PublicKey::LEN]) -> MutexGuard<'_, HashMap<TableKey, SessionRef>> {
        // The last byte of x is as good as random, and a peer gains nothing by choosing it: a shard is only a lock.
        lock(&self.shards[usize::from(key[32]) % SHARDS])
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while a shard is locked; a map is whole even if something did.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
