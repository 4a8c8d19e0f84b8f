//! `u16 length || body` out of slices of any cut; shared by everything in DMSG that is framed so.

use super::LENGTH_BYTES;
use crate::pool::Slice;

/// A length field with this value is above the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong(pub(crate) usize);

/// Holds one message while it arrives.
///
/// Memory follows the bytes: it at most doubles with each step and never exceeds the message, whose
/// length is checked before any of its body is taken.
pub(crate) struct Prefixed {
    body_max: usize,
    bytes: Vec<u8>,
}

impl Prefixed {
    /// For messages whose length field is at most `body_max`.
    pub(crate) const fn new(body_max: usize) -> Self {
        Self { body_max, bytes: Vec::new() }
    }

    /// Moves bytes from `input` in here until one message is whole; true when it is. The error
    /// stays.
    pub(crate) fn fill(&mut self, input: &mut Slice) -> Result<bool, TooLong> {
        loop {
            let body_len = self.body_len(&self.bytes)?;
            let missing = LENGTH_BYTES + body_len.unwrap_or(0) - self.bytes.len();
            let taken = missing.min(input.len());
            if taken > 0 {
                self.reserve(taken, missing);
                self.bytes.extend_from_slice(&input[..taken]);
                input.advance(taken);
            } else {
                return Ok(missing == 0);
            }
        }
    }

    /// The body of the next message, if nothing of it is held here yet and `input` has it whole.
    pub(crate) fn peek<'a>(&self, input: &'a [u8]) -> Result<Option<&'a [u8]>, TooLong> {
        if !self.bytes.is_empty() {
            return Ok(None);
        }
        let len = self.body_len(input)?;
        Ok(len.and_then(|len| input[LENGTH_BYTES..].get(..len)))
    }

    /// The body of a message that is whole.
    pub(crate) fn body(&mut self) -> &mut [u8] {
        self.bytes.get_mut(LENGTH_BYTES..).unwrap_or_default()
    }

    /// Forgets the message and keeps the memory for the next.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Bytes held, the length field included.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    fn body_len(&self, bytes: &[u8]) -> Result<Option<usize>, TooLong> {
        let Some(length) = bytes.first_chunk() else {
            return Ok(None);
        };
        let len = usize::from(u16::from_be_bytes(*length));
        if len > self.body_max { Err(TooLong(len)) } else { Ok(Some(len)) }
    }

    fn reserve(&mut self, taken: usize, missing: usize) {
        if self.bytes.capacity() - self.bytes.len() < taken {
            self.bytes.reserve_exact(taken.max(self.bytes.len()).min(missing));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_follows_the_bytes_and_ends_at_the_message() {
        let mut held = Prefixed::new(65535);
        assert_eq!(held.fill(&mut Slice::copy_from(&[0xff, 0xff])), Ok(false));
        for received in 1..=65535usize {
            assert_eq!(held.fill(&mut Slice::copy_from(&[7])), Ok(received == 65535));
            assert!(held.bytes.capacity() <= (2 * held.len()).clamp(8, 65537), "at {received}");
        }
        assert_eq!(held.body().len(), 65535);
    }

    #[test]
    fn a_length_above_the_limit_is_refused_before_its_body() {
        let mut held = Prefixed::new(4094);
        let mut input = Slice::copy_from(&[0x0f, 0xff, 1, 2, 3]);
        assert_eq!(held.peek(&input), Err(TooLong(4095)));
        assert_eq!(held.fill(&mut input), Err(TooLong(4095)));
        assert_eq!((input.len(), held.len()), (3, 2));
        assert_eq!(held.fill(&mut input), Err(TooLong(4095)));
    }

    #[test]
    fn bytes_behind_the_message_stay() {
        let mut held = Prefixed::new(10);
        let mut input = Slice::copy_from(&[0, 0, 0, 1, 9, 5]);
        assert_eq!((held.fill(&mut input), held.body().len()), (Ok(true), 0));
        held.clear();
        assert_eq!(held.peek(&input), Ok(Some(&[9][..])));
        assert_eq!(held.fill(&mut input), Ok(true));
        assert_eq!((&*held.body(), &*input), (&[9][..], &[5][..]));
    }
}
