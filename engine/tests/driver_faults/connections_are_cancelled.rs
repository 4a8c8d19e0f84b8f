//! Connections end while receives, sends and connects are under way.

use std::io::Write;

use dmsg_engine::io::CloseMode;

use crate::{assert_all_back, driver_support::*};

#[test]
fn cancelled_operations_leave_nothing_behind() {
    on_each(|variant| {
        let mut bed = Bed::start(variant, Role::Sink);
        let stats = bed.stats();
        for round in 0..60 {
            let (mut peer, conn) = bed.connected_pair();
            match round % 5 {
                // A receive that waits; one that has just completed; a send that is stuck; both.
                0 => {}
                1 => drop(peer.write(&[1; 100_000])),
                2 => bed.order(Order::Send(conn, vec![2; 3_000_000])),
                3 => {
                    bed.order(Order::Send(conn, vec![3; 3_000_000]));
                    let _ = peer.write(&[3; 10_000]);
                }
                _ => bed.order(Order::Pause(conn)),
            }
            let mode = if round % 2 == 0 { CloseMode::Abort } else { CloseMode::Flush };
            bed.order(Order::Close(conn, mode));
            if round % 3 == 0 {
                bed.order(Order::Close(conn, CloseMode::Abort));
            }
            drop(peer);
            bed.wait_closed(conn);
            bed.rest();
        }
        assert_all_back(&stats, &mut bed);
    });
}
