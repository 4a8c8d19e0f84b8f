//! Lengths that a peer announces and does not send: nothing is allocated for them.

use dmsg_engine::{
    driver::sim::Net,
    mux::{CREDIT_MAX_BYTES, INITIAL_WINDOW_BYTES, MuxKind},
    relay::RefuseReason,
};

use crate::{
    memory::largest_allocation,
    peer::{Peer, server, settle},
    two_cores::{connect_across, settle_all, two_cores},
};

/// B lets A send as much as there is, and A announces half of it in one frame, of which it sends a byte.
#[test]
fn a_frame_of_half_a_gibibyte_to_another_core_of_which_one_byte_comes() {
    let mut net = Net::new(330);
    let cores = two_cores(&mut net);
    let mut a = Peer::connect(&mut net, &cores[0].0, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &cores[1].0, b"b", MuxKind::Yamux);
    let (at_a, at_b) = connect_across(&mut net, &cores, &mut a, &mut b);
    b.mux.grant(at_b, CREDIT_MAX_BYTES - INITIAL_WINDOW_BYTES, true, &mut b.queue);
    settle_all(&mut net, &cores, &mut [&mut a, &mut b]);
    assert_eq!(a.mux.send_credit(at_a), CREDIT_MAX_BYTES, "the credit is passed on");
    a.queue.push_bytes(
        &[&[0, 0, 0, 0][..], &at_a.0.to_be_bytes(), &(1_u32 << 29).to_be_bytes()].concat(),
    );
    a.queue.push_bytes(b"x");
    let largest = largest_allocation(|| settle_all(&mut net, &cores, &mut [&mut a, &mut b]));
    assert!(largest < 1 << 20, "{largest} bytes were asked for at once");
    assert_eq!(b.taken(at_b), b"x");
    assert!(a.is_open(&net) && b.is_open(&net));
}

#[test]
fn a_request_longer_than_any_is_refused_at_its_length() {
    let mut net = Net::new(331);
    let server = server(&mut net);
    let mut a = Peer::connect(&mut net, &server, b"a", MuxKind::Yamux);
    let ids: Vec<_> = (0..50).map(|_| a.open()).collect();
    for id in &ids {
        a.send(*id, &[0xff, 0xff, 0, 0]);
    }
    settle(&mut net, &mut [&mut a]);
    assert_eq!(server.stats.refused_count(RefuseReason::BadCiphertext), 50);
    assert!(ids.iter().all(|id| a.finished(*id)) && a.is_open(&net));
}
