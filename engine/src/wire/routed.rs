//! What a server reads of the objects that it passes on (`wire.md §4.4`, `§4.5`, `§4.7`).
//!
//! A server needs of a request where it comes from and where it goes, and of a response whether it accepts. It
//! compares keys and computes with none but its session's, so keys stay bytes: to find the points of two keys
//! nobody needs would cost more than all the rest of decoding. Everything else is checked as a
//! [`StreamRequest`](super::StreamRequest) or a [`StreamResponse`](super::StreamResponse) checks it, with one
//! exception: a response's signature is left to the initiator, who must check it in any case. The response
//! cannot be another's: it came under the destination's session key, and names the hash of the request.

use super::{
    GobError, ObjectError, SignedObject,
    gob::{self, Slot, Target},
};
use crate::identity::PublicKey;

/// The bytes of a key that may be no point of the curve.
type KeyBytes = [u8; PublicKey::LEN];

/// A request as a server sees it.
#[derive(Debug, Default)]
pub(crate) struct RoutedRequest {
    timestamp: i64,
    src: RoutedAddr,
    dst: RoutedAddr,
    ip_info: bool,
    geo_info: bool,
    noise_msg: Vec<u8>,
}

#[derive(Debug, Default)]
struct RoutedAddr {
    key: Option<KeyBytes>,
    port: u16,
}

impl RoutedRequest {
    /// Decodes the gob of any dialect, in any form Go takes (`wire.md §4.3`).
    pub(crate) fn decode(gob: &[u8]) -> Result<Self, GobError> {
        let mut request = Self::default();
        gob::decode(gob, &mut request)?;
        Ok(request)
    }

    /// Checks 3 to 9 of `wire.md §4.4` for a server that relays its own clients' requests only; the fields first, then
    /// whether the source is `session_key`, and the signature last, since it is the dear one. Returns the destination.
    pub(crate) fn verify(
        &self,
        object: &SignedObject,
        session_key: &PublicKey,
    ) -> Result<KeyBytes, ObjectError> {
        let src = self.src.key.ok_or(ObjectError::SourceKeyNull)?;
        if self.src.port == 0 {
            return Err(ObjectError::SourcePort);
        }
        let dst = self.dst.key.ok_or(ObjectError::DestinationKeyNull)?;
        if self.dst.port == 0 {
            return Err(ObjectError::DestinationPort);
        }
        if self.timestamp <= 0 {
            return Err(ObjectError::Timestamp(self.timestamp));
        }
        if src != *session_key.as_bytes() {
            return Err(ObjectError::SourceKeyForeign);
        }
        object.verify(session_key).map_err(ObjectError::RequestSignature)?;
        Ok(dst)
    }

    /// Whether the client asks for its own address, if `server` is the destination (`wire.md §5.1`).
    pub(crate) fn asks_for_ip(&self) -> bool {
        self.ip_info
    }
}

impl Target for RoutedRequest {
    fn slot(&mut self, name: &[u8]) -> Option<Slot<'_>> {
        Some(match name {
            b"Timestamp" => Slot::Int64(&mut self.timestamp),
            b"SrcAddr" => Slot::Struct(&mut self.src),
            b"DstAddr" => Slot::Struct(&mut self.dst),
            b"IPinfo" => Slot::Bool(&mut self.ip_info),
            b"GeoInfo" => Slot::Bool(&mut self.geo_info),
            b"NoiseMsg" => Slot::Bytes(&mut self.noise_msg),
            _ => return None,
        })
    }
}

impl Target for RoutedAddr {
    fn slot(&mut self, name: &[u8]) -> Option<Slot<'_>> {
        Some(match name {
            b"PK" => Slot::KeyBytes(&mut self.key),
            b"Port" => Slot::Uint16(&mut self.port),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{
        identity::SecretKey,
        wire::{Dialect, StreamRequest, WireAddr},
    };

    fn request(source: &SecretKey, destination: Option<PublicKey>) -> StreamRequest {
        StreamRequest {
            timestamp: 1,
            src: WireAddr { key: Some(source.public_key()), port: 49_153 },
            dst: WireAddr { key: destination, port: 80 },
            noise_msg: vec![9; 49],
            ..StreamRequest::default()
        }
    }

    /// What [`StreamRequest`] says of an object, and what [`RoutedRequest`] does.
    fn both(
        object: &SignedObject,
        session: &PublicKey,
    ) -> [Result<Option<KeyBytes>, ObjectError>; 2] {
        let full = StreamRequest::decode(object.gob()).map_err(ObjectError::from).and_then(|r| {
            r.verify(object)?;
            r.verify_source(session)?;
            Ok(r.dst.key.map(|key| *key.as_bytes()))
        });
        let routed = RoutedRequest::decode(object.gob()).map_err(ObjectError::from);
        [full, routed.and_then(|r| r.verify(object, session).map(Some))]
    }

    #[test]
    fn a_server_takes_and_refuses_what_the_full_checks_do() {
        let [a, b] = [&b"a"[..], b"b"].map(SecretKey::from_seed);
        type Change = fn(&mut StreamRequest);
        let changes: [Change; 6] = [
            |_| (),
            |r| r.timestamp = 0,
            |r| r.src.key = None,
            |r| r.src.port = 0,
            |r| r.dst.key = None,
            |r| r.dst.port = 0,
        ];
        for dialect in Dialect::ALL {
            for (signer, session) in [(&a, &a), (&a, &b), (&b, &a)] {
                for change in changes {
                    let mut request = request(&a, Some(b.public_key()));
                    change(&mut request);
                    let object = SignedObject::sign(signer, &request.encode(dialect));
                    let [full, routed] = both(&object, &session.public_key());
                    assert_eq!(full.is_ok(), routed.is_ok(), "{request:?}");
                    if signer == session {
                        assert_eq!(full, routed, "{request:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_key_of_the_wrong_length_or_null_is_refused_and_one_off_the_curve_is_nobody() {
        let a = SecretKey::from_seed(b"a");
        let gob = request(&a, Some(a.public_key())).encode(Dialect::G24);
        let at = gob.windows(33).rposition(|w| w == a.public_key().as_bytes()).unwrap();
        let mut null = gob.clone();
        null[at..at + 33].fill(0);
        assert!(RoutedRequest::decode(&null).is_err());
        let mut off_curve = gob;
        off_curve[at] = 5;
        assert!(StreamRequest::decode(&off_curve).is_err());
        let object = SignedObject::sign(&a, &off_curve);
        let routed = RoutedRequest::decode(object.gob()).unwrap();
        assert_eq!(routed.verify(&object, &a.public_key()).unwrap()[0], 5);
    }
}
