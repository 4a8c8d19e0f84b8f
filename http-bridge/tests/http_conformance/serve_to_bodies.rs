//! Bodies between caller and origin: truncation is never silent, lengths are kept, trailers and 100 go through.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::serve_to::{Bridge, OK, head};

async fn exchange(answer: &str) -> String {
    let bridge = Bridge::start().await;
    let mut caller = bridge.connect().await;
    caller.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut origin = bridge.accept().await;
    head(&mut origin).await;
    origin.write_all(answer.as_bytes()).await.unwrap();
    origin.shutdown().await.unwrap();
    let mut reply = String::new();
    caller.read_to_string(&mut reply).await.unwrap();
    reply
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_broken_off_for_the_caller() {
    let cut = exchange("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await;
    assert!(
        cut.to_lowercase().contains("\r\ncontent-length: 9\r\n") && cut.ends_with("half"),
        "{cut}"
    );
    for body in ["4\r\nhalf", "4\r\nhalf\r\n", "4\r\nhalf\r\n0\r\n", "4\r\nhalf\r\nzz\r\n"] {
        let cut =
            exchange(&format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}")).await;
        assert!(!cut.contains("\r\n0\r\n\r\n"), "{body:?} became complete: {cut:?}");
        assert!(!cut.to_lowercase().contains("content-length"), "{body:?}: {cut:?}");
    }
}

#[tokio::test]
async fn answers_that_state_their_length_twice_or_not_at_all() {
    for twice in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n\r\n",
        "Content-Length: 4\r\nContent-Length: 5\r\n\r\nhalf!",
        "Content-Length: 4, 4\r\n\r\nhalf",
        // The caller would not be told of the coding.
        "Transfer-Encoding: gzip, chunked\r\n\r\n4\r\nhalf\r\n0\r\n\r\n",
        "Transfer-Encoding: gzip\r\n\r\nhalf",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n\r\n",
    ] {
        let reply = exchange(&format!("HTTP/1.1 200 OK\r\n{twice}")).await;
        assert!(reply.starts_with("HTTP/1.1 502 "), "{twice:?} gave {reply:?}");
    }
    let open = exchange("HTTP/1.0 200 OK\r\n\r\nuntil the end").await;
    assert!(open.contains("until the end\r\n0\r\n\r\n"), "the end is said: {open:?}");
    let long =
        exchange("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfourHTTP/1.1 200 OK\r\n\r\n").await;
    assert!(long.ends_with("four"), "what is too much is cut: {long:?}");
    assert_eq!(long.matches("HTTP/1.1").count(), 1, "{long:?}");
    for nothing in ["", "\r\n\r\n", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\nX: "] {
        let reply = exchange(nothing).await;
        assert!(reply.starts_with("HTTP/1.1 502 "), "{nothing:?} gave {reply:?}");
    }
    let flood = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(200));
    assert!(exchange(&flood).await.starts_with("HTTP/1.1 502 "));
}

#[tokio::test]
async fn a_caller_that_dies_in_its_upload_leaves_no_complete_request() {
    for (length, part) in
        [("Content-Length: 9", "half"), ("Transfer-Encoding: chunked", "4\r\nhalf\r\n")]
    {
        let bridge = Bridge::start().await;
        let mut caller = bridge.connect().await;
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{length}\r\n\r\n{part}");
        caller.write_all(request.as_bytes()).await.unwrap();
        let mut origin = bridge.accept().await;
        let begun = head(&mut origin).await;
        drop(caller);
        let mut rest = Vec::new();
        // A reset is as good a sign as an early end.
        let _ = origin.read_to_end(&mut rest).await;
        let rest = String::from_utf8_lossy(&rest);
        assert!(!rest.contains("0\r\n\r\n") && rest.len() < 12, "{begun}{rest}");
    }
}

#[tokio::test]
async fn announced_trailers_go_through_in_both_directions() {
    let bridge = Bridge::start().await;
    let mut caller = bridge.connect().await;
    caller
        .write_all(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\
              TE: trailers\r\nConnection: TE\r\n\r\n\
              1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n",
        )
        .await
        .unwrap();
    let mut origin = bridge.accept().await;
    let got = head(&mut origin).await.to_lowercase();
    assert!(
        got.contains("\r\ntrailer: x-sum\r\n") && got.contains("\r\nte: trailers\r\n"),
        "{got}"
    );
    let body = head(&mut origin).await.to_lowercase();
    assert_eq!(body, "1\r\na\r\n0\r\nx-sum: 1\r\n\r\n");
    origin
        .write_all(
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\
              Trailer: X-End\r\n\r\n1\r\nb\r\n0\r\nX-End: 2\r\n\r\n",
        )
        .await
        .unwrap();
    let reply = head(&mut caller).await.to_lowercase();
    assert!(reply.starts_with("http/1.1 200 ok\r\n"), "{reply}");
    assert!(reply.contains("\r\ntrailer: x-end\r\n"), "{reply}");
    assert_eq!(head(&mut caller).await.to_lowercase(), "1\r\nb\r\n0\r\nx-end: 2\r\n\r\n");
}

#[tokio::test]
async fn a_body_waits_for_the_origins_100_and_a_refusal_saves_it() {
    let ask = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
    let bridge = Bridge::start().await;
    let mut caller = bridge.connect().await;
    caller.write_all(ask).await.unwrap();
    let mut origin = bridge.accept().await;
    assert!(head(&mut origin).await.to_lowercase().contains("\r\nexpect: 100-continue\r\n"));
    origin.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
    assert!(head(&mut caller).await.starts_with("HTTP/1.1 100 "));
    caller.write_all(b"body").await.unwrap();
    let mut body = [0; 4];
    origin.read_exact(&mut body).await.unwrap();
    origin.write_all(OK.as_bytes()).await.unwrap();
    assert!(head(&mut caller).await.starts_with("HTTP/1.1 200 "));

    let mut caller = bridge.connect().await;
    caller.write_all(ask).await.unwrap();
    let refuse = async |origin: &mut tokio::net::TcpStream| {
        head(origin).await;
        origin.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
    };
    // The second request comes on the kept connection.
    refuse(&mut origin).await;
    let mut reply = String::new();
    caller.read_to_string(&mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 403 "), "without a 100 before: {reply:?}");
}

#[tokio::test]
async fn an_early_answer_to_half_an_upload_reaches_the_caller() {
    let bridge = Bridge::start().await;
    let mut caller = bridge.connect().await;
    caller
        .write_all(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nhalf")
        .await
        .unwrap();
    let mut origin = bridge.accept().await;
    head(&mut origin).await;
    origin
        .write_all(b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 3\r\n\r\nbig")
        .await
        .unwrap();
    let reply = head(&mut caller).await;
    assert!(reply.starts_with("HTTP/1.1 413 "), "{reply}");
}

#[tokio::test]
async fn a_body_that_is_no_body_is_the_callers_fault() {
    let bridge = Bridge::start().await;
    let mut caller = bridge.connect().await;
    let request = "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n";
    caller.write_all(request.as_bytes()).await.unwrap();
    let mut origin = bridge.accept().await;
    head(&mut origin).await;
    caller.write_all(b"0\r\nX-Sum: 1\r\n 2\r\n\r\n").await.unwrap();
    let reply = head(&mut caller).await;
    assert!(reply.starts_with("HTTP/1.1 400 "), "{reply}");
}

#[tokio::test]
async fn a_get_keeps_its_chunked_body() {
    for method in ["GET", "HEAD", "DELETE", "POST"] {
        let bridge = Bridge::start().await;
        let mut caller = bridge.connect().await;
        let request = format!(
            "{method} /_search HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
        );
        caller.write_all(request.as_bytes()).await.unwrap();
        let mut origin = bridge.accept().await;
        let got = head(&mut origin).await.to_lowercase();
        assert!(got.contains("\r\ntransfer-encoding: chunked\r\n"), "{got}");
        assert_eq!(head(&mut origin).await, "1\r\na\r\n0\r\n\r\n", "{method}");
        origin.write_all(OK.as_bytes()).await.unwrap();
        assert!(head(&mut caller).await.starts_with("HTTP/1.1 200 "));
    }
}

#[tokio::test]
async fn trailers_cannot_say_what_the_head_could_not() {
    let forged = [
        "Dmsg-Caller-Key",
        "dmsg_caller_key",
        "X_Forwarded-For",
        "X-Real-IP",
        "Cookie",
        "Authorization",
        "Host",
        "Proxy-Authorization",
        "Connection",
        "Expect",
    ];
    let bridge = Bridge::start().await;
    let mut caller = bridge.connect().await;
    let lines: String = forged.map(|name| format!("{name}: forged\r\n")).concat();
    let request = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: {}\r\nTrailer: X-Sum\r\n\r\n\
         1\r\na\r\n0\r\n{lines}X-Sum: 1\r\n\r\n",
        forged.join(", ")
    );
    caller.write_all(request.as_bytes()).await.unwrap();
    let mut origin = bridge.accept().await;
    let got = head(&mut origin).await.to_lowercase();
    assert_eq!(got.matches("\r\ntrailer: ").count(), 1, "{got}");
    assert!(got.contains("\r\ntrailer: x-sum\r\n"), "{got}");
    let body = head(&mut origin).await.to_lowercase();
    assert_eq!(body, "1\r\na\r\n0\r\nx-sum: 1\r\n\r\n");
}
