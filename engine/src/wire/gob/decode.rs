//! The tolerant decoder: fields by name into a [`Target`], everything else skipped.
//!
//! As in Go, the kinds of all known fields are compared before the value is read, so a field of
//! the wrong kind is refused even when the value leaves it out.

use super::{
    DEPTH_MAX, GobError,
    reader::{FieldNumbers, Reader},
    types::{Field, Fields, Type, Types},
};
use crate::identity::PublicKey;

/// A struct that can be decoded into: it knows the place of each of its fields.
///
/// A struct that is a target must not contain itself.
pub(in crate::wire) trait Target {
    /// Where the field with this name goes; `None` for a name the struct does not have.
    fn slot(&mut self, name: &[u8]) -> Option<Slot<'_>>;
}

/// A field's place, and with it the only kind of value that is taken.
pub(in crate::wire) enum Slot<'s> {
    Bool(&'s mut bool),
    Int64(&'s mut i64),
    Uint16(&'s mut u16),
    Float(&'s mut f64),
    Bytes(&'s mut Vec<u8>),
    /// Bytes that are not UTF-8 become replacement characters, as Go does not check them.
    String(&'s mut String),
    Hash(&'s mut [u8; 32]),
    Key(&'s mut Option<PublicKey>),
    /// A key that will only be compared: not null, but perhaps no point.
    KeyBytes(&'s mut Option<[u8; PublicKey::LEN]>),
    Struct(&'s mut dyn Target),
}

/// Decodes the first value of `input` into `target`; fields not sent keep what they hold. After
/// an error `target` may be filled in part.
pub(in crate::wire) fn decode(input: &[u8], target: &mut dyn Target) -> Result<(), GobError> {
    let mut messages = Reader::new(input);
    let mut decoder = Decoder { types: Types::new() };
    while !messages.is_empty() {
        let mut message = Reader::new(messages.bytes()?);
        let type_id = message.int()?;
        if type_id >= 0 {
            return decoder.value(type_id, &mut message, target);
        }
        decoder.define(type_id, &mut message)?;
        if !message.is_empty() {
            return Err(GobError::BytesBehindDefinition(message.len()));
        }
    }
    Err(GobError::NoValue)
}

struct Decoder<'a> {
    types: Types<'a>,
}

impl<'a> Decoder<'a> {
    /// Reads the definition behind the negative id.
    fn define(&mut self, negative_id: i64, reader: &mut Reader<'a>) -> Result<(), GobError> {
        let type_id = negative_id.checked_neg().ok_or(GobError::MalformedDefinition)?;
        self.types.define(type_id, reader)
    }

    fn value(
        &mut self,
        type_id: i64,
        reader: &mut Reader<'a>,
        target: &mut dyn Target,
    ) -> Result<(), GobError> {
        let Type::Struct(fields) = self.types.resolve(type_id)? else {
            return Err(GobError::NotAStruct(type_id));
        };
        if !self.check_struct(fields, target)? {
            return Err(GobError::NoCommonField);
        }
        self.read_struct(fields, reader, target)
    }

    /// Compares the kinds of all fields; tells whether any is known to the target.
    fn check_struct(&self, fields: Fields, target: &mut dyn Target) -> Result<bool, GobError> {
        let mut any_known = false;
        for field in self.types.fields(fields) {
            let wire = self.types.resolve(field.type_id)?;
            if let Some(slot) = target.slot(field.name) {
                any_known = true;
                self.check_field(field, wire, slot)?;
            }
        }
        Ok(any_known)
    }

    fn check_field(&self, field: &Field<'_>, wire: Type, slot: Slot<'_>) -> Result<(), GobError> {
        let expected = slot.expected();
        let fits = match (slot, wire) {
            (Slot::Bool(_), Type::Bool)
            | (Slot::Int64(_), Type::Int)
            | (Slot::Uint16(_), Type::Uint)
            | (Slot::Float(_), Type::Float)
            | (Slot::Bytes(_), Type::Bytes)
            | (Slot::String(_), Type::String)
            | (Slot::Key(_) | Slot::KeyBytes(_), Type::BinaryMarshaler) => true,
            (Slot::Hash(_), Type::Array { element, length }) => {
                if length != 32 {
                    return Err(GobError::ArrayLength { expected: 32, got: length });
                }
                self.types.resolve(element)? == Type::Uint
            }
            (Slot::Struct(target), Type::Struct(fields)) => {
                self.check_struct(fields, target)?;
                true
            }
            _ => false,
        };
        if fits { Ok(()) } else { Err(GobError::FieldKind { field: text(field), expected }) }
    }

    fn read_struct(
        &mut self,
        fields: Fields,
        reader: &mut Reader<'a>,
        target: &mut dyn Target,
    ) -> Result<(), GobError> {
        let mut numbers = FieldNumbers::default();
        while let Some(number) = numbers.next(reader)? {
            let field = self.types.field(fields, number)?;
            match target.slot(field.name) {
                Some(slot) => self.read_field(&field, reader, slot)?,
                None => self.skip(self.types.resolve(field.type_id)?, reader, DEPTH_MAX)?,
            }
        }
        Ok(())
    }

    /// Reads a value whose kind [`Decoder::check_field`] has found to be the slot's.
    fn read_field(
        &mut self,
        field: &Field<'_>,
        reader: &mut Reader<'a>,
        slot: Slot<'_>,
    ) -> Result<(), GobError> {
        match slot {
            Slot::Bool(place) => *place = reader.uint()? != 0,
            Slot::Int64(place) => *place = reader.int()?,
            Slot::Uint16(place) => *place = in_range(field, reader.uint()?)?,
            Slot::Float(place) => *place = reader.float()?,
            Slot::Bytes(place) => *place = reader.bytes()?.to_vec(),
            Slot::String(place) => {
                *place = String::from_utf8_lossy(reader.bytes()?).into_owned();
            }
            Slot::Hash(place) => {
                expect_count(reader, 32)?;
                for byte in place {
                    *byte = in_range(field, reader.uint()?)?;
                }
            }
            Slot::Key(place) => {
                let key = PublicKey::from_bytes(reader.bytes()?);
                *place = Some(key.map_err(|error| GobError::Key { field: text(field), error })?);
            }
            Slot::KeyBytes(place) => {
                let key = PublicKey::check_form(reader.bytes()?);
                *place = Some(key.map_err(|error| GobError::Key { field: text(field), error })?);
            }
            Slot::Struct(target) => {
                if let Type::Struct(fields) = self.types.resolve(field.type_id)? {
                    self.read_struct(fields, reader, target)?;
                }
            }
        }
        Ok(())
    }

    /// Reads over a value. Each call reads at least one byte or fails, so time is linear.
    fn skip(&mut self, wire: Type, reader: &mut Reader<'a>, depth: usize) -> Result<(), GobError> {
        let depth = depth.checked_sub(1).ok_or(GobError::TooDeep)?;
        match wire {
            Type::Bool | Type::Int | Type::Uint | Type::Float => drop(reader.uint()?),
            Type::Complex => {
                reader.uint()?;
                reader.uint()?;
            }
            Type::Bytes
            | Type::String
            | Type::GobEncoder
            | Type::BinaryMarshaler
            | Type::TextMarshaler => drop(reader.bytes()?),
            Type::Interface => self.skip_interface(reader)?,
            Type::Array { element, length } => {
                expect_count(reader, length)?;
                let element = self.types.resolve(element)?;
                for _ in 0..length {
                    self.skip(element, reader, depth)?;
                }
            }
            Type::Slice { element } => {
                let count = reader.length()?;
                let element = self.types.resolve(element)?;
                for _ in 0..count {
                    self.skip(element, reader, depth)?;
                }
            }
            Type::Map { key, element } => {
                let count = reader.length()?;
                let (key, element) = (self.types.resolve(key)?, self.types.resolve(element)?);
                for _ in 0..count {
                    self.skip(key, reader, depth)?;
                    self.skip(element, reader, depth)?;
                }
            }
            Type::Struct(fields) => {
                let mut numbers = FieldNumbers::default();
                while let Some(number) = numbers.next(reader)? {
                    let field = self.types.field(fields, number)?;
                    self.skip(self.types.resolve(field.type_id)?, reader, depth)?;
                }
            }
        }
        Ok(())
    }

    /// An interface value is a name (empty for nil, and then nothing follows), definitions that
    /// were not sent before, each with a length behind it, an id, and a value with its length.
    fn skip_interface(&mut self, reader: &mut Reader<'a>) -> Result<(), GobError> {
        if reader.bytes()?.is_empty() {
            return Ok(());
        }
        loop {
            let type_id = reader.int()?;
            if type_id >= 0 {
                return reader.bytes().map(drop);
            }
            self.define(type_id, reader)?;
            reader.uint()?;
        }
    }
}

impl Slot<'_> {
    /// The kind the slot takes, for an error message.
    fn expected(&self) -> &'static str {
        match self {
            Slot::Bool(_) => "bool",
            Slot::Int64(_) => "a signed integer",
            Slot::Uint16(_) => "an unsigned integer",
            Slot::Float(_) => "a float",
            Slot::Bytes(_) => "bytes",
            Slot::String(_) => "a string",
            Slot::Hash(_) => "an array of 32 unsigned integers",
            Slot::Key(_) | Slot::KeyBytes(_) => "a key (BinaryMarshaler)",
            Slot::Struct(_) => "a struct",
        }
    }
}

/// Reads an array's count, which must be `length`, and hold in what is left.
fn expect_count(reader: &mut Reader<'_>, length: u64) -> Result<(), GobError> {
    let got = reader.length()? as u64;
    if got == length { Ok(()) } else { Err(GobError::ArrayLength { expected: length, got }) }
}

fn in_range<T: TryFrom<u64>>(field: &Field<'_>, value: u64) -> Result<T, GobError> {
    T::try_from(value).map_err(|_| GobError::OutOfRange { field: text(field), value })
}

/// A known field's name; being known, it is short.
fn text(field: &Field<'_>) -> String {
    String::from_utf8_lossy(field.name).into_owned()
}
