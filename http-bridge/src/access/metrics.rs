//! What the access objects of a process count. Labels are names in the code, so the number of series is fixed.

use std::time::Duration;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::Gauge,
        histogram::Histogram,
    },
    registry::{Registry, Unit},
};

use super::{Path, PathFailure};
use crate::service::ServiceKind;

/// Upper bounds of the latency's buckets in seconds: from a loopback relay to the time limit of a slow service.
const LATENCY_BUCKETS: [f64; 9] = [0.002, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    service: &'static str,
    path: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PassedOver {
    service: &'static str,
    path: &'static str,
    cause: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OnPath {
    service: &'static str,
    path: &'static str,
}

#[derive(Clone)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(LATENCY_BUCKETS)
    }
}

/// Counters of all access objects that share it.
pub struct AccessMetrics {
    registry: Registry,
    requests: Family<Outcome, Counter>,
    fallbacks: Family<PassedOver, Counter>,
    breaker_open: Family<OnPath, Gauge>,
    latency: Family<OnPath, Histogram, Buckets>,
}

impl Default for AccessMetrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("dmsg_access");
        let (requests, fallbacks) = (Family::default(), Family::default());
        let breaker_open = Family::default();
        let latency = Family::new_with_constructor(Buckets);
        registry.register(
            "requests",
            "Requests by the path they took, and how that ended",
            Family::clone(&requests),
        );
        registry.register(
            "fallbacks",
            "Paths that were passed over or failed before another one answered, by cause",
            Family::clone(&fallbacks),
        );
        registry.register(
            "breaker_open",
            "1 while requests are kept from a path because the last ones failed",
            Family::clone(&breaker_open),
        );
        registry.register_with_unit(
            "latency",
            "From call to last byte of the answers",
            Unit::Seconds,
            Family::clone(&latency),
        );
        Self { registry, requests, fallbacks, breaker_open, latency }
    }
}

impl AccessMetrics {
    /// Prometheus' text format.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing into a string does not fail");
        text
    }

    pub(super) fn note_answer(&self, service: ServiceKind, path: Path, elapsed: Duration) {
        self.count(service, path, "answered");
        let labels = OnPath { service: service.name(), path: path.name() };
        self.latency.get_or_create(&labels).observe(elapsed.as_secs_f64());
    }

    pub(super) fn note_failure(&self, service: ServiceKind, path: Path) {
        self.count(service, path, "failed");
    }

    pub(super) fn note_fallbacks(&self, service: ServiceKind, passed: &[(Path, PathFailure)]) {
        for (path, failure) in passed {
            let (service, path) = (service.name(), path.name());
            let labels = PassedOver { service, path, cause: failure.label() };
            self.fallbacks.get_or_create(&labels).inc();
        }
    }

    pub(super) fn set_breaker(&self, service: ServiceKind, path: Path, is_open: bool) {
        let labels = OnPath { service: service.name(), path: path.name() };
        self.breaker_open.get_or_create(&labels).set(i64::from(is_open));
    }

    fn count(&self, service: ServiceKind, path: Path, outcome: &'static str) {
        let labels = Outcome { service: service.name(), path: path.name(), outcome };
        self.requests.get_or_create(&labels).inc();
    }
}
