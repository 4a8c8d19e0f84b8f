//! The plain case: streams carry data both ways, end cleanly, and leave nothing behind.

use std::time::Duration;

use dmsg_engine::{
    driver::sim::{Chunking, Link},
    mux::MuxKind,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::World;

fn carries_data(mux: MuxKind, bytes: usize) {
    let mut world = World::with_mux(7, mux);
    world.add_server();
    world.add_client(|_| {});
    world.add_client(|_| {});
    world.connect_all();
    let (mut near, mut far) = world.pair(0, 1);
    assert_eq!((near.local_addr().port.get(), near.remote_addr()), (49153, far.local_addr()));
    assert_eq!(far.remote_addr(), near.local_addr());
    assert_eq!(near.server(), world.servers[0].key);
    let sent: Vec<u8> = (0..bytes).map(|i| (i * 7 + i / 251) as u8).collect();
    let echoed = world.wait(async {
        let mut received = Vec::new();
        let send = async {
            near.write_all(&sent).await.unwrap();
            near.shutdown().await.unwrap();
        };
        let echo = async {
            far.read_to_end(&mut received).await.unwrap();
        };
        futures_util::future::join(send, echo).await;
        let mut echoed = Vec::new();
        let back = async {
            far.write_all(&received).await.unwrap();
            far.shutdown().await.unwrap();
        };
        let read = async {
            near.read_to_end(&mut echoed).await.unwrap();
        };
        futures_util::future::join(back, read).await;
        echoed
    });
    assert!(echoed == sent, "{} of {bytes} bytes came back as sent", echoed.len());
    assert_eq!(world.ports(0), 0, "both directions have ended, so the port is free again");
    drop((near, far));
    world.pass(Duration::from_secs(1));
    for client in 0..2 {
        assert_eq!((world.ports(client), world.held(client).0, world.held(client).1), (0, 0, 0));
        assert_eq!(world.clients[client].shared.permits.used_count(), 0);
    }
    assert_eq!(world.server(0, |server| server.stream_count()), 0);
}

#[test]
fn two_mebibytes_there_and_back_over_yamux_with_half_close() {
    carries_data(MuxKind::Yamux, 2 * 1024 * 1024 + 13);
}

#[test]
fn two_mebibytes_there_and_back_over_smux_v2_with_half_close() {
    carries_data(MuxKind::SmuxV2, 2 * 1024 * 1024 + 13);
}

#[test]
fn two_mebibytes_there_and_back_over_smux_v1() {
    carries_data(MuxKind::SmuxV1, 2 * 1024 * 1024 + 13);
}

#[test]
fn every_cut_of_the_bytes_on_the_way_gives_the_same() {
    for seed in 0..4 {
        let mut world = World::new(seed);
        world.net.set_link(Link {
            latency: Duration::from_millis(20),
            chunking: if seed == 0 { Chunking::Exactly(1) } else { Chunking::Random(99) },
            ..Link::default()
        });
        world.add_server();
        world.add_client(|_| {});
        world.add_client(|_| {});
        world.connect_all();
        let (mut near, mut far) = world.pair(0, 1);
        let received = world.wait(async {
            near.write_all(&[9; 9000]).await.unwrap();
            near.shutdown().await.unwrap();
            let mut received = Vec::new();
            far.read_to_end(&mut received).await.unwrap();
            received
        });
        assert_eq!(received, [9; 9000]);
    }
}

#[test]
fn a_responder_may_speak_first() {
    let mut world = World::connected(3, 2);
    let (mut near, mut far) = world.pair(0, 1);
    let heard = world.wait(async {
        far.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        near.read_exact(&mut heard).await.unwrap();
        heard
    });
    assert_eq!(&heard, b"hello");
}

#[test]
fn a_dropped_stream_still_delivers_what_was_written() {
    let mut world = World::connected(4, 2);
    let (mut near, mut far) = world.pair(0, 1);
    let received = world.wait(async {
        near.write_all(&[7; 100_000]).await.unwrap();
        drop(near);
        let mut received = Vec::new();
        far.read_to_end(&mut received).await.unwrap();
        received
    });
    assert_eq!(received, [7; 100_000]);
    assert_eq!(world.ports(0), 0);
}
