//! What bounds an exchange: its total time, both bodies, the response's head.

use std::time::Duration;

use bytes::Bytes;
use dmsg_http::http::{HttpClient, HttpConfig, HttpError, RequestBody};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::{PipeListener, pipe, read_head, url};

/// Answers every request on each stream with these bytes, then one more byte per second.
async fn trickle(mut listener: PipeListener, begin: &'static str) {
    let mut stream = listener.next().await;
    read_head(&mut stream).await;
    stream.write_all(begin.as_bytes()).await.unwrap();
    while stream.write_all(b"x").await.is_ok() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_total_time_counts_through_the_body() {
    for (begin, head_comes) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\nX: ", false),
    ] {
        let (dial, listener) = pipe();
        tokio::spawn(trickle(listener, begin));
        let mut config = HttpConfig::default();
        config.total_timeout = Some(Duration::from_secs(10));
        let client = HttpClient::with_config(dial.clone(), config);
        let begun = tokio::time::Instant::now();
        let result = match client.get(url("/")).send().await {
            Ok(reply) => {
                assert!(head_comes);
                reply.bytes().await.map(drop)
            }
            Err(error) => Err(error),
        };
        let error = result.unwrap_err();
        assert!(matches!(error, HttpError::TotalTimeout { .. }) && error.is_timeout(), "{error}");
        assert_eq!(begun.elapsed().as_secs(), 10);
        dial.wait_open(0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_request_may_have_its_own_total_time() {
    let (dial, listener) = pipe();
    tokio::spawn(trickle(listener, "HTTP/1.1 200 OK\r\n\r\n"));
    let client = HttpClient::new(dial);
    let reply = client.get(url("/")).timeout(Duration::from_secs(3)).send().await.unwrap();
    assert!(matches!(reply.bytes().await, Err(HttpError::TotalTimeout { .. })));
}

fn bounded() -> HttpConfig {
    let mut config = HttpConfig::default();
    (config.request_body_max_bytes, config.response_body_max_bytes) = (10, 10);
    config
}

#[tokio::test]
async fn a_response_body_above_the_limit_is_cut() {
    for reply in [
        "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n123456\r\n5\r\n78901\r\n0\r\n\r\n",
    ] {
        let (dial, mut listener) = pipe();
        let client = HttpClient::with_config(dial.clone(), bounded());
        let sent = tokio::spawn(async move { client.get(url("/")).send().await?.bytes().await });
        let mut stream = listener.next().await;
        read_head(&mut stream).await;
        stream.write_all(reply.as_bytes()).await.unwrap();
        assert!(matches!(sent.await.unwrap(), Err(HttpError::BodyTooLarge { max: 10 })), "{reply}");
        dial.wait_open(0).await;
    }
}

#[tokio::test]
async fn a_request_body_above_the_limit_is_not_sent() {
    let (dial, mut listener) = pipe();
    let client = HttpClient::with_config(dial.clone(), bounded());
    let sent = client.post(url("/")).body(vec![0; 11]).send().await;
    assert!(matches!(sent, Err(HttpError::RequestTooLarge { max: 10 })));
    let pieces = futures_util::stream::iter(
        [6, 5].map(|length| Ok(Frame::data(Bytes::from(vec![b'x'; length])))),
    );
    let body = RequestBody::Stream(Box::pin(StreamBody::new(pieces)));
    let sent = tokio::spawn(client.post(url("/")).body_stream(body).send());
    // The stream of the first attempt never carried a byte.
    drop(listener.next().await);
    let mut stream = listener.next().await;
    assert!(matches!(sent.await.unwrap(), Err(HttpError::RequestTooLarge { max: 10 })));
    let mut received = String::new();
    stream.read_to_string(&mut received).await.unwrap();
    assert!(!received.contains("\r\n0\r\n"), "it must not look complete: {received}");
    dial.wait_open(0).await;
}

#[tokio::test]
async fn floods_of_headers_are_refused() {
    let many = "X: y\r\n".repeat(101);
    let long = format!("X: {}\r\n", "y".repeat(70_000));
    for flood in [many, long] {
        let (dial, mut listener) = pipe();
        let client = HttpClient::new(dial.clone());
        let sent = tokio::spawn(client.get(url("/")).send());
        let mut stream = listener.next().await;
        read_head(&mut stream).await;
        let reply = format!("HTTP/1.1 200 OK\r\n{flood}\r\n");
        tokio::spawn(async move { stream.write_all(reply.as_bytes()).await });
        let error = sent.await.unwrap().unwrap_err();
        assert!(matches!(error, HttpError::Malformed { .. }), "{error}");
        dial.wait_open(0).await;
    }
}
