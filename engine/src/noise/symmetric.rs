//! Noise's SymmetricState: the transcript hash, the chaining key and the handshake cipher.

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{
    NoiseError,
    aead::{AeadKey, TAG_BYTES},
    kdf::{Secret, hkdf_two},
    resume::Ticket,
};
use crate::identity::sha256;

/// The key of the current DH chain and how many texts it has sealed or opened.
struct Cipher {
    key: Secret,
    count: u64,
}

impl Cipher {
    fn aead(&self) -> AeadKey {
        AeadKey::chacha20_poly1305(&self.key)
    }
}

/// What both sides compute alike from the messages.
pub(super) struct SymmetricState {
    hash: [u8; 32],
    chaining_key: Secret,
    /// Set by the first DH, which in both patterns comes before anything that is encrypted.
    cipher: Option<Cipher>,
}

impl SymmetricState {
    /// Starts a transcript under a protocol name longer than a hash, with an empty prologue.
    pub(super) fn new(protocol_name: &str) -> Self {
        let hash = sha256(protocol_name.as_bytes());
        let mut state = Self { hash, chaining_key: Zeroizing::new(hash), cipher: None };
        state.mix_hash(&[]);
        state
    }

    /// The transcript hash.
    pub(super) fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// Takes `data` into the transcript.
    pub(super) fn mix_hash(&mut self, data: &[u8]) {
        self.hash = Sha256::new().chain_update(self.hash).chain_update(data).finalize().into();
    }

    /// Takes the result of a DH: SHA-256 of the point, and a zero that pads it to DHLEN 33
    /// (`wire.md §1.3`).
    pub(super) fn mix_dh(&mut self, shared: &[u8; 32]) {
        let mut input = Zeroizing::new([0; 33]);
        input[..32].copy_from_slice(shared);
        let (chaining_key, key) = hkdf_two(&self.chaining_key, &*input);
        self.chaining_key = chaining_key;
        self.cipher = Some(Cipher { key, count: 0 });
    }

    /// Appends the encryption of `plaintext` to `out`.
    pub(super) fn encrypt_and_hash(&mut self, plaintext: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + plaintext.len() + TAG_BYTES, 0);
        let cipher = self.cipher();
        cipher.aead().seal(cipher.count, &self.hash, plaintext, &mut out[start..]);
        self.count_and_hash(&out[start..]);
    }

    /// Decrypts `sealed`. A failure changes nothing.
    pub(super) fn decrypt_and_hash(&mut self, sealed: &[u8]) -> Result<Vec<u8>, NoiseError> {
        let mut plaintext = vec![0; sealed.len().saturating_sub(TAG_BYTES)];
        let cipher = self.cipher();
        cipher.aead().open(cipher.count, &self.hash, sealed, &mut plaintext)?;
        self.count_and_hash(sealed);
        Ok(plaintext)
    }

    /// The two transport keys, in Noise's order.
    pub(super) fn split(&self) -> (Secret, Secret) {
        hkdf_two(&self.chaining_key, &[])
    }

    /// What may be kept of the handshake, once it is finished.
    pub(super) fn ticket(&self) -> Ticket {
        Ticket::new(&self.chaining_key, &self.hash)
    }

    fn cipher(&self) -> &Cipher {
        self.cipher.as_ref().expect("both patterns begin with a DH")
    }

    fn count_and_hash(&mut self, sealed: &[u8]) {
        if let Some(cipher) = &mut self.cipher {
            // A key lasts for one or two texts, then the next DH replaces it.
            cipher.count += 1;
        }
        self.mix_hash(sealed);
    }

    /// Chaining key, cipher key and count, to compare with the vectors.
    #[cfg(test)]
    pub(super) fn secrets(&self) -> ([u8; 32], [u8; 32], u64) {
        let cipher = self.cipher();
        (*self.chaining_key, *cipher.key, cipher.count)
    }
}
