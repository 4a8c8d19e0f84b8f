//! The type definitions of one object: read, kept, looked up.
//!
//! ```text
//!   definition = { n: kind }      n  kind      fields behind { 1: { 1: name, 2: id } }
//!                                 1  array     2: element id, 3: length
//!                                 2  slice     2: element id
//!                                 3  struct    2: list of { 1: name, 2: id }
//!                                 4  map       2: key id, 3: element id
//!                                 5  GobEncoder  6  BinaryMarshaler  7  TextMarshaler
//! ```
//!
//! Names of types, and the id repeated in the common part, are read over: Go ignores them too.
//! A definition is kept flat, so that a type that contains itself costs nothing until a value of
//! it is read.

use super::{
    DEFINITIONS_MAX, FIELDS_MAX, GobError, id,
    reader::{FieldNumbers, Reader},
};

/// How a value of a type is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Bool,
    Int,
    Uint,
    Float,
    Bytes,
    String,
    Complex,
    Interface,
    Array { element: i64, length: u64 },
    Slice { element: i64 },
    Struct(Fields),
    Map { key: i64, element: i64 },
    GobEncoder,
    BinaryMarshaler,
    TextMarshaler,
}

/// Where a struct's fields stand in [`Types::fields`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fields {
    first: usize,
    count: usize,
}

/// A field of a struct, as its definition has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field<'a> {
    pub(super) name: &'a [u8],
    pub(super) type_id: i64,
}

/// The definitions met so far. At most [`DEFINITIONS_MAX`] and [`FIELDS_MAX`].
#[derive(Debug)]
pub(super) struct Types<'a> {
    defined: Vec<(i64, Type)>,
    fields: Vec<Field<'a>>,
}

impl<'a> Types<'a> {
    /// No definitions, with room for those of DMSG's largest object, so that an ordinary one
    /// allocates twice.
    pub(super) fn new() -> Self {
        Self { defined: Vec::with_capacity(4), fields: Vec::with_capacity(12) }
    }

    /// The type with this id.
    pub(super) fn resolve(&self, type_id: i64) -> Result<Type, GobError> {
        if let Some(predefined) = predefined(type_id) {
            return Ok(predefined);
        }
        let found = self.defined.iter().find(|(id, _)| *id == type_id);
        found.map(|(_, kind)| *kind).ok_or(GobError::UndefinedType(type_id))
    }

    /// All fields of a struct.
    pub(super) fn fields(&self, fields: Fields) -> &[Field<'a>] {
        self.fields.get(fields.first..fields.first + fields.count).unwrap_or_default()
    }

    /// The field with this number, counting from 1.
    pub(super) fn field(&self, fields: Fields, number: u64) -> Result<Field<'a>, GobError> {
        usize::try_from(number)
            .ok()
            .and_then(|number| self.fields(fields).get(number.checked_sub(1)?))
            .copied()
            .ok_or(GobError::FieldNumber(number))
    }

    /// Reads the definition of `type_id`.
    pub(super) fn define(&mut self, type_id: i64, reader: &mut Reader<'a>) -> Result<(), GobError> {
        if predefined(type_id).is_some() {
            return Err(GobError::PredefinedType(type_id));
        }
        if self.resolve(type_id).is_ok() {
            return Err(GobError::DuplicateDefinition(type_id));
        }
        if self.defined.len() == DEFINITIONS_MAX {
            return Err(GobError::TooManyDefinitions);
        }
        let mut kind = None;
        let mut numbers = FieldNumbers::default();
        while let Some(number) = numbers.next(reader)? {
            if kind.is_some() {
                return Err(GobError::MalformedDefinition);
            }
            kind = Some(self.kind(number, reader)?);
        }
        self.defined.push((type_id, kind.ok_or(GobError::MalformedDefinition)?));
        Ok(())
    }

    fn kind(&mut self, number: u64, reader: &mut Reader<'a>) -> Result<Type, GobError> {
        Ok(match number {
            1 => {
                let [element, length] = parameters(reader)?;
                let length = u64::try_from(length).map_err(|_| GobError::MalformedDefinition)?;
                Type::Array { element, length }
            }
            2 => {
                let [element] = parameters(reader)?;
                Type::Slice { element }
            }
            3 => Type::Struct(self.struct_fields(reader)?),
            4 => {
                let [key, element] = parameters(reader)?;
                Type::Map { key, element }
            }
            5..=7 => {
                let [] = parameters(reader)?;
                match number {
                    5 => Type::GobEncoder,
                    6 => Type::BinaryMarshaler,
                    _ => Type::TextMarshaler,
                }
            }
            _ => return Err(GobError::MalformedDefinition),
        })
    }

    fn struct_fields(&mut self, reader: &mut Reader<'a>) -> Result<Fields, GobError> {
        let first = self.fields.len();
        let mut numbers = FieldNumbers::default();
        while let Some(number) = numbers.next(reader)? {
            match number {
                1 => drop(name_and_id(reader)?),
                2 => {
                    let count = reader.length()?;
                    if count > FIELDS_MAX - self.fields.len() {
                        return Err(GobError::TooManyFields);
                    }
                    self.fields.reserve(count);
                    for _ in 0..count {
                        self.fields.push(name_and_id(reader)?);
                    }
                }
                _ => return Err(GobError::MalformedDefinition),
            }
        }
        Ok(Fields { first, count: self.fields.len() - first })
    }
}

fn predefined(type_id: i64) -> Option<Type> {
    Some(match type_id {
        id::BOOL => Type::Bool,
        id::INT => Type::Int,
        id::UINT => Type::Uint,
        id::FLOAT => Type::Float,
        id::BYTES => Type::Bytes,
        id::STRING => Type::String,
        id::COMPLEX => Type::Complex,
        id::INTERFACE => Type::Interface,
        _ => return None,
    })
}

/// The struct of a kind whose fields, after the common first one, are `N` numbers; a number left
/// out is 0.
fn parameters<const N: usize>(reader: &mut Reader<'_>) -> Result<[i64; N], GobError> {
    let mut parameters = [0; N];
    let mut numbers = FieldNumbers::default();
    while let Some(number) = numbers.next(reader)? {
        if number == 1 {
            name_and_id(reader)?;
            continue;
        }
        let index = usize::try_from(number - 2).map_err(|_| GobError::MalformedDefinition)?;
        *parameters.get_mut(index).ok_or(GobError::MalformedDefinition)? = reader.int()?;
    }
    Ok(parameters)
}

/// `{ 1: name, 2: id }`, which describes a field, and is the common part of every kind.
fn name_and_id<'a>(reader: &mut Reader<'a>) -> Result<Field<'a>, GobError> {
    let mut field = Field { name: &[], type_id: 0 };
    let mut numbers = FieldNumbers::default();
    while let Some(number) = numbers.next(reader)? {
        match number {
            1 => field.name = reader.bytes()?,
            2 => field.type_id = reader.int()?,
            _ => return Err(GobError::MalformedDefinition),
        }
    }
    Ok(field)
}
