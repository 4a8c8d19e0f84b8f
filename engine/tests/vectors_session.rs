//! A recorded exchange of two Go clients and a Go server, replayed from its first byte to its last:
//! both handshakes, every dial object, the stream's handshake and its data.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use dmsg_engine::{
    identity::{SecretKey, sha256},
    noise::{Handshake, TransportKeys},
    pool::Slice,
    session::{
        Established, HandshakeError, Object, ObjectReader, SessionHandshake, Step, write_object,
    },
    stream::{FrameOpener, FrameSealer},
};
use serde_json::Value;

fn file() -> Value {
    serde_json::from_str(include_str!("vectors/session.json")).unwrap()
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().unwrap_or_else(|| panic!("{field} is a list"))
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("{field} is text"))
}

fn bytes(value: &Value, field: &str) -> Vec<u8> {
    let text = text(value, field);
    let byte = |i| u8::from_str_radix(&text[i..i + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

fn secret(value: &Value, field: &str) -> SecretKey {
    text(value, field).parse().unwrap()
}

/// Feeds `bytes` in pieces of at most `cut`; the handshake must be done with the piece it is done
/// with.
fn feed(handshake: &mut SessionHandshake, bytes: &[u8], cut: usize) -> (Vec<u8>, Established) {
    let mut out = Vec::new();
    let mut pieces = bytes.chunks(cut);
    for piece in &mut pieces {
        match handshake.receive(Slice::copy_from(piece), &mut out).unwrap() {
            Step::Pending => {}
            Step::Done(mut done) => {
                let behind = [&*done.rest, &pieces.collect::<Vec<_>>().concat()].concat();
                done.rest = Slice::from_vec(behind);
                return (out, *done);
            }
        }
    }
    panic!("the handshake is not done after {} bytes", bytes.len());
}

/// Client and server after the connection's handshake; each `rest` is what its mux received.
fn handshake(file: &Value, connection: &Value, cut: usize) -> [Established; 2] {
    let xk = &connection["xk"];
    let client_key = secret(connection, "client_static_sk");
    let server_key = secret(file, "server_static_sk");
    let server_public = server_key.public_key();
    let [first, second, third] = list(xk, "messages") else { panic!("XK has three messages") };
    let second = bytes(second, "framed");
    let to_server = bytes(connection, "client_to_server_all");
    let to_client = bytes(connection, "server_to_client_all");

    let initiator = |out: &mut Vec<u8>| {
        let ephemeral = secret(xk, "initiator_ephemeral_sk");
        SessionHandshake::initiator(&client_key, server_public, ephemeral, out)
    };
    let mut sent = Vec::new();
    let mut client = initiator(&mut sent);
    assert_eq!(sent, bytes(first, "framed"));
    let (answer, mut client) = feed(&mut client, &second, cut);
    assert_eq!(answer, bytes(third, "framed"));

    let mut server = SessionHandshake::responder(&server_key, secret(xk, "responder_ephemeral_sk"));
    let (answer, server) = feed(&mut server, &to_server, cut);
    assert_eq!(answer, second);

    // All the server ever said in one piece: an initiator does not take bytes behind message 2.
    let error = initiator(&mut sent).receive(Slice::copy_from(&to_client), &mut sent).unwrap_err();
    assert_eq!((error, error.code()), (HandshakeError::TrailingBytes, Some(203)));

    assert!(client.rest.is_empty());
    client.rest = Slice::copy_from(to_client.strip_prefix(&second[..]).unwrap());
    assert_eq!(client.remote, server_public);
    assert_eq!(server.remote, client_key.public_key());
    for side in [&client, &server] {
        assert_eq!(side.handshake_hash[..], bytes(xk, "handshake_hash"));
    }
    [client, server]
}

/// Payload of each stream and the number of frames, out of what one side received; compares each
/// frame with the file.
fn demultiplex(connection: &Value, from: &str, received: &[u8]) -> (BTreeMap<u64, Vec<u8>>, usize) {
    let mut streams = BTreeMap::<u64, Vec<u8>>::new();
    let mut rest = received;
    let frames: Vec<_> =
        list(connection, "mux_frames").iter().filter(|f| text(f, "from") == from).collect();
    for frame in &frames {
        let (header, behind) = rest.split_at(12);
        let field = |at| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
        let data_len = if header[1] == 0 { field(8) as usize } else { 0 };
        let (data, behind) = behind.split_at(data_len);
        assert_eq!([header, data].concat(), bytes(frame, "bytes"));
        streams.entry(u64::from(field(4))).or_default().extend(data);
        rest = behind;
    }
    assert!(rest.is_empty(), "the file lists every frame");
    (streams, frames.len())
}

/// What one side of a connection sent, and what it takes to open it at the other.
struct Direction {
    from: &'static str,
    receiver: Established,
    streams: BTreeMap<u64, Slice>,
    /// Signed objects and their bytes on the wire, by counter.
    objects: BTreeMap<u64, (Vec<u8>, Vec<u8>)>,
}

impl Direction {
    /// Opens the object at the start of a stream, fed in pieces, and leaves the stream's data.
    fn open_object(&mut self, stream: u64, expected: &Value, cut: usize) {
        let input = self.streams.get_mut(&stream).unwrap();
        let mut reader = ObjectReader::new();
        let object = loop {
            let mut piece = input.split_to(cut);
            assert!(!piece.is_empty(), "the object ends before the stream does");
            let object = reader.read(&mut piece, &mut self.receiver.opener).unwrap();
            *input = Slice::from_vec([&*piece, &**input].concat());
            if let Some(object) = object {
                break object;
            }
        };
        let signed = bytes(expected, "signed_object");
        assert_eq!(object, Object::Signed(signed.clone()));
        let counter = expected["session_nonce"].as_u64().unwrap();
        self.objects.insert(counter, (signed, bytes(expected, "framed")));
    }

    /// Opens and seals again what follows the object, under the keys of the stream. Returns how
    /// many frames.
    fn check_data(&mut self, stream: &Value, send_key: &[u8; 32], cut: usize) -> usize {
        let data = self.streams.remove(&stream["stream"].as_u64().unwrap()).unwrap();
        let frames = list(stream, "data_frames").iter().filter(|f| text(f, "from") == self.from);
        let plaintexts: Vec<_> = frames.map(|f| bytes(f, "plaintext")).collect();
        let mut sealer = FrameSealer::new(send_key);
        let mut sealed = Vec::new();
        plaintexts.iter().for_each(|text| sealer.write(text, &mut sealed).unwrap());
        assert_eq!(sealed, &*data);
        assert_eq!(read_all(&mut FrameOpener::new(send_key), data, cut), plaintexts.concat());
        plaintexts.len()
    }

    /// The sender's sealer gives the recorded bytes, counters included. Returns how many objects.
    fn seal_again(&self, sender: &mut Established) -> usize {
        for (signed, framed) in self.objects.values() {
            let mut out = Vec::new();
            write_object(&mut sender.sealer, signed, &mut out).unwrap();
            assert_eq!(&out, framed);
        }
        self.objects.len()
    }
}

/// The stream's handshake out of the two dial objects: keys of initiator and responder.
fn kk(file: &Value, stream: &Value) -> [TransportKeys; 2] {
    let [a, b] = list(file, "connections") else { panic!("two connections") };
    let [a, b] = [a, b].map(|connection| secret(connection, "client_static_sk"));
    let (ephemerals, request) = (&stream["kk"], &stream["request"]["decoded"]);
    assert_eq!(a.public_key().to_string(), text(request, "src_pk"));
    assert_eq!(b.public_key().to_string(), text(request, "dst_pk"));
    let [ephemeral_a, ephemeral_b] =
        ["initiator_ephemeral_sk", "responder_ephemeral_sk"].map(|field| secret(ephemerals, field));

    let mut initiator = Handshake::kk_initiator(&a, b.public_key(), ephemeral_a);
    let mut responder = Handshake::kk_responder(&b, a.public_key(), ephemeral_b);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    initiator.write_message(&[], &mut first).unwrap();
    assert_eq!(first, bytes(request, "noise_msg"));
    responder.read_message(&first).unwrap();
    responder.write_message(&[], &mut second).unwrap();
    assert_eq!(second, bytes(&stream["response"]["decoded"], "noise_msg"));
    initiator.read_message(&second).unwrap();

    let keys = [initiator.into_keys(), responder.into_keys()];
    assert_eq!(keys[0].send[..], bytes(ephemerals, "key_initiator_to_responder"));
    assert_eq!(keys[0].recv[..], bytes(ephemerals, "key_responder_to_initiator"));
    assert_eq!(keys[0].handshake_hash[..], bytes(ephemerals, "handshake_hash"));
    assert_eq!((&keys[1].send, &keys[1].recv), (&keys[0].recv, &keys[0].send));
    keys
}

/// Reads all data of one direction, fed in pieces.
fn read_all(opener: &mut FrameOpener, mut data: Slice, cut: usize) -> Vec<u8> {
    let mut plaintext = Vec::new();
    while !data.is_empty() {
        let mut piece = data.split_to(cut);
        let mut buffer = [0; 5];
        loop {
            match opener.read(&mut piece, &mut buffer).unwrap() {
                0 => break,
                read => plaintext.extend_from_slice(&buffer[..read]),
            }
        }
    }
    opener.finish().unwrap();
    plaintext
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    mux_frames: usize,
    streams: usize,
    objects: usize,
    data_frames: usize,
}

fn replay(file: &Value, connection: &Value, cut: usize) -> Counts {
    let [client, server] = handshake(file, connection, cut);
    let mut counts = Counts::default();
    let mut direction = |from, receiver: Established| {
        let (streams, frames) = demultiplex(connection, from, &receiver.rest);
        counts.mux_frames += frames;
        let streams = streams.into_iter().map(|(id, data)| (id, Slice::from_vec(data))).collect();
        Direction { from, receiver, streams, objects: BTreeMap::new() }
    };
    let mut from_server = direction("server", client);
    let mut from_client = direction("client", server);

    for stream in list(connection, "streams") {
        counts.streams += 1;
        let id = stream["stream"].as_u64().unwrap();
        let (requests, responses) = match text(stream, "opened_by") {
            "client" => (&mut from_client, &mut from_server),
            _ => (&mut from_server, &mut from_client),
        };
        let (request, response) = (&stream["request"], &stream["response"]);
        requests.open_object(id, request, cut);
        assert_eq!(sha256(&bytes(request, "signed_object"))[..], bytes(request, "request_hash"));
        if response.is_object() {
            responses.open_object(id, response, cut);
            assert_eq!(bytes(&response["decoded"], "req_hash"), bytes(request, "request_hash"));
        }
        if stream.get("kk").is_some() {
            // Both sides have the same keys, so one side's are enough.
            let [initiator, _] = kk(file, stream);
            counts.data_frames += requests.check_data(stream, &initiator.send, cut);
            counts.data_frames += responses.check_data(stream, &initiator.recv, cut);
        }
    }
    for direction in [&from_client, &from_server] {
        assert!(direction.streams.values().all(Slice::is_empty), "all bytes are accounted for");
    }
    counts.objects += from_client.seal_again(&mut from_server.receiver);
    counts.objects += from_server.seal_again(&mut from_client.receiver);
    counts
}

#[test]
fn the_recorded_exchange_replays_at_any_cut() {
    let file = file();
    let connections = list(&file, "connections");
    assert_eq!(connections.len(), 2);
    for cut in [1, 2, 3, 7, 64, 1000, usize::MAX] {
        let counts: Vec<_> = connections.iter().map(|c| replay(&file, c, cut)).collect();
        assert_eq!(
            counts,
            [
                Counts { mux_frames: 19, streams: 4, objects: 6, data_frames: 2 },
                Counts { mux_frames: 11, streams: 2, objects: 3, data_frames: 2 },
            ]
        );
    }
}
