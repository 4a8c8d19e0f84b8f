//! The objects of a stream dial, and their encodings (`wire.md §4`, `§6.1`).
//! Pure: bytes in, values or typed errors out.

use std::{fmt, num::NonZeroU16, str::FromStr};

use crate::identity::{KeyError, PublicKey, SecretKey, SignatureError};

/// A DMSG port; 0 does not exist as a port (`wire.md §6.1`).
pub type Port = NonZeroU16;

/// First ephemeral port.
pub const EPHEMERAL_PORT_FIRST: u16 = 49152;

/// A key and a port, in text `<66 hex>:<port>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addr {
    /// Whose port.
    pub key: PublicKey,
    /// Which port.
    pub port: Port,
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.key, self.port)
    }
}

/// Why text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddrError {
    /// The part before the colon is no public key.
    #[error("bad key in the address: {0}")]
    Key(#[from] KeyError),
    /// The part after the colon is no port.
    #[error("bad port {0:?} in the address: a port is a number from 1 to 65535")]
    Port(String),
    /// No colon, or more than one.
    #[error("an address is <public key>:<port>")]
    Form,
}

impl FromStr for Addr {
    type Err = AddrError;
    fn from_str(text: &str) -> Result<Self, AddrError> {
        let (key, port) = text.trim().split_once(':').ok_or(AddrError::Form)?;
        if port.contains(':') {
            return Err(AddrError::Form);
        }
        let port = port.parse().map_err(|_| AddrError::Port(port.to_owned()))?;
        Ok(Self { key: key.parse()?, port })
    }
}

/// An address as a stream request carries it: both parts may be missing (null key, port 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WireAddr {
    /// The key, if not null.
    pub key: Option<PublicKey>,
    /// The port, 0 if not set.
    pub port: u16,
}

/// Which generation's type definitions an encoder sends (`wire.md §0`, `§4.2`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// skycoin/dmsg of 2023.
    G23,
    /// skycoin/dmsg of late 2024: what this engine speaks.
    G24,
    /// skycoin/skywire of 2026.
    G26,
}

/// A dial request (`wire.md §4.2`, `§4.4`).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StreamRequest {
    /// Unix nanoseconds.
    pub timestamp: i64,
    /// The initiator and its ephemeral port.
    pub src: WireAddr,
    /// The destination.
    pub dst: WireAddr,
    /// Asks the server for the caller's address instead (`wire.md §5.1`).
    pub ip_info: bool,
    /// Asks for a location too (`wire.md §5.2`).
    pub geo_info: bool,
    /// First KK message.
    pub noise_msg: Vec<u8>,
}

/// The answer to a [`StreamRequest`] (`wire.md §4.5`).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StreamResponse {
    /// SHA-256 of the request's signed object.
    pub req_hash: [u8; 32],
    /// Whether the stream is open.
    pub accepted: bool,
    /// 4 or 16 bytes in an IP answer, else empty.
    pub ip: Vec<u8>,
    /// ISO country.
    pub geo_country: String,
    /// ISO region.
    pub geo_region: String,
    /// Latitude in degrees.
    pub geo_lat: f64,
    /// Longitude in degrees.
    pub geo_lon: f64,
    /// Code of `wire.md §4.9`, 0 if accepted.
    pub err_code: u16,
    /// Second KK message.
    pub noise_msg: Vec<u8>,
}

/// Which check of a request or response failed, with its code (`wire.md §4.4`, `§4.5`, `§4.9`). STUB: helper extends.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// Too short.
    #[error("signed object is too short")]
    TooShort,
    /// Signature.
    #[error("signature: {0}")]
    Signature(#[from] SignatureError),
    /// Gob.
    #[error("gob: {0}")]
    Gob(#[from] GobError),
}
impl ObjectError {
    /// The wire code of this failure.
    #[must_use]
    pub fn code(&self) -> u16 {
        todo!()
    }
}

/// STUB.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GobError {
    /// STUB
    #[error("truncated")]
    Truncated,
}

impl StreamRequest {
    /// Gob bytes, exactly as Go's fresh encoder gives them.
    #[must_use]
    pub fn encode(&self, _dialect: Dialect) -> Vec<u8> {
        todo!()
    }
    /// Tolerant decoder.
    pub fn decode(_gob: &[u8]) -> Result<Self, GobError> {
        todo!()
    }
    /// Checks 3 to 8 of `wire.md §4.4`: fields and signature.
    pub fn verify(&self, _object: &SignedObject) -> Result<(), ObjectError> {
        todo!()
    }
}

impl StreamResponse {
    /// Gob bytes.
    #[must_use]
    pub fn encode(&self, _dialect: Dialect) -> Vec<u8> {
        todo!()
    }
    /// Tolerant decoder.
    pub fn decode(_gob: &[u8]) -> Result<Self, GobError> {
        todo!()
    }
    /// Checks 2 to 4 of `wire.md §4.5`: hash, signature by the destination, accepted.
    pub fn verify(
        &self,
        _object: &SignedObject,
        _req_hash: &[u8; 32],
        _destination: &PublicKey,
    ) -> Result<(), ObjectError> {
        todo!()
    }
}

/// Signature and gob bytes as they stand on the wire; never re-encoded (`wire.md §4.1`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedObject(Vec<u8>);

impl SignedObject {
    /// Largest signed object (65535 less counter and tag).
    pub const LEN_MAX: usize = 65511;
    /// Signs gob bytes.
    #[must_use]
    pub fn sign(_key: &SecretKey, _gob: &[u8]) -> Self {
        todo!()
    }
    /// Wraps received bytes; error 370 when there is no gob behind the signature.
    pub fn from_bytes(_bytes: Vec<u8>) -> Result<Self, ObjectError> {
        todo!()
    }
    /// The bytes on the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        todo!()
    }
    /// The gob part.
    #[must_use]
    pub fn gob(&self) -> &[u8] {
        todo!()
    }
    /// SHA-256 of the whole object.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        todo!()
    }
    /// Checks the signature.
    pub fn verify(&self, _key: &PublicKey) -> Result<(), SignatureError> {
        todo!()
    }
}
