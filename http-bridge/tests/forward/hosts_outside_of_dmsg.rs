use std::time::Duration;

use axum::{Router, routing::get};
use dmsg_http::{
    forward::{ForwardConfig, clearnet::Clearnet},
    http::HttpConfig,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::World;

async fn world(clearnet: Clearnet) -> World {
    let config = ForwardConfig { clearnet, ..ForwardConfig::default() };
    World::web_with(Router::new(), config).await
}

/// A web server outside of DMSG, on this machine.
async fn outside() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let app = Router::new().route("/", get(async || "outside"));
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    port
}

fn get_from(host: &str) -> String {
    format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

#[tokio::test]
async fn public_ones_only_unless_any_is_allowed() {
    let port = outside().await;
    let (public, any) = (world(Clearnet::Public).await, world(Clearnet::Any).await);
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "127.1"] {
        let host = format!("{host}:{port}");
        let answer = public.exchange(get_from(&host)).await;
        assert!(
            answer.starts_with("HTTP/1.1 403") && answer.contains("--allow-private"),
            "{host}: {answer}"
        );
        let refused = public.tunnel(&host).await.unwrap_err();
        assert!(refused.contains("403"), "{host}: {refused}");
    }
    let answer = any.exchange(get_from(&format!("127.0.0.1:{port}"))).await;
    assert!(answer.ends_with("outside"), "{answer}");
    assert!(any.tunnel(&format!("localhost:{port}")).await.is_ok());
}

#[tokio::test]
async fn one_that_is_not_there_is_a_502() {
    let any = world(Clearnet::Any).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    drop(listener);
    let answer = any.exchange(get_from(&host)).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
}

/// A host that reads a request, says this, and then nothing more.
async fn host_that_says(answer: &'static [u8]) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer).await;
                let _ = stream.read(&mut request).await;
            });
        }
    });
    host
}

#[tokio::test]
async fn one_that_is_silent_is_a_504_and_one_that_stops_breaks_the_response() {
    let config = ForwardConfig { clearnet: Clearnet::Any, ..ForwardConfig::default() };
    let mut limits = HttpConfig::default();
    limits.head_timeout = Duration::from_millis(200);
    limits.body_timeout = Duration::from_millis(200);
    let nobody = "127.0.0.1:9".parse().unwrap();
    let world = World::limited(nobody, tokio::spawn(async {}), config, limits).await;
    let silent = host_that_says(b"").await;
    let answer = world.exchange(get_from(&silent)).await;
    assert!(answer.starts_with("HTTP/1.1 504 ") && answer.contains("no response"), "{answer}");
    let stopping =
        host_that_says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n").await;
    let answer = world.exchange(get_from(&stopping)).await;
    assert!(answer.contains("\r\n4\r\npart\r\n") && !answer.contains("\r\n0\r\n"), "{answer}");
}

#[tokio::test]
async fn one_that_states_its_length_twice_is_a_502() {
    let any = world(Clearnet::Any).await;
    for twice in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n01234567890123456789\r\n0\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 4, 4\r\n\r\nfour",
    ] {
        let answer = any.exchange(get_from(&host_that_says(twice).await)).await;
        assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("twice"), "{answer}");
    }
}
