//! HMAC-SHA256 and the HKDF of Noise and of RFC 5869, which differ only in the info (`wire.md
//! §2.1`, `§2.6`).

use hmac::{Hmac, KeyInit, Mac, digest::FixedOutput};
use sha2::Sha256;
use zeroize::Zeroizing;

/// 32 secret bytes: a key, a chaining key, a hash output on its way to become one.
pub(super) type Secret = Zeroizing<[u8; 32]>;

/// A key that is ready for several texts. Wiped when dropped.
type Keyed = Hmac<Sha256>;

fn keyed(key: &[u8; 32]) -> Keyed {
    Keyed::new_from_slice(key).expect("HMAC takes keys of any length")
}

fn finish(mac: Keyed) -> Secret {
    let mut out = Secret::default();
    // Straight into our own memory: the library's output type would leave a copy behind.
    mac.finalize_into((&mut *out).into());
    out
}

/// HMAC-SHA256.
pub(super) fn hmac_sha256(key: &[u8; 32], data: &[u8]) -> Secret {
    finish(keyed(key).chain_update(data))
}

/// Noise's HKDF with two outputs: RFC 5869 with salt `chaining_key` and an empty info.
pub(super) fn hkdf_two(chaining_key: &[u8; 32], input: &[u8]) -> (Secret, Secret) {
    let temp = keyed(&hmac_sha256(chaining_key, input));
    let first = finish(temp.clone().chain_update([1]));
    let second = finish(temp.chain_update(*first).chain_update([2]));
    (first, second)
}

/// HKDF-SHA256 of RFC 5869 with 32 bytes of output.
pub(super) fn hkdf_one(salt: &[u8; 32], input: &[u8], info: &[u8]) -> Secret {
    hmac_sha256(&hmac_sha256(salt, input), &[info, &[1]].concat())
}
