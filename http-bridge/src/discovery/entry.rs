//! The signed record of one key (`discovery.md §1`) and the exact bytes that are signed (`§2`).
//!
//! The order of the fields below is the order of the signed text. `signature` stands between `server`
//! and `protocol`, and vanishes from the text that is signed:
//!
//! ```text
//! {"version":…,"sequence":…,"timestamp":…,"static":…[,"client":…][,"client_type":…][,"server":…]
//!  [,"signature":…][,"protocol":…]}           []: left out when null or empty
//! ```
//!
//! Decoding is tolerant and lives in `codec`; an [`Entry`] need not be valid, `validate` tells.

use std::io;

use dmsg_engine::identity::{PublicKey, SecretKey, Signature};
use serde::{Serialize, Serializer};
use serde_json::ser::{CharEscape, CompactFormatter, Formatter};

use super::EntryError;

/// The `version` of every entry since 2019.
pub const ENTRY_VERSION: &str = "0.0.1";

/// The record of one key. Build with [`Entry::client`] or [`Entry::server`], change, then [`Entry::sign`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// [`ENTRY_VERSION`] in every real entry.
    pub version: String,
    /// Counts the iterations of this key's entry.
    pub sequence: u64,
    /// Unix nanoseconds of this iteration.
    pub timestamp: i64,
    /// Whose entry it is; `None` is the null key.
    #[serde(rename = "static", serialize_with = "key_text")]
    pub key: Option<PublicKey>,
    /// There for clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientPart>,
    /// `"visor"`, `"test"` or empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client_type: String,
    /// There for relay servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerPart>,
    /// 130 hex digits once signed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub signature: String,
    /// `""` or `"yamux"`, `"smux"`, `"quic"`. Leave it empty for yamux: that text verifies everywhere (`§2.2`).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub protocol: String,
}

/// What makes an entry a client's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ClientPart {
    /// The servers it has sessions with. `None` is written `null`, which signs differently from `[]`.
    #[serde(serialize_with = "key_texts")]
    pub delegated_servers: Option<Vec<PublicKey>>,
}

/// What makes an entry a relay server's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ServerPart {
    /// `host:port`, an IPv4 address or a name. Mandatory.
    pub address: String,
    /// `[v6]:port`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address_v6: String,
    /// QUIC endpoint.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address_udp: String,
    /// QUIC endpoint, IPv6.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address_udp_v6: String,
    /// A whole `ws://` or `wss://` URL.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address_ws: String,
    /// Sessions it can still take.
    #[serde(rename = "availableSessions")]
    pub available_sessions: i64,
    /// `"official"` or `"community"` once a discovery labelled it.
    #[serde(rename = "serverType", skip_serializing_if = "String::is_empty")]
    pub server_type: String,
    /// Whether it runs a DHT node too.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dht_bootstrap: bool,
}

impl Entry {
    /// An unsigned first iteration of a client's entry.
    #[must_use]
    pub fn client(key: PublicKey, delegated_servers: Vec<PublicKey>) -> Self {
        let client = ClientPart { delegated_servers: Some(delegated_servers) };
        Self { client: Some(client), ..Self::blank(key) }
    }

    /// An unsigned first iteration of a server's entry.
    #[must_use]
    pub fn server(key: PublicKey, address: impl Into<String>, available_sessions: i64) -> Self {
        let server =
            ServerPart { address: address.into(), available_sessions, ..ServerPart::default() };
        Self { server: Some(server), ..Self::blank(key) }
    }

    /// An entry of `key` that is neither client nor server yet.
    pub(super) fn blank(key: PublicKey) -> Self {
        Self { version: ENTRY_VERSION.to_owned(), key: Some(key), ..Self::default() }
    }

    /// The compact text, signature included.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut bytes = Vec::with_capacity(512);
        let mut writer = serde_json::Serializer::with_formatter(&mut bytes, GoFormatter);
        self.serialize(&mut writer).expect("writing to memory, of a type without maps");
        String::from_utf8(bytes).expect("the writer emits UTF-8")
    }

    /// The text that is signed: [`Entry::to_text`] without the signature (`discovery.md §2`).
    #[must_use]
    pub fn signing_text(&self) -> String {
        if self.signature.is_empty() {
            return self.to_text();
        }
        Self { signature: String::new(), ..self.clone() }.to_text()
    }

    /// Signs with `secret`, which must belong to `self.key`, or nobody will accept the entry.
    pub fn sign(&mut self, secret: &SecretKey) {
        self.signature = Signature::sign(secret, self.signing_text().as_bytes()).to_string();
    }

    /// Checks the signature over this entry's own text. What a peer sent as text is better checked
    /// with [`RawEntry::verify`](super::RawEntry::verify), which also accepts members that we do not know.
    pub fn verify(&self) -> Result<(), EntryError> {
        self.verify_text(&self.signing_text())
    }

    /// Checks that `signature` is `key`'s, over `text`.
    pub(super) fn verify_text(&self, text: &str) -> Result<(), EntryError> {
        let key = self.key.ok_or(EntryError::NoKey)?;
        let signature: Signature =
            self.signature.parse().map_err(|_| EntryError::InvalidSignature)?;
        signature.verify(&key, text.as_bytes()).map_err(|_| EntryError::InvalidSignature)
    }

    /// Whether the signature stands once the server's label is one of `labels`.
    pub(super) fn verifies_under_a_label(&self, labels: &[&str]) -> bool {
        let mut entry = self.clone();
        labels.iter().any(|label| {
            let Some(server) = &mut entry.server else { return false };
            server.server_type = (*label).to_owned();
            entry.verify().is_ok()
        })
    }

    /// The delegated servers; empty when it is no client.
    #[must_use]
    pub fn delegated_servers(&self) -> &[PublicKey] {
        let list = self.client.as_ref().and_then(|c| c.delegated_servers.as_deref());
        list.unwrap_or_default()
    }
}

fn key_text<S: Serializer>(key: &Option<PublicKey>, to: S) -> Result<S::Ok, S::Error> {
    match key {
        Some(key) => to.collect_str(key),
        None => to.serialize_str(&"0".repeat(2 * PublicKey::LEN)),
    }
}

fn key_texts<S: Serializer>(keys: &Option<Vec<PublicKey>>, to: S) -> Result<S::Ok, S::Error> {
    match keys {
        Some(keys) => to.collect_seq(keys.iter().map(ToString::to_string)),
        None => to.serialize_none(),
    }
}

/// serde_json's compact form, but for the two control characters that Go writes as `\u00XX`.
struct GoFormatter;

impl Formatter for GoFormatter {
    fn write_char_escape<W>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()>
    where
        W: ?Sized + io::Write,
    {
        match escape {
            CharEscape::Backspace => writer.write_all(b"\\u0008"),
            CharEscape::FormFeed => writer.write_all(b"\\u000c"),
            other => CompactFormatter.write_char_escape(writer, other),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use dmsg_engine::identity::sha256;

    use super::*;

    fn key(hex: &str) -> PublicKey {
        hex.parse().unwrap()
    }

    /// `discovery.md §1`, checked there against the Go packages.
    fn example() -> Entry {
        let mut entry = Entry::client(
            key("03af6d996f86b9bd3b0e0af7945176f63114a85e63fdf2cca4e945e1afa2fdb188"),
            vec![key("02893aac93c8e05c4b301d11c7065aafaee85026c1c9530c56369faac7b8a9eecc")],
        );
        entry.sequence = 7;
        entry.timestamp = 1_700_000_000_123_456_789;
        entry.client_type = "visor".into();
        entry
    }

    const EXAMPLE: &str = r#"{"version":"0.0.1","sequence":7,"timestamp":1700000000123456789,"static":"03af6d996f86b9bd3b0e0af7945176f63114a85e63fdf2cca4e945e1afa2fdb188","client":{"delegated_servers":["02893aac93c8e05c4b301d11c7065aafaee85026c1c9530c56369faac7b8a9eecc"]},"client_type":"visor"}"#;

    #[test]
    fn the_example_of_the_specification_has_its_text_and_hash() {
        assert_eq!(example().signing_text(), EXAMPLE);
        let hex: String =
            sha256(EXAMPLE.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "fe1dda2f69ea3ea048a4bbcbc3b6b89b8f98a256ef5045d3d0927b4c082aae06");
    }

    #[test]
    fn a_signature_stands_between_server_and_protocol_and_verifies() {
        let secret = SecretKey::from_seed(b"server");
        let mut entry = Entry::server(secret.public_key(), "203.0.113.7:8080", 10);
        entry.protocol = "smux".into();
        entry.sign(&secret);
        let text = entry.to_text();
        let at = |needle: &str| text.find(needle).unwrap();
        assert!(at("\"server\":") < at("\"signature\":"));
        assert!(at("\"signature\":") < at("\"protocol\":"));
        entry.verify().unwrap();
        entry.sequence += 1;
        assert_eq!(entry.verify(), Err(EntryError::InvalidSignature));
    }

    #[test]
    fn an_absent_list_and_an_empty_list_sign_differently() {
        let mut entry = example();
        entry.client = Some(ClientPart { delegated_servers: None });
        assert!(entry.signing_text().contains(r#""client":{"delegated_servers":null}"#));
        entry.client = Some(ClientPart { delegated_servers: Some(Vec::new()) });
        assert!(entry.signing_text().contains(r#""client":{"delegated_servers":[]}"#));
    }

    #[test]
    fn text_is_escaped_as_go_does() {
        let mut entry = example();
        entry.client_type = "<&>\u{2028}é/\"\\\u{8}\u{c}\u{1}\n\r\t\u{7f}".into();
        let expected =
            "\"client_type\":\"<&>\u{2028}é/\\\"\\\\\\u0008\\u000c\\u0001\\n\\r\\t\u{7f}\"";
        assert!(entry.signing_text().contains(expected), "{}", entry.signing_text());
    }

    #[test]
    fn a_null_key_is_written_as_zeros() {
        let entry = Entry::default();
        assert!(entry.to_text().contains(&format!("\"static\":\"{}\"", "0".repeat(66))));
        assert_eq!(entry.verify(), Err(EntryError::NoKey));
    }
}
