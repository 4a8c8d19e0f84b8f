//! The HTTP layer on real streams: a relay and two clients of the engine, in this process on loopback.
#![allow(clippy::unwrap_used)]

use std::{
    convert::Infallible,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use axum::{
    Extension, Router,
    body::{Body, Bytes},
    routing::{get, post},
};
use dmsg_engine::{
    client::{Client, ClientConfig, ServerRecord, StaticDirectory},
    identity::SecretKey,
    server::{Server, ServerConfig},
    wire::{Addr, Port},
};
use dmsg_http::{
    forward::{ForwardConfig, forward},
    http::{
        HttpClient, HttpConfig, HttpError, Request, RequestBody,
        server::{CallerKey, ServeConfig, serve},
    },
    url::{DEFAULT_PORT, DmsgUrl},
};
use http::Method;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

struct Network {
    _relay: Server,
    service: Client,
    caller: Client,
}

impl Network {
    async fn start(seed: &str) -> Self {
        let key = |who: &str| SecretKey::from_seed(format!("{seed} {who}").as_bytes());
        let relay = Server::start(ServerConfig::new(key("relay"), (Ipv4Addr::LOCALHOST, 0).into()))
            .unwrap();
        let servers = vec![ServerRecord {
            key: relay.public_key(),
            address: relay.local_addr().to_string(),
            available_sessions: 1,
        }];
        let client = |who: &str| {
            let directory = StaticDirectory { servers: servers.clone() };
            Client::start(ClientConfig::new(key(who)), Arc::new(directory)).unwrap()
        };
        let (service, caller) = (client("service"), client("caller"));
        service.ready().await.unwrap();
        caller.ready().await.unwrap();
        let listener = service.listen(DEFAULT_PORT).unwrap();
        let config = ServeConfig::default();
        tokio::spawn(serve(listener, router(), config, Arc::default(), std::future::pending()));
        Self { _relay: relay, service, caller }
    }

    fn url(&self, target: &str) -> DmsgUrl {
        let to = Addr { key: self.service.public_key(), port: DEFAULT_PORT };
        DmsgUrl::new(to, target).unwrap()
    }

    /// Waits, within a limit, until the caller has no stream left.
    async fn caller_is_free(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.caller.ports_in_use() > 0 {
            assert!(Instant::now() < deadline, "{} ports leaked", self.caller.ports_in_use());
            tokio::task::yield_now().await;
        }
    }
}

fn router() -> Router {
    let endless = || async {
        let pieces = futures_util::stream::repeat_with(|| {
            Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[7; 8192])))
        });
        Body::new(StreamBody::new(pieces))
    };
    Router::new()
        .route("/who", get(|Extension(key): Extension<CallerKey>| async move { key.0.to_string() }))
        .route("/echo", post(|body: Body| async move { http::Response::new(body) }))
        .route("/endless", get(endless))
        .route("/page", get(|| async { vec![7; 4096] }))
        .route("/short", get(|| async { "short" }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_callers_key_is_the_one_the_handshake_proved() {
    let network = Network::start("who").await;
    let client = HttpClient::new(network.caller.clone());
    let response = client.send(Request::get(network.url("/who"))).await.unwrap();
    let body = response.into_body().read_to_end(100).await.unwrap();
    assert_eq!(body, network.caller.public_key().to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn megabytes_travel_in_both_directions_at_once() {
    let network = Network::start("echo").await;
    let client = HttpClient::new(network.caller.clone());
    let sent: Bytes =
        (0..8_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut request = Request::new(Method::POST, network.url("/echo"));
    request.body = RequestBody::Full(sent.clone());
    let response = client.send(request).await.unwrap();
    assert!(response.into_body().read_to_end(1 << 24).await.unwrap() == sent);
    assert_eq!(client.stream_counts(), (1, 0));
}

/// Hundreds of bodies kept unread, a multiple of the streams there may be, and every other request
/// succeeds. `dmsg-bench leak` is the same at full size, with its times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_kept_unread_beyond_every_limit_cost_nobody_a_request() {
    const BODIES: usize = 1000;
    let network = Network::start("leak").await;
    let mut config = HttpConfig::default();
    config.streams_max = 100;
    config.unread_min_age = Some(Duration::from_millis(20));
    config.wait_timeout = Duration::from_secs(20);
    let client = HttpClient::with_config(network.caller.clone(), config);
    let done = Arc::new(AtomicBool::new(false));
    let others: Vec<_> = (0..16)
        .map(|_| {
            let (client, url, done) = (client.clone(), network.url("/short"), Arc::clone(&done));
            tokio::spawn(async move {
                let mut answered = 0;
                while !done.load(Relaxed) {
                    let response = client.send(Request::get(url.clone())).await.unwrap();
                    assert_eq!(response.into_body().read_to_end(100).await.unwrap(), "short");
                    answered += 1;
                }
                answered
            })
        })
        .collect();
    let mut kept = Vec::new();
    for round in 0..BODIES {
        // A whole page of it unread, so that the stream is not over with the head.
        let target = if round % 2 == 0 { "/page" } else { "/endless" };
        kept.push(client.send(Request::get(network.url(target))).await.unwrap().into_body());
        assert!(client.stream_counts().1 <= 100, "the limit is hard");
    }
    done.store(true, Relaxed);
    for other in others {
        assert!(other.await.unwrap() > 0);
    }
    let error = kept[1].frame().await.unwrap().map(drop).unwrap_err();
    assert!(matches!(error, HttpError::Reclaimed { .. }), "{error}");
    let census = network.caller.census();
    assert_eq!((census.len(), &*census[0].holder.label), (1, "http"));
    drop(kept);
    // Short rests are drained first, and their streams kept for the next request.
    while client.stream_counts().1 > 0 {
        tokio::task::yield_now().await;
    }
    client.close_idle();
    network.caller_is_free().await;
    assert_eq!((client.stream_counts().1, network.caller.stats().streams), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_dropped_unread_free_their_ports() {
    let network = Network::start("drop").await;
    let client = HttpClient::new(network.caller.clone());
    for round in 0..500 {
        let response = client.send(Request::get(network.url("/endless"))).await.unwrap();
        if round % 3 == 0 {
            let mut body = response.into_body();
            assert!(body.frame().await.unwrap().is_ok());
        }
    }
    network.caller_is_free().await;
    while client.stream_counts() != (0, 0) {
        tokio::task::yield_now().await;
    }
    // Nor do they linger in the session until their endless bodies have come: they were reset.
    let deadline = Instant::now() + Duration::from_secs(5);
    while network.caller.sessions().iter().any(|session| session.streams > 0) {
        assert!(Instant::now() < deadline, "{:?}", network.caller.sessions());
        tokio::task::yield_now().await;
    }
    // And the client is as good as new.
    let response = client.send(Request::get(network.url("/short"))).await.unwrap();
    assert_eq!(response.into_body().read_to_end(100).await.unwrap(), "short");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_cancelled_at_any_moment_free_their_ports() {
    let network = Network::start("cancel").await;
    let client = HttpClient::new(network.caller.clone());
    for polls in 0..200 {
        let request = client.send(Request::get(network.url("/endless")));
        // Each round lets the exchange get a little further.
        let limit = Duration::from_micros(polls * 25);
        let _ = tokio::time::timeout(limit, request).await;
    }
    network.caller_is_free().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_dies_under_a_response_is_an_error() {
    let network = Network::start("relay dies").await;
    let client = HttpClient::new(network.caller.clone());
    let response = client.send(Request::get(network.url("/endless"))).await.unwrap();
    let Network { _relay: relay, service, caller } = network;
    tokio::task::spawn_blocking(|| relay.shutdown()).await.unwrap();
    let mut body = response.into_body();
    let error = loop {
        match body.frame().await.expect("an endless body does not end well") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error, HttpError::Stream { .. } | HttpError::Incomplete { .. }), "{error}");
    drop((service, caller));
}

/// Through `dmsg proxy`, in both directions: a part never passes for the whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_that_breaks_at_one_end_breaks_at_the_other() {
    let network = Network::start("breaks").await;
    let mut service = network.service.listen(Port::new(22).unwrap()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap();
    let client = HttpClient::new(network.caller.clone());
    tokio::spawn(forward(listener, client, ForwardConfig::default(), std::future::pending()));
    let ask = format!(
        "CONNECT {key}.dmsg:22 HTTP/1.1\r\nHost: {key}.dmsg:22\r\n\r\n",
        key = network.service.public_key()
    );
    let mut part = [0; 5];
    for program_breaks in [true, false] {
        let mut program = TcpStream::connect(proxy).await.unwrap();
        program.write_all(ask.as_bytes()).await.unwrap();
        let mut stream = service.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(program.read_u8().await.unwrap());
        }
        if program_breaks {
            program.write_all(b"parts").await.unwrap();
            stream.read_exact(&mut part).await.unwrap();
            program.set_zero_linger().unwrap();
            drop(program);
            let ended = stream.read(&mut part).await;
            assert!(ended.is_err(), "the service sees {ended:?}");
        } else {
            stream.write_all(b"parts").await.unwrap();
            program.read_exact(&mut part).await.unwrap();
            stream.usage().abandon();
            drop(stream);
            let ended = program.read(&mut part).await.map_err(|error| error.kind());
            assert_eq!(ended, Err(std::io::ErrorKind::ConnectionReset));
        }
    }
    network.caller_is_free().await;
}
