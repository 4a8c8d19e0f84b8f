//! Reading a discovery's answers. Bodies are bounded before they get here; bad list elements are left out.

use std::collections::HashMap;

use dmsg_engine::identity::PublicKey;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::ClientError;
use crate::discovery::{Entry, RawEntry, codec::parse_key};

/// An entry as a discovery served it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedEntry {
    /// The entry and its text.
    pub raw: RawEntry,
    /// Whether the signature is the key's. Always so for clients; a server's entry may not verify because
    /// the discovery wrote a label into it, and its address is only confirmed by the handshake.
    pub verified: bool,
}

impl FetchedEntry {
    /// The decoded entry.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        self.raw.entry()
    }

    /// Decodes and judges the entry of `asked` (or of any key). The rule of `§2.4`: an entry without a
    /// `server` part must verify.
    pub(super) fn judge(
        bytes: &[u8],
        asked: Option<PublicKey>,
        path: &str,
    ) -> Result<Self, ClientError> {
        let malformed = || ClientError::Malformed { path: path.to_owned() };
        let raw = RawEntry::parse(bytes).map_err(|_| malformed())?;
        let key = raw.entry().key.ok_or_else(malformed)?;
        if let Some(asked) = asked.filter(|asked| *asked != key) {
            return Err(ClientError::WrongKey(asked));
        }
        let verified = raw.verify_as_served().is_ok();
        if !verified && raw.entry().server.is_none() {
            return Err(ClientError::Unverified(key));
        }
        Ok(Self { raw, verified })
    }
}

/// The health of a discovery; members that are absent stay empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Health {
    /// When it started, RFC 3339.
    pub started_at: String,
    /// `<key>:<port>` under which it is reachable over DMSG.
    pub dmsg_address: String,
    /// Keys of the servers it holds sessions with.
    pub dmsg_servers: Vec<String>,
}

/// The `message` of an answer's body.
pub(super) fn message(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Message {
        message: String,
    }
    serde_json::from_slice::<Message>(body).ok().map(|m| m.message)
}

/// An array of entries (or `null`). What does not parse is left out.
pub(super) fn entries(body: &[u8], path: &str) -> Result<Vec<FetchedEntry>, ClientError> {
    let list: Option<Vec<&RawValue>> = read(body, path)?;
    let judge = |raw: &RawValue| FetchedEntry::judge(raw.get().as_bytes(), None, path);
    Ok(list.unwrap_or_default().into_iter().filter_map(|raw| judge(raw).ok()).collect())
}

/// An array of keys (or `null`), each a string or, as newer Go clients expect, an entry (`§4`).
pub(super) fn keys(body: &[u8], path: &str) -> Result<Vec<PublicKey>, ClientError> {
    let list: Option<Vec<&RawValue>> = read(body, path)?;
    Ok(list.unwrap_or_default().into_iter().filter_map(key_of).collect())
}

/// An object of arrays of keys.
pub(super) fn keys_by_server(
    body: &[u8],
    path: &str,
) -> Result<HashMap<PublicKey, Vec<PublicKey>>, ClientError> {
    let map: Option<HashMap<String, Option<Vec<&RawValue>>>> = read(body, path)?;
    let clients = |list: Option<Vec<&RawValue>>| {
        list.unwrap_or_default().into_iter().filter_map(key_of).collect()
    };
    Ok(map
        .unwrap_or_default()
        .into_iter()
        .filter_map(|(server, list)| Some((server.parse().ok()?, clients(list))))
        .collect())
}

/// An object of entries; what does not parse, belongs to another key or was not asked for is left out.
pub(super) fn entries_by_key(
    body: &[u8],
    path: &str,
) -> Result<HashMap<PublicKey, FetchedEntry>, ClientError> {
    let map: Option<HashMap<String, &RawValue>> = read(body, path)?;
    let judge = |(key, raw): (String, &RawValue)| {
        let key = key.parse().ok()?;
        Some((key, FetchedEntry::judge(raw.get().as_bytes(), Some(key), path).ok()?))
    };
    Ok(map.unwrap_or_default().into_iter().filter_map(judge).collect())
}

/// Decodes a whole body.
pub(super) fn read<'a, T: Deserialize<'a>>(body: &'a [u8], path: &str) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|_| ClientError::Malformed { path: path.to_owned() })
}

fn key_of(raw: &RawValue) -> Option<PublicKey> {
    match serde_json::from_str::<String>(raw.get()) {
        Ok(text) => parse_key(&text)?,
        Err(_) => RawEntry::parse(raw.get().as_bytes()).ok()?.entry().key,
    }
}
