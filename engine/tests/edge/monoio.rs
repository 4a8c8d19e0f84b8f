use std::{future::Future, io::ErrorKind};

use dmsg_engine::client::Stream;
use monoio::{
    buf::{IoBuf, IoBufMut, IoVecBuf, VecBuf},
    io::{AsyncReadRent, AsyncReadRentExt, AsyncWriteRent, AsyncWriteRentExt, stream::Stream as _},
};

use crate::world::{World, pattern, within_a_minute};

/// On io_uring where it is allowed, else on epoll.
fn fusion<F: Future<Output = ()>>(future: F) {
    let mut runtime =
        monoio::RuntimeBuilder::<monoio::FusionDriver>::new().enable_timer().build().unwrap();
    runtime.block_on(future);
}

/// On epoll in any case.
fn legacy<F: Future<Output = ()>>(future: F) {
    let mut runtime =
        monoio::RuntimeBuilder::<monoio::LegacyDriver>::new().enable_timer().build().unwrap();
    runtime.block_on(future);
}

async fn echo(mut stream: Stream) {
    let mut buf = vec![0; 10_000];
    loop {
        let (read, lent) = stream.read(buf).await;
        if read.unwrap() == 0 {
            return stream.shutdown().await.unwrap();
        }
        let (written, lent) = stream.write_all(lent).await;
        written.unwrap();
        buf = lent;
    }
}

async fn megabytes_come_back() {
    let world = World::new();
    let mut listener = world.service.listen(world.addr.port).unwrap();
    world.ready().await;
    let service = monoio::spawn(async move { echo(listener.next().await.unwrap().unwrap()).await });
    let mut stream = world.caller.dial(world.addr).await.unwrap();
    let sent = pattern();
    let mut got = Vec::new();
    for part in sent.chunks(100_000) {
        let (written, _) = stream.write_all(part.to_vec()).await;
        assert_eq!(written.unwrap(), part.len());
        let (read, part) = stream.read_exact(vec![0; part.len()]).await;
        read.unwrap();
        got.extend(part);
    }
    stream.shutdown().await.unwrap();
    service.await;
    assert!(got == sent, "what comes back differs");
    assert_eq!(stream.read(vec![0; 8]).await.0.unwrap(), 0, "the peer's end");
    drop(stream);
    world.assert_idle();
}

#[test]
fn megabytes_come_back_on_the_best_driver() {
    within_a_minute(megabytes_come_back, fusion);
}

#[test]
fn megabytes_come_back_on_epoll() {
    within_a_minute(megabytes_come_back, legacy);
}

#[test]
fn lists_and_parts_of_buffers_and_empty_ones() {
    within_a_minute(
        || async {
            let world = World::new();
            let mut listener = world.service.listen(world.addr.port).unwrap();
            world.ready().await;
            let service =
                monoio::spawn(async move { echo(listener.next().await.unwrap().unwrap()).await });
            let mut stream = world.caller.dial(world.addr).await.unwrap();
            assert_eq!(stream.write(Vec::new()).await.0.unwrap(), 0);
            assert_eq!(stream.read(Vec::new()).await.0.unwrap(), 0, "no room, nothing read");
            let (written, _) = stream.write(b"0123456789".to_vec().slice(2..5)).await;
            assert_eq!(written.unwrap(), 3);
            let list = VecBuf::from(vec![Vec::new(), b"abc".to_vec(), b"def".to_vec()]);
            assert_eq!(list.read_iovec_len(), 3);
            let (written, _) = stream.writev(list).await;
            assert_eq!(written.unwrap(), 3, "of the first that is not empty");
            // Behind what the buffer holds already; monoio takes the end of a read for a Vec's length.
            let (read, part) = stream.read_exact(b"ab......--".to_vec().slice_mut(2..8)).await;
            read.unwrap();
            assert_eq!(part.into_inner(), b"ab234abc");
            stream.write_all("more").await.0.unwrap();
            let list = VecBuf::from(vec![Vec::new(), vec![0; 2], vec![0; 9]]);
            let (read, list) = stream.readv(list).await;
            assert_eq!(read.unwrap(), 2, "into the first that has room");
            assert_eq!(Vec::<Vec<u8>>::from(list)[1], b"mo");
            stream.flush().await.unwrap();
            stream.shutdown().await.unwrap();
            let error = stream.write("late").await.0.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BrokenPipe);
            service.await;
        },
        fusion,
    );
}

#[test]
fn a_read_given_up_loses_nothing() {
    within_a_minute(
        || async {
            let world = World::new();
            let mut listener = world.service.listen(world.addr.port).unwrap();
            world.ready().await;
            let mut stream = world.caller.dial(world.addr).await.unwrap();
            let mut service = listener.next().await.unwrap().unwrap();
            for _ in 0..100 {
                // Polled once while nothing is there, then dropped with its buffer.
                let read = std::pin::pin!(stream.read(vec![0; 64]));
                assert!(futures_util::FutureExt::now_or_never(read).is_none());
            }
            service.write_all("all of it").await.0.unwrap();
            let (read, buf) = stream.read_exact(vec![0; 9]).await;
            read.unwrap();
            assert_eq!(buf, b"all of it");
        },
        fusion,
    );
}

#[test]
fn a_closed_client_ends_the_listener_and_the_stream() {
    within_a_minute(
        || async {
            let world = World::new();
            let mut listener = world.service.listen(world.addr.port).unwrap();
            world.ready().await;
            let mut stream = world.caller.dial(world.addr).await.unwrap();
            let _accepted = listener.next().await.unwrap().unwrap();
            world.service.close().await;
            assert!(listener.next().await.is_none());
            // A reset or the end, whichever the relay passes on; in no case does it hang.
            let (read, _) = stream.read(vec![0; 8]).await;
            assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
        },
        fusion,
    );
}
