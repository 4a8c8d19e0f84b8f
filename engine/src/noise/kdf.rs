//! HMAC-SHA256 and the HKDF of Noise and of RFC 5869, which differ only in the info (`wire.md
//! §2.1`, `§2.6`).

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

/// 32 secret bytes: a key, a chaining key, a hash output on its way to become one.
pub(super) type Secret = Zeroizing<[u8; 32]>;

fn hmac_sha256(key: &[u8; 32], data: &[u8]) -> Secret {
    let mut out = Secret::default();
    // Straight into our own memory: the library's tag type would leave a copy behind.
    hmac::sign_to_buffer(&hmac::Key::new(hmac::HMAC_SHA256, key), data, &mut *out)
        .expect("out has the length of a SHA-256");
    out
}

/// Noise's HKDF with two outputs: RFC 5869 with salt `chaining_key` and an empty info.
pub(super) fn hkdf_two(chaining_key: &[u8; 32], input: &[u8]) -> (Secret, Secret) {
    let temp = hmac_sha256(chaining_key, input);
    let first = hmac_sha256(&temp, &[1]);
    let mut chained = Zeroizing::new([2; 33]);
    chained[..32].copy_from_slice(&*first);
    let second = hmac_sha256(&temp, &*chained);
    (first, second)
}

/// HKDF-SHA256 of RFC 5869 with 32 bytes of output.
pub(super) fn hkdf_one(salt: &[u8; 32], input: &[u8], info: &[u8]) -> Secret {
    hmac_sha256(&hmac_sha256(salt, input), &[info, &[1]].concat())
}
