#![allow(clippy::unwrap_used)]

use super::*;
use crate::wire::{Dialect, PeerAnnounce, StreamRequest, StreamResponse, WireAddr};

fn secret(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed])
}

fn request() -> StreamRequest {
    StreamRequest {
        timestamp: 1_729_362_436_123_456_789,
        src: WireAddr { key: Some(secret(1).public_key()), port: 49153 },
        dst: WireAddr { key: Some(secret(2).public_key()), port: 80 },
        noise_msg: vec![7; 49],
        ..StreamRequest::default()
    }
}

fn sign(request: &StreamRequest) -> SignedObject {
    SignedObject::sign(&secret(1), &request.encode(Dialect::G24))
}

#[test]
fn object_is_signature_and_gob() {
    let gob = request().encode(Dialect::G24);
    let object = SignedObject::sign(&secret(1), &gob);
    assert_eq!(object.gob(), gob);
    assert_eq!(object.as_bytes().len(), 65 + gob.len());
    assert_eq!(object.hash(), sha256(object.as_bytes()));
    assert_eq!(SignedObject::from_bytes(object.as_bytes().to_vec()), Ok(object));
}

#[test]
fn object_needs_a_gob_and_fits_a_frame() {
    let from = |len| SignedObject::from_bytes(vec![0; len]).map(|object| object.gob().len());
    assert_eq!(from(0), Err(ObjectError::TooShort(0)));
    assert_eq!(from(65), Err(ObjectError::TooShort(65)));
    assert_eq!(from(66), Ok(1));
    assert_eq!(from(SignedObject::LEN_MAX), Ok(SignedObject::LEN_MAX - 65));
    assert_eq!(from(SignedObject::LEN_MAX + 1), Err(ObjectError::TooLong(65512)));
    assert_eq!(ObjectError::TooShort(65).code(), 370);
}

/// Each request breaks every rule from its own on, so the first in order must fire.
#[test]
fn request_checks_fire_in_order_with_their_codes() {
    let null = WireAddr::default();
    let src = request().src;
    let dst = request().dst;
    let unsigned = SignedObject::from_bytes(vec![0; 66]).unwrap();
    let broken = |src, dst, timestamp| {
        let request = StreamRequest { src, dst, timestamp, ..request() };
        let error = request.verify(&unsigned).unwrap_err();
        (error.code(), error)
    };
    let no_port = |addr| WireAddr { port: 0, ..addr };
    assert_eq!(broken(null, null, 0), (302, ObjectError::SourceKeyNull));
    assert_eq!(broken(no_port(src), null, 0), (304, ObjectError::SourcePort));
    assert_eq!(broken(src, null, 0), (303, ObjectError::DestinationKeyNull));
    assert_eq!(broken(src, no_port(dst), 0), (305, ObjectError::DestinationPort));
    assert_eq!(broken(src, dst, 0), (301, ObjectError::Timestamp(0)));
    assert_eq!(broken(src, dst, i64::MIN), (301, ObjectError::Timestamp(i64::MIN)));
    let out_of_range = ObjectError::RequestSignature(SignatureError::OutOfRange);
    assert_eq!(broken(src, dst, 1), (300, out_of_range));
    assert_eq!(request().verify(&sign(&request())), Ok(()));
}

#[test]
fn request_signed_by_another_or_changed_does_not_verify() {
    let request = request();
    let gob = request.encode(Dialect::G24);
    let wrong = Err(ObjectError::RequestSignature(SignatureError::WrongKey));
    assert_eq!(request.verify(&SignedObject::sign(&secret(2), &gob)), wrong);
    let mut bytes = sign(&request).as_bytes().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    assert_eq!(request.verify(&SignedObject::from_bytes(bytes).unwrap()), wrong);
}

#[test]
fn foreign_keys_have_the_codes_of_go() {
    assert_eq!(ObjectError::SourceKeyForeign.code(), 302);
    assert_eq!(ObjectError::DestinationKeyForeign.code(), 303);
}

/// Each response breaks every rule from its own on.
#[test]
fn response_checks_fire_in_order_with_their_codes() {
    let destination = secret(2);
    let req_hash = sign(&request()).hash();
    let verdict = |signer: &SecretKey, response: &StreamResponse| {
        let object = SignedObject::sign(signer, &response.encode(Dialect::G24));
        response.verify(&object, &req_hash, &destination.public_key()).map_err(|e| (e.code(), e))
    };
    let mut response = StreamResponse::default();
    assert_eq!(verdict(&secret(1), &response), Err((351, ObjectError::ResponseHash)));
    response.req_hash = req_hash;
    let wrong = ObjectError::ResponseSignature(SignatureError::WrongKey);
    assert_eq!(verdict(&secret(1), &response), Err((350, wrong)));
    for (sent, understood) in [(306, 306), (308, 308), (0, 352), (65535, 352), (352, 352)] {
        response.err_code = sent;
        let code = ErrorCode::from_code(understood).unwrap();
        let refused = ObjectError::Refused(code);
        assert_eq!(verdict(&destination, &response), Err((understood, refused)));
    }
    response.accepted = true;
    assert_eq!(verdict(&destination, &response), Ok(()));
}

#[test]
fn announcement_is_bound_to_the_session() {
    let server = secret(3);
    let own_key = server.public_key();
    let announce = PeerAnnounce { timestamp: 1, src_key: Some(own_key) };
    let object = SignedObject::sign(&server, &announce.encode());
    assert_eq!(announce.verify(&object, &own_key), Ok(()));
    let other = secret(4).public_key();
    assert_eq!(announce.verify(&object, &other), Err(ObjectError::SourceKeyForeign));
    let null = PeerAnnounce { src_key: None, ..announce };
    assert_eq!(null.verify(&object, &own_key), Err(ObjectError::SourceKeyNull));
    let forged = SignedObject::sign(&secret(4), &announce.encode());
    let wrong = ObjectError::RequestSignature(SignatureError::WrongKey);
    assert_eq!(announce.verify(&forged, &own_key), Err(wrong));
}

#[test]
fn what_does_not_decode_has_the_code_of_a_short_object() {
    let error = ObjectError::from(StreamRequest::decode(&[]).unwrap_err());
    assert_eq!(error, ObjectError::Gob(GobError::NoValue));
    assert_eq!(error.code(), 370);
}
