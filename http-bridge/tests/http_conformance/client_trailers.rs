//! Trailers, in both directions, and informational responses before the final one.

use bytes::Bytes;
use dmsg_http::http::{HttpClient, RequestBody};
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::{pipe, read_head, url};

#[tokio::test]
async fn announced_trailers_go_out_and_come_in() {
    let (dial, mut listener) = pipe();
    let client = HttpClient::new(dial);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("42"));
    let frames = [Frame::data(Bytes::from_static(b"ab")), Frame::trailers(trailers)];
    let frames = futures_util::stream::iter(frames.map(Ok));
    let body = RequestBody::Stream(Box::pin(StreamBody::new(frames)));
    let request = client.put(url("/")).header("trailer", "x-sum").body_stream(body);
    let sent = tokio::spawn(request.send());
    let mut stream = listener.next().await;
    let head = read_head(&mut stream).await;
    assert!(head.contains("\r\nTrailer: x-sum\r\n"), "{head}");
    let mut body = vec![0; b"2\r\nab\r\n0\r\nX-Sum: 42\r\n\r\n".len()];
    stream.read_exact(&mut body).await.unwrap();
    assert_eq!(body, b"2\r\nab\r\n0\r\nX-Sum: 42\r\n\r\n");
    stream
        .write_all(
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\
              Transfer-Encoding: chunked\r\nTrailer: X-End\r\n\r\n1\r\na\r\n0\r\nX-End: yes\r\n\r\n",
        )
        .await
        .unwrap();
    let reply = sent.await.unwrap().unwrap();
    assert_eq!(reply.status(), 200);
    let body = reply.into_http().into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-end"], "yes");
    assert_eq!(body.to_bytes(), "a");
    assert_eq!(client.stream_counts(), (1, 0));
}
