//! Where a message ends, stated once and for everybody (RFC 9112 §6).

use http::{HeaderMap, HeaderValue, header};
use http_body::Body;

/// Says that a body of unknown length comes in chunks. hyper would drop the body of a GET without a word.
pub(crate) fn state_chunks(headers: &mut HeaderMap, body: &impl Body) {
    if !body.is_end_stream() && body.size_hint().exact().is_none() {
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Whoever reads such a response otherwise than we do sees another one behind it.
pub(crate) fn has_two_lengths(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return false };
    // A list of equal lengths is still more than one.
    lengths.next().is_some()
        || !length.as_bytes().iter().all(u8::is_ascii_digit)
        || headers.contains_key(header::TRANSFER_ENCODING)
}
