//! The name of a transport, written as a UUID.

use std::{fmt, str::FromStr};

use dmsg_engine::identity::{PublicKey, sha256};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// 16 bytes that follow from a transport's edges and type (`services.md §4.1`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransportId([u8; 16]);

/// A text that is no UUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no transport id: expected a UUID, 8-4-4-4-12 hex digits")]
pub struct BadTransportId(String);

impl TransportId {
    /// The id of the transport of this type between two visors, in either order.
    #[must_use]
    pub fn of(edges: [PublicKey; 2], kind: &str) -> Self {
        let [low, high] = super::entry::ascending(edges);
        let mut bytes = vec![0; 16];
        bytes.extend_from_slice(low.as_bytes());
        bytes.extend_from_slice(high.as_bytes());
        bytes.extend_from_slice(kind.as_bytes());
        let digest = sha256(&bytes);
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        id[6] &= 0x0f;
        id[8] = id[8] & 0x3f | 0x80;
        Self(id)
    }

    /// The bytes, as they are signed.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for TransportId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for TransportId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TransportId({self})")
    }
}

impl FromStr for TransportId {
    type Err = BadTransportId;

    fn from_str(text: &str) -> Result<Self, BadTransportId> {
        let bad = || BadTransportId(text.chars().take(48).collect());
        let groups: Vec<&str> = text.split('-').collect();
        if groups.iter().map(|group| group.len()).ne([8, 4, 4, 4, 12]) {
            return Err(bad());
        }
        let digits: Vec<u8> = groups.concat().into_bytes();
        let mut id = [0; 16];
        for (byte, pair) in id.iter_mut().zip(digits.chunks(2)) {
            let digit = |index: usize| {
                pair.get(index).and_then(|digit| char::from(*digit).to_digit(16)).ok_or_else(bad)
            };
            *byte = u8::try_from(digit(0)? << 4 | digit(1)?).map_err(|_| bad())?;
        }
        Ok(Self(id))
    }
}

impl Serialize for TransportId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TransportId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(D::Error::custom)
    }
}
