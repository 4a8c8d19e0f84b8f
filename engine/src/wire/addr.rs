//! Addresses: a key and a port (`wire.md §6.1`).
//!
//! An [`Addr`] is complete; a [`WireAddr`] is what a request may carry, where either part can be
//! missing until the checks of `wire.md §4.4` have passed.

use std::{fmt, num::NonZeroU16, str::FromStr};

use crate::identity::{KeyError, PublicKey};

/// A DMSG port; 0 does not exist as a port (`wire.md §6.1`).
pub type Port = NonZeroU16;

/// First ephemeral port.
pub const EPHEMERAL_PORT_FIRST: u16 = 49152;

/// A key and a port, in text `<66 hex>:<port>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addr {
    /// Whose port.
    pub key: PublicKey,
    /// Which port.
    pub port: Port,
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.key, self.port)
    }
}

/// Why text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddrError {
    /// The part before the colon is no public key.
    #[error("bad key in the address: {0}")]
    Key(#[from] KeyError),
    /// The part after the colon is no port.
    #[error("bad port {0:?} in the address: a port is a number from 1 to 65535")]
    Port(String),
    /// No colon, or more than one.
    #[error("an address is <public key>:<port>")]
    Form,
}

impl FromStr for Addr {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        let (key, port) = text.trim().split_once(':').ok_or(AddrError::Form)?;
        if port.contains(':') {
            return Err(AddrError::Form);
        }
        let bad_port = || AddrError::Port(port.to_owned());
        // The standard parser takes a leading plus, which no port has.
        if !port.bytes().all(|c| c.is_ascii_digit()) {
            return Err(bad_port());
        }
        let port = port.parse().map_err(|_| bad_port())?;
        Ok(Self { key: key.parse()?, port })
    }
}

/// An address as a stream request carries it: both parts may be missing (null key, port 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WireAddr {
    /// The key, if not null.
    pub key: Option<PublicKey>,
    /// The port, 0 if not set.
    pub port: u16,
}

impl WireAddr {
    /// The complete address, if neither part is missing.
    #[must_use]
    pub fn addr(&self) -> Option<Addr> {
        Some(Addr { key: self.key?, port: Port::new(self.port)? })
    }
}

impl From<Addr> for WireAddr {
    fn from(addr: Addr) -> Self {
        Self { key: Some(addr.key), port: addr.port.get() }
    }
}

/// For logs: a missing key is written as 66 zeros, a missing port as `~`.
impl fmt::Display for WireAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key {
            Some(key) => write!(f, "{key}:")?,
            None => write!(f, "{:0width$}:", 0, width = 2 * PublicKey::LEN)?,
        }
        match self.port {
            0 => f.write_str("~"),
            port => write!(f, "{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::identity::SecretKey;

    fn key() -> PublicKey {
        SecretKey::from_seed(b"addr").public_key()
    }

    #[test]
    fn address_survives_its_text_form() {
        let addr = Addr { key: key(), port: Port::new(80).unwrap() };
        assert_eq!(addr.to_string(), format!("{}:80", key()));
        assert_eq!(addr.to_string().parse(), Ok(addr));
        assert_eq!(format!(" {addr}\n").parse(), Ok(addr));
    }

    #[test]
    fn each_malformed_address_names_its_rule() {
        let key = key();
        let parse = |text: String| text.parse::<Addr>().unwrap_err();
        assert_eq!(parse(key.to_string()), AddrError::Form);
        assert_eq!(parse(format!("{key}:80:80")), AddrError::Form);
        for port in ["0", "~", "", "65536", "+80", "-1", " 80", "8o"] {
            assert_eq!(parse(format!("{key}:{port}")), AddrError::Port(port.to_owned()));
        }
        let zeros = "0".repeat(66);
        assert_eq!(parse(format!("{zeros}:80")), AddrError::Key(KeyError::Null));
        assert!(matches!(parse(":80".to_owned()), AddrError::Key(KeyError::Length { .. })));
    }

    #[test]
    fn wire_address_is_complete_only_with_both_parts() {
        let addr = Addr { key: key(), port: Port::MIN };
        let wire = WireAddr::from(addr);
        assert_eq!(wire.addr(), Some(addr));
        assert_eq!(wire.to_string(), addr.to_string());
        assert_eq!(WireAddr { key: None, ..wire }.addr(), None);
        assert_eq!(WireAddr { port: 0, ..wire }.addr(), None);
        assert_eq!(WireAddr::default().to_string(), format!("{}:~", "0".repeat(66)));
    }
}
