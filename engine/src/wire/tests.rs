//! Properties of the three objects together: nothing is lost in any dialect, nothing panics.

#![allow(clippy::unwrap_used)]

use proptest::{prelude::*, sample::Index};

use super::*;
use crate::identity::{PublicKey, SecretKey};

fn key() -> impl Strategy<Value = Option<PublicKey>> {
    prop::option::of((0u8..8).prop_map(|seed| SecretKey::from_seed(&[seed]).public_key()))
}

fn wire_addr() -> impl Strategy<Value = WireAddr> {
    (key(), any::<u16>()).prop_map(|(key, port)| WireAddr { key, port })
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..300)
}

fn request() -> impl Strategy<Value = StreamRequest> {
    (any::<i64>(), wire_addr(), wire_addr(), any::<bool>(), any::<bool>(), bytes()).prop_map(
        |(timestamp, src, dst, ip_info, geo_info, noise_msg)| StreamRequest {
            timestamp,
            src,
            dst,
            ip_info,
            geo_info,
            noise_msg,
        },
    )
}

fn response() -> impl Strategy<Value = StreamResponse> {
    let place = (".{0,9}", ".{0,9}", -90.0..90.0, -180.0..180.0);
    (any::<[u8; 32]>(), any::<bool>(), bytes(), place, any::<u16>(), bytes()).prop_map(
        |(req_hash, accepted, ip, place, err_code, noise_msg)| StreamResponse {
            req_hash,
            accepted,
            ip,
            geo_country: place.0,
            geo_region: place.1,
            geo_lat: place.2,
            geo_lon: place.3,
            err_code,
            noise_msg,
        },
    )
}

/// What is left of a request in a dialect.
fn request_in(dialect: Dialect, request: &StreamRequest) -> StreamRequest {
    StreamRequest {
        ip_info: request.ip_info && dialect >= Dialect::G24,
        geo_info: request.geo_info && dialect >= Dialect::G26,
        ..request.clone()
    }
}

/// What is left of a response in a dialect.
fn response_in(dialect: Dialect, response: &StreamResponse) -> StreamResponse {
    let mut left = response.clone();
    if dialect < Dialect::G24 {
        left.ip.clear();
    }
    if dialect < Dialect::G26 {
        left.geo_country.clear();
        left.geo_region.clear();
        (left.geo_lat, left.geo_lon) = (0.0, 0.0);
    }
    left
}

/// A change to an encoding: at a place, one byte is replaced, left out, or put in.
fn mutate(mut gob: Vec<u8>, changes: &[(Index, u8, u8)]) -> Vec<u8> {
    for (place, how, byte) in changes {
        if gob.is_empty() {
            break;
        }
        let place = place.index(gob.len());
        match how % 4 {
            0 | 1 => gob[place] = *byte,
            2 => drop(gob.remove(place)),
            _ => gob.insert(place, *byte),
        }
    }
    gob
}

fn changes() -> impl Strategy<Value = Vec<(Index, u8, u8)>> {
    prop::collection::vec(any::<(Index, u8, u8)>(), 1..6)
}

/// Whatever decodes must survive its own encoding. Bytes are compared, as a mutated float may be
/// no number.
fn check_decodable(gob: &[u8]) {
    if let Ok(request) = StreamRequest::decode(gob) {
        let encoded = request.encode(Dialect::G26);
        assert_eq!(StreamRequest::decode(&encoded), Ok(request));
    }
    if let Ok(response) = StreamResponse::decode(gob) {
        let encoded = response.encode(Dialect::G26);
        let again = StreamResponse::decode(&encoded).unwrap();
        assert_eq!(again.encode(Dialect::G26), encoded);
    }
    if let Ok(announce) = PeerAnnounce::decode(gob) {
        assert_eq!(PeerAnnounce::decode(&announce.encode()), Ok(announce));
    }
}

proptest! {
    #[test]
    fn requests_survive_in_all_dialects(request in request()) {
        for dialect in Dialect::ALL {
            let decoded = StreamRequest::decode(&request.encode(dialect));
            prop_assert_eq!(decoded, Ok(request_in(dialect, &request)));
        }
    }

    #[test]
    fn responses_survive_in_all_dialects(response in response()) {
        for dialect in Dialect::ALL {
            let decoded = StreamResponse::decode(&response.encode(dialect));
            prop_assert_eq!(decoded, Ok(response_in(dialect, &response)));
        }
    }

    #[test]
    fn announcements_survive(timestamp: i64, src_key in key()) {
        let announce = PeerAnnounce { timestamp, src_key };
        prop_assert_eq!(PeerAnnounce::decode(&announce.encode()), Ok(announce));
    }

    /// The capacity is computed, not grown into: one allocation per encoding.
    #[test]
    fn encodings_fit_the_room_made_for_them(request in request(), response in response()) {
        for dialect in Dialect::ALL {
            let definitions = StreamRequest::default().encode(dialect).capacity();
            let gob = request.encode(dialect);
            prop_assert_eq!(gob.capacity(), definitions + request.noise_msg.len());
            let definitions = StreamResponse::default().encode(dialect).capacity();
            let gob = response.encode(dialect);
            let variable = response.noise_msg.len()
                + response.ip.len()
                + response.geo_country.len()
                + response.geo_region.len();
            prop_assert_eq!(gob.capacity(), definitions + variable);
        }
    }

    #[test]
    fn random_bytes_never_panic(gob in prop::collection::vec(any::<u8>(), 0..200)) {
        check_decodable(&gob);
    }

    #[test]
    fn mutated_encodings_never_panic(
        request in request(),
        response in response(),
        changes in changes(),
    ) {
        for dialect in Dialect::ALL {
            check_decodable(&mutate(request.encode(dialect), &changes));
            check_decodable(&mutate(response.encode(dialect), &changes));
        }
    }

    /// Cut off anywhere, an encoding does not decode.
    #[test]
    fn truncated_encodings_are_refused(request in request(), cut: Index) {
        let gob = request.encode(Dialect::G24);
        prop_assert!(StreamRequest::decode(&gob[..cut.index(gob.len())]).is_err());
    }

    #[test]
    fn announcements_mutated_never_panic(changes in changes()) {
        let src_key = Some(SecretKey::from_seed(b"server").public_key());
        check_decodable(&mutate(PeerAnnounce { timestamp: 1, src_key }.encode(), &changes));
    }
}
