//! Binds a transport to one service: what turns origin-form requests into absolute ones.

use bytes::Bytes;
use http::{Request, Uri, uri::PathAndQuery};

use crate::transport::{ExchangeFuture, HttpTransport, Limits, TransportError};

/// The address is no base address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{base:?} is no base address of a service ({what}): expected http://host:port or dmsg://key:port"
)]
pub struct BadBase {
    /// The address.
    pub base: String,
    /// What is wrong with it.
    pub what: &'static str,
}

/// A transport in front of which stands one service's base address.
#[derive(Debug, Clone)]
pub struct Bound<T> {
    base: Uri,
    transport: T,
}

impl<T> Bound<T> {
    /// Binds `transport` to `base`, such as `http://tpd.example`, `http://host/prefix` or `dmsg://<key>:80`. A
    /// trailing slash does not count.
    pub fn new(base: &str, transport: T) -> Result<Self, BadBase> {
        let bad = |what| BadBase { base: base.to_owned(), what };
        let uri: Uri = base.trim_end_matches('/').parse().map_err(|_| bad("it does not parse"))?;
        let Some(authority) = uri.authority().filter(|_| uri.scheme().is_some()) else {
            return Err(bad("scheme or host is missing"));
        };
        if authority.as_str().contains('@') {
            return Err(bad("it has a user name or password"));
        }
        if !crate::url::has_valid_port(authority.as_str()) {
            return Err(bad("it has no port from 1 to 65535 behind the colon"));
        }
        if uri.query().is_some() {
            return Err(bad("it has a query"));
        }
        Ok(Self { base: uri, transport })
    }

    /// The base address.
    #[must_use]
    pub fn base(&self) -> &Uri {
        &self.base
    }

    fn absolute(&self, target: &Uri) -> Result<Uri, TransportError> {
        let wrong = || TransportError::UnsupportedScheme(target.to_string());
        if target.authority().is_some() {
            // Bound to one service: whoever asks for another has mixed something up.
            return Err(wrong());
        }
        let prefix = self.base.path().trim_end_matches('/');
        let path = target.path_and_query().map_or("/", PathAndQuery::as_str);
        let mut parts = self.base.clone().into_parts();
        parts.path_and_query = Some(format!("{prefix}{path}").parse().map_err(|_| wrong())?);
        Uri::from_parts(parts).map_err(|_| wrong())
    }
}

impl<T: HttpTransport> HttpTransport for Bound<T> {
    fn exchange(&self, mut request: Request<Bytes>, limits: Limits) -> ExchangeFuture<'_> {
        match self.absolute(request.uri()) {
            Ok(uri) => {
                *request.uri_mut() = uri;
                self.transport.exchange(request, limits)
            }
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn origin_form_becomes_absolute_behind_the_base() {
        let absolute = |base: &str, target: &str| {
            Bound::new(base, ()).unwrap().absolute(&target.parse().unwrap()).map(|u| u.to_string())
        };
        assert_eq!(absolute("http://a:1", "/x?y=1"), Ok("http://a:1/x?y=1".into()));
        assert_eq!(absolute("http://a/", "/x"), Ok("http://a/x".into()));
        assert_eq!(absolute("http://a/b/", "/x/"), Ok("http://a/b/x/".into()));
        assert_eq!(absolute("dmsg://k:80", "/"), Ok("dmsg://k:80/".into()));
        assert!(absolute("http://a", "http://b/x").is_err());
    }

    #[test]
    fn a_base_needs_scheme_and_host_and_nothing_more() {
        for base in ["", "/x", "a:1", "http://", "http://a?b", "http://u@a", "http://a:99999"] {
            assert!(Bound::new(base, ()).is_err(), "{base}");
        }
    }
}
