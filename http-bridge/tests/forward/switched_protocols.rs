//! Web sockets through the proxy, without CONNECT: programs that send `ws://` like `http://` to their proxy.

use dmsg_http::forward::ForwardConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::world::{World, host};

fn ask(protocol: &str) -> String {
    let host = host();
    format!(
        "GET http://{host}/chat HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// An origin that switches to whatever it is told here, and echoes.
async fn switching(answer: &'static str) -> World {
    World::raw(ForwardConfig::default(), move |mut stream| async move {
        let got = head(&mut stream).await.to_lowercase();
        if answer.contains(" 101 ") && !got.contains("\r\nupgrade: websocket\r\n") {
            let _ = stream
                .write_all(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n")
                .await;
            return;
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    })
    .await
}

const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nhello";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_pass_both_ways_after_the_101() {
    let world = switching(SWITCHED).await;
    let mut program = TcpStream::connect(world.proxy).await.unwrap();
    program.write_all(format!("{}early", ask("websocket")).as_bytes()).await.unwrap();
    let reply = head(&mut program).await.to_lowercase();
    assert!(reply.starts_with("http/1.1 101 "), "{reply}");
    assert!(reply.contains("\r\nupgrade: websocket\r\n"), "{reply}");
    assert!(reply.contains("\r\nsec-websocket-accept: x\r\n"), "{reply}");
    let mut buffer = [0; 10];
    program.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"helloearly");
    program.shutdown().await.unwrap();
    assert_eq!(program.read(&mut buffer).await.unwrap(), 0, "the end is passed on and back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_carries_requests_is_not_switched_to_nor_what_nobody_asked_for() {
    let world = switching(SWITCHED).await;
    let mut program = TcpStream::connect(world.proxy).await.unwrap();
    program.write_all(ask("h2c").as_bytes()).await.unwrap();
    assert!(head(&mut program).await.starts_with("HTTP/1.1 426 "), "h2c stays behind");
    for answer in [
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ] {
        let world = switching(answer).await;
        let mut program = TcpStream::connect(world.proxy).await.unwrap();
        program.write_all(ask("websocket").as_bytes()).await.unwrap();
        let expected = if answer.contains(" 200 ") { "HTTP/1.1 200 " } else { "HTTP/1.1 502 " };
        let reply = head(&mut program).await;
        assert!(reply.starts_with(expected), "{answer:?} gave {reply}");
    }
}
