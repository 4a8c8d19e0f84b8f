//! The status pages of `dmsg up` and `dmsg local`: each has its own text, and both one look and one set of helpers.

use std::future::ready;

use axum::routing::{MethodRouter, get};
use http::header;

const STYLE: &str = include_str!("page/shared.css");
const SCRIPT: &str = include_str!("page/shared.js");

/// What a page may do: its own styles and scripts, and questions to where it came from.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'";

/// Serves a page, with what is shared in its places.
pub(super) fn serve(own: &str) -> MethodRouter {
    let text = own.replacen("{{shared.css}}", STYLE, 1).replacen("{{shared.js}}", SCRIPT, 1);
    let kind = (header::CONTENT_TYPE, "text/html; charset=utf-8");
    get(move || ready(([kind, (header::CONTENT_SECURITY_POLICY, POLICY)], text.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_one_place_for_each_of_what_is_shared() {
        for page in [include_str!("up/page.html"), include_str!("local/page.html")] {
            for place in ["{{shared.css}}", "{{shared.js}}"] {
                assert_eq!(page.matches(place).count(), 1, "{place}");
            }
        }
        assert!(!STYLE.contains("</") && !SCRIPT.contains("</"), "they would end their element");
    }
}
