//! Where streams come from: the two traits between HTTP and the engine.

use std::future::Future;

use dmsg_engine::{
    client::{Client, Listener, Stream},
    wire::Addr,
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::BoxError;

/// Opens streams to an address.
pub trait Dial: Send + Sync + 'static {
    /// What a dial gives. Dropping it closes it.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Opens a stream. Dropping the future gives up the attempt.
    fn dial(&self, to: Addr) -> impl Future<Output = Result<Self::Stream, BoxError>> + Send;
}

/// Accepts streams.
pub trait Accept: Send + 'static {
    /// What is accepted. Dropping it closes it.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next stream, and who opened it. An error means that no further one will come.
    fn accept(&mut self) -> impl Future<Output = Result<(Self::Stream, Addr), BoxError>> + Send;
}

impl Dial for Client {
    type Stream = Stream;

    async fn dial(&self, to: Addr) -> Result<Stream, BoxError> {
        Ok(Self::dial(self, to).await?)
    }
}

impl Accept for Listener {
    type Stream = Stream;

    async fn accept(&mut self) -> Result<(Stream, Addr), BoxError> {
        let stream = Self::accept(self).await?;
        let remote = stream.remote_addr();
        Ok((stream, remote))
    }
}
