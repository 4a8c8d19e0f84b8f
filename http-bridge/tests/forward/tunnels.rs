use dmsg_http::forward::ForwardConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional, split};

use crate::world::{World, host};

/// An origin that answers only when it has heard everything.
async fn patient() -> World {
    patient_with(ForwardConfig::default()).await
}

async fn patient_with(config: ForwardConfig) -> World {
    World::raw(config, |mut stream| async move {
        let mut heard = Vec::new();
        if stream.read_to_end(&mut heard).await.is_ok() {
            let _ = stream.write_all(&heard).await;
        }
    })
    .await
}

#[tokio::test]
async fn the_end_of_one_direction_leaves_the_other_open() {
    let world = patient().await;
    let mut tunnel = world.tunnel(&format!("{}:22", host())).await.unwrap();
    let sent: Vec<u8> = (0..300_000u32).map(|i| (i ^ (i >> 8)) as u8).collect();
    tunnel.write_all(&sent).await.unwrap();
    tunnel.shutdown().await.unwrap();
    let mut answer = Vec::new();
    tunnel.read_to_end(&mut answer).await.unwrap();
    assert!(answer == sent, "{} of {} bytes, or others", answer.len(), sent.len());
}

#[tokio::test]
async fn bytes_behind_the_connect_are_the_tunnels() {
    let world = patient().await;
    let to = format!("{}:22", host());
    let early = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\nsaid at once");
    let mut stream = tokio::net::TcpStream::connect(world.proxy).await.unwrap();
    stream.write_all(early.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\nsaid at once"), "{answer}");
}

#[tokio::test]
async fn tunnels_have_a_limit_and_give_their_places_back() {
    let world =
        patient_with(ForwardConfig { connections_max: 2, ..ForwardConfig::default() }).await;
    let to = format!("{}:22", host());
    let first = world.tunnel(&to).await.unwrap();
    let second = world.tunnel(&to).await.unwrap();
    let refused = world.tunnel(&to).await.unwrap_err();
    assert!(refused.contains("503"), "{refused}");
    drop((first, second));
    // The proxy notices the ends in its own time.
    loop {
        match world.tunnel(&to).await {
            Ok(_) => break,
            Err(refused) => assert!(refused.contains("503"), "{refused}"),
        }
    }
}

#[tokio::test]
async fn both_directions_run_at_once() {
    let world = World::raw(ForwardConfig::default(), |stream| async move {
        let (mut read, mut write) = split(stream);
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    })
    .await;
    let mut tunnel = world.tunnel(&format!("{}:7", host())).await.unwrap();
    let (mut near, mut far) = tokio::io::duplex(1 << 10);
    let sent = vec![7; 1 << 20];
    let talk = async move {
        let (mut read, mut write) = split(&mut far);
        let mut heard = Vec::new();
        let say = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        tokio::join!(say, async { read.read_to_end(&mut heard).await.unwrap() });
        heard.len()
    };
    let (copied, heard) = tokio::join!(copy_bidirectional(&mut near, &mut tunnel), talk);
    copied.unwrap();
    assert_eq!(heard, 1 << 20);
}
