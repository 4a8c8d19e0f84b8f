//! The rules of both framings, at any cut.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::{
    identity::SecretKey,
    noise::{Handshake, NoiseError, ObjectOpener, Sealer},
    pool::Slice,
};

fn key(name: &str) -> SecretKey {
    SecretKey::from_seed(name.as_bytes())
}

fn initiator(out: &mut Vec<u8>) -> SessionHandshake {
    SessionHandshake::initiator(
        &key("client"),
        key("server").public_key(),
        key("client ephemeral"),
        out,
    )
}

fn responder() -> SessionHandshake {
    SessionHandshake::responder(&key("server"), key("server ephemeral"))
}

/// The three framed messages of a session between `initiator()` and `responder()`.
fn messages() -> [Vec<u8>; 3] {
    let [mut first, mut second, mut third] = [const { Vec::new() }; 3];
    let mut client = initiator(&mut first);
    responder().receive(Slice::copy_from(&first), &mut second).unwrap();
    client.receive(Slice::copy_from(&second), &mut third).unwrap();
    [first, second, third]
}

/// Feeds pieces whose lengths cycle through `cuts`; what is behind the last message comes back with
/// it.
fn feed(
    handshake: &mut SessionHandshake,
    bytes: &[u8],
    cuts: &[usize],
    out: &mut Vec<u8>,
) -> Result<Option<(Established, usize)>, HandshakeError> {
    let mut input = Slice::copy_from(bytes);
    for cut in cuts.iter().cycle() {
        if input.is_empty() {
            break;
        }
        if let Step::Done(done) = handshake.receive(input.split_to(*cut), out)? {
            return Ok(Some((*done, input.len())));
        }
    }
    Ok(None)
}

fn objects() -> (Sealer, ObjectOpener) {
    (Sealer::new(&[5; 32]), ObjectOpener::new(&[5; 32]))
}

#[test]
fn both_sides_agree_and_can_talk() {
    let [first, second, third] = messages();
    assert_eq!([first.len(), second.len(), third.len()], [51, 51, 67]);
    let mut client_side = initiator(&mut Vec::new());
    let mut server_side = responder();
    let mut out = Vec::new();
    let to_server = [first, third].concat();
    let (mut server, _) = feed(&mut server_side, &to_server, &[999], &mut out).unwrap().unwrap();
    let (mut client, _) = feed(&mut client_side, &second, &[999], &mut out).unwrap().unwrap();
    assert_eq!(client.remote, key("server").public_key());
    assert_eq!(server.remote, key("client").public_key());
    assert_eq!(client.handshake_hash, server.handshake_hash);
    for (from, to) in
        [(&mut client.sealer, &mut server.opener), (&mut server.sealer, &mut client.opener)]
    {
        let mut sealed = Vec::new();
        write_object(from, b"object", &mut sealed).unwrap();
        let read = ObjectReader::new().read(&mut Slice::from_vec(sealed), to).unwrap();
        assert_eq!(read, Some(Object::Signed(b"object".to_vec())));
    }
    for side in [&mut client_side, &mut server_side] {
        let error = side.receive(Slice::copy_from(b"more"), &mut out).unwrap_err();
        assert_eq!((error, error.code()), (HandshakeError::Over, None));
    }
}

#[test]
fn a_length_above_the_limit_ends_the_handshake_before_anything_is_held() {
    let mut handshake = responder();
    let error = handshake.receive(Slice::copy_from(&[0x0f, 0xff]), &mut Vec::new()).unwrap_err();
    assert_eq!(error, HandshakeError::TooLong(4095));
    let error = handshake.receive(Slice::copy_from(&[0]), &mut Vec::new()).unwrap_err();
    assert_eq!(error, HandshakeError::Over);
}

#[test]
fn a_message_with_a_payload_is_taken() {
    let mut noise = Handshake::xk_initiator(
        &key("client"),
        key("server").public_key(),
        key("client ephemeral"),
    );
    let mut offer = Vec::new();
    noise.write_message(&[7; 1184], &mut offer).unwrap();
    let framed = [&u16::to_be_bytes(1233)[..], &offer].concat();
    let mut answer = Vec::new();
    assert!(feed(&mut responder(), &framed, &[100], &mut answer).unwrap().is_none());
    assert_eq!(noise.read_message(&answer[2..]).unwrap(), b"");
}

#[test]
fn an_empty_message_is_too_short() {
    let mut handshake = responder();
    let error = handshake.receive(Slice::copy_from(&[0, 0]), &mut Vec::new()).unwrap_err();
    assert_eq!(error, NoiseError::MessageTooShort(0).into());
}

#[test]
fn a_server_is_known_by_its_key_alone() {
    let [first, ..] = messages();
    let mut other = SessionHandshake::responder(&key("other"), key("server ephemeral"));
    let error = other.receive(Slice::from_vec(first), &mut Vec::new()).unwrap_err();
    assert_eq!(error, NoiseError::Decrypt.into());
}

#[test]
fn the_ping_marker_and_objects_are_told_apart_at_any_cut() {
    let (mut sealer, opener) = objects();
    let mut wire = PING_MARKER.to_vec();
    write_object(&mut sealer, b"first", &mut wire).unwrap();
    wire.extend(PING_MARKER);
    let opener = &mut { opener };
    let mut reader = ObjectReader::new();
    let mut read = Vec::new();
    for byte in wire {
        read.extend(reader.read(&mut Slice::copy_from(&[byte]), opener).unwrap());
    }
    assert_eq!(read, [Object::Ping, Object::Signed(b"first".to_vec()), Object::Ping]);
    assert_eq!(reader.held_bytes(), 0);
}

#[test]
fn bytes_behind_an_object_stay_in_the_input() {
    let (mut sealer, mut opener) = objects();
    let mut wire = Vec::new();
    write_object(&mut sealer, b"object", &mut wire).unwrap();
    wire.extend(b"behind");
    let mut input = Slice::from_vec(wire);
    let read = ObjectReader::new().read(&mut input, &mut opener).unwrap();
    assert_eq!((read, &*input), (Some(Object::Signed(b"object".to_vec())), &b"behind"[..]));
}

#[test]
fn the_longest_object_passes_and_one_byte_more_does_not() {
    let (mut sealer, mut opener) = objects();
    let mut wire = b"before".to_vec();
    assert_eq!(
        write_object(&mut sealer, &[1; 65512], &mut wire),
        Err(ObjectFrameError::TooLong { len: 65536, max: OBJECT_MAX_BYTES })
    );
    assert_eq!(wire, b"before");
    wire.clear();
    write_object(&mut sealer, &[1; 65511], &mut wire).unwrap();
    assert_eq!(wire[..10], [0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 1]);
    let mut input = Slice::from_vec(wire);
    let read = ObjectReader::new().read(&mut input.clone(), &mut opener).unwrap();
    assert_eq!(read, Some(Object::Signed(vec![1; 65511])));
    let error = ObjectReader::with_max(2048).read(&mut input, &mut opener).unwrap_err();
    assert_eq!(error, ObjectFrameError::TooLong { len: 65535, max: 2048 });
}

#[test]
fn objects_of_a_session_may_overtake_each_other_but_not_repeat() {
    let (mut sealer, mut opener) = objects();
    let [mut first, mut second] = [const { Vec::new() }; 2];
    write_object(&mut sealer, b"first", &mut first).unwrap();
    write_object(&mut sealer, b"second", &mut second).unwrap();
    let mut read = |wire: &[u8]| ObjectReader::new().read(&mut Slice::copy_from(wire), &mut opener);
    assert_eq!(read(&second), Ok(Some(Object::Signed(b"second".to_vec()))));
    assert_eq!(read(&first), Ok(Some(Object::Signed(b"first".to_vec()))));
    assert_eq!(read(&first), Err(NoiseError::CounterSeen(1).into()));
    assert_eq!(read(&second), Err(NoiseError::CounterSeen(2).into()));
    assert_eq!(read(&[0, 3, 1, 2, 3]), Err(NoiseError::CiphertextTooShort(3).into()));
}

#[test]
fn every_flipped_bit_of_a_message_fails_or_starves() {
    let messages = messages();
    for (which, message) in messages.iter().enumerate() {
        for bit in 0..8 * message.len() {
            let mut changed = message.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let mut out = Vec::new();
            let mut side = if which == 1 { initiator(&mut Vec::new()) } else { responder() };
            if which == 2 {
                side.receive(Slice::copy_from(&messages[0]), &mut out).unwrap();
                out.clear();
            }
            let result = side.receive(Slice::from_vec(changed), &mut out);
            assert!(matches!(result, Err(_) | Ok(Step::Pending)), "bit {bit} of message {which}");
            assert!(out.is_empty());
        }
    }
}

proptest! {
    #[test]
    fn a_responder_keeps_what_comes_behind_at_any_cut(
        behind in proptest::collection::vec(any::<u8>(), 0..300),
        cuts in proptest::collection::vec(1usize..200, 1..6),
    ) {
        let [first, second, third] = messages();
        let sent = [&first[..], &third, &behind].concat();
        let mut answer = Vec::new();
        let (done, unfed) = feed(&mut responder(), &sent, &cuts, &mut answer).unwrap().unwrap();
        prop_assert_eq!(answer, second);
        prop_assert_eq!(&*done.rest, &behind[..behind.len() - unfed]);
    }

    #[test]
    fn an_initiator_refuses_what_comes_behind(
        behind in proptest::collection::vec(any::<u8>(), 1..300),
        cut in 1usize..51,
    ) {
        let [_, second, third] = messages();
        let sent = [&second[..], &behind].concat();
        let mut out = Vec::new();
        // It notices if the bytes came together with the last of message 2, and then says nothing
        // more.
        let result = feed(&mut initiator(&mut Vec::new()), &sent, &[cut, 1000], &mut out);
        prop_assert_eq!(result.unwrap_err(), HandshakeError::TrailingBytes);
        prop_assert!(out.is_empty());
        let result = feed(&mut initiator(&mut Vec::new()), &sent, &[second.len()], &mut out);
        prop_assert_eq!(result.unwrap().unwrap().1, behind.len());
        prop_assert_eq!(out, third);
    }

    #[test]
    fn random_bytes_never_finish_a_handshake(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        length in 0u16..200,
        cuts in proptest::collection::vec(1usize..200, 1..6),
    ) {
        let (client_hello, _) = bytes.split_at(bytes.len() / 2);
        for sent in [bytes.clone(), [&length.to_be_bytes()[..], client_hello].concat()] {
            for mut side in [initiator(&mut Vec::new()), responder()] {
                let mut out = Vec::new();
                prop_assert!(!matches!(feed(&mut side, &sent, &cuts, &mut out), Ok(Some(_))));
                prop_assert!(out.is_empty());
            }
        }
    }

    #[test]
    fn random_bytes_hold_no_object(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        length in 1u16..200,
    ) {
        let (_, mut opener) = objects();
        let mut input = Slice::from_vec([&length.to_be_bytes()[..], &bytes].concat());
        let result = ObjectReader::new().read(&mut input, &mut opener);
        if bytes.len() < usize::from(length) {
            prop_assert_eq!(result, Ok(None));
        } else {
            prop_assert!(matches!(result, Err(ObjectFrameError::Noise(_))));
        }
    }
}
