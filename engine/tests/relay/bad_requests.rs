//! Requests that break a rule: the stream is closed for a counted reason, the session goes on.

use std::time::Duration;

use dmsg_engine::{
    driver::sim::Net,
    identity::SecretKey,
    mux::MuxKind,
    relay::RefuseReason,
    wire::{Dialect, SignedObject, StreamRequest, StreamResponse, WireAddr},
};

use crate::peer::{Peer, Server, connect_through, server, settle, settle_for};

/// Sends `object` as a request, expects the stream to be closed for `why`, and the session to serve the next dial.
fn refused(seed: u64, why: RefuseReason, object: impl Fn(&Peer, &Peer) -> SignedObject) {
    let mut net = Net::new(seed);
    let server = server(&mut net);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    let object = object(&a, &b);
    let bytes = a.seal(&object);
    let id = a.open();
    a.send(id, &bytes);
    expect_refused(&mut net, &server, &mut a, &mut b, id, why);
}

fn expect_refused(
    net: &mut Net,
    server: &Server,
    a: &mut Peer,
    b: &mut Peer,
    id: dmsg_engine::mux::StreamId,
    why: RefuseReason,
) {
    settle(net, &mut [a, b]);
    assert_eq!(server.stats.refused_count(why), 1, "{}", why.label());
    assert!(a.finished(id), "a refused stream is closed at once");
    assert!(a.taken(id).is_empty());
    connect_through(net, a, b);
}

#[test]
fn fields_that_are_missing() {
    type Change = fn(&mut StreamRequest);
    let changes: [Change; 5] = [
        |r| r.timestamp = 0,
        |r| r.src.key = None,
        |r| r.src.port = 0,
        |r| r.dst.key = None,
        |r| r.dst.port = 0,
    ];
    for (seed, change) in (10..).zip(changes) {
        refused(seed, RefuseReason::BadRequest, |a, b| {
            let mut request = a.request(b.key());
            change(&mut request);
            a.sign(&request)
        });
    }
}

/// Deployed clients panic over them.
#[test]
fn handshake_messages_that_begin_with_no_key() {
    let off_the_curve = [&[2][..], &[0xff; 48]].concat();
    for (seed, message) in
        (40..).zip([vec![], vec![2; 32], vec![9; 49], vec![0; 49], off_the_curve])
    {
        refused(seed, RefuseReason::BadRequest, |a, b| {
            let noise_msg = message.clone();
            a.sign(&StreamRequest { noise_msg, ..a.request(b.key()) })
        });
    }
}

#[test]
fn a_source_that_is_not_the_session() {
    refused(20, RefuseReason::ForeignSource, |a, b| {
        let other = SecretKey::from_seed(b"other");
        let src = WireAddr { key: Some(other.public_key()), port: 49153 };
        let request = StreamRequest { src, ..a.request(b.key()) };
        SignedObject::sign(&other, &request.encode(Dialect::G24))
    });
}

#[test]
fn a_signature_by_another_key() {
    refused(21, RefuseReason::BadRequest, |a, b| {
        let other = SecretKey::from_seed(b"other");
        SignedObject::sign(&other, &a.request(b.key()).encode(Dialect::G24))
    });
}

#[test]
fn gob_that_is_none() {
    refused(22, RefuseReason::BadRequest, |a, _| SignedObject::sign(&a.secret, &[0xff; 40]));
}

#[test]
fn nobody_of_that_key() {
    refused(23, RefuseReason::NoSession, |a, _| {
        a.sign(&a.request(SecretKey::from_seed(b"nobody").public_key()))
    });
}

#[test]
fn ciphertext_that_does_not_open() {
    let mut net = Net::new(24);
    let server = server(&mut net);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    let object = a.sign(&a.request(b.key()));
    let mut bytes = a.seal(&object);
    *bytes.last_mut().unwrap() ^= 1;
    let id = a.open();
    a.send(id, &bytes);
    expect_refused(&mut net, &server, &mut a, &mut b, id, RefuseReason::BadCiphertext);
}

#[test]
fn a_request_that_is_replayed() {
    let mut net = Net::new(25);
    let server = server(&mut net);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    let object = a.sign(&a.request(b.key()));
    let bytes = a.seal(&object);
    let first = a.open();
    a.send(first, &bytes);
    settle(&mut net, &mut [&mut a, &mut b]);
    b.opened();
    let second = a.open();
    a.send(second, &bytes);
    expect_refused(&mut net, &server, &mut a, &mut b, second, RefuseReason::BadCiphertext);
}

#[test]
fn bytes_behind_a_request() {
    let mut net = Net::new(26);
    let server = server(&mut net);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    let object = a.sign(&a.request(b.key()));
    let mut bytes = a.seal(&object);
    bytes.push(0);
    let id = a.open();
    a.send(id, &bytes);
    expect_refused(&mut net, &server, &mut a, &mut b, id, RefuseReason::EarlyData);
}

#[test]
fn half_a_request_then_silence() {
    let mut net = Net::new(27);
    let server = server(&mut net);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    let object = a.sign(&a.request(b.key()));
    let bytes = a.seal(&object);
    let id = a.open();
    a.send(id, &bytes[..bytes.len() / 2]);
    settle_for(&mut net, &mut [&mut a, &mut b], Duration::from_secs(6));
    expect_refused(&mut net, &server, &mut a, &mut b, id, RefuseReason::RequestTimeout);
}

/// The destination's answers that break a rule; the initiator sees a closed stream, both sessions go on.
fn bad_answer(seed: u64, change: fn(&mut StreamResponse)) {
    let mut net = Net::new(seed);
    let server = server(&mut net);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    let (at_a, object) = a.send_request(&a.request(b.key()));
    settle(&mut net, &mut [&mut a, &mut b]);
    let at_b = b.opened();
    b.take_object(at_b);
    let mut response = StreamResponse {
        req_hash: object.hash(),
        accepted: true,
        noise_msg: b.handshake_message(49),
        ..StreamResponse::default()
    };
    change(&mut response);
    b.answer(at_b, &response);
    expect_refused(&mut net, &server, &mut a, &mut b, at_a, RefuseReason::BadResponse);
}

#[test]
fn answers_that_do_not_verify() {
    bad_answer(30, |r| r.req_hash[0] ^= 1);
    bad_answer(31, |r| r.accepted = false);
}

#[test]
fn a_destination_that_closes_instead_of_answering() {
    let mut net = Net::new(32);
    let server = server(&mut net);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    let (at_a, _) = a.send_request(&a.request(b.key()));
    settle(&mut net, &mut [&mut a, &mut b]);
    let at_b = b.opened();
    b.taken(at_b);
    b.mux.finish(at_b, &mut b.queue);
    expect_refused(&mut net, &server, &mut a, &mut b, at_a, RefuseReason::Declined);
}

#[test]
fn a_destination_that_never_answers() {
    let mut net = Net::new(33);
    let server = server(&mut net);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    let (at_a, _) = a.send_request(&a.request(b.key()));
    settle_for(&mut net, &mut [&mut a, &mut b], Duration::from_secs(6));
    b.events.clear();
    b.data.clear();
    expect_refused(&mut net, &server, &mut a, &mut b, at_a, RefuseReason::AnswerTimeout);
}

#[test]
fn an_initiator_that_gives_up_does_not_close_the_destination_before_it_answered() {
    let mut net = Net::new(34);
    let server = server(&mut net);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &server, b"b", MuxKind::Yamux);
    let (at_a, object) = a.send_request(&a.request(b.key()));
    settle(&mut net, &mut [&mut a, &mut b]);
    let at_b = b.opened();
    b.take_object(at_b);
    a.mux.reset(at_a, &mut a.queue);
    settle(&mut net, &mut [&mut a, &mut b]);
    assert!(!b.finished(at_b) && !b.was_reset(at_b), "a G24 client would end its session");
    b.accept(at_b, &object);
    settle(&mut net, &mut [&mut a, &mut b]);
    assert!(b.finished(at_b), "now the stream is closed");
}
