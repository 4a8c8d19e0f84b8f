//! Skycoin's deterministic key generation (`wire.md §1.1`), for tools and for keys that must be
//! the same as those of a Go program. New identities come from [`SecretKey::generate`].
//!
//! ```text
//!   step(s): s = H(s), again until s is a secret key           H is SHA-256
//!
//!   h     = H(seed)
//!   a     = step(h)                  a secret
//!   B     = public key of step(H(h))
//!   key   = step(H(seed || H(h || a·B)))
//! ```

use secp256k1::Scalar;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{KeyError, PublicKey, SecretKey, sha256};

impl SecretKey {
    /// The key that Skycoin's tools derive from `seed`; it is as hard to guess as the seed.
    ///
    /// # Errors
    ///
    /// [`KeyError::EmptySeed`].
    pub fn from_skycoin_seed(seed: &[u8]) -> Result<Self, KeyError> {
        if seed.is_empty() {
            return Err(KeyError::EmptySeed);
        }
        let h = Zeroizing::new(sha256(seed));
        let a = step(&h);
        let b = step(&Zeroizing::new(sha256(&*h))).public_key();
        let inner = hash_pair(&*h, product(&a, &b).as_bytes());
        Ok(step(&hash_pair(seed, &*inner)))
    }
}

/// Hashes at least once, and again until the hash is a secret key.
fn step(from: &[u8; 32]) -> SecretKey {
    let mut hash = Zeroizing::new(sha256(from));
    loop {
        if let Ok(key) = SecretKey::from_bytes(&*hash) {
            return key;
        }
        *hash = sha256(&*hash);
    }
}

fn product(secret: &SecretKey, point: &PublicKey) -> PublicKey {
    let product = point.point().mul_tweak(&Scalar::from(*secret.scalar()));
    PublicKey::from_point(&product.expect("a scalar in 1..n times a point of prime order"))
}

fn hash_pair(first: &[u8], second: &[u8]) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(Sha256::new().chain_update(first).chain_update(second).finalize().into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn empty_seed_is_refused() {
        assert_eq!(SecretKey::from_skycoin_seed(b""), Err(KeyError::EmptySeed));
    }

    #[test]
    fn seed_of_the_specification_gives_its_key() {
        let key = SecretKey::from_skycoin_seed(b"dmsg").unwrap();
        assert_eq!(
            *key.to_hex(),
            "5acb728f8a5302afd8c415bd6e081524d6e404a19670d5b8c0c07ceb8b2a49c0"
        );
        assert_eq!(
            key.public_key().to_string(),
            "02cf870034cf38645649176461798fe605d36d5f60257aefcc6adcea9283429cd1"
        );
    }
}
