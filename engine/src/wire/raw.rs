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

    /// Checks 8 and 9 for a client: `source` signed it, and it is for `own_key`.
    pub(crate) fn verify_for(
        &self,
        object: &SignedObject,
        source: &PublicKey,
        own_key: &PublicKey,
    ) -> Result<(), ObjectError> {
        object.verify(source).map_err(ObjectError::RequestSignature)?;
        self.verify_destination(own_key)
    }

    /// Check 9 for a client: it is for `own_key`.
    pub(crate) fn verify_destination(&self, own_key: &PublicKey) -> Result<(), ObjectError> {
        match self.dst.key {
            Some(key) if key == *own_key.as_bytes() => Ok(()),
            _ => Err(ObjectError::DestinationKeyForeign),
        }
    }

    /// What a ticket's tag binds; see [`StreamRequest::terms`](super::StreamRequest::terms).
    pub(crate) fn terms(&self) -> Vec<u8> {
        let end = |addr: &RawAddr| (addr.key.unwrap_or([0; PublicKey::LEN]), addr.port);
        terms(self.timestamp, end(&self.src), end(&self.dst))
    }

    /// Whether the client asks for its own address, if `server` is the destination (`wire.md §5.1`).
    pub(crate) fn asks_for_ip(&self) -> bool {
        self.ip_info
    }
}

/// Bytes of [`terms`].
const TERMS_BYTES: usize = size_of::<i64>() + 2 * (PublicKey::LEN + size_of::<u16>());

/// What a request says, but for its handshake message, in a form of one length: time, source, destination, big-endian
/// (`docs/extensions.md §1.2`). A null key is all zeros.
pub(super) fn terms(timestamp: i64, src: (KeyBytes, u16), dst: (KeyBytes, u16)) -> Vec<u8> {
    let mut out = Vec::with_capacity(TERMS_BYTES);
    out.extend_from_slice(&timestamp.to_be_bytes());
    for (key, port) in [src, dst] {
        out.extend_from_slice(&key);
        out.extend_from_slice(&port.to_be_bytes());
    }
    out
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
        identity::{SecretKey, SignatureError},
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

    /// What a server in the session of `session` says of the request, changed and signed.
    fn verdict(
        change: fn(&mut StreamRequest),
        signer: &SecretKey,
        session: &SecretKey,
        dialect: Dialect,
    ) -> Result<KeyBytes, ObjectError> {
        let [a, b] = [&b"a"[..], b"b"].map(SecretKey::from_seed);
        let mut request = request(&a, Some(b.public_key()));
        change(&mut request);
        let object = SignedObject::sign(signer, &request.encode(dialect));
        RawRequest::decode(object.gob()).unwrap().verify(&object, &session.public_key())
    }

    #[test]
    fn a_server_takes_what_its_client_signed_and_names_what_is_wrong() {
        let [a, b] = [&b"a"[..], b"b"].map(SecretKey::from_seed);
        type Case = (fn(&mut StreamRequest), ObjectError);
        let wrong: [Case; 5] = [
            (|r| r.timestamp = 0, ObjectError::Timestamp(0)),
            (|r| r.src.key = None, ObjectError::SourceKeyNull),
            (|r| r.src.port = 0, ObjectError::SourcePort),
            (|r| r.dst.key = None, ObjectError::DestinationKeyNull),
            (|r| r.dst.port = 0, ObjectError::DestinationPort),
        ];
        for dialect in Dialect::ALL {
            for (change, error) in wrong.clone() {
                assert_eq!(verdict(change, &a, &a, dialect), Err(error));
            }
            assert_eq!(verdict(|_| (), &a, &a, dialect), Ok(*b.public_key().as_bytes()));
            let foreign = Err(ObjectError::SourceKeyForeign);
            assert_eq!(verdict(|_| (), &a, &b, dialect), foreign);
            let forged = Err(ObjectError::RequestSignature(SignatureError::WrongKey));
            assert_eq!(verdict(|_| (), &b, &a, dialect), forged);
        }
    }

    #[test]
    fn a_client_takes_what_the_source_signed_for_it() {
        let [a, b] = [&b"a"[..], b"b"].map(SecretKey::from_seed);
        let gob = request(&a, Some(b.public_key())).encode(Dialect::G24);
        let verdict = |signer: &SecretKey, own: &SecretKey| {
            let object = SignedObject::sign(signer, &gob);
            let request = RawRequest::decode(object.gob()).unwrap();
            request.verify_for(&object, &a.public_key(), &own.public_key())
        };
        assert_eq!(verdict(&a, &b), Ok(()));
        let forged = ObjectError::RequestSignature(SignatureError::WrongKey);
        assert_eq!(verdict(&b, &b), Err(forged));
        assert_eq!(verdict(&a, &a), Err(ObjectError::DestinationKeyForeign));
    }

    #[test]
    fn both_forms_of_a_request_say_the_same_terms_and_every_field_is_in_them() {
        let [a, b] = [&b"a"[..], b"b"].map(SecretKey::from_seed);
        let base = request(&a, Some(b.public_key()));
        let mut all = vec![base.terms()];
        let changes: [fn(&mut StreamRequest); 6] = [
            |r| r.timestamp = 2,
            |r| r.src.port = 1,
            |r| r.dst.port = 1,
            |r| r.dst.key = None,
            |r| std::mem::swap(&mut r.src, &mut r.dst),
            |r| r.src.key = r.dst.key,
        ];
        for change in changes {
            let mut request = base.clone();
            change(&mut request);
            let object = SignedObject::sign(&a, &request.encode(Dialect::G24));
            let raw = RawRequest::decode(object.gob()).unwrap();
            assert_eq!(raw.terms(), request.terms());
            assert_eq!(request.terms().len(), TERMS_BYTES);
            assert!(!all.contains(&request.terms()));
            all.push(request.terms());
        }
        let mut other = base.clone();
        other.noise_msg = vec![1];
        assert_eq!(other.terms(), base.terms(), "the message is not among them");
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
