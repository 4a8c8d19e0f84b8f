//! What is known without asking anybody.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use dmsg_engine::{client::ServerRecord, identity::PublicKey};

/// Keys that may be pinned: the seven services of a deployment, and as many again for each of a few others.
const PINNED_MAX: usize = 64;

/// Servers that are remembered from the discovery's lists, as many as one of them may have.
const LEARNED_MAX: usize = crate::discovery::store::SERVERS_MAX;

/// A pinned peer is sought behind no more servers than this, unless more are configured. A dial tries the sessions that
/// are up and two more; services hold sessions with the servers that their deployment names, not with every other one.
const SOUGHT_BEHIND_MAX: usize = 16;

/// Servers of the configuration, those kept on disk, those of the discovery's lists, and the peers that are found behind
/// them: the services of the deployment, its discovery above all.
#[derive(Debug, Default)]
pub struct StaticMap {
    configured: Vec<ServerRecord>,
    pinned: Mutex<BTreeMap<PublicKey, Entry>>,
    learned: Mutex<Lists>,
    has_begun: AtomicBool,
}

/// What the discovery may say of a pinned peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// It may have an entry, which names the servers that it is behind now.
    Possible,
    /// It has none, or asking for it would lead back to itself.
    Never,
}

/// A server that is missing from one list is kept for one more: lists are made while servers restart. What was kept
/// over our own restart counts until there is a list.
#[derive(Debug, Default)]
struct Lists {
    kept: Vec<ServerRecord>,
    last: Vec<ServerRecord>,
    before: Vec<ServerRecord>,
}

impl StaticMap {
    /// These servers, and no peers yet.
    #[must_use]
    pub fn new(configured: Vec<ServerRecord>) -> Self {
        Self { configured, ..Self::default() }
    }

    /// With servers that the discovery listed before a restart of ours.
    #[must_use]
    pub fn with_kept(self, mut kept: Vec<ServerRecord>) -> Self {
        kept.truncate(LEARNED_MAX);
        lock(&self.learned).kept = kept;
        self
    }

    /// Adds a peer that is found behind the servers. Beyond 64 it is not added, and the discovery is asked for it.
    pub fn pin(&self, peer: PublicKey) {
        self.add(peer, Entry::Possible);
    }

    /// The same for the discovery itself, which nobody is asked for.
    pub fn pin_discovery(&self, peer: PublicKey) {
        self.add(peer, Entry::Never);
    }

    fn add(&self, peer: PublicKey, entry: Entry) {
        let mut pinned = lock(&self.pinned);
        if entry == Entry::Never || (pinned.len() < PINNED_MAX && !pinned.contains_key(&peer)) {
            pinned.insert(peer, entry);
        } else if !pinned.contains_key(&peer) {
            tracing::warn!(%peer, "{PINNED_MAX} peers are pinned already: this one is looked up");
        }
    }

    /// Whether it is such a peer.
    #[must_use]
    pub fn is_pinned(&self, peer: &PublicKey) -> bool {
        lock(&self.pinned).contains_key(peer)
    }

    /// Whether the discovery may be asked for it.
    pub(super) fn may_have_entry(&self, peer: &PublicKey) -> bool {
        lock(&self.pinned).get(peer) != Some(&Entry::Never)
    }

    /// All servers known now; what the discovery says of one wins over the configuration, which may be old.
    #[must_use]
    pub fn servers(&self) -> Vec<ServerRecord> {
        let learned = lock(&self.learned);
        let mut by_key: BTreeMap<_, &ServerRecord> = BTreeMap::new();
        let lists = [&self.configured, &learned.kept, &learned.before, &learned.last];
        for server in lists.into_iter().flatten() {
            by_key.insert(server.key, server);
        }
        by_key.into_values().cloned().collect()
    }

    /// The servers behind which a pinned peer is sought.
    #[must_use]
    pub fn servers_of_pinned(&self) -> Vec<ServerRecord> {
        let mut servers = self.servers();
        if servers.len() > SOUGHT_BEHIND_MAX && self.has_configured() {
            servers.retain(|server| self.is_configured(&server.key));
        }
        servers
    }

    /// Where a service is sought whose entry names these servers: there first, then where any pinned peer is.
    pub(super) fn servers_of_service(&self, named: Vec<ServerRecord>) -> Vec<ServerRecord> {
        let mut servers = named;
        for server in self.servers_of_pinned() {
            if servers.iter().all(|named| named.key != server.key) {
                servers.push(server);
            }
        }
        servers
    }

    pub(super) fn is_configured(&self, server: &PublicKey) -> bool {
        self.configured.iter().any(|configured| configured.key == *server)
    }

    pub(super) fn has_configured(&self) -> bool {
        !self.configured.is_empty()
    }

    pub(super) fn has_servers(&self) -> bool {
        let learned = lock(&self.learned);
        self.has_configured() || !learned.last.is_empty() || !learned.kept.is_empty()
    }

    /// Files a list of the discovery. An empty one says that it is in trouble, not that there are no servers.
    pub(super) fn learn(&self, mut listed: Vec<ServerRecord>) {
        if listed.is_empty() {
            return;
        }
        listed.truncate(LEARNED_MAX);
        let mut learned = lock(&self.learned);
        learned.kept = Vec::new();
        learned.before = std::mem::replace(&mut learned.last, listed);
    }

    /// True the first time.
    pub(super) fn begin(&self) -> bool {
        !self.has_begun.swap(true, Relaxed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use dmsg_engine::identity::SecretKey;

    use super::*;

    fn server(name: &str, address: &str) -> ServerRecord {
        let key = SecretKey::from_seed(name.as_bytes()).public_key();
        ServerRecord { key, address: address.to_owned(), available_sessions: 1 }
    }

    fn addresses(map: &StaticMap) -> BTreeSet<String> {
        map.servers().into_iter().map(|server| server.address).collect()
    }

    #[test]
    fn lists_are_laid_over_the_configuration_and_outlive_one_gap() {
        let map = StaticMap::new(vec![server("a", "old:1"), server("b", "b:1")]);
        let set = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        assert_eq!(addresses(&map), set(&["old:1", "b:1"]));
        map.learn(vec![server("a", "new:1"), server("c", "c:1")]);
        assert_eq!(addresses(&map), set(&["new:1", "b:1", "c:1"]));
        map.learn(Vec::new());
        map.learn(vec![server("a", "new:1")]);
        assert_eq!(addresses(&map), set(&["new:1", "b:1", "c:1"]), "c was absent once");
        map.learn(vec![server("a", "new:1")]);
        assert_eq!(addresses(&map), set(&["new:1", "b:1"]), "and is gone after twice");
    }

    #[test]
    fn what_was_kept_counts_until_there_is_a_list() {
        let kept = vec![server("a", "new:1"), server("gone", "gone:1")];
        let map = StaticMap::new(vec![server("a", "old:1")]).with_kept(kept);
        let set = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        assert_eq!(addresses(&map), set(&["new:1", "gone:1"]));
        map.learn(Vec::new());
        assert_eq!(addresses(&map), set(&["new:1", "gone:1"]), "an empty list is none");
        map.learn(vec![server("a", "newest:1")]);
        assert_eq!(addresses(&map), set(&["newest:1"]));
        let map = StaticMap::default().with_kept(vec![server("a", "a:1")]);
        assert!(map.has_servers() && !map.has_configured());
        let map = StaticMap::default().with_kept(vec![server("a", "a:1"); LEARNED_MAX + 1]);
        assert_eq!(lock(&map.learned).kept.len(), LEARNED_MAX);
    }

    #[test]
    fn a_pinned_peer_is_sought_behind_the_configured_servers_if_there_are_many() {
        let map = StaticMap::new(vec![server("a", "old:1")]);
        let listed = |count: usize| {
            let other = |n: usize| server(&format!("other {n}"), "o:1");
            (1..count).map(other).chain([server("a", "new:1")]).collect::<Vec<_>>()
        };
        map.learn(listed(SOUGHT_BEHIND_MAX));
        assert_eq!(map.servers_of_pinned().len(), SOUGHT_BEHIND_MAX);
        map.learn(listed(SOUGHT_BEHIND_MAX + 1));
        assert_eq!(map.servers_of_pinned(), [server("a", "new:1")]);
    }

    #[test]
    fn a_service_is_sought_first_where_its_entry_says_and_then_where_it_may_be() {
        let map = StaticMap::new(vec![server("a", "a:1"), server("b", "b:1")]);
        let named = vec![server("far", "far:1"), server("b", "b:2")];
        let sought: Vec<_> =
            map.servers_of_service(named).into_iter().map(|server| server.address).collect();
        assert_eq!(sought, ["far:1", "b:2", "a:1"]);
    }

    #[test]
    fn no_more_peers_are_pinned_than_allowed() {
        let map = StaticMap::default();
        let key = |n: usize| SecretKey::from_seed(&n.to_be_bytes()).public_key();
        (0..PINNED_MAX + 5).for_each(|n| map.pin(key(n)));
        assert!(map.is_pinned(&key(PINNED_MAX - 1)) && !map.is_pinned(&key(PINNED_MAX)));
    }

    #[test]
    fn no_more_servers_are_learned_than_a_list_may_have() {
        let map = StaticMap::default();
        let one = server("a", "a:1");
        map.learn(vec![one; LEARNED_MAX + 1]);
        assert_eq!(lock(&map.learned).last.len(), LEARNED_MAX);
    }
}
