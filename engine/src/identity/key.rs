//! Keys and their encodings (`wire.md §1.1`), and ECDH (`wire.md §1.3`).

use std::{fmt, str::FromStr, sync::OnceLock};

use secp256k1::ecdh::SharedSecret;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{curve, sha256};

/// Why bytes or text are not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// An empty seed.
    #[error("a key cannot be derived from an empty seed")]
    EmptySeed,
    /// A secret key outside `1..n`.
    #[error("a secret key must be between 1 and the order of secp256k1")]
    InvalidSecret,
    /// The length in bytes (or hex digits) is not the one of its kind.
    #[error("a {kind} has {expected} bytes ({} hex digits), got {got}", expected * 2)]
    Length {
        /// `"public key"`, `"secret key"` or `"signature"`.
        kind: &'static str,
        /// The length in bytes that is asked for.
        expected: usize,
        /// What was given, in bytes or, for text, in characters.
        got: usize,
    },
    /// A character that is no hex digit.
    #[error("a key is written in hex digits only, found {0:?}")]
    NotHex(char),
    /// The point is not on the curve, its x is not below p, or its first byte is not 02 or 03.
    #[error("not a point of secp256k1: the public key was mistyped or is no key")]
    NotOnCurve,
    /// The null key, which stands for "not set".
    #[error("the key is null (all zeros), which means \"not set\"")]
    Null,
}

/// A secp256k1 public key: 33 bytes, SEC1 compressed, always a valid point.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; Self::LEN]);

impl PublicKey {
    /// Bytes of the compressed form.
    pub const LEN: usize = 33;

    /// Parses the compressed form; rejects everything that is not a point with x < p.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        KeyPoint::from_bytes(bytes).map(|point| point.key)
    }

    /// Takes 33 bytes that are not null, whether or not they are a point. For whoever compares keys only: finding
    /// the point costs a square root in the field, some microseconds.
    pub(crate) fn check_form(bytes: &[u8]) -> Result<[u8; Self::LEN], KeyError> {
        let bytes: [u8; Self::LEN] = bytes.try_into().map_err(|_| KeyError::Length {
            kind: "public key",
            expected: Self::LEN,
            got: bytes.len(),
        })?;
        if bytes == [0; Self::LEN] { Err(KeyError::Null) } else { Ok(bytes) }
    }

    /// The compressed form.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The first eight hex digits, for logs.
    #[must_use]
    pub fn short(&self) -> String {
        hex(&self.0[..4])
    }

    pub(super) fn point(&self) -> secp256k1::PublicKey {
        secp256k1::PublicKey::from_byte_array_compressed(self.0)
            .expect("a PublicKey is checked when it is made")
    }

    pub(super) fn from_point(point: &secp256k1::PublicKey) -> Self {
        Self(point.serialize())
    }
}

/// A public key with its point at hand, for one that takes part in several Diffie–Hellman operations.
#[derive(Clone, Copy)]
pub(crate) struct KeyPoint {
    key: PublicKey,
    point: secp256k1::PublicKey,
}

impl KeyPoint {
    /// As [`PublicKey::from_bytes`].
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let bytes = PublicKey::check_form(bytes)?;
        let point = secp256k1::PublicKey::from_byte_array_compressed(bytes)
            .map_err(|_| KeyError::NotOnCurve)?;
        Ok(Self { key: PublicKey(bytes), point })
    }

    pub(crate) fn key(&self) -> &PublicKey {
        &self.key
    }
}

impl From<PublicKey> for KeyPoint {
    fn from(key: PublicKey) -> Self {
        Self { key, point: key.point() }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    /// Reads 66 hex digits of either case.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::from_bytes(&unhex::<{ Self::LEN }>("public key", text)?)
    }
}

/// Reads a public key from a text field that may be null, as JSON documents have them
/// (`wire.md §1.1`): any number of `0`s, none included, is the null key. Where a key must be given,
/// parse the text as a [`PublicKey`] instead, which refuses all of these.
pub fn parse_nullable(text: &str) -> Result<Option<PublicKey>, KeyError> {
    if text.bytes().all(|c| c == b'0') { Ok(None) } else { text.parse().map(Some) }
}

/// A secp256k1 secret key: a scalar in `1..n`. Zeroised on drop, never printed.
#[derive(Clone)]
pub struct SecretKey {
    scalar: secp256k1::SecretKey,
    /// Computed when it is first asked for; clones keep it.
    public: OnceLock<PublicKey>,
}

impl SecretKey {
    /// Bytes of the scalar.
    pub const LEN: usize = 32;

    /// Parses a big-endian scalar.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let bytes: Zeroizing<[u8; Self::LEN]> = Zeroizing::new(bytes.try_into().map_err(|_| {
            KeyError::Length { kind: "secret key", expected: Self::LEN, got: bytes.len() }
        })?);
        secp256k1::SecretKey::from_secret_bytes(*bytes)
            .map(|scalar| Self { scalar, public: OnceLock::new() })
            .map_err(|_| KeyError::InvalidSecret)
    }

    /// A fresh key from the system's randomness. Fails only if the system has none to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new([0; Self::LEN]);
        loop {
            getrandom::fill(&mut *bytes)?;
            if let Ok(key) = Self::from_bytes(&*bytes) {
                return Ok(key);
            }
        }
    }

    /// A key derived from `seed`; for tests and simulations that must replay.
    #[must_use]
    pub fn from_seed(seed: &[u8]) -> Self {
        let mut digest = Zeroizing::new(sha256(seed));
        loop {
            if let Ok(key) = Self::from_bytes(&*digest) {
                return key;
            }
            *digest = sha256(&*digest);
        }
    }

    /// The public key that belongs to this secret.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        *self.public.get_or_init(|| PublicKey::from_point(&curve::public_key(&self.scalar)))
    }

    /// The scalar, for the one place that writes it to a key file.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; Self::LEN]> {
        Zeroizing::new(self.scalar.to_secret_bytes())
    }

    /// The scalar in hex, for the one place that writes it to a key file.
    #[must_use]
    pub fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(hex(&*self.to_bytes()))
    }

    /// SHA-256 of the compressed point `self · other` (`wire.md §1.3`).
    #[must_use]
    pub fn ecdh(&self, other: &PublicKey) -> Zeroizing<[u8; 32]> {
        self.ecdh_with(&KeyPoint::from(*other))
    }

    /// The same with a point that is at hand.
    pub(crate) fn ecdh_with(&self, other: &KeyPoint) -> Zeroizing<[u8; 32]> {
        let mut shared = SharedSecret::new(&other.point, &self.scalar);
        let bytes = Zeroizing::new(shared.to_secret_bytes());
        shared.non_secure_erase();
        bytes
    }

    pub(super) fn scalar(&self) -> &secp256k1::SecretKey {
        &self.scalar
    }
}

impl Drop for SecretKey {
    fn drop(&mut self) {
        self.scalar.non_secure_erase();
    }
}

impl PartialEq for SecretKey {
    fn eq(&self, other: &Self) -> bool {
        self.to_bytes().ct_eq(&*other.to_bytes()).into()
    }
}

impl Eq for SecretKey {}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(redacted)")
    }
}

impl FromStr for SecretKey {
    type Err = KeyError;

    /// Reads 64 hex digits of either case.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::from_bytes(&*Zeroizing::new(unhex::<{ Self::LEN }>("secret key", text)?))
    }
}

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|b| [HEX_DIGITS[usize::from(b >> 4)], HEX_DIGITS[usize::from(b & 15)]])
        .map(char::from)
        .collect()
}

pub(super) fn unhex<const N: usize>(kind: &'static str, text: &str) -> Result<[u8; N], KeyError> {
    if let Some(bad) = text.chars().find(|c| !c.is_ascii_hexdigit()) {
        return Err(KeyError::NotHex(bad));
    }
    if text.len() != 2 * N {
        return Err(KeyError::Length { kind, expected: N, got: text.len() });
    }
    let nibble = |c: u8| (c as char).to_digit(16).unwrap_or_default() as u8;
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = nibble(pair[0]) << 4 | nibble(pair[1]);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const SECRET: &str = "5acb728f8a5302afd8c415bd6e081524d6e404a19670d5b8c0c07ceb8b2a49c0";
    const PUBLIC: &str = "02cf870034cf38645649176461798fe605d36d5f60257aefcc6adcea9283429cd1";

    #[test]
    fn keys_survive_their_text_and_byte_forms() {
        let secret: SecretKey = SECRET.parse().unwrap();
        let public: PublicKey = PUBLIC.parse().unwrap();
        assert_eq!(secret.public_key(), public);
        assert_eq!(*secret.to_hex(), SECRET);
        assert_eq!(public.to_string(), PUBLIC);
        assert_eq!(public.short(), PUBLIC[..8]);
        assert_eq!(SecretKey::from_bytes(&*secret.to_bytes()), Ok(secret));
        assert_eq!(PublicKey::from_bytes(public.as_bytes()), Ok(public));
        assert_eq!(PUBLIC.to_uppercase().parse(), Ok(public));
    }

    #[test]
    fn each_malformed_text_names_its_rule() {
        let public = |text: &str| text.parse::<PublicKey>().unwrap_err();
        let secret = |text: &str| text.parse::<SecretKey>().unwrap_err();
        let length = |kind, expected, got| KeyError::Length { kind, expected, got };
        assert_eq!(public(""), length("public key", 33, 0));
        assert_eq!(public(&PUBLIC[1..]), length("public key", 33, 65));
        assert_eq!(secret(PUBLIC), length("secret key", 32, 66));
        assert_eq!(public(&format!(" {PUBLIC}")), KeyError::NotHex(' '));
        assert_eq!(public(&PUBLIC.replace('c', "é")), KeyError::NotHex('é'));
        assert_eq!(secret(&SECRET.replace('5', "g")), KeyError::NotHex('g'));
        assert_eq!(public(&"0".repeat(66)), KeyError::Null);
        assert_eq!(secret(&"0".repeat(64)), KeyError::InvalidSecret);
        assert_eq!(public(&PUBLIC.replacen("02", "04", 1)), KeyError::NotOnCurve);
        assert_eq!(public("00").to_string(), "a public key has 33 bytes (66 hex digits), got 2");
    }

    #[test]
    fn only_zeros_are_null_and_only_where_null_is_allowed() {
        for text in ["", "0", "0000", &"0".repeat(66), &"0".repeat(1000)] {
            assert_eq!(parse_nullable(text), Ok(None), "{text:?}");
            assert!(text.parse::<PublicKey>().is_err(), "{text:?}");
        }
        assert_eq!(parse_nullable(PUBLIC), PUBLIC.parse().map(Some));
        assert_eq!(parse_nullable(" "), Err(KeyError::NotHex(' ')));
        assert!(matches!(parse_nullable("01"), Err(KeyError::Length { .. })));
    }

    #[test]
    fn generated_keys_differ_and_seeded_ones_repeat() {
        assert_ne!(SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
        assert_eq!(SecretKey::from_seed(b"a"), SecretKey::from_seed(b"a"));
        assert_ne!(SecretKey::from_seed(b"a"), SecretKey::from_seed(b"b"));
    }

    #[test]
    fn debug_shows_public_keys_and_never_secret_ones() {
        let secret: SecretKey = SECRET.parse().unwrap();
        assert_eq!(format!("{secret:?}"), "SecretKey(redacted)");
        assert_eq!(format!("{:?}", secret.public_key()), format!("PublicKey({PUBLIC})"));
    }

    #[test]
    fn ecdh_is_the_same_from_both_sides() {
        let (a, b) = (SecretKey::from_seed(b"a"), SecretKey::from_seed(b"b"));
        assert_eq!(a.ecdh(&b.public_key()), b.ecdh(&a.public_key()));
        assert_ne!(a.ecdh(&b.public_key()), a.ecdh(&a.public_key()));
    }
}
