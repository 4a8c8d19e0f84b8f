//! The one seam to the AEAD: 32-byte key, counter as nonce.
//!
//! The rest of the crate sees a key that seals and opens under a counter. Another cipher of the
//! same library joins as another constructor, another implementation as another inside of
//! [`AeadKey`].

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::NoiseError;

/// Bytes of the tag.
pub(super) const TAG_BYTES: usize = 16;

/// A key ready for use. The library keeps it outside of our memory and wipes it when dropped.
pub(super) struct AeadKey(LessSafeKey);

impl AeadKey {
    /// ChaCha20-Poly1305, DMSG's only cipher.
    pub(super) fn chacha20_poly1305(key: &[u8; 32]) -> Self {
        let key =
            UnboundKey::new(&CHACHA20_POLY1305, key).expect("the key has the cipher's length");
        Self(LessSafeKey::new(key))
    }

    /// Encrypts `plaintext` into `out`, which is [`TAG_BYTES`] longer. `ad` is authenticated with
    /// it.
    pub(super) fn seal(&self, counter: u64, ad: &[u8], plaintext: &[u8], out: &mut [u8]) {
        let (ciphertext, tag) = out.split_at_mut(plaintext.len());
        self.0
            .seal_out_of_place_scatter(
                nonce(counter),
                Aad::from(ad),
                plaintext,
                ciphertext,
                &[],
                tag,
            )
            .expect("out is a tag longer than the plaintext, which is far below 256 GiB");
    }

    /// Decrypts `sealed` (ciphertext and tag) into `out`, which is [`TAG_BYTES`] shorter. After a
    /// failure `out` holds nothing of the plaintext.
    pub(super) fn open(
        &self,
        counter: u64,
        ad: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<(), NoiseError> {
        let (ciphertext, tag) =
            sealed.split_last_chunk::<TAG_BYTES>().ok_or(NoiseError::Decrypt)?;
        self.0
            .open_separate_gather(nonce(counter), Aad::from(ad), ciphertext, tag, out)
            .map_err(|_| NoiseError::Decrypt)
    }

    /// Decrypts `sealed` where it is, without associated data, and returns the plaintext within.
    pub(super) fn open_in_place<'a>(
        &self,
        counter: u64,
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], NoiseError> {
        self.0.open_in_place(nonce(counter), Aad::empty(), sealed).map_err(|_| NoiseError::Decrypt)
    }
}

/// 4 zero bytes, then the counter, little-endian (`wire.md §2.1`).
fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}
