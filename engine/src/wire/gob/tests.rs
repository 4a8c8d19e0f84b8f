#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::{
    DEFINITIONS_MAX, DEPTH_MAX, FIELDS_MAX, GobError, Slot, Target, decode,
    encode::{self, Struct, put_int, put_uint},
    id,
    reader::Reader,
};

/// A target with one number and one struct.
#[derive(Debug, Default, PartialEq)]
struct Probe {
    number: i64,
    inner: Inner,
}

#[derive(Debug, Default, PartialEq)]
struct Inner {
    flag: bool,
}

impl Target for Probe {
    fn slot(&mut self, name: &[u8]) -> Option<Slot<'_>> {
        match name {
            b"Number" => Some(Slot::Int64(&mut self.number)),
            b"Inner" => Some(Slot::Struct(&mut self.inner)),
            _ => None,
        }
    }
}

impl Target for Inner {
    fn slot(&mut self, name: &[u8]) -> Option<Slot<'_>> {
        (name == b"Flag").then_some(Slot::Bool(&mut self.flag))
    }
}

const TOP: i64 = 64;
const OTHER: i64 = 65;
const THIRD: i64 = 66;

fn probe(gob: &[u8]) -> Result<i64, GobError> {
    let mut probe = Probe::default();
    decode(gob, &mut probe).map(|()| probe.number)
}

/// Definition of a struct with an unknown field of type `unknown`, and `Number` behind it.
fn top(unknown: i64) -> Vec<u8> {
    let mut out = Vec::new();
    encode::define_struct(&mut out, "Top", TOP, &[("Unknown", unknown), ("Number", id::INT)]);
    out
}

/// A value message for [`top`]: the unknown field's bytes, then Number = 7.
fn put_value(out: &mut Vec<u8>, unknown: &[u8]) {
    encode::message(out, |out| {
        put_int(out, TOP);
        put_uint(out, 1);
        out.extend_from_slice(unknown);
        out.extend_from_slice(&[1, 14, 0]);
    });
}

fn define(out: &mut Vec<u8>, kind: u64, type_id: i64, parameters: &[i64]) {
    encode::definition(out, kind, "T", type_id, |fields| {
        for &parameter in parameters {
            fields.int(parameter);
        }
    });
}

/// An object whose unknown field has type 65, defined by kind and parameters.
fn with_unknown(kind: u64, parameters: &[i64], value: &[u8]) -> Vec<u8> {
    let mut out = top(OTHER);
    define(&mut out, kind, OTHER, parameters);
    put_value(&mut out, value);
    out
}

/// An object whose unknown field has a predefined type.
fn with_predefined(type_id: i64, value: &[u8]) -> Vec<u8> {
    let mut out = top(type_id);
    put_value(&mut out, value);
    out
}

/// 2⁶³ as a gob number.
const HUGE: [u8; 9] = [0xf8, 0x80, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn unknown_fields_of_every_predefined_type_are_skipped() {
    let cases: [(i64, &[u8]); 11] = [
        (id::BOOL, &[1]),
        (id::INT, &[0xfe, 1, 0]),
        (id::UINT, &[0xff, 200]),
        (id::FLOAT, &[0xfe, 0xf8, 0x3f]),
        (id::BYTES, &[3, 0, 1, 2]),
        (id::STRING, &[0]),
        (id::COMPLEX, &[0xfe, 0xf8, 0x3f, 0]),
        (id::INTERFACE, &[0]),
        (id::INTERFACE, b"\x03int\x04\x02\x00\x02"),
        // Two definitions within the value: type 70, a slice of type 71, which is a marshaler.
        (
            id::INTERFACE,
            b"\x01T\xff\x8b\x02\x01\x01\x01T\x00\x01\xff\x8e\x00\x00\x0a\
              \xff\x8d\x06\x01\x01\x01U\x00\x00\x00\x05\xff\x8c\x04\x01\x02ab",
        ),
        (id::INTERFACE, b"\x03xyz\xff\x90\x00"),
    ];
    for (type_id, value) in cases {
        assert_eq!(probe(&with_predefined(type_id, value)), Ok(7), "type {type_id} {value:?}");
    }
}

#[test]
fn unknown_fields_of_every_defined_kind_are_skipped() {
    let cases: [(u64, &[i64], &[u8]); 9] = [
        (1, &[id::UINT, 3], &[3, 1, 2, 0xff, 200]),
        (1, &[id::UINT], &[0]),
        (2, &[id::STRING], &[2, 1, b'a', 0]),
        (2, &[OTHER], &[2, 0, 1, 0]),
        (4, &[id::STRING, id::INT], &[2, 1, b'a', 2, 1, b'b', 4]),
        (4, &[id::INT, OTHER], &[1, 2, 1, 4, 0]),
        (5, &[], &[2, 0, 1]),
        (6, &[], &[0]),
        (7, &[], &[1, b'x']),
    ];
    for (kind, parameters, value) in cases {
        let gob = with_unknown(kind, parameters, value);
        assert_eq!(probe(&gob), Ok(7), "kind {kind} {value:?}");
    }
    let mut gob = top(OTHER);
    encode::define_struct(&mut gob, "S", OTHER, &[("A", id::INT), ("B", OTHER)]);
    put_value(&mut gob, &[1, 2, 1, 1, 4, 0, 0]);
    assert_eq!(probe(&gob), Ok(7), "struct in itself");
}

#[test]
fn each_malformed_value_is_refused_by_its_rule() {
    use GobError as E;
    let cases: Vec<(&str, Vec<u8>, E)> = vec![
        ("nothing", vec![], E::NoValue),
        ("an empty message", vec![0], E::Truncated),
        ("a width of nine", vec![0xf7, 0, 0, 0, 0, 0, 0, 0, 0, 1], E::NumberWidth(9)),
        ("a width of 128", vec![0x80], E::NumberWidth(128)),
        ("half a length", vec![0xfe, 1], E::Truncated),
        ("a huge message", HUGE.to_vec(), E::LengthBeyondEnd { length: 1 << 63, rest: 0 }),
        ("type 0", vec![1, 0], E::UndefinedType(0)),
        ("a plain string", vec![3, 12, 1, b'x'], E::NotAStruct(6)),
        ("a number cut off", with_predefined(id::UINT, &[0xf8, 1]), E::Truncated),
        ("an unknown field without a definition", top_then_value(OTHER), E::UndefinedType(OTHER)),
        ("field 3 of 2", with_predefined(id::INT, &[0, 2, 0]), E::FieldNumber(3)),
        ("array of 2 in place of 3", with_unknown(1, &[3, 3], &[2, 0, 0]), array_length(3, 2)),
        ("elements undefined", with_unknown(2, &[99], &[1, 0]), E::UndefinedType(99)),
        ("map keys undefined", with_unknown(4, &[99, 2], &[0]), E::UndefinedType(99)),
    ];
    for (name, gob, expected) in cases {
        assert_eq!(probe(&gob), Err(expected), "{name}");
    }
}

fn top_then_value(unknown: i64) -> Vec<u8> {
    let mut out = top(unknown);
    put_value(&mut out, &[0]);
    out
}

fn array_length(expected: u64, got: u64) -> GobError {
    GobError::ArrayLength { expected, got }
}

#[test]
fn each_malformed_definition_is_refused_by_its_rule() {
    use GobError as E;
    /// A message that defines type 64 with this body.
    fn definition(body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode::message(&mut out, |out| {
            put_int(out, -TOP);
            out.extend_from_slice(body);
        });
        out
    }
    let minimum = [&[10], &[0xf8][..], &[0xff; 8], &[0]].concat();
    let twice = [top(id::INT), top(id::INT)].concat();
    let mut predefined = Vec::new();
    define(&mut predefined, 6, id::STRING, &[]);
    let cases: Vec<(&str, Vec<u8>, E)> = vec![
        ("no kind", definition(&[0]), E::MalformedDefinition),
        ("two kinds", definition(&[5, 0, 1, 0, 0]), E::MalformedDefinition),
        ("kind 8", definition(&[8, 0, 0]), E::MalformedDefinition),
        ("array of length -1", definition(&[1, 3, 1, 0, 0]), E::MalformedDefinition),
        ("slice with a length", definition(&[2, 3, 2, 0, 0]), E::MalformedDefinition),
        ("marshaler with an element", definition(&[6, 2, 2, 0, 0]), E::MalformedDefinition),
        ("struct with a third field", definition(&[3, 3, 2, 0, 0]), E::MalformedDefinition),
        ("field with a third part", definition(&[3, 2, 1, 3, 0]), E::MalformedDefinition),
        ("the id's minimum", minimum, E::MalformedDefinition),
        ("a byte behind it", definition(&[5, 0, 0, 9]), E::BytesBehindDefinition(1)),
        ("cut off", definition(&[3, 1, 1]), E::Truncated),
        (
            "name too long",
            definition(&[3, 1, 1, 4, b'x']),
            E::LengthBeyondEnd { length: 4, rest: 1 },
        ),
        ("sent twice", twice, E::DuplicateDefinition(TOP)),
        ("of a string", predefined, E::PredefinedType(id::STRING)),
        (
            "field numbers that overflow",
            definition(&[&[5, 1, 0][..], &[0xf8], &[0xff; 8]].concat()),
            E::FieldNumber(u64::MAX),
        ),
    ];
    for (name, gob, expected) in cases {
        assert_eq!(probe(&gob), Err(expected), "{name}");
    }
}

/// Counts and lengths of 2⁶³, and just beyond the end, fail at once, whatever they count.
#[test]
fn no_length_is_believed_beyond_the_end() {
    let huge = |gob: Vec<u8>, name: &str| {
        let error = probe(&gob).unwrap_err();
        assert!(
            matches!(error, GobError::LengthBeyondEnd { length, .. } if length == 1 << 63),
            "{name}: {error:?}"
        );
    };
    huge(with_predefined(id::BYTES, &HUGE), "bytes");
    huge(with_predefined(id::STRING, &HUGE), "string");
    huge(with_predefined(id::INTERFACE, &HUGE), "interface name");
    huge(with_predefined(id::INTERFACE, &[&b"\x01T\x04"[..], &HUGE].concat()), "interface value");
    huge(with_unknown(6, &[], &HUGE), "marshaler");
    huge(with_unknown(2, &[id::BOOL], &HUGE), "slice");
    huge(with_unknown(4, &[id::INT, id::INT], &HUGE), "map");
    huge(with_unknown(1, &[id::UINT, i64::MAX], &HUGE), "array");
    let mut fields = Vec::new();
    encode::message(&mut fields, |out| {
        put_int(out, -TOP);
        out.extend_from_slice(&[3, 2]);
        out.extend_from_slice(&HUGE);
    });
    huge(fields, "fields of a struct");
    // The three bytes of Number and the end are what is left.
    let error = probe(&with_predefined(id::BYTES, &[4])).unwrap_err();
    assert_eq!(error, GobError::LengthBeyondEnd { length: 4, rest: 3 });
}

#[test]
fn counting_empty_structs_does_not_spin() {
    let object = |count: &[u8], elements: usize| {
        let mut gob = top(OTHER);
        define(&mut gob, 2, OTHER, &[THIRD]);
        encode::define_struct(&mut gob, "Empty", THIRD, &[]);
        put_value(&mut gob, &[count, &vec![0; elements]].concat());
        gob
    };
    let error = probe(&object(&HUGE, 0)).unwrap_err();
    assert!(matches!(error, GobError::LengthBeyondEnd { length, .. } if length == 1 << 63));
    assert_eq!(probe(&object(&[0xfe, 0xea, 0x60], 60_000)), Ok(7));
}

#[test]
fn a_type_that_contains_itself_ends_at_the_depth_limit() {
    // A slice of itself, nested as deep as the value says.
    let nested = |depth: usize| with_unknown(2, &[OTHER], &[vec![1; depth - 1], vec![0]].concat());
    assert_eq!(probe(&nested(DEPTH_MAX)), Ok(7));
    assert_eq!(probe(&nested(DEPTH_MAX + 1)), Err(GobError::TooDeep));
    assert_eq!(probe(&nested(60_000)), Err(GobError::TooDeep));
    // The struct that is read, as a field of itself.
    let mut gob = top(TOP);
    put_value(&mut gob, &[1, 1, 0, 0, 0]);
    assert_eq!(probe(&gob), Ok(7));
    // The known struct field, defined as the struct around it: its fields are looked up in the
    // inner target, so nothing repeats.
    let mut gob = Vec::new();
    let fields = [("Inner", TOP), ("Flag", id::BOOL), ("Number", id::INT)];
    encode::define_struct(&mut gob, "Top", TOP, &fields);
    encode::message(&mut gob, |out| {
        put_int(out, TOP);
        // Inner { Inner { } , Flag } , Number
        out.extend_from_slice(&[1, 1, 0, 1, 1, 0, 2, 14, 0]);
    });
    let mut probe = Probe::default();
    assert_eq!(decode(&gob, &mut probe), Ok(()));
    assert_eq!(probe, Probe { number: 7, inner: Inner { flag: true } });
}

#[test]
fn definitions_and_fields_are_limited() {
    let definitions = |count: usize| {
        let mut gob = top(id::BOOL);
        for n in 1..count as i64 {
            define(&mut gob, 5, TOP + n, &[]);
        }
        put_value(&mut gob, &[1]);
        gob
    };
    assert_eq!(probe(&definitions(DEFINITIONS_MAX)), Ok(7));
    assert_eq!(probe(&definitions(DEFINITIONS_MAX + 1)), Err(GobError::TooManyDefinitions));

    let fields = |count: usize| {
        let mut gob = top(id::BOOL);
        let field = ("F", id::INT);
        encode::define_struct(&mut gob, "Wide", OTHER, &vec![field; count - 2]);
        put_value(&mut gob, &[1]);
        gob
    };
    assert_eq!(probe(&fields(FIELDS_MAX)), Ok(7));
    assert_eq!(probe(&fields(FIELDS_MAX + 1)), Err(GobError::TooManyFields));
}

#[test]
fn kinds_are_compared_even_for_fields_left_out() {
    let object = |number: i64, inner: i64| {
        let mut gob = Vec::new();
        let fields = [("Number", number), ("Inner", inner)];
        encode::define_struct(&mut gob, "Top", TOP, &fields);
        encode::define_struct(&mut gob, "Inner", OTHER, &[("Flag", id::INT)]);
        encode::define_struct(&mut gob, "Inner", THIRD, &[("Flags", id::INT)]);
        encode::value(&mut gob, |_: &mut Struct<'_>| ());
        probe(&gob)
    };
    let kind =
        |field: &str, expected| Err(GobError::FieldKind { field: field.to_owned(), expected });
    assert_eq!(object(id::UINT, THIRD), kind("Number", "a signed integer"));
    assert_eq!(object(id::INT, OTHER), kind("Flag", "bool"));
    assert_eq!(object(id::INT, id::INT), kind("Inner", "a struct"));
    assert_eq!(object(id::INT, 99), Err(GobError::UndefinedType(99)));
    assert_eq!(object(id::INT, THIRD), Ok(0), "an inner struct needs no common field");
}

#[test]
fn a_struct_without_a_known_field_is_another_object() {
    for fields in [&[][..], &[("number", id::INT)], &[("Flag", id::BOOL)]] {
        let mut gob = Vec::new();
        encode::define_struct(&mut gob, "Top", TOP, fields);
        encode::value(&mut gob, |_| ());
        assert_eq!(probe(&gob), Err(GobError::NoCommonField));
    }
}

#[test]
fn of_a_field_sent_twice_the_last_counts() {
    let mut gob = Vec::new();
    let fields = [("Number", id::INT), ("Number", id::INT)];
    encode::define_struct(&mut gob, "Top", TOP, &fields);
    encode::value(&mut gob, |fields| {
        fields.int(1);
        fields.int(-2);
    });
    assert_eq!(probe(&gob), Ok(-2));
}

/// A kind and its parameters: type ids, defined or not, or a length.
fn definition() -> impl Strategy<Value = (u64, Vec<i64>)> {
    (1u64..8, prop::collection::vec(-1i64..72, 0..3))
}

proptest! {
    #[test]
    fn messages_have_the_length_in_front(body: Vec<u8>) {
        let mut out = vec![9];
        encode::message(&mut out, |out| out.extend_from_slice(&body));
        let mut reader = Reader::new(&out[1..]);
        prop_assert_eq!(reader.bytes(), Ok(&body[..]));
        prop_assert!(reader.is_empty());
    }

    /// Definitions and values put together from random parts reach deeper than random bytes do.
    #[test]
    fn random_types_and_values_never_panic(
        definitions in prop::collection::vec(definition(), 0..8),
        value: Vec<u8>,
    ) {
        let mut gob = top(OTHER);
        for (n, (kind, parameters)) in definitions.iter().enumerate() {
            define(&mut gob, *kind, OTHER + n as i64, parameters);
        }
        put_value(&mut gob, &value);
        let _ = probe(&gob);
    }
}
