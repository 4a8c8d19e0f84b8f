//! Where a message ends, stated once and for everybody (RFC 9112 §6).

use http::{HeaderMap, HeaderValue, header};
use http_body::Body;

/// Says that a body of unknown length comes in chunks. hyper would drop the body of a GET without a word.
pub(crate) fn state_chunks(headers: &mut HeaderMap, body: &impl Body) {
    if !body.is_end_stream() && body.size_hint().exact().is_none() {
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Why a response can be read in two ways, or not at all by whoever takes its framing off: what comes behind it, or in it,
/// would be something else for the next reader.
pub(crate) fn framing_problem(headers: &HeaderMap) -> Option<&'static str> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let coding = codings.next();
    if let Some(length) = lengths.next() {
        // A list of equal lengths is still more than one.
        let is_one = lengths.next().is_none() && length.as_bytes().iter().all(u8::is_ascii_digit);
        if !is_one || coding.is_some() {
            return Some("states its length twice, or as a list");
        }
    }
    let is_known = |coding: &HeaderValue| {
        let coding = coding.as_bytes();
        coding.eq_ignore_ascii_case(b"chunked") || coding.eq_ignore_ascii_case(b"identity")
    };
    if coding.is_some_and(|coding| !is_known(coding)) || codings.next().is_some() {
        // Nobody asked for gzip hop by hop, and the next hop would not be told of it.
        return Some("uses a transfer coding other than chunked");
    }
    None
}
