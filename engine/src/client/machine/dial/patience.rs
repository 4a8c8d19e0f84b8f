//! Which peers are left alone for a while, and through which server.
//!
//! ```text
//!   1st failure in a row: nothing      a restart, a server that forgot: the next dial tells
//!   2nd: 100 ms, 200 ms, … 2 s         with jitter; a dial that comes meanwhile waits for the end of it
//! ```
//!
//! A caller in a loop would otherwise send a dead service's dials through its server as fast as they are refused. The wait is
//! short, since a service that comes back must not be kept away from; a dial with another server to go through goes there.
//! Ports count apart: a port nobody listens on says nothing about the next one.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{
    client::{
        error::{DialPhase, TryCause},
        machine::backoff::jittered,
    },
    identity::PublicKey,
    wire::Addr,
};

/// The wait after the second failure in a row.
const WAIT_FIRST: Duration = Duration::from_millis(100);

/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Failures longer ago than this are forgotten.
const MEMORY: Duration = Duration::from_secs(60);

/// Peers remembered at once, 100 bytes each.
const REMEMBERED_MAX: usize = 1024;

#[derive(Debug, Clone, Copy)]
struct Failing {
    in_a_row: u32,
    /// When the last failure was filed. What was under way then tells nothing new.
    filed: Instant,
    until: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub(in crate::client::machine) struct Patience {
    failing: BTreeMap<(Addr, PublicKey), Failing>,
}

/// Whether a try that ended so speaks against the peer, and not against the session that it ran on.
pub(super) fn counts(cause: &TryCause) -> bool {
    match cause {
        TryCause::Session(_) | TryCause::StreamsExhausted => false,
        TryCause::TimedOut { phase, .. } => *phase == DialPhase::Response,
        _ => true,
    }
}

impl Patience {
    /// Until when `to` is not dialled through `server`.
    pub(super) fn until(&self, to: Addr, server: PublicKey, now: Instant) -> Option<Instant> {
        self.failing.get(&(to, server)).map(|failing| failing.until).filter(|&until| until > now)
    }

    /// Whether the last try of `to` through `server` failed, not long ago: others come first.
    pub(super) fn has_failed(&self, to: Addr, server: PublicKey, now: Instant) -> bool {
        let failing = self.failing.get(&(to, server));
        failing.is_some_and(|failing| now.duration_since(failing.filed) <= MEMORY)
    }

    /// A try that began at `began` failed.
    pub(super) fn fail(
        &mut self,
        to: Addr,
        server: PublicKey,
        began: Instant,
        now: Instant,
        random: u32,
    ) {
        let key = (to, server);
        if !self.failing.contains_key(&key) {
            self.make_room(now);
        }
        let fresh = Failing { in_a_row: 0, filed: began, until: now };
        let failing = self.failing.entry(key).or_insert(fresh);
        if now.duration_since(failing.filed) > MEMORY {
            *failing = fresh;
        }
        if began < failing.filed {
            return;
        }
        let step = match failing.in_a_row {
            0 => Duration::ZERO,
            doublings => (WAIT_FIRST * 2_u32.pow((doublings - 1).min(10))).min(WAIT_MAX),
        };
        *failing = Failing {
            in_a_row: failing.in_a_row.saturating_add(1),
            filed: now,
            until: now + jittered(step, random),
        };
    }

    /// `to` answered through `server`.
    pub(super) fn succeed(&mut self, to: Addr, server: PublicKey) {
        self.failing.remove(&(to, server));
    }

    /// Forgets what is old, or else who is to be dialled again first.
    fn make_room(&mut self, now: Instant) {
        if self.failing.len() < REMEMBERED_MAX {
            return;
        }
        self.failing.retain(|_, failing| now.duration_since(failing.filed) <= MEMORY);
        if self.failing.len() >= REMEMBERED_MAX
            && let Some((&first, _)) = self.failing.iter().min_by_key(|(_, failing)| failing.until)
        {
            self.failing.remove(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{identity::SecretKey, wire::Port};

    fn key(name: &str) -> PublicKey {
        SecretKey::from_seed(name.as_bytes()).public_key()
    }

    fn addr(name: &str, port: u16) -> Addr {
        Addr { key: key(name), port: Port::new(port).unwrap_or(Port::MIN) }
    }

    #[test]
    fn waits_begin_with_the_second_failure_and_double_with_jitter_to_two_seconds() {
        let (to, server) = (addr("a", 80), key("server"));
        for (random, expected) in [
            (u32::MAX, [0, 100, 200, 400, 800, 1600, 2000, 2000]),
            (0, [0, 50, 100, 200, 400, 800, 1000, 1000]),
        ] {
            let (mut patience, mut now) = (Patience::default(), Instant::now());
            let waits = expected.map(|_| {
                patience.fail(to, server, now, now, random);
                let until = patience.until(to, server, now).unwrap_or(now);
                let wait = until - now;
                now = until;
                wait.as_millis()
            });
            assert_eq!(waits, expected);
            assert_eq!(patience.until(to, key("other server"), now), None);
            assert_eq!(patience.until(addr("a", 81), server, now), None);
            patience.succeed(to, server);
            patience.fail(to, server, now, now, random);
            assert_eq!(patience.until(to, server, now), None, "the count starts over");
        }
    }

    #[test]
    fn a_crowd_that_fails_together_counts_once() {
        let (mut patience, began) = (Patience::default(), Instant::now());
        let (to, server, now) = (addr("a", 80), key("server"), began + Duration::from_secs(1));
        for _ in 0..100 {
            patience.fail(to, server, began, now, u32::MAX);
        }
        assert_eq!(patience.until(to, server, now), None);
        let later = now + MEMORY + Duration::from_secs(1);
        patience.fail(to, server, later, later, u32::MAX);
        assert_eq!(patience.until(to, server, later), None, "the first is forgotten");
    }

    #[test]
    fn no_more_are_remembered_than_allowed() {
        let (mut patience, now) = (Patience::default(), Instant::now());
        for port in 0..3 * REMEMBERED_MAX {
            let to = addr("a", u16::try_from(port).unwrap_or(0) + 1);
            patience.fail(to, key("server"), now, now, 0);
            assert!(patience.failing.len() <= REMEMBERED_MAX);
        }
        let later = now + MEMORY + Duration::from_secs(1);
        patience.fail(addr("b", 1), key("server"), later, later, 0);
        assert_eq!(patience.failing.len(), 1, "all others were old");
    }
}
