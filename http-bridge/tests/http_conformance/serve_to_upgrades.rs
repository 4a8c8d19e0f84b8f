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
        // HTTP/2 would carry requests of the caller's own past the proxy.
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: H2C\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: TLS/1.2, HTTP/2.0\r\n\r\n",
    ] {
        let bridge = Bridge::start().await;
        let mut caller = bridge.connect().await;
        caller.write_all(ask.as_bytes()).await.unwrap();
        let mut origin = bridge.accept().await;
        let got = head(&mut origin).await.to_lowercase();
        assert!(!got.contains("upgrade") && !got.contains("http2-settings"), "{got}");
        origin
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nraw")
            .await
            .unwrap();
        let reply = head(&mut caller).await;
        assert!(reply.contains(" 502 "), "{ask:?} gave {reply:?}");
    }
}

#[tokio::test]
async fn what_was_asked_for_beside_http_2_is_asked_for_alone_and_nothing_else_is_switched_to() {
    let bridge = Bridge::start().await;
    let mut caller = bridge.connect().await;
    let ask = ASK.replace("Upgrade: websocket", "Upgrade: h2c, websocket");
    caller.write_all(ask.as_bytes()).await.unwrap();
    let mut origin = bridge.accept().await;
    let got = head(&mut origin).await.to_lowercase();
    assert!(got.contains("\r\nupgrade: websocket\r\n") && !got.contains("h2c"), "{got}");
    origin
        .write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        )
        .await
        .unwrap();
    let reply = head(&mut caller).await;
    assert!(reply.starts_with("HTTP/1.1 502 "), "{reply}");
}

#[tokio::test]
async fn a_caller_that_breaks_is_a_reset_for_the_service() {
    let (bridge, breaks) = Bridge::with_fragile_caller().await;
    let mut caller = bridge.connect().await;
    caller.write_all(ASK.as_bytes()).await.unwrap();
    let mut origin = bridge.accept().await;
    head(&mut origin).await;
    let switch =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    origin.write_all(switch.as_bytes()).await.unwrap();
    assert!(head(&mut caller).await.starts_with("HTTP/1.1 101 "));
    caller.write_all(b"parts").await.unwrap();
    let mut part = [0; 5];
    origin.read_exact(&mut part).await.unwrap();
    breaks.cancel();
    drop(caller);
    let ended = origin.read(&mut part).await.map_err(|error| error.kind());
    assert_eq!(ended, Err(std::io::ErrorKind::ConnectionReset));
}
