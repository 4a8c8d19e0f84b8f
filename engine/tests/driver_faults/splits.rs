//! Reads and writes that end at every possible boundary.

use std::io::{Read, Write};

use dmsg_engine::driver::{DriverConfig, DriverKind, SocketOptions};
use socket2::SockRef;

use crate::{assert_all_back, driver_support::*, is_uring};

#[test]
fn a_message_cut_at_every_byte_comes_back_whole() {
    on_each(|variant| {
        let mut bed = Bed::start(variant, Role::Echo);
        let stats = bed.stats();
        let mut peer = bed.connect();
        peer.set_nodelay(true).unwrap();
        let message = pattern(0, 61);
        for cut in 0..=message.len() {
            peer.write_all(&message[..cut]).unwrap();
            bed.settle();
            peer.write_all(&message[cut..]).unwrap();
            let mut back = vec![0; message.len()];
            peer.read_exact(&mut back).unwrap();
            assert_eq!(back, message, "cut at {cut}");
        }
        drop(peer);
        assert_all_back(&stats, &mut bed);
    });
}

/// Lengths around those of buffers and blocks, so that reads end exactly at, before and behind their ends.
#[test]
fn lengths_around_every_buffer_boundary_come_back_whole() {
    on_each(|variant| {
        let mut bed = Bed::start(variant, Role::Echo);
        let stats = bed.stats();
        let peer = bed.connect();
        let sizes = [2048, 4096, 16 * 1024, 64 * 1024, 256 * 1024, 512 * 4096];
        let sizes = &sizes[..if is_uring(variant) { 6 } else { 5 }];
        for len in sizes.iter().flat_map(|size| [size - 1, *size, size + 1]) {
            let writer = write_pattern(&peer, len, len);
            read_pattern(&peer, len, len);
            writer.join().unwrap();
        }
        drop(peer);
        assert_all_back(&stats, &mut bed);
    });
}

#[test]
fn sends_cut_short_by_a_socket_of_the_least_size_go_on_where_they_stopped() {
    on_each_at_once(|variant| {
        let sockets = SocketOptions {
            send_buffer_bytes: Some(1),
            recv_buffer_bytes: Some(1),
            ..SocketOptions::default()
        };
        let config = DriverConfig { sockets, ..variant.config() };
        let mut bed = Bed::start_with(config, Role::Echo, variant.kind);
        let stats = bed.stats();
        let peer = bed.connect();
        SockRef::from(&peer).set_recv_buffer_size(1).unwrap();
        let writer = write_pattern(&peer, 60_000, 7000);
        read_pattern(&peer, 60_000, 999);
        drop((peer, writer.join().unwrap()));
        assert_all_back(&stats, &mut bed);
    });
}

/// A relay plans at most as much at once, and whoever keeps a slice keeps no more alive.
#[test]
fn no_slice_of_a_receive_is_longer_than_64_kib() {
    on_each(|variant| {
        if variant.kind != DriverKind::Uring {
            return; // epoll has blocks of up to 192 KiB, whose bound `epoll/scratch.rs` tests.
        }
        let mut bed = Bed::start(variant, Role::Sink);
        let (peer, conn) = bed.connected_pair();
        bed.order(Order::Pause(conn));
        bed.settle();
        // What lies in the socket comes with the first receive.
        let writer = write_pattern(&peer, 2_000_000, 200_000);
        bed.order(Order::Resume(conn));
        let (mut longest, mut received) = (0, 0);
        while received < 2_000_000 {
            let len = bed.wait(|seen| match seen {
                Seen::Received(id, bytes) if *id == conn => Some(bytes.len()),
                _ => None,
            });
            received += len;
            longest = longest.max(len);
        }
        writer.join().unwrap();
        assert!(longest <= 64 * 1024, "{longest} bytes on {}", variant.name);
    });
}
