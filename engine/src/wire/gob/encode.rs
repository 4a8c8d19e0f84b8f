//! The encoder: exactly the bytes of a fresh Go encoder.
//!
//! Definitions come from the names and ids a caller lists (so they can be kept: they are the same
//! for every object of a kind), values from one call per field in the struct's order.

use super::id;

/// Writes one message: the length of what `body` writes, then that.
pub(in crate::wire) fn message(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    body(out);
    let (length, unused) = uint_bytes((out.len() - start) as u64);
    out.splice(start..start, length.into_iter().skip(unused));
}

/// Writes the message with the first struct of an object, whose definition was the first.
pub(in crate::wire) fn value(out: &mut Vec<u8>, fields: impl FnOnce(&mut Struct<'_>)) {
    message(out, |out| {
        put_int(out, id::FIRST_OWN);
        Struct::write(out, fields);
    });
}

/// Writes the message that defines a struct with these fields, each a name and a type id.
pub(in crate::wire) fn define_struct(
    out: &mut Vec<u8>,
    name: &str,
    type_id: i64,
    fields: &[(&str, i64)],
) {
    definition(out, 3, name, type_id, |kind| {
        kind.list(fields, |out, &(name, type_id)| name_and_id(out, name, type_id));
    });
}

/// Writes the message that defines an array.
pub(in crate::wire) fn define_array(
    out: &mut Vec<u8>,
    name: &str,
    type_id: i64,
    element: i64,
    length: i64,
) {
    definition(out, 1, name, type_id, |kind| {
        kind.int(element);
        kind.int(length);
    });
}

/// Writes the message that defines a type with a binary form of its own.
pub(in crate::wire) fn define_binary_marshaler(out: &mut Vec<u8>, name: &str, type_id: i64) {
    definition(out, 6, name, type_id, |_| ());
}

/// A definition: a struct of which only the field numbered `kind` is set, to a struct that starts
/// with the common part.
pub(super) fn definition(
    out: &mut Vec<u8>,
    kind: u64,
    name: &str,
    type_id: i64,
    parameters: impl FnOnce(&mut Struct<'_>),
) {
    message(out, |out| {
        put_int(out, -type_id);
        Struct::write(out, |definition| {
            definition.absent(kind - 1);
            definition.nested(|kind| {
                kind.number += 1;
                kind.start_field();
                name_and_id(kind.out, name, type_id);
                parameters(kind);
            });
        });
    });
}

fn name_and_id(out: &mut Vec<u8>, name: &str, type_id: i64) {
    Struct::write(out, |common| {
        common.bytes(name.as_bytes());
        common.int(type_id);
    });
}

/// A struct value being written: one call per field, in the order of the definition. What is zero
/// is left out, as Go does it.
pub(in crate::wire) struct Struct<'a> {
    out: &'a mut Vec<u8>,
    /// Number of the field the last call was for.
    number: u64,
    /// Number of the last field that was not left out.
    sent: u64,
}

impl Struct<'_> {
    pub(super) fn write(out: &mut Vec<u8>, fields: impl FnOnce(&mut Struct<'_>)) {
        let mut value = Struct { out, number: 0, sent: 0 };
        fields(&mut value);
        value.out.push(0);
    }

    /// Passes over fields that are left out whatever they hold.
    fn absent(&mut self, count: u64) {
        self.number += count;
    }

    fn start_field(&mut self) {
        put_uint(self.out, self.number - self.sent);
        self.sent = self.number;
    }

    pub(in crate::wire) fn int(&mut self, value: i64) {
        self.number += 1;
        if value != 0 {
            self.start_field();
            put_int(self.out, value);
        }
    }

    pub(in crate::wire) fn uint(&mut self, value: u64) {
        self.number += 1;
        if value != 0 {
            self.start_field();
            put_uint(self.out, value);
        }
    }

    pub(in crate::wire) fn bool(&mut self, value: bool) {
        self.uint(u64::from(value));
    }

    /// Negative zero is zero here, as in Go.
    pub(in crate::wire) fn float(&mut self, value: f64) {
        self.uint(if value == 0.0 { 0 } else { value.to_bits().swap_bytes() });
    }

    /// Bytes, a string, or the bytes of a marshaler.
    pub(in crate::wire) fn bytes(&mut self, value: &[u8]) {
        self.number += 1;
        if !value.is_empty() {
            self.start_field();
            put_uint(self.out, value.len() as u64);
            self.out.extend_from_slice(value);
        }
    }

    /// An array of bytes, element by element; sent even when all zero.
    pub(in crate::wire) fn array(&mut self, value: &[u8]) {
        self.number += 1;
        self.start_field();
        put_uint(self.out, value.len() as u64);
        for &byte in value {
            put_uint(self.out, u64::from(byte));
        }
    }

    /// A struct; sent even when all its fields are left out.
    pub(in crate::wire) fn nested(&mut self, fields: impl FnOnce(&mut Struct<'_>)) {
        self.number += 1;
        self.start_field();
        Struct::write(self.out, fields);
    }

    fn list<T>(&mut self, items: &[T], each: impl Fn(&mut Vec<u8>, &T)) {
        self.number += 1;
        if !items.is_empty() {
            self.start_field();
            put_uint(self.out, items.len() as u64);
            for item in items {
                each(self.out, item);
            }
        }
    }
}

/// Writes an unsigned number in its shortest form.
pub(super) fn put_uint(out: &mut Vec<u8>, value: u64) {
    let (bytes, unused) = uint_bytes(value);
    out.extend_from_slice(&bytes[unused..]);
}

/// Writes a signed number in its shortest form.
pub(super) fn put_int(out: &mut Vec<u8>, value: i64) {
    let sign = value >> 63;
    put_uint(out, ((value ^ sign).cast_unsigned() << 1) | u64::from(sign != 0));
}

/// An unsigned number in its shortest form, right-aligned, and how many bytes in front of it are
/// unused.
fn uint_bytes(value: u64) -> ([u8; 9], usize) {
    let mut bytes = [0; 9];
    bytes[1..].copy_from_slice(&value.to_be_bytes());
    if value < 0x80 {
        return (bytes, 8);
    }
    let unused = value.leading_zeros() as usize / 8;
    bytes[unused] = (8 - unused as u8).wrapping_neg();
    (bytes, unused)
}
