//! End-to-end frames (`wire.md §2.3`, `§4.6`): any bytes to an opener, and genuine frames cut and damaged.
//!
//! Input: `cut, damage position (2), damage, bytes`. With damage 0 the bytes are sealed, cut and must come back
//! whole; else one byte is changed, and what comes back must be a prefix.

use dmsg_engine::{
    pool::Slice,
    stream::{FrameOpener, FrameSealer},
};

use crate::input::{Input, pieces};

const KEY: [u8; 32] = [7; 32];

/// One input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (cut, position, damage) = (input.byte(), input.word(), input.byte());
    let bytes = input.rest();
    open(bytes, cut);
    let mut sealed = Vec::new();
    let mut sealer = FrameSealer::new(&KEY);
    for part in bytes.chunks(700) {
        sealer.write(part, &mut sealed).expect("counters are far from their end");
    }
    if let Some(byte) = sealed.get_mut(usize::from(position)) {
        *byte ^= damage;
    }
    let (got, intact) = open(&sealed, cut);
    assert!(bytes.starts_with(&got), "damaged frames gave other bytes");
    if damage == 0 {
        assert!(intact && got == bytes, "genuine frames did not come back");
    }
}

/// What an opener gives for `bytes`, and whether it ended without an error at a frame's end.
fn open(bytes: &[u8], cut: u8) -> (Vec<u8>, bool) {
    let mut opener = FrameOpener::new(&KEY);
    let (mut got, mut out) = (Vec::new(), [0; 999]);
    for piece in pieces(bytes, cut) {
        let mut slice = Slice::copy_from(piece);
        loop {
            match opener.read(&mut slice, &mut out) {
                Ok(0) if slice.is_empty() => break,
                Ok(0) => panic!("an opener neither reads nor gives"),
                Ok(count) => got.extend_from_slice(&out[..count]),
                Err(_) => return (got, false),
            }
        }
    }
    (got, opener.finish().is_ok())
}
