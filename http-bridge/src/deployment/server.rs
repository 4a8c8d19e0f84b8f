//! A relay server of the document, `dmsg_servers[i]` (`deployment-config.md §1.1`).
//!
//! ```text
//!   {"static": KEY, "server": {"address": HOST:PORT, …}, …}      the members of a discovery entry (discovery.md §1)
//!        └ key          └ address                     └ element, server: kept, of the type that a reader of an entry wants
//! ```
//!
//! Programs in Go refuse the whole list for one member of the wrong type. So an operator is told of it; of an answer of
//! the network only that member is left out, as what remains says where the server is.

use std::net::IpAddr;

use dmsg_engine::{client::ServerRecord, identity::PublicKey};

use super::{
    field::{Author, keep, read_host_port, read_key},
    json::{Cursor, Json, Object},
    problem::Problems,
};
use crate::{
    discovery::{RawEntry, store::SERVERS_MAX},
    url::check_host_port,
};

/// A relay server to begin with (`§1.1`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DmsgServer {
    /// Its key.
    pub key: PublicKey,
    /// `host:port`
    pub address: String,
    /// All members of the element but `static`, and of its `server` but `address`: kept, not interpreted.
    element: Object,
    server: Object,
}

impl DmsgServer {
    /// A server of which nothing else is known.
    #[must_use]
    pub fn new(key: PublicKey, address: impl Into<String>) -> Self {
        Self { key, address: address.into(), element: Object::default(), server: Object::default() }
    }

    /// Those of a discovery's list that can stand in a document: anybody may register anything, and a document with an
    /// address that is none, or of more than 1 MiB, is of no use to those who read it.
    #[must_use]
    pub fn listable(listed: &[ServerRecord]) -> Vec<Self> {
        let usable = listed.iter().filter(|server| check_address(&server.address).is_ok());
        usable.take(SERVERS_MAX).map(|s| Self::new(s.key, s.address.as_str())).collect()
    }

    /// `wss://` address, if it has one.
    #[must_use]
    pub fn address_ws(&self) -> Option<&str> {
        self.server.get("address_ws").and_then(Json::as_text)
    }

    /// What the engine needs to know of it.
    #[must_use]
    pub fn record(&self) -> ServerRecord {
        ServerRecord { key: self.key, address: self.address.clone(), available_sessions: 1 }
    }

    /// A text that was put beside what the element says.
    pub(super) fn note(&self, name: &str) -> Option<&str> {
        self.element.get(name).and_then(Json::as_text)
    }

    pub(super) fn set_note(&mut self, name: &str, text: &str) {
        self.element.set(name, text);
    }

    pub(super) fn to_json(&self) -> Json {
        let mut server = Object::from([("address", self.address.as_str().into())]);
        self.server.iter().for_each(|(name, value)| server.set(name, value.clone()));
        let mut element = Object::from([("static", self.key.to_string().into())]);
        for (name, value) in self.element.iter() {
            element.set(name, value.clone());
        }
        element.set("server", server);
        element.into()
    }

    /// Reads an element. Of an answer: not at all if it is no server, without members of the wrong type, and without a
    /// signature that does not fit, or no longer does.
    pub(super) fn read(at: &Cursor<'_>, author: Author, problems: &mut Problems) -> Option<Self> {
        if author == Author::Operator {
            let (server, _) = read_element(at, author, problems)?;
            check_signature(&server, at, problems);
            return Some(server);
        }
        let (read, is_wrong) = problems.tolerating(|problems| read_element(at, author, problems));
        let (mut server, is_whole) = read.filter(|_| !is_wrong)?;
        let ((), is_forged) =
            problems.tolerating(|problems| check_signature(&server, at, problems));
        if is_forged || !is_whole {
            server.element.remove("signature");
        }
        Some(server)
    }
}

/// What a known member of an entry holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    Text,
    Bool,
    /// 64 bits, with or without a sign.
    Unsigned,
    Signed,
    /// `host:port`, or an empty text.
    HostPort,
    /// `ws://` or `wss://`, or an empty text.
    WebSocket,
    Object,
}

/// Members of an entry beside those that we read, in the order of `discovery.md §1`.
const ELEMENT_MEMBERS: [(&str, Holds); 7] = [
    ("version", Holds::Text),
    ("sequence", Holds::Unsigned),
    ("timestamp", Holds::Signed),
    ("client", Holds::Object),
    ("client_type", Holds::Text),
    ("signature", Holds::Text),
    ("protocol", Holds::Text),
];
const SERVER_MEMBERS: [(&str, Holds); 7] = [
    ("address_v6", Holds::HostPort),
    ("address_udp", Holds::HostPort),
    ("address_udp_v6", Holds::HostPort),
    ("address_ws", Holds::WebSocket),
    ("availableSessions", Holds::Signed),
    ("serverType", Holds::Text),
    ("dht_bootstrap", Holds::Bool),
];

impl Holds {
    /// What is wrong with a value, and what would be right. `null` is what Go takes for a value that is not set.
    fn check(self, value: &Json) -> Result<(), (String, &'static str)> {
        let kind =
            |wanted: &str| (format!("{wanted} is wanted here"), "correct it, or leave it out");
        let text = || value.as_text().ok_or_else(|| kind("a text"));
        match self {
            _ if *value == Json::Null => Ok(()),
            Self::Text => text().map(drop),
            Self::Bool if matches!(value, Json::Bool(_)) => Ok(()),
            Self::Bool => Err(kind("true or false")),
            Self::Object if value.as_object().is_some() => Ok(()),
            Self::Object => Err(kind("an object")),
            Self::Unsigned | Self::Signed => {
                let Json::Number(digits) = value else { return Err(kind("a whole number")) };
                let fits = match self {
                    Self::Unsigned => digits.parse::<u64>().is_ok(),
                    _ => digits.parse::<i64>().is_ok(),
                };
                if fits { Ok(()) } else { Err(kind("a whole number of 64 bits")) }
            }
            Self::HostPort => match text()? {
                "" => Ok(()),
                text => check_host_port(text).map_err(|what| (what, "write host:port, or \"\"")),
            },
            Self::WebSocket => match text()? {
                "" => Ok(()),
                text => check_web_socket(text)
                    .map_err(|what| (what, "write wss://HOST[:PORT]/PATH, or \"\"")),
            },
        }
    }
}

fn check_web_socket(text: &str) -> Result<(), String> {
    let uri: http::Uri = text.parse().map_err(|error| format!("{text:?} is no URL: {error}"))?;
    match uri.scheme_str() {
        Some("ws" | "wss") if uri.host().is_some_and(|host| !host.is_empty()) => Ok(()),
        _ => Err(format!("{text:?} is no ws:// or wss:// address")),
    }
}

/// Whether somebody can dial it: a `host:port` that is not "every address of this machine".
fn check_address(text: &str) -> Result<(), String> {
    check_host_port(text)?;
    let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() => {
            Err(format!("{host} is where to listen, not where a server is reached"))
        }
        _ => Ok(()),
    }
}

fn read_address(at: &Cursor<'_>, problems: &mut Problems) -> Option<String> {
    let address = read_host_port(at, problems)?;
    match check_address(&address) {
        Ok(()) => Some(address),
        Err(what) => {
            at.error(format!("{address:?}: {what}"), "write its public host:port", problems);
            None
        }
    }
}

/// The server, and whether all of its members were taken.
fn read_element(
    at: &Cursor<'_>,
    author: Author,
    problems: &mut Problems,
) -> Option<(DmsgServer, bool)> {
    let (mut key, mut address) = (None, None);
    let (mut element, mut server) = (Object::default(), Object::default());
    let (mut has_static, mut has_server, mut has_address) = (false, false, false);
    let mut is_whole = true;
    for (name, value) in at.members(problems)? {
        match name.as_str() {
            "static" => {
                has_static = true;
                key = read_key(&value, problems);
            }
            "server" => {
                has_server = true;
                for (name, value) in value.members(problems)? {
                    if name == "address" {
                        has_address = true;
                        address = read_address(&value, problems);
                    } else {
                        is_whole &= keep_member(
                            &mut server,
                            &name,
                            &value,
                            &SERVER_MEMBERS,
                            author,
                            problems,
                        );
                    }
                }
            }
            _ => {
                is_whole &=
                    keep_member(&mut element, &name, &value, &ELEMENT_MEMBERS, author, problems);
            }
        }
    }
    let form = r#"write {"static":"KEY","server":{"address":"HOST:PORT"}}"#;
    for (has, name) in [
        (has_static, "static"),
        (has_server, "server"),
        (has_address || !has_server, "server.address"),
    ] {
        if !has {
            at.error(format!("{name} is missing"), form, problems);
        }
    }
    Some((DmsgServer { key: key?, address: address?, element, server }, is_whole))
}

/// Keeps a member that we do not read, if it holds what it should. Whether it did.
fn keep_member(
    object: &mut Object,
    name: &str,
    value: &Cursor<'_>,
    known: &[(&str, Holds)],
    author: Author,
    problems: &mut Problems,
) -> bool {
    let Some((_, holds)) = known.iter().find(|(known, _)| *known == name) else {
        keep(object, name, value, problems);
        return true;
    };
    let json = value.to_json(problems);
    match holds.check(&json) {
        Ok(()) => {
            object.set(name, json);
            true
        }
        Err((what, advice)) => {
            match author {
                Author::Operator => value.error(what, advice, problems),
                Author::Network => value.warn(what, advice, problems),
            }
            false
        }
    }
}

/// An element that carries a signature is an entry that somebody published; it must be what was signed, but for the
/// label that a discovery writes into what it serves (`discovery.md §2.3`).
fn check_signature(server: &DmsgServer, at: &Cursor<'_>, problems: &mut Problems) {
    let signature = server.element.get("signature").and_then(Json::as_text);
    if signature.is_none_or(str::is_empty) {
        return;
    }
    let verified = RawEntry::parse(at.raw().as_bytes()).and_then(|entry| entry.verify_as_served());
    if let Err(error) = verified {
        let what = format!("the element is not what its server signed: {error}");
        at.error(
            what,
            "take the entry as the discovery serves it now, or leave the signature out",
            problems,
        );
    }
}
