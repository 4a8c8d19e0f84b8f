//! No `Debug` of anything that holds a secret shows the secret, in hex or as a list of numbers.

#![allow(clippy::unwrap_used, missing_docs)]

use std::fmt::Debug;

use dmsg_engine::{
    client::ClientConfig,
    identity::SecretKey,
    noise::{Handshake, ObjectOpener, Sealer, StreamOpener},
    pool::Slice,
    server::ServerConfig,
    session::{SessionHandshake, Step},
    stream::{FrameOpener, FrameSealer},
};

/// Each way in which a careless `Debug` would show `secret`: any four bytes of it in a row.
fn assert_hidden(what: &dyn Debug, secrets: &[[u8; 32]]) {
    for text in [format!("{what:?}"), format!("{what:#?}")] {
        let dense: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        for window in secrets.iter().flat_map(|secret| secret.windows(4)) {
            let hex: String = window.iter().map(|byte| format!("{byte:02x}")).collect();
            let list: String = window.iter().map(|byte| format!("{byte},")).collect();
            assert!(!dense.to_lowercase().contains(&hex), "{text}");
            assert!(!dense.contains(list.trim_end_matches(',')), "{text}");
        }
    }
}

struct Shown(String);

impl Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[test]
fn the_check_finds_a_secret_that_is_shown() {
    let secret = *SecretKey::from_seed(b"shown").to_bytes();
    let hex: String = secret.iter().map(|byte| format!("{byte:02X}")).collect();
    for shown in [&secret as &dyn Debug, &hex, &Some(&secret[3..20])] {
        let text = format!("{shown:?}");
        assert!(std::panic::catch_unwind(|| assert_hidden(&Shown(text), &[secret])).is_err());
    }
}

#[test]
fn keys_and_what_holds_them_are_redacted() {
    let [local, remote, e1, e2] =
        [&b"local"[..], b"remote", b"e1", b"e2"].map(SecretKey::from_seed);
    let mut secrets: Vec<_> =
        [&local, &remote, &e1, &e2].iter().map(|key| *key.to_bytes()).collect();
    assert_hidden(&local, &secrets);
    assert_hidden(&ClientConfig::new(local.clone()), &secrets);
    assert_hidden(&ServerConfig::new(local.clone(), "127.0.0.1:0".parse().unwrap()), &secrets);

    let mut initiator = Handshake::kk_initiator(&local, remote.public_key(), e1.clone());
    let mut responder = Handshake::kk_responder(&remote, local.public_key(), e2.clone());
    let (mut first, mut second) = (Vec::new(), Vec::new());
    initiator.write_message(&[], &mut first).unwrap();
    responder.read_message(&first).unwrap();
    responder.write_message(&[], &mut second).unwrap();
    assert_hidden(&initiator, &secrets);
    initiator.read_message(&second).unwrap();
    assert_hidden(&initiator, &secrets);
    let keys = initiator.into_keys();
    secrets.extend([*keys.send, *keys.recv]);
    assert_hidden(&keys, &secrets);
    assert_hidden(&Sealer::new(&keys.send), &secrets);
    assert_hidden(&StreamOpener::new(&keys.send), &secrets);
    assert_hidden(&ObjectOpener::new(&keys.send), &secrets);
    assert_hidden(&FrameSealer::new(&keys.send), &secrets);
    assert_hidden(&FrameOpener::new(&keys.send), &secrets);

    let mut out = Vec::new();
    let mut client = SessionHandshake::initiator(&local, remote.public_key(), e1, &mut out);
    let mut server = SessionHandshake::responder(&remote, e2);
    let mut back = Vec::new();
    assert!(matches!(server.receive(Slice::from_vec(out), &mut back), Ok(Step::Pending)));
    assert_hidden(&server, &secrets);
    let mut third = Vec::new();
    let established = client.receive(Slice::from_vec(back), &mut third).unwrap();
    assert!(matches!(established, Step::Done(_)));
    assert_hidden(&established, &secrets);
}
