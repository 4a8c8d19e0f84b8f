//! The handshake: a table of message patterns and one interpreter for it (`wire.md §2.1`).
//!
//! ```text
//!   XK   <- s                 KK   -> s   <- s
//!        …                         …
//!        -> e, es                  -> e, es, ss
//!        <- e, ee                  <- e, ee, se
//!        -> s, se
//! ```
//!
//! Each message ends with an encrypted payload, empty unless something is offered: the post-quantum exchange (`§2.6`), or a
//! ticket ([`resume`](super::OFFER)).

use std::fmt;

use zeroize::Zeroizing;

use super::{
    NoiseError, Ticket, aead::TAG_BYTES, peer::Peer, resume::MARK, symmetric::SymmetricState,
};
use crate::identity::{KeyPoint, PublicKey, SecretKey};

/// Bytes of the longest handshake message: what fits a frame behind its length (`wire.md §2.3`).
/// The post-quantum offer needs 1233.
pub const MESSAGE_MAX_BYTES: usize = 4094;

/// Bytes of the longest payload that every message has room for: XK's third has 65 bytes of its
/// own.
pub const PAYLOAD_MAX_BYTES: usize = MESSAGE_MAX_BYTES - (PublicKey::LEN + 2 * TAG_BYTES);

/// A part of a message, in Noise's notation: a key that is sent, or a DH of (initiator's,
/// responder's) keys.
#[derive(Clone, Copy)]
enum Token {
    E,
    S,
    Ee,
    Es,
    Se,
    Ss,
}

use Token::{E, Ee, Es, S, Se, Ss};

struct Pattern {
    protocol_name: &'static str,
    /// Whether the responder knows the initiator's static key beforehand. The initiator always
    /// knows the responder's.
    initiator_is_known: bool,
    /// Initiator and responder take turns, the initiator begins.
    messages: &'static [&'static [Token]],
}

const XK: Pattern = Pattern {
    protocol_name: "Noise_XK_Secp256k1_ChaChaPoly_SHA256",
    initiator_is_known: false,
    messages: &[&[E, Es], &[E, Ee], &[S, Se]],
};

const KK: Pattern = Pattern {
    protocol_name: "Noise_KK_Secp256k1_ChaChaPoly_SHA256",
    initiator_is_known: true,
    messages: &[&[E, Es, Ss], &[E, Ee, Se]],
};

/// A handshake in progress, either pattern, either role.
pub struct Handshake {
    pattern: &'static Pattern,
    is_initiator: bool,
    symmetric: SymmetricState,
    local_static: SecretKey,
    local_ephemeral: SecretKey,
    remote_static: Option<Peer>,
    remote_ephemeral: Option<KeyPoint>,
    /// Messages that are through.
    done_count: usize,
    failed: bool,
}

impl Handshake {
    /// Session, client side: the server's key is known.
    #[must_use]
    pub fn xk_initiator(local: &SecretKey, remote: PublicKey, ephemeral: SecretKey) -> Self {
        Self::new(&XK, true, local, Some(remote.into()), ephemeral)
    }

    /// Session, server side.
    #[must_use]
    pub fn xk_responder(local: &SecretKey, ephemeral: SecretKey) -> Self {
        Self::new(&XK, false, local, None, ephemeral)
    }

    /// Stream, dialling side.
    #[must_use]
    pub fn kk_initiator(local: &SecretKey, remote: PublicKey, ephemeral: SecretKey) -> Self {
        Self::kk_initiator_with(local, remote.into(), ephemeral)
    }

    /// The same with a peer that may have been met before.
    pub(crate) fn kk_initiator_with(local: &SecretKey, remote: Peer, ephemeral: SecretKey) -> Self {
        Self::new(&KK, true, local, Some(remote), ephemeral)
    }

    /// Stream, accepting side.
    #[must_use]
    pub fn kk_responder(local: &SecretKey, remote: PublicKey, ephemeral: SecretKey) -> Self {
        Self::kk_responder_with(local, remote.into(), ephemeral)
    }

    /// The same with a peer that may have been met before.
    pub(crate) fn kk_responder_with(local: &SecretKey, remote: Peer, ephemeral: SecretKey) -> Self {
        Self::new(&KK, false, local, Some(remote), ephemeral)
    }

    fn new(
        pattern: &'static Pattern,
        is_initiator: bool,
        local: &SecretKey,
        remote_static: Option<Peer>,
        local_ephemeral: SecretKey,
    ) -> Self {
        let mut symmetric = SymmetricState::new(pattern.protocol_name);
        // Pre-messages: the initiator's static key if known, then the responder's.
        let local_public = Some(local.public_key());
        let remote_public = remote_static.as_ref().map(|peer| *peer.point().key());
        let (initiator, responder) = if is_initiator {
            (local_public, remote_public)
        } else {
            (remote_public, local_public)
        };
        let initiator = initiator.filter(|_| pattern.initiator_is_known);
        for key in [initiator, responder].into_iter().flatten() {
            symmetric.mix_hash(key.as_bytes());
        }
        Self {
            pattern,
            is_initiator,
            symmetric,
            local_static: local.clone(),
            local_ephemeral,
            remote_static,
            remote_ephemeral: None,
            done_count: 0,
            failed: false,
        }
    }

    /// Appends the next message (bare, without length) to `out`. Nothing is appended on an error,
    /// and the handshake can go on.
    pub fn write_message(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), NoiseError> {
        let tokens = self.next_message(true)?;
        if payload.len() > PAYLOAD_MAX_BYTES {
            return Err(NoiseError::MessageTooLong(payload.len()));
        }
        for token in tokens {
            match token {
                E => {
                    let key = self.local_ephemeral.public_key();
                    self.symmetric.mix_hash(key.as_bytes());
                    out.extend_from_slice(key.as_bytes());
                }
                S => {
                    let key = self.local_static.public_key();
                    self.symmetric.encrypt_and_hash(key.as_bytes(), out);
                }
                dh => self.mix_dh(*dh),
            }
        }
        self.symmetric.encrypt_and_hash(payload, out);
        self.done_count += 1;
        Ok(())
    }

    /// Processes the peer's next message and returns its payload (any payload is taken). After an
    /// error other than [`NoiseError::OutOfTurn`] the handshake is over.
    pub fn read_message(&mut self, message: &[u8]) -> Result<Vec<u8>, NoiseError> {
        let tokens = self.next_message(false)?;
        self.failed = true;
        let payload = self.read_tokens(tokens, message)?;
        self.failed = false;
        self.done_count += 1;
        Ok(payload)
    }

    fn read_tokens(&mut self, tokens: &[Token], message: &[u8]) -> Result<Vec<u8>, NoiseError> {
        if message.len() > MESSAGE_MAX_BYTES {
            return Err(NoiseError::MessageTooLong(message.len()));
        }
        let mut rest = message;
        let mut field = |len| {
            let (field, behind) =
                rest.split_at_checked(len).ok_or(NoiseError::MessageTooShort(message.len()))?;
            rest = behind;
            Ok::<_, NoiseError>(field)
        };
        for token in tokens {
            match token {
                E => {
                    let key = KeyPoint::from_bytes(field(PublicKey::LEN)?)?;
                    self.symmetric.mix_hash(key.key().as_bytes());
                    self.remote_ephemeral = Some(key);
                }
                S => {
                    let sealed = field(PublicKey::LEN + TAG_BYTES)?;
                    let key = self.symmetric.decrypt_and_hash(sealed)?;
                    self.remote_static = Some(KeyPoint::from_bytes(&key)?.into());
                }
                dh => self.mix_dh(*dh),
            }
        }
        if rest.len() < TAG_BYTES {
            return Err(NoiseError::MessageTooShort(message.len()));
        }
        self.symmetric.decrypt_and_hash(rest)
    }

    fn mix_dh(&mut self, token: Token) {
        const KNOWN: &str = "the pattern names a key only after it was sent";
        // The token names the initiator's key first; which of the two is ours depends on our role.
        let (ours_is_static, theirs_is_static) = match (token, self.is_initiator) {
            (Ss, _) => {
                let theirs = self.remote_static.as_mut().expect(KNOWN);
                return self.symmetric.mix_dh(&theirs.shared(&self.local_static));
            }
            (Es, true) | (Se, false) => (false, true),
            (Se, true) | (Es, false) => (true, false),
            (Ee | E | S, _) => (false, false),
        };
        let ours = if ours_is_static { &self.local_static } else { &self.local_ephemeral };
        let theirs = if theirs_is_static {
            self.remote_static.as_ref().map(Peer::point)
        } else {
            self.remote_ephemeral.as_ref()
        };
        self.symmetric.mix_dh(&ours.ecdh_with(theirs.expect(KNOWN)));
    }

    fn next_message(&self, write: bool) -> Result<&'static [Token], NoiseError> {
        if self.failed {
            return Err(NoiseError::HandshakeOver);
        }
        match self.pattern.messages.get(self.done_count) {
            Some(tokens) if self.is_our_turn() == write => Ok(tokens),
            _ => Err(NoiseError::OutOfTurn),
        }
    }

    /// Whether this side has the turn to write.
    #[must_use]
    pub fn is_our_turn(&self) -> bool {
        !self.is_finished() && !self.failed && self.is_turn_of_initiator() == self.is_initiator
    }

    /// Whether all messages are through.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.done_count == self.pattern.messages.len()
    }

    /// The peer's static key, once known. The peer has proved to hold it when the handshake is
    /// finished, not before.
    #[must_use]
    pub fn remote_static(&self) -> Option<PublicKey> {
        self.remote_static.as_ref().map(|peer| *peer.point().key())
    }

    /// The peer, with what was computed for it, to be remembered for the next handshake. To be asked when it is finished.
    pub(crate) fn into_peer_and_keys(mut self) -> (Option<Peer>, TransportKeys) {
        (self.remote_static.take(), self.into_keys())
    }

    /// A secret to dial the peer again with, if both ends said that they keep one.
    ///
    /// # Panics
    ///
    /// Unless [`is_finished`](Self::is_finished).
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        assert!(self.is_finished(), "a ticket of an unfinished handshake");
        self.symmetric.ticket()
    }

    /// The hash over all that was said so far.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        *self.symmetric.hash()
    }

    /// The keys, for each direction as seen from this side.
    ///
    /// DMSG hands out Noise's two keys by who wrote the last message, not by who began: the last
    /// writer sends with the second. In XK that is the initiator, the reverse of the Noise
    /// specification.
    ///
    /// # Panics
    ///
    /// Unless [`is_finished`](Self::is_finished).
    #[must_use]
    pub fn into_keys(self) -> TransportKeys {
        assert!(self.is_finished(), "transport keys of an unfinished handshake");
        let (first, second) = self.symmetric.split();
        let we_wrote_last = self.is_turn_of_initiator() != self.is_initiator;
        let (send, recv) = if we_wrote_last { (second, first) } else { (first, second) };
        TransportKeys { send, recv, handshake_hash: self.hash() }
    }

    fn is_turn_of_initiator(&self) -> bool {
        self.done_count.is_multiple_of(2)
    }

    #[cfg(test)]
    pub(super) fn symmetric(&self) -> &SymmetricState {
        &self.symmetric
    }
}

/// Whether a first message has the ephemeral key that it must begin with. Deployed clients panic over one that is no point of the
/// curve, with all their sessions, so that any stranger could end any of them; a server does not pass it on
/// (`docs/threat-model.md`). To look for it in a second message would cost a server as much again, and whom a client dials is
/// its own choice.
pub(crate) fn begins_with_a_key(message: &[u8]) -> bool {
    let key = message.first_chunk::<{ PublicKey::LEN }>();
    key.is_some_and(|key| *key == MARK || PublicKey::from_bytes(key).is_ok())
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = if self.is_initiator { "initiator" } else { "responder" };
        let Self { pattern, done_count, .. } = self;
        write!(f, "Handshake({}, {role}, {done_count} messages done)", pattern.protocol_name)
    }
}

/// What a finished handshake gives. XK's swapped split is settled here (`wire.md §2.1`).
pub struct TransportKeys {
    /// Key of what we send.
    pub send: Zeroizing<[u8; 32]>,
    /// Key of what we receive.
    pub recv: Zeroizing<[u8; 32]>,
    /// The final handshake hash.
    pub handshake_hash: [u8; 32],
}

impl fmt::Debug for TransportKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TransportKeys(redacted)")
    }
}
