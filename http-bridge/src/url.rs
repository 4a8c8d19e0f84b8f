//! `dmsg://` URLs (`dmsg-http.md §2`).
//!
//! ```text
//!   dmsg://<66 hex digits>[:<port>][/path][?query]
//!          └── authority ─────────┘└─ target ────┘
//! ```
//!
//! A [`DmsgUrl`] is checked when it is made: its key is a point of the curve, its port is not 0, and its
//! target can stand in a request line as it is. Fragments are dropped, userinfo is refused. How a
//! request reaches the key is the business of [`crate::http`].

use std::{fmt, num::NonZeroU16, str::FromStr};

use dmsg_engine::{
    identity::{KeyError, PublicKey},
    wire::{Addr, Port},
};

/// The port of a URL without one.
pub const DEFAULT_PORT: Port = NonZeroU16::new(80).expect("80 is not 0");

/// Longest URL that is read, in bytes. Servers commonly refuse request lines above 8 KiB.
pub const URL_MAX_BYTES: usize = 8 * 1024;

/// Bytes of a host's name, as the DNS bounds them (RFC 1035 §2.3.4).
pub(crate) const HOST_MAX_BYTES: usize = 253;

/// Whether a text is a port from 1 to 65535: digits and nothing else.
fn is_port(text: &str) -> bool {
    let is_number = text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number && text.parse::<NonZeroU16>().is_ok()
}

/// Whether an authority of an `http://` address has no port or one from 1 to 65535. (`http::Uri` takes any number, and
/// clients then use port 80.)
pub(crate) fn has_valid_port(authority: &str) -> bool {
    let host_port = authority.rsplit_once('@').map_or(authority, |(_, rest)| rest);
    let behind_host = host_port.rsplit_once(']').map_or(host_port, |(_, rest)| rest);
    match behind_host.rsplit_once(':') {
        None => true,
        Some((_, port)) => is_port(port),
    }
}

/// Whether a text is a host and a port for others to connect to; says why not.
pub(crate) fn check_host_port(text: &str) -> Result<(), String> {
    let (host, port) = text.rsplit_once(':').ok_or("HOST:PORT is wanted, the port is missing")?;
    if host.len() > HOST_MAX_BYTES {
        return Err(format!(
            "the host has {} bytes; no name has more than {HOST_MAX_BYTES}",
            host.len()
        ));
    }
    if !is_port(port) {
        return Err(format!("{port:?} is no port from 1 to 65535"));
    }
    let is_v6 = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok());
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if is_v6 || (!host.is_empty() && host.chars().all(is_name)) {
        Ok(())
    } else {
        Err(format!("{host:?} is no host: write a name, an IPv4 address, or [IPv6]"))
    }
}

/// Which rule a text breaks that should have been a `dmsg://` URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// Longer than [`URL_MAX_BYTES`].
    #[error("the URL has {0} bytes; at most {URL_MAX_BYTES} are read")]
    TooLong(usize),
    /// No `://`.
    #[error("the URL has no scheme: write dmsg://<public key>[:port]/path")]
    NoScheme,
    /// Another scheme.
    #[error("the scheme is {0:?}; only dmsg:// goes over DMSG")]
    Scheme(String),
    /// Nothing between `//` and the path.
    #[error("the URL has no host: write dmsg://<public key>[:port]/path")]
    NoHost,
    /// `user@` or `user:password@`.
    #[error("the URL has a user name or password; DMSG knows callers by their key only")]
    UserInfo,
    /// The host is no public key.
    #[error("invalid host address: {0}")]
    Key(#[from] KeyError),
    /// The part behind the colon is no port.
    #[error("bad port {0:?}: a port is a number from 1 to 65535, and 0, ~ or nothing mean 80")]
    Port(String),
    /// More than one colon in the host.
    #[error("the host has more than one colon: write <public key>:<port>")]
    Colons,
    /// A control character anywhere.
    #[error("the URL holds the control character {0:?}; write it percent-encoded")]
    Control(char),
    /// `%` without two hex digits behind it.
    #[error("a % in the URL is not followed by two hex digits; a percent sign is written %25")]
    Percent,
    /// An address was asked for, but there is a path or query behind it.
    #[error("only <public key>:<port> is wanted here, without {0:?}")]
    NotAnAddress(String),
}

/// Why a redirect is not followed (`dmsg-http.md §3.4`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RedirectError {
    /// It leads out of DMSG.
    #[error("the redirect to {0:?} leaves DMSG and is refused")]
    LeavesDmsg(String),
    /// It leads to another key.
    #[error("the redirect leads to another key, {0}, and is refused")]
    OtherKey(PublicKey),
    /// It is no URL.
    #[error("the redirect is no URL: {0}")]
    Url(#[from] UrlError),
}

/// A checked `dmsg://` URL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DmsgUrl {
    key: PublicKey,
    /// As written; `None` for none, `:`, `:~` and `:0`.
    port: Option<Port>,
    /// Path and query; begins with `/`.
    target: String,
}

impl DmsgUrl {
    /// A URL of `key` with this path and query; the port is written out unless it is [`DEFAULT_PORT`].
    pub fn new(to: Addr, target: &str) -> Result<Self, UrlError> {
        check_text(target)?;
        let port = (to.port != DEFAULT_PORT).then_some(to.port);
        Ok(Self { key: to.key, port, target: clean_target(target) })
    }

    /// A URL whose target goes out byte for byte as it came in: whoever forwards a request must not change it (RFC 9110 §7.7),
    /// as its sender may have signed it. `target` is a path and query that an HTTP parser took.
    pub(crate) fn verbatim(to: Addr, target: &str) -> Self {
        let slash = if target.starts_with('/') { "" } else { "/" };
        let port = (to.port != DEFAULT_PORT).then_some(to.port);
        Self { key: to.key, port, target: format!("{slash}{target}") }
    }

    /// Parses an address for a flag or a configuration field: `key`, `key:port` or `dmsg://key[:port][/]`.
    pub fn parse_addr(text: &str) -> Result<Addr, UrlError> {
        let text = text.trim();
        let url: Self =
            if text.contains("://") { text.parse()? } else { format!("dmsg://{text}").parse()? };
        if url.target == "/" { Ok(url.addr()) } else { Err(UrlError::NotAnAddress(url.target)) }
    }

    /// Where the request goes.
    #[must_use]
    pub fn addr(&self) -> Addr {
        Addr { key: self.key, port: self.port.unwrap_or(DEFAULT_PORT) }
    }

    /// The `Host` header: the port is present if it was in the URL (`dmsg-http.md §3.1`).
    #[must_use]
    pub fn host(&self) -> String {
        match self.port {
            Some(port) => format!("{}:{port}", self.key),
            None => self.key.to_string(),
        }
    }

    /// Path and query, as the request line shows them.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The path, without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or("/")
    }

    /// The same destination with another path and query.
    pub fn with_target(&self, target: &str) -> Result<Self, UrlError> {
        check_text(target)?;
        Ok(Self { target: clean_target(target), ..self.clone() })
    }

    /// Where a `Location` header leads: absolute, or relative to this URL (RFC 3986 §5).
    /// Only the same key may be named.
    pub fn redirect(&self, location: &str) -> Result<Self, RedirectError> {
        let location = location.trim();
        check_text(location)?;
        let without_fragment = location.split('#').next().unwrap_or_default();
        if let Some(rest) = without_fragment.strip_prefix("//") {
            return self.same_key(format!("dmsg://{rest}").parse()?);
        }
        if let Some((scheme, _)) = without_fragment.split_once(':')
            && is_scheme(scheme)
        {
            return if scheme.eq_ignore_ascii_case("dmsg") {
                self.same_key(without_fragment.parse()?)
            } else {
                Err(RedirectError::LeavesDmsg(location.to_owned()))
            };
        }
        let target = match without_fragment.as_bytes().first() {
            None => self.target.clone(),
            Some(b'/') => remove_dot_segments(without_fragment),
            Some(b'?') => format!("{}{without_fragment}", self.path()),
            Some(_) => {
                let folder = &self.path()[..=self.path().rfind('/').unwrap_or(0)];
                remove_dot_segments(&format!("{folder}{without_fragment}"))
            }
        };
        Ok(self.with_target(&target)?)
    }

    fn same_key(&self, url: Self) -> Result<Self, RedirectError> {
        if url.key == self.key { Ok(url) } else { Err(RedirectError::OtherKey(url.key)) }
    }
}

impl fmt::Display for DmsgUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dmsg://{}{}", self.host(), self.target)
    }
}

impl FromStr for DmsgUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let text = text.trim();
        check_text(text)?;
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::NoScheme)?;
        if !scheme.eq_ignore_ascii_case("dmsg") {
            return Err(UrlError::Scheme(scheme.to_owned()));
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if authority.contains('@') {
            return Err(UrlError::UserInfo);
        }
        let (key, port) = match authority.split_once(':') {
            Some((_, port)) if port.contains(':') => return Err(UrlError::Colons),
            Some((key, port)) => (key, parse_port(port)?),
            None => (authority, None),
        };
        if key.is_empty() {
            return Err(UrlError::NoHost);
        }
        Ok(Self { key: key.parse()?, port, target: clean_target(target) })
    }
}

/// `None` stands for 80: nothing, `~` and 0 mean "not set".
fn parse_port(text: &str) -> Result<Option<Port>, UrlError> {
    if matches!(text, "" | "~") {
        return Ok(None);
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(UrlError::Port(text.to_owned()));
    }
    text.parse().map(Port::new).map_err(|_| UrlError::Port(text.to_owned()))
}

/// Length, control characters and percent signs, before anything is taken apart.
fn check_text(text: &str) -> Result<(), UrlError> {
    if text.len() > URL_MAX_BYTES {
        return Err(UrlError::TooLong(text.len()));
    }
    if let Some(control) = text.chars().find(|c| c.is_control()) {
        return Err(UrlError::Control(control));
    }
    let is_hex = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    let bytes = text.as_bytes();
    let bad = bytes
        .iter()
        .enumerate()
        .any(|(i, b)| *b == b'%' && !(is_hex(bytes.get(i + 1)) && is_hex(bytes.get(i + 2))));
    if bad { Err(UrlError::Percent) } else { Ok(()) }
}

/// Drops the fragment, adds the leading slash, and encodes what may not stand in a request line.
fn clean_target(target: &str) -> String {
    let target = target.split('#').next().unwrap_or_default();
    let mut clean = String::with_capacity(target.len() + 1);
    if !target.starts_with('/') {
        clean.push('/');
    }
    for byte in target.bytes() {
        match byte {
            b'!' | b'$'..=b';' | b'=' | b'?'..=b'Z' | b'_' | b'a'..=b'z' | b'~' => {
                clean.push(char::from(byte));
            }
            _ => clean.push_str(percent_encoding::percent_encode_byte(byte)),
        }
    }
    clean
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

/// RFC 3986 §5.2.4, on the path only.
fn remove_dot_segments(target: &str) -> String {
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    let mut out: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    out.pop();
                }
                if last {
                    out.push("");
                }
            }
            _ => out.push(segment),
        }
    }
    format!("/{}{query}", out.join("/"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use dmsg_engine::identity::SecretKey;
    use proptest::prelude::*;

    use super::*;

    fn key() -> PublicKey {
        SecretKey::from_seed(b"url tests").public_key()
    }

    fn parse(tail: &str) -> Result<DmsgUrl, UrlError> {
        format!("dmsg://{}{tail}", key()).parse()
    }

    #[test]
    fn no_port_empty_tilde_zero_and_80_reach_port_80() {
        for (tail, host) in [
            ("", key().to_string()),
            (":", key().to_string()),
            (":~", key().to_string()),
            (":0", key().to_string()),
            (":80", format!("{}:80", key())),
        ] {
            let url = parse(tail).unwrap();
            assert_eq!(url.addr(), Addr { key: key(), port: DEFAULT_PORT }, "{tail}");
            assert_eq!(url.host(), host, "{tail}");
            assert_eq!(url.target(), "/");
        }
        assert_eq!(parse(":8081/x?y=1").unwrap().addr().port.get(), 8081);
    }

    #[test]
    fn either_case_is_read_and_lower_case_is_written() {
        let upper = key().to_string().to_uppercase();
        let url: DmsgUrl = format!("  DMSG://{upper}/A \n").parse().unwrap();
        assert_eq!(url.to_string(), format!("dmsg://{}/A", key()));
    }

    #[test]
    fn each_broken_rule_has_its_error() {
        let cases: &[(String, UrlError)] = &[
            (key().to_string(), UrlError::NoScheme),
            (format!("http://{}/", key()), UrlError::Scheme("http".into())),
            ("dmsg:///x".into(), UrlError::NoHost),
            ("dmsg://:80/x".into(), UrlError::NoHost),
            (format!("dmsg://u:p@{}/", key()), UrlError::UserInfo),
            (format!("dmsg://{}:80:81/", key()), UrlError::Colons),
            (format!("dmsg://{}:+80/", key()), UrlError::Port("+80".into())),
            (format!("dmsg://{}:65536/", key()), UrlError::Port("65536".into())),
            (format!("dmsg://{}/a\r\nX: y", key()), UrlError::Control('\r')),
            (format!("dmsg://{}/a%2", key()), UrlError::Percent),
            (format!("dmsg://{}/%zz", key()), UrlError::Percent),
            (format!("dmsg://{}/{}", key(), "a".repeat(9000)), UrlError::TooLong(9000 + 74)),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<DmsgUrl>().unwrap_err(), *error, "{text}");
        }
        let off_curve = format!("dmsg://02{}/", "ff".repeat(32));
        let error = off_curve.parse::<DmsgUrl>().unwrap_err();
        assert_eq!(error, UrlError::Key(KeyError::NotOnCurve));
        assert!(error.to_string().starts_with("invalid host address: "));
    }

    #[test]
    fn fragments_go_and_spaces_are_encoded() {
        assert_eq!(parse("/a b?q=ü#frag").unwrap().target(), "/a%20b?q=%C3%BC");
        assert_eq!(parse("?q").unwrap().target(), "/?q");
        assert_eq!(parse("#only").unwrap().target(), "/");
    }

    #[test]
    fn addresses_need_no_scheme_but_bear_no_path() {
        let addr = Addr { key: key(), port: Port::new(81).unwrap() };
        for text in [format!("{}:81", key()), format!("dmsg://{}:81", key())] {
            assert_eq!(DmsgUrl::parse_addr(&text).unwrap(), addr);
        }
        let error = DmsgUrl::parse_addr(&format!("{}/x", key())).unwrap_err();
        assert_eq!(error, UrlError::NotAnAddress("/x".into()));
    }

    #[test]
    fn redirects_stay_at_the_key() {
        let base = parse(":81/a/b?c").unwrap();
        let target = |location: &str| base.redirect(location).unwrap().target().to_owned();
        assert_eq!(target("/x?y#z"), "/x?y");
        assert_eq!(target("x"), "/a/x");
        assert_eq!(target("../x/./y/.."), "/x/");
        assert_eq!(target("../../../x"), "/x");
        assert_eq!(target("?d"), "/a/b?d");
        assert_eq!(target(""), "/a/b?c");
        assert_eq!(target(&format!("//{}/q", key())), "/q");
        let absolute = base.redirect(&format!("dmsg://{}:90/q", key())).unwrap();
        assert_eq!(absolute.addr().port.get(), 90);
        let other = SecretKey::from_seed(b"other").public_key();
        assert_eq!(
            base.redirect(&format!("dmsg://{other}/")).unwrap_err(),
            RedirectError::OtherKey(other)
        );
        assert!(matches!(base.redirect("https://x/"), Err(RedirectError::LeavesDmsg(_))));
        assert!(matches!(base.redirect("file:/etc"), Err(RedirectError::LeavesDmsg(_))));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC*|dmsg://[0-9a-f]{60,70}[:/?#@%].*") {
            let _ = text.parse::<DmsgUrl>();
            let _ = DmsgUrl::parse_addr(&text);
            let _ = parse("/a/b").unwrap().redirect(&text);
        }

        #[test]
        fn what_is_displayed_parses_to_the_same(
            seed in any::<[u8; 4]>(),
            port in prop_oneof![Just(String::new()), (0u16..).prop_map(|p| format!(":{p}"))],
            tail in "(/[^\\p{Cc}%]{0,20}(%4[0-9a-f])?){0,4}(\\?[^\\p{Cc}%]{0,20})?",
        ) {
            let key = SecretKey::from_seed(&seed).public_key();
            let url: DmsgUrl = format!("dmsg://{key}{port}{tail}").parse().unwrap();
            prop_assert_eq!(url.to_string().parse::<DmsgUrl>().unwrap(), url.clone());
            prop_assert!(url.target().parse::<http::uri::PathAndQuery>().is_ok(), "{}", url.target());
        }
    }

    #[test]
    fn a_port_is_digits_and_no_more_than_a_port_can_be() {
        for (authority, valid) in [
            ("a", true),
            ("a:80", true),
            ("[::1]", true),
            ("[::1]:65535", true),
            ("user:pass@a", true),
            ("user:80@a:0", false),
            ("a:", false),
            ("a:+80", false),
            ("a:0", false),
            ("a:65536", false),
            ("a:000080", false),
        ] {
            assert_eq!(has_valid_port(authority), valid, "{authority}");
        }
    }
}
