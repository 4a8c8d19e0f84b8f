//! A token bucket for each caller: a DMSG key (`discovery.md §4.1`), or whatever else names one.
//!
//! A bucket is one moment: when it would be full again, if nobody took more. So a bucket whose moment has passed
//! says nothing and can be dropped; that is what bounds the map.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How fast one caller may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests a second in the long run.
    pub per_second: u32,
    /// Requests at once after a pause.
    pub burst: u32,
    /// Callers remembered at once: those who asked within the last `burst / per_second` seconds. 65,536 take about
    /// 6 MiB; beyond them, new callers wait.
    pub callers_max: usize,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self { per_second: 100, burst: 200, callers_max: 65_536 }
    }
}

/// The buckets of callers that are named by `K`.
pub(crate) struct RateLimiter<K> {
    cost: Duration,
    capacity: Duration,
    callers_max: usize,
    full_at: Mutex<HashMap<K, Instant>>,
}

impl<K: Eq + Hash> RateLimiter<K> {
    pub(crate) fn new(limit: RateLimit) -> Self {
        let cost = Duration::from_secs(1) / limit.per_second.max(1);
        Self::one_each(cost, limit.burst, limit.callers_max)
    }

    /// One request in each `interval` in the long run, and `burst` at once.
    pub(crate) fn one_each(interval: Duration, burst: u32, callers_max: usize) -> Self {
        let capacity = interval * burst.max(1);
        Self { cost: interval, capacity, callers_max, full_at: Mutex::default() }
    }

    /// Whether `caller` may ask at `now`; takes a token if so.
    pub(crate) fn admit(&self, caller: K, now: Instant) -> bool {
        self.admit_many(caller, 1, now)
    }

    /// The same for what takes several tokens, or none of them.
    pub(crate) fn admit_many(&self, caller: K, tokens: u32, now: Instant) -> bool {
        let mut buckets = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= self.callers_max && !buckets.contains_key(&caller) {
            buckets.retain(|_, full_at| *full_at > now);
            if buckets.len() >= self.callers_max {
                return false;
            }
        }
        let full_at = buckets.entry(caller).or_insert(now);
        let next = (*full_at).max(now) + self.cost * tokens;
        let admitted = next.saturating_duration_since(now) <= self.capacity;
        if admitted {
            *full_at = next;
        }
        admitted
    }

    /// Forgets the callers whose buckets are full.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut buckets = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.retain(|_, full_at| *full_at > now);
    }
}

#[cfg(test)]
mod tests {
    use dmsg_engine::identity::{PublicKey, SecretKey};

    use super::*;

    fn caller(name: &str) -> PublicKey {
        SecretKey::from_seed(name.as_bytes()).public_key()
    }

    fn admitted(limiter: &RateLimiter<PublicKey>, name: &str, now: Instant) -> usize {
        (0..1000).filter(|_| limiter.admit(caller(name), now)).count()
    }

    #[test]
    fn a_caller_gets_its_burst_and_then_its_rate() {
        let limiter = RateLimiter::new(RateLimit::default());
        let start = Instant::now();
        assert_eq!(admitted(&limiter, "a", start), 200);
        assert_eq!(admitted(&limiter, "b", start), 200);
        assert_eq!(admitted(&limiter, "a", start + Duration::from_millis(500)), 50);
        assert_eq!(admitted(&limiter, "a", start + Duration::from_secs(3600)), 200);
    }

    #[test]
    fn several_tokens_are_taken_together_or_not_at_all() {
        let limiter = RateLimiter::one_each(Duration::from_secs(1), 10, 8);
        let start = Instant::now();
        assert!(limiter.admit_many(caller("a"), 8, start));
        assert!(!limiter.admit_many(caller("a"), 3, start));
        assert!(limiter.admit_many(caller("a"), 2, start));
        assert!(!limiter.admit_many(caller("a"), 11, start + Duration::from_secs(3600)), "never");
        assert!(limiter.admit_many(caller("b"), 10, start));
    }

    #[test]
    fn the_map_is_bounded_and_forgets_who_paused() {
        let limiter = RateLimiter::new(RateLimit { callers_max: 2, ..RateLimit::default() });
        let start = Instant::now();
        assert!(limiter.admit(caller("a"), start));
        assert!(limiter.admit(caller("b"), start));
        assert!(!limiter.admit(caller("c"), start));
        assert!(limiter.admit(caller("a"), start));
        let later = start + Duration::from_secs(2);
        assert!(limiter.admit(caller("c"), later));
        limiter.sweep(later + Duration::from_secs(2));
        assert!(limiter.full_at.lock().is_ok_and(|buckets| buckets.is_empty()));
    }
}
