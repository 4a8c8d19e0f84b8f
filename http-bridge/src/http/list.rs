//! Headers that hold a list (RFC 9110 §5.6.1).

use http::{HeaderMap, HeaderName, header};

/// The elements of a list, on however many lines it stands.
pub(crate) fn elements(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|element| !element.is_empty())
}

/// Whether `Connection` names this option.
pub(crate) fn is_named(headers: &HeaderMap, option: &str) -> bool {
    elements(headers, header::CONNECTION).any(|named| named.eq_ignore_ascii_case(option))
}
