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
