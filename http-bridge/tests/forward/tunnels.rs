use std::io::ErrorKind;

use dmsg_http::forward::ForwardConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional, split},
    net::TcpStream,
    sync::mpsc,
};

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

/// A tunnel each by CONNECT and by SOCKS, and the origin's end of it.
async fn tunnels() -> (World, [(TcpStream, TcpStream); 2]) {
    let (accepted, mut origins) = mpsc::channel(1);
    let world = World::raw(ForwardConfig::default(), move |stream| {
        let accepted = accepted.clone();
        async move { drop(accepted.send(stream).await) }
    })
    .await;
    let by_connect = world.tunnel(&format!("{}:22", host())).await.unwrap();
    let first = (by_connect, origins.recv().await.unwrap());
    let by_socks = world.socks(&host(), 22).await.unwrap();
    let second = (by_socks, origins.recv().await.unwrap());
    (world, [first, second])
}

/// Reads to the end; what came, and the error instead of an end.
async fn heard(stream: &mut TcpStream) -> (Vec<u8>, Option<ErrorKind>) {
    let mut heard = Vec::new();
    let ended = stream.read_to_end(&mut heard).await;
    (heard, ended.err().map(|error| error.kind()))
}

#[tokio::test]
async fn a_break_is_a_break_at_the_other_end() {
    let (_world, pairs) = tunnels().await;
    for (mut program, mut origin) in pairs {
        origin.write_all(b"parts").await.unwrap();
        let mut part = [0; 5];
        program.read_exact(&mut part).await.unwrap();
        origin.set_zero_linger().unwrap();
        drop(origin);
        assert_eq!(heard(&mut program).await, (vec![], Some(ErrorKind::ConnectionReset)));
    }
    let (_world, pairs) = tunnels().await;
    for (mut program, mut origin) in pairs {
        program.write_all(b"parts").await.unwrap();
        let mut part = [0; 5];
        origin.read_exact(&mut part).await.unwrap();
        program.set_zero_linger().unwrap();
        drop(program);
        assert_eq!(heard(&mut origin).await, (vec![], Some(ErrorKind::ConnectionReset)));
    }
    let (_world, pairs) = tunnels().await;
    for (mut program, mut origin) in pairs {
        origin.write_all(b"all of it").await.unwrap();
        drop(origin);
        program.shutdown().await.unwrap();
        assert_eq!(heard(&mut program).await, (b"all of it".to_vec(), None));
    }
}

#[tokio::test]
async fn tunnels_take_no_place_of_a_request_and_a_refused_one_is_told_so() {
    let world =
        patient_with(ForwardConfig { connections_max: 2, ..ForwardConfig::default() }).await;
    let first = world.socks(&host(), 22).await.unwrap();
    let second = world.socks(&host(), 22).await.unwrap();
    assert_eq!(world.socks(&host(), 22).await.map(drop), Err(1));
    // The proxy itself answers this.
    let about = world.exchange("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(about.contains("This is a DMSG proxy"), "{about}");
    drop((first, second));
    while world.socks(&host(), 22).await.is_err() {}
}
