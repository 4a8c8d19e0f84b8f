//! What is opened and given up.

use std::{convert::Infallible, pin::Pin, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes},
    routing::{get, post},
};
use dmsg_bench::{Error, Result};
use dmsg_engine::{
    client::{Client, Listener},
    wire::{Addr, Port},
};
use dmsg_http::{
    http::{
        HttpClient, Request, RequestBody,
        server::{ServeConfig, serve},
    },
    url::{DEFAULT_PORT, DmsgUrl},
};
use http::{HeaderValue, Method, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, split};

use crate::network::Network;

/// Where raw streams are echoed.
const ECHO_PORT: u16 = 7;

/// The first port of the servers that come and go, one per task.
const FIRST_PORT: u16 = 1000;

/// More than one piece, and more than one window.
const LARGE_BYTES: usize = 400_000;

type Done<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

pub(super) struct Operation {
    pub(super) name: &'static str,
    pub(super) run: for<'a> fn(&'a Parties, usize) -> Done<'a>,
}

pub(super) const OPERATIONS: [Operation; 8] = [
    Operation { name: "dial", run: |parties, _| Box::pin(dial(parties)) },
    Operation { name: "request", run: |parties, _| Box::pin(request(parties)) },
    Operation { name: "response left unread", run: |parties, _| Box::pin(unread(parties)) },
    Operation { name: "response read", run: |parties, _| Box::pin(read(parties)) },
    Operation { name: "body sent", run: |parties, _| Box::pin(send(parties)) },
    Operation { name: "upgrade", run: |parties, _| Box::pin(upgrade(parties)) },
    Operation { name: "shut-down of a stream", run: |parties, _| Box::pin(shut_down(parties)) },
    Operation { name: "server and request", run: |parties, task| Box::pin(server(parties, task)) },
];

/// Who opens, and to whom.
pub(super) struct Parties {
    caller: Client,
    service: Client,
    pub(super) client: HttpClient<Client>,
}

impl Parties {
    pub(super) fn start(network: &Network) -> Result<Self> {
        let (caller, service) = (network.caller.clone(), network.service.clone());
        let listener = service.listen(DEFAULT_PORT)?;
        let config = ServeConfig::default();
        tokio::spawn(serve(listener, router(), config, Arc::default(), std::future::pending()));
        tokio::spawn(echo(service.listen(port(ECHO_PORT)?)?));
        let client = HttpClient::new(caller.clone());
        Ok(Self { caller, service, client })
    }

    fn url(&self, target: &str) -> Result<DmsgUrl> {
        Ok(DmsgUrl::new(self.addr(DEFAULT_PORT), target)?)
    }

    fn addr(&self, port: Port) -> Addr {
        Addr { key: self.service.public_key(), port }
    }
}

fn port(number: u16) -> Result<Port> {
    Port::new(number).ok_or_else(|| "0 is no port".into())
}

fn router() -> Router {
    let large = || async { vec![7; LARGE_BYTES] };
    let count = |body: Bytes| async move { body.len().to_string() };
    Router::new()
        .route("/short", get(|| async { "short" }))
        .route("/large", get(large))
        .route("/count", post(count))
        .route("/echo", get(echo_upgraded))
        .layer(axum::extract::DefaultBodyLimit::max(2 * LARGE_BYTES))
}

async fn echo_upgraded(mut request: http::Request<Body>) -> Response<Body> {
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(stream) = upgrade.await {
            let (mut read, mut write) = split(TokioIo::new(stream));
            let _ = copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("echo"));
    response
}

async fn echo(mut listener: Listener) {
    while let Ok(stream) = listener.accept().await {
        tokio::spawn(async move {
            let (mut read, mut write) = split(stream);
            let _ = copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        });
    }
}

async fn dial(parties: &Parties) -> Result<()> {
    drop(parties.caller.dial(parties.addr(port(ECHO_PORT)?)).await?);
    Ok(())
}

async fn request(parties: &Parties) -> Result<()> {
    let response = parties.client.send(Request::get(parties.url("/short")?)).await?;
    let body = response.into_body().read_to_end(100).await?;
    if body == "short" { Ok(()) } else { Err("another body".into()) }
}

async fn unread(parties: &Parties) -> Result<()> {
    drop(parties.client.send(Request::get(parties.url("/large")?)).await?);
    Ok(())
}

async fn read(parties: &Parties) -> Result<()> {
    let response = parties.client.send(Request::get(parties.url("/large")?)).await?;
    let body = response.into_body().read_to_end(LARGE_BYTES as u64).await?;
    if body.len() == LARGE_BYTES { Ok(()) } else { Err("another body".into()) }
}

async fn send(parties: &Parties) -> Result<()> {
    let mut request = Request::new(Method::POST, parties.url("/count")?);
    request.body = RequestBody::Full(Bytes::from_static(&[7; LARGE_BYTES]));
    let response = parties.client.send(request).await?;
    let body = response.into_body().read_to_end(100).await?;
    if body == LARGE_BYTES.to_string() { Ok(()) } else { Err("another count".into()) }
}

async fn upgrade(parties: &Parties) -> Result<()> {
    let mut request = Request::get(parties.url("/echo")?);
    request.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    request.headers.insert(header::UPGRADE, HeaderValue::from_static("echo"));
    let mut stream = parties.client.send(request).await?.into_body().upgrade().await?;
    stream.write_all(b"there and back").await?;
    let mut back = [0; 14];
    stream.read_exact(&mut back).await?;
    if &back == b"there and back" { Ok(()) } else { Err("another echo".into()) }
}

async fn shut_down(parties: &Parties) -> Result<()> {
    let mut stream = parties.caller.dial(parties.addr(port(ECHO_PORT)?)).await?;
    stream.write_all(b"last words").await?;
    stream.shutdown().await?;
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await?;
    if back == b"last words" { Ok(()) } else { Err("another echo".into()) }
}

/// A listener, a server on it, a request to it, and the server's end.
async fn server(parties: &Parties, task: usize) -> Result<()> {
    let port = port(FIRST_PORT + u16::try_from(task)?)?;
    let listener = parties.service.listen(port)?;
    let url = DmsgUrl::new(parties.addr(port), "/")?;
    let answer = tower::service_fn(|_| async {
        Ok::<_, Infallible>(Response::new(Body::from("from a server that goes")))
    });
    let (asked, done) = tokio::sync::oneshot::channel();
    let stop = async move { drop(done.await) };
    let serving = serve(listener, answer, ServeConfig::default(), Arc::default(), stop);
    // A client of its own: nobody else's pool shall keep a stream to a server that is gone.
    let client = HttpClient::new(parties.caller.clone());
    let asking = async {
        let response = client.send(Request::get(url)).await?;
        response.into_body().read_to_end(100).await?;
        drop(client);
        drop(asked);
        Ok::<_, Error>(())
    };
    tokio::join!(serving, asking).1
}
