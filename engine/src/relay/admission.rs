//! Who may begin a handshake: a rate per address.
//!
//! A handshake costs two Diffie-Hellman operations before the peer has proven anything, so each address has a
//! bucket of them. A bucket is one time: the moment at which it will be full again. An address whose
//! bucket is full is not remembered.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use super::RelayLimits;

/// Full buckets are looked for at most this often, so that a flood from many addresses does not pay for the search each time.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Buckets of handshakes, one per address and one for all that find no place.
pub(super) struct AddressRate {
    /// Time that one handshake takes to come back.
    step: Duration,
    /// How far ahead a bucket's time may be: all of its handshakes.
    depth: Duration,
    addresses_max: usize,
    buckets: HashMap<IpAddr, Instant>,
    others: Option<Instant>,
    swept_at: Option<Instant>,
}

impl AddressRate {
    pub(super) fn new(limits: &RelayLimits) -> Self {
        let step = Duration::from_secs(1) / limits.handshakes_per_second_max.max(1);
        Self {
            step,
            depth: step * limits.handshakes_burst_max,
            addresses_max: limits.addresses_max,
            buckets: HashMap::new(),
            others: None,
            swept_at: None,
        }
    }

    /// Takes one handshake out of the bucket of `ip`; false when it is empty.
    pub(super) fn admit(&mut self, ip: IpAddr, now: Instant) -> bool {
        let prefix = address_prefix(ip);
        if prefix.is_loopback() {
            return true;
        }
        if self.buckets.len() >= self.addresses_max && !self.buckets.contains_key(&prefix) {
            self.sweep(now);
        }
        let (step, depth) = (self.step, self.depth);
        let full_at =
            if self.buckets.len() < self.addresses_max || self.buckets.contains_key(&prefix) {
                self.buckets.entry(prefix).or_insert(now)
            } else {
                self.others.get_or_insert(now)
            };
        let next = (*full_at).max(now) + step;
        let admitted = next <= now + depth;
        if admitted {
            *full_at = next;
        }
        admitted
    }

    fn sweep(&mut self, now: Instant) {
        if self.swept_at.is_none_or(|at| now >= at + SWEEP_INTERVAL) {
            self.swept_at = Some(now);
            self.buckets.retain(|_, full_at| *full_at > now);
        }
    }
}

/// How many sessions each address has.
#[derive(Debug, Default)]
pub(super) struct AddressSessions {
    counts: HashMap<IpAddr, usize>,
}

impl AddressSessions {
    /// Counts a session of `ip` in; false, and no change, if there are `max` already. Loopback is not counted.
    pub(super) fn enter(&mut self, ip: IpAddr, max: usize) -> bool {
        let prefix = address_prefix(ip);
        if prefix.is_loopback() {
            return true;
        }
        let count = self.counts.entry(prefix).or_default();
        let fits = *count < max;
        *count += usize::from(fits);
        fits
    }

    /// Counts a session out that was counted in.
    pub(super) fn leave(&mut self, ip: IpAddr) {
        let prefix = address_prefix(ip);
        if let Some(count) = self.counts.get_mut(&prefix) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&prefix);
            }
        }
    }
}

/// What counts as one address: an IPv4 address, or the /56 that a household gets in IPv6.
pub(super) fn address_prefix(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        // ::1 stays what it is.
        IpAddr::V6(v6) if !v6.is_loopback() => {
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !(u128::MAX >> 56)))
        }
        other => other,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn rate(per_second: u32, burst: u32, addresses_max: usize) -> AddressRate {
        AddressRate::new(&RelayLimits {
            handshakes_per_second_max: per_second,
            handshakes_burst_max: burst,
            addresses_max,
            ..RelayLimits::default()
        })
    }

    fn admitted(rate: &mut AddressRate, ip: &str, count: usize, now: Instant) -> usize {
        (0..count).filter(|_| rate.admit(ip.parse().unwrap(), now)).count()
    }

    #[test]
    fn a_burst_then_the_rate_then_a_burst_again() {
        let (mut rate, start) = (rate(10, 5, 8), Instant::now());
        assert_eq!(admitted(&mut rate, "192.0.2.1", 20, start), 5);
        assert_eq!(admitted(&mut rate, "192.0.2.1", 20, start + Duration::from_millis(200)), 2);
        assert_eq!(admitted(&mut rate, "192.0.2.2", 20, start), 5, "another address");
        assert_eq!(admitted(&mut rate, "192.0.2.1", 20, start + Duration::from_secs(60)), 5);
    }

    #[test]
    fn one_household_has_one_bucket_and_loopback_none() {
        let (mut rate, now) = (rate(10, 5, 8), Instant::now());
        assert_eq!(admitted(&mut rate, "2001:db8::1", 3, now), 3);
        assert_eq!(admitted(&mut rate, "2001:db8:0:ff::2", 3, now), 2);
        assert_eq!(admitted(&mut rate, "2001:db8:0:100::2", 3, now), 3, "another /56");
        assert_eq!(admitted(&mut rate, "::ffff:192.0.2.1", 3, now), 3);
        assert_eq!(admitted(&mut rate, "192.0.2.1", 3, now), 2, "the same address");
        for ip in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(admitted(&mut rate, ip, 100, now), 100, "{ip}");
        }
    }

    #[test]
    fn sessions_of_an_address_are_counted_in_and_out() {
        let mut sessions = AddressSessions::default();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(sessions.enter(ip("192.0.2.1"), 2) && sessions.enter(ip("::ffff:192.0.2.1"), 2));
        assert!(!sessions.enter(ip("192.0.2.1"), 2));
        assert!(sessions.enter(ip("2001:db8::1"), 1));
        assert!(!sessions.enter(ip("2001:db8:0:ff::2"), 1), "the same household");
        sessions.leave(ip("192.0.2.1"));
        assert!(sessions.enter(ip("192.0.2.1"), 2));
        for address in ["192.0.2.1", "192.0.2.1", "2001:db8::1"] {
            sessions.leave(ip(address));
        }
        assert!(sessions.counts.is_empty());
        assert!((0..100).all(|_| sessions.enter(ip("127.0.0.1"), 2)));
        sessions.leave(ip("127.0.0.1"));
    }

    #[test]
    fn addresses_are_bounded_and_those_beyond_share_a_bucket() {
        let (mut rate, now) = (rate(10, 5, 4), Instant::now());
        let total: usize =
            (0..100).map(|i| admitted(&mut rate, &format!("192.0.2.{i}"), 1, now)).sum();
        assert_eq!((total, rate.buckets.len()), (4 + 5, 4));
        let later = now + Duration::from_secs(5);
        assert_eq!(admitted(&mut rate, "192.0.2.77", 1, later), 1);
        assert_eq!(rate.buckets.len(), 1, "full buckets are forgotten when room is needed");
    }
}
