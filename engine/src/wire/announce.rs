//! Peer announcements: how a server of 2026 tells another that it is one (`wire.md §5.3`).

use std::sync::LazyLock;

use super::{
    GobError, ObjectError, SignedObject,
    gob::{self, Slot, Target, encode, id},
};
use crate::identity::PublicKey;

/// The first object on a link between servers. Only G26 has it, so it has one encoding.
///
/// A stream request decodes as an announcement with a null key, and an announcement as a request
/// without addresses: only [`PeerAnnounce::verify`] tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PeerAnnounce {
    /// Unix nanoseconds.
    pub timestamp: i64,
    /// The announcing server.
    pub src_key: Option<PublicKey>,
}

/// Room for the value: message header 12, timestamp 10, key 35, end 1.
const VALUE_BYTES: usize = 64;

/// Ids in the order in which a fresh encoder meets the types.
const ANNOUNCE: i64 = id::FIRST_OWN;
const KEY: i64 = ANNOUNCE + 1;

static DEFINITIONS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut out = Vec::new();
    let fields = [("Timestamp", id::INT), ("SrcPK", KEY)];
    encode::define_struct(&mut out, "PeerAnnounce", ANNOUNCE, &fields);
    encode::define_binary_marshaler(&mut out, "PubKey", KEY);
    out
});

impl PeerAnnounce {
    /// Gob bytes, as Go's fresh encoder gives them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(DEFINITIONS.len() + VALUE_BYTES);
        out.extend_from_slice(&DEFINITIONS);
        encode::value(&mut out, |fields| {
            fields.int(self.timestamp);
            fields.bytes(self.src_key.as_ref().map_or(&[], |key| &key.as_bytes()[..]));
        });
        out
    }

    /// Decodes the gob of an announcement, in any form Go takes (`wire.md §4.3`).
    pub fn decode(gob: &[u8]) -> Result<Self, GobError> {
        let mut announce = Self::default();
        gob::decode(gob, &mut announce)?;
        Ok(announce)
    }

    /// Whether this is an announcement by the peer of the session: its key is the session's, and
    /// it signed `object`, whose gob this was decoded from. The timestamp is not looked at
    /// (`wire.md §8`).
    pub fn verify(
        &self,
        object: &SignedObject,
        session_key: &PublicKey,
    ) -> Result<(), ObjectError> {
        let src = self.src_key.ok_or(ObjectError::SourceKeyNull)?;
        if src != *session_key {
            return Err(ObjectError::SourceKeyForeign);
        }
        object.verify(&src).map_err(ObjectError::RequestSignature)
    }
}

impl Target for PeerAnnounce {
    fn slot(&mut self, name: &[u8]) -> Option<Slot<'_>> {
        Some(match name {
            b"Timestamp" => Slot::Int64(&mut self.timestamp),
            b"SrcPK" => Slot::Key(&mut self.src_key),
            _ => return None,
        })
    }
}
