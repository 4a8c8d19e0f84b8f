//! The corpus of ambiguous and broken requests, in the form in which programs send them to a proxy: each is answered once,
//! with an error, and nothing of it or behind it goes anywhere.

use std::sync::atomic::Ordering::SeqCst;

use dmsg_http::forward::ForwardConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

use crate::{
    smuggling::{BAD_CHUNKS, HIDDEN, REFUSED},
    world::{World, host},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ambiguous_heads_are_answered_once_and_nobody_is_dialled() {
    let world = World::web(axum::Router::new()).await;
    let host = host();
    let hidden = HIDDEN.replace("GET /", &format!("GET http://{host}/"));
    let begin = format!("POST http://{host}/open HTTP/1.1\r\nHost: {host}\r\n");
    let heads = REFUSED.iter().map(|(name, rest)| (*name, format!("{begin}{rest}")));
    let others = [
        format!("POST http://{host}/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("GET http://{host}/ HTTP/1.1\r\n\r\n"),
        format!("GET  http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        format!("GET http://{host}/ HTTP/2.0\r\nHost: {host}\r\n\r\n"),
        format!("GET http://{host}/o pen HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        format!(" GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n"),
    ];
    for (name, head) in heads.chain(others.into_iter().map(|head| ("another", head))) {
        let reply = world.exchange(format!("{head}{hidden}")).await;
        assert!(reply.starts_with("HTTP/1.1 400 "), "{name}: {head:?} gave {reply:?}");
        assert_eq!(reply.matches("HTTP/1.1 ").count(), 1, "{name} gave {reply:?}");
    }
    assert_eq!(world.dials.load(SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_chunks_never_make_a_complete_request() {
    for (name, body) in BAD_CHUNKS {
        let (done, mut seen) = mpsc::unbounded_channel();
        let world = World::raw(ForwardConfig::default(), move |mut stream| {
            let done = done.clone();
            async move {
                let (mut got, mut piece) = (Vec::new(), [0; 4096]);
                while let Ok(count @ 1..) = stream.read(&mut piece).await {
                    got.extend_from_slice(&piece[..count]);
                }
                let _ = stream.shutdown().await;
                let _ = done.send(got);
            }
        });
        let (world, host) = (world.await, host());
        let reply = world
            .exchange(format!(
                "POST http://{host}/open HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n{body}{HIDDEN}"
            ))
            .await;
        assert!(
            !reply.contains(" 200 ") && reply.matches("HTTP/1.1 ").count() <= 1,
            "{name}: {reply:?}"
        );
        // All that the service will ever get, if it was dialled at all.
        let dialled = world.dials.load(SeqCst) > 0;
        let got = if dialled { seen.recv().await.unwrap() } else { Vec::new() };
        let seen = String::from_utf8_lossy(&got);
        assert!(!seen.contains("0\r\n\r\n") && !seen.contains("hidden"), "{name}: {seen:?}");
    }
}
