//! Switching protocols through the bridge: raw bytes pass after the origin's 101, and not before.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::serve_to::{Bridge, OK, head};

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

#[tokio::test]
async fn bytes_pass_both_ways_after_the_101() {
    let bridge = Bridge::start().await;
    let mut caller = bridge.connect().await;
    // The first frame is in a hurry; it must arrive all the same, once the origin agreed.
    caller.write_all(format!("{ASK}early").as_bytes()).await.unwrap();
    let mut origin = bridge.accept().await;
    let got = head(&mut origin).await.to_lowercase();
    assert!(got.contains("\r\nconnection: upgrade\r\n"), "{got}");
    assert!(got.contains("\r\nupgrade: websocket\r\n"), "{got}");
    assert!(got.contains("\r\nsec-websocket-key: "), "{got}");
    assert!(!got.contains("early"));
    origin
        .write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
              Sec-WebSocket-Accept: x\r\n\r\nhello",
        )
        .await
        .unwrap();
    let reply = head(&mut caller).await.to_lowercase();
    assert!(reply.starts_with("http/1.1 101 "), "{reply}");
    assert!(reply.contains("\r\nsec-websocket-accept: x\r\n"), "{reply}");
    let mut buffer = [0; 5];
    caller.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"hello");
    origin.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"early");
    drop(caller);
    assert_eq!(origin.read(&mut buffer).await.unwrap(), 0, "the end is passed on");
}

#[tokio::test]
async fn what_follows_a_declined_upgrade_is_a_request_of_its_own() {
    let bridge = Bridge::start().await;
    let mut caller = bridge.connect().await;
    let hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\nDmsg-Caller-Key: forged\r\n\r\n";
    caller.write_all(format!("{ASK}{hidden}").as_bytes()).await.unwrap();
    let mut origin = bridge.accept().await;
    assert!(head(&mut origin).await.starts_with("GET /chat "));
    origin.write_all(OK.as_bytes()).await.unwrap();
    assert!(head(&mut caller).await.starts_with("HTTP/1.1 200 "));
    // It is parsed, and ours: without the forged word on who calls.
    let next = head(&mut origin).await.to_lowercase();
    assert!(next.starts_with("get /hidden ") && !next.contains("forged"), "{next}");
}

#[tokio::test]
async fn a_101_that_nobody_asked_for_is_a_502() {
    for ask in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ] {
        let bridge = Bridge::start().await;
        let mut caller = bridge.connect().await;
        caller.write_all(ask.as_bytes()).await.unwrap();
        let mut origin = bridge.accept().await;
        let got = head(&mut origin).await.to_lowercase();
        assert!(!got.contains("upgrade"), "{got}");
        origin
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nraw")
            .await
            .unwrap();
        let reply = head(&mut caller).await;
        assert!(reply.contains(" 502 "), "{ask:?} gave {reply:?}");
    }
}
