//! Ciphertexts after a handshake (`wire.md §2.2`).
//!
//! ```text
//! | counter, 8 bytes, big-endian | AEAD ciphertext, as long as the plaintext | tag, 16 bytes |
//! ```
//!
//! The counter is also the AEAD's nonce, little-endian there. There is no associated data and no
//! rekey.

use std::fmt;

use super::{
    NoiseError,
    aead::{AeadKey, TAG_BYTES},
    window::ReplayWindow,
};

const COUNTER_BYTES: usize = size_of::<u64>();

/// Bytes a ciphertext is longer than its plaintext: counter 8, tag 16.
pub const OVERHEAD_BYTES: usize = COUNTER_BYTES + TAG_BYTES;

/// The last counter that seals. Noise keeps the one above for itself.
const COUNTER_LAST: u64 = u64::MAX - 1;

/// Seals with a counter that starts at 1 and never repeats (`wire.md §2.2`). Used for session
/// objects and stream frames.
pub struct Sealer {
    key: AeadKey,
    /// The counter that was used last.
    last: u64,
}

impl Sealer {
    /// From a key of [`TransportKeys`](super::TransportKeys).
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self { key: AeadKey::chacha20_poly1305(key), last: 0 }
    }

    /// Appends `counter || AEAD(plaintext)` to `out`; allocates only if `out` has to grow. Fails,
    /// and appends nothing, when the counters are used up.
    pub fn seal(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), NoiseError> {
        let start = out.len();
        out.resize(start + plaintext.len() + OVERHEAD_BYTES, 0);
        self.seal_to(plaintext, &mut out[start..]).inspect_err(|_| out.truncate(start))
    }

    /// Writes `counter || AEAD(plaintext)` over `out`. Fails, and writes nothing, when the counters are used up.
    ///
    /// # Panics
    ///
    /// If `out` is not exactly [`OVERHEAD_BYTES`] longer than `plaintext`.
    pub fn seal_to(&mut self, plaintext: &[u8], out: &mut [u8]) -> Result<(), NoiseError> {
        assert_eq!(out.len(), plaintext.len() + OVERHEAD_BYTES, "room for counter and tag");
        let counter = self.next_counter()?;
        let (head, rest) = out.split_at_mut(COUNTER_BYTES);
        head.copy_from_slice(&counter.to_be_bytes());
        self.key.seal(counter, &[], plaintext, rest);
        Ok(())
    }

    fn next_counter(&mut self) -> Result<u64, NoiseError> {
        if self.last >= COUNTER_LAST {
            return Err(NoiseError::CountersExhausted);
        }
        self.last += 1;
        Ok(self.last)
    }
}

/// Opens the ciphertexts of one stream: counters must grow, gaps are allowed. A failure changes no
/// state.
///
/// Deployed code takes the counter of a forgery as seen and refuses the genuine frames after it;
/// this does not.
pub struct StreamOpener {
    key: AeadKey,
    /// The counter that was taken last.
    last: u64,
}

impl StreamOpener {
    /// From a key of [`TransportKeys`](super::TransportKeys).
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self { key: AeadKey::chacha20_poly1305(key), last: 0 }
    }

    /// Decrypts in place and returns the plaintext within `ciphertext`. After a failure the bytes
    /// of `ciphertext` are of no more use.
    pub fn open_in_place<'a>(
        &mut self,
        ciphertext: &'a mut [u8],
    ) -> Result<&'a mut [u8], NoiseError> {
        let counter = self.check(ciphertext)?;
        let plaintext = self.key.open_in_place(counter, &mut ciphertext[COUNTER_BYTES..])?;
        self.last = counter;
        Ok(plaintext)
    }

    /// Decrypts into the beginning of `out` and returns the length of the plaintext.
    ///
    /// # Panics
    ///
    /// If `out` is shorter than `ciphertext` without its [`OVERHEAD_BYTES`].
    pub fn open_into(&mut self, ciphertext: &[u8], out: &mut [u8]) -> Result<usize, NoiseError> {
        let counter = self.check(ciphertext)?;
        let len = ciphertext.len() - OVERHEAD_BYTES;
        self.key.open(counter, &[], &ciphertext[COUNTER_BYTES..], &mut out[..len])?;
        self.last = counter;
        Ok(len)
    }

    fn check(&self, ciphertext: &[u8]) -> Result<u64, NoiseError> {
        let counter = counter_of(ciphertext)?;
        match counter {
            0 => Err(NoiseError::CounterZero),
            _ if counter > self.last => Ok(counter),
            _ => Err(NoiseError::CounterNotGreater { counter, last: self.last }),
        }
    }
}

/// Opens session objects: any order within a window of 1024 (`wire.md §2.2`, G26). A failure
/// changes no state.
pub struct ObjectOpener {
    key: AeadKey,
    window: ReplayWindow,
}

impl ObjectOpener {
    /// From a key of [`TransportKeys`](super::TransportKeys).
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self { key: AeadKey::chacha20_poly1305(key), window: ReplayWindow::default() }
    }

    /// Decrypts.
    pub fn open(&mut self, ciphertext: &[u8]) -> Result<Vec<u8>, NoiseError> {
        let counter = counter_of(ciphertext)?;
        self.window.check(counter)?;
        let mut plaintext = vec![0; ciphertext.len() - OVERHEAD_BYTES];
        self.key.open(counter, &[], &ciphertext[COUNTER_BYTES..], &mut plaintext)?;
        self.window.mark(counter);
        Ok(plaintext)
    }
}

/// The counter of a ciphertext that is long enough to be one.
fn counter_of(ciphertext: &[u8]) -> Result<u64, NoiseError> {
    match ciphertext.first_chunk() {
        Some(counter) if ciphertext.len() >= OVERHEAD_BYTES => Ok(u64::from_be_bytes(*counter)),
        _ => Err(NoiseError::CiphertextTooShort(ciphertext.len())),
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({} sealed)", self.last)
    }
}

impl fmt::Debug for StreamOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamOpener(last {})", self.last)
    }
}

impl fmt::Debug for ObjectOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ObjectOpener(redacted)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const KEY: [u8; 32] = [9; 32];

    fn sealed(last: u64, plaintext: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Sealer { last, ..Sealer::new(&KEY) }.seal(plaintext, &mut out).unwrap();
        out
    }

    #[test]
    fn counters_end_before_the_last_value_and_never_repeat() {
        let mut sealer = Sealer { last: COUNTER_LAST - 1, ..Sealer::new(&KEY) };
        let mut out = Vec::new();
        sealer.seal(b"", &mut out).unwrap();
        assert_eq!(counter_of(&out), Ok(u64::MAX - 1));
        let before = out.clone();
        for _ in 0..2 {
            assert_eq!(sealer.seal(b"", &mut out), Err(NoiseError::CountersExhausted));
            assert_eq!(sealer.seal_to(b"", &mut [0; 24]), Err(NoiseError::CountersExhausted));
        }
        assert_eq!(out, before);
        assert_eq!(StreamOpener::new(&KEY).open_in_place(&mut out).unwrap(), b"");
    }

    #[test]
    fn both_ways_to_seal_and_to_open_agree() {
        let appended = sealed(0, b"text");
        let mut in_place = [0; 28];
        Sealer::new(&KEY).seal_to(b"text", &mut in_place).unwrap();
        assert_eq!(in_place[..], appended);

        let mut out = [0xee; 6];
        assert_eq!(StreamOpener::new(&KEY).open_into(&appended, &mut out), Ok(4));
        assert_eq!(&out, b"text\xee\xee");
        assert_eq!(StreamOpener::new(&KEY).open_in_place(&mut in_place).unwrap(), b"text");
    }

    #[test]
    fn counter_zero_is_refused_by_both_openers() {
        let mut zero = vec![0; OVERHEAD_BYTES];
        AeadKey::chacha20_poly1305(&KEY).seal(0, &[], &[], &mut zero[8..]);
        assert_eq!(ObjectOpener::new(&KEY).open(&zero), Err(NoiseError::CounterZero));
        assert_eq!(StreamOpener::new(&KEY).open_in_place(&mut zero), Err(NoiseError::CounterZero));
    }

    #[test]
    fn a_forged_object_does_not_move_the_window() {
        let mut opener = ObjectOpener::new(&KEY);
        let mut forged = sealed(1 << 40, b"x");
        forged[8] ^= 1;
        assert_eq!(opener.open(&forged), Err(NoiseError::Decrypt));
        assert_eq!(opener.open(&sealed(1, b"genuine")).unwrap(), b"genuine");
        forged[8] ^= 1;
        assert_eq!(opener.open(&forged).unwrap(), b"x");
    }

    proptest! {
        #[test]
        fn every_flipped_bit_fails_and_changes_no_state(
            plaintext in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let genuine = sealed(4, &plaintext);
            let mut stream = StreamOpener::new(&KEY);
            let mut object = ObjectOpener::new(&KEY);
            for bit in 0..genuine.len() * 8 {
                let mut changed = genuine.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                prop_assert!(object.open(&changed).is_err());
                prop_assert!(stream.open_into(&changed, &mut [0; 40]).is_err());
                prop_assert!(stream.open_in_place(&mut changed).is_err());
            }
            prop_assert_eq!(stream.last, 0);
            prop_assert_eq!(object.open(&genuine).unwrap(), &plaintext[..]);
            let mut genuine = genuine;
            prop_assert_eq!(stream.open_in_place(&mut genuine).unwrap(), &plaintext[..]);
        }

        #[test]
        fn noise_is_never_taken_and_never_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let short = bytes.len() < OVERHEAD_BYTES;
            let result = ObjectOpener::new(&KEY).open(&bytes);
            prop_assert_eq!(result.as_ref().is_err_and(
                |e| *e == NoiseError::CiphertextTooShort(bytes.len())), short);
            prop_assert!(result.is_err());
            prop_assert!(StreamOpener::new(&KEY).open_in_place(&mut bytes.clone()).is_err());
        }
    }
}
