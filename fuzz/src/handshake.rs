//! Session handshakes and bare Noise messages (`wire.md §2.1`, `§2.4`) against hostile peers.
//!
//! Input: `mode, cut, bytes`. Modes: bytes to a responder; bytes to an initiator; bytes as KK messages, and as
//! those of a dial by ticket (`docs/extensions.md §1.2`); a genuine handshake of which one byte is changed, which must fail or be
//! unchanged.

use std::sync::{Arc, LazyLock};

use dmsg_engine::{
    identity::SecretKey,
    noise::{GRANT, Handshake, OFFER, ResumeRequest, Resumed, Ticket},
    pool::Slice,
    session::{SessionHandshake, Step},
};

use crate::input::{Input, pieces};

/// One input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (mode, cut) = (input.byte(), input.byte());
    let [server, client, e1, e2] = ["server", "client", "e1", "e2"].map(key);
    match mode % 4 {
        0 => drop(feed(SessionHandshake::responder(&server, e1), input.rest(), cut)),
        1 => {
            let mut hello = Vec::new();
            let initiator =
                SessionHandshake::initiator(&client, server.public_key(), e1, &mut hello);
            drop(feed(initiator, input.rest(), cut));
        }
        2 => {
            let bytes = input.rest();
            kk_messages(&server, &client, e1, e2, bytes);
            ticket_messages(bytes);
        }
        _ => damaged(&server, &client, e1, e2, &mut input),
    }
}

fn key(seed: &str) -> SecretKey {
    SecretKey::from_seed(seed.as_bytes())
}

/// Feeds until done or failed; the replies, and whether it was done.
fn feed(mut handshake: SessionHandshake, bytes: &[u8], cut: u8) -> (Vec<u8>, bool) {
    let mut reply = Vec::new();
    for piece in pieces(bytes, cut) {
        match handshake.receive(Slice::copy_from(piece), &mut reply) {
            Ok(Step::Pending) => {}
            Ok(Step::Done(_)) => return (reply, true),
            Err(_) => return (reply, false),
        }
    }
    (reply, false)
}

fn kk_messages(a: &SecretKey, b: &SecretKey, e1: SecretKey, e2: SecretKey, bytes: &[u8]) {
    let mut responder = Handshake::kk_responder(a, b.public_key(), e1);
    assert!(responder.read_message(bytes).is_err(), "a KK message was forged");
    let mut initiator = Handshake::kk_initiator(a, b.public_key(), e2);
    let mut message = Vec::new();
    initiator.write_message(&[], &mut message).expect("the initiator begins");
    assert!(initiator.read_message(bytes).is_err(), "a KK answer was forged");
}

/// What a genuine handshake leaves behind.
static TICKET: LazyLock<Arc<Ticket>> = LazyLock::new(|| {
    let [a, b, e1, e2] = ["a", "b", "e1", "e2"].map(key);
    let mut near = Handshake::kk_initiator(&a, b.public_key(), e1);
    let mut far = Handshake::kk_responder(&b, a.public_key(), e2);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    near.write_message(OFFER, &mut first).expect("the initiator begins");
    far.read_message(&first).expect("a genuine message");
    far.write_message(GRANT, &mut second).expect("the responder's turn");
    Arc::new(far.ticket())
});

/// Bytes as both messages, and the same behind the mark that both begin with.
fn ticket_messages(bytes: &[u8]) {
    const TERMS: &[u8] = b"terms";
    const HASH: [u8; 32] = [5; 32];
    let (waiting, genuine) = TICKET.request([1; 32], TERMS);
    let marked = [&genuine[..33], bytes].concat();
    for message in [bytes, &marked] {
        if let Some(request) = ResumeRequest::parse(message).filter(|_| message != genuine) {
            let answer = TICKET.answer(&request, TERMS, &HASH, [2; 32]);
            assert!(answer.is_err(), "a request by ticket was forged");
        }
        let finished = waiting.finish(message, &HASH);
        assert!(matches!(finished, Err(_) | Ok(Resumed::Unknown)), "an answer was forged");
    }
}

fn damaged(
    server: &SecretKey,
    client: &SecretKey,
    e1: SecretKey,
    e2: SecretKey,
    input: &mut Input<'_>,
) {
    let (position, damage, cut) = (usize::from(input.byte()), input.byte(), input.byte());
    let mut first = Vec::new();
    let mut initiator = SessionHandshake::initiator(client, server.public_key(), e1, &mut first);
    let mut responder = SessionHandshake::responder(server, e2);
    if let Some(byte) = first.get_mut(position) {
        *byte ^= damage;
    }
    let changed = damage != 0 && position < first.len();
    let mut second = Vec::new();
    for piece in pieces(&first, cut) {
        match responder.receive(Slice::copy_from(piece), &mut second) {
            Ok(Step::Pending) => {}
            Ok(Step::Done(_)) => panic!("a responder is done after one message"),
            Err(_) => {
                assert!(changed, "a genuine first message was refused");
                return;
            }
        }
    }
    let mut third = Vec::new();
    if let Ok(Step::Done(_)) = initiator.receive(Slice::from_vec(second), &mut third) {
        assert!(!changed, "a damaged handshake was taken for a genuine one");
        let done = responder.receive(Slice::from_vec(third), &mut Vec::new());
        assert!(matches!(done, Ok(Step::Done(_))), "a genuine handshake did not finish");
    }
}
