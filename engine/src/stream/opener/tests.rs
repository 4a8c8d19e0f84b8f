//! What a reader sees of frames at any cut, and which rule ends it.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::{
    super::{FRAME_MAX_BYTES, FRAME_PLAINTEXT_MAX_BYTES, FrameSealer, sealed_len},
    *,
};

const KEY: [u8; 32] = [3; 32];

fn sealed(writes: &[&[u8]]) -> Vec<u8> {
    let mut sealer = FrameSealer::new(&KEY);
    let mut out = Vec::new();
    for write in writes {
        sealer.write(write, &mut out).unwrap();
    }
    out
}

/// Reads with an `out` of `out_len` bytes until nothing more comes.
fn drain(
    opener: &mut FrameOpener,
    input: &mut Slice,
    out_len: usize,
    plaintext: &mut Vec<u8>,
) -> Result<(), FrameError> {
    let mut out = vec![0; out_len];
    loop {
        match opener.read(input, &mut out)? {
            0 => return Ok(()),
            read => plaintext.extend_from_slice(&out[..read]),
        }
    }
}

#[test]
fn a_write_is_cut_into_full_frames_and_a_rest() {
    for (len, frames) in [(0, 0), (1, 1), (4070, 1), (4071, 2), (8140, 2), (10_000, 3)] {
        let out = sealed(&[&vec![1; len]]);
        assert_eq!(out.len(), len + frames * 26);
        assert_eq!(out.len(), sealed_len(len));
    }
    assert_eq!(FRAME_PLAINTEXT_MAX_BYTES, 4070);
}

#[test]
fn sealing_reserves_once_and_opening_keeps_its_memory() {
    let plaintext = vec![5; 3 * FRAME_PLAINTEXT_MAX_BYTES];
    let mut wire = Vec::with_capacity(sealed_len(plaintext.len()));
    let capacity = wire.capacity();
    FrameSealer::new(&KEY).write(&plaintext, &mut wire).unwrap();
    assert_eq!(wire.capacity(), capacity);

    let mut opener = FrameOpener::new(&KEY);
    let mut input = Slice::from_vec(wire);
    let mut capacities = Vec::new();
    while !input.is_empty() {
        drain(&mut opener, &mut input.split_to(1000), 100, &mut Vec::new()).unwrap();
        capacities.push(opener.frame.capacity());
    }
    assert!(capacities.is_sorted(), "memory was given up between frames: {capacities:?}");
    assert!(capacities.last() <= Some(&FRAME_MAX_BYTES));
}

#[test]
fn a_frame_whole_in_the_input_passes_without_being_held() {
    let mut opener = FrameOpener::new(&KEY);
    let mut input = Slice::from_vec(sealed(&[b"first", b"second"]));
    let mut out = [0; 11];
    assert_eq!(opener.read(&mut input, &mut out), Ok(11));
    assert_eq!(&out, b"firstsecond");
    assert_eq!((input.len(), opener.frame.capacity()), (0, 0));
}

#[test]
fn input_that_has_no_room_stays_with_the_caller() {
    let mut opener = FrameOpener::new(&KEY);
    let mut input = Slice::from_vec(sealed(&[b"first", b"second"]));
    let all = input.len();
    assert_eq!(opener.read(&mut input, &mut []), Ok(0));
    assert_eq!(input.len(), all);
    assert_eq!(opener.read(&mut input, &mut [0; 5]), Ok(5));
    assert_eq!(input.len(), all - 5 - 26);
    assert_eq!(opener.read(&mut input, &mut [0; 2]), Ok(2));
    assert!(input.is_empty() && opener.has_unread());
    assert_eq!(opener.finish(), Ok(()));
    let mut out = [0; 9];
    assert_eq!(opener.read(&mut input, &mut out), Ok(4));
    assert_eq!(&out[..4], b"cond");
    assert_eq!(opener.read(&mut input, &mut out), Ok(0));
}

#[test]
fn empty_plaintexts_are_skipped() {
    let mut sealer = crate::noise::Sealer::new(&KEY);
    let mut wire = Vec::new();
    for text in [&b""[..], b"", b"a", b"", b"b", b""] {
        wire.extend_from_slice(&(text.len() as u16 + 24).to_be_bytes());
        sealer.seal(text, &mut wire).unwrap();
    }
    for cut in [1, 30, usize::MAX] {
        let (mut opener, mut input) = (FrameOpener::new(&KEY), Slice::copy_from(&wire));
        let mut plaintext = Vec::new();
        while !input.is_empty() {
            drain(&mut opener, &mut input.split_to(cut), 9, &mut plaintext).unwrap();
        }
        assert_eq!(plaintext, b"ab");
        assert_eq!(opener.finish(), Ok(()));
    }
}

#[test]
fn each_bad_length_names_its_rule_at_any_cut() {
    for (length, error) in [
        (4095, FrameError::TooLong(4095)),
        (65535, FrameError::TooLong(65535)),
        (23, NoiseError::CiphertextTooShort(23).into()),
        (0, NoiseError::CiphertextTooShort(0).into()),
    ] {
        let wire = [&u16::to_be_bytes(length)[..], &[0; 23]].concat();
        for cut in [1, usize::MAX] {
            let (mut opener, mut input) = (FrameOpener::new(&KEY), Slice::copy_from(&wire));
            let mut result = Ok(());
            while result.is_ok() && !input.is_empty() {
                result = drain(&mut opener, &mut input.split_to(cut), 9, &mut Vec::new());
            }
            assert_eq!(result, Err(error));
        }
    }
}

#[test]
fn an_error_comes_after_the_plaintext_before_it_and_is_final() {
    let mut wire = sealed(&[b"good", b"forged"]);
    let last = wire.len() - 1;
    wire[last] ^= 1;
    let genuine = sealed(&[b"good", b"forged", b"late"]).split_off(wire.len());
    for cut in [1, 30, usize::MAX] {
        let (mut opener, mut input) = (FrameOpener::new(&KEY), Slice::copy_from(&wire));
        let mut plaintext = Vec::new();
        let mut result = Ok(());
        while result.is_ok() && !input.is_empty() {
            result = drain(&mut opener, &mut input.split_to(cut), 64, &mut plaintext);
        }
        let forged = Err(FrameError::Noise(NoiseError::Decrypt));
        assert_eq!((result, &plaintext[..]), (forged, &b"good"[..]));
        let more = &mut Slice::copy_from(&genuine);
        assert_eq!(drain(&mut opener, more, 64, &mut plaintext), forged);
        assert_eq!((more.len(), opener.finish()), (genuine.len(), forged));
    }
}

#[test]
fn a_repeated_frame_is_refused() {
    let frame = sealed(&[b"once"]);
    let mut input = Slice::from_vec([&frame[..], &frame[..]].concat());
    let mut plaintext = Vec::new();
    let error = drain(&mut FrameOpener::new(&KEY), &mut input, 64, &mut plaintext).unwrap_err();
    assert_eq!(error, NoiseError::CounterNotGreater { counter: 1, last: 1 }.into());
    assert_eq!(plaintext, b"once");
}

#[test]
fn an_end_inside_a_frame_is_an_error_and_at_its_edge_is_not() {
    let wire = sealed(&[b"text"]);
    for end in 0..=wire.len() {
        let mut opener = FrameOpener::new(&KEY);
        drain(&mut opener, &mut Slice::copy_from(&wire[..end]), 64, &mut Vec::new()).unwrap();
        let whole = end == 0 || end == wire.len();
        let expected = if whole { Ok(()) } else { Err(FrameError::Truncated(end)) };
        assert_eq!(opener.finish(), expected, "after {end} bytes");
    }
}

proptest! {
    #[test]
    fn any_cut_of_input_and_output_gives_the_same_plaintext(
        writes in proptest::collection::vec(0usize..9000, 0..6),
        cuts in proptest::collection::vec((1usize..6000, 1usize..6000), 1..20),
    ) {
        let written: Vec<u8> = (0..writes.iter().sum()).map(|i: usize| (i % 251) as u8).collect();
        let (mut rest, mut wire) = (&written[..], Vec::new());
        let mut sealer = FrameSealer::new(&KEY);
        for len in writes {
            let (write, behind) = rest.split_at(len);
            sealer.write(write, &mut wire).unwrap();
            rest = behind;
        }
        let (mut opener, mut input) = (FrameOpener::new(&KEY), Slice::from_vec(wire));
        let mut plaintext = Vec::new();
        for (input_len, out_len) in cuts.into_iter().cycle() {
            let mut piece = input.split_to(input_len);
            drain(&mut opener, &mut piece, out_len, &mut plaintext).unwrap();
            prop_assert!(piece.is_empty() && !opener.has_unread());
            prop_assert!(opener.frame.len() < FRAME_MAX_BYTES);
            if input.is_empty() {
                break;
            }
        }
        prop_assert_eq!(opener.finish(), Ok(()));
        prop_assert_eq!(plaintext, written);
    }

    #[test]
    fn random_bytes_yield_an_error_or_nothing(
        bytes in proptest::collection::vec(any::<u8>(), 0..9000),
        cut in 1usize..5000,
        small in any::<bool>(),
    ) {
        let mut input = Slice::from_vec(bytes);
        if small && input.len() > 1 {
            // A length that passes, so that the ciphertext is looked at.
            input = Slice::from_vec([&[0, 40], &input[..]].concat());
        }
        let mut opener = FrameOpener::new(&KEY);
        let mut plaintext = Vec::new();
        while !input.is_empty() {
            if drain(&mut opener, &mut input.split_to(cut), 100, &mut plaintext).is_err() {
                break;
            }
        }
        prop_assert!(plaintext.is_empty());
    }

    #[test]
    fn every_flipped_bit_of_a_frame_fails(len in 0usize..30, bit in 0usize..8) {
        let text = vec![1; len];
        let mut wire = sealed(&[&text, b"next"]);
        for at in 0..sealed_len(len) {
            wire[at] ^= 1 << bit;
            let mut plaintext = Vec::new();
            let mut opener = FrameOpener::new(&KEY);
            let drained = drain(&mut opener, &mut Slice::copy_from(&wire), 99, &mut plaintext);
            prop_assert!(drained.and_then(|()| opener.finish()).is_err());
            prop_assert!(plaintext.is_empty());
            wire[at] ^= 1 << bit;
        }
    }
}
