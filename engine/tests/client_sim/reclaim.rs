//! A client that runs out of streams takes back the one whose data lay unread for longest, and only
//! such a one.

use std::time::Duration;

use dmsg_engine::client::StreamEnd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{LONG, World};

/// One server, a client with `streams_max` streams and a peer that listens on port 80.
fn world(streams_max: usize) -> World {
    let mut world = World::new(90);
    world.add_server();
    world.add_client(|config| {
        config.streams_max = streams_max;
        config.streams_per_destination_max = streams_max;
    });
    world.add_client(|_| {});
    world.connect_all();
    world
}

#[test]
fn the_holder_of_a_reclaimed_stream_reads_why_and_its_port_is_free() {
    let mut world = world(3);
    let mut listener = world.listen(1, 80, 16);
    let mut near = Vec::new();
    let mut far = Vec::new();
    for _ in 0..3 {
        near.push(world.dial_reclaimable(0, world.addr(1, 80)).unwrap());
        let mut accepted = world.wait(listener.accept()).unwrap();
        world.wait(accepted.write_all(b"a body that nobody reads")).unwrap();
        far.push(accepted);
        world.pass(Duration::from_secs(1));
    }
    // The oldest one reads on, and waits for more.
    assert_eq!(world.wait(near[0].read(&mut [0; 64])).unwrap(), 24);
    let new = world.dial_reclaimable(0, world.addr(1, 80)).unwrap();
    assert_eq!(world.ports(0), 3);
    let error = world.wait(near[1].read(&mut [0; 64])).unwrap_err();
    let end = error.get_ref().and_then(|end| end.downcast_ref::<StreamEnd>());
    assert!(matches!(end, Some(StreamEnd::Reclaimed(age)) if age.as_secs() >= 1), "{error}");
    assert!(world.until(LONG, |world| world.held(0).1 == 3), "the wire forgets it too");
    // Its peer sees a reset, not an end that could be taken for the whole body.
    let error = world.wait(far[1].read(&mut [0; 8])).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(world.wait(near[2].read(&mut [0; 64])).unwrap(), 24, "the others are untouched");
    drop((near, far, new));
    world.pass(Duration::from_secs(11));
    assert_eq!((world.ports(0), world.clients[0].shared.permits.used_count()), (0, 0));
}

#[test]
fn streams_without_leave_or_without_unread_data_are_spared() {
    let mut world = world(3);
    let mut listener = world.listen(1, 80, 16);
    // One that may not be reclaimed, with unread data; one that may, without data; one that was
    // read to its last byte.
    let kept = world.dial(0, world.addr(1, 80)).unwrap();
    let mut far = world.wait(listener.accept()).unwrap();
    world.wait(far.write_all(b"unread")).unwrap();
    let quiet = world.dial_reclaimable(0, world.addr(1, 80)).unwrap();
    let mut read = world.dial_reclaimable(0, world.addr(1, 80)).unwrap();
    let _quiet_far = world.wait(listener.accept()).unwrap();
    let mut read_far = world.wait(listener.accept()).unwrap();
    world.wait(read_far.write_all(b"read")).unwrap();
    assert_eq!(world.wait(read.read(&mut [0; 8])).unwrap(), 4);
    world.pass(Duration::from_secs(3600));
    let holder = crate::world::holder(world.addr(1, 80));
    assert!(world.clients[0].shared.permits.try_acquire(&holder).is_err());
    drop((kept, quiet, read));
}

#[test]
fn a_full_session_takes_back_its_own_stalest_stream() {
    let mut world = World::new(91);
    world.add_server();
    world.add_client(|config| config.streams_per_session_max = 2);
    world.add_client(|_| {});
    world.connect_all();
    let mut listener = world.listen(1, 80, 16);
    let mut near = Vec::new();
    let mut far = Vec::new();
    for _ in 0..5 {
        near.push(world.dial_reclaimable(0, world.addr(1, 80)).unwrap());
        let mut accepted = world.wait(listener.accept()).unwrap();
        world.wait(accepted.write_all(b"unread")).unwrap();
        far.push(accepted);
        world.pass(Duration::from_secs(1));
    }
    assert_eq!((world.ports(0), world.held(0).1), (2, 2));
    for (index, stream) in near.iter_mut().enumerate() {
        assert_eq!(world.wait(stream.read(&mut [0; 8])).is_ok(), index >= 3, "stream {index}");
    }
}
