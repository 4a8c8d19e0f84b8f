use dmsg_engine::{driver, edge::OwnedStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_uring::{buf::BoundedBuf, fs::File};

use crate::world::{BYTES, World, pattern, within_a_minute};

/// tokio-uring panics where io_uring is forbidden.
fn is_allowed() -> bool {
    match driver::probe() {
        Ok(_) => true,
        Err(error) => {
            println!("skipped: {error}");
            false
        }
    }
}

fn uring<F: Future<Output = ()>>(future: F) {
    tokio_uring::start(future);
}

#[test]
fn a_file_goes_through_a_stream_into_a_file() {
    if !is_allowed() {
        return;
    }
    within_a_minute(
        || async {
            let world = World::new();
            let mut listener = world.service.listen(world.addr.port).unwrap();
            world.ready().await;
            let folder = std::env::temp_dir().join(format!("dmsg-edge-{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            let (from, to) = (folder.join("from"), folder.join("to"));
            std::fs::write(&from, pattern()).unwrap();

            let service = tokio_uring::spawn(async move {
                let mut stream = listener.accept().await.unwrap();
                let file = File::open(from).await.unwrap();
                let (mut buf, mut at) = (vec![0; 50_000], 0);
                loop {
                    let (read, lent) = file.read_at(buf, at).await;
                    let count = read.unwrap();
                    if count == 0 {
                        break;
                    }
                    at += count as u64;
                    let (written, lent) = stream.write_all_owned(lent.slice(..count)).await;
                    written.unwrap();
                    buf = lent.into_inner();
                }
                file.close().await.unwrap();
                stream.shutdown().await.unwrap();
            });

            let mut stream = world.caller.dial(world.addr).await.unwrap();
            let file = File::create(&to).await.unwrap();
            let (mut buf, mut at) = (Vec::with_capacity(40_000), 0);
            loop {
                let (read, lent) = stream.read_owned(buf).await;
                let count = read.unwrap();
                if count == 0 {
                    break;
                }
                let (written, lent) = file.write_all_at(lent.slice(..count), at).await;
                written.unwrap();
                at += count as u64;
                buf = lent.into_inner();
            }
            file.close().await.unwrap();
            service.await.unwrap();
            assert_eq!(at, BYTES as u64);
            assert!(std::fs::read(&to).unwrap() == pattern(), "the copy differs");
            std::fs::remove_dir_all(folder).unwrap();
            drop(stream);
            world.assert_idle();
        },
        uring,
    );
}

#[test]
fn parts_of_buffers_and_empty_ones() {
    if !is_allowed() {
        return;
    }
    within_a_minute(
        || async {
            let world = World::new();
            let mut listener = world.service.listen(world.addr.port).unwrap();
            world.ready().await;
            let mut stream = world.caller.dial(world.addr).await.unwrap();
            let mut service = listener.accept().await.unwrap();
            assert_eq!(stream.write_owned(Vec::new()).await.0.unwrap(), 0);
            let (written, _) = stream.write_owned(b"0123456789".to_vec().slice(2..5)).await;
            assert_eq!(written.unwrap(), 3);
            // Behind what the buffer holds already; its runtime's own traits work beside ours.
            let (read, part) = service.read_owned(b"ab......".to_vec().slice(2..)).await;
            assert_eq!(read.unwrap(), 3);
            assert_eq!(part.into_inner(), b"ab234...");
            service.write_all(b"x").await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), b'x');
            service.shutdown().await.unwrap();
            assert_eq!(stream.read_owned(vec![0; 4]).await.0.unwrap(), 0, "the peer's end");
            drop(service);
            let error = loop {
                if let (Err(error), _) = stream.write_all_owned(vec![0; 100_000]).await {
                    break error;
                }
            };
            assert!(error.to_string().contains("stream"), "{error}");
        },
        uring,
    );
}
