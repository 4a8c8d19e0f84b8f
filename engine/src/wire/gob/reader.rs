//! Gob's primitives, read from a borrowed slice. Every read checks what is left first.

use super::GobError;

/// What is left of the input.
#[derive(Debug, Clone)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// How many bytes are left.
    pub(super) fn len(&self) -> usize {
        self.rest.len()
    }

    /// An unsigned number: one byte below 128, or 256 − N and then N bytes, big-endian, of which
    /// leading zeros are allowed.
    pub(super) fn uint(&mut self) -> Result<u64, GobError> {
        let (&first, rest) = self.rest.split_first().ok_or(GobError::Truncated)?;
        if first < 0x80 {
            self.rest = rest;
            return Ok(u64::from(first));
        }
        let width = first.wrapping_neg();
        if width > 8 {
            return Err(GobError::NumberWidth(width));
        }
        let (bytes, rest) = rest.split_at_checked(usize::from(width)).ok_or(GobError::Truncated)?;
        self.rest = rest;
        Ok(bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    /// A signed number: an unsigned one whose lowest bit tells whether the rest is complemented.
    pub(super) fn int(&mut self) -> Result<i64, GobError> {
        let bits = self.uint()?;
        let magnitude = (bits >> 1).cast_signed();
        Ok(if bits & 1 == 0 { magnitude } else { !magnitude })
    }

    /// A float: its bytes in reverse order, as an unsigned number.
    pub(super) fn float(&mut self) -> Result<f64, GobError> {
        Ok(f64::from_bits(self.uint()?.swap_bytes()))
    }

    /// A length in bytes, or a count of elements (none is shorter than a byte), that the rest can
    /// hold.
    pub(super) fn length(&mut self) -> Result<usize, GobError> {
        let length = self.uint()?;
        let rest = self.rest.len();
        match usize::try_from(length) {
            Ok(length) if length <= rest => Ok(length),
            _ => Err(GobError::LengthBeyondEnd { length, rest }),
        }
    }

    /// A length and that many bytes.
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], GobError> {
        let length = self.length()?;
        let (bytes, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(bytes)
    }
}

/// Walks the fields of a struct value, which are numbered from 1 and sent as differences.
#[derive(Debug, Default)]
pub(super) struct FieldNumbers {
    last: u64,
}

impl FieldNumbers {
    /// The number of the next field, whose value follows; `None` at the end of the struct.
    pub(super) fn next(&mut self, reader: &mut Reader<'_>) -> Result<Option<u64>, GobError> {
        let difference = reader.uint()?;
        if difference == 0 {
            return Ok(None);
        }
        self.last = self.last.checked_add(difference).ok_or(GobError::FieldNumber(u64::MAX))?;
        Ok(Some(self.last))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::gob::encode::{put_int, put_uint};

    #[test]
    fn numbers_have_the_forms_of_the_specification() {
        let uint = |value| {
            let mut out = Vec::new();
            put_uint(&mut out, value);
            out
        };
        assert_eq!(uint(0), [0]);
        assert_eq!(uint(127), [127]);
        assert_eq!(uint(128), [0xff, 128]);
        assert_eq!(uint(256), [0xfe, 1, 0]);
        assert_eq!(uint(u64::MAX), [0xf8, 255, 255, 255, 255, 255, 255, 255, 255]);
        let mut out = Vec::new();
        for value in [0, 1, -1, 63, -64, 64, i64::MAX, i64::MIN] {
            put_int(&mut out, value);
        }
        let expected = [
            &[0, 2, 1, 126, 127, 0xff, 128][..],
            &[0xf8, 255, 255, 255, 255, 255, 255, 255, 254],
            &[0xf8, 255, 255, 255, 255, 255, 255, 255, 255],
        ];
        assert_eq!(out, expected.concat());
        // Any width is read.
        assert_eq!(Reader::new(&[0xf8, 0, 0, 0, 0, 0, 0, 0, 5]).uint(), Ok(5));
        assert_eq!(Reader::new(&[0xff, 5]).uint(), Ok(5));
    }

    proptest! {
        #[test]
        fn numbers_survive(unsigned: u64, signed: i64) {
            let mut out = Vec::new();
            put_uint(&mut out, unsigned);
            put_int(&mut out, signed);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.uint(), Ok(unsigned));
            prop_assert_eq!(reader.int(), Ok(signed));
            prop_assert!(reader.is_empty());
        }
    }
}
