//! Signed objects (`wire.md §4.1`–`§4.5`): parsing, verification of hostile bytes, and damage to genuine ones.
//!
//! Input: `mode, position (2), damage, bytes`. Even modes take the bytes as an object; odd ones sign a request that
//! carries them and change one byte, after which it must not verify.

use dmsg_engine::{
    identity::SecretKey,
    wire::{Dialect, SignedObject, StreamRequest, StreamResponse, WireAddr},
};

use crate::input::Input;

/// One input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (mode, position, damage) = (input.byte(), input.word(), input.byte());
    let (a, b) = (SecretKey::from_seed(b"a"), SecretKey::from_seed(b"b"));
    if mode % 2 == 0 {
        let Ok(object) = SignedObject::from_bytes(input.rest().to_vec()) else { return };
        if let Ok(request) = StreamRequest::decode(object.gob()) {
            drop(request.verify(&object));
        }
        if let Ok(response) = StreamResponse::decode(object.gob()) {
            let forged = response.verify(&object, &[1; 32], &b.public_key()).is_ok();
            assert!(!forged || object.verify(&b.public_key()).is_ok(), "unsigned, yet verified");
        }
        return;
    }
    let request = StreamRequest {
        timestamp: 1,
        src: WireAddr { key: Some(a.public_key()), port: 49153 },
        dst: WireAddr { key: Some(b.public_key()), port: 80 },
        noise_msg: input.rest().iter().copied().take(2000).collect(),
        ..StreamRequest::default()
    };
    let mut bytes = SignedObject::sign(&a, &request.encode(Dialect::G24)).as_bytes().to_vec();
    let at = usize::from(position) % bytes.len();
    bytes[at] ^= damage;
    let verdict = SignedObject::from_bytes(bytes).ok().and_then(|object| {
        let request = StreamRequest::decode(object.gob()).ok()?;
        request.verify(&object).ok()
    });
    assert_eq!(verdict.is_some(), damage == 0, "damage at {at} by {damage:#x}");
}
