//! Keys and signatures as they stand in the services' JSON, for serde's `with`.

use dmsg_engine::identity::PublicKey;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A public key that serde writes as 66 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyText(pub PublicKey);

impl Serialize for KeyText {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for KeyText {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse().map(Self).map_err(D::Error::custom)
    }
}

/// One key.
pub(super) mod one {
    use super::*;

    pub(in crate::services) fn serialize<S: Serializer>(
        key: &PublicKey,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        KeyText(*key).serialize(to)
    }

    pub(in crate::services) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<PublicKey, D::Error> {
        KeyText::deserialize(from).map(|key| key.0)
    }
}

/// The two ends of a transport.
pub(super) mod two {
    use super::*;

    pub(in crate::services) fn serialize<S: Serializer>(
        keys: &[PublicKey; 2],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        keys.map(KeyText).serialize(to)
    }

    pub(in crate::services) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<[PublicKey; 2], D::Error> {
        <[KeyText; 2]>::deserialize(from).map(|keys| keys.map(|key| key.0))
    }
}
