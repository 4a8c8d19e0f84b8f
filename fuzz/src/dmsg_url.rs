//! DMSG URLs and addresses (`dmsg-http.md §2`): any text; what parses must print to what parses the same.

use dmsg_http::url::DmsgUrl;

/// One input: text; the part behind the first line break is a redirect's location.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (text, location) = text.split_once('\n').unwrap_or((text, ""));
    drop(DmsgUrl::parse_addr(text));
    let Ok(url) = text.parse::<DmsgUrl>() else { return };
    let printed = url.to_string();
    assert_eq!(printed.parse::<DmsgUrl>().as_ref(), Ok(&url), "{printed:?} reads differently");
    assert!(url.target().starts_with('/'), "a request target starts with a slash");
    let clean = !printed.bytes().any(|b| b.is_ascii_control() || b == b' ');
    assert!(clean, "{printed:?} could break a request line");
    if let Ok(next) = url.redirect(location) {
        assert_eq!(next.addr().key, url.addr().key, "a redirect left its destination");
    }
}
