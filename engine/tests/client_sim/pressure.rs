//! Readers that do not read, and writers that write too much.

use std::{io::ErrorKind, time::Duration};

use dmsg_engine::{
    client::{Stream, machine::HOLD_MAX},
    identity::SecretKey,
    mux::{Mux, MuxConfig, MuxKind, Role},
    pool::{SendQueue, Slice},
    session::{SessionHandshake, Step},
};
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::World;

#[test]
fn a_reader_that_stalls_stops_its_writer_and_nobody_else() {
    let mut world = World::connected(71, 2);
    let mut listener = world.listen(1, 80, 16);
    let to = world.addr(1, 80);
    let mut stalled = world.dial(0, to).unwrap();
    let mut busy = world.dial(0, to).unwrap();
    let mut unread = world.wait(listener.accept()).unwrap();
    let mut read = world.wait(listener.accept()).unwrap();

    let mut written = 0;
    let chunk = vec![5; 65536];
    loop {
        world.pass(Duration::from_millis(20));
        match stalled.write(&chunk).now_or_never() {
            Some(count) => written += count.unwrap(),
            None => break,
        }
    }
    // One pipe and one window here, one window at the server, and a chunk over.
    assert!((512 * 1024..1400 * 1024).contains(&written), "{written}");

    let total = 1024 * 1024;
    let received = world.wait(async {
        let send = async {
            busy.write_all(&vec![6; total]).await.unwrap();
            busy.shutdown().await.unwrap();
        };
        let mut received = Vec::new();
        futures_util::future::join(send, read.read_to_end(&mut received)).await.1.unwrap()
    });
    assert_eq!(received, total);

    let late = world.wait(async {
        let send = async { stalled.shutdown().await.unwrap() };
        let mut late = Vec::new();
        futures_util::future::join(send, unread.read_to_end(&mut late)).await.1.unwrap()
    });
    assert_eq!(late, written);
}

#[test]
fn where_there_is_no_window_a_slow_reader_slows_its_session_down_and_loses_nothing() {
    let mut world = World::with_mux(72, MuxKind::SmuxV1);
    world.add_server();
    world.add_client(|_| {});
    world.add_client(|_| {});
    world.connect_all();
    let (mut near, mut far) = world.pair(0, 1);
    let total = 4 * 1024 * 1024;
    let mut write = Box::pin(async move {
        near.write_all(&vec![5; total]).await.unwrap();
        near
    });
    let (mut read, mut written) = (0, None);
    let mut buffer = vec![0; 16 * 1024];
    while read < total {
        if written.is_none() {
            written = write.as_mut().now_or_never();
        }
        // 1.6 MB/s, through a session that carries much more.
        world.pass(Duration::from_millis(10));
        read += far.read(&mut buffer).now_or_never().map_or(0, |count| count.unwrap());
    }
    assert_eq!((world.sessions(0), world.sessions(1)), (1, 1));
}

/// A stream over smux v1, which has no window, and what its reader did not take.
fn unread_in(seed: u64) -> (World, Stream, Stream) {
    let mut world = World::with_mux(seed, MuxKind::SmuxV1);
    world.add_server();
    world.add_client(|_| {});
    world.add_client(|_| {});
    world.connect_all();
    let (mut near, far) = world.pair(0, 1);
    let chunk = vec![5; 65536];
    for _ in 0..20 {
        drop(near.write(&chunk).now_or_never());
        world.pass(Duration::from_millis(20));
    }
    (world, near, far)
}

#[test]
fn where_there_is_no_window_a_reader_that_is_slow_but_steady_is_not_reset() {
    let mut world = World::with_mux(74, MuxKind::SmuxV1);
    world.add_server();
    world.add_client(|_| {});
    world.add_client(|_| {});
    world.connect_all();
    let (mut near, mut far) = world.pair(0, 1);
    let total = 700_000;
    let mut write = Box::pin(async move {
        near.write_all(&vec![5; total]).await.unwrap();
        near
    });
    // 8 KB/s: from the mark at which the session is held to the one at which it is read again in 16 s.
    let (mut read, mut buffer, mut written) = (0, [0; 800], None);
    while read < total {
        written = written.or_else(|| write.as_mut().now_or_never());
        world.pass(Duration::from_millis(100));
        let came = far.read(&mut buffer).now_or_never();
        read += came.map_or(0, |count| count.expect("it is read"));
    }
    assert!(world.net.elapsed() > 8 * HOLD_MAX);
}

#[test]
fn where_there_is_no_window_a_reader_that_stalls_is_reset_and_its_session_goes_on() {
    let (mut world, _near, mut far) = unread_in(72);
    world.pass(HOLD_MAX);
    let error = world.wait(far.read_u8()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(error.to_string().contains("wait unread"), "{error}");
    assert_eq!((world.sessions(0), world.sessions(1)), (1, 1));
    let (mut near, mut far) = world.pair(0, 1);
    world.wait(near.write_all(b"x")).unwrap();
    assert_eq!(world.wait(far.read_u8()).unwrap(), b'x');
}

/// What it writes meanwhile, and a byte now and then, are not reading.
#[test]
fn nor_is_it_kept_by_one_that_writes_and_hardly_reads() {
    let (mut world, _near, mut far) = unread_in(74);
    // Bytes of a frame that is open already are read to its end, so the reader does not learn of it at once.
    let begun = world.net.now();
    while world.held(1).1 > 0 {
        assert!(world.net.now() - begun < 2 * HOLD_MAX, "its session is held for ever");
        drop(world.wait(far.read_u8()));
        drop(far.write(b"x").now_or_never());
        world.pass(Duration::from_secs(1));
    }
}

#[test]
fn an_idle_limit_ends_what_receives_nothing_and_is_off_by_default() {
    for limit in [None, Some(Duration::from_secs(60))] {
        let mut world = World::new(73);
        world.add_server();
        world.add_client(|config| config.stream_idle_timeout = limit);
        world.add_client(|_| {});
        world.connect_all();
        let (mut near, mut far) = world.pair(0, 1);
        for _ in 0..3 {
            world.pass(Duration::from_secs(50));
            world.wait(far.write_all(b"x")).unwrap();
            assert_eq!(world.wait(near.read_u8()).unwrap(), b'x');
        }
        world.pass(Duration::from_secs(59));
        assert!(near.read_u8().now_or_never().is_none());
        world.pass(Duration::from_secs(2));
        let read = near.read_u8().now_or_never().map(|read| read.unwrap_err().kind());
        assert_eq!(read, limit.map(|_| ErrorKind::TimedOut));
    }
}

/// Its answers would pile up here: it is not read any more instead.
#[test]
fn a_server_that_pings_and_never_reads_is_not_read_from_any_more() {
    let mut world = World::new(76);
    let (address, listener) = world.net.raw_listen();
    let key = SecretKey::from_seed(b"a server that floods");
    world.add_raw_server(address, key.public_key());
    let client = world.add_client(|_| {});
    world.list_servers(client);
    let mut server = SessionHandshake::responder(&key, SecretKey::from_seed(b"ephemeral"));
    let conn = loop {
        world.pass(Duration::from_millis(1));
        if let Some(conn) = world.net.raw_accept(&listener) {
            break conn;
        }
    };
    loop {
        let mut answer = Vec::new();
        world.pass(Duration::from_millis(1));
        let heard = Slice::from_vec(world.net.raw_read(&conn));
        let step = server.receive(heard, &mut answer).unwrap();
        world.net.raw_write(&conn, &answer);
        if matches!(step, Step::Done(_)) {
            break;
        }
    }
    world.net.raw_stop_reading(&conn);
    let mut mux = Mux::new(MuxKind::Yamux, Role::Server, MuxConfig::default());
    for _ in 0..300 {
        let mut queue = SendQueue::default();
        (0..1000).for_each(|value| mux.ping(value, &mut queue));
        let bytes: Vec<u8> = queue.pieces().flatten().copied().collect();
        world.net.raw_write(&conn, &bytes);
        world.pass(Duration::from_millis(5));
    }
    // 3.6 MB were offered; what the client took beyond both sockets is bounded by `CONTROL_FLOOD_BYTES`.
    assert!(world.net.raw_unsent_bytes(&conn) > 2_000_000, "the client stopped reading");
    assert_eq!(world.sessions(client), 1, "which is no reason to end the session at once");
}
