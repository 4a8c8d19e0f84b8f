//! What is kept of an entry: its texts, and the few members that lists and checks need.

use bytes::Bytes;
use dmsg_engine::identity::PublicKey;

use crate::discovery::{EntryError, RawEntry, Signed, UnixNanos, codec::with_server_type};

/// The verdict of a discovery about a server (`discovery.md §4.2`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerLabel {
    /// On the operator's list, or in possession of the passphrase.
    Official,
    /// Any other.
    Community,
}

impl ServerLabel {
    /// The `serverType` in the served entry.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Official => "official",
            Self::Community => "community",
        }
    }
}

/// An entry as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Whose it is.
    pub key: PublicKey,
    /// Its iteration.
    pub sequence: u64,
    /// The signed time of the iteration.
    pub timestamp: i64,
    /// When it expires.
    pub deadline: UnixNanos,
    /// The signed text as it was submitted. May hold the operators' passphrase: never serve it.
    pub submitted: Bytes,
    /// The text to serve: the submitted one with our verdict on a server.
    pub served: Bytes,
    /// There for clients.
    pub client: Option<ClientRecord>,
    /// There for servers.
    pub server: Option<ServerRecord>,
}

/// What lists need of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientRecord {
    /// The servers it delegates to, without repetitions.
    pub delegated: Box<[PublicKey]>,
    /// Whether its `client_type` is `visor`.
    pub visor: bool,
}

/// What lists need of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerRecord {
    /// Sessions it can still take.
    pub available_sessions: i64,
    /// The verdict.
    pub label: ServerLabel,
}

impl Record {
    /// The record of an entry that passed its checks; `label` counts for servers only.
    pub fn new(
        raw: &RawEntry,
        signed: Signed,
        label: ServerLabel,
        deadline: UnixNanos,
    ) -> Result<Self, EntryError> {
        let entry = raw.entry();
        let submitted = raw.signed_text(signed);
        let served = match &entry.server {
            Some(server) if server.server_type != label.as_str() => {
                Some(with_server_type(&submitted, label.as_str()).ok_or(EntryError::Unexpected)?)
            }
            _ => None,
        };
        let submitted = Bytes::from(submitted);
        let client = entry.client.as_ref().map(|_| {
            let mut delegated = entry.delegated_servers().to_vec();
            delegated.sort_unstable();
            delegated.dedup();
            ClientRecord { delegated: delegated.into(), visor: entry.client_type == "visor" }
        });
        Ok(Self {
            key: entry.key.ok_or(EntryError::NoKey)?,
            sequence: entry.sequence,
            timestamp: entry.timestamp,
            deadline,
            served: served.map_or_else(|| submitted.clone(), Bytes::from),
            submitted,
            client,
            server: entry.server.as_ref().map(|server| ServerRecord {
                available_sessions: server.available_sessions,
                label,
            }),
        })
    }

    /// Bytes of its texts; a text that is served as it came counts once.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        if self.submitted.as_ptr() == self.served.as_ptr() {
            self.submitted.len()
        } else {
            self.submitted.len() + self.served.len()
        }
    }

    /// Whether it is visible at `now`.
    #[must_use]
    pub fn is_live(&self, now: UnixNanos) -> bool {
        now < self.deadline
    }

    pub(super) fn is_official(&self) -> bool {
        self.server.is_some_and(|server| server.label == ServerLabel::Official)
    }
}
