//! The errors that the discovery protocol names (`discovery.md §3`, `§4`).
//!
//! Their texts are protocol: a client maps the `message` string of an answer back to the error, so
//! not one letter may change.

use http::StatusCode;

/// A rule of the discovery protocol that a request broke. `Display` is the exact protocol text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// The body is no entry, or the service failed inside.
    #[error("something unexpected happened")]
    Unexpected,
    /// A key or an array of keys in the request does not parse.
    #[error("error bad input")]
    BadInput,
    /// Nothing is stored for the key.
    #[error("entry of public key is not found")]
    NotFound,
    /// No server is registered (or none has room).
    #[error("no delegated dmsg servers available for remote")]
    NoServers,
    /// The signature is not by the entry's key.
    #[error("invalid signature")]
    InvalidSignature,
    /// A server advertises a loopback address or an empty host.
    #[error(
        "entry validation error: advertising localhost listening address is not allowed in production mode"
    )]
    LoopbackAddress,
    /// `version` is empty.
    #[error("entry validation error: entry has no version")]
    NoVersion,
    /// `signature` is empty.
    #[error("entry validation error: entry has no signature")]
    NoSignature,
    /// `static` is the null key.
    #[error("entry validation error: entry Keys is nil")]
    NoKey,
    /// Neither `client` nor `server` is there.
    #[error("entry validation error: entry has neither client or server field")]
    NeitherClientNorServer,
    /// `server.address` is empty.
    #[error("entry validation error: server address cannot be empty")]
    NoServerAddress,
    /// A server's timestamp is not within the last minute.
    #[error("entry validation error: advertised entry has outdated timestamp")]
    OutdatedTimestamp,
    /// `sequence` is not above the stored one (the text says "+ 1", the rule is "greater").
    #[error("entry validation error: sequence field of new entry is not sequence of old entry + 1")]
    SequenceNotGreater,
    /// `timestamp` is below the stored one.
    #[error("entry validation error: advertised entry timestamp is not greater than previous")]
    TimestampBehind,
    /// Named by the protocol, sent by no current server.
    #[error("entry validation error: new entry has non-zero sequence")]
    NonZeroSequence,
    /// Named by the protocol, sent by no current server.
    #[error("entry validation error: entry of client instance has nil ephemeral keys")]
    NilEphemerals,
    /// Named by the protocol, sent by no current server.
    #[error("entry validation error: entry of server instance has non nil Keys.Ephemerals field")]
    NonNilEphemerals,
    /// More delegated servers than [`DELEGATED_SERVERS_MAX`](super::DELEGATED_SERVERS_MAX). Ours;
    /// Go clients read an unknown text as "something unexpected happened".
    #[error("entry validation error: entry has more than 512 delegated servers")]
    TooManyDelegatedServers,
    /// A server entry longer than [`SERVER_ENTRY_BYTES_MAX`](super::SERVER_ENTRY_BYTES_MAX). Ours.
    #[error("entry validation error: entry of a server is longer than 8 KiB")]
    ServerEntryTooLong,
}

impl EntryError {
    /// Every error of the protocol.
    pub const ALL: [Self; 19] = [
        Self::Unexpected,
        Self::BadInput,
        Self::NotFound,
        Self::NoServers,
        Self::InvalidSignature,
        Self::LoopbackAddress,
        Self::NoVersion,
        Self::NoSignature,
        Self::NoKey,
        Self::NeitherClientNorServer,
        Self::NoServerAddress,
        Self::OutdatedTimestamp,
        Self::SequenceNotGreater,
        Self::TimestampBehind,
        Self::NonZeroSequence,
        Self::NilEphemerals,
        Self::NonNilEphemerals,
        Self::TooManyDelegatedServers,
        Self::ServerEntryTooLong,
    ];

    /// The HTTP status that goes with it.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Unexpected => StatusCode::INTERNAL_SERVER_ERROR,
            Self::BadInput => StatusCode::BAD_REQUEST,
            Self::NotFound | Self::NoServers => StatusCode::NOT_FOUND,
            Self::InvalidSignature => StatusCode::UNAUTHORIZED,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        }
    }

    /// The error with this text; `None` for a text that the protocol does not know.
    #[must_use]
    pub fn from_message(message: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|e| e.to_string() == message)
    }

    /// A short name for metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Unexpected => "unexpected",
            Self::BadInput => "bad_input",
            Self::NotFound => "not_found",
            Self::NoServers => "no_servers",
            Self::InvalidSignature => "invalid_signature",
            Self::LoopbackAddress => "loopback_address",
            Self::NoVersion => "no_version",
            Self::NoSignature => "no_signature",
            Self::NoKey => "no_key",
            Self::NeitherClientNorServer => "neither_client_nor_server",
            Self::NoServerAddress => "no_server_address",
            Self::OutdatedTimestamp => "outdated_timestamp",
            Self::SequenceNotGreater => "sequence_not_greater",
            Self::TimestampBehind => "timestamp_behind",
            Self::NonZeroSequence => "non_zero_sequence",
            Self::NilEphemerals => "nil_ephemerals",
            Self::NonNilEphemerals => "non_nil_ephemerals",
            Self::TooManyDelegatedServers => "too_many_delegated_servers",
            Self::ServerEntryTooLong => "server_entry_too_long",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_message_leads_back_to_its_error() {
        for error in EntryError::ALL {
            assert_eq!(EntryError::from_message(&error.to_string()), Some(error));
        }
        assert_eq!(EntryError::from_message("something new"), None);
    }

    #[test]
    fn labels_are_distinct() {
        let labels: std::collections::HashSet<_> =
            EntryError::ALL.iter().map(|e| e.label()).collect();
        assert_eq!(labels.len(), EntryError::ALL.len());
    }
}
