//! A handler that switches protocols: its stream keeps its place, is not timed out, and ends at shutdown.

use std::{sync::Arc, time::Duration};

use axum::{body::Body, extract::Request, response::Response};
use dmsg_http::http::{
    HttpClient,
    server::{ServeConfig, ServeStats, serve},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::oneshot,
};

use crate::common::{pipe, url};

/// Says 101 to everybody, and echoes what follows.
async fn echo(mut request: Request) -> Response {
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(stream) = upgrade.await {
            let (mut reader, mut writer) = tokio::io::split(TokioIo::new(stream));
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        }
    });
    Response::builder()
        .status(101)
        .header("connection", "upgrade")
        .header("upgrade", "echo")
        .body(Body::empty())
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_upgraded_stream_counts_lives_and_ends_with_the_server() {
    let (dial, listener) = pipe();
    let stats = Arc::new(ServeStats::default());
    let (stop, stopped) = oneshot::channel::<()>();
    let service = axum::Router::new().fallback(echo);
    let stopped = async {
        let _ = stopped.await;
    };
    let server =
        tokio::spawn(serve(listener, service, ServeConfig::default(), Arc::clone(&stats), stopped));
    let client = HttpClient::new(dial.clone());
    let ask = client.get(url("/")).header("connection", "upgrade").header("upgrade", "echo");
    let mut stream = ask.send().await.unwrap().upgrade().await.unwrap();
    for _ in 0..2 {
        stream.write_all(b"ping").await.unwrap();
        let mut back = [0; 4];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!((&back, stats.connections()), (b"ping", 1));
        tokio::time::sleep(Duration::from_secs(600)).await;
    }
    stop.send(()).unwrap();
    server.await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    while stats.connections() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_handler_that_switches_unasked_answers_500() {
    let (dial, listener) = pipe();
    let service = axum::Router::new().fallback(echo);
    let config = ServeConfig::default();
    tokio::spawn(serve(listener, service, config, Default::default(), std::future::pending()));
    let reply = HttpClient::new(dial).get(url("/")).send().await.unwrap();
    assert_eq!(reply.status(), 500);
}
