//! What a discovery counts (`discovery.md §10`). No label carries a key, so the number of series is fixed.

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::store::Counts;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Registration {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

pub(super) struct Metrics {
    registry: Registry,
    registrations: Family<Registration, Counter>,
    deletions: Family<Outcome, Counter>,
    lookups: Family<Outcome, Counter>,
    rate_limited: Counter,
    expired: Counter,
    entries: Family<Kind, Gauge>,
    text_bytes: Gauge,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("dmsg_discovery");
        let (registrations, deletions) = (Family::default(), Family::default());
        let (lookups, entries) = (Family::default(), Family::default());
        let (rate_limited, expired, text_bytes) =
            (Counter::default(), Counter::default(), Gauge::default());
        registry.register("registrations", "Entries posted", Family::clone(&registrations));
        registry.register("deletions", "Entries deleted by request", Family::clone(&deletions));
        registry.register("lookups", "Entries asked for", Family::clone(&lookups));
        registry.register("rate_limited", "Requests refused with 429", rate_limited.clone());
        registry.register("expired", "Entries whose time was over", expired.clone());
        registry.register("entries", "Entries stored", Family::clone(&entries));
        registry.register("text_bytes", "Bytes of the stored entries", text_bytes.clone());
        Self {
            registry,
            registrations,
            deletions,
            lookups,
            rate_limited,
            expired,
            entries,
            text_bytes,
        }
    }

    pub(super) fn registered(&self, kind: &'static str, outcome: &'static str) {
        self.registrations.get_or_create(&Registration { kind, outcome }).inc();
    }

    pub(super) fn deleted(&self, outcome: &'static str) {
        self.deletions.get_or_create(&Outcome { outcome }).inc();
    }

    pub(super) fn looked_up(&self, outcome: &'static str) {
        self.lookups.get_or_create(&Outcome { outcome }).inc();
    }

    pub(super) fn rate_limited(&self) {
        self.rate_limited.inc();
    }

    pub(super) fn expired(&self, count: usize) {
        self.expired.inc_by(count as u64);
    }

    /// The OpenMetrics text, with the gauges as `counts` says.
    pub(super) fn text(&self, counts: Counts) -> String {
        let set = |kind, count: usize| {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.entries.get_or_create(&Kind { kind }).set(count);
        };
        set("client", counts.clients);
        set("server", counts.servers);
        set("all", counts.entries);
        self.text_bytes.set(i64::try_from(counts.text_bytes).unwrap_or(i64::MAX));
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string");
        text
    }
}
