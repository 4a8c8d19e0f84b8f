//! The checks of a new entry, in the order of the protocol (`discovery.md §3`); the first failure wins.
//!
//! Pure: time is an argument, and what is stored is handed in.

use std::{net::IpAddr, time::Duration};

use super::{
    DELEGATED_SERVERS_MAX, Entry, EntryError, RawEntry, SERVER_ENTRY_BYTES_MAX, Signed, UnixNanos,
};

/// How old a server's timestamp may be.
pub const TIMESTAMP_BEHIND_MAX: Duration = Duration::from_secs(60);

/// How far a server's clock may be ahead of ours.
pub const TIMESTAMP_AHEAD_MAX: Duration = Duration::from_secs(5);

/// Checks an entry by itself and tells what its signature covers. `test_mode` lets servers
/// advertise loopback addresses.
pub fn check_new(raw: &RawEntry, now: UnixNanos, test_mode: bool) -> Result<Signed, EntryError> {
    let address = raw.entry().server.as_ref().map_or("", |server| &server.address);
    if !test_mode && is_loopback(address) {
        return Err(EntryError::LoopbackAddress);
    }
    check_members(raw, now)?;
    raw.verify()
}

/// The checks between the address and the signature.
pub(super) fn check_members(raw: &RawEntry, now: UnixNanos) -> Result<(), EntryError> {
    let entry = raw.entry();
    if entry.version.is_empty() {
        return Err(EntryError::NoVersion);
    }
    if entry.signature.is_empty() {
        return Err(EntryError::NoSignature);
    }
    if entry.key.is_none() {
        return Err(EntryError::NoKey);
    }
    if entry.client.is_none() && entry.server.is_none() {
        return Err(EntryError::NeitherClientNorServer);
    }
    if entry.server.as_ref().is_some_and(|server| server.address.is_empty()) {
        return Err(EntryError::NoServerAddress);
    }
    if entry.client.is_none() && !is_fresh(entry.timestamp, now) {
        return Err(EntryError::OutdatedTimestamp);
    }
    if entry.delegated_servers().len() > DELEGATED_SERVERS_MAX {
        return Err(EntryError::TooManyDelegatedServers);
    }
    if entry.server.is_some() && raw.text().len() > SERVER_ENTRY_BYTES_MAX {
        return Err(EntryError::ServerEntryTooLong);
    }
    Ok(())
}

/// Checks an entry against the stored one of its key.
pub fn check_iteration(
    stored_sequence: u64,
    stored_timestamp: i64,
    next: &Entry,
) -> Result<(), EntryError> {
    if next.sequence <= stored_sequence {
        return Err(EntryError::SequenceNotGreater);
    }
    if next.timestamp < stored_timestamp {
        return Err(EntryError::TimestampBehind);
    }
    Ok(())
}

fn is_fresh(timestamp: i64, now: UnixNanos) -> bool {
    let ahead = i128::from(timestamp) - i128::from(now.0);
    -(TIMESTAMP_BEHIND_MAX.as_nanos() as i128) <= ahead
        && ahead <= TIMESTAMP_AHEAD_MAX.as_nanos() as i128
}

/// Whether `address` names this machine: a loopback IP or an empty host. What does not split into host and
/// port, and every name, counts as not loopback.
fn is_loopback(address: &str) -> bool {
    let Some(host) = host_of(address) else { return false };
    host.is_empty()
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// The host of `host:port` or `[host]:port`.
fn host_of(address: &str) -> Option<&str> {
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (host, port.strip_prefix(':')?)
        }
        None => address.split_once(':')?,
    };
    let stray = |text: &str| text.contains(['[', ']']);
    (!stray(host) && !stray(port) && !port.contains(':')).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_told_from_other_addresses() {
        for address in [
            "127.0.0.1:80",
            "127.9.9.9:1",
            "[::1]:80",
            ":80",
            "[]:80",
            "[::ffff:127.0.0.1]:80",
            "127.0.0.1:",
        ] {
            assert!(is_loopback(address), "{address}");
        }
        for address in [
            "",
            "127.0.0.1",
            "::1",
            "::1:80",
            "localhost:80",
            "203.0.113.7:80",
            "[2001:db8::1]:80",
            "127.0.0.1:80:80",
            "[::1:80",
            "[::1]80",
            "127.1:80",
        ] {
            assert!(!is_loopback(address), "{address}");
        }
    }

    #[test]
    fn freshness_holds_at_its_bounds_and_at_the_ends_of_time() {
        let now = 1_700_000_000_000_000_000;
        let second = 1_000_000_000;
        for (timestamp, fresh) in [
            (now, true),
            (now - 60 * second, true),
            (now - 60 * second - 1, false),
            (now + 5 * second, true),
            (now + 5 * second + 1, false),
            (i64::MIN, false),
            (i64::MAX, false),
        ] {
            assert_eq!(is_fresh(timestamp, UnixNanos(now)), fresh, "{timestamp}");
        }
    }
}
