//! The tolerant gob decoder (`wire.md §4.3`): any bytes; what decodes must survive encoding again.

use dmsg_engine::wire::{Dialect, PeerAnnounce, StreamRequest, StreamResponse};

/// One input.
pub fn run(data: &[u8]) {
    if let Ok(request) = StreamRequest::decode(data) {
        let again = StreamRequest::decode(&request.encode(Dialect::G26));
        assert_eq!(again.as_ref(), Ok(&request), "a request changed on its way");
    }
    if let Ok(mut response) = StreamResponse::decode(data) {
        // Not equal to itself: compare the rest.
        response.geo_lat = if response.geo_lat.is_nan() { 0.0 } else { response.geo_lat };
        response.geo_lon = if response.geo_lon.is_nan() { 0.0 } else { response.geo_lon };
        let again = StreamResponse::decode(&response.encode(Dialect::G26));
        assert_eq!(again.as_ref(), Ok(&response), "a response changed on its way");
    }
    drop(PeerAnnounce::decode(data));
}
