//! The HTTP server on in-memory streams: identity, limits, ambiguity, panics, shutdown
//! (`dmsg-http.md §4`).
#![allow(clippy::unwrap_used)]

mod common;

use std::{future, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Bytes,
    routing::{get, post},
};
use common::{PipeDial, caller, pipe, url};
use dmsg_engine::{identity::SecretKey, wire::Addr};
use dmsg_http::http::{
    Accept, BoxError, Dial, HttpClient, Request,
    server::{CallerKey, ServeConfig, ServeStats, serve, serve_listed},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

struct Running {
    dial: PipeDial,
    stats: Arc<ServeStats>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

fn start(config: ServeConfig) -> Running {
    let router = Router::new()
        .route("/", get(|| async { "ok" }))
        .route(
            "/who",
            get(|Extension(key): Extension<CallerKey>, Extension(addr): Extension<Addr>| async move {
                format!("{} {addr}", key.0)
            }),
        )
        .route("/echo", post(|body: Bytes| async move { body }))
        .route("/hang", get(future::pending::<&str>))
        .route("/big", get(|| async { vec![7u8; 4 << 20] }))
        .route("/panic", get(|| async { panic!("on purpose") as &str }));
    let (dial, listener) = pipe();
    let stats = Arc::new(ServeStats::default());
    let (stop, stopped) = oneshot::channel();
    let server = tokio::spawn(serve(listener, router, config, Arc::clone(&stats), async {
        let _ = stopped.await;
    }));
    Running { dial, stats, stop, server }
}

/// Sends raw bytes and reads until the server closes.
async fn raw(dial: &PipeDial, request: &str) -> String {
    let mut stream = dial.dial(caller()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply
}

#[tokio::test]
async fn a_handler_knows_the_callers_key_and_address() {
    let running = start(ServeConfig::default());
    let client = HttpClient::new(running.dial.clone());
    let response = client.send(Request::get(url("/who"))).await.unwrap();
    let body = response.into_body().read_to_end(1000).await.unwrap();
    assert_eq!(body, format!("{} {}", caller().key, caller()));
}

#[tokio::test]
async fn many_requests_share_a_stream() {
    let running = start(ServeConfig::default());
    let client = HttpClient::new(running.dial.clone());
    for _ in 0..100 {
        let response = client.send(Request::get(url("/"))).await.unwrap();
        assert_eq!(response.into_body().read_to_end(10).await.unwrap(), "ok");
    }
    assert_eq!(running.dial.dial_count(), 1);
    assert_eq!((running.stats.accepted(), running.stats.requests()), (1, 100));
}

#[tokio::test]
async fn ambiguous_requests_are_refused() {
    let running = start(ServeConfig::default());
    let end = "Connection: close\r\n\r\n";
    let cases = [
        format!("GET / HTTP/1.1\r\n{end}"),
        format!("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n{end}"),
        format!("GET http://b/ HTTP/1.1\r\nHost: a\r\n{end}"),
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx".into(),
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx".into(),
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\nx".into(),
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n".into(),
        "POST /echo HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n".into(),
    ];
    for case in &cases {
        let reply = raw(&running.dial, case).await;
        assert!(reply.starts_with("HTTP/1.1 400 "), "{case:?} gave {reply:?}");
        assert_eq!(reply.matches("HTTP/1.1 ").count(), 1, "{case:?} gave {reply:?}");
    }
}

#[tokio::test]
async fn a_request_hidden_behind_two_lengths_is_never_served() {
    // hyper by itself lets Transfer-Encoding win (RFC 9112 §6.3) and says nothing.
    let running = start(ServeConfig::default());
    let hidden = "GET /who HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let before = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let request = format!(
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n\
         {:x}\r\n{hidden}\r\n0\r\n\r\n",
        hidden.len()
    );
    let reply = raw(&running.dial, &request).await;
    assert!(reply.starts_with("HTTP/1.1 400 "), "{reply:?}");
    assert!(reply.contains("both Transfer-Encoding and Content-Length"), "{reply:?}");
    assert_eq!(reply.matches("HTTP/1.1 ").count(), 1, "{reply:?}");
    // On a connection that has served a request before, nothing else is served either.
    let reply = raw(&running.dial, &format!("{before}{request}{before}")).await;
    assert_eq!(reply.matches("HTTP/1.1 400 ").count(), 1, "{reply:?}");
    assert!(!reply.contains("GET /who"), "{reply:?}");
}

#[tokio::test]
async fn a_head_above_the_limit_is_refused() {
    let running = start(ServeConfig::default());
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    assert!(raw(&running.dial, &long).await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test]
async fn a_panic_answers_500_and_the_server_lives_on() {
    let running = start(ServeConfig::default());
    let client = HttpClient::new(running.dial.clone());
    assert_eq!(client.send(Request::get(url("/panic"))).await.unwrap().status(), 500);
    assert_eq!(client.send(Request::get(url("/"))).await.unwrap().status(), 200);
    assert_eq!(running.stats.panics(), 1);
}

#[tokio::test]
async fn connections_beyond_the_limit_of_a_key_are_refused_and_counted() {
    let mut config = ServeConfig::default();
    config.connections_per_key_max = 2;
    let running = start(config);
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(running.dial.dial(caller()).await.unwrap());
    }
    let mut third = running.dial.dial(caller()).await.unwrap();
    assert_eq!(third.read(&mut [0; 1]).await.unwrap(), 0, "closed without a word");
    assert_eq!((running.stats.refused(), running.stats.connections()), (1, 2));
    held.pop();
    while running.stats.connections() > 1 {
        tokio::task::yield_now().await;
    }
    let client = HttpClient::new(running.dial.clone());
    assert_eq!(client.send(Request::get(url("/"))).await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn slow_heads_idle_connections_and_stuck_readers_are_cut() {
    let running = start(ServeConfig::default());
    let mut idle = running.dial.dial(caller()).await.unwrap();
    let mut slow = running.dial.dial(caller()).await.unwrap();
    slow.write_all(b"GET / HT").await.unwrap();
    let mut stuck = running.dial.dial(caller()).await.unwrap();
    stuck.write_all(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut hanging = running.dial.dial(caller()).await.unwrap();
    hanging.write_all(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();

    tokio::time::sleep(Duration::from_secs(25)).await;
    assert_eq!(running.stats.connections(), 4);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(running.stats.connections(), 2, "the slow head and the stuck reader are gone");
    assert_eq!(slow.read(&mut [0; 1]).await.unwrap(), 0);
    tokio::time::sleep(Duration::from_secs(65)).await;
    assert_eq!(running.stats.connections(), 2, "idle streams outlast the callers' pools");
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(running.stats.connections(), 1, "a handler may take its time");
    assert_eq!(running.stats.timeouts(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_connection_idles_anew_after_each_reply() {
    let running = start(ServeConfig::default());
    let mut stream = running.dial.dial(caller()).await.unwrap();
    for _ in 0..3 {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut reply = vec![0; 512];
        assert!(stream.read(&mut reply).await.unwrap() > 0);
        tokio::time::sleep(Duration::from_secs(100)).await;
    }
    assert_eq!(running.stats.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_stops_is_given_up() {
    let running = start(ServeConfig::default());
    let mut stream = running.dial.dial(caller()).await.unwrap();
    stream
        .write_all(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nab")
        .await
        .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 408 "), "{reply:?}");
}

#[tokio::test(start_paused = true)]
async fn shutdown_lets_requests_finish_within_the_grace() {
    let Running { dial, stats, stop, server } = start(ServeConfig::default());
    let mut idle = dial.dial(caller()).await.unwrap();
    let mut hanging = dial.dial(caller()).await.unwrap();
    hanging.write_all(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let client = HttpClient::new(dial.clone());
    let big = client.send(Request::get(url("/big"))).await.unwrap();
    let begun = tokio::time::Instant::now();
    stop.send(()).unwrap();
    let body = big.into_body().read_to_end(8 << 20).await.unwrap();
    assert_eq!(body.len(), 4 << 20);
    server.await.unwrap();
    assert_eq!(begun.elapsed(), Duration::from_secs(2), "the hanging one used up the grace");
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(stats.connections(), 0);
    assert!(dial.dial(caller()).await.is_err(), "nobody listens any more");
}

#[tokio::test(start_paused = true)]
async fn shutdown_does_not_wait_for_idle_connections() {
    let Running { dial, stop, server, .. } = start(ServeConfig::default());
    let _fresh = dial.dial(caller()).await.unwrap();
    let client = HttpClient::new(dial.clone());
    drop(client.send(Request::get(url("/"))).await.unwrap());
    let begun = tokio::time::Instant::now();
    stop.send(()).unwrap();
    server.await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
}

/// Streams of whoever the test says.
struct Callers(mpsc::Receiver<(DuplexStream, Addr)>);

impl Accept for Callers {
    type Stream = DuplexStream;
    type Peer = Addr;

    async fn accept(&mut self) -> Result<(DuplexStream, Addr), BoxError> {
        self.0.recv().await.ok_or_else(|| "the test is over".into())
    }
}

#[tokio::test]
async fn whoever_is_not_listed_takes_no_place_of_those_who_are() {
    let (calls, accepted) = mpsc::channel(1);
    let mut config = ServeConfig::default();
    config.connections_max = 2;
    let router = Router::new().route("/", get(|| async { "for friends" }));
    let friend = caller();
    let is_listed = move |peer: &Addr| peer.key == friend.key;
    let stats = Arc::new(ServeStats::default());
    let stopped = future::pending::<()>();
    let serving = serve_listed(Callers(accepted), is_listed, router, config, stats, stopped);
    tokio::spawn(serving);
    let call = async |from: Addr| {
        let (near, far) = duplex(64 * 1024);
        calls.send((far, from)).await.unwrap();
        near
    };
    let ask = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut held = Vec::new();
    for seed in 0..200u32 {
        let key = SecretKey::from_seed(&seed.to_le_bytes()).public_key();
        held.push(call(Addr { key, ..friend }).await);
    }
    let mut reply = String::new();
    held[0].write_all(ask).await.unwrap();
    // To its end: the place is not kept for another request.
    held[0].read_to_string(&mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 403 ") && reply.contains("not on the list"), "{reply}");
    let mut friends = call(friend).await;
    friends.write_all(ask).await.unwrap();
    let mut reply = [0; 15];
    friends.read_exact(&mut reply).await.unwrap();
    assert_eq!(&reply, b"HTTP/1.1 200 OK");
}

#[tokio::test]
async fn a_caller_that_still_sends_gets_its_answer_and_no_reset() {
    // Only a real socket loses an answer behind which something unread is thrown away.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/full", post(|| async { "no room" }));
    let stats = Arc::<ServeStats>::default();
    tokio::spawn(serve(listener, router, ServeConfig::default(), stats, future::pending()));
    let long = format!("GET /full HTTP/1.1\r\nHost: a\r\nX: {}", "y".repeat(40 << 10));
    for (request, status) in [
        ("POST /full HTTP/1.1\r\nHost: a\r\nContent-Length: 90000000\r\n\r\n", 200),
        ("POST /full HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5000000\r\n", 200),
        ("POST /full HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000000\r\n\r\n", 413),
        (&long, 431),
    ] {
        let mut caller = tokio::net::TcpStream::connect(address).await.unwrap();
        caller.write_all(request.as_bytes()).await.unwrap();
        // More than is read along with the head.
        caller.write_all(&[b'x'; 1 << 20]).await.unwrap();
        let mut reply = String::new();
        caller.read_to_string(&mut reply).await.unwrap();
        assert!(reply.starts_with(&format!("HTTP/1.1 {status} ")), "{reply}");
        // Had it been thrown away, the first of these would be answered by a reset.
        for _ in 0..64 {
            caller.write_all(&[b'x'; 16 << 10]).await.unwrap();
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_sends_on_and_on_behind_its_answer_is_cut() {
    let running = start(ServeConfig::default());
    let mut caller = running.dial.dial(caller()).await.unwrap();
    let request = "POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 900000000\r\n\r\n";
    caller.write_all(request.as_bytes()).await.unwrap();
    let begun = tokio::time::Instant::now();
    while caller.write_all(b"more").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let listened = begun.elapsed();
    assert!((4.9..6.0).contains(&listened.as_secs_f64()), "{listened:?}");
}
