//! In-memory streams for the HTTP tests: a dialler whose peers are tasks of the same process.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, missing_docs)]

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
};

use dmsg_engine::{
    identity::SecretKey,
    wire::{Addr, Port},
};
use dmsg_http::{
    http::{Accept, BoxError, Dial},
    url::DmsgUrl,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, DuplexStream, ReadBuf, duplex},
    sync::mpsc,
};

/// Bytes in flight on one direction of a pipe.
const PIPE_BYTES: usize = 64 * 1024;

/// The caller's address, as a server sees it.
pub fn caller() -> Addr {
    Addr { key: SecretKey::from_seed(b"caller").public_key(), port: Port::new(50_000).unwrap() }
}

/// The service's address.
pub fn service() -> Addr {
    Addr { key: SecretKey::from_seed(b"service").public_key(), port: Port::new(80).unwrap() }
}

/// A URL of the service.
pub fn url(target: &str) -> DmsgUrl {
    DmsgUrl::new(service(), target).unwrap()
}

/// A stream that is counted while it lives.
pub struct Counted {
    stream: DuplexStream,
    open: Arc<AtomicUsize>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.fetch_sub(1, SeqCst);
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
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

/// Dials by handing the far end of a new pipe to a [`PipeListener`].
#[derive(Clone)]
pub struct PipeDial {
    to: mpsc::Sender<DuplexStream>,
    pub open: Arc<AtomicUsize>,
    pub dialled: Arc<AtomicUsize>,
}

impl PipeDial {
    pub fn open_count(&self) -> usize {
        self.open.load(SeqCst)
    }
    pub fn dial_count(&self) -> usize {
        self.dialled.load(SeqCst)
    }
    /// Waits until `count` streams are open; the test's own time limit ends it otherwise.
    pub async fn wait_open(&self, count: usize) {
        while self.open_count() != count {
            tokio::task::yield_now().await;
        }
    }
}

impl Dial for PipeDial {
    type Stream = Counted;

    async fn dial(&self, _to: Addr) -> Result<Counted, BoxError> {
        let (near, far) = duplex(PIPE_BYTES);
        self.to.send(far).await.map_err(|_| "nobody listens")?;
        self.dialled.fetch_add(1, SeqCst);
        self.open.fetch_add(1, SeqCst);
        Ok(Counted { stream: near, open: Arc::clone(&self.open) })
    }
}

/// Accepts what a [`PipeDial`] dialled.
pub struct PipeListener(mpsc::Receiver<DuplexStream>);

impl PipeListener {
    /// The next raw stream, for a scripted server.
    pub async fn next(&mut self) -> DuplexStream {
        self.0.recv().await.unwrap()
    }
}

impl Accept for PipeListener {
    type Stream = DuplexStream;
    type Peer = Addr;

    async fn accept(&mut self) -> Result<(DuplexStream, Addr), BoxError> {
        let stream = self.0.recv().await.ok_or("all diallers are gone")?;
        Ok((stream, caller()))
    }
}

/// A dialler and its listener.
pub fn pipe() -> (PipeDial, PipeListener) {
    let (to, from) = mpsc::channel(64);
    let dial = PipeDial { to, open: Arc::default(), dialled: Arc::default() };
    (dial, PipeListener(from))
}

/// Reads one request head.
pub async fn read_head(stream: &mut DuplexStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}
