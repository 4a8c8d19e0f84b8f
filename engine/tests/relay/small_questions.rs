//! What a client asks the server itself: its address, and whether the session lives.

use std::sync::atomic::Ordering::Relaxed;

use dmsg_engine::{
    driver::sim::Net,
    mux::MuxKind,
    wire::{StreamRequest, StreamResponse},
};

use crate::peer::{Peer, server, settle};

#[test]
fn the_ip_answer_names_where_the_session_comes_from() {
    let mut net = Net::new(400);
    let server = server(&mut net);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let request = StreamRequest { ip_info: true, noise_msg: Vec::new(), ..a.request(server.key) };
    let (id, object) = a.send_request(&request);
    settle(&mut net, &mut [&mut a]);
    let answer = a.take_object(id);
    let response = StreamResponse::decode(answer.gob()).unwrap();
    response.verify(&answer, &object.hash(), &server.key).unwrap();
    assert_eq!(response.ip.len(), 4);
    assert!(a.finished(id));
    assert_eq!(server.stats.ip_lookups.load(Relaxed), 1);
}

#[test]
fn the_ping_marker_is_echoed_and_the_stream_closed() {
    for kind in [MuxKind::Yamux, MuxKind::SmuxV1, MuxKind::SmuxV2] {
        let mut net = Net::new(401);
        let server = server(&mut net);
        let mut a = Peer::connect(&mut net, &server, b"a", kind);
        let id = a.open();
        a.send(id, &[0, 0]);
        settle(&mut net, &mut [&mut a]);
        assert_eq!(a.taken(id), [0, 0]);
        assert!(a.finished(id));
        a.mux.finish(id, &mut a.queue);
        settle(&mut net, &mut [&mut a]);
        assert_eq!(server.stats.stream_halves.load(Relaxed), 0);
    }
}
