//! Tolerant decoding of entries, with the received text kept (`discovery.md §2.1`, `§2.4`).
//!
//! ```text
//!   received text ──members()──▶ name, value, where   ──▶ Entry          known members, names in any case
//!        │                                               └▶ ambiguous?    a known member given twice
//!        └──cut "signature"──▶ text a newer signer signed
//! ```
//!
//! Rules, where Go leaves room:
//! - of a member given twice the last counts, whole (Go merges objects); such a text is *ambiguous*: only the
//!   members we know are trusted, never the text itself, since another parser may read it otherwise;
//! - `null` is the empty value of its type; a null key in a list is left out;
//! - values nested deeper than `NESTING_MAX` are refused, also in members we do not know: the text is
//!   served to others, whose parsers may be less sturdy;
//! - bytes behind the entry are refused.

use dmsg_engine::identity::PublicKey;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{ClientPart, ENTRY_BYTES_MAX, Entry, EntryError, ServerPart};

/// How deep objects and arrays may nest in an entry. Known members need 3.
const NESTING_MAX: usize = 16;

/// Labels that a discovery writes over a server's own (`discovery.md §2.3`), plus the absent one.
const SERVED_LABELS: [&str; 3] = ["", "official", "community"];

/// What an entry's signature covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signed {
    /// The received text, unknown members included.
    Text,
    /// The members we know, in our serialisation: the text was re-spaced or added to on its way.
    Members,
}

/// An entry together with the text it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawEntry {
    entry: Entry,
    text: String,
    unsigned_text: Option<String>,
}

impl RawEntry {
    /// Decodes. Every failure is [`EntryError::Unexpected`], as the protocol has it; nothing is validated.
    pub fn parse(bytes: &[u8]) -> Result<Self, EntryError> {
        decode(bytes).ok_or(EntryError::Unexpected)
    }

    /// The text of an entry that we made ourselves.
    #[must_use]
    pub fn of(entry: Entry) -> Self {
        Self { text: entry.to_text(), unsigned_text: Some(entry.signing_text()), entry }
    }

    /// The decoded entry.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// The received text, byte for byte, without surrounding white space.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Gives up the text.
    #[must_use]
    pub fn into_entry(self) -> Entry {
        self.entry
    }

    /// Checks the signature: over our serialisation of the known members, then over the received text
    /// with its signature member cut out (`discovery.md §2.4`).
    pub fn verify(&self) -> Result<Signed, EntryError> {
        let rebuilt = self.entry.signing_text();
        let members = self.entry.verify_text(&rebuilt);
        match (&self.unsigned_text, members) {
            (Some(text), Ok(())) if *text == rebuilt => Ok(Signed::Text),
            (_, Ok(())) => Ok(Signed::Members),
            (None, Err(error)) => Err(error),
            (Some(text), Err(_)) => self.entry.verify_text(text).map(|()| Signed::Text),
        }
    }

    /// The same for an entry that a discovery served: its label may stand in place of what a server said of itself
    /// (`discovery.md §2.3`). A server that signed a passphrase there cannot be verified by anybody else.
    pub fn verify_as_served(&self) -> Result<(), EntryError> {
        match self.verify() {
            Err(_) if self.entry.verifies_under_a_label(&SERVED_LABELS) => Ok(()),
            verified => verified.map(drop),
        }
    }

    /// What may be served to others: exactly what was signed.
    #[must_use]
    pub fn signed_text(&self, signed: Signed) -> String {
        match signed {
            Signed::Text => self.text.clone(),
            Signed::Members => self.entry.to_text(),
        }
    }
}

/// `text`, an entry, with the label `server_type` in place of what the server said of itself; every
/// other byte stays. `None` when `text` is no entry of a server.
pub(super) fn with_server_type(text: &str, server_type: &str) -> Option<String> {
    let server = last(&members(text)?, "server")?.value;
    let inner = members(server)?;
    let label = format!("\"{server_type}\"");
    let (start, end, insert) = match (last(&inner, "serverType"), inner.last()) {
        (Some(old), _) => (offset(text, old.value), old.value.len(), label),
        (None, Some(_)) => {
            let before = last(&inner, "availableSessions").or_else(|| inner.last())?.value;
            let at = offset(text, before) + before.len();
            (at, 0, format!(",\"serverType\":{label}"))
        }
        (None, None) => return None,
    };
    Some(format!("{}{insert}{}", &text[..start], &text[start + end..]))
}

/// Reads a key: hex digits in either case; nothing but zeros (or nothing) is the null key (`§2.1`).
pub(super) fn parse_key(text: &str) -> Option<Option<PublicKey>> {
    if text.bytes().all(|c| c == b'0') {
        return Some(None);
    }
    text.parse().ok().map(Some)
}

struct Member<'a> {
    name: String,
    value: &'a str,
}

struct Members<'a>(Vec<Member<'a>>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    members.push(Member { name, value: value.get() });
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(Collect)
    }
}

/// The members of an object, in their order; values borrow from `text`.
fn members(text: &str) -> Option<Vec<Member<'_>>> {
    serde_json::from_str::<Members<'_>>(text).ok().map(|m| m.0)
}

fn last<'m, 'a>(members: &'m [Member<'a>], name: &str) -> Option<&'m Member<'a>> {
    members.iter().rev().find(|m| m.name.eq_ignore_ascii_case(name))
}

/// Where `part`, a slice of `whole`, begins in it.
fn offset(whole: &str, part: &str) -> usize {
    part.as_ptr() as usize - whole.as_ptr() as usize
}

/// Where the first member's name (or the closing brace) may begin.
fn behind_brace(text: &str) -> Option<usize> {
    text.find('{').map(|at| at + 1)
}

/// `text` without its member number `index`, every other byte kept.
fn cut(text: &str, members: &[Member<'_>], index: usize) -> Option<String> {
    let end_of = |m: &Member<'_>| offset(text, m.value) + m.value.len();
    let end = end_of(&members[index]);
    let (from, to) = match index.checked_sub(1) {
        Some(before) => (end_of(&members[before]), end),
        None if members.len() == 1 => (behind_brace(text)?, end),
        None => (behind_brace(text)?, end + text[end..].find(',')? + 1),
    };
    Some(format!("{}{}", &text[..from], &text[to..]))
}

fn decode(bytes: &[u8]) -> Option<RawEntry> {
    if bytes.len() > ENTRY_BYTES_MAX {
        return None;
    }
    let text = std::str::from_utf8(bytes).ok()?.trim_matches([' ', '\t', '\r', '\n']);
    if nesting(text) > NESTING_MAX {
        return None;
    }
    let members = members(text)?;
    let mut entry = Entry::default();
    let mut seen = Seen::default();
    for Member { name, value } in &members {
        match seen.known(name, &ENTRY_MEMBERS) {
            Some("version") => entry.version = read(value)?,
            Some("sequence") => entry.sequence = read(value)?,
            Some("timestamp") => entry.timestamp = read(value)?,
            Some("static") => entry.key = parse_key(&read::<String>(value)?)?,
            Some("client") => entry.client = read_client(value, &mut seen)?,
            Some("client_type") => entry.client_type = read(value)?,
            Some("server") => entry.server = read_server(value, &mut seen)?,
            Some("signature") => entry.signature = read(value)?,
            Some("protocol") => entry.protocol = read(value)?,
            _ => {}
        }
    }
    let unsigned_text = if seen.twice {
        None
    } else {
        match members.iter().position(|m| m.name.eq_ignore_ascii_case("signature")) {
            Some(index) => cut(text, &members, index),
            None => Some(text.to_owned()),
        }
    };
    Some(RawEntry { entry, text: text.to_owned(), unsigned_text })
}

const ENTRY_MEMBERS: [&str; 9] = [
    "version",
    "sequence",
    "timestamp",
    "static",
    "client",
    "client_type",
    "server",
    "signature",
    "protocol",
];

const CLIENT_MEMBERS: [&str; 1] = ["delegated_servers"];

const SERVER_MEMBERS: [&str; 8] = [
    "address",
    "address_v6",
    "address_udp",
    "address_udp_v6",
    "address_ws",
    "availableSessions",
    "serverType",
    "dht_bootstrap",
];

/// Which known members were read; notes whether one came twice.
#[derive(Default)]
struct Seen {
    names: Vec<&'static str>,
    twice: bool,
}

impl Seen {
    /// The known member that `name` means, if any.
    fn known(&mut self, name: &str, known: &[&'static str]) -> Option<&'static str> {
        let name = *known.iter().find(|k| k.eq_ignore_ascii_case(name))?;
        if self.names.contains(&name) {
            self.twice = true;
        } else {
            self.names.push(name);
        }
        Some(name)
    }
}

/// A value of a known member; `null` is the type's empty value.
fn read<T: for<'de> Deserialize<'de> + Default>(value: &str) -> Option<T> {
    serde_json::from_str::<Option<T>>(value).ok().map(Option::unwrap_or_default)
}

fn read_client(value: &str, seen: &mut Seen) -> Option<Option<ClientPart>> {
    if value == "null" {
        return Some(None);
    }
    let mut client = ClientPart::default();
    for Member { name, value } in members(value)? {
        if seen.known(&name, &CLIENT_MEMBERS).is_some() {
            client.delegated_servers = match read::<Option<Vec<Option<String>>>>(value)? {
                Some(texts) => Some(read_keys(texts)?),
                None => None,
            };
        }
    }
    Some(Some(client))
}

fn read_keys(texts: Vec<Option<String>>) -> Option<Vec<PublicKey>> {
    let keys: Option<Vec<_>> =
        texts.into_iter().map(|text| parse_key(&text.unwrap_or_default())).collect();
    Some(keys?.into_iter().flatten().collect())
}

fn read_server(value: &str, seen: &mut Seen) -> Option<Option<ServerPart>> {
    if value == "null" {
        return Some(None);
    }
    let mut server = ServerPart::default();
    for Member { name, value } in members(value)? {
        match seen.known(&name, &SERVER_MEMBERS) {
            Some("address") => server.address = read(value)?,
            Some("address_v6") => server.address_v6 = read(value)?,
            Some("address_udp") => server.address_udp = read(value)?,
            Some("address_udp_v6") => server.address_udp_v6 = read(value)?,
            Some("address_ws") => server.address_ws = read(value)?,
            Some("availableSessions") => server.available_sessions = read(value)?,
            Some("serverType") => server.server_type = read(value)?,
            Some("dht_bootstrap") => server.dht_bootstrap = read(value)?,
            _ => {}
        }
    }
    Some(Some(server))
}

/// How deep objects and arrays nest in `text`, whether or not it is valid JSON.
fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests;
