//! How a visor stands, for people and for programs.

use std::time::Duration;

use dmsg_engine::{client::SessionInfo, identity::PublicKey};
use serde_json::{Value, json};

use crate::{
    access::{Path, PathStatus, Readiness, ServiceStatus},
    deployment::{Field, Services},
};

/// A snapshot of a visor.
#[derive(Debug, Clone)]
pub struct VisorStatus {
    /// Who it is.
    pub public_key: PublicKey,
    /// Since its start.
    pub uptime: Duration,
    /// Whether DMSG can carry requests.
    pub readiness: Readiness,
    /// From the start to the first session.
    pub ready_after: Option<Duration>,
    /// Whether the discovery has our entry.
    pub published: bool,
    /// Sessions with servers.
    pub sessions: Vec<SessionInfo>,
    /// All seven, also those that the deployment does not have.
    pub services: Vec<ServiceView>,
    /// The deployment's sets of keys.
    pub key_sets: Services,
}

/// A service in the eyes of a visor.
#[derive(Debug, Clone)]
pub struct ServiceView {
    /// What is asked of it again and again.
    pub call: &'static str,
    /// The last of these calls.
    pub last_call: Option<CallStatus>,
    /// From the start to the first of them that succeeded.
    pub first_success: Option<Duration>,
    /// Its paths.
    pub access: ServiceStatus,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallStatus {
    /// A few words about the answer, or the error.
    pub outcome: Result<String, String>,
    /// How long ago it was.
    pub ago: Duration,
    /// How many there were.
    pub count: u64,
}

impl VisorStatus {
    /// Services whose last call succeeded, and services that the deployment has.
    #[must_use]
    pub fn answering(&self) -> (usize, usize) {
        let present = self.services.iter().filter(|service| service.is_present());
        let works = |service: &&ServiceView| {
            service.last_call.as_ref().is_some_and(|call| call.outcome.is_ok())
        };
        (present.clone().filter(works).count(), present.count())
    }

    /// From the start to the first answer of any service over a path.
    #[must_use]
    pub fn first_answer(&self, path: Path) -> Option<Duration> {
        self.services.iter().filter_map(|service| service.path(path)?.first_answer).min()
    }

    /// The same as JSON; times in milliseconds.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let (answering, present) = self.answering();
        json!({
            "public_key": self.public_key.to_string(),
            "uptime_ms": ms(self.uptime),
            "dmsg": {
                "state": self.readiness.name(),
                "text": self.readiness.to_string(),
                "ready_after_ms": self.ready_after.map(ms),
                "published": self.published,
                "sessions": self.sessions.iter().map(|session| json!({
                    "server": session.server.to_string(),
                    "address": session.address.to_string(),
                    "streams": session.streams,
                    "rtt_ms": session.rtt.map(ms),
                })).collect::<Vec<_>>(),
            },
            "first_answer_ms": {
                "dmsg": self.first_answer(Path::Dmsg).map(ms),
                "http": self.first_answer(Path::Http).map(ms),
            },
            "services_answering": answering,
            "services_present": present,
            "services": self.services.iter().map(ServiceView::to_json).collect::<Vec<_>>(),
            "key_sets": self.key_sets_json(),
        })
    }

    fn key_sets_json(&self) -> Value {
        let sets = Field::ALL.into_iter().filter(|field| field.is_key_set());
        let texts = |field| -> Vec<String> {
            self.key_sets.keys(field).iter().map(ToString::to_string).collect()
        };
        sets.map(|field| (field.name().to_owned(), json!(texts(field)))).collect()
    }
}

impl ServiceView {
    /// Whether the deployment has it.
    #[must_use]
    pub fn is_present(&self) -> bool {
        !self.access.paths.is_empty()
    }

    /// One of its paths.
    #[must_use]
    pub fn path(&self, path: Path) -> Option<&PathStatus> {
        self.access.paths.iter().find(|status| status.path == path)
    }

    /// The error to show: that of the last call, else the newest of the path in use.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.last_call.as_ref()?.outcome.as_ref().err().map(String::as_str)
    }

    fn to_json(&self) -> Value {
        let call = self.last_call.as_ref();
        json!({
            "service": self.access.service.name(),
            "present": self.is_present(),
            "call": self.call,
            "calls": call.map_or(0, |call| call.count),
            "last_call_ago_ms": call.map(|call| ms(call.ago)),
            "answer": call.and_then(|call| call.outcome.as_ref().ok()),
            "error": self.error(),
            "first_success_ms": self.first_success.map(ms),
            "path_in_use": self.access.in_use.map(Path::name),
            "paths": self.access.paths.iter().map(path_json).collect::<Vec<_>>(),
        })
    }
}

fn path_json(path: &PathStatus) -> Value {
    json!({
        "path": path.path.name(),
        "address": path.address,
        "breaker": path.breaker.name(),
        "latency_ms": path.latency.map(ms),
        "answered": path.answered,
        "failed": path.failed,
        "first_answer_ms": path.first_answer.map(ms),
        "last_answer_ago_ms": path.last_answer.map(ms),
        "last_error": path.last_error.as_ref().map(|(text, _)| text),
        "last_error_ago_ms": path.last_error.as_ref().map(|(_, ago)| ms(*ago)),
    })
}

/// Milliseconds with three places.
fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
