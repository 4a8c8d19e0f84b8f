//! Noise XK and KK against the recorded handshakes of the Go implementation, through the public
//! API.

#![allow(clippy::unwrap_used)]

use dmsg_engine::{
    identity::{SecretKey, sha256},
    noise::{Handshake, NoiseError, ObjectOpener, Sealer, StreamOpener, TransportKeys},
    pool::Slice,
    stream::{FrameOpener, FrameSealer},
};
use serde_json::Value;

fn files() -> [(&'static str, Value); 2] {
    [
        ("XK", serde_json::from_str(include_str!("vectors/noise_xk.json")).unwrap()),
        ("KK", serde_json::from_str(include_str!("vectors/noise_kk.json")).unwrap()),
    ]
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().unwrap_or_else(|| panic!("{field} is a list"))
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("{field} is text"))
}

fn bytes(value: &Value, field: &str) -> Vec<u8> {
    unhex(text(value, field))
}

fn unhex(text: &str) -> Vec<u8> {
    let byte = |i| u8::from_str_radix(&text[i..i + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
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

fn side(from: &str) -> usize {
    ["initiator", "responder"].iter().position(|name| *name == from).unwrap()
}

/// Plays the messages of a case with these payloads, comparing every byte, and checks the outcome
/// up to the split.
fn play(pattern: &str, case: &Value, payloads: &[Vec<u8>]) -> [TransportKeys; 2] {
    let mut sides = pair(pattern, case);
    let messages = list(case, "messages");
    assert_eq!(messages.len(), payloads.len());
    for (message, payload) in messages.iter().zip(payloads) {
        let writer = side(text(message, "from"));
        assert!(sides[writer].is_our_turn() && !sides[1 - writer].is_our_turn());
        let expected = bytes(message, "message");
        let mut written = Vec::new();
        sides[writer].write_message(payload, &mut written).unwrap();
        assert_eq!(written, expected);
        assert_eq!(&sides[1 - writer].read_message(&expected).unwrap(), payload);
        if let Some(hash) = message.get("h_after") {
            let hash = unhex(hash.as_str().unwrap());
            assert!(sides.iter().all(|side| side.hash()[..] == hash));
        }
    }
    assert!(sides.iter().all(Handshake::is_finished));
    let known = sides.each_ref().map(|side| side.remote_static().unwrap().to_string());
    assert_eq!(known, [text(case, "responder_static_pk"), text(case, "initiator_static_pk")]);

    let keys = sides.map(Handshake::into_keys);
    let (first, second) = (bytes(case, "split_first"), bytes(case, "split_second"));
    let (to_responder, to_initiator) =
        if pattern == "XK" { (second, first) } else { (first, second) };
    for (ours, send, recv) in
        [(&keys[0], &to_responder, &to_initiator), (&keys[1], &to_initiator, &to_responder)]
    {
        assert_eq!(ours.handshake_hash[..], bytes(case, "handshake_hash"));
        assert_eq!((&ours.send[..], &ours.recv[..]), (&send[..], &recv[..]));
    }
    keys
}

fn assert_final_keys(case: &Value, keys: &[TransportKeys; 2]) {
    let to_responder = bytes(case, "key_initiator_to_responder");
    let to_initiator = bytes(case, "key_responder_to_initiator");
    assert_eq!((&keys[0].send[..], &keys[0].recv[..]), (&to_responder[..], &to_initiator[..]));
    assert_eq!((&keys[1].send[..], &keys[1].recv[..]), (&to_initiator[..], &to_responder[..]));
}

/// Seals every transport frame of the case, compares it, and opens it in each of the three ways.
fn check_transport(case: &Value, keys: &[TransportKeys; 2]) -> usize {
    let mut sealers = keys.each_ref().map(|k| Sealer::new(&k.send));
    let mut streams = keys.each_ref().map(|k| StreamOpener::new(&k.recv));
    let mut objects = keys.each_ref().map(|k| ObjectOpener::new(&k.recv));
    let mut framed = keys.each_ref().map(|k| FrameOpener::new(&k.recv));
    let frames = list(case, "transport");
    for frame in frames {
        let writer = side(text(frame, "from"));
        let reader = 1 - writer;
        let plaintext = bytes(frame, "plaintext");
        let expected = bytes(frame, "framed");
        let mut ciphertext = Vec::new();
        sealers[writer].seal(&plaintext, &mut ciphertext).unwrap();
        assert_eq!(ciphertext, expected[2..]);
        assert_eq!(ciphertext[..8], frame["nonce"].as_u64().unwrap().to_be_bytes());
        assert_eq!(expected[..2], u16::try_from(ciphertext.len()).unwrap().to_be_bytes());

        assert_eq!(objects[reader].open(&ciphertext).unwrap(), plaintext);
        let mut out = vec![0; plaintext.len() + 1];
        let read = framed[reader].read(&mut Slice::copy_from(&expected), &mut out).unwrap();
        assert_eq!(out[..read], plaintext);
        assert_eq!(streams[reader].open_in_place(&mut ciphertext).unwrap(), plaintext);
    }
    frames.len()
}

#[test]
fn handshakes_and_transport() {
    for (pattern, file) in files() {
        let cases = list(&file, "cases");
        let mut frames = 0;
        for case in cases {
            let none = vec![Vec::new(); list(case, "messages").len()];
            let keys = play(pattern, case, &none);
            assert_final_keys(case, &keys);
            frames += check_transport(case, &keys);
        }
        assert_eq!((cases.len(), frames), (3, 10 + 8 + 8));
    }
}

/// The cases that have this group of checks, which is the first of each file.
fn cases_with<'a>(file: &'a Value, group: &str) -> Vec<(&'a Value, &'a Value)> {
    let cases = list(file, "cases").iter();
    let found: Vec<_> = cases.filter_map(|case| Some((case, case.get(group)?))).collect();
    assert_eq!(found.len(), 1);
    found
}

#[test]
fn a_write_of_10000_bytes() {
    for (pattern, file) in files() {
        for (case, expected) in cases_with(&file, "stream_write_10000") {
            let none = vec![Vec::new(); list(case, "messages").len()];
            let [initiator, responder] = play(pattern, case, &none);
            let nonces: Vec<_> =
                list(expected, "nonces").iter().map(|n| n.as_u64().unwrap()).collect();

            let mut sealer = FrameSealer::new(&initiator.send);
            let mut skipped = Vec::new();
            (1..nonces[0]).for_each(|_| sealer.write(b"x", &mut skipped).unwrap());
            let plaintext: Vec<u8> = (0..10000).map(|i| i as u8).collect();
            let mut written = Vec::new();
            sealer.write(&plaintext, &mut written).unwrap();

            assert_eq!(Some(written.len() as u64), expected["bytes_written"].as_u64());
            assert_eq!(sha256(&written)[..], bytes(expected, "sha256"));
            let mut rest = &written[..];
            for (length, nonce) in list(expected, "length_prefixes").iter().zip(nonces) {
                let len = usize::from(u16::from_be_bytes(*rest.first_chunk().unwrap()));
                assert_eq!(Some(len as u64), length.as_u64());
                assert_eq!(rest[2..10], nonce.to_be_bytes());
                rest = &rest[2 + len..];
            }
            assert!(rest.is_empty());

            let mut out = vec![0; 10001];
            let mut opener = FrameOpener::new(&responder.recv);
            assert_eq!(opener.read(&mut Slice::from_vec(written), &mut out), Ok(10000));
            assert_eq!(out[..10000], plaintext);
        }
    }
}

/// The file has what Go says, which takes the counter of a forged frame as seen. We do not, and so
/// differ at the last three steps, to the benefit of the genuine frames.
#[test]
fn receive_rules_of_a_stream() {
    for (pattern, file) in files() {
        for (case, rules) in cases_with(&file, "receive_rules_stream") {
            let none = vec![Vec::new(); list(case, "messages").len()];
            let [_, responder] = play(pattern, case, &none);
            let mut opener = StreamOpener::new(&responder.recv);
            let results: Vec<_> = rules
                .as_array()
                .unwrap()
                .iter()
                .map(|rule| opener.open_in_place(&mut bytes(rule, "input")).map(|_| ()))
                .collect();
            let not_greater = |counter, last| Err(NoiseError::CounterNotGreater { counter, last });
            assert_eq!(
                results,
                [
                    Ok(()),
                    not_greater(10, 10),
                    Ok(()),
                    not_greater(11, 12),
                    Err(NoiseError::Decrypt),
                    // Go: refused, as the forgery with this counter was before it.
                    Ok(()),
                    Err(NoiseError::CiphertextTooShort(7)),
                    // Go: an authentication failure that leaves 2^40 as the last counter.
                    Err(NoiseError::CiphertextTooShort(8)),
                    // Go: refused for that.
                    Ok(()),
                ]
            );
        }
    }
}

#[test]
fn post_quantum_offers_are_answered_or_ignored() {
    for (pattern, file) in files() {
        let cases = list(&file["pq_hybrid"], "cases");
        let mut answered = 0;
        for case in cases {
            let takes_part = case["responder_does_pq"].as_bool().unwrap();
            answered += usize::from(takes_part);
            let mut payloads = vec![Vec::new(); list(case, "messages").len()];
            payloads[0] = bytes(case, "mlkem768_encapsulation_key");
            if takes_part {
                payloads[1] = bytes(case, "mlkem768_ciphertext");
            }
            for (message, payload) in list(case, "messages").iter().zip(&payloads) {
                assert_eq!(message["payload_len"].as_u64(), Some(payload.len() as u64));
                let len = bytes(message, "message").len() as u64;
                assert_eq!(message["message_len"].as_u64(), Some(len));
            }
            let mut keys = play(pattern, case, &payloads);
            if takes_part {
                let secret = bytes(case, "mlkem768_shared_secret").try_into().unwrap();
                keys = keys.map(|k| k.mix_secret(&secret));
            }
            assert_final_keys(case, &keys);
            assert_eq!(check_transport(case, &keys), 4);
        }
        assert_eq!((cases.len(), answered), (2, 1));
    }
}
