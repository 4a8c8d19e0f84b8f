//! A storm of "would block": many connections whose sockets are full nearly all the time.

use socket2::SockRef;

use crate::{assert_all_back, driver_support::*};

const SOURCES: usize = 24;
const BYTES: usize = 150_000;

#[test]
fn sockets_that_are_always_full_lose_nothing() {
    on_each_at_once(|variant| {
        let mut bed = Bed::start(variant, Role::Sink);
        let stats = bed.stats();
        let mut peers = Vec::new();
        for _ in 0..SOURCES {
            let (peer, conn) = bed.connected_pair();
            SockRef::from(&peer).set_recv_buffer_size(2048).unwrap();
            bed.order(Order::Send(conn, pattern(0, BYTES)));
            peers.push(peer);
        }
        std::thread::scope(|scope| {
            for peer in &peers {
                scope.spawn(|| read_pattern(peer, BYTES, 3000));
            }
        });
        drop(peers);
        assert_all_back(&stats, &mut bed);
    });
}
