//! Recoverable signatures over SHA-256 (`wire.md §1.2`).
//!
//! ```text
//! | r, 32 bytes, big-endian | s, 32 bytes, big-endian | v, 1 byte: recovery id 0..3 |
//! ```

use std::{fmt, str::FromStr};

use secp256k1::{
    Message,
    ecdsa::{RecoverableSignature, RecoveryId},
};

use super::{
    KeyError, PublicKey, SecretKey, curve,
    key::{hex, unhex},
    sha256,
};

/// Half of the group order, big-endian: the largest `s` of a normalised signature.
const HALF_ORDER: [u8; 32] = [
    0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0x5d, 0x57, 0x6e, 0x73, 0x57, 0xa4, 0x50, 0x1d, 0xdf, 0xe9, 0x2f, 0x46, 0x68, 0x1b, 0x20, 0xa0,
];

/// Why a signature does not stand. One variant per rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// `s` is above half of the group order: a malleated copy of another signature.
    #[error("signature has a high s")]
    HighS,
    /// r or s is zero or not below the group order.
    #[error("signature has r or s outside 1..n")]
    OutOfRange,
    /// The recovery id is not 0..3.
    #[error("signature has recovery id {0}, allowed are 0 to 3")]
    RecoveryId(u8),
    /// No public key can be recovered.
    #[error("signature recovers no public key")]
    Unrecoverable,
    /// It is a signature, but of another key or another message.
    #[error("signature is by another key or over another message")]
    WrongKey,
}

/// A 65-byte recoverable signature, as it stands on the wire. Not yet verified.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; Self::LEN]);

impl Signature {
    /// Bytes on the wire.
    pub const LEN: usize = 65;

    /// Wraps 65 bytes; whether they are a signature, [`Signature::verify`] tells.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes on the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// Signs SHA-256 of `payload` with an RFC 6979 nonce.
    #[must_use]
    pub fn sign(key: &SecretKey, payload: &[u8]) -> Self {
        let message = Message::from_digest(sha256(payload));
        let signature = curve::sign(message, key.scalar());
        let (id, compact) = signature.serialize_compact();
        let mut bytes = [0; Self::LEN];
        bytes[..64].copy_from_slice(&compact);
        bytes[64] = u8::from(id);
        Self(bytes)
    }

    /// Checks that `key` signed `payload`.
    pub fn verify(&self, key: &PublicKey, payload: &[u8]) -> Result<(), SignatureError> {
        self.verify_digest(key, sha256(payload))
    }

    /// Checks that `key` signed the message with this SHA-256.
    pub fn verify_digest(&self, key: &PublicKey, digest: [u8; 32]) -> Result<(), SignatureError> {
        let id = RecoveryId::try_from(i32::from(self.0[64]))
            .map_err(|_| SignatureError::RecoveryId(self.0[64]))?;
        let zero = [0; 32];
        if self.0[..32] == zero || self.0[32..64] == zero {
            return Err(SignatureError::OutOfRange);
        }
        let signature = RecoverableSignature::from_compact(&self.0[..64], id)
            .map_err(|_| SignatureError::OutOfRange)?;
        if self.0[32..64] > HALF_ORDER[..] {
            return Err(SignatureError::HighS);
        }
        let recovered = signature
            .recover(Message::from_digest(digest))
            .map_err(|_| SignatureError::Unrecoverable)?;
        if PublicKey::from_point(&recovered) == *key {
            Ok(())
        } else {
            Err(SignatureError::WrongKey)
        }
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({self})")
    }
}

impl FromStr for Signature {
    type Err = KeyError;

    /// Reads 130 hex digits of either case.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        unhex("signature", text).map(Self)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn signed() -> (PublicKey, [u8; 65]) {
        let key = SecretKey::from_seed(b"signer");
        (key.public_key(), *Signature::sign(&key, b"payload").as_bytes())
    }

    /// The verdict on the signature over `payload` after a change.
    fn verdict(change: impl FnOnce(&mut [u8; 65])) -> Result<(), SignatureError> {
        let (key, mut bytes) = signed();
        change(&mut bytes);
        Signature::from_bytes(bytes).verify(&key, b"payload")
    }

    #[test]
    fn each_broken_rule_is_named() {
        use SignatureError as E;
        assert_eq!(verdict(|_| ()), Ok(()));
        for id in [4, 27, 255] {
            assert_eq!(verdict(|s| s[64] = id), Err(E::RecoveryId(id)));
        }
        assert_eq!(verdict(|s| s[..32].fill(0)), Err(E::OutOfRange));
        assert_eq!(verdict(|s| s[..32].fill(0xff)), Err(E::OutOfRange));
        assert_eq!(verdict(|s| s[32..64].fill(0)), Err(E::OutOfRange));
        assert_eq!(verdict(|s| s[32..64].fill(0xff)), Err(E::OutOfRange));
        assert_eq!(verdict(|s| s[32] |= 0x80), Err(E::HighS));
        assert_eq!(verdict(|s| s[64] |= 2), Err(E::Unrecoverable));
        assert_eq!(verdict(|s| s[64] ^= 1), Err(E::WrongKey));
        assert_eq!(verdict(|s| s[63] ^= 1), Err(E::WrongKey));
    }

    #[test]
    fn half_the_order_is_the_largest_s() {
        let with_s = |s: [u8; 32]| verdict(|bytes| bytes[32..64].copy_from_slice(&s));
        assert_eq!(with_s(HALF_ORDER), Err(SignatureError::WrongKey));
        let mut above = HALF_ORDER;
        above[31] += 1;
        assert_eq!(with_s(above), Err(SignatureError::HighS));
    }

    #[test]
    fn text_form_is_hex_of_the_wire_form() {
        let signature = Signature::from_bytes(signed().1);
        assert_eq!(signature.to_string().len(), 130);
        assert_eq!(signature.to_string().parse(), Ok(signature));
        let length = KeyError::Length { kind: "signature", expected: 65, got: 2 };
        assert_eq!("00".parse::<Signature>(), Err(length));
    }

    proptest! {
        #[test]
        fn own_signatures_verify_and_changed_ones_do_not(
            seed: [u8; 4],
            payload: Vec<u8>,
            bit in 0usize..65 * 8,
        ) {
            let key = SecretKey::from_seed(&seed);
            let signature = Signature::sign(&key, &payload);
            prop_assert_eq!(signature.verify(&key.public_key(), &payload), Ok(()));
            let mut bytes = *signature.as_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let changed = Signature::from_bytes(bytes);
            prop_assert!(changed.verify(&key.public_key(), &payload).is_err());
        }
    }
}
