//! A peer is gone without a word: no FIN, no RST, as after a power cut.

use std::os::fd::AsRawFd;

use crate::{assert_all_back, driver_support::*};

/// Closes `peer` without sending anything. Needs a privilege; false without it.
fn vanish(peer: std::net::TcpStream) -> bool {
    let on: libc::c_int = 1;
    // SAFETY: the option is an int, and the call gets a valid one with its size.
    let result = unsafe {
        libc::setsockopt(
            peer.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_REPAIR,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    drop(peer);
    result == 0
}

#[test]
fn a_peer_that_vanishes_is_noticed_by_the_next_send() {
    on_each(|variant| {
        let mut bed = Bed::start(variant, Role::Sink);
        let stats = bed.stats();
        for unsent in [0, 4_000_000] {
            let (peer, conn) = bed.connected_pair();
            if unsent > 0 {
                bed.order(Order::Send(conn, vec![1; unsent]));
                bed.settle();
            }
            if !vanish(peer) {
                println!("skipped: TCP_REPAIR needs CAP_NET_ADMIN; the peer has closed instead");
                bed.wait_closed(conn);
                continue;
            }
            bed.settle();
            if unsent == 0 {
                assert_eq!(bed.rest(), [], "nobody has said anything");
                bed.order(Order::Send(conn, vec![1; 1000]));
            }
            // The peer's kernel knows nothing of the connection and answers with a reset.
            let why = bed.wait_closed(conn);
            assert!(["ConnectionReset", "BrokenPipe"].contains(&&*why), "{why}");
        }
        assert_all_back(&stats, &mut bed);
    });
}
