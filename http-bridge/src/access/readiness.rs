//! Whether DMSG can carry requests, as a value that can be watched (`dmsg-http.md §6.5`).

use std::fmt;

use dmsg_engine::client::ClientStatus;

/// How DMSG stands.
///
/// ```text
///   Starting ──▶ Ready ◀──▶ Retrying          Failed: nothing will change without a restart
///       └───────────▶ Retrying
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// No session is up yet, and nothing has gone wrong so far.
    Starting,
    /// Requests can go over DMSG.
    Ready {
        /// Sessions with servers.
        sessions: usize,
    },
    /// No session is up; the engine goes on trying.
    Retrying {
        /// What went wrong last.
        reason: String,
    },
    /// There is no DMSG in this process, and there will be none.
    Failed {
        /// Why.
        reason: String,
    },
}

impl Readiness {
    /// Whether requests can go over DMSG now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready { .. })
    }

    /// Whether waiting may help.
    #[must_use]
    pub fn may_become_ready(&self) -> bool {
        matches!(self, Self::Starting | Self::Retrying { .. })
    }

    /// The name in JSON.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready { .. } => "ready",
            Self::Retrying { .. } => "retrying",
            Self::Failed { .. } => "failed",
        }
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("starting: no session with a server yet"),
            Self::Ready { sessions: 1 } => f.write_str("ready with 1 session"),
            Self::Ready { sessions } => write!(f, "ready with {sessions} sessions"),
            Self::Retrying { reason } => {
                write!(f, "without a session, trying again: {reason}")
            }
            Self::Failed { reason } => write!(f, "not available: {reason}"),
        }
    }
}

impl From<&ClientStatus> for Readiness {
    fn from(status: &ClientStatus) -> Self {
        match status {
            ClientStatus::Starting => Self::Starting,
            ClientStatus::Connected { sessions } | ClientStatus::Ready { sessions } => {
                Self::Ready { sessions: *sessions }
            }
            ClientStatus::Degraded(reason) => Self::Retrying { reason: reason.clone() },
            ClientStatus::Closed => Self::Failed { reason: "the client is closed".to_owned() },
            other => Self::Retrying { reason: format!("{other:?}") },
        }
    }
}
