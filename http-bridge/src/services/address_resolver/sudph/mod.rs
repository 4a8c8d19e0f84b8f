//! `sudph`: visors that are dialled through their NATs, over UDP (`services.md §6.2`).
//!
//! ```text
//!   visor                                    resolver
//!     ── get_nonce ───────────────────────▶            all over one KCP conversation, from the very port
//!     ◀─ {"Nonce":[16 numbers]} ──────────             that the visor will be dialled at
//!     ── {"SrcAddr":…,"Sig":"<130 hex>"} ─▶  signature over this line with zeros for Sig
//!     ◀─ {"OK":true,"ErrMsg":""} ─────────
//!     ── {"port":"…","addresses":[…]} ────▶  bound: others find it at the address that its datagrams come from
//!     ── heartbeat, every 10 s ───────────▶
//!     ◀─ {"PK":"…","Addr":"ip:port"} ─────   somebody asked for it: it sends a datagram there, which opens its NAT
//!     ── delBind ─────────────────────────▶
//! ```
//!
//! KCP is the [`kcp`] crate's; it knows no sockets. Messages may arrive joined, so they are cut from a stream of bytes.

mod client;
mod link;
mod server;

use std::time::Duration;

use dmsg_engine::identity::{PublicKey, SecretKey, Signature};
use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::Binding;

pub use client::{SudphError, SudphLink, udp_server};
pub use server::{SESSIONS_MAX, Sudph, UNBOUND_MAX};

/// The resolver's port unless its address says otherwise.
pub const SUDPH_PORT: u16 = 30178;

/// How often a bound visor says that it is there, which keeps its NAT's mapping too.
pub const HEARTBEAT: Duration = Duration::from_secs(10);

/// From the first datagram to the binding.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two looks at what was not acknowledged.
const TICK: Duration = Duration::from_millis(50);

/// Bytes of a message; a binding with 32 addresses has 1,400.
const MESSAGE_BYTES_MAX: usize = 4096;

const GET_NONCE: &[u8] = b"get_nonce";
const HEARTBEAT_WORD: &[u8] = b"heartbeat";
const UNBIND: &[u8] = b"delBind";

/// What a hole-punching datagram says; nobody reads it.
const PUNCH: &[u8] = b"holepunch";

type Nonce = [u8; 16];

#[derive(Serialize, Deserialize)]
struct NonceLine {
    #[serde(rename = "Nonce")]
    nonce: Nonce,
}

#[derive(Serialize, Deserialize)]
struct Place {
    public_key: String,
    port: u16,
}

/// The line that proves a key. Members in Go's order: what is signed is the line as it is written.
#[derive(Serialize, Deserialize)]
struct Proof {
    #[serde(rename = "SrcAddr")]
    from: Place,
    #[serde(rename = "DstAddr")]
    to: Place,
    #[serde(rename = "Nonce")]
    nonce: Nonce,
    #[serde(rename = "Sig")]
    signature: String,
}

#[derive(Serialize, Deserialize)]
struct Verdict {
    #[serde(rename = "OK")]
    ok: bool,
    #[serde(rename = "ErrMsg")]
    message: String,
}

/// Somebody wants to dial us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Punch {
    /// Who.
    #[serde(rename = "PK")]
    pub key: String,
    /// From where, `ip:port`.
    #[serde(rename = "Addr")]
    pub address: String,
}

/// The signed line of a visor.
fn prove(secret: &SecretKey, nonce: Nonce) -> Vec<u8> {
    let place = |key: String| Place { public_key: key, port: 0 };
    let mut proof = Proof {
        from: place(secret.public_key().to_string()),
        to: place("0".repeat(2 * PublicKey::LEN)),
        nonce,
        signature: "0".repeat(2 * Signature::LEN),
    };
    proof.signature = Signature::sign(secret, &line(&proof)).to_string();
    line(&proof)
}

/// Whose line this is, if it answers this nonce.
fn proven(text: &[u8], nonce: &Nonce) -> Result<PublicKey, String> {
    let proof: Proof = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if proof.nonce != *nonce {
        return Err("it is the answer to another nonce".to_owned());
    }
    let key: PublicKey = proof.from.public_key.parse().map_err(|error| format!("{error}"))?;
    let signature: Signature = proof.signature.parse().map_err(|error| format!("{error}"))?;
    // As it came, whatever the order and the spaces.
    let zeros = "0".repeat(2 * Signature::LEN);
    let text = std::str::from_utf8(text).map_err(|_| "it is no text".to_owned())?;
    let signed = text.replace(&proof.signature, &zeros);
    signature
        .verify(&key, signed.as_bytes())
        .map_err(|_| "the signature is not that of SrcAddr".to_owned())?;
    Ok(key)
}

/// JSON with a newline behind it, as Go's encoder writes it.
fn line(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec(value).expect("texts and numbers are JSON");
    text.push(b'\n');
    text
}

fn fresh_nonce() -> Nonce {
    rand::rng().random()
}

/// Bytes of which messages are cut.
#[derive(Default)]
struct Inbox(Vec<u8>);

impl Inbox {
    /// Adds what came; false if nobody sends that much.
    fn push(&mut self, bytes: &[u8]) -> bool {
        self.0.extend_from_slice(bytes);
        self.0.len() <= 4 * MESSAGE_BYTES_MAX
    }

    /// Takes these words away if the next message is they.
    fn word(&mut self, word: &[u8]) -> bool {
        self.skip_space();
        let is_there = self.0.starts_with(word);
        if is_there {
            self.0.drain(..word.len());
        }
        is_there
    }

    /// Takes the next JSON value away, with the newline behind it if one is there; `None` while it is not whole.
    fn json(&mut self) -> Option<Result<Vec<u8>, String>> {
        self.skip_space();
        let mut values = serde_json::Deserializer::from_slice(&self.0)
            .into_iter::<&serde_json::value::RawValue>();
        let result = values.next()?;
        let end = values.byte_offset();
        match result {
            Ok(_) => {
                let newline = self.0.get(end) == Some(&b'\n');
                Some(Ok(self.0.drain(..end + usize::from(newline)).collect()))
            }
            Err(error) if error.is_eof() && self.0.len() < MESSAGE_BYTES_MAX => None,
            Err(error) => Some(Err(error.to_string())),
        }
    }

    fn skip_space(&mut self) {
        let space = self.0.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        self.0.drain(..space);
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_proof_is_written_as_go_writes_it_and_stands_for_its_nonce_alone() {
        let secret: SecretKey =
            "3b3de1276805cd3f47802890c8332d837b1f9d4e93c144467ea8cafd7568a179".parse().unwrap();
        let text = prove(&secret, [7; 16]);
        let head = r#"{"SrcAddr":{"public_key":"025a4f15656f2e8da5de6d6cddf2526262a0c06cdf58ece8996d1cef7b999a5a88","port":0},"DstAddr":{"public_key":"000000000000000000000000000000000000000000000000000000000000000000","port":0},"Nonce":[7,7,7,7,7,7,7,7,7,7,7,7,7,7,7,7],"Sig":""#;
        assert!(text.starts_with(head.as_bytes()) && text.ends_with(b"\"}\n"));
        assert_eq!(proven(&text, &[7; 16]), Ok(secret.public_key()));
        assert!(proven(&text, &[8; 16]).unwrap_err().contains("another nonce"));
        let other = SecretKey::from_seed(b"other").public_key().to_string();
        let forged =
            String::from_utf8(text).unwrap().replace(&secret.public_key().to_string(), &other);
        assert!(proven(forged.as_bytes(), &[7; 16]).unwrap_err().contains("SrcAddr"));
    }

    #[test]
    fn messages_are_cut_wherever_they_were_joined() {
        let mut inbox = Inbox::default();
        assert!(inbox.push(b"get_nonce{\"a\":1}\n{\"b\""));
        assert!(inbox.word(GET_NONCE) && !inbox.word(GET_NONCE));
        assert_eq!(inbox.json().unwrap().unwrap(), b"{\"a\":1}\n");
        assert!(inbox.json().is_none());
        assert!(inbox.push(b":2}heartbeatheartbeat delBind"));
        assert_eq!(inbox.json().unwrap().unwrap(), b"{\"b\":2}");
        assert!(inbox.word(HEARTBEAT_WORD) && inbox.word(HEARTBEAT_WORD) && inbox.word(UNBIND));
        assert!(inbox.is_empty());
        assert!(inbox.push(b"{]"));
        assert!(inbox.json().unwrap().is_err());
        assert!(!inbox.push(&[b' '; 5 * MESSAGE_BYTES_MAX]));
    }
}
