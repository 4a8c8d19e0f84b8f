//! The part of Go's `encoding/gob` that DMSG's objects need (`wire.md §4.3`).
//!
//! ```text
//!   object  = message*                      definitions first, the value last
//!   message = uint length | int type id | body
//!                             < 0: the body defines type -id     types.rs
//!                             > 0: the body is a value of it     decode.rs
//! ```
//!
//! [`encode`] writes what a fresh Go encoder writes, byte for byte. [`decode()`] takes what any
//! Go decoder takes: fields are matched by name, unknown ones are skipped by their definition.
//! This module knows no DMSG object; a struct takes part by being a [`Target`].
//!
//! Bounds, since all input is a peer's: every length and count is compared with the bytes that
//! are left before anything is allocated (no gob value is shorter than one byte), recursion is
//! limited by [`DEPTH_MAX`], and what a definition can make a value cost by
//! [`DEFINITIONS_MAX`] and [`FIELDS_MAX`]. Time is linear in the input.

mod decode;
pub(super) mod encode;
mod reader;
mod types;

pub(super) use decode::{Slot, Target, decode};

use crate::identity::KeyError;

/// Most type definitions in one object. DMSG's own objects have three; a peer of a later version
/// may have some more, and a type is found by a linear search, which this keeps short.
pub(super) const DEFINITIONS_MAX: usize = 64;

/// Most struct fields over all definitions of one object. DMSG's largest has nine; 256 of them
/// take 8 KiB while an object is decoded, and bound the comparison of names to 256 × 256 / 4
/// (half of them structs, each with the other half as its fields).
pub(super) const FIELDS_MAX: usize = 256;

/// Deepest nesting of a value that is skipped. 32 frames of the skipping function take a few KiB
/// of stack.
pub(super) const DEPTH_MAX: usize = 32;

/// Ids of the predefined types.
pub(super) mod id {
    pub(in crate::wire) const BOOL: i64 = 1;
    pub(in crate::wire) const INT: i64 = 2;
    pub(in crate::wire) const UINT: i64 = 3;
    pub(in crate::wire) const FLOAT: i64 = 4;
    pub(in crate::wire) const BYTES: i64 = 5;
    pub(in crate::wire) const STRING: i64 = 6;
    pub(in crate::wire) const COMPLEX: i64 = 7;
    pub(in crate::wire) const INTERFACE: i64 = 8;
    /// What a fresh encoder gives to the first type it meets.
    pub(in crate::wire) const FIRST_OWN: i64 = 64;
}

/// Why bytes are not the gob of a wanted object. One variant per rule of `wire.md §4.3`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GobError {
    /// The bytes end inside a number.
    #[error("the gob ends inside a number: it was cut off")]
    Truncated,
    /// A length or count is larger than the rest of the message could hold.
    #[error("the gob tells of {length} bytes or elements, {rest} bytes are left: it was cut off")]
    LengthBeyondEnd {
        /// The length or count as sent.
        length: u64,
        /// Bytes left in the message.
        rest: usize,
    },
    /// A number's width is not 1 to 8 bytes.
    #[error("the gob has a number of {0} bytes, allowed are 1 to 8: it is corrupt")]
    NumberWidth(u8),
    /// Only definitions, no value.
    #[error("the gob holds no value: it was cut off")]
    NoValue,
    /// A type id that is neither predefined nor defined before its use.
    #[error("the gob uses type {0} without a definition before it")]
    UndefinedType(i64),
    /// A type defined for the second time.
    #[error("the gob defines type {0} twice")]
    DuplicateDefinition(i64),
    /// A definition of a predefined type.
    #[error("the gob defines type {0}, which is predefined")]
    PredefinedType(i64),
    /// A definition that is none: no kind or several, an unknown kind, a negative array length.
    #[error("the gob has a malformed type definition: it is corrupt")]
    MalformedDefinition,
    /// Bytes behind a definition within its message.
    #[error("the gob has {0} bytes behind a type definition: it is corrupt")]
    BytesBehindDefinition(usize),
    /// More than 64 type definitions.
    #[error("the gob has more than {DEFINITIONS_MAX} type definitions")]
    TooManyDefinitions,
    /// More than 256 fields over all type definitions.
    #[error("the gob defines more than {FIELDS_MAX} fields")]
    TooManyFields,
    /// A skipped value is nested more than 32 deep.
    #[error("the gob nests values more than {DEPTH_MAX} deep")]
    TooDeep,
    /// A field number the struct's definition does not have.
    #[error("the gob has field {0} of a struct with fewer fields: it is corrupt")]
    FieldNumber(u64),
    /// The value is not a struct.
    #[error("the gob's value is not a struct but of type {0}: it is another object")]
    NotAStruct(i64),
    /// The value's struct has none of the wanted fields.
    #[error("the gob's struct shares no field name with what was expected: it is another object")]
    NoCommonField,
    /// A field of another kind than it has to be.
    #[error("the gob's field {field} is of another type than {expected}")]
    FieldKind {
        /// The field.
        field: String,
        /// The kind it has to be of.
        expected: &'static str,
    },
    /// An array of another length: than it has to be, or than its definition says.
    #[error("the gob has an array of {got} elements instead of {expected}")]
    ArrayLength {
        /// The right length.
        expected: u64,
        /// The length as sent.
        got: u64,
    },
    /// A number that does not fit its field.
    #[error("the gob's field {field} has the value {value}, which is out of range")]
    OutOfRange {
        /// The field.
        field: String,
        /// The value as sent.
        value: u64,
    },
    /// The bytes of a key are not a valid key; a null key can only be left out.
    #[error("the gob's field {field} is no public key: {error}")]
    Key {
        /// The field.
        field: String,
        /// What is wrong with it.
        error: KeyError,
    },
}

#[cfg(test)]
mod tests;
