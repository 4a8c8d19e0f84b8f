//! Nonce authentication of HTTP requests, both sides (`services.md §1`).
//!
//! ```text
//!   SW-Public  the caller's key, 66 hex digits
//!   SW-Nonce   the next number that the service expects of this key
//!   SW-Sig     signature over SHA-256( body ‖ nonce in decimal )
//! ```
//!
//! The numbers make each signature good for one request. They force the requests of one key into a row:
//! `NonceQueue` keeps it on the client's side, `Guard` checks it on the service's. Over DMSG the stream's
//! handshake has proved the key already; there the headers prove nothing, and may not name another key.

mod guard;
mod queue;

use bytes::Bytes;
use dmsg_engine::identity::{SecretKey, Signature};
use http::HeaderName;

pub use guard::{Authority, Guard, GuardConfig, NONCE_KEYS_MAX};
pub(crate) use queue::NonceQueue;

/// The caller's key.
pub const PUBLIC: HeaderName = HeaderName::from_static("sw-public");
/// The number that makes the signature good once.
pub const NONCE: HeaderName = HeaderName::from_static("sw-nonce");
/// The signature.
pub const SIGNATURE: HeaderName = HeaderName::from_static("sw-sig");
/// The caller's claim of its public address.
pub const PUBLIC_IP: HeaderName = HeaderName::from_static("sw-publicip");

/// The bytes that are signed: the body, and the nonce in decimal behind it.
#[must_use]
pub fn signed_bytes(body: &[u8], nonce: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(body.len() + 20);
    bytes.extend_from_slice(body);
    bytes.extend_from_slice(nonce.to_string().as_bytes());
    bytes
}

/// Signs a request's body for one use.
#[must_use]
pub fn sign(secret: &SecretKey, body: &Bytes, nonce: u64) -> Signature {
    Signature::sign(secret, &signed_bytes(body, nonce))
}

#[cfg(test)]
mod tests {
    use dmsg_engine::identity::sha256;

    use super::*;

    #[test]
    fn the_example_of_the_specification_has_its_bytes_and_hash() {
        let bytes = signed_bytes(b"[]\n", 5);
        assert_eq!(bytes, [0x5b, 0x5d, 0x0a, 0x35]);
        let hex: String = sha256(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "685b30d7cb6a4bc32b2650b968eb4ed437742a3ebcf9ca79dd39ffbaa3c798e5");
        assert_eq!(signed_bytes(b"", u64::MAX), b"18446744073709551615");
    }
}
