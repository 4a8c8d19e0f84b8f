//! A peer answers before it has the whole request: the answer counts, and the stream is not used again.

use std::time::Duration;

use bytes::Bytes;
use dmsg_http::http::{HttpClient, RequestBody};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::io::AsyncWriteExt;

use crate::common::{pipe, read_head, url};

const TOO_LARGE: &[u8] = b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 3\r\n\r\nbig";

#[tokio::test]
async fn the_answer_to_half_an_upload_is_given_to_the_caller() {
    for closes in [false, true] {
        let (dial, mut listener) = pipe();
        let client = HttpClient::new(dial.clone());
        // More than the pipe holds, so that the upload is stuck in the middle.
        let sent = tokio::spawn(client.put(url("/")).body(vec![7; 1 << 20]).send());
        let mut stream = listener.next().await;
        read_head(&mut stream).await;
        stream.write_all(TOO_LARGE).await.unwrap();
        let held = (!closes).then_some(stream);
        let reply = tokio::time::timeout(Duration::from_secs(5), sent).await.unwrap();
        let reply = reply.unwrap().unwrap();
        assert_eq!(reply.status(), 413);
        assert_eq!(reply.text().await.unwrap(), "big");
        assert_eq!(client.stream_counts(), (0, 0), "a stream with half a request on it");
        dial.wait_open(0).await;
        drop(held);
    }
}

#[tokio::test]
async fn the_answer_to_an_endless_upload_too() {
    let (dial, mut listener) = pipe();
    let client = HttpClient::new(dial.clone());
    let first = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(b"x")))]);
    let endless = futures_util::StreamExt::chain(first, futures_util::stream::pending());
    let body = RequestBody::Stream(Box::pin(StreamBody::new(endless)));
    let sent = tokio::spawn(client.put(url("/")).body_stream(body).send());
    let mut stream = listener.next().await;
    read_head(&mut stream).await;
    stream.write_all(TOO_LARGE).await.unwrap();
    assert_eq!(sent.await.unwrap().unwrap().text().await.unwrap(), "big");
    dial.wait_open(0).await;
}
