//! A raw caller, `serve --to`, and a raw origin that records every byte that reaches it.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::Duration,
};

use dmsg_engine::wire::Addr;
use dmsg_http::{
    http::{
        Accept, BoxError, Dial,
        server::{ServeConfig, serve},
    },
    proxy::{Proxy, Target},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

use crate::common::{Counted, PipeDial, PipeListener, caller, pipe};

pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

pub(crate) struct Bridge {
    dial: PipeDial,
    pub(crate) origin: TcpListener,
}

impl Bridge {
    pub(crate) async fn start() -> Self {
        Self::with_base("").await
    }

    pub(crate) async fn with_base(base: &str) -> Self {
        let (dial, listener) = pipe();
        Self::over(base, dial, listener).await
    }

    /// Streams of callers break, once the token is cancelled, where they would end.
    pub(crate) async fn with_fragile_caller() -> (Self, CancellationToken) {
        let ((dial, listener), breaks) = (pipe(), CancellationToken::new());
        let listener = Fragile { stream: listener, breaks: breaks.clone() };
        (Self::over("", dial, listener).await, breaks)
    }

    async fn over(base: &str, dial: PipeDial, listener: impl Accept) -> Self {
        let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = format!("http://{}{base}", origin.local_addr().unwrap());
        let proxy = Proxy::new(Target::parse(&target, false).unwrap());
        let service = tower::service_fn(move |request| {
            let proxy = proxy.clone();
            async move { Ok::<_, std::convert::Infallible>(proxy.respond(request).await) }
        });
        let config = ServeConfig::default();
        tokio::spawn(serve(listener, service, config, Default::default(), std::future::pending()));
        Self { dial, origin }
    }

    pub(crate) async fn connect(&self) -> Counted {
        self.dial.dial(caller()).await.unwrap()
    }

    /// Sends these bytes and reads until the server closes.
    pub(crate) async fn raw(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        let all = stream.read_to_string(&mut reply);
        let all = tokio::time::timeout(Duration::from_secs(10), all).await;
        assert!(all.is_ok(), "the server keeps the connection after {request:?}: {reply:?}");
        reply
    }

    pub(crate) async fn accept(&self) -> TcpStream {
        let accepted = tokio::time::timeout(Duration::from_secs(10), self.origin.accept()).await;
        accepted.expect("the origin was not reached").unwrap().0
    }
}

/// A stream, or the listener of such streams, whose end is a reset once the token is cancelled.
struct Fragile<T> {
    stream: T,
    breaks: CancellationToken,
}

impl Accept for Fragile<PipeListener> {
    type Stream = Fragile<DuplexStream>;
    type Peer = Addr;

    async fn accept(&mut self) -> Result<(Fragile<DuplexStream>, Addr), BoxError> {
        let (stream, peer) = self.stream.accept().await?;
        Ok((Fragile { stream, breaks: self.breaks.clone() }, peer))
    }
}

impl AsyncRead for Fragile<DuplexStream> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() == before && self.breaks.is_cancelled() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Fragile<DuplexStream> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What an origin got on all its connections. It answers every head it can see, at once.
pub(crate) fn record(origin: TcpListener) -> Arc<Mutex<Vec<u8>>> {
    let record = Arc::new(Mutex::new(Vec::new()));
    let all = Arc::clone(&record);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = origin.accept().await.unwrap();
            let all = Arc::clone(&all);
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while let Ok(read) = stream.read_buf(&mut seen).await
                    && read > 0
                {
                    all.lock().unwrap().extend_from_slice(&seen[seen.len() - read..]);
                    if seen.windows(4).any(|end| end == b"\r\n\r\n") {
                        seen.clear();
                        stream.write_all(OK.as_bytes()).await.unwrap();
                    }
                }
            });
        }
    });
    record
}

pub(crate) async fn head(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn absolute_form_and_origin_form_reach_the_origin_alike() {
    let bridge = Bridge::with_base("/base").await;
    for target in ["/a?b=c", "http://any.dmsg/a?b=c"] {
        let mut stream = bridge.connect().await;
        let sent = format!("GET {target} HTTP/1.1\r\nHost: any.dmsg\r\nConnection: close\r\n\r\n");
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut origin = bridge.accept().await;
        let got = head(&mut origin).await.to_lowercase();
        let local = bridge.origin.local_addr().unwrap();
        assert!(got.starts_with("get /base/a?b=c http/1.1\r\n"), "{got}");
        assert!(got.contains(&format!("\r\nhost: {local}\r\n")), "{got}");
        assert!(got.contains("\r\nx-forwarded-host: any.dmsg\r\n"), "{got}");
        assert!(got.contains("\r\nx-forwarded-proto: http\r\n"), "{got}");
        assert!(got.contains("\r\nvia: 1.1 dmsg-"), "{got}");
    }
}

/// Services behind CGI, WSGI and the like cannot tell `_` from `-`.
#[tokio::test]
async fn framing_is_not_said_in_other_spellings() {
    let bridge = Bridge::start().await;
    let mut stream = bridge.connect().await;
    let sent = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent_Length: 0\r\n\
        Transfer_Encoding: chunked\r\nProxy_Connection: close\r\nX_Own: 1\r\n\r\na";
    stream.write_all(sent.as_bytes()).await.unwrap();
    let got = head(&mut bridge.accept().await).await.to_lowercase();
    assert!(got.contains("\r\nx_own: 1\r\n"), "{got}");
    for name in ["content_length", "transfer_encoding", "proxy_connection"] {
        assert!(!got.contains(name), "{got}");
    }
}

#[tokio::test]
async fn a_request_that_was_here_before_is_a_loop() {
    let bridge = Bridge::start().await;
    let mut first = bridge.connect().await;
    first.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nVia: 1.0 other\r\n\r\n").await.unwrap();
    let seen = head(&mut bridge.accept().await).await.to_lowercase();
    let vias: Vec<&str> = seen.lines().filter_map(|line| line.strip_prefix("via: ")).collect();
    assert_eq!((vias.len(), vias[0]), (2, "1.0 other"));
    let again =
        format!("GET / HTTP/1.1\r\nHost: a\r\nVia: x, {}\r\nConnection: close\r\n\r\n", vias[1]);
    let reply = bridge.raw(&again).await;
    assert!(reply.starts_with("HTTP/1.1 508 "), "{reply}");
}
