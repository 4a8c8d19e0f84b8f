//! Signed objects, and the rules an object can break (`wire.md §4.1`, `§4.4`, `§4.5`).

use super::{ErrorCode, GobError};
use crate::identity::{KeyError, PublicKey, SecretKey, Signature, SignatureError, sha256};

/// Signature and gob bytes as they stand on the wire; never re-encoded (`wire.md §4.1`).
///
/// Never shorter than its signature; if it was received, longer than that, and no longer than
/// [`SignedObject::LEN_MAX`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedObject(Vec<u8>);

impl SignedObject {
    /// Largest signed object, in bytes (65535 less counter and tag).
    pub const LEN_MAX: usize = 65511;

    /// Signs gob bytes. What the encoders of this module give for a Noise message of a handshake
    /// is far below [`SignedObject::LEN_MAX`]; whoever frames the object checks it against that.
    #[must_use]
    pub fn sign(key: &SecretKey, gob: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(Signature::LEN + gob.len());
        bytes.extend_from_slice(Signature::sign(key, gob).as_bytes());
        bytes.extend_from_slice(gob);
        Self(bytes)
    }

    /// Wraps received bytes; error 370 when there is no gob behind the signature.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, ObjectError> {
        match bytes.len() {
            len if len <= Signature::LEN => Err(ObjectError::TooShort(len)),
            len if len > Self::LEN_MAX => Err(ObjectError::TooLong(len)),
            _ => Ok(Self(bytes)),
        }
    }

    /// The bytes on the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The gob part.
    #[must_use]
    pub fn gob(&self) -> &[u8] {
        self.0.get(Signature::LEN..).unwrap_or_default()
    }

    /// SHA-256 of the whole object, which ties a response to its request.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        sha256(&self.0)
    }

    /// Checks that `key` signed the gob part.
    pub fn verify(&self, key: &PublicKey) -> Result<(), SignatureError> {
        let signature = self.0.first_chunk().expect("an object begins with a whole signature");
        Signature::from_bytes(*signature).verify(key, self.gob())
    }
}

/// Which check of a request, a response or an announcement failed (`wire.md §4.4`, `§4.5`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// No gob behind the signature.
    #[error("the signed object has only {0} bytes: its signature alone has 65")]
    TooShort(usize),
    /// Longer than what fits its frame.
    #[error("the signed object has {0} bytes, more than the 65511 that fit a frame")]
    TooLong(usize),
    /// The gob does not decode.
    #[error("the signed object does not decode: {0}")]
    Gob(#[from] GobError),
    /// Source key null.
    #[error("the request names no source key")]
    SourceKeyNull,
    /// Source key not a point of the curve.
    #[error("the request's source key is no key: {0}")]
    SourceKeyInvalid(#[source] KeyError),
    /// Source key not the session's.
    #[error("the request's source key is not the session's: it is relayed or forged")]
    SourceKeyForeign,
    /// Source port 0.
    #[error("the request's source port is 0")]
    SourcePort,
    /// Destination key null.
    #[error("the request names no destination key")]
    DestinationKeyNull,
    /// Destination key not the receiver's.
    #[error("the request's destination is another key: the server passed it to the wrong client")]
    DestinationKeyForeign,
    /// Destination port 0.
    #[error("the request's destination port is 0")]
    DestinationPort,
    /// Timestamp not above 0.
    #[error("the request's timestamp is {0}, and not above 0")]
    Timestamp(i64),
    /// The signature is not the source's.
    #[error("the request is not signed by its source: {0}")]
    RequestSignature(#[source] SignatureError),
    /// The hash is that of another request.
    #[error("the response answers another request")]
    ResponseHash,
    /// The signature is not the destination's.
    #[error("the response is not signed by the destination: {0}")]
    ResponseSignature(#[source] SignatureError),
    /// A genuine refusal, with its reason; [`ErrorCode::Refused`] if that is not known.
    #[error("the request was refused: {0}")]
    Refused(ErrorCode),
}

impl ObjectError {
    /// The code of `wire.md §4.9` for this failure. What does not decode, for which Go has no
    /// code of its own, counts as too short.
    #[must_use]
    pub fn code(&self) -> u16 {
        let code = match self {
            Self::TooShort(_) | Self::TooLong(_) | Self::Gob(_) => ErrorCode::ObjectTooShort,
            Self::SourceKeyNull | Self::SourceKeyInvalid(_) | Self::SourceKeyForeign => {
                ErrorCode::RequestSourceKey
            }
            Self::SourcePort => ErrorCode::RequestSourcePort,
            Self::DestinationKeyNull | Self::DestinationKeyForeign => {
                ErrorCode::RequestDestinationKey
            }
            Self::DestinationPort => ErrorCode::RequestDestinationPort,
            Self::Timestamp(_) => ErrorCode::RequestTimestamp,
            Self::RequestSignature(_) => ErrorCode::RequestSignature,
            Self::ResponseHash => ErrorCode::ResponseHash,
            Self::ResponseSignature(_) => ErrorCode::ResponseSignature,
            Self::Refused(code) => *code,
        };
        code.code()
    }
}

#[cfg(test)]
mod tests;
