//! `Expect: 100-continue`: the body waits for the peer's word, and a refused one is never sent.

use std::time::Duration;

use bytes::Bytes;
use dmsg_http::http::{HttpClient, HttpError, Reply};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    task::JoinHandle,
};

use crate::common::{PipeDial, pipe, read_head, url};

const BODY: Bytes = Bytes::from_static(b"the body");

async fn asked(
    client: &HttpClient<PipeDial>,
    listener: &mut crate::common::PipeListener,
) -> (DuplexStream, JoinHandle<Result<Reply, HttpError>>) {
    let request = client.put(url("/")).header("expect", "100-continue").body(BODY);
    let reply = tokio::spawn(request.send());
    let mut stream = listener.next().await;
    let head = read_head(&mut stream).await;
    assert!(head.contains("\r\nExpect: 100-continue\r\n"), "{head}");
    assert!(head.contains("\r\nContent-Length: 8\r\n"), "{head}");
    (stream, reply)
}

/// Nothing comes within half of the time that the client waits for a 100.
async fn is_silent(stream: &mut DuplexStream) -> bool {
    tokio::time::timeout(Duration::from_millis(500), stream.read_u8()).await.is_err()
}

#[tokio::test(start_paused = true)]
async fn the_body_follows_the_100() {
    let (dial, mut listener) = pipe();
    let client = HttpClient::new(dial);
    let (mut stream, reply) = asked(&client, &mut listener).await;
    assert!(is_silent(&mut stream).await);
    stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
    let mut body = [0; 8];
    stream.read_exact(&mut body).await.unwrap();
    assert_eq!(body, *BODY);
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(reply.await.unwrap().unwrap().text().await.unwrap(), "ok");
    assert_eq!(client.stream_counts(), (1, 0), "the stream is kept");
}

#[tokio::test(start_paused = true)]
async fn a_refused_body_is_never_sent_and_its_stream_not_reused() {
    let (dial, mut listener) = pipe();
    let client = HttpClient::new(dial.clone());
    let (mut stream, reply) = asked(&client, &mut listener).await;
    stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
    let reply = reply.await.unwrap().unwrap();
    assert_eq!(reply.status(), 403);
    assert_eq!(reply.text().await.unwrap(), "no");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty(), "{rest:?}");
    assert_eq!(client.stream_counts(), (0, 0));
    dial.wait_open(0).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_gets_the_body_after_a_second() {
    let (dial, mut listener) = pipe();
    let client = HttpClient::new(dial);
    let (mut stream, reply) = asked(&client, &mut listener).await;
    assert!(is_silent(&mut stream).await);
    let mut body = [0; 8];
    stream.read_exact(&mut body).await.unwrap();
    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    assert_eq!(reply.await.unwrap().unwrap().status(), 204);
}
