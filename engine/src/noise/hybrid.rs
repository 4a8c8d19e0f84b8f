//! The last step of the post-quantum hybrid (`wire.md §2.6`).
//!
//! The engine does not speak ML-KEM: it offers nothing, and ignores offers as the protocol allows.
//! What a suite with a second shared secret needs of the handshake is here, checked against the
//! vectors: exchange whatever leads to the secret in the payloads of messages 1 and 2, then mix it
//! in.

use zeroize::Zeroizing;

use super::{TransportKeys, kdf::hkdf_one};

const INFO: &[u8] = b"skywire-pq-hybrid-v1";

impl TransportKeys {
    /// Replaces each key by one that also depends on `shared_secret`, a secret agreed in the
    /// handshake's payloads. Both sides must do it before anything is sealed.
    #[must_use]
    pub fn mix_secret(mut self, shared_secret: &[u8; 32]) -> Self {
        for key in [&mut self.send, &mut self.recv] {
            let mut input = Zeroizing::new([0; 64]);
            input[..32].copy_from_slice(&**key);
            input[32..].copy_from_slice(shared_secret);
            *key = hkdf_one(&self.handshake_hash, &*input, INFO);
        }
        self
    }
}
