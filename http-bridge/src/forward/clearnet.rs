//! Hosts outside of DMSG: refused, or reached over TCP if they are public.
//!
//! A proxy that connects wherever it is asked to lets whoever can talk to it into the network around it: into this
//! machine's loopback services, the router's pages, a cloud's metadata address. So the address that is connected to is
//! checked, not the name, and not a second look-up of it. An IPv4 address inside an IPv6 one (mapped, NAT64,
//! 6to4) is that IPv4 address.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

/// Of a look-up of a name.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// Of a connection to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 4;

/// A host that is gone without a word is noticed, however silent the tunnel to it is.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new().with_time(Duration::from_secs(60));

/// What becomes of hosts outside of DMSG.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clearnet {
    /// They are refused.
    Refused,
    /// Public addresses are connected to.
    Public,
    /// Any address is, this machine's own included.
    Any,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClearnetError {
    /// The proxy is for DMSG only.
    #[error(
        "{0:?} is not a DMSG host: this proxy reaches <public key>.dmsg only; start it with \
         --allow-clearnet to reach other hosts as well"
    )]
    Refused(String),
    /// Every address of the host is of a network that is not public.
    #[error(
        "{0:?} is an address of this machine or a private network; start the proxy with \
         --allow-private to reach those as well"
    )]
    Private(String),
    /// The name server or the host is silent.
    #[error("no connection to {host:?}: {reason}")]
    TimedOut {
        /// The host.
        host: String,
        /// Who did not answer, within what.
        reason: String,
    },
    /// The name has no address, or the host refuses.
    #[error("no connection to {host:?}: {reason}")]
    Unreachable {
        /// The host.
        host: String,
        /// What the system says.
        reason: String,
    },
}

impl Clearnet {
    pub(super) async fn connect(self, host: &str, port: u16) -> Result<TcpStream, ClearnetError> {
        if self == Self::Refused {
            return Err(ClearnetError::Refused(host.to_owned()));
        }
        let unreachable =
            |reason: String| ClearnetError::Unreachable { host: host.to_owned(), reason };
        let timed_out = |reason: String| ClearnetError::TimedOut { host: host.to_owned(), reason };
        let found = timeout(LOOKUP_TIMEOUT, lookup_host((host, port)))
            .await
            .map_err(|_| {
                timed_out(format!("no answer from the name server within {LOOKUP_TIMEOUT:?}"))
            })?
            .map_err(|error| unreachable(error.to_string()))?;
        let found: Vec<SocketAddr> = found.collect();
        let allowed = |address: &&SocketAddr| self == Self::Any || is_public(address.ip());
        let mut failed = unreachable("the name has no address".to_owned());
        if !found.is_empty() && !found.iter().any(|address| allowed(&address)) {
            return Err(ClearnetError::Private(host.to_owned()));
        }
        for address in found.iter().filter(allowed).take(ADDRESSES_MAX) {
            match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    let _ = stream.set_nodelay(true);
                    let _ = SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE);
                    return Ok(stream);
                }
                Ok(Err(error)) => failed = unreachable(error.to_string()),
                Err(_) => failed = timed_out(format!("no answer within {CONNECT_TIMEOUT:?}")),
            }
        }
        Err(failed)
    }
}

/// Whether an address belongs to the public Internet.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => match embedded(v6) {
            Some(v4) => is_public_v4(v4),
            None => is_public_v6(v6),
        },
    }
}

/// The IPv4 address inside a mapped, compatible, NAT64 (RFC 6052, its well-known prefix) or 6to4 (RFC 3056) one.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = address.segments();
    let v4 = |high: u16, low: u16| {
        let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
        Some(Ipv4Addr::new(a, b, c, d))
    };
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] => v4(high, low),
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => None,
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = address.is_unspecified()
        || address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || a == 0
        || a >= 240 // reserved, broadcast included
        || (a == 100 && (64..128).contains(&b)) // shared by providers
        || (a == 192 && b == 0 && c == 0) // protocol assignments
        || (a == 198 && (b == 18 || b == 19)); // benchmarks
    !is_special
}

/// Global unicast, without the blocks in it that are not (IANA's registry of special addresses). What lies outside of 2000::/3
/// is special, translated in ways we cannot see through, or not given out.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let s = address.segments();
    // Protocol assignments and documentation.
    let is_special = match s[0] {
        0x2001 => s[1] < 0x200 || s[1] == 0xdb8,
        0x3fff => s[1] < 0x1000,
        _ => false,
    };
    s[0] & 0xe000 == 0x2000 && !is_special
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        for address in [
            "1.1.1.1",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700::1111",
            "3ffe::1",
            "2a00:1450:4001:80b::200e",
            "2002:101:101::",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
        ] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "198.18.0.1",
            "192.0.0.8",
            "192.0.2.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "::ffff:0.0.0.0",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "fec0::1",
            "ff02::1",
            "2001:db8::1",
            "100::1",
            "::ffff:0:7f00:1",
            "64:ff9b:1::7f00:1",
            "64:ff9b:1:7f00:0:100::",
            "3fff::1",
            "3fff:fff::1",
            "5f00::1",
            "4000::1",
            "e000::1",
            "1::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[tokio::test]
    async fn the_address_is_checked_and_not_the_name() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["localhost", "127.0.0.1", "::ffff:127.0.0.1", "0.0.0.0", "127.1"] {
            let error = Clearnet::Refused.connect(host, port).await.unwrap_err();
            assert!(matches!(error, ClearnetError::Refused(_)), "{host}: {error}");
            let error = Clearnet::Public.connect(host, port).await.unwrap_err();
            assert!(matches!(error, ClearnetError::Private(_)), "{host}: {error}");
        }
        assert!(Clearnet::Any.connect("localhost", port).await.is_ok());
        drop(listener);
        let error = Clearnet::Any.connect("127.0.0.1", port).await.unwrap_err();
        assert!(matches!(error, ClearnetError::Unreachable { .. }), "{error}");
    }
}
