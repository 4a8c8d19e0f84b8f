//! The corpus of ambiguous and broken requests: each is answered once, with an error, and not a byte of it reaches the
//! origin; nor does the request that is hidden behind it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    serve_to::{Bridge, OK, head, record},
    smuggling::{BAD_CHUNKS, HIDDEN, REFUSED},
};

#[tokio::test]
async fn ambiguous_heads_are_answered_once_and_never_forwarded() {
    let bridge = Bridge::start().await;
    for (name, rest) in REFUSED {
        let request = format!("POST /open HTTP/1.1\r\nHost: a\r\n{rest}{HIDDEN}");
        let reply = bridge.raw(&request).await;
        assert!(reply.starts_with("HTTP/1.1 400 "), "{name} gave {reply:?}");
        assert_eq!(reply.matches("HTTP/1.1 ").count(), 1, "{name} gave {reply:?}");
    }
    for request in [
        "POST /open HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /open HTTP/1.1\r\n\r\n",
        "GET /open HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET  /open HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /open HTTP/2.0\r\nHost: a\r\n\r\n",
        "GET /o pen HTTP/1.1\r\nHost: a\r\n\r\n",
        "G@T /open HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://other/ HTTP/1.1\r\nHost: a\r\n\r\n",
        " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let reply = bridge.raw(&format!("{request}{HIDDEN}")).await;
        assert!(reply.starts_with("HTTP/1.1 400 "), "{request:?} gave {reply:?}");
        assert_eq!(reply.matches("HTTP/1.1 ").count(), 1, "{request:?} gave {reply:?}");
    }
    for request in ["CONNECT a:80 HTTP/1.1\r\nHost: a:80", "TRACE / HTTP/1.1\r\nHost: a"] {
        let reply = bridge.raw(&format!("{request}\r\nConnection: close\r\n\r\n")).await;
        assert!(reply.starts_with("HTTP/1.1 501 "), "{request:?} gave {reply:?}");
    }
    // The first that the origin hears of is this request.
    let mut caller = bridge.connect().await;
    caller.write_all(b"GET /last HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut origin = bridge.accept().await;
    assert!(head(&mut origin).await.starts_with("GET /last "));
    origin.write_all(OK.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn broken_chunks_never_make_a_complete_request() {
    for (name, body) in BAD_CHUNKS {
        let bridge = Bridge::start().await;
        let request = format!(
            "POST /open HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}{HIDDEN}"
        );
        let mut caller = bridge.connect().await;
        caller.write_all(request.as_bytes()).await.unwrap();
        let mut got = Vec::new();
        if let Ok(Ok((mut origin, _))) =
            tokio::time::timeout(std::time::Duration::from_millis(300), bridge.origin.accept())
                .await
        {
            origin.read_to_end(&mut got).await.unwrap();
        }
        let got = String::from_utf8_lossy(&got);
        assert!(!got.contains("\r\n0\r\n\r\n"), "{name} became complete: {got:?}");
        assert!(!got.contains("/hidden"), "{name} smuggled: {got:?}");
        let mut reply = String::new();
        caller.read_to_string(&mut reply).await.unwrap();
        assert!(!reply.contains(" 200 "), "{name} gave {reply:?}");
    }
}

#[tokio::test]
async fn lengths_are_stated_once_on_the_way_to_the_origin() {
    let bridge = Bridge::start().await;
    let mut caller = bridge.connect().await;
    let request = "POST /open HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                   3;ext=\"x\"\r\nabc\r\n0\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n";
    caller.write_all(request.as_bytes()).await.unwrap();
    let mut origin = bridge.accept().await;
    let got = head(&mut origin).await.to_lowercase();
    assert_eq!(got.matches("transfer-encoding").count(), 1, "{got}");
    assert!(!got.contains("content-length"), "{got}");
    let mut body = [0; 13];
    origin.read_exact(&mut body).await.unwrap();
    assert_eq!(
        &body, b"3\r\nabc\r\n0\r\n\r\n",
        "neither extension nor trailers that nobody announced"
    );
}

#[tokio::test]
async fn pipelined_requests_are_two_requests_to_the_origin() {
    let bridge = Bridge::start().await;
    let mut caller = bridge.connect().await;
    let two = format!("GET /one HTTP/1.1\r\nHost: a\r\n\r\n{HIDDEN}");
    caller.write_all(two.as_bytes()).await.unwrap();
    let record = record(bridge.origin);
    let mut replies = vec![0; 2];
    while replies.windows(2).filter(|end| end == b"ok").count() < 2 {
        assert!(caller.read_buf(&mut replies).await.unwrap() > 0);
    }
    let got = String::from_utf8(record.lock().unwrap().clone()).unwrap();
    assert_eq!(got.matches(" HTTP/1.1\r\n").count(), 2, "{got}");
    assert_eq!(got.matches("x-forwarded-for: ").count(), 2, "both are ours: {got}");
}
