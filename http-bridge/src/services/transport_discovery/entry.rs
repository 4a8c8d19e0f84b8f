//! A transport, and its two signatures.

use dmsg_engine::identity::{PublicKey, SecretKey, Signature};
use serde::{Deserialize, Serialize};

use super::TransportId;
use crate::services::keys::{self, KeyText};

/// A link between two visors (`services.md §4.1`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transport {
    /// What follows from the rest; [`Transport::new`] fills it in.
    #[serde(rename = "t_id")]
    pub id: TransportId,
    /// The two ends, ascending.
    #[serde(with = "keys::two")]
    pub edges: [PublicKey; 2],
    /// `stcp`, `stcpr`, `sudph` or `dmsg`, and what newer visors add.
    #[serde(rename = "type")]
    pub kind: String,
    /// Who made it: `user`, `automatic` or `skycoin`.
    #[serde(default)]
    pub label: String,
}

/// What is wrong with a transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryProblem {
    /// `edges` are equal or descending.
    #[error("edges are not two different keys in ascending order")]
    EdgesOrder,
    /// `type` is empty or longer than 16 letters and digits.
    #[error("the type is not a word of at most 16 letters and digits")]
    Kind,
    /// `label` is longer than 32 bytes, or has control characters, which take six times their space in an answer.
    #[error("the label is longer than 32 bytes, or has control characters in it")]
    Label,
    /// `t_id` does not follow from edges and type.
    #[error("the id is not that of these edges and this type")]
    Id,
    /// A signature is there, but not that edge's.
    #[error("the signature of edge {0} does not verify")]
    Signature(usize),
    /// A signature is missing.
    #[error("the signature of edge {0} is missing")]
    Unsigned(usize),
}

impl Transport {
    /// The transport of this type between two visors.
    #[must_use]
    pub fn new(edges: [PublicKey; 2], kind: impl Into<String>, label: impl Into<String>) -> Self {
        let (edges, kind) = (ascending(edges), kind.into());
        Self { id: TransportId::of(edges, &kind), edges, kind, label: label.into() }
    }

    /// Whether the parts fit together.
    pub fn check(&self) -> Result<(), EntryProblem> {
        if self.edges[0] == self.edges[1] || ascending(self.edges) != self.edges {
            return Err(EntryProblem::EdgesOrder);
        }
        let is_word = self.kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if self.kind.is_empty() || self.kind.len() > 16 || !is_word {
            return Err(EntryProblem::Kind);
        }
        if self.label.len() > 32 || self.label.chars().any(char::is_control) {
            return Err(EntryProblem::Label);
        }
        if self.id != TransportId::of(self.edges, &self.kind) {
            return Err(EntryProblem::Id);
        }
        Ok(())
    }

    /// The bytes that both edges sign.
    #[must_use]
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = self.id.as_bytes().to_vec();
        self.edges.iter().for_each(|edge| bytes.extend_from_slice(edge.as_bytes()));
        bytes.extend_from_slice(self.kind.as_bytes());
        bytes
    }

    /// The end that is not `edge`; `None` if `edge` is no end.
    #[must_use]
    pub fn other_end(&self, edge: PublicKey) -> Option<PublicKey> {
        let index = self.edges.iter().position(|end| *end == edge)?;
        Some(self.edges[1 - index])
    }
}

/// A transport with the signatures of its ends, in the order of the edges; zeros are an absent one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedTransport {
    /// What is signed.
    pub entry: Transport,
    /// 130 hex digits each.
    signatures: [String; 2],
    /// When it was registered, Unix seconds; 0 before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub registered: i64,
    /// Of one without signatures: the edge that registered it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) by: Option<KeyText>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl SignedTransport {
    /// A transport that nobody signed yet.
    #[must_use]
    pub fn unsigned(entry: Transport) -> Self {
        let absent = || "0".repeat(2 * Signature::LEN);
        Self { entry, signatures: [absent(), absent()], registered: 0, by: None }
    }

    /// Adds the signature of the edge that `secret` belongs to. False if it belongs to none.
    #[must_use]
    pub fn sign(&mut self, secret: &SecretKey) -> bool {
        let key = secret.public_key();
        let Some(index) = self.entry.edges.iter().position(|edge| *edge == key) else {
            return false;
        };
        self.signatures[index] = Signature::sign(secret, &self.entry.signed_bytes()).to_string();
        true
    }

    /// Whether this edge itself says that the transport is there.
    pub(super) fn is_vouched_by(&self, edge: PublicKey) -> bool {
        let mut ends = self.entry.edges.iter().zip(&self.signatures);
        self.by == Some(KeyText(edge)) || ends.any(|(end, text)| *end == edge && !is_absent(text))
    }

    /// Takes the signatures over that another copy of the same transport has and this one lacks.
    pub(super) fn keep_signatures_of(&mut self, known: &Self) {
        for (own, known) in self.signatures.iter_mut().zip(&known.signatures) {
            if is_absent(own) {
                own.clone_from(known);
            }
        }
    }

    /// Checks the parts and both signatures.
    pub fn verify(&self) -> Result<(), EntryProblem> {
        self.entry.check()?;
        let bytes = self.entry.signed_bytes();
        for (index, (edge, text)) in self.entry.edges.iter().zip(&self.signatures).enumerate() {
            if is_absent(text) {
                return Err(EntryProblem::Unsigned(index));
            }
            let signature: Signature = text.parse().map_err(|_| EntryProblem::Signature(index))?;
            signature.verify(edge, &bytes).map_err(|_| EntryProblem::Signature(index))?;
        }
        Ok(())
    }
}

/// Zeros stand for no signature.
fn is_absent(signature: &str) -> bool {
    signature.bytes().all(|digit| digit == b'0')
}

/// The smaller key first; keys compare as 33-byte big-endian numbers.
pub(super) fn ascending([a, b]: [PublicKey; 2]) -> [PublicKey; 2] {
    if a.as_bytes() <= b.as_bytes() { [a, b] } else { [b, a] }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use dmsg_engine::identity::sha256;

    use super::*;

    /// The test keys A and B of `services.md`.
    fn keys() -> [SecretKey; 2] {
        [
            "3b3de1276805cd3f47802890c8332d837b1f9d4e93c144467ea8cafd7568a179",
            "35e4fa8775548a9ac47c2690e5c6d7a4419b38e6226b0b5d996fad7d05ea3da0",
        ]
        .map(|hex| hex.parse().unwrap())
    }

    #[test]
    fn ids_are_those_of_the_specification() {
        let edges = keys().map(|key| key.public_key());
        for (kind, id) in [
            ("stcpr", "42d98418-5d1e-00a1-9b51-aa586f4c2dba"),
            ("sudph", "aacb1d86-deb8-0c52-a843-b018620739a1"),
            ("dmsg", "dae2ac69-fe34-07e4-b88b-8ecfd3e11ec3"),
        ] {
            assert_eq!(TransportId::of(edges, kind).to_string(), id);
            assert_eq!(TransportId::of([edges[1], edges[0]], kind), id.parse().unwrap());
        }
    }

    #[test]
    fn signed_bytes_have_the_hash_of_the_specification_and_both_signatures_verify() {
        let [a, b] = keys();
        let entry = Transport::new([a.public_key(), b.public_key()], "stcpr", "user");
        let hex: String =
            sha256(&entry.signed_bytes()).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "7b91e5870f02a71d8fe4c00027d1de8d771160ae9a12dfe90317d895a82fdb38");
        let mut signed = SignedTransport::unsigned(entry);
        assert_eq!(signed.verify(), Err(EntryProblem::Unsigned(0)));
        assert!(signed.sign(&a));
        assert_eq!(signed.verify(), Err(EntryProblem::Unsigned(1)));
        assert!(signed.sign(&b));
        assert!(!signed.sign(&SecretKey::from_seed(b"stranger")));
        assert_eq!(signed.verify(), Ok(()));
        signed.signatures.swap(0, 1);
        assert_eq!(signed.verify(), Err(EntryProblem::Signature(0)));
    }

    #[test]
    fn parts_that_do_not_fit_are_named() {
        let [a, b] = keys().map(|key| key.public_key());
        let good = Transport::new([a, b], "dmsg", "");
        let check = |change: &dyn Fn(&mut Transport)| {
            let mut entry = good.clone();
            change(&mut entry);
            entry.check()
        };
        assert_eq!(check(&|_| ()), Ok(()));
        assert_eq!(check(&|e| e.edges = [b, a]), Err(EntryProblem::EdgesOrder));
        assert_eq!(check(&|e| e.edges = [a, a]), Err(EntryProblem::EdgesOrder));
        assert_eq!(check(&|e| e.kind.clear()), Err(EntryProblem::Kind));
        assert_eq!(check(&|e| e.kind = "x".repeat(17)), Err(EntryProblem::Kind));
        assert_eq!(check(&|e| e.kind = "sudph".into()), Err(EntryProblem::Id));
        assert_eq!(check(&|e| e.label = "x".repeat(33)), Err(EntryProblem::Label));
        assert_eq!(check(&|e| e.label = "a\u{1}".into()), Err(EntryProblem::Label));
    }
}
