//! What all KK handshakes with one peer have in common, so that only the first pays for it (`wire.md §2.1`).
//!
//! Two static keys give the same `ss` in each of their handshakes, and to find the point of the peer's key takes a
//! square root. Both together are a fifth of what a dial costs either end in computing.
//!
//! ```text
//!   known(key) ──▶ Peer ──▶ Handshake ──finished──▶ remember(peer)
//! ```
//!
//! An `ss` is as secret as the static key it comes from, which lies in the same memory, and is wiped when it goes.

use std::{fmt, sync::Arc};

use super::{kdf::Secret, recent::Recent};
use crate::identity::{KeyError, KeyPoint, PublicKey, SecretKey};

/// A peer's static key, and what has been computed with it.
#[derive(Clone)]
pub(crate) struct Peer {
    point: KeyPoint,
    /// Set by the first handshake. Shared, so that no copies of it are left about.
    shared: Option<Arc<Secret>>,
}

impl Peer {
    /// Finds the point of a key.
    pub(crate) fn from_bytes(key: &[u8; PublicKey::LEN]) -> Result<Self, KeyError> {
        KeyPoint::from_bytes(key).map(Self::from)
    }

    /// Whose key it is.
    pub(crate) fn key(&self) -> &PublicKey {
        self.point.key()
    }

    pub(super) fn point(&self) -> &KeyPoint {
        &self.point
    }

    /// `ss` with the static key `local`, which must be the same each time.
    pub(super) fn shared(&mut self, local: &SecretKey) -> Arc<Secret> {
        let point = &self.point;
        Arc::clone(self.shared.get_or_insert_with(|| Arc::new(local.ecdh_with(point))))
    }
}

impl From<KeyPoint> for Peer {
    fn from(point: KeyPoint) -> Self {
        Self { point, shared: None }
    }
}

impl From<PublicKey> for Peer {
    fn from(key: PublicKey) -> Self {
        KeyPoint::from(key).into()
    }
}

/// The peers that were met last, of one static key; about 250 bytes each, so 256 KiB at most.
#[derive(Default)]
pub(crate) struct Peers(Recent<Peer>);

impl Peers {
    /// The peer with these bytes for a key, if it was met.
    pub(crate) fn known(&mut self, key: &[u8; PublicKey::LEN]) -> Option<Peer> {
        self.0.get(key).cloned()
    }

    /// Keeps a peer that has proved in a handshake to hold its key.
    pub(crate) fn remember(&mut self, peer: Peer) {
        self.0.keep(*peer.key().as_bytes(), peer);
    }

    /// How many are kept.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peers({} known)", self.len())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn key(seed: usize) -> PublicKey {
        SecretKey::from_seed(&seed.to_be_bytes()).public_key()
    }

    #[test]
    fn the_shared_secret_is_computed_once_and_is_the_dh() {
        let local = SecretKey::from_seed(b"local");
        let mut peer = Peer::from(key(1));
        let first = peer.shared(&local);
        assert_eq!(*first, local.ecdh(&key(1)));
        assert!(Arc::ptr_eq(&first, &peer.clone().shared(&local)));
    }

    #[test]
    fn who_was_met_is_known() {
        let mut peers = Peers::default();
        peers.remember(key(0).into());
        assert!(peers.known(key(0).as_bytes()).is_some());
        assert!(peers.known(key(1).as_bytes()).is_none());
        assert_eq!(format!("{peers:?}"), "Peers(1 known)");
    }
}
