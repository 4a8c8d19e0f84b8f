//! Requests whose keys are still bytes (`wire.md §4.2`, `§4.4`).
//!
//! To find the points of two keys costs more than all the rest of decoding. A server compares keys and computes with none
//! but its session's; a client knows its own and, mostly, the peer's. So everybody decodes this, and only who wants a
//! [`StreamRequest`](super::StreamRequest) has the points found. What is not about points is checked here, for both.

use super::{
    GobError, ObjectError, Port, SignedObject,
    gob::{self, Slot, Target},
};
use crate::identity::PublicKey;

/// The bytes of a key, not null, that may be no point of the curve.
pub(crate) type KeyBytes = [u8; PublicKey::LEN];

/// A request as it stands in its gob.
#[derive(Debug, Default)]
pub(crate) struct RawRequest {
    pub(super) timestamp: i64,
    pub(super) src: RawAddr,
    pub(super) dst: RawAddr,
    pub(super) ip_info: bool,
    pub(super) geo_info: bool,
    /// First KK message.
    pub(crate) noise_msg: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct RawAddr {
    pub(super) key: Option<KeyBytes>,
    pub(super) port: u16,
}

impl RawRequest {
    /// Decodes the gob of any dialect, in any form Go takes (`wire.md §4.3`).
    pub(crate) fn decode(gob: &[u8]) -> Result<Self, GobError> {
        let mut request = Self::default();
        gob::decode(gob, &mut request)?;
        Ok(request)
    }

    /// Checks 3 to 7 of `wire.md §4.4`; returns source and destination.
    pub(crate) fn addresses(&self) -> Result<[(KeyBytes, Port); 2], ObjectError> {
        let Self { timestamp, src, dst, .. } = self;
        complete_addresses(*timestamp, (src.key, src.port), (dst.key, dst.port))
    }

    /// Checks 3 to 9 for a server that relays its own clients' requests only; the fields first, then whether the source is
    /// `session_key`, and the signature last, since it is the dear one. Returns the destination.
    pub(crate) fn verify(
        &self,
        object: &SignedObject,
        session_key: &PublicKey,
    ) -> Result<KeyBytes, ObjectError> {
        let [(src, _), (dst, _)] = self.addresses()?;
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

/// Checks 3 to 7 of `wire.md §4.4`, in their order, for keys of either form.
pub(super) fn complete_addresses<K>(
    timestamp: i64,
    src: (Option<K>, u16),
    dst: (Option<K>, u16),
) -> Result<[(K, Port); 2], ObjectError> {
    let src_key = src.0.ok_or(ObjectError::SourceKeyNull)?;
    let src_port = Port::new(src.1).ok_or(ObjectError::SourcePort)?;
    let dst_key = dst.0.ok_or(ObjectError::DestinationKeyNull)?;
    let dst_port = Port::new(dst.1).ok_or(ObjectError::DestinationPort)?;
    if timestamp <= 0 {
        return Err(ObjectError::Timestamp(timestamp));
    }
    Ok([(src_key, src_port), (dst_key, dst_port)])
}

impl Target for RawRequest {
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

impl Target for RawAddr {
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

    /// What [`StreamRequest`] says of an object, and what [`RawRequest`] does.
    fn both(
        object: &SignedObject,
        session: &PublicKey,
    ) -> [Result<Option<KeyBytes>, ObjectError>; 2] {
        let full = StreamRequest::decode(object.gob()).map_err(ObjectError::from).and_then(|r| {
            r.verify(object)?;
            r.verify_source(session)?;
            Ok(r.dst.key.map(|key| *key.as_bytes()))
        });
        let routed = RawRequest::decode(object.gob()).map_err(ObjectError::from);
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
        assert!(RawRequest::decode(&null).is_err());
        let mut off_curve = gob;
        off_curve[at] = 5;
        assert!(StreamRequest::decode(&off_curve).is_err());
        let object = SignedObject::sign(&a, &off_curve);
        let routed = RawRequest::decode(object.gob()).unwrap();
        assert_eq!(routed.verify(&object, &a.public_key()).unwrap()[0], 5);
    }
}
