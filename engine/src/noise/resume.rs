//! Dialling a peer again without the curve: an extension of ours (`docs/extensions.md §1`).
//!
//! Each KK handshake costs both ends some hundred microseconds on the curve. Two ends that know this extension keep a secret
//! of one handshake, the [`Ticket`], and derive the keys of further streams from it by hashing.
//!
//! ```text
//!   first dial    KK 1, payload OFFER  ──▶
//!                                      ◀── KK 2, payload GRANT           both: the ticket
//!
//!   later dials   | mark | id, 16 | nonce, 32 | tag, 16 | ──▶              in the place of KK 1
//!                                      ◀── | mark | nonce, 32 | tag, 16 |  in the place of KK 2: new keys
//!                                      ◀── | mark | tag, 16 |              nobody listens there, or too many wait
//!                                      ◀── | mark |                        the ticket is not known here: dial by KK
//! ```
//!
//! The mark stands where a KK message has its ephemeral key. It is a key, whose secret is 1, so that nobody has it for an
//! ephemeral key, and a peer that takes the message for KK finds that it does not decrypt. (Bytes that are no key would be worse:
//! a deployed client panics over them, with all its sessions.) The tags bind what the signatures of request and response say
//! (the *terms*, and the hash of the request), so that neither need be verified.
//!
//! Invariants: a ticket works in one direction, from who dialled to who answered; both nonces go into the keys, so neither end
//! alone can bring about the same keys twice; nothing is encrypted before both are known. How long a ticket is kept is the
//! caller's affair, and with it how long a thief of this memory could read what was said before.

use std::{fmt, sync::Arc};

use subtle::ConstantTimeEq;

use super::{
    NoiseError, TransportKeys,
    aead::TAG_BYTES,
    kdf::{Secret, hkdf_one, hkdf_two, hmac_sha256},
};
use crate::identity::{PublicKey, sha256};

/// Payload of a first KK message: "I keep a ticket if you do".
pub const OFFER: &[u8] = b"dmsg resume 1";

/// Payload of the second: "I do".
pub const GRANT: &[u8] = OFFER;

/// Names a ticket, without saying anything of its secret.
pub type TicketId = [u8; 16];

const NONCE_BYTES: usize = 32;

/// Random bytes that each end contributes.
pub type Nonce = [u8; NONCE_BYTES];

type Tag = [u8; TAG_BYTES];

/// What both messages begin with, and the whole answer of who does not know the ticket: the base point of the curve.
pub(super) const MARK: [u8; PublicKey::LEN] = [
    0x02, 0x79, 0xbe, 0x66, 0x7e, 0xf9, 0xdc, 0xbb, 0xac, 0x55, 0xa0, 0x62, 0x95, 0xce, 0x87, 0x0b,
    0x07, 0x02, 0x9b, 0xfc, 0xdb, 0x2d, 0xce, 0x28, 0xd9, 0x59, 0xf2, 0x81, 0x5b, 0x16, 0xf8, 0x17,
    0x98,
];

/// What [`Ticket::request`] gives: mark, id, nonce, tag.
const REQUEST_BYTES: usize = MARK.len() + size_of::<TicketId>() + NONCE_BYTES + TAG_BYTES;

/// What [`Ticket::answer`] gives: mark, nonce, tag.
const ANSWER_BYTES: usize = MARK.len() + NONCE_BYTES + TAG_BYTES;

/// What both ends keep of a handshake.
pub struct Ticket {
    id: TicketId,
    secret: Secret,
    /// Key of the tags.
    auth: Secret,
}

/// A request by ticket, taken apart; nothing of it is true yet.
#[derive(Debug)]
pub struct ResumeRequest {
    /// Which ticket.
    pub id: TicketId,
    nonce: Nonce,
    tag: Tag,
}

/// The initiator's end, waiting for the answer.
pub struct Resumption {
    ticket: Arc<Ticket>,
    nonce: Nonce,
}

/// What became of a request by ticket.
#[derive(Debug)]
pub enum Resumed {
    /// The keys of the stream; the peer has proved to hold the ticket.
    Keys(TransportKeys),
    /// The peer knows the ticket, and has no place for the stream.
    Refused,
    /// The peer does not know the ticket, says whoever signed the response.
    Unknown,
}

impl Ticket {
    /// From the end of a handshake.
    pub(super) fn new(chaining_key: &Secret, hash: &[u8; 32]) -> Self {
        let info = [b"dmsg resume 1 ticket", &hash[..]].concat();
        let secret = hkdf_one(chaining_key, &[], &info);
        let auth = hkdf_one(&secret, &[], b"auth");
        let name = hkdf_one(&secret, &[], b"id");
        let mut id = TicketId::default();
        id.copy_from_slice(&name[..size_of::<TicketId>()]);
        Self { id, secret, auth }
    }

    /// One of its own for each number.
    #[cfg(test)]
    pub(crate) fn numbered(number: u8) -> Self {
        Self::new(&Secret::new([number; 32]), &[number; 32])
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &TicketId {
        &self.id
    }

    /// The initiator's message, to be sent with a request that says `terms`.
    #[must_use]
    pub fn request(self: &Arc<Self>, nonce: Nonce, terms: &[u8]) -> (Resumption, Vec<u8>) {
        let mut message = Vec::with_capacity(REQUEST_BYTES);
        message.extend_from_slice(&MARK);
        message.extend_from_slice(&self.id);
        message.extend_from_slice(&nonce);
        message.extend_from_slice(&self.request_tag(&nonce, terms));
        (Resumption { ticket: Arc::clone(self), nonce }, message)
    }

    /// The responder's message, and the keys, if the initiator holds the ticket and said `terms`. `req_hash` is the hash of
    /// the whole request.
    pub fn answer(
        &self,
        request: &ResumeRequest,
        terms: &[u8],
        req_hash: &[u8; 32],
        nonce: Nonce,
    ) -> Result<(TransportKeys, Vec<u8>), NoiseError> {
        self.verify(request, terms)?;
        let mut message = Vec::with_capacity(ANSWER_BYTES);
        message.extend_from_slice(&MARK);
        message.extend_from_slice(&nonce);
        message.extend_from_slice(&self.answer_tag(&request.nonce, &nonce, req_hash));
        let (recv, send) = self.keys(&request.nonce, &nonce, req_hash);
        let handshake_hash = sha256(&[&req_hash[..], &message].concat());
        Ok((TransportKeys { send, recv, handshake_hash }, message))
    }

    /// The message of a responder that knows the ticket, and has no place for the stream.
    pub fn refusal(
        &self,
        request: &ResumeRequest,
        terms: &[u8],
        req_hash: &[u8; 32],
    ) -> Result<Vec<u8>, NoiseError> {
        self.verify(request, terms)?;
        Ok([&MARK[..], &self.refusal_tag(&request.nonce, req_hash)].concat())
    }

    fn verify(&self, request: &ResumeRequest, terms: &[u8]) -> Result<(), NoiseError> {
        let tag = self.request_tag(&request.nonce, terms);
        if bool::from(tag.ct_eq(&request.tag)) { Ok(()) } else { Err(NoiseError::Decrypt) }
    }

    /// The key of who dialled, then of who answered.
    fn keys(&self, near: &Nonce, far: &Nonce, req_hash: &[u8; 32]) -> (Secret, Secret) {
        hkdf_two(&self.secret, &[&near[..], far, req_hash].concat())
    }

    fn request_tag(&self, nonce: &Nonce, terms: &[u8]) -> Tag {
        self.tag(&[b"dial", &nonce[..], terms].concat())
    }

    fn answer_tag(&self, near: &Nonce, far: &Nonce, req_hash: &[u8; 32]) -> Tag {
        self.tag(&[b"answer", &near[..], far, req_hash].concat())
    }

    fn refusal_tag(&self, nonce: &Nonce, req_hash: &[u8; 32]) -> Tag {
        self.tag(&[b"refuse", &nonce[..], req_hash].concat())
    }

    fn tag(&self, text: &[u8]) -> Tag {
        let mut tag = Tag::default();
        tag.copy_from_slice(&hmac_sha256(&self.auth, text)[..TAG_BYTES]);
        tag
    }
}

impl ResumeRequest {
    /// `None` if the message is none of this kind, as is every KK message.
    #[must_use]
    pub fn parse(message: &[u8]) -> Option<Self> {
        let rest = message.strip_prefix(&MARK)?;
        let (&id, rest) = rest.split_first_chunk()?;
        let (&nonce, rest) = rest.split_first_chunk()?;
        let tag = Tag::try_from(rest).ok()?;
        Some(Self { id, nonce, tag })
    }

    /// The answer of who does not know the ticket.
    #[must_use]
    pub fn answer_unknown() -> Vec<u8> {
        MARK.to_vec()
    }
}

impl Resumption {
    /// Which ticket.
    #[must_use]
    pub fn id(&self) -> &TicketId {
        &self.ticket.id
    }

    /// Reads the answer to the request whose hash is `req_hash`.
    pub fn finish(&self, answer: &[u8], req_hash: &[u8; 32]) -> Result<Resumed, NoiseError> {
        let malformed = || NoiseError::ResumeMalformed(answer.len());
        let rest = answer.strip_prefix(&MARK).ok_or_else(malformed)?;
        if rest.is_empty() {
            return Ok(Resumed::Unknown);
        }
        let (nonce, tag) = rest.split_last_chunk::<TAG_BYTES>().ok_or_else(malformed)?;
        let nonce = match nonce {
            [] => None,
            nonce => Some(<&Nonce>::try_from(nonce).map_err(|_| malformed())?),
        };
        let expected = match nonce {
            None => self.ticket.refusal_tag(&self.nonce, req_hash),
            Some(nonce) => self.ticket.answer_tag(&self.nonce, nonce, req_hash),
        };
        if !bool::from(expected.ct_eq(tag)) {
            return Err(NoiseError::Decrypt);
        }
        let Some(nonce) = nonce else { return Ok(Resumed::Refused) };
        let (send, recv) = self.ticket.keys(&self.nonce, nonce, req_hash);
        let handshake_hash = sha256(&[&req_hash[..], answer].concat());
        Ok(Resumed::Keys(TransportKeys { send, recv, handshake_hash }))
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket(redacted)")
    }
}

impl fmt::Debug for Resumption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resumption(redacted)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{
        identity::SecretKey,
        noise::{Handshake, Sealer, StreamOpener},
    };

    const TERMS: &[u8] = b"from a to b at noon";
    const HASH: [u8; 32] = [7; 32];

    fn tickets() -> [Arc<Ticket>; 2] {
        tickets_of(b"e")
    }

    /// The tickets of both ends of a handshake with this ephemeral key.
    fn tickets_of(ephemeral: &[u8]) -> [Arc<Ticket>; 2] {
        let [a, b, e, f] = [&b"a"[..], b"b", ephemeral, b"f"].map(SecretKey::from_seed);
        let mut near = Handshake::kk_initiator(&a, b.public_key(), e);
        let mut far = Handshake::kk_responder(&b, a.public_key(), f);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        near.write_message(OFFER, &mut first).unwrap();
        assert_eq!(far.read_message(&first).unwrap(), OFFER);
        far.write_message(GRANT, &mut second).unwrap();
        assert_eq!(near.read_message(&second).unwrap(), GRANT);
        [near, far].map(|end| Arc::new(end.ticket()))
    }

    #[test]
    fn both_ends_get_the_same_ticket_and_from_it_keys_that_fit() {
        let [near, far] = tickets();
        assert_eq!(near.id(), far.id());
        let (waiting, message) = near.request([1; 32], TERMS);
        assert_eq!(message.len(), REQUEST_BYTES);
        let request = ResumeRequest::parse(&message).unwrap();
        assert_eq!(request.id, *far.id());
        let (at_far, answer) = far.answer(&request, TERMS, &HASH, [2; 32]).unwrap();
        assert_eq!(answer.len(), ANSWER_BYTES);
        let Resumed::Keys(at_near) = waiting.finish(&answer, &HASH).unwrap() else { panic!() };
        assert_eq!((&at_near.send, &at_near.recv), (&at_far.recv, &at_far.send));
        assert_ne!(at_near.send, at_near.recv);
        assert_eq!(at_near.handshake_hash, at_far.handshake_hash);
        let mut sealed = Vec::new();
        Sealer::new(&at_near.send).seal(b"hello", &mut sealed).unwrap();
        let opened =
            StreamOpener::new(&at_far.recv).open_in_place(&mut sealed).map(|plain| plain.to_vec());
        assert_eq!(opened.unwrap(), b"hello");
    }

    #[test]
    fn either_nonce_and_the_request_change_the_keys() {
        let [_, far] = tickets();
        let keys = |near: u8, mine: u8, hash: u8| {
            let (_, message) = far.request([near; 32], TERMS);
            let request = ResumeRequest::parse(&message).unwrap();
            far.answer(&request, TERMS, &[hash; 32], [mine; 32]).unwrap().0.send.to_vec()
        };
        let all = [keys(1, 2, 7), keys(9, 2, 7), keys(1, 9, 7), keys(1, 2, 9), keys(2, 1, 7)];
        for (i, one) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|other| other != one), "{i}");
        }
    }

    #[test]
    fn a_changed_byte_of_either_message_or_of_the_terms_is_found() {
        let [near, far] = tickets();
        let (waiting, message) = near.request([1; 32], TERMS);
        let request = ResumeRequest::parse(&message).unwrap();
        assert!(far.answer(&request, b"from a to c at noon", &HASH, [2; 32]).is_err());
        // A changed id finds no ticket, if not this one, which cannot notice.
        for at in MARK.len() + size_of::<TicketId>()..REQUEST_BYTES {
            let mut message = message.clone();
            message[at] ^= 1;
            let request = ResumeRequest::parse(&message).unwrap();
            let refused = far.answer(&request, TERMS, &HASH, [2; 32]);
            assert_eq!(refused.unwrap_err(), NoiseError::Decrypt, "byte {at}");
        }
        let (_, answer) = far.answer(&request, TERMS, &HASH, [2; 32]).unwrap();
        assert_eq!(waiting.finish(&answer, &[8; 32]).unwrap_err(), NoiseError::Decrypt);
        let refusal = far.refusal(&request, TERMS, &HASH).unwrap();
        assert!(matches!(waiting.finish(&refusal, &HASH), Ok(Resumed::Refused)));
        for answer in [answer, refusal] {
            for at in 0..answer.len() {
                let mut answer = answer.clone();
                answer[at] ^= 1;
                assert!(waiting.finish(&answer, &HASH).is_err(), "byte {at}");
            }
        }
        assert!(far.refusal(&request, b"from a to c at noon", &HASH).is_err());
    }

    #[test]
    fn what_is_no_message_of_this_kind_is_not_taken_for_one() {
        let [near, _] = tickets();
        let (waiting, message) = near.request([1; 32], TERMS);
        for len in (0..REQUEST_BYTES).chain([REQUEST_BYTES + 1]) {
            let mut message = message.clone();
            message.resize(len, 0);
            assert!(ResumeRequest::parse(&message).is_none(), "{len} bytes");
        }
        for at in 0..MARK.len() {
            let mut message = message.clone();
            message[at] ^= 1;
            assert!(ResumeRequest::parse(&message).is_none(), "byte {at}");
        }
        let refusal = MARK.len() + TAG_BYTES;
        let answers = [MARK.len(), refusal, ANSWER_BYTES];
        let others = (0..ANSWER_BYTES + 2).filter(|len| !answers.contains(len));
        for len in others {
            let mut answer = MARK.to_vec();
            answer.resize(len, 0);
            let malformed = NoiseError::ResumeMalformed(len);
            assert_eq!(waiting.finish(&answer, &HASH).unwrap_err(), malformed);
        }
        let unknown = ResumeRequest::answer_unknown();
        assert!(matches!(waiting.finish(&unknown, &HASH), Ok(Resumed::Unknown)));
    }

    #[test]
    fn who_takes_the_message_for_a_handshake_finds_a_key_and_nothing_that_decrypts() {
        assert_eq!(PublicKey::from_bytes(&MARK).unwrap().as_bytes(), &MARK);
        let [near, _] = tickets();
        let (_, message) = near.request([1; 32], TERMS);
        let [a, b, f] = [&b"a"[..], b"b", b"f"].map(SecretKey::from_seed);
        let mut kk = Handshake::kk_responder(&b, a.public_key(), f);
        assert_eq!(kk.read_message(&message), Err(NoiseError::Decrypt));
    }

    #[test]
    fn another_handshake_gives_another_ticket_and_debug_shows_none() {
        let [near, far] = tickets_of(b"e2");
        assert_eq!(near.id(), far.id());
        assert_ne!(near.id(), tickets()[0].id());
        assert_eq!(format!("{near:?}"), "Ticket(redacted)");
    }
}
