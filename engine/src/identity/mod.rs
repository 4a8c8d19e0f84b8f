//! Identities: secp256k1 key pairs, their text forms, signatures and Diffie–Hellman (`wire.md §1`).
//!
//! This module turns bytes into keys that cannot be invalid: a [`PublicKey`] is on the curve, a
//! [`SecretKey`] is in `1..n`. DMSG's null key (all zeros, "not set") is therefore not a value of
//! either type; where the protocol allows it, the field is an `Option`.
//!
//! It knows nothing of Noise, gob or sockets, and draws no randomness except in
//! [`SecretKey::generate`], which the edges of the engine call.

mod curve;
mod key;
mod seed;
mod signature;

pub(crate) use key::KeyPoint;
pub use key::{KeyError, PublicKey, SecretKey, parse_nullable};
pub use signature::{Signature, SignatureError};

use sha2::{Digest, Sha256};

/// SHA-256 of `data`, the only hash DMSG uses.
#[must_use]
pub fn sha256(data: &[u8]) -> [u8; 32] {
    Sha256::digest(data).into()
}
