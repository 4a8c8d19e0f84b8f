//! Request bodies that are too large or too slow, replies that fail, and a service whose errors are its own.

use std::{convert::Infallible, time::Duration};

use axum::{Router, body::Bytes, routing::post};
use dmsg_http::http::{
    Dial,
    server::{ServeConfig, serve},
};
use futures_util::stream::iter;
use http::{Request, Response};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::{Counted, PipeDial, caller, pipe};

fn start(config: ServeConfig) -> PipeDial {
    let router =
        Router::new().route("/", post(|body: Bytes| async move { body.len().to_string() }));
    let (dial, listener) = pipe();
    tokio::spawn(serve(listener, router, config, Default::default(), std::future::pending()));
    dial
}

async fn send(dial: &PipeDial, request: &str) -> Counted {
    let mut stream = dial.dial(caller()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn all(mut stream: Counted) -> String {
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply
}

#[tokio::test]
async fn a_body_above_the_limit_is_a_413() {
    let mut config = ServeConfig::default();
    config.body_max_bytes = 10;
    let dial = start(config);
    let fits =
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 10\r\n\r\n0123456789";
    assert!(all(send(&dial, fits).await).await.starts_with("HTTP/1.1 200 "));
    for too_large in [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n123456\r\n5\r\n78901\r\n0\r\n\r\n",
    ] {
        let reply = all(send(&dial, too_large).await).await;
        assert!(reply.starts_with("HTTP/1.1 413 "), "{too_large:?} gave {reply:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_comes_byte_by_byte_is_a_408() {
    let dial = start(ServeConfig::default());
    let begin = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n";
    let (mut reader, mut writer) = tokio::io::split(send(&dial, begin).await);
    let drip = tokio::spawn(async move {
        // Each byte comes well within the stall limit.
        while writer.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
    });
    let begun = tokio::time::Instant::now();
    let mut reply = String::new();
    reader.read_to_string(&mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 408 "), "{reply:?}");
    assert!(begun.elapsed() < Duration::from_secs(45), "{:?}", begun.elapsed());
    drip.abort();
}

#[tokio::test]
async fn any_tower_service_is_served_and_its_error_is_a_500() {
    let service = tower::service_fn(|request: Request<axum::body::Body>| async move {
        match request.uri().path() {
            "/fails" => Err("no luck"),
            _ => Ok(Response::new(Full::new(Bytes::from_static(b"full")))),
        }
    });
    let (dial, listener) = pipe();
    let config = ServeConfig::default();
    tokio::spawn(serve(listener, service, config, Default::default(), std::future::pending()));
    let get = |path| format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(all(send(&dial, &get("/")).await).await.ends_with("full"));
    let failed = all(send(&dial, &get("/fails")).await).await;
    assert!(failed.starts_with("HTTP/1.1 500 ") && !failed.contains("luck"), "{failed}");
}

/// What it breaks off behind is on its way before the connection ends, however slowly the caller takes it.
#[tokio::test]
async fn a_reply_that_fails_behind_a_piece_is_sent_up_to_there() {
    for pieces in [&[][..], &[5], &[5, 5], &[1_000_000], &[5, 200_000]] {
        let service = tower::service_fn(move |_: Request<axum::body::Body>| async move {
            // All of it is there at once, the failure too.
            let frames = pieces.iter().map(|&length| Ok(Bytes::from(vec![b'x'; length])));
            let frames = frames.chain([Err("the service died")]);
            Ok::<_, Infallible>(Response::new(axum::body::Body::from_stream(iter(frames))))
        });
        let (dial, listener) = pipe();
        let config = ServeConfig::default();
        tokio::spawn(serve(listener, service, config, Default::default(), std::future::pending()));
        for _ in 0..if pieces.iter().sum::<usize>() < 100 { 200 } else { 5 } {
            let reply = all(send(&dial, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await).await;
            let (head, body) = reply.split_once("\r\n\r\n").unwrap_or_else(|| {
                panic!("{pieces:?}: there is no head in the {} bytes {reply:.100}", reply.len())
            });
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            assert_eq!(body.matches('x').count(), pieces.iter().sum::<usize>(), "{pieces:?}");
            assert!(!body.ends_with("0\r\n\r\n"), "a part passes for the whole: {pieces:?}");
        }
    }
}
