//! Which host a program means: `<key>.dmsg` is a DMSG peer, everything else is not.

use dmsg_engine::{
    identity::{KeyError, PublicKey},
    wire::{Addr, Port},
};

use crate::url::HOST_MAX_BYTES;

/// The ending of host names that stand for keys, as the deployed tools have it (`dmsg-http.md §8.3`).
const SUFFIX: &str = ".dmsg";

/// Where a request or a tunnel goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A port of a DMSG peer.
    Dmsg(Addr),
    /// A host outside of DMSG, without brackets.
    Other {
        /// A name or an address.
        host: String,
        /// Its port.
        port: u16,
    },
}

/// Why a host leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// Ends in `.dmsg`, but the rest is no public key.
    #[error("{host:?} is no DMSG host: {why}; write <public key>.dmsg")]
    Key {
        /// As it was written.
        host: String,
        /// Which rule of keys it breaks.
        why: KeyError,
    },
    /// Nothing, or more than a host name can have.
    #[error("a host name has 1 to {HOST_MAX_BYTES} bytes")]
    Length,
    /// Port 0.
    #[error("port 0 is no port: a port is a number from 1 to 65535")]
    Port,
}

impl Destination {
    /// Reads a host, as it stands in a URL or a SOCKS5 request, and a port.
    pub fn parse(host: &str, port: u16) -> Result<Self, HostError> {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host);
        if host.is_empty() || host.len() > HOST_MAX_BYTES {
            return Err(HostError::Length);
        }
        let port = Port::new(port).ok_or(HostError::Port)?;
        // A key is longer than DNS lets a label be, and some programs insist: they may write it as two.
        let named = host.strip_suffix(SUFFIX).map(|key| key.replace('.', ""));
        match (named.as_deref().unwrap_or(host).parse::<PublicKey>(), named) {
            (Ok(key), _) => Ok(Self::Dmsg(Addr { key, port })),
            (Err(why), Some(_)) => Err(HostError::Key { host: host.to_owned(), why }),
            (Err(_), None) => Ok(Self::Other { host: host.to_owned(), port: port.get() }),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use dmsg_engine::identity::SecretKey;

    use super::*;

    /// Cutting the suffix off as a set of characters would take digits of such a key along.
    #[test]
    fn a_key_that_ends_in_digits_of_the_suffix_keeps_them() {
        let ending_in_d = (0u32..)
            .map(|seed| SecretKey::from_seed(&seed.to_le_bytes()).public_key())
            .find(|key| key.to_string().ends_with("dd"))
            .unwrap();
        for host in
            [format!("{ending_in_d}.dmsg"), format!("{ending_in_d}.DMSG."), ending_in_d.to_string()]
        {
            let parsed = Destination::parse(&host, 8080).unwrap();
            let port = Port::new(8080).unwrap();
            assert_eq!(parsed, Destination::Dmsg(Addr { key: ending_in_d, port }), "{host}");
        }
    }

    #[test]
    fn a_key_may_be_written_as_two_labels() {
        let key = SecretKey::from_seed(b"labels").public_key();
        let (front, back) = (key.to_string()[..33].to_owned(), key.to_string()[33..].to_owned());
        let parsed = Destination::parse(&format!("{front}.{back}.dmsg"), 80).unwrap();
        assert_eq!(parsed, Destination::Dmsg(Addr { key, port: Port::new(80).unwrap() }));
        let outside = Destination::parse(&format!("{front}.{back}"), 80).unwrap();
        assert!(matches!(outside, Destination::Other { .. }));
    }

    #[test]
    fn what_is_no_key_is_an_error_under_dmsg_and_another_host_elsewhere() {
        let other = |host: &str| Destination::Other { host: host.to_owned(), port: 80 };
        assert_eq!(Destination::parse("Example.org", 80), Ok(other("example.org")));
        assert_eq!(Destination::parse("[::1]", 80), Ok(other("::1")));
        assert_eq!(Destination::parse("dmsg", 80), Ok(other("dmsg")));
        let off_curve = format!("02{}.dmsg", "0".repeat(63) + "5");
        for host in ["short.dmsg", ".dmsg", &off_curve, "a.b.dmsg"] {
            assert!(matches!(Destination::parse(host, 80), Err(HostError::Key { .. })), "{host}");
        }
        assert_eq!(Destination::parse("", 80), Err(HostError::Length));
        assert_eq!(Destination::parse(&"a".repeat(256), 80), Err(HostError::Length));
        assert_eq!(Destination::parse("example.org", 0), Err(HostError::Port));
    }
}
