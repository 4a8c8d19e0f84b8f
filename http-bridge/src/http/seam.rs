//! Where streams come from: the two traits between HTTP and the engine.

use std::{
    future::Future,
    hash::Hash,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use dmsg_engine::{
    client::{Client, DialOptions, Listener, Stream},
    identity::PublicKey,
    pool::StreamUse,
    wire::Addr,
};
use http::Extensions;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};

use super::{BoxError, BreakOff, server::CallerKey};

/// Between two tries to accept when the system has no descriptor or memory left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Opens streams to an address.
pub trait Dial: Send + Sync + 'static {
    /// What a dial gives. Dropping it closes it.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Opens a stream. Dropping the future gives up the attempt.
    fn dial(&self, to: Addr) -> impl Future<Output = Result<Self::Stream, BoxError>> + Send;

    /// The same, saying what for; [`Client::census`] shows it.
    fn dial_for(
        &self,
        to: Addr,
        label: &Arc<str>,
    ) -> impl Future<Output = Result<Self::Stream, BoxError>> + Send {
        let _ = label;
        self.dial(to)
    }

    /// Where the layer below learns how a stream is used, if it wants to know: it may take back one
    /// whose data lies unread.
    fn usage(stream: &Self::Stream) -> Option<Arc<StreamUse>> {
        let _ = stream;
        None
    }

    /// What makes the end of a stream a reset, so that nobody takes a part for the whole.
    fn break_off(stream: &Self::Stream) -> Option<BreakOff> {
        Self::usage(stream).map(|usage| BreakOff::new(move || usage.abandon()))
    }
}

/// Accepts streams.
pub trait Accept: Send + 'static {
    /// What is accepted. Dropping it closes it.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Who opens them.
    type Peer: Peer;

    /// The next stream, and who opened it. An error means that no further one will come.
    fn accept(
        &mut self,
    ) -> impl Future<Output = Result<(Self::Stream, Self::Peer), BoxError>> + Send;

    /// What makes the end of a stream a reset. Handlers find it among their request's extensions.
    fn break_off(stream: &Self::Stream) -> Option<BreakOff> {
        let _ = stream;
        None
    }
}

/// Who is at the other end of an accepted stream.
pub trait Peer: Clone + Send + Sync + 'static {
    /// What limits per caller count by.
    type Id: Eq + Hash + Copy + Send + Unpin + 'static;

    /// The caller.
    fn id(&self) -> Self::Id;

    /// The caller, for logs.
    fn label(&self) -> String;

    /// Tells handlers who is calling.
    fn introduce(&self, extensions: &mut Extensions);
}

impl Peer for Addr {
    type Id = PublicKey;

    fn id(&self) -> PublicKey {
        self.key
    }

    fn label(&self) -> String {
        self.key.short()
    }

    /// The key, which the stream's handshake authenticated, and the whole address.
    fn introduce(&self, extensions: &mut Extensions) {
        extensions.insert(CallerKey(self.key));
        extensions.insert(*self);
    }
}

impl Peer for SocketAddr {
    type Id = IpAddr;

    fn id(&self) -> IpAddr {
        self.ip().to_canonical()
    }

    fn label(&self) -> String {
        self.to_string()
    }

    fn introduce(&self, extensions: &mut Extensions) {
        extensions.insert(*self);
    }
}

impl Dial for Client {
    type Stream = Stream;

    async fn dial(&self, to: Addr) -> Result<Stream, BoxError> {
        Ok(Self::dial(self, to).await?)
    }

    async fn dial_for(&self, to: Addr, label: &Arc<str>) -> Result<Stream, BoxError> {
        let options = DialOptions { label: Arc::clone(label), ..DialOptions::default() };
        Ok(self.dial_with(to, options).await?)
    }

    fn usage(stream: &Stream) -> Option<Arc<StreamUse>> {
        Some(stream.usage())
    }
}

impl Accept for Listener {
    type Stream = Stream;
    type Peer = Addr;

    async fn accept(&mut self) -> Result<(Stream, Addr), BoxError> {
        let stream = Self::accept(self).await?;
        let remote = stream.remote_addr();
        Ok((stream, remote))
    }

    fn break_off(stream: &Stream) -> Option<BreakOff> {
        let usage = stream.usage();
        Some(BreakOff::new(move || usage.abandon()))
    }
}

impl Accept for TcpListener {
    type Stream = TcpStream;
    type Peer = SocketAddr;

    async fn accept(&mut self) -> Result<(TcpStream, SocketAddr), BoxError> {
        let mut is_told = false;
        loop {
            match Self::accept(self).await {
                Ok((stream, peer)) => {
                    let _ = stream.set_nodelay(true);
                    return Ok((stream, peer));
                }
                Err(error) => {
                    if !std::mem::replace(&mut is_told, true) {
                        tracing::warn!(%error, "a connection could not be accepted");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}
