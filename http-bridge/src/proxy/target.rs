//! The address of a service, and how paths and redirects of its callers are those of the service and back.

use std::net::IpAddr;

use http::{
    Method, Uri,
    uri::{Authority, PathAndQuery, Scheme},
};

/// Why an address is not proxied to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// Not an absolute `http://` URL.
    #[error("{0:?} is no http:// URL: write http://127.0.0.1:PORT")]
    NotHttp(String),
    /// The port does not fit.
    #[error("{0:?} has no port from 1 to 65535 behind the colon: write http://127.0.0.1:PORT")]
    Port(String),
    /// A query or a fragment, which no request could be appended to.
    #[error("{0:?} has a query: only http://host:port, with a path at most, can be a target")]
    Query(String),
    /// Another machine.
    #[error(
        "{0} is not on this machine: whoever reaches this service could reach into your network \
         through it; if you mean it, say --allow-remote-target"
    )]
    NotLoopback(String),
}

/// The service behind a [`Proxy`](super::Proxy).
#[derive(Debug, Clone)]
pub struct Target {
    pub(super) authority: Authority,
    /// Without a slash at its end.
    base: String,
}

impl Target {
    /// Reads `http://host[:port][/base]`. Hosts other than this machine's loopback need `allow_remote`.
    pub fn parse(text: &str, allow_remote: bool) -> Result<Self, TargetError> {
        let not_http = || TargetError::NotHttp(text.to_owned());
        let uri: Uri = text.trim().parse().map_err(|_| not_http())?;
        let authority = uri.authority().cloned().ok_or_else(not_http)?;
        if uri.scheme() != Some(&Scheme::HTTP) || authority.as_str().contains('@') {
            return Err(not_http());
        }
        if !crate::url::has_valid_port(authority.as_str()) {
            return Err(TargetError::Port(text.to_owned()));
        }
        if uri.query().is_some() {
            return Err(TargetError::Query(text.to_owned()));
        }
        if !allow_remote && !is_loopback(authority.host()) {
            return Err(TargetError::NotLoopback(authority.host().to_owned()));
        }
        let base = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { authority, base })
    }

    /// What a `Location` of the service is for callers, if that is something else: without our address and the base in front.
    pub(super) fn localised(&self, location: &str) -> Option<String> {
        let (place, fragment) = location.split_at(location.find('#').unwrap_or(location.len()));
        let path = if let Some(rest) = place.strip_prefix("//") {
            self.path_of(&format!("http://{rest}"))?
        } else if place.starts_with('/') {
            place.to_owned()
        } else {
            self.path_of(place)?
        };
        let beneath = path.strip_prefix(&self.base)?;
        let local = match beneath.as_bytes().first() {
            None => "/".to_owned(),
            Some(b'/') => beneath.to_owned(),
            Some(b'?') => format!("/{beneath}"),
            // Another path that begins alike.
            Some(_) => return None,
        };
        // Two slashes would name another host.
        (!local.starts_with("//")).then(|| format!("{local}{fragment}"))
    }

    /// Path and query of an absolute URL, if it is one of the service.
    fn path_of(&self, url: &str) -> Option<String> {
        let uri: Uri = url.parse().ok()?;
        let is_ours = uri.authority() == Some(&self.authority);
        is_ours.then(|| uri.path_and_query().map_or("/", PathAndQuery::as_str).to_owned())
    }

    pub(super) fn uri(&self, method: &Method, of: &Uri) -> Option<Uri> {
        let tail = of.path_and_query().map_or("/", PathAndQuery::as_str);
        // The service as a whole, so not if only a part of it is offered.
        let is_whole = tail == "*" && method == Method::OPTIONS && self.base.is_empty();
        // A service that resolves `..` would leave the base.
        if !(tail.starts_with('/') || is_whole)
            || (!self.base.is_empty() && has_dot_segment(of.path()))
        {
            return None;
        }
        Uri::builder()
            .scheme(Scheme::HTTP)
            .authority(self.authority.clone())
            .path_and_query(format!("{}{tail}", self.base))
            .build()
            .ok()
    }
}

/// Whether a path goes up or stays, in any spelling that services are known to resolve.
fn has_dot_segment(path: &str) -> bool {
    let is_dots = |segment: &str| {
        let segment = segment.to_ascii_lowercase().replace("%2e", ".");
        let name = segment.split(';').next().unwrap_or_default();
        matches!(name, "." | "..")
    };
    let path = path.replace("%2f", "/").replace("%2F", "/").replace("%5c", "/").replace("%5C", "/");
    path.split(['/', '\\']).any(is_dots)
}

/// An IPv4 address inside an IPv6 one is that IPv4 address; 0.0.0.0 is not loopback, whatever the kernel makes of it.
fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().map_or_else(
        |_| bare.eq_ignore_ascii_case("localhost"),
        |ip| ip.to_canonical().is_loopback(),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_a_target_unless_told() {
        for good in [
            "http://127.0.0.1:80",
            "http://localhost:8080/base/",
            "http://[::1]:80",
            "http://[::ffff:127.0.0.1]:80",
            "http://127.9.9.9",
        ] {
            Target::parse(good, false).unwrap();
        }
        for remote in [
            "http://10.0.0.1",
            "http://169.254.169.254/latest",
            "http://0.0.0.0:80",
            "http://[::]:80",
            "http://[::ffff:10.0.0.1]:80",
            "http://localhost.example.com",
            "http://2130706433",
        ] {
            let error = Target::parse(remote, false).unwrap_err();
            assert!(matches!(error, TargetError::NotLoopback(_)), "{remote}");
            Target::parse(remote, true).unwrap();
        }
        for bad in [
            "https://127.0.0.1",
            "127.0.0.1:80",
            "/x",
            "",
            "http://u:p@127.0.0.1",
            "ftp://localhost",
        ] {
            assert!(matches!(Target::parse(bad, true), Err(TargetError::NotHttp(_))), "{bad}");
        }
        for bad in
            ["http://127.0.0.1:99999", "http://127.0.0.1:0", "http://[::1]:", "http://a:70000/x"]
        {
            assert!(matches!(Target::parse(bad, true), Err(TargetError::Port(_))), "{bad}");
        }
        let query = Target::parse("http://127.0.0.1:1/?a", true).unwrap_err();
        assert!(matches!(query, TargetError::Query(_)));
    }

    #[test]
    fn the_path_is_appended_to_the_base() {
        let target = Target::parse("http://localhost:1/base/", false).unwrap();
        let uri = target.uri(&Method::GET, &"/x?y".parse().unwrap()).unwrap();
        assert_eq!(uri.to_string(), "http://localhost:1/base/x?y");
        let uri = target.uri(&Method::GET, &"http://evil/x".parse().unwrap()).unwrap();
        assert_eq!(uri.to_string(), "http://localhost:1/base/x");
        for out in ["/..", "/../x", "/a/%2e%2E/x", "/.%2e;a/x", "/a%2f..%2fx", "/a\\..\\x", "*"] {
            let Ok(uri) = out.parse() else { continue };
            assert!(target.uri(&Method::GET, &uri).is_none(), "{out}");
        }
        let bare = Target::parse("http://localhost:1", false).unwrap();
        assert!(
            bare.uri(&Method::GET, &"/../x".parse().unwrap()).is_some(),
            "there is no base to leave"
        );
        let all = "*".parse().unwrap();
        assert_eq!(bare.uri(&Method::OPTIONS, &all).unwrap().path(), "*");
        assert!(bare.uri(&Method::GET, &all).is_none());
        assert!(target.uri(&Method::OPTIONS, &all).is_none(), "it is not the base's alone");
    }

    #[test]
    fn redirects_to_the_service_itself_lead_back_to_us() {
        let bare = Target::parse("http://127.0.0.1:3000", false).unwrap();
        let app = Target::parse("http://127.0.0.1:3000/app", false).unwrap();
        for (location, of_bare, of_app) in [
            ("http://127.0.0.1:3000/app/login", Some("/app/login"), Some("/login")),
            ("http://127.0.0.1:3000/app", Some("/app"), Some("/")),
            ("http://127.0.0.1:3000/app?a=/b#c", Some("/app?a=/b#c"), Some("/?a=/b#c")),
            ("http://127.0.0.1:3000", Some("/"), None),
            ("http://127.0.0.1:3000/application", Some("/application"), None),
            ("//127.0.0.1:3000/app/x", Some("/app/x"), Some("/x")),
            ("/app/login#top", Some("/app/login#top"), Some("/login#top")),
            ("/application", Some("/application"), None),
            ("/other", Some("/other"), None),
            ("login", None, None),
            ("?a", None, None),
            ("#top", None, None),
            ("http://127.0.0.1:3001/app/x", None, None),
            ("/app//example.org", Some("/app//example.org"), None),
            ("http://127.0.0.1:3000//example.org", None, None),
            ("https://example.org/app", None, None),
        ] {
            assert_eq!(bare.localised(location).as_deref(), of_bare, "{location}");
            assert_eq!(app.localised(location).as_deref(), of_app, "{location}");
        }
    }
}
