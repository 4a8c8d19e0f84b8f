//! The inner state after every message against the vectors, which no caller can see, and the rules
//! of turns.

#![allow(clippy::unwrap_used)]

use serde_json::Value;

use super::{symmetric::SymmetricState, *};
use crate::identity::SecretKey;

const VECTORS: [(&str, &str); 2] = [
    ("XK", include_str!("../../tests/vectors/noise_xk.json")),
    ("KK", include_str!("../../tests/vectors/noise_kk.json")),
];

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("{field} is text in {value}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn secret(case: &Value, field: &str) -> SecretKey {
    text(case, field).parse().unwrap()
}

/// Initiator and responder of a case.
fn pair(pattern: &str, case: &Value) -> [Handshake; 2] {
    let initiator = secret(case, "initiator_static_sk");
    let responder = secret(case, "responder_static_sk");
    let ephemeral_i = secret(case, "initiator_ephemeral_sk");
    let ephemeral_r = secret(case, "responder_ephemeral_sk");
    let (initiator_pk, responder_pk) = (initiator.public_key(), responder.public_key());
    match pattern {
        "XK" => [
            Handshake::xk_initiator(&initiator, responder_pk, ephemeral_i),
            Handshake::xk_responder(&responder, ephemeral_r),
        ],
        _ => [
            Handshake::kk_initiator(&initiator, responder_pk, ephemeral_i),
            Handshake::kk_responder(&responder, initiator_pk, ephemeral_r),
        ],
    }
}

fn some_pair(pattern: &str) -> [Handshake; 2] {
    let key = |seed: &str| SecretKey::from_seed(seed.as_bytes());
    let (i, r) = (key("initiator"), key("responder"));
    match pattern {
        "XK" => [
            Handshake::xk_initiator(&i, r.public_key(), key("ei")),
            Handshake::xk_responder(&r, key("er")),
        ],
        _ => [
            Handshake::kk_initiator(&i, r.public_key(), key("ei")),
            Handshake::kk_responder(&r, i.public_key(), key("er")),
        ],
    }
}

#[test]
fn the_state_after_every_step_is_that_of_the_vectors() {
    for (pattern, file) in VECTORS {
        let file: Value = serde_json::from_str(file).unwrap();
        let cases = file["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 3);
        for case in cases {
            assert_eq!(
                hex(SymmetricState::new(text(case, "protocol_name")).hash()),
                text(case, "h_after_empty_prologue")
            );
            let mut sides = pair(pattern, case);
            for side in &sides {
                assert_eq!(hex(&side.hash()), text(&case["state_after_premessages"], "h"));
            }
            let messages = case["messages"].as_array().unwrap();
            assert_eq!(messages.len(), if pattern == "XK" { 3 } else { 2 });
            for (turn, message) in messages.iter().enumerate() {
                let mut bytes = Vec::new();
                sides[turn % 2].write_message(&[], &mut bytes).unwrap();
                sides[1 - turn % 2].read_message(&bytes).unwrap();
                assert_eq!(hex(&bytes), text(message, "message"));
                let after = &message["state_after"];
                for side in &sides {
                    let (chaining_key, key, count) = side.symmetric().secrets();
                    assert_eq!(hex(&side.hash()), text(after, "h"));
                    assert_eq!(hex(&chaining_key), text(after, "ck"));
                    assert_eq!(hex(&key), text(after, "k"));
                    assert_eq!(Some(count), after["n"].as_u64());
                }
            }
        }
    }
}

#[test]
fn a_side_out_of_turn_is_told_and_can_go_on() {
    for pattern in ["XK", "KK"] {
        let [mut initiator, mut responder] = some_pair(pattern);
        let mut message = Vec::new();
        assert_eq!(responder.write_message(&[], &mut message), Err(NoiseError::OutOfTurn));
        assert_eq!(initiator.read_message(&[0; 49]), Err(NoiseError::OutOfTurn));
        assert!(message.is_empty());
        let [mut writer, mut reader] = [initiator, responder];
        while !writer.is_finished() {
            message.clear();
            writer.write_message(&[], &mut message).unwrap();
            reader.read_message(&message).unwrap();
            (writer, reader) = (reader, writer);
        }
        for side in [&mut writer, &mut reader] {
            assert!(!side.is_our_turn());
            assert_eq!(side.write_message(&[], &mut Vec::new()), Err(NoiseError::OutOfTurn));
            assert_eq!(side.read_message(&message), Err(NoiseError::OutOfTurn));
        }
    }
}

#[test]
fn a_failed_handshake_stays_failed() {
    let [mut initiator, mut responder] = some_pair("KK");
    let mut message = Vec::new();
    initiator.write_message(&[], &mut message).unwrap();
    let mut forged = message.clone();
    forged[48] ^= 1;
    assert_eq!(responder.read_message(&forged), Err(NoiseError::Decrypt));
    assert_eq!(responder.read_message(&message), Err(NoiseError::HandshakeOver));
    assert_eq!(responder.write_message(&[], &mut Vec::new()), Err(NoiseError::HandshakeOver));
    assert!(!responder.is_our_turn() && !responder.is_finished());
}

#[test]
fn each_malformed_message_names_its_rule() {
    let [mut initiator, _] = some_pair("XK");
    let mut message = Vec::new();
    initiator.write_message(&[], &mut message).unwrap();
    let refusal = |message: &[u8]| some_pair("XK")[1].read_message(message).unwrap_err();

    for len in 0..49 {
        assert_eq!(refusal(&message[..len]), NoiseError::MessageTooShort(len));
    }
    assert_eq!(refusal(&[0; 4095]), NoiseError::MessageTooLong(4095));
    // No square for x = 5; a first byte that is neither 02 nor 03; x not below p.
    let mut no_square = [0; 33];
    (no_square[0], no_square[32]) = (2, 5);
    let mut above_p = [0xff; 33];
    above_p[0] = 2;
    for (bad_key, error) in [
        ([0; 33], KeyError::Null),
        (no_square, KeyError::NotOnCurve),
        ([4; 33], KeyError::NotOnCurve),
        (above_p, KeyError::NotOnCurve),
    ] {
        let changed = [&bad_key, &message[33..]].concat();
        assert_eq!(refusal(&changed), NoiseError::InvalidKey(error));
    }
}

#[test]
fn payloads_up_to_the_limit_pass_in_every_message() {
    for pattern in ["XK", "KK"] {
        let [mut writer, mut reader] = some_pair(pattern);
        while !writer.is_finished() {
            let payload = vec![7; PAYLOAD_MAX_BYTES];
            let mut message = Vec::new();
            assert_eq!(
                writer.write_message(&[7; PAYLOAD_MAX_BYTES + 1], &mut message),
                Err(NoiseError::MessageTooLong(PAYLOAD_MAX_BYTES + 1))
            );
            writer.write_message(&payload, &mut message).unwrap();
            assert!(message.len() <= MESSAGE_MAX_BYTES);
            assert_eq!(reader.read_message(&message).unwrap(), payload);
            (writer, reader) = (reader, writer);
        }
        assert_eq!(*writer.into_keys().send, *reader.into_keys().recv);
    }
}

#[test]
#[should_panic(expected = "unfinished")]
fn keys_of_an_unfinished_handshake_are_a_bug() {
    let [initiator, _] = some_pair("XK");
    drop(initiator.into_keys());
}

#[test]
fn debug_output_shows_no_secret() {
    let [initiator, _] = some_pair("KK");
    let shown = format!("{initiator:?}");
    assert!(!shown.contains(&SecretKey::from_seed(b"initiator").to_hex()[..]), "{shown}");
    assert!(!shown.contains(&SecretKey::from_seed(b"ei").to_hex()[..]), "{shown}");
}
