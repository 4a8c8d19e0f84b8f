//! A local service behind the proxy: what it sees, what its callers see, and what happens when it fails.
#![allow(clippy::unwrap_used)]

mod common;

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body};
use bytes::Bytes;
use common::{PipeDial, caller, pipe, url};
use dmsg_http::{
    http::{
        Dial, HttpClient, Request, RequestBody,
        server::{ServeConfig, ServeStats, serve},
    },
    proxy::{Proxy, Target},
};
use http::{HeaderValue, Method, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// A proxy to a listener of this test.
async fn proxy() -> (PipeDial, TcpListener) {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("http://{}", upstream.local_addr().unwrap());
    (start(&target), upstream)
}

fn start(target: &str) -> PipeDial {
    start_proxy(Proxy::new(Target::parse(target, false).unwrap()))
}

fn start_proxy(proxy: Proxy) -> PipeDial {
    let service = Router::new().fallback(move |request: http::Request<Body>| {
        let proxy = proxy.clone();
        async move { proxy.respond(request).await }
    });
    let (dial, listener) = pipe();
    let stats = Arc::new(ServeStats::default());
    tokio::spawn(serve(listener, service, ServeConfig::default(), stats, std::future::pending()));
    dial
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap().to_lowercase()
}

#[tokio::test]
async fn the_service_sees_our_word_on_the_caller_and_no_hop_by_hop_headers() {
    let (dial, upstream) = proxy().await;
    let host = upstream.local_addr().unwrap();
    let client = HttpClient::new(dial);
    let mut request = Request::get(url("/path?x=1"));
    for (name, value) in [
        ("dmsg-caller-key", "forged"),
        ("dmsg_caller_key", "forged"),
        ("x-forwarded-for", "forged"),
        ("x-real-ip", "forged"),
        ("connection", "x-hop, keep-alive"),
        ("x-hop", "hop"),
        ("te", "trailers"),
        ("upgrade", "websocket"),
        ("proxy-authorization", "hop"),
        ("x-end-to-end", "kept"),
    ] {
        request.headers.append(name, HeaderValue::from_static(value));
    }
    let reply = tokio::spawn(async move { client.send(request).await });
    let (mut stream, _) = upstream.accept().await.unwrap();
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("get /path?x=1 http/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nhost: {host}\r\n")), "{head}");
    assert!(head.contains(&format!("\r\ndmsg-caller-key: {}\r\n", caller().key)), "{head}");
    assert!(head.contains(&format!("\r\nx-forwarded-for: {}\r\n", caller().key)), "{head}");
    assert!(head.contains("\r\nx-end-to-end: kept\r\n"), "{head}");
    for gone in ["forged", "hop", "trailers", "websocket", "keep-alive"] {
        assert!(!head.contains(gone), "{gone} in {head}");
    }
    let answer = format!(
        "HTTP/1.1 302 Found\r\nLocation: http://{host}/there?y\r\nKeep-Alive: timeout=5\r\n\
         Content-Length: 2\r\n\r\nok"
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
    let reply = reply.await.unwrap().unwrap();
    assert_eq!(reply.status(), StatusCode::FOUND);
    assert_eq!(reply.headers()["location"], "/there?y");
    assert!(!reply.headers().contains_key("keep-alive"));
    assert_eq!(reply.into_body().read_to_end(9).await.unwrap(), "ok");
}

#[tokio::test]
async fn bodies_stream_in_both_directions() {
    let (dial, upstream) = proxy().await;
    let client = HttpClient::new(dial);
    let echo = Router::new().fallback(|body: Body| async move { http::Response::new(body) });
    tokio::spawn(async move { axum::serve(upstream, echo).await });
    let sent: Bytes = (0..3_000_000u32).map(|i| (i / 9) as u8).collect();
    let mut request = Request::new(Method::POST, url("/"));
    request.body = RequestBody::Full(sent.clone());
    let reply = client.send(request).await.unwrap();
    assert_eq!(reply.into_body().read_to_end(4 << 20).await.unwrap(), sent);
}

#[tokio::test]
async fn a_service_that_is_down_is_a_502() {
    let (dial, upstream) = proxy().await;
    drop(upstream);
    let reply = HttpClient::new(dial).send(Request::get(url("/"))).await.unwrap();
    assert_eq!(reply.status(), StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn a_service_that_hangs_is_a_504() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("http://{}", upstream.local_addr().unwrap());
    let proxy = Proxy::new(Target::parse(&target, false).unwrap())
        .with_answer_timeout(Duration::from_millis(50));
    let reply = HttpClient::new(start_proxy(proxy)).send(Request::get(url("/"))).await.unwrap();
    assert_eq!(reply.status(), StatusCode::GATEWAY_TIMEOUT);
}

#[tokio::test]
async fn a_service_that_speaks_no_http_is_a_502() {
    let (dial, upstream) = proxy().await;
    tokio::spawn(async move {
        let (mut stream, _) = upstream.accept().await.unwrap();
        read_head(&mut stream).await;
        stream.write_all(b"220 smtp\r\n\r\n").await.unwrap();
    });
    let reply = HttpClient::new(dial).send(Request::get(url("/"))).await.unwrap();
    assert_eq!(reply.status(), StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn a_reply_the_service_breaks_off_is_broken_off_here_too() {
    let (dial, upstream) = proxy().await;
    tokio::spawn(async move {
        let (mut stream, _) = upstream.accept().await.unwrap();
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await.unwrap();
    });
    let reply = HttpClient::new(dial).send(Request::get(url("/"))).await.unwrap();
    assert!(reply.into_body().read_to_end(100).await.is_err());
}

#[tokio::test]
async fn a_request_with_two_lengths_is_refused_and_never_reaches_the_service() {
    let (dial, upstream) = proxy().await;
    let smuggled = "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n";
    let length = format!("Content-Length: {}\r\n", smuggled.len() + 5);
    let chunked = "Transfer-Encoding: chunked\r\n";
    for headers in [format!("{length}{chunked}"), format!("{chunked}{length}")] {
        let mut stream = dial.dial(caller()).await.unwrap();
        let request = format!("POST /open HTTP/1.1\r\nHost: a\r\n{headers}\r\n0\r\n\r\n{smuggled}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        assert!(reply.starts_with("HTTP/1.1 400 "), "{reply}");
        assert!(reply.contains("both Transfer-Encoding and Content-Length"), "{reply}");
        assert_eq!(reply.matches("HTTP/1.1").count(), 1, "and the connection ends there: {reply}");
    }
    // The next connection that the service sees is this one.
    let client = HttpClient::new(dial);
    let reply = tokio::spawn(async move { client.send(Request::get(url("/next"))).await });
    let (mut service, _) = upstream.accept().await.unwrap();
    let head = read_head(&mut service).await;
    assert!(head.starts_with("get /next "), "{head}");
    service.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    assert_eq!(reply.await.unwrap().unwrap().status(), StatusCode::NO_CONTENT);
}
