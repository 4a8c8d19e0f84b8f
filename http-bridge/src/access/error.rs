//! Why a service did not answer, path by path.

use std::fmt;

use super::Path;
use crate::{service::ServiceKind, transport::TransportError};

/// What was wrong with one path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathFailure {
    /// The service has no address for it.
    #[error("the deployment names no {0} address for it")]
    NoAddress(Path),
    /// DMSG was not ready; in the words of [`super::Readiness`].
    #[error("DMSG is {0}")]
    NotReady(String),
    /// Too many failures in a row.
    #[error("not tried, since the last requests failed ({last_error})")]
    BreakerOpen {
        /// The last of them.
        last_error: String,
    },
    /// The time of the whole request was over before.
    #[error("not tried, since the time was over")]
    NoTimeLeft,
    /// It was tried.
    #[error("{0}")]
    Transport(#[from] TransportError),
}

impl PathFailure {
    /// The cause as a metric label.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::NoAddress(_) => "no_address",
            Self::NotReady(_) => "not_ready",
            Self::BreakerOpen { .. } => "breaker_open",
            Self::NoTimeLeft => "no_time_left",
            Self::Transport(TransportError::Connect(_)) => "connect",
            Self::Transport(TransportError::Timeout(_)) => "timeout",
            Self::Transport(TransportError::BodyTooLarge(_)) => "body_too_large",
            Self::Transport(TransportError::UnsupportedScheme(_)) => "unsupported_scheme",
            Self::Transport(_) => "exchange",
        }
    }
}

/// No path led to an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessError {
    /// Which service.
    pub service: ServiceKind,
    /// The paths, in the order in which they came up.
    pub tries: Vec<(Path, PathFailure)>,
    /// Whether the request could be sent on another path after it may have been delivered on one.
    pub is_repeatable: bool,
}

impl AccessError {
    /// The last thing that was tried, if anything was.
    #[must_use]
    pub fn transport(&self) -> Option<&TransportError> {
        self.tries.iter().rev().find_map(|(_, failure)| match failure {
            PathFailure::Transport(error) => Some(error),
            _ => None,
        })
    }

    /// Whether the request may have reached the service.
    #[must_use]
    pub fn may_be_delivered(&self) -> bool {
        self.tries.iter().any(|(_, failure)| match failure {
            PathFailure::Transport(error) => error.may_be_delivered(),
            _ => false,
        })
    }
}

impl std::error::Error for AccessError {}

impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} did not answer", self.service)?;
        for (index, (path, failure)) in self.tries.iter().enumerate() {
            let separator = if index == 0 { ": " } else { "; " };
            write!(f, "{separator}over {path}: {failure}")?;
        }
        if !self.is_repeatable && self.may_be_delivered() {
            f.write_str(" (the request may have arrived, so it was not sent again)")?;
        }
        Ok(())
    }
}
